"""The names in a run folder: what lies where, what a kill leaves half written, and whose a path is."""

from collections.abc import Iterator
from pathlib import Path

from ssl_kd.system.writing import remains_of

FILES = (
    "config.yaml",
    "environment.json",
    "data.json",
    "status.json",
    "lock",
    "metrics.jsonl",
    "start.safetensors",
    "trackers.json",
    "summary.json",
    "report.html",
)
FOLDERS = ("checkpoints", "eval", "tensorboard", "wandb")
_SIGNS = ("environment.json", "data.json", "status.json", "metrics.jsonl", "summary.json", "checkpoints")


def half_written(folder: Path) -> Iterator[Path]:
    """What the writing of a file of the run left when it was cut short: of our names, at their places."""
    yield from (path for path in _listed(folder) if remains_of(path) in FILES)
    yield from (path for path in _listed(folder / "eval") if remains_of(path).endswith(".json"))
    for place in _listed(folder / "checkpoints"):
        yield from (path for path in _listed(place) if remains_of(path) == "state.json")


def run_of(path: Path) -> Path | None:
    """The run folder of whose own files `path`, with all links followed, would be one; None for none.

    What lies in its export/, or under a name that no run has, is not its own.
    """
    for folder in path.parents:
        first = path.relative_to(folder).parts[0].casefold()  # not all file systems tell A from a
        if first in (*FILES, *FOLDERS) and is_run(folder):
            return folder
    return None


def is_run(folder: Path) -> bool:
    """Whether a folder is that of a run, whole or damaged: a config.yaml alone may be anything's."""
    there = sum((folder / name).exists() for name in _SIGNS)
    return there + (folder / "config.yaml").is_file() > 1


def _listed(folder: Path) -> list[Path]:
    return sorted(folder.iterdir()) if folder.is_dir() and not folder.is_symlink() else []
