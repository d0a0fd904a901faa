"""`ssl-kd runs`: what lies in a folder of runs, read from their files. Nothing is imported that they name."""

import json
import os
import re
import sys
from collections.abc import Callable, Iterator, Sequence
from dataclasses import asdict, dataclass, field
from datetime import datetime
from pathlib import Path
from typing import Any

from ssl_kd.commands.catalogue import VALUES, refuse_unknown
from ssl_kd.errors import InputError, nearest
from ssl_kd.status import read as read_status
from ssl_kd.system.documents import CONFIG, from_yaml, mapping_of, text_of
from ssl_kd.system.paths import expand
from ssl_kd.system.text import print_line, printable

MOST_DEEP = 6  # folders below the one that is looked into
_MARKS = ("status.json", "summary.json", "metrics.jsonl", "checkpoints", "environment.json")
_OURS = ("logs", "tensorboard", "export")  # folders beside or in runs that are none


@dataclass
class Row:
    """One run; what nobody has written down is None.

    peers: name -> {"knn", "linear"}, accuracies as fractions, the kNN's of 20 neighbours. beat: the last sign
    of life. age, duration: in seconds. note: why it failed, or what cannot be read.
    """

    run: str
    state: str = "unknown"
    method: str | None = None
    data: str | None = None
    seed: int | None = None
    peers: dict[str, dict[str, float | None]] = field(default_factory=dict)
    step: int | None = None
    steps: int | None = None
    beat: str | None = None
    age: float | None = None
    duration: float | None = None
    note: str = ""

    def best(self, score: str) -> float | None:
        """Of the peers."""
        known = [found for scores in self.peers.values() if (found := scores.get(score)) is not None]
        return max(known, default=None)


def main(words: Sequence[str]) -> int:
    """`ssl-kd runs [folder=runs] [sort=run] [format=table]`; returns the exit code."""
    odd = next((word for word in words if "=" not in word), None)
    if odd is not None and expand(odd).is_dir():
        words = [f"folder={word}" if word == odd else word for word in words]
    elif odd is not None:
        raise InputError(f'"{odd}" is neither an option, as sort=age, nor a folder')
    given = {key: value for key, _, value in (word.partition("=") for word in words)}
    refuse_unknown("runs", given, ("folder", "sort", "format"))
    for key in ("sort", "format"):
        known = VALUES[f"runs.{key}"]
        if key in given and given[key] not in known:
            raise InputError(f'{key} is "{given[key]}"; {nearest(given[key], list(known))}')
    folder = expand(given.get("folder") or "runs")
    if not folder.is_dir():
        raise InputError(f"there is no folder {folder}; ssl-kd train makes runs, or say where by folder=")
    rows, others = look(folder)
    rows.sort(key=_order(given.get("sort", "run")))
    try:
        if given.get("format") == "json":
            for row in rows:
                print_line(json.dumps(asdict(row)).replace("\x7f", "\\u007f"))  # a form of JSON's own
            sys.stdout.flush()
        else:
            from ssl_kd.commands.runs_table import print_table

            print_table(folder, rows, others)
            sys.stdout.flush()
    except BrokenPipeError:  # whoever reads has enough, as `head`
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())  # of what Python still has to write
    return 0


def _order(key: str) -> Callable[[Row], Any]:
    """The key to sort by: what is not known comes first, the best and the youngest sign of life last."""

    def by(row: Row) -> tuple[Any, ...]:
        value = row.best(key) if key in ("knn", "linear") else getattr(row, key)
        if key == "age" and value is not None:
            value = -value
        return (value is not None, value if value is not None else 0, row.run)

    return by


def look(folder: Path) -> tuple[list[Row], list[str]]:
    """The runs in a folder, at any depth, and the folders in which there is none, by their relative names."""
    found = list(_walk(folder, folder, 0))
    rows = [_row(path, name) for path, name, is_run in found if is_run]
    inside = [name for _, name, is_run in found if is_run]
    empty = [name for _, name, is_run in found if not is_run]
    return rows, [name for name in empty if not any(run.startswith(f"{name}/") for run in inside)]


