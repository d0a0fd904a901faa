"""Labels that are not the data's own, for training alone: read from a file, wrong at random, or few.

What a file says and what is wrong belongs to the whole train split as it was before a limit or a held-out
part: an image has the same label whichever of the others are there.
"""

import csv
import pickle
import re
from collections.abc import Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import torch

from ssl_kd.data.adapt import Recoloured, Subset, subset
from ssl_kd.data.draws import Amount, draw
from ssl_kd.data.files import first_line, load_tensors
from ssl_kd.data.sources import RESIDENT_BYTES, Arrays, Encoded, Source
from ssl_kd.errors import InputError, nearest
from ssl_kd.streams import generator

SEED = 0  # of the noise, in every run: a teacher and its student see the same wrong labels


def taught(
    source: Source,
    noise: float | None = None,
    file: str | Path | None = None,
    key: str | None = None,
    amount: Amount | None = None,
    draw: int = 0,
    only: bool = False,
) -> Source:
    """The images and labels that training sees; the source itself, where nothing is asked for.

    noise: the share of wrong ones, of the file's labels where there is a file (see `symmetric`).
    file, key: where labels are (see `read`): one for each image of the whole train split.
    amount: of how many images the label is kept, a share (0.1) or a number of each class (10). Which ones is
        a function of the labels and of `draw`, a number, not of the run's seed.
    only: the images that have a label then are all there is.
    Raises InputError.
    """
    if key is not None and file is None:
        raise InputError(f'labels.key is "{key}", and there is no labels.file to take it from')
    asked = {"noise": noise not in (None, 0), "file": file is not None, "amount": amount is not None}
    if not (any(asked.values()) or only):
        return source
    if source.labels is None:
        first = next((option for option, there in asked.items() if there), "only")
        raise InputError(f"labels.{first} changes the labels that training sees, and the data has none")
    if asked["noise"] or asked["file"]:
        source = relabelled(source, _changed(source, noise, file, key))
    if amount is not None:
        source = relabelled(source, _fewer(source, amount, draw))
    if not only:
        return source
    known = np.flatnonzero(np.asarray(source.labels) >= 0)
    if not len(known):
        raise InputError("labels.only leaves the labelled images alone, and none has a label")
    return subset(source, known)


def _fewer(source: Source, amount: Amount, number: int) -> np.ndarray:
    """The labels (N,) of a few images, -1 for the others."""
    if isinstance(number, bool) or not isinstance(number, int) or number < 0:
        raise InputError(f"labels.draw is the number of a draw, from 0 on, not {number}")
    labels = torch.tensor(source.labels)
    try:
        at = draw(labels, len(source.classes), amount, SEED, number)
    except InputError as error:
        raise InputError(f"labels.amount: {error}".rstrip(".")) from error
    return torch.full_like(labels, -1).index_copy(0, at, labels[at]).numpy()


def _changed(source: Source, noise: float | None, file: str | Path | None, key: str | None) -> np.ndarray:
    """The labels (N,) that a file says, some of them wrong."""
    at, count = positions(source)
    labels = np.full(count, -1, dtype=np.int64)
    labels[at] = np.asarray(source.labels)
    if file is not None:
        labels = read(file, key, count, len(source.classes))
    if noise not in (None, 0):
        labels = symmetric(labels, len(source.classes), noise, SEED)
    return labels[at]


def symmetric(labels: np.ndarray, classes: int, rate: float, seed: int) -> np.ndarray:
    """Labels (N,), each replaced with probability `rate` by one of the other classes, all of them alike.

    -1 stays. Which positions are hit, and how many classes further they go, is a function of the seed and the
    position alone; a higher rate hits those of a lower one too. Raises InputError for a rate outside [0, 1)
    and where there is no other class.
    """
    if isinstance(rate, bool) or not isinstance(rate, int | float) or not 0 <= rate < 1:
        raise InputError(f"labels.noise is a share of the labels, from 0 to less than 1, not {rate}")
    if classes < 2:
        raise InputError("labels.noise needs at least 2 classes, and the data has 1")
    draws = torch.rand(len(labels), dtype=torch.float64, generator=generator("label-noise", seed)).numpy()
    further = torch.randint(1, classes, (len(labels),), generator=generator("label-noise-class", seed))
    wrong = (draws < rate) & (labels >= 0)
    return np.where(wrong, (labels + further.numpy()) % classes, labels)


