"""Scores of a cohort: the same numbers during training, at its end, and afterwards from a checkpoint."""

from collections.abc import Callable, Collection, Sequence
from functools import cached_property
from typing import Any

import numpy as np
import torch
from omegaconf import DictConfig
from torch import Tensor, nn

from ssl_kd.build import build_cohort
from ssl_kd.cast import is_frozen
from ssl_kd.cohort import Cohort, Outputs
from ssl_kd.data import Data, Plain, Source, in_order
from ssl_kd.data.adapt import subset
from ssl_kd.data.sources import lacks_labels
from ssl_kd.encoder import Encoder, reads_of
from ssl_kd.labelled import called
from ssl_kd.own.pretrained import without_weights
from ssl_kd.probes import Features, Linear, embed, knn, linear, pixels
from ssl_kd.probes.ensemble import ensemble, ensemble_knn
from ssl_kd.probes.health import effective_rank
from ssl_kd.run import Run

PROBES = ("knn", "linear", "top1")
_OF_LOGITS = ("ssl_kd.losses.kl", "ssl_kd.losses.mse", "ssl_kd.losses.not_true_kl")
RANK_IMAGES = 2048  # of the train split, evenly spaced


class _Output(nn.Module):
    """Images (N, C, H, W) -> one output of a peer (N, ...), through the peers that it reads."""

    def __init__(self, cohort: Cohort, peer: str, output: str) -> None:
        super().__init__()
        encoder = cohort.peers[peer]
        assert isinstance(encoder, Encoder)
        self.needed = nn.ModuleDict({name: cohort.peers[name] for name in needed(cohort, peer)})
        self.address = peer, output

    def forward(self, images: Tensor) -> Tensor:
        batch = {view: images[None] for each in self.needed.values() for view in getattr(each, "views", ())}
        seen: dict[str, Outputs] = {}
        for name, each in self.needed.items():
            seen[name] = each(batch, seen)
        return seen[self.address[0]][self.address[1]][0]


def network(cohort: Cohort, peer: str, output: str = "embedding") -> Callable[[Tensor], Tensor]:
    """Images (N, C, H, W) -> an output of that encoder (N, ...), through the peers that it reads."""
    encoder = cohort.peers[peer]
    alone = output == "embedding" and isinstance(encoder, Encoder) and not encoder.sees
    return encoder.embed if alone else _Output(cohort, peer, output)  # type: ignore[return-value]


def needed(cohort: Cohort, peer: str) -> list[str]:
    """The peer and all that it reads, in their order."""
    found = {peer}
    for name in reversed(list(cohort.peers)):
        if name in found:
            found |= {address.partition(".")[0] for address in reads_of(cohort.peers[name])}
    return [name for name in cohort.peers if name in found]


def _loss(term: DictConfig) -> str | None:
    """What the loss of a term is called; None for one that is said by something else than a mapping."""
    loss = term.get("loss")
    return loss.get("_target_") if isinstance(loss, DictConfig) else None


def classifiers(config: DictConfig) -> dict[str, str]:
    """Peer -> its output on the embedding that says the class.

    That is one that learns from the labels (the `logits` of DML), or from the logits of a frozen teacher with
    as many outputs as there are classes, and that teacher's.
    """
    found: dict[str, str] = {}
    for term in config.terms.values():
        reads = (
            [term.get("reads", ())] if isinstance(term.get("reads", ()), str) else list(term.get("reads", ()))
        )
        outputs = [read for read in reads if not read.startswith("batch.")]
        contrast = _loss(term) == "ssl_kd.losses.sup_con"  # of what is no class
        if "batch.label" in reads and outputs and not contrast:
            on_top = [peer for peer in term.peers if _on_embedding(config.peers[peer], outputs[0])]
            found |= dict.fromkeys(on_top, outputs[0])
    for term in config.terms.values():
        if _loss(term) in _OF_LOGITS and "teacher" in term:
            ends = [str(term[end]).partition(".")[::2] for end in ("student", "teacher")]
            if is_frozen(config.peers[ends[1][0]]) and all(_says_class(config, *end) for end in ends):
                found = dict(ends) | found
    return found


def _says_class(config: DictConfig, peer: str, output: str) -> bool:
    """Whether it has a value for each class of the labels."""
    wide = ((config.peers[peer].get("heads") or {}).get(output) or {}).get("out_features")
    return wide is not None and wide == config.get("classes") and _on_embedding(config.peers[peer], output)


