"""A finished run, as its folder tells it."""

import json
import os
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from omegaconf import DictConfig, OmegaConf

from ssl_kd.errors import InputError

PROBES = ("few_labels", "linear_sgd", "finetune", "robustness", "transfer")  # that were made afterwards
_NEEDED = ("seed", "epochs", "batch_size", "peers", "terms", "recipe", "data", "probe")


@dataclass(frozen=True)
class Entry:
    """One finished run: its folder, resolved config and summary.json, the scores of eval/*.json among them.

    seconds: that its last start took.
    """

    folder: str
    seed: int
    config: DictConfig
    summary: dict
    seconds: float


def read(folder: str) -> Entry:
    """The finished run in `folder`. Raises InputError."""
    path = Path(folder)
    if not path.is_dir():
        kind = "a file, not a run folder" if path.exists() else "not there"
        raise InputError(f"{folder} is {kind}; name folders of finished runs, as in runs/solo-0")
    if not (path / "config.yaml").is_file():
        raise InputError(f"{folder} is not a run folder: it has no config.yaml")
    if not (path / "summary.json").is_file():
        raise InputError(f"{folder} is not finished; the same train command continues it")
    try:
        config: Any = OmegaConf.load(path / "config.yaml")
        summary = json.loads((path / "summary.json").read_text())
        lacking = [key for key in _NEEDED if key not in config]
    except Exception as error:  # every YAML error, whatever its class
        raise InputError(f"{folder} cannot be read: {' '.join(str(error).split())}") from error
    if lacking or "peers" not in summary:
        what = f'config.yaml has no "{lacking[0]}"' if lacking else "summary.json has no peers"
        raise InputError(f"{folder} cannot be compared: its {what}; train it again with this version")
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
        found = json.loads(path.read_text())
        if found["checkpoint"] != ("last" if summary.get("checkpoint", "last") == "last" else "chosen"):
            continue  # of another checkpoint than the one that the run reports
        summary["protocols"][probe] = found["protocol"]
        for name, scores in found["peers"].items():
            if name in summary["peers"]:
                summary["peers"][name][probe] = scores if probe == "transfer" else scores[probe]