def read(path: str | Path, key: str | None, count: int, classes: int) -> np.ndarray:
    """The labels in a file, int64 (count,), -1 for none. Nothing in it is executed. Raises InputError.

    .npy: one array. .npz: the array called `key`. .csv, .txt: a number on each line, or the column that the
    first line calls `key`. .pt, .pth: what torch.save made of an array, or of a dict that has it under `key`,
    as CIFAR-N's files. Where there is a single array, no key is needed.
    """
    path = Path(str(path)).expanduser()
    readers = {suffix: _numpy for suffix in (".npy", ".npz")} | {".csv": _text, ".txt": _text}
    readers |= {suffix: _torch for suffix in (".pt", ".pth")}
    if path.suffix.lower() not in readers:
        raise InputError(f"labels.file is one of {', '.join(readers)}, and {path} is not")
    if not path.is_file():
        raise InputError(f"labels.file: there is no file {path}")
    try:
        found = readers[path.suffix.lower()](path, None if key is None else str(key))
    except InputError:
        raise
    except Exception as error:  # zipfile, csv, the unpicklers: each has types of its own for a damaged file
        # numpy and torch take any text for a pickle, and advise to switch their safety off
        unsafe = isinstance(error, pickle.UnpicklingError) or "pickle" in str(error).lower()
        why = "it is damaged, or holds more than numbers" if unsafe else first_line(error)
        raise InputError(f"labels.file: {path} cannot be read ({why})") from error
    labels = found.reshape(-1) if found.ndim == 2 and found.shape[1] == 1 else found
    if labels.ndim != 1 or labels.dtype.kind not in "iu":
        raise InputError(f"{path}: labels are whole numbers (N,), not {found.dtype} {found.shape}")
    if len(labels) != count:
        raise InputError(f"{path} holds {len(labels)} labels, and the whole train split has {count} images")
    if not -1 <= labels.min() <= labels.max() < classes:
        worst = labels.min() if labels.min() < -1 else labels.max()
        raise InputError(f"{path} holds the label {worst}, which is none of the {classes} classes")
    return labels.astype(np.int64)


def positions(source: Source) -> tuple[np.ndarray, int]:
    """Where the images of a source lie in the whole split, int64 (N,), and how many images that has."""
    if isinstance(source, Recoloured | Relabelled):
        return positions(source.source)
    if isinstance(source, Subset):
        at, count = positions(source.source)
        return at[source.at], count
    if not isinstance(source, Arrays | Encoded):
        return np.arange(len(source)), len(source)
    count = len(source.stored) if isinstance(source, Encoded) else source.of or len(source)
    return np.arange(count) if source.at is None else source.at, count


def relabelled(source: Source, labels: np.ndarray) -> Source:
    """The same images with labels int64 (N,), -1 for none. What is decoded for one is decoded for both."""
    if isinstance(source, Arrays):  # nothing to decode, and the loaders know them
        return replace(source, labels=labels)
    return Relabelled(source, labels)