def _on_embedding(peer: DictConfig, output: str) -> bool:
    heads = peer.get("heads") or {}
    while output in heads:
        output = heads[output].get("reads", "embedding")
    return output == "embedding"


class Evaluator:
    """The probes of one config over one data set, or over the labelled one that it has beside it.

    data: what is scored has labels and a test split, or every score is empty and `missing` says why.
    lost: peers of which nobody knows any more how they began.
    """

    def __init__(
        self,
        config: DictConfig,
        data: Data,
        device: torch.device | str = "cpu",
        lost: Collection[str] = (),
    ) -> None:
        self.config, self.data, self.device, self.lost = config, data, device, lost
        self.plain = Plain(config.data.size)
        self.missing = _missing(config, data)

    def cohort(
        self, cohort: Cohort, probes: Collection[str] = PROBES, leave_out: Collection[str] = ()
    ) -> dict[str, Any]:
        """{"peers": scores of every peer that embeds images, "ensemble": of those that learn, where several}.

        Scores are {"knn": {k: accuracy}, "linear": accuracy, ...}; "top1" is the accuracy of the peer's own
        classifier, where it has one (see `classifiers`), "top1_few", "top1_medium" and "top1_many" those of
        groups of classes, where there are several (see `class_groups`). The ensemble is the mean of the
        peers' predictions.
        """
        peers: dict[str, dict[str, Any]] = {}
        learn: list[tuple[Features, Linear | None]] = []
        heads = classifiers(self.config) if "top1" in probes and self._places is not None else {}
        for name, peer in cohort.peers.items():
            if not isinstance(peer, Encoder) or name in leave_out:
                continue
            features = self.features(network(cohort, name))
            peers[name], fitted = self.score(features, probes)
            if name in heads:
                peers[name] |= self._top1(network(cohort, name, heads[name]))
            if name in cohort.trainable and not peer.sees:
                learn.append((features, fitted))
        found: dict[str, Any] = {"peers": peers}
        if len(learn) > 1 and {"knn", "linear"} & {*probes}:
            found["ensemble"] = self._ensemble(learn, probes)
        return found

    def baselines(self, probes: Collection[str] = PROBES) -> dict[str, Any]:
        """The same for raw pixels at 32 x 32, and for the networks as they were before training.

        A frozen one is still what it was; one whose weights of then are lost is left out.
        """
        before = self.untrained()
        untrained = self.cohort(before, probes, self.not_beginners(before))["peers"]
        return {"pixels": self.score(self.pixels(), probes)[0], "untrained": untrained}

    def not_beginners(self, before: Cohort) -> set[str]:
        """The peers of `untrained` that are no baseline."""
        return {*before.frozen, *self.lost}

    def untrained(self) -> Cohort:
        """The cohort as it was before the first step."""
        run = Run(self.config.run) if self.config.run else None
        begun = run is not None and run.self_contained
        config = self.config.copy()
        if run is not None and begun:
            without_weights(config, run.begins_with)
        cohort = build_cohort(config, self.data.train.shape, sources=not begun)
        if run is not None and begun:
            run.load_start(cohort)
        return cohort.to(self.device)

    def rank(self, cohort: Cohort) -> float:
        """Effective rank of the embeddings of train images, mean over the learning peers; needs no label."""
        ranks = self.ranks(cohort).values()
        return sum(ranks) / len(ranks)

    def ranks(self, cohort: Cohort) -> dict[str, float]:
        """That of each learning peer that embeds images."""
        return {
            name: effective_rank(self._embed(peer.embed, self._some_train)[0])
            for name, peer in cohort.peers.items()
            if name in cohort.trainable and isinstance(peer, Encoder) and not peer.sees
        }

    def score(self, features: Features, probes: Collection[str]) -> tuple[dict[str, Any], Linear | None]:
        """kNN and linear scores of features, as far as they are among the probes, and the fitted probe."""
        scores: dict[str, Any] = {}
        fitted = linear(features) if "linear" in probes else None
        if "knn" in probes:
            found = knn(features, tuple(self.config.probe.knn), self.config.probe.temperature)
            scores["knn"] = {str(k): accuracy for k, accuracy in found.items()}
        if fitted is not None:
            scores |= {
                "linear": fitted.accuracy,
                "linear_held_out": fitted.held_out,
                "linear_penalty": fitted.penalty,
            }
        return scores, fitted

    def features(self, network: Callable[[Tensor], Tensor]) -> Features:
        """What `network` makes of the images of both splits."""
        data = self.data.scored
        train, test = self._embed(network, data.train), self._embed(network, data.test)
        return Features(*train, *test, classes=len(data.train.classes))

    def pixels(self) -> Features:
        """The images themselves."""
        size, data = self.config.probe.batch_size, self.data.scored
        train, test = pixels(in_order(data.train, size)), pixels(in_order(data.test, size))  # type: ignore[arg-type]
        return Features(*train, *test, classes=len(data.train.classes))

    @cached_property
    def _some_train(self) -> Source:
        count = min(RANK_IMAGES, len(self.data.train))
        return subset(self.data.train, np.linspace(0, len(self.data.train) - 1, count).astype(np.int64))

    def _embed(self, network: Callable[[Tensor], Tensor], source: Source | None) -> tuple[Tensor, Tensor]:
        assert source is not None  # `missing` has said so
        return embed(network, in_order(source, self.config.probe.batch_size), self.plain, self.device)

    def _ensemble(
        self, learn: Sequence[tuple[Features, Linear | None]], probes: Collection[str]
    ) -> dict[str, Any]:
        features = [each for each, _ in learn]
        fitted = [probe for _, probe in learn if probe is not None]
        scores: dict[str, Any] = {}
        if "knn" in probes:
            found = ensemble_knn(features, tuple(self.config.probe.knn), self.config.probe.temperature)
            scores["knn"] = {str(k): accuracy for k, accuracy in found.items()}
        if fitted:
            scores["linear"] = ensemble(fitted, [each.test for each in features], features[0].test_labels)
        return scores

    @cached_property
    def _places(self) -> Tensor | None:
        """Where the classes of what is scored are among those that were trained on, by name, (K,).

        None where they are not the same ones: a classifier of the others says nothing of these.
        """
        trained, scored = self.data.train.classes, self.data.scored.train.classes
        if sorted(trained) != sorted(scored):
            return None
        place = {name: i for i, name in enumerate(trained)}
        return torch.tensor([place[name] for name in scored], dtype=torch.int64)

    def _top1(self, network: Callable[[Tensor], Tensor]) -> dict[str, float]:
        batches = in_order(self.data.scored.test, self.config.probe.batch_size)  # type: ignore[arg-type]
        logits, labels = embed(network, batches, self.plain, self.device)
        known = labels >= 0
        assert self._places is not None  # `cohort` has asked
        logits, labels = logits[known], self._places[labels[known]]
        right = (logits.argmax(1) == labels).double()
        found = {"top1": float(right.mean())}
        for group, classes in class_groups(
            self.data.train, self.config.probe.get("groups") or (20, 100)
        ).items():
            of_group = torch.isin(labels, torch.tensor(classes))
            found |= {f"top1_{group}": float(right[of_group].mean())} if of_group.any() else {}
        return found


