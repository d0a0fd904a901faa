"""Labels in a file of their own: arrays, tables, or of torch.save. Nothing in it is executed."""

import os
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
from ssl_kd.data.npz import array_of
from ssl_kd.errors import InputError, nearest
from ssl_kd.system.paths import expand
from ssl_kd.system.reading import opened
from ssl_kd.system.room import check_room


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
    column that the first line calls `key`. .pt, .pth: what torch.save made of an array, of a dict that has it
    under `key`, as CIFAR-N's files, or of a dict of the label of each image. Where there is a single array,
    no key is needed. A column or an array of file names beside them says whose they are, and else they are in
    the order of the images (see `label_tables`).
    """
    try:
        path = expand(path)
    except InputError as error:
        raise InputError(f"labels.file: {error}") from error
    known = [".npy", ".npz", *SUFFIXES, ".pt", ".pth"]
    if path.suffix.lower() not in known:
        raise InputError(f"labels.file is one of {', '.join(known)}, and {path} is not")
    if not path.is_file():
        raise InputError(f"labels.file: there is no file {path}")
    key = None if key is None else str(key)
    try:
        if path.suffix.lower() in SUFFIXES:
            found: np.ndarray | Table = read_table(path, key)
        else:
            found = (_numpy if path.suffix.lower() in (".npy", ".npz") else _torch)(path, key)
            key = found.header[-1] if isinstance(found, Table) else key
        if isinstance(found, Table):
            return labels_of(found, key, count, images() if found.width > 1 else None, classes, numbers)
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


def _numpy(path: Path, key: str | None) -> np.ndarray | Table:
    with opened(path) as file:  # given a path, numpy would leave a damaged file open
        check_room(os.fstat(file.fileno()).st_size, str(path), "take a smaller file")
        found = np.load(file, allow_pickle=False)
        if isinstance(found, np.ndarray):
            return _only(found, path, key)
        with found:
            texts = [name for name in found.files if _is_text(found, name)]
            rest = [name for name in found.files if name not in texts]
            wanted = rest if key is None else [name for name in rest if name == key]
            columns = {
                name: array_of(found, path, name) for name in (*texts, *(wanted if len(wanted) == 1 else []))
            }
            return _beside(columns, path, key, found.files) or array_of(
                found, path, _name_of(found.files, path, key)
            )


def _is_text(found: np.lib.npyio.NpzFile, name: str) -> bool:
    """Whether an array of an .npz holds strings, by its header: the others may be large."""
    assert found.zip is not None  # it is open
    if f"{name}.npy" not in found.zip.namelist():
        return False
    with found.zip.open(f"{name}.npy") as member:
        version = np.lib.format.read_magic(member)
        reader = (
            np.lib.format.read_array_header_1_0 if version == (1, 0) else np.lib.format.read_array_header_2_0
        )
        return bool(reader(member)[2].kind in "US")


def _torch(path: Path, key: str | None) -> np.ndarray | Table:
    with torch.serialization.safe_globals(_STAND_INS):
        found = load_tensors(path)
    if not isinstance(found, dict):
        return _array(_only(found, path, key))
    table = _of_each(found, path, key) or _beside(
        {name: _text(value) for name, value in found.items()}, path, key, list(found)
    )
    return table or _array(_called(found, path, key))


def _array(found: Any) -> np.ndarray:
    return found.values() if isinstance(found, _Array) else np.asarray(found)


def _text(value: Any) -> Any:
    """A list of strings, or an array of them, as such an array; all else as it is."""
    found = value.values() if isinstance(value, _Array) and value.is_text() else value
    if isinstance(found, list | tuple) and found and all(isinstance(one, str) for one in found):
        return np.array(found)
    return found


def _of_each(found: Mapping[Any, Any], path: Path, key: str | None) -> Table | None:
    """A dict of the label of each image, {"cat/1.png": 0, ...}, as a table."""
    single = [isinstance(value, torch.Tensor) and value.numel() == 1 for value in found.values()]
    labels = [value.item() if one else value for one, value in zip(single, found.values(), strict=True)]
    if key is not None or len(found) < 2 or not all(type(label) in (int, str) for label in labels):
        return None
    return Table(path, ("filename", "label"), _rows([list(map(str, found)), list(map(str, labels))]))


def _beside(columns: Mapping[Any, Any], path: Path, key: str | None, names: Sequence[Any]) -> Table | None:
    """The arrays of a file as the columns of a table, where one of them is of strings; else None.

    names: of all arrays. Raises InputError where it is not clear which has the labels, and for lengths that
    differ.
    """
    texts = [name for name, one in columns.items() if isinstance(one, np.ndarray) and one.dtype.kind in "US"]
    images = [name for name in texts if str(name).lower() in IMAGES]
    if not texts or (key is not None and key not in map(str, names)):
        return None
    others = [name for name in names if name not in (images or texts)]
    label = next((name for name in names if str(name) == key), others[0] if len(others) == 1 else None)
    if label is None and len(texts) == len(names) == 1:
        label = texts[0]
    if label is None or label not in columns:
        return None  # which is refused with the names of all
    found = _array(columns[label])
    if found.ndim > 2 or (found.ndim == 2 and found.shape[1] != 1) or found.dtype.kind not in "iuUS":
        raise InputError(
            f"{path}: labels are whole numbers or names of classes (N,), not {found.dtype} {found.shape}"
        )
    for name in images:
        if columns[name].size != found.size:
            raise InputError(f"{path} has {columns[name].size:,} of {name} and {found.size:,} of {label}")
    kept = [name for name in texts if columns[name].size == found.size and name != label]
    cells = [_strings(columns[name]) for name in kept] + [_strings(found)]
    return Table(path, (*map(str, kept), str(label)), _rows(cells))


def _strings(array: np.ndarray) -> list[str]:
    flat = array.reshape(-1)
    return list(map(str, (np.char.decode(flat, "utf-8") if flat.dtype.kind == "S" else flat).tolist()))


def _rows(columns: Sequence[Sequence[str]]) -> list[tuple[int, list[str]]]:
    return [(i, list(row)) for i, row in enumerate(zip(*columns, strict=True), 1)]


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

    def is_text(self) -> bool:
        _, _, kind, _, raw = self.state
        strings = isinstance(raw, list) and bool(raw) and all(isinstance(one, str) for one in raw)
        return strings if kind.code.startswith("O") else bool(re.fullmatch("[US][0-9]+", kind.code))

    def values(self) -> np.ndarray:
        _, shape, kind, fortran, raw = self.state
        if kind.code.startswith("O") and self.is_text():
            return np.array(raw)
        if not re.fullmatch("[iuf][1248]|[US][0-9]+", kind.code):
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


def _only(found: Any, path: Path, key: str | None) -> Any:
    if key is not None:
        raise InputError(f'{path} is a single array, and has nothing called "{key}" (labels.key)')
    return found


def _called(found: Mapping[str, Any], path: Path, key: str | None) -> Any:
    return found[_name_of(list(found), path, key)]


def _name_of(every: Sequence[Any], path: Path, key: str | None) -> Any:
    names = [str(name) for name in every]
    if key is None and len(names) != 1:
        raise InputError(f"{path}: labels.key says which to take of {', '.join(names) or 'nothing'}")
    if key is not None and key not in names:
        raise InputError(f'{path} has no "{key}"; {nearest(key, names)}')
    return every[0 if key is None else names.index(key)]