@dataclass(eq=False)
class Relabelled:
    """A source with other labels. See `relabelled`."""

    source: Source
    labels: np.ndarray | None

    @property
    def _resident(self) -> torch.Tensor | None:
        return getattr(self.source, "_resident", None)

    @_resident.setter
    def _resident(self, images: torch.Tensor) -> None:
        self.source._resident = images  # type: ignore[attr-defined]

    @property
    def shape(self) -> tuple[int, int, int]:
        return self.source.shape

    @property
    def classes(self) -> tuple[str, ...]:
        return self.source.classes

    @property
    def resident_bytes(self) -> int:
        return getattr(self.source, "resident_bytes", RESIDENT_BYTES)

    @property
    def skipped(self) -> list[str]:
        return getattr(self.source, "skipped", [])

    def __len__(self) -> int:
        return len(self.source)

    def __getitem__(self, i: int) -> np.ndarray:
        return self.source[i]


def _numpy(path: Path, key: str | None) -> np.ndarray:
    with path.open("rb") as file:  # given a path, numpy would leave a damaged file open
        found = np.load(file, allow_pickle=False)
        if isinstance(found, np.ndarray):
            return _only(found, path, key)
        with found:
            return _called(found, path, key)


def _text(path: Path, key: str | None) -> np.ndarray:
    with path.open(newline="", encoding="utf-8-sig") as file:
        lines = csv.reader(file, skipinitialspace=True)
        rows = [(lines.line_num, row) for row in lines if any(row)]
    column = 0
    if key is not None and rows:
        _, names = rows.pop(0)
        if key not in names:
            raise InputError(f'{path} has no column "{key}"; {nearest(key, names)}')
        column = names.index(key)
    elif rows and len(rows[0][1]) > 1:
        raise InputError(f"{path} has several columns; labels.key names one of: {', '.join(rows[0][1])}")
    labels = []
    for number, row in rows:
        cell = row[column].strip() if column < len(row) else ""
        if not re.fullmatch(r"[+-]?[0-9]{1,18}", cell):
            raise InputError(f'line {number} of {path} says "{cell}", which is not a whole number')
        labels.append(int(cell))
    return np.array(labels, dtype=np.int64)


class _Kind:
    """Stands for numpy.dtype in a pickle: what it was called with."""

    def __init__(self, code: str, *_: Any) -> None:
        self.code, self.order = code, "="

    def __setstate__(self, state: tuple) -> None:
        self.order = state[1]


class _Array:
    """Stands for numpy.ndarray in a pickle: numpy's own would believe what the file says of its memory."""

    def __init__(self, *_: Any) -> None:
        self.state: tuple = ()

    def __setstate__(self, state: tuple) -> None:
        self.state = state

    def values(self) -> np.ndarray:
        _, shape, kind, fortran, raw = self.state
        if not re.fullmatch("[iuf][1248]", kind.code):
            raise ValueError(f"its labels are {kind.code}, not numbers")
        order = "<" if kind.order not in ("<", ">") else kind.order
        flat = np.frombuffer(raw, np.dtype(order + kind.code))
        return flat.reshape(shape, order="F" if fortran else "C")


_STAND_INS: list[Any] = [
    (_Kind, "numpy.dtype"),
    (_Array, "numpy.ndarray"),
    (_Array, "numpy.core.multiarray._reconstruct"),  # numpy 1
    (_Array, "numpy._core.multiarray._reconstruct"),
]


def _torch(path: Path, key: str | None) -> np.ndarray:
    with torch.serialization.safe_globals(_STAND_INS):
        found = load_tensors(path)
    found = _called(found, path, key) if isinstance(found, dict) else _only(found, path, key)
    return found.values() if isinstance(found, _Array) else np.asarray(found)


def _only(found: Any, path: Path, key: str | None) -> Any:
    if key is not None:
        raise InputError(f'{path} is a single array, and has nothing called "{key}" (labels.key)')
    return found


def _called(found: Mapping[str, Any], path: Path, key: str | None) -> Any:
    names = [str(name) for name in found]
    if key is None and len(names) != 1:
        raise InputError(f"{path}: labels.key says which to take of {', '.join(names) or 'nothing'}")
    if key is not None and key not in names:
        raise InputError(f'{path} has no "{key}"; {nearest(key, names)}')
    return found[list(found)[0 if key is None else names.index(key)]]