def _walk(root: Path, place: Path, depth: int) -> Iterator[tuple[Path, str, bool]]:
    """(folder, its name as seen from the root, whether it is a run) of runs, and of first-level folders."""
    name = "." if place == root else place.relative_to(root).as_posix()
    try:
        entries = sorted(os.scandir(place), key=lambda entry: entry.name)
    except OSError:
        yield place, name, False
        return
    names = {entry.name for entry in entries}
    if "config.yaml" in names and names & {*_MARKS} or {"status.json", "lock"} <= names:
        yield place, name, True
        return
    if depth == 1 and place.name not in _OURS:
        yield place, name, False
    for entry in entries if depth < MOST_DEEP else ():
        if entry.is_dir(follow_symlinks=depth == 0) and not entry.name.startswith("."):
            yield from _walk(root, place / entry.name, depth + 1)


def _row(path: Path, name: str) -> Row:
    row = Row(name if name != "." else path.name)
    try:
        _fill(row, path)
    except (
        Exception
    ) as error:  # a folder may be anybody's, or half written: it is named and the others are shown
        said = " ".join(str(error).split()) or type(error).__name__
        row.state, row.note = "broken", said.replace(f"{path}/", "")
    return row


def _fill(row: Row, path: Path) -> None:
    summary = _mapping(path / "summary.json")
    status = read_status(path) or {}
    row.method, row.data, row.seed, peers = _config(path / "config.yaml")
    row.method = _text(summary.get("method")) or row.method
    row.state = _text(status.get("state")) or ("done" if summary else "unknown")
    row.step, row.steps = _whole(status.get("step", summary.get("steps"))), _whole(status.get("steps"))
    row.note = _text(status.get("reason")) or ""
    began, beat = _time(status.get("began")), _time(status.get("beat"))
    if beat is None:
        newest = max((f.stat().st_mtime for f in map(path.joinpath, _MARKS) if f.exists()), default=None)
        beat = None if newest is None else datetime.fromtimestamp(newest).astimezone()
    if beat is not None:
        row.beat = beat.isoformat(timespec="seconds")
        row.age = max(0.0, (datetime.now().astimezone() - beat).total_seconds())
    row.duration = _number(summary.get("seconds"))
    if row.duration is None and began is not None and beat is not None:
        seconds = (beat - began).total_seconds()
        row.duration = seconds if seconds >= 0 else None  # the clock was set back meanwhile
    scored = summary.get("peers") if isinstance(summary.get("peers"), dict) else {}
    for peer in map(str, scored or peers):  # of a finished run those that can be scored
        scores = (scored or {}).get(peer)
        scores = scores if isinstance(scores, dict) else {}
        knn = scores.get("knn") if isinstance(scores.get("knn"), dict) else {}
        row.peers[peer] = {
            "knn": _number((knn or {}).get("20")),
            "linear": _number(scores.get("linear")),
        }


def _config(path: Path) -> tuple[str | None, str | None, int | None, list[str]]:
    """Method, data, seed and peers.

    A run writes its config in one form, of which a few lines are enough; a file of another form is parsed,
    which takes a hundred times as long.
    """
    if not path.is_file():
        return None, None, None, []
    text = text_of(path, CONFIG)
    blocks = dict(re.findall(r"^(\w+):(.*\n(?:[ -].*\n)*)", text, flags=re.MULTILINE))
    peers = re.findall(r"^  ([\w-]+):", blocks.get("peers", ""), flags=re.MULTILINE)
    data = re.search(r"^  name: ([\w-]+)$", blocks.get("data", ""), flags=re.MULTILINE)
    method, seed = (re.fullmatch(r" ([\w.-]+)\n", blocks.get(key, "")) for key in ("method", "seed"))
    if peers and data and method and seed:
        return method[1], data[1], _whole(int(seed[1])) if seed[1].lstrip("-").isdigit() else None, peers
    found = from_yaml(text, path.name, plain=True)
    if not isinstance(found, dict) or not isinstance(found.get("peers"), dict):
        raise ValueError("config.yaml is not the config of a run")
    source = found.get("data") if isinstance(found.get("data"), dict) else {}
    names = [str(peer) for peer in found["peers"]]
    return _text(found.get("method")), _text((source or {}).get("name")), _whole(found.get("seed")), names


def _mapping(path: Path) -> dict[str, Any]:
    return mapping_of(path)


def _text(value: Any) -> str | None:
    """A text as it can stand in a table: anybody may have written it."""
    return printable(value) if isinstance(value, str) else None


def _whole(value: Any) -> int | None:
    return value if isinstance(value, int) and not isinstance(value, bool) else None


def _number(value: Any) -> float | None:
    return float(value) if isinstance(value, int | float) and not isinstance(value, bool) else None


def _time(value: Any) -> datetime | None:
    try:
        found = datetime.fromisoformat(str(value))
    except ValueError:
        return None
    return found if found.tzinfo else found.astimezone()
