"""Where the curves of a run are drawn: TensorBoard, W&B, MLflow, trackio, through Accelerate's trackers.

metrics.jsonl stays the truth: what fails here (a network, an account) is said once and ends no training. A
full disk is said once, and the tracker tried again from time to time. A continued run goes on in the same
place: TensorBoard in the run folder; the others in the run that trackers.json names.
"""

import json
import re
import time
import uuid
from collections.abc import Callable, Mapping, Sequence
from importlib.util import find_spec
from pathlib import Path
from typing import Any

from omegaconf import DictConfig, OmegaConf

from ssl_kd.errors import InputError, nearest
from ssl_kd.system.documents import mapping_of
from ssl_kd.system.writing import unwritten, write_whole

NAMES = ("tensorboard", "wandb", "mlflow", "trackio")
PROJECT = "ssl_kd"
_PLACE = "trackers.json"
AGAIN = 30.0  # seconds from a write that failed to the next one
_NOT_IN_MLFLOW = re.compile(r"[^\w\-. /]")


def chosen(config: DictConfig) -> list[str]:
    """Names of the trackers that a config asks for. InputError for unknown ones and missing packages."""
    said = config.get("tracker")
    names = [said] if isinstance(said, str) else list(said or [])
    names = [name for name in dict.fromkeys(names) if name != "none"]
    for name in names:
        if name not in NAMES:
            raise InputError(f'there is no tracker "{name}"; {nearest(str(name), [*NAMES, "none"])}')
        if find_spec(name) is None:
            raise InputError(f"tracker={name} needs a package that is not here: pip install {name}")
    return names


class Trackers:
    """Draws lines of metrics.jsonl; each tracker is started by the first of them.

    names: of the trackers; none on processes that write nothing. begun: the step that the run goes on after.
    say: takes what went wrong, once for each tracker, which is then left out.
    """

    def __init__(
        self, config: DictConfig, names: Sequence[str], folder: Path, begun: int, say: Callable[[str], None]
    ) -> None:
        self.config, self.folder, self.begun, self.say = config, folder, begun, say
        self.open: dict[str, Any] = dict.fromkeys(names)
        self.missed = dict.fromkeys(names, 0)  # lines that were not drawn for want of room
        self._again = dict.fromkeys(names, 0.0)

    def log(self, step: int, values: Mapping[str, float]) -> None:
        """Draws named numbers."""
        for name in list(self.open) if values else []:
            if time.monotonic() < self._again[name]:
                self.missed[name] += 1
                continue
            with _Guard(self, name):
                if self.open[name] is None:
                    self.open[name] = self._start(name, step)
                named = {
                    _NOT_IN_MLFLOW.sub("_", key.replace("<-", " from ")): value
                    for key, value in values.items()
                }
                self.open[name].log(named if name == "mlflow" else dict(values), step=step)
                if self.missed[name]:
                    self.say(f"tracker={name} is written again; it lacks {self.missed[name]} lines")
                    self.missed[name] = 0

    def close(self) -> None:
        """Sends and writes what is pending."""
        for name, tracker in list(self.open.items()):
            with _Guard(self, name):
                self.open.pop(name)
                if tracker is not None:
                    tracker.finish()

    def no_room(self, name: str, why: str) -> None:
        """The tracker is started anew after a while."""
        if not self.missed[name]:
            self.say(f"tracker={name}: {why}; it is tried again, and metrics.jsonl has everything")
        self.missed[name] += 1
        self.open[name], self._again[name] = None, time.monotonic() + AGAIN

    def _start(self, name: str, step: int) -> Any:
        from accelerate.tracking import LOGGER_TYPE_TO_CLASS

        if name not in LOGGER_TYPE_TO_CLASS:
            raise InputError(f"this version of accelerate has no tracker {name}")
        given = OmegaConf.to_container(
            self.config.tracker_options.get(name) or OmegaConf.create(), resolve=True
        )
        assert isinstance(given, dict)
        places = mapping_of(self.folder / _PLACE)
        fresh = name not in places
        place = places.get(name) or {}
        project = str(given.pop("project", None) or PROJECT)
        if name == "tensorboard":  # lines after the checkpoint are made again
            project = given.pop("run_name", "tensorboard")
            options = {
                "logging_dir": str(self.folder),
                "purge_step": step if self.missed[name] else self.begun + 1,
            }
        elif name == "wandb":
            place = place or {"id": uuid.uuid4().hex[:8]}
            options = {"name": self.folder.name, "dir": str(self.folder), "resume": "allow", **place}
        elif name == "trackio":
            place = place or {"name": f"{self.folder.name}-{uuid.uuid4().hex[:4]}"}
            options = {"resume": "allow", **place}
        else:
            _set_uri(given.pop("tracking_uri", None))
            options = {"run_name": self.folder.name, **place}
        tracker = LOGGER_TYPE_TO_CLASS[name](project, **{**options, **given})
        getattr(tracker, "start", lambda: None)()  # older versions of accelerate start at once
        if name == "mlflow":
            place = {"run_id": tracker.tracker.info.run_id}
        if name != "tensorboard" and fresh:
            write_whole(
                self.folder / _PLACE, json.dumps({**places, name: place}, indent=2) + "\n", inside=self.folder
            )
            tracker.store_init_configuration(_plain(self.config, flat=name == "mlflow"))
        return tracker


class _Guard:
    """What fails inside is said, and the tracker left out from then on, or tried again for want of room."""

    def __init__(self, trackers: Trackers, name: str) -> None:
        self.trackers, self.name = trackers, name

    def __enter__(self) -> None: ...

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, trace: object) -> bool:
        if not isinstance(error, Exception):
            return False
        if self.name in self.trackers.open and (why := unwritten(error)):
            self.trackers.no_room(self.name, why)
            return True
        self.trackers.open.pop(self.name, None)
        said = " ".join(str(error).split())[:300] or type(error).__name__
        self.trackers.say(
            f"tracker={self.name} failed and is left out from here on ({said}); metrics.jsonl has everything"
        )
        return True


def drawn(line: Mapping[str, Any], prefix: str = "") -> dict[str, float]:
    """The numbers of a line of metrics.jsonl, or of summary.json, by the names under which they are drawn."""
    values = {key: line[key] for key in ("loss", "rate", "images_per_second") if key in line and not prefix}
    values |= {f"terms/{name}": value for name, value in line.get("terms", {}).items()}
    values |= {f"health/{name}": value for name, value in line.get("health", {}).items()}
    for peer, scores in line.get("peers", {}).items():
        values |= {f"{prefix}knn{k}/{peer}": value for k, value in scores.get("knn", {}).items()}
        values |= {f"{prefix}{key}/{peer}": scores[key] for key in ("linear", "top1") if key in scores}
    return values


def _set_uri(uri: Any) -> None:
    if uri is not None:
        import mlflow

        mlflow.set_tracking_uri(str(uri))


def _plain(config: DictConfig, flat: bool) -> dict[str, Any]:
    plain = OmegaConf.to_container(config, resolve=True)
    assert isinstance(plain, dict)
    return _flat(plain) if flat else plain


def _flat(node: Mapping[str, Any], prefix: str = "") -> dict[str, Any]:
    found: dict[str, Any] = {}
    for key, value in node.items():
        name = _NOT_IN_MLFLOW.sub("_", f"{prefix}{key}")
        found |= _flat(value, f"{name}.") if isinstance(value, Mapping) else {name: value}
    return found