def class_groups(train: Source, bounds: Sequence[int]) -> dict[str, list[int]]:
    """Classes by their number of train images: few, below the first bound; many, above the second; medium.

    {} where all are of one group. Source: Liu et al. 2019 (OLTR), with bounds of 20 and 100.
    """
    labels = np.asarray(train.labels)
    counts = np.bincount(labels[labels >= 0], minlength=len(train.classes))
    least, most = bounds
    found: dict[str, list[int]] = {"many": [], "medium": [], "few": []}
    for index, count in enumerate(counts.tolist()):
        if count == 0:  # of a limit
            continue
        found["few" if count < least else "many" if count > most else "medium"].append(index)
    kept = {group: classes for group, classes in found.items() if classes}
    return kept if len(kept) > 1 else {}


def parameters(peer: nn.Module) -> int:
    """Parameters of what is deployed: the backbone, or all of a peer that has none."""
    return sum(p.numel() for p in getattr(peer, "backbone", peer).parameters())


def _missing(config: DictConfig, data: Data) -> str:
    name, scored = called(config) or config.data.name, data.scored
    if not _labelled(scored.train):
        return f"the probes need labels, and {lacks_labels(name, scored)}"
    if len(np.unique(scored.train.labels[scored.train.labels >= 0])) < 2:  # type: ignore[index, operator]
        return f'the probes need two classes, and the labels of the data "{name}" are all of one'
    if scored.test is None or not _labelled(scored.test):
        return f'the probes need a labelled test split, and the data "{name}" has none'
    return ""


def _labelled(source: Source) -> bool:
    return source.labels is not None and bool((np.asarray(source.labels) >= 0).any())
