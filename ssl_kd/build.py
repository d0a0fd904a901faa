"""From a composed config to objects: every option is checked against the constructor that takes it."""

import inspect
from collections.abc import Callable, Collection, Iterator, Mapping, Sequence
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import torch
from omegaconf import DictConfig, OmegaConf
from torch import nn
from torch.optim import Optimizer

from ssl_kd.cache import Cache
from ssl_kd.cast import is_frozen
from ssl_kd.cohort import Batch, Cohort, Follow
from ssl_kd.data import Batches, Data, Source
from ssl_kd.data.adapt import as_channels, hold_out
from ssl_kd.data.grouped import groups_of
from ssl_kd.data.parts import split
from ssl_kd.data.relabel import taught
from ssl_kd.data.sampling import SAMPLERS, Sampler, long_tailed
from ssl_kd.data.sources import lacks_labels
from ssl_kd.data.unseen import without_unseen
from ssl_kd.encoder import Encoder, reads_of
from ssl_kd.engine import Term
from ssl_kd.errors import InputError, nearest
from ssl_kd.machine import channels_last
from ssl_kd.optim import param_groups, unnormalised
from ssl_kd.peers import BESIDE, Surroundings, build_peer
from ssl_kd.registry import check, function, make, target
from ssl_kd.schedules import Weight
from ssl_kd.streams import seed_of
from ssl_kd.terms import Each, Edge, Mutual
from ssl_kd.weights import start_from

# What the `data` node says beside the arguments of its constructor.
_DATA_KEYS = ("name", "size", "mean", "std", "resident_bytes", "workers", "hash_bytes", "overlap")


@dataclass(frozen=True)
class Feed:
    """`batches(k)` for `fit`: from step k on, the raw batches of `loader` in `accumulate` parts, as views."""

    loader: Callable[[int], Iterator[dict[str, Any]]]
    recipe: Callable[[dict[str, Any], int], Batch]
    accumulate: int = 1

    def __call__(self, start: int) -> Iterator[Batch | list[Batch]]:
        for index, raw in enumerate(self.loader(start), start):
            parts = [self.recipe(part, index) for part in split(raw, self.accumulate)]
            yield parts if self.accumulate > 1 else parts[0]

    def once(self) -> Iterator[Batch]:
        """Every image once, as views of step 0; parts of a batch one after the other."""
        loader: Any = self.loader
        for raw in loader.once():
            for part in split(raw, self.accumulate):
                yield self.recipe(part, 0)


def check_options(config: DictConfig) -> None:
    """Refuses options that no constructor takes, and targets that do not exist. Raises InputError."""

    def beside(path: str) -> tuple[str, ...]:
        if path in ("data", "probe.data"):
            return _DATA_KEYS
        if path.startswith("peers."):
            return ("reads", "views") if ".heads." in path else BESIDE
        return ()

    check(config, beside)


def _held_out(config: DictConfig, data: Data) -> Data:
    by = config.get("hold_out_group")
    plain = OmegaConf.to_container(by) if OmegaConf.is_config(by) else by
    groups = None if plain is None else groups_of(data.train, plain)
    return hold_out(data, config.hold_out, seed=0, groups=groups)


