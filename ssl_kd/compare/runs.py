"""A finished run, as its folder tells it."""

import os
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from omegaconf import DictConfig

from ssl_kd.errors import InputError
from ssl_kd.saved import check_links, read_config, read_scores
from ssl_kd.system.paths import expand

PROBES = ("few_labels", "linear_sgd", "finetune", "robustness", "transfer")  # that were made afterwards


@dataclass(frozen=True)
class Entry:
    """One finished run: its folder, resolved config and summary.json, the scores of eval/*.json among them.

    seconds: that its training took, all its starts together.
    """

    folder: str
    seed: int
    config: DictConfig
    summary: dict
    seconds: float


def read(folder: str) -> Entry:
    """The finished run in `folder`. Raises InputError."""
    path = expand(folder)
    if not path.is_dir():
        kind = "a file, not a run folder" if path.exists() else "not there"
        raise InputError(f"{folder} is {kind}; name folders of finished runs, as in runs/solo-0")
    if not (path / "config.yaml").is_file():
        raise InputError(f"{folder} is not a run folder: it has no config.yaml")
    if not (path / "summary.json").is_file():
        raise InputError(f"{folder} is not finished; the same train command continues it")
    check_links(path)
    config, summary = read_config(path), read_scores(path / "summary.json")
    if "peers" not in summary:
        raise InputError(f"{folder} cannot be compared: its summary.json has no peers")
    _add_probes(summary, path / "eval")
    seconds = float(summary.get("seconds", "nan"))
    return Entry(os.path.normpath(folder), int(config.seed), config, summary, seconds)


def _add_probes(summary: dict[str, Any], folder: Path) -> None:
    """What probes of the finished run found, into its peers; how they found it, into "protocols"."""
    summary["protocols"] = {}
    for probe in PROBES:
        path = folder / f"{probe}.json"
        if not path.is_file():
            continue
        found = read_scores(path)
        lacking = [key for key in ("checkpoint", "protocol", "peers") if key not in found]
        if lacking:
            raise InputError(f'{path} has no "{lacking[0]}"; ssl-kd {probe} writes it again')
        if found["checkpoint"] != ("last" if summary.get("checkpoint", "last") == "last" else "chosen"):
            continue  # of another checkpoint than the one that the run reports
        summary["protocols"][probe] = found["protocol"]
        for name, scores in found["peers"].items():
            if name in summary["peers"]:
                summary["peers"][name][probe] = scores if probe == "transfer" else scores.get(probe)
