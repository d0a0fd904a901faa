"""Runs that differ in nothing but their seed, as groups with a name and a cost."""

import os
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from omegaconf import OmegaConf

from ssl_kd.compare.compute import training_macs
from ssl_kd.compare.runs import Entry
from ssl_kd.errors import InputError
from ssl_kd.identity import flat, told


@dataclass(frozen=True)
class Group:
    """Runs that differ in their seed (and incidental options) alone, ordered by seed.

    compute: multiply-adds of one run's training, see `compute.training_macs`; NaN where it is unknown.
    """

    name: str
    runs: tuple[Entry, ...]
    epochs: int
    compute: float


def groups(entries: Sequence[Entry]) -> tuple[list[Group], list[str]]:
    """The groups in order of their first run, and a note for each of unknown cost. Raises InputError."""
    notes: list[str] = []
    sorted_: list[list[Entry]] = []
    options = {entry.folder: _seedless(entry) for entry in entries}  # once: there may be hundreds of runs
    for entry in entries:
        home = next((runs for runs in sorted_ if not _differing(runs[0], entry, options)), None)
        if home is None:
            sorted_.append([entry])
            continue
        twin = next((other for other in home if other.seed == entry.seed), None)
        if twin:
            raise InputError(
                f"{twin.folder} and {entry.folder} are the same configuration with the same seed "
                f"{entry.seed}; leave one of them out"
            )
        home.append(entry)
    found = []
    for name, runs in zip(_names(sorted_, options), sorted_, strict=True):
        runs.sort(key=lambda entry: entry.seed)
        pairs = [(entry.config, entry.summary) for entry in runs]
        compute, problem = training_macs(pairs, runs[0].folder)
        notes += [f"The compute of {name} is unknown: {problem}."] if problem else []
        found.append(Group(name, tuple(runs), int(runs[0].config.epochs), compute))
    return found, notes


def _differing(one: Entry, other: Entry, options: Mapping[str, dict[str, Any]]) -> list[str]:
    """What differs beside the seed: earlier runs of that seed and labels of it are the seed's too."""
    a, b = options[one.folder], options[other.folder]
    lines = told(a, b)
    drawn = a.get("labels.draw") == one.seed and b.get("labels.draw") == other.seed
    own = ("seed: ", "labels.draw: ") if drawn else ("seed: ",)
    return [line for line in lines if not line.startswith(own)]


def _seedless(entry: Entry) -> dict[str, Any]:
    """The options by their names, in which runs/teacher-1 is runs/teacher-SEED where the seed is 1."""
    own = re.compile(rf"[-_.]{entry.seed}(?=/|$)")

    def without(value: Any) -> Any:
        if isinstance(value, dict):
            return {key: without(item) for key, item in value.items()}
        if isinstance(value, list):
            return [without(item) for item in value]
        return own.sub("-SEED", value) if isinstance(value, str) and "/" in value else value

    return flat(without(OmegaConf.to_container(entry.config, resolve=True)))


def _names(sorted_: Sequence[Sequence[Entry]], options: Mapping[str, dict[str, Any]]) -> list[str]:
    """A name for each group of runs; with the folder above in front, where two would have the same."""
    names = [_name([Path(entry.folder).absolute() for entry in runs]) for runs in sorted_]
    above = [Path(runs[0].folder).absolute().parent.name for runs in sorted_]
    longer = [f"{parent}/{name}" for parent, name in zip(above, names, strict=True)]
    if len(set(longer)) == len(longer):
        names = [full if names.count(name) > 1 else name for full, name in zip(longer, names, strict=True)]
    for i, name in enumerate(names):
        if name in names[:i]:
            one, other = sorted_[names.index(name)][0], sorted_[i][0]
            what = _differing(one, other, options)[0]
            raise InputError(
                f'{one.folder} and {other.folder} would both be of the group "{name}", but differ in {what}; '
                "leave one of them out, or rename its folder"
            )
    return names


def _name(folders: Sequence[Path]) -> str:
    """What the names of the folders begin with, without the seed: runs/solo-0 and runs/solo-1 are "solo"."""
    stems = [re.sub(r"(^|[-_.])\d+$", "", folder.name) for folder in folders]
    prefix = os.path.commonprefix(stems)
    if prefix not in stems:
        prefix = prefix.rstrip("0123456789").rstrip("-_.")
    return prefix or Path(os.path.commonpath([folder.parent for folder in folders])).name or "runs"