def read_data(config: DictConfig) -> Data:
    """The images, and with them what the config left open: `classes` and `steps`."""
    data = _read(config.data, "data")
    labelled = _labelled(config, data.train.shape[0])
    if config.get("hold_out") is not None:  # the same images whatever the run's seed
        held = _held_out(config, labelled or data)
        data, labelled = (held, None) if labelled is None else (data, held)
    elif config.get("hold_out_group") is not None:
        raise InputError("hold_out_group says which images hold_out keeps together; give it as hold_out=0.2")
    if config.get("long_tail") is not None:
        data = replace(data, train=long_tailed(data.train, config.long_tail))
    data = replace(without_unseen(data), labelled=labelled and without_unseen(labelled))
    config.classes = len(data.train.classes) or None
    config.steps = config.epochs * max(1, len(_training(config, data)) // config.batch_size)
    for name, term in config.terms.items():
        if "batch.label" in _words(term) and (
            data.train.labels is None or not (data.train.labels >= 0).any()
        ):
            raise InputError(f'the term "{name}" needs labels, and {lacks_labels(config.data.name, data)}')
    return data


def _training(config: DictConfig, data: Data) -> Source:
    """The images and labels that training sees; what is scored keeps the data's own."""
    labels = config.get("labels") or {}
    options = list(inspect.signature(taught).parameters)[1:]
    if not isinstance(labels, dict | DictConfig) or set(labels) - {*options}:
        raise InputError(f"labels has the options {', '.join(options)}, not {labels}")
    return taught(data.train, **labels)


def _sampler(config: DictConfig, train: Source) -> Sampler:
    """Which images an epoch has: a name of SAMPLERS, or a function of the user's own."""
    said = config.get("sampler") or "instance"
    if isinstance(said, DictConfig):
        return function(said, "sampler")
    if said not in SAMPLERS:
        raise InputError(f'there is no sampler "{said}"; {nearest(str(said), list(SAMPLERS))}')
    if said != "instance" and (train.labels is None or not (np.asarray(train.labels) >= 0).any()):
        raise InputError(f"sampler={said} draws by the labels, and the images have none")
    return SAMPLERS[said]


def _read(node: DictConfig, path: str) -> Data:
    takes = inspect.signature(target(node, path)).parameters
    given = {k: v for k, v in node.items() if k not in _DATA_KEYS or k in takes}
    # Made by themselves: what fails in a data set of the user's own is then not taken for a fault of ours.
    made = {k: make(v) for k, v in given.items() if isinstance(v, DictConfig) and "_target_" in v}
    plain = {k: v for k, v in given.items() if k not in made}
    data = make(plain, _partial_=True)(**made) if made else make(plain)
    if "bit_depth" in node:  # what was seen in the files holds for every other image that the run meets
        node.bit_depth = getattr(data.train, "bit_depth", None)
    return data


def _labelled(config: DictConfig, channels: int) -> Data | None:
    """The data that is scored in place of the run's own, in as many channels; None where nothing is said."""
    node = config.probe.get("data")
    if node is None:
        return None
    try:
        read = _read(node, "probe.data")
        train, *test = [as_channels(part, channels) for part in (read.train, read.test) if part is not None]
    except InputError as error:
        raise InputError(f"probe.data: {error}") from error
    return replace(read, train=train, test=test[0] if test else None)


def build_terms(config: DictConfig) -> list[Term]:
    """The terms by their names; one without an edge (Mutual over a single peer) is left out."""
    terms: list[Term] = []
    for name, node in config.terms.items():
        path = f"terms.{name}"
        shape = target(node, path)
        if shape not in (Each, Edge, Mutual):  # any function of a term's signature
            terms.append(function(node, path))
            continue
        options = {key: make(value) for key, value in node.items() if key not in ("_target_", "loss")}
        if not isinstance(node.get("loss"), DictConfig):
            raise InputError(f"{path}.loss is needed: the function that the term computes")
        try:
            term = shape(name=str(name), loss=function(node.loss, f"{path}.loss"), **options)
        except TypeError as error:
            raise InputError(f"{path}: {' '.join(str(error).split())}") from error
        if term.links():
            terms.append(term)
    if not terms:
        raise InputError("there is nothing to learn: no term is left")
    return terms


def build_cohort(
    config: DictConfig,
    shape: tuple[int, int, int],
    terms: Sequence[Term] | None = None,
    sources: bool = True,
    anew: Mapping[str, str] | None = None,
) -> Cohort:
    """The cohort on the CPU, each peer's weights drawn from the stream of its own name.

    shape: (C, H, W) of the images; networks are made for squares of `data.size`.
    terms: with them, the cohort gives out only what they read.
    sources: whether `weights` of peers are read; not where a checkpoint of this cohort follows.
    anew: peer -> a head of it that takes nothing from them.
    """
    peers: dict[str, nn.Module] = {}
    follow, frozen = {}, []
    for name, node in config.peers.items():
        surroundings = Surroundings(config, shape[0], peers)
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(seed_of(config.seed, "weights", str(name)))
            peers[str(name)] = build_peer(str(name), node, surroundings)
        if node.get("weights") and sources:
            cut = node.cut.of if node.get("cut") else ""
            start_from(
                peers[str(name)], str(name), node.weights, is_frozen(node), cut, (anew or {}).get(str(name))
            )
        if is_frozen(node):
            frozen.append(str(name))
        if node.get("follow"):
            options = {str(key): make(value) for key, value in node.follow.items()}
            odd = [key for key in options if key not in Follow.__dataclass_fields__]
            if odd or "leader" not in options:
                wrong = f'takes no "{odd[0]}"' if odd else "needs a leader"
                takes = ", ".join(Follow.__dataclass_fields__)
                raise InputError(f"peers.{name}.follow {wrong}; its options: {takes}")
            follow[str(name)] = Follow(**options)
    returns = _returns(peers, terms, idle={*frozen, *follow})
    if returns is not None and config.health.every:  # what the monitor looks at
        for name, peer in peers.items():
            returns[name] += ["embedding"] if isinstance(peer, Encoder) else []
    cohort = Cohort(peers, frozen=frozen, follow=follow, returns=returns, seed=config.seed)
    if config.channels_last:
        channels_last(cohort)
    return cohort


def build_optimizers(config: DictConfig, cohort: Cohort) -> tuple[list[Optimizer], list[Weight]]:
    """The optimiser of all learning peers, those of the peers that have their own, and their learning rates.

    Rates are functions of the step.
    """
    scales = rate_scales(config, cohort)
    own = {str(name): peer.optim for name, peer in config.peers.items() if peer.get("optim")}
    shared = [name for name in cohort.trainable if name not in own]
    groups = [("optim", config.optim, shared)] if shared else []
    groups += [
        (f"peers.{name}.optim", node, [name]) for name, node in own.items() if name in cohort.trainable
    ]
    optimizers, rates = [], []
    for path, given, names in groups:
        odd = [key for key in given if key not in config.optim]
        if odd:
            raise InputError(
                f'"{path}.{odd[0]}" is not an option; {nearest(str(odd[0]), list(config.optim))}'
            )
        if path != "optim" and "unnormalised" in given:
            raise InputError(
                f"{path}.unnormalised is for all peers; the share of one is peers.{names[0]}.lr_scale"
            )
        node = given.get("optimizer", config.optim.get("optimizer"))
        if node is None or (given.get("rate") is None and config.optim.get("rate") is None):
            raise InputError(f"{path} needs an optimizer and a rate; optim=adamw, lars or sgd has them")
        takes = inspect.signature(target(node, f"{path}.optimizer")).parameters
        if "lr" in node and "lr" in takes and takes["lr"].default is not inspect.Parameter.empty:
            raise InputError(f"{path}.optimizer.lr would not be heeded; the learning rate is {path}.rate")
        fused = {"fused": True} if "fused" in takes and not {"fused", "foreach"} & node.keys() else {}
        decay = node.get("weight_decay", 0.0)
        decayed = given.get("decay", config.optim.get("decay"))
        parameters = param_groups(cohort, decay, scales, names, decayed)
        if parameters:
            optimizers.append(make(node, parameters, **fused))
            rates.append(make(given.get("rate", config.optim.rate)))
    return optimizers, rates


def rate_scales(config: DictConfig, cohort: Cohort) -> dict[str, float]:
    """Peer -> factor on its learning rate: its `lr_scale`, or `optim.unnormalised` where it applies."""
    scales = {}
    for name in cohort.trainable:
        peer = config.peers[name]
        share = config.optim.get("unnormalised", 1.0)
        own = (peer.get("optim") or {}).get("rate") is not None
        applies = share != 1 and not own and unnormalised(cohort.peers[name])
        scales[name] = peer.get("lr_scale", share if applies else 1.0)
    return scales


def build_batches(
    config: DictConfig, data: Data, device: torch.device, rank: int = 0, world: int = 1
) -> tuple[Feed, int]:
    """`batches(k)` for `fit`, views made on the device, and the steps of an epoch."""
    if config.batch_size % (config.accumulate * world):
        raise InputError(
            f"batch_size {config.batch_size} cannot be split into {config.accumulate} x {world} equal parts "
            "(accumulate x processes)"
        )
    if config.grad_cache and (config.get("health") or {}).get("on_hurt") == "gate":
        raise InputError("health.on_hurt=gate needs gradients at the embedding, which grad_cache has not")
    if config.grad_cache and config.accumulate == 1:
        raise InputError("grad_cache works on the parts of a batch; say how many by accumulate=...")
    extra = {key: config.data[key] for key in ("resident_bytes", "workers") if key in config.data}
    train = _training(config, data)
    loader = Batches(
        train,
        config.batch_size,
        seed=config.seed,
        rank=rank,
        world=world,
        parts=config.accumulate,
        device=device,
        sampler=_sampler(config, train),
        **extra,
    )
    node = config.recipe
    takes = inspect.signature(target(node, "recipe")).parameters
    if inspect.isclass(target(node, "recipe")):
        recipe = make(node, **({"seed": config.seed} if "seed" in takes and "seed" not in node else {}))
    else:
        recipe = function(node, "recipe")

    return Feed(loader, recipe, config.accumulate), loader.steps_per_epoch


def build_cache(
    config: DictConfig,
    cohort: Cohort,
    recipe: Callable[..., Batch],
    count: int,
    context: Callable[[], AbstractContextManager] = nullcontext,
) -> Cache | None:
    """What looks up the outputs of the peers with `cache: true`; None where there are none.

    count: images. context: what peers run in. Raises InputError for peers and views that change.
    """
    names = []
    for name, node in config.peers.items():
        where = f"peers.{name}.cache"
        if not node.get("cache"):
            continue
        peer = cohort.peers[str(name)]
        if name not in cohort.frozen:
            raise InputError(f"{where}: only what a frozen peer says stays the same; leave cache out")
        if reads_of(peer):
            raise InputError(f'{where}: "{name}" reads what other peers say, which changes; leave cache out')
        if not getattr(recipe, "fixed", False):
            what = str(config.recipe.get("_target_", "")).rsplit(".", 1)[-1]
            raise InputError(
                f"{where}: the views of {what} are not a function of the image alone, so what is said of "
                "them cannot be kept; take recipe=plain, or leave cache out"
            )
        names.append(str(name))
    if not names:
        return None
    peers = dict(cohort.peers.items())
    taken = _taken(peers)
    declared = all(isinstance(peer, Encoder) or hasattr(peer, "reads") for peer in peers.values())
    wanted = {
        name: {*cohort.returns[name], *taken[name]} if cohort.returns is not None and declared else None
        for name in names
    }
    return Cache(cohort, wanted, count, context)


def _returns(
    peers: dict[str, nn.Module], terms: Sequence[Term] | None, idle: Collection[str] = ()
) -> dict[str, list[str]] | None:
    """Per peer the outputs that terms read; checks that they are there. idle: peers that do not learn."""
    if terms is None or not all(isinstance(term, Each | Edge | Mutual) for term in terms):
        return None  # a plain function may read anything
    returns: dict[str, list[str]] = {name: [] for name in peers}
    for term in terms:
        assert isinstance(term, Each | Edge | Mutual)
        for address in term.addresses():
            owner, _, output = address.partition(".")
            if owner == "batch":
                continue
            if owner not in peers:
                raise InputError(
                    f'the term "{term.name}" names the peer "{owner}", and there are: {", ".join(peers)}'
                )
            peer = peers[owner]
            if isinstance(peer, Encoder) and output not in peer.outputs:
                has = ", ".join(peer.outputs)
                raise InputError(f'the term "{term.name}" reads "{address}", but {owner} has: {has}')
            returns[owner].append(output)
    taken = _taken(peers)
    for name, peer in peers.items():
        unread = (
            set(peer.heads) - set(returns[name]) - set(peer.reads.values()) - taken[name]
            if isinstance(peer, Encoder)
            else ()
        )
        if unread and name not in idle:
            raise InputError(
                f'no term reads the head "{sorted(unread)[0]}" of "{name}"; take it away or give it a term'
            )
        if hasattr(peer, "advance"):
            returns[name] = [*returns[name], *getattr(peer, "outputs", ())]
    return returns


def _taken(peers: dict[str, nn.Module]) -> dict[str, set[str]]:
    """Per peer the outputs that later peers read; checks that they are there by then."""
    taken: dict[str, set[str]] = {name: set() for name in peers}
    before: list[str] = []
    for name, peer in peers.items():
        for address in reads_of(peer):
            owner, _, output = address.partition(".")
            if owner not in before:
                raise InputError(
                    f'"{name}" reads "{address}", and the peers before it are: {", ".join(before) or "none"}'
                )
            other = peers[owner]
            if isinstance(other, Encoder) and output not in other.outputs:
                raise InputError(f'"{name}" reads "{address}", but {owner} has: {", ".join(other.outputs)}')
            taken[owner].add(output)
        before.append(name)
    return taken


def _words(node: Any) -> set[str]:
    """Every string inside a node."""
    if isinstance(node, DictConfig):
        return set().union(*(_words(value) for value in node.values())) if len(node) else set()
    if OmegaConf.is_list(node):
        return set().union(*(_words(value) for value in node)) if len(node) else set()
    return {node} if isinstance(node, str) else set()
