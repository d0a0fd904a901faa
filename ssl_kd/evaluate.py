"""Scores of a cohort: the same numbers during training, at its end, and afterwards from a checkpoint."""

from collections.abc import Callable, Collection
from typing import Any

import torch
from omegaconf import DictConfig, OmegaConf
from torch import Tensor, nn

from ssl_kd.build import build_cohort, read_data
from ssl_kd.cohort import Cohort
from ssl_kd.data import Data, Plain, in_order
from ssl_kd.encoder import Encoder
from ssl_kd.errors import InputError
from ssl_kd.probes import Features, embed, knn, linear, pixels
from ssl_kd.run import Run

PROBES = ("knn", "linear", "top1")


class _Output(nn.Module):
    """Images (N, C, H, W) -> one output of an encoder (N, ...)."""

    def __init__(self, encoder: Encoder, name: str) -> None:
        super().__init__()
        self.encoder, self.name = encoder, name

    def forward(self, images: Tensor) -> Tensor:
        return self.encoder({self.encoder.views[0]: images[None]})[self.name][0]


def classifiers(config: DictConfig) -> dict[str, str]:
    """Peer -> the output that learns from the labels (the `logits` of DML)."""
    found: dict[str, str] = {}
    for term in config.terms.values():
        reads = (
            [term.get("reads", ())] if isinstance(term.get("reads", ()), str) else list(term.get("reads", ()))
        )
        outputs = [read for read in reads if not read.startswith("batch.")]
        if "batch.label" in reads and outputs:
            found |= dict.fromkeys(term.peers, outputs[0])
    return found


class Evaluator:
    """The probes of one config over one data set.

    data: with labels and a test split, or every score is empty and `missing` says why.
    """

    def __init__(self, config: DictConfig, data: Data, device: torch.device | str = "cpu") -> None:
        self.config, self.data, self.device = config, data, device
        self.plain = Plain(config.data.size)
        self.missing = _missing(config, data)

    def cohort(self, cohort: Cohort, probes: Collection[str] = PROBES) -> dict[str, dict[str, Any]]:
        """Per peer that embeds images: {"knn": {k: accuracy}, "linear": accuracy, ...}.

        "top1" is the accuracy of the peer's own classifier, where it has one (see `classifiers`).
        """
        found: dict[str, dict[str, Any]] = {}
        heads = classifiers(self.config) if "top1" in probes else {}
        for name, peer in cohort.peers.items():
            if not isinstance(peer, Encoder):
                continue
            found[name] = self._score(self._features(peer.embed), probes)
            if name in heads:
                found[name]["top1"] = self._top1(_Output(peer, heads[name]))
        return found

    def baselines(self, probes: Collection[str] = PROBES) -> dict[str, Any]:
        """The same for raw pixels at 32 x 32, and for the networks as they were before training."""
        untrained = build_cohort(self.config, self.data.train.shape).to(self.device)
        return {"pixels": self._score(self._pixels(), probes), "untrained": self.cohort(untrained, probes)}

    def _score(self, features: Features, probes: Collection[str]) -> dict[str, Any]:
        scores: dict[str, Any] = {}
        if "knn" in probes:
            found = knn(features, tuple(self.config.probe.knn), self.config.probe.temperature)
            scores["knn"] = {str(k): accuracy for k, accuracy in found.items()}
        if "linear" in probes:
            result = linear(features)
            scores |= {
                "linear": result.accuracy,
                "linear_held_out": result.held_out,
                "linear_penalty": result.penalty,
            }
        return scores

    def _top1(self, network: nn.Module) -> float:
        batches = in_order(self.data.test, self.config.probe.batch_size)  # type: ignore[arg-type]
        logits, labels = embed(network, batches, self.plain, self.device)
        known = labels >= 0
        return float((logits.argmax(1) == labels)[known].double().mean())

    def _features(self, network: Callable[[Tensor], Tensor]) -> Features:
        size = self.config.probe.batch_size
        train = embed(network, in_order(self.data.train, size), self.plain, self.device)
        test = embed(network, in_order(self.data.test, size), self.plain, self.device)  # type: ignore[arg-type]
        return Features(*train, *test, classes=len(self.data.train.classes))

    def _pixels(self) -> Features:
        size = self.config.probe.batch_size
        train, test = pixels(in_order(self.data.train, size)), pixels(in_order(self.data.test, size))  # type: ignore[arg-type]
        return Features(*train, *test, classes=len(self.data.train.classes))


def evaluate_run(folder: str, probe: str, changes: dict[str, Any], device: str = "cpu") -> dict[str, Any]:
    """Scores of a run from its checkpoint alone, written to eval/<probe>.json.

    probe: one of PROBES. changes: options of the config's `probe` to use instead. Raises InputError.
    """
    run = Run(folder)
    config = run.config()
    config.probe.update(changes)
    data = read_data(config)
    evaluator = Evaluator(config, data, device)
    if evaluator.missing:
        raise InputError(evaluator.missing)
    cohort = build_cohort(config, data.train.shape)
    step = run.load(cohort)
    result = {
        "step": step,
        "protocol": OmegaConf.to_container(config.probe),
        "peers": evaluator.cohort(cohort.to(device), [probe]),
        "baselines": evaluator.baselines([probe]),
    }
    run.write(f"eval/{probe}.json", result)
    return result


def parameters(peer: nn.Module) -> int:
    """Parameters of what is deployed: the backbone, or all of a peer that has none."""
    return sum(p.numel() for p in getattr(peer, "backbone", peer).parameters())


def _missing(config: DictConfig, data: Data) -> str:
    if data.train.labels is None:
        return f'the probes need labels, and the data "{config.data.name}" has none'
    if data.test is None or data.test.labels is None:
        return f'the probes need a labelled test split, and the data "{config.data.name}" has none'
    return ""
