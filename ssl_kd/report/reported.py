"""A finished run with all that its folder says of it."""

from dataclasses import dataclass, fields
from functools import cached_property
from pathlib import Path
from typing import Any

import torch

from ssl_kd.finished import Finished, load
from ssl_kd.labelled import scored_on
from ssl_kd.report.log import Log
from ssl_kd.report.log import read as read_log
from ssl_kd.saved import environments, read_scores


@dataclass
class Reported(Finished):
    """What a report is made from; summary and starts are empty where there is no such file."""

    summary: dict[str, Any]
    starts: list[dict[str, Any]]  # the environment of each
    log: Log  # of metrics.jsonl

    @property
    def environment(self) -> dict[str, Any]:
        """That of the newest start; {} where nothing is known."""
        return next(reversed(self.starts), {})

    @property
    def names(self) -> list[str]:
        """The peers in their order, which gives each its colour."""
        return list(self.cohort.peers)

    @cached_property
    def classes(self) -> tuple[str, ...]:
        """Name of each label of the images that are scored; () where they have none."""
        if self.data.labelled is None:
            return super().classes
        return self.data.labelled.train.classes

    @property
    def unscored(self) -> str:
        """Why there can be no scores, in a sentence, or nothing."""
        return self.evaluator.missing

    @property
    def scored_on(self) -> str:
        """Which images the scores are of."""
        return scored_on(self.config)

    @property
    def scores(self) -> dict[str, Any]:
        """Peer -> its scores: of the summary, else the last that were made during the training."""
        if self.summary.get("peers"):
            return self.summary["peers"]
        return self.log.probes[-1][1] if self.log.probes else {}

    def accuracy(self, peer: str) -> tuple[str, float] | None:
        """The score that speaks for a peer, and what it is called."""
        scores = self.scores.get(peer, {})
        if "linear" in scores:
            return "linear probe", scores["linear"]
        if scores.get("knn"):
            k = "20" if "20" in scores["knn"] else list(scores["knn"])[-1]
            return f"kNN {k}", scores["knn"][k]
        return ("top-1", scores["top1"]) if "top1" in scores else None


def read(folder: str | Path, device: torch.device | str, data_changed: str | None = None) -> Reported:
    """Reads the run in `folder`, with the checkpoint that it reports. Raises InputError as `load` does."""
    finished = load(str(folder), str(device), data_changed=data_changed)
    finished.cohort.eval()
    run = finished.run
    return Reported(
        **{field.name: getattr(finished, field.name) for field in fields(finished) if field.init},
        summary=read_scores(run.folder / "summary.json"),
        starts=environments(run.folder),
        log=read_log(run.metrics()),
    )
