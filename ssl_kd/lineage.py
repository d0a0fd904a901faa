"""What a peer takes over from an earlier run: its network, where nothing else is said of that. No torch here.

`weights: runs/a` of a peer without a backbone means that run's network, and `cut: 1` with it that the network
goes on through the first layer of the projection head. In the config of the new run both stand whole: it can
be read when the earlier one is gone.
"""

from collections.abc import Mapping, Sequence
from typing import Any

from omegaconf import DictConfig, OmegaConf

from ssl_kd import architecture
from ssl_kd.cast import is_frozen, learners
from ssl_kd.errors import InputError, nearest
from ssl_kd.saved import read_config
from ssl_kd.system import network
from ssl_kd.system.documents import mapping_of
from ssl_kd.system.paths import expand

UNKNOWN = "ssl_kd.lineage.unknown"  # the backbone of a peer whose run is not there yet


def inherit(peers: DictConfig) -> None:
    """Writes the networks of earlier runs into the peers that start from them. Raises InputError."""
    for name, peer in peers.items():
        cut = peer.get("cut")
        settled = isinstance(cut, DictConfig) and isinstance(cut.get("head"), DictConfig)
        if "_target_" in peer or settled or OmegaConf.is_missing(peer, "weights"):
            continue
        if cut in (None, 0):
            peer.pop("cut", None)
        if "cut" not in peer and (peer.get("backbone") is not None or not is_run(peer.get("weights"))):
            continue
        where = f"peers.{name}"
        if "cut" in peer and not is_run(peer.get("weights")):
            raise InputError(
                f"{where}.cut takes layers of the head of an earlier run, which {where}.weights names"
            )
        if "cut" in peer and peer.get("backbone") is not None:
            raise InputError(f"{where}.cut takes the network of {where}.weights; leave out {where}.backbone")
        _take(peer, str(name))


def is_run(weights: Any) -> bool:
    """Whether weights are those of a run, and not of a file."""
    if isinstance(weights, str):
        path = expand(weights)
        return path.suffix not in (".safetensors", ".pt", ".pth") and not (path / "config.json").is_file()
    return isinstance(weights, Mapping | DictConfig) and "run" in weights


def chosen(config: DictConfig, peers: list[str], wanted: str | None, name: str) -> str:
    """Which of a run's peers `name` starts from: what is asked for, the only learner, or its own name."""
    learned = [peer for peer in learners(config.peers) if peer in peers]
    return wanted or (
        learned[0] if len(learned) == 1 else name if name in peers or len(peers) > 1 else peers[0]
    )


def check_classes(name: str, weights: Any, classes: Sequence[str]) -> None:
    """Refuses, as the teacher of a student's classes, a network that learned others. Raises InputError."""
    other = other_classes(weights, classes)
    if other:
        raise InputError(f"peers.{name}.weights: {other}: a student of its logits needs the same")


def other_classes(weights: Any, classes: Sequence[str]) -> str:
    """What classes the run of `weights` knows, where they are others or in another order; else ""."""
    folder = expand(str(weights if isinstance(weights, str) else weights.run))
    if not (folder / "data.json").is_file():
        return ""
    theirs = (mapping_of(folder / "data.json").get("train") or {}).get("classes") or []
    known = list(map(str, theirs))
    if not known or known == list(classes):
        return ""
    # from the first that differs: what is alike tells nothing
    at = next((i for i, pair in enumerate(zip(known, classes, strict=False)) if pair[0] != pair[1]), 0)
    there, here = (_around(some, at) for some in (known, list(classes)))
    order = ", in another order" if sorted(known) == sorted(classes) else ""
    return f"{folder} knows {len(known)} classes ({there}), and the data has {len(classes)} ({here}){order}"


def _around(names: Sequence[str], at: int) -> str:
    """Three of the names from position `at` on, and dots for what is left out."""
    shown = [*(["..."] if at else []), *names[at : at + 3], *(["..."] if len(names) > at + 3 else [])]
    return ", ".join(shown)


def unknown(run: str) -> None:
    """The network of a run that is not there. Raises InputError."""
    raise InputError(f"{run} is not there yet, and a peer is to have its network; train it first")


def _take(peer: DictConfig, name: str) -> None:
    where, weights = f"peers.{name}", peer.weights
    folder, wanted = (weights, None) if isinstance(weights, str) else (weights.run, weights.get("peer"))
    if not (expand(str(folder)) / "config.yaml").is_file():
        peer.backbone = {"_target_": UNKNOWN, "run": str(folder)}
        return
    try:
        config = read_config(expand(str(folder)))
    except InputError as error:
        raise InputError(f"{where}.weights: {error}") from error
    having = [str(key) for key, node in config.peers.items() if "backbone" in node]
    taken = chosen(config, having, wanted, name) if having else wanted
    if taken not in having:
        raise InputError(
            f'{where}.weights: {folder} has no peer "{taken}" with a backbone; {nearest(str(taken), having)}'
        )
    theirs = config.peers[taken]
    found = OmegaConf.create({"backbone": theirs.backbone})
    if "cut" in theirs:
        found.cut = theirs.cut
    if is_frozen(peer):  # what it says it has learned to say
        found.heads = _named(theirs.get("heads") or {}, peer.get("heads") or {})
    if "cut" in peer:
        if "cut" in theirs:
            raise InputError(f'{where}.cut: "{taken}" of {folder} is cut already')
        found.cut = _layers(peer.cut, theirs, where, f'"{taken}" of {folder}')
    from ssl_kd.own.places import check_places, of_peers  # take torch
    from ssl_kd.own.pretrained import without_weights
    from ssl_kd.trust import check_names

    own = OmegaConf.create({"peers": {name: found}})
    without_weights(own)  # those of the run follow
    check_names(own, str(folder))
    check_places(of_peers(own, whole=False), str(folder))
    try:
        with network.reading_a_run():
            architecture.settle(own.peers[name], name)
    except network.Offline as error:
        raise InputError(f"{where}.weights: {folder} needs more than it has: {error}") from error
    for key, value in own.peers[name].items():
        peer[key] = value


def _named(theirs: Mapping[str, Any], asked: Mapping[str, Any]) -> dict[str, Any]:
    """The heads that are asked for, and those that they read, in their order."""
    kept = {str(name) for name in asked if name in theirs}
    for name in reversed([str(name) for name in theirs]):
        if name in kept:
            kept.add(str(theirs[name].get("reads", "embedding")))
    return {str(name): node for name, node in theirs.items() if name in kept}


def _layers(cut: Any, theirs: DictConfig, where: str, whose: str) -> dict[str, Any]:
    said = {"layers": cut} if isinstance(cut, int) and not isinstance(cut, bool) else cut
    if not isinstance(said, Mapping | DictConfig) or set(said) - {"layers", "of"} or "layers" not in said:
        raise InputError(f"{where}.cut is a number of layers, or {{layers: 1, of: projection}}, not {cut}")
    of, heads = str(said.get("of", "projection")), theirs.get("heads") or {}
    if of not in heads:
        raise InputError(
            f'{where}.cut: {whose} has no head "{of}"; {nearest(of, [str(head) for head in heads])}'
        )
    head = {key: value for key, value in heads[of].items() if key not in ("reads", "views")}
    if heads[of].get("reads", "embedding") != "embedding":
        raise InputError(f'{where}.cut: the head "{of}" of {whose} does not read the embedding')
    return {"layers": said["layers"], "of": of, "head": head}
