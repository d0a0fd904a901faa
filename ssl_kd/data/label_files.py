"""Labels in a file of their own: arrays, tables, or of torch.save. Nothing in it is executed."""

import pickle
import re
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch

from ssl_kd.data.files import first_line, load_tensors
from ssl_kd.data.label_tables import IMAGES, SUFFIXES, Table, labels_of, read_table
from ssl_kd.data.labels import positions_of
from ssl_kd.errors import InputError, nearest
from ssl_kd.system.paths import expand


def read(
    path: str | Path,
    key: str | None,
    count: int,
    classes: Sequence[str],
    numbers: Sequence[int] = (),
    images: Callable[[], Sequence[str] | None] = lambda: None,
) -> np.ndarray:
    """The labels in a file, int64 (count,), -1 for none. Nothing in it is executed. Raises InputError.

    classes: what they are called; where that is by numbers, the file's labels are those numbers.
    numbers: what the data call each class that has another name, or () for its position.

    images: gives the names of the images, or None where they have none.

    .npy: one array. .npz: the array called `key`. .csv, .tsv, .txt, .parquet: a label on each line, or the
    column that the first line calls `key`; a column of file names beside it says whose they are, and else
    they are in the order of the images (see `label_tables`). .pt, .pth: what torch.save made of an array, or
    of a dict that has it under `key`, as CIFAR-N's files. Where there is a single array, no key is needed.
    """
    try:
        path = expand(path)
    except InputError as error:
        raise InputError(f"labels.file: {error}") from error
    readers = {suffix: _numpy for suffix in (".npy", ".npz")} | {suffix: _torch for suffix in (".pt", ".pth")}
    known = [".npy", ".npz", *SUFFIXES, ".pt", ".pth"]
    if path.suffix.lower() not in known:
        raise InputError(f"labels.file is one of {', '.join(known)}, and {path} is not")
    if not path.is_file():
        raise InputError(f"labels.file: there is no file {path}")
    key = None if key is None else str(key)
    try:
        table = read_table(path, key) if path.suffix.lower() in SUFFIXES else _named(path, key)
        if table is not None:
            return labels_of(table, key, count, images() if table.width > 1 else None, classes, numbers)
        found = readers[path.suffix.lower()](path, key)
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
    return positions_of(labels.astype(np.int64), classes, str(path), numbers)


def _numpy(path: Path, key: str | None) -> np.ndarray:
    with path.open("rb") as file:  # given a path, numpy would leave a damaged file open
        found = np.load(file, allow_pickle=False)
        if isinstance(found, np.ndarray):
            return _only(found, path, key)
        with found:
            return _called(found, path, key)


def _named(path: Path, key: str | None) -> Table | None:
    """The arrays of an .npz as the columns of a table, where one of them has the names of images."""
    if path.suffix.lower() != ".npz":
        return None
    with path.open("rb") as file, np.load(file, allow_pickle=False) as found:
        names = [name for name in found.files if name.lower() in IMAGES and found[name].dtype.kind in "US"]
        if not names:
            return None
        others = [name for name in found.files if name not in names] if key is None else [key]
        if len(others) != 1 or others[0] not in found.files:
            return None  # which is refused as without names
        columns = [found[name].reshape(-1) for name in (names[0], others[0])]
    lengths = [len(column) for column in columns]
    if lengths[0] != lengths[1]:
        raise InputError(f"{path} has {lengths[0]:,} of {names[0]} and {lengths[1]:,} of {others[0]}")
    texts = [np.char.decode(column, "utf-8") if column.dtype.kind == "S" else column for column in columns]
    rows = zip(*(map(str, column.tolist()) for column in texts), strict=True)
    return Table(path, (names[0], others[0]), [(i, list(row)) for i, row in enumerate(rows, 1)])


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
