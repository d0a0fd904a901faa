"""The arrays of an .npz file: what its headers claim is checked first, and only images asked for are kept.

Zeros of 3 GB are 3 MB in such a file.
"""

import zipfile
from collections.abc import Callable
from contextlib import ExitStack
from pathlib import Path
from typing import IO, NamedTuple

import numpy as np

from ssl_kd.data.files import first_line
from ssl_kd.errors import InputError
from ssl_kd.system.reading import NoFile, opened
from ssl_kd.system.room import check_room
from ssl_kd.system.text import printable

_KEYS = ("train_images", "train_labels", "test_images", "test_labels", "class_names")
_AT_ONCE = 1 << 20  # bytes, unless one image has more


class Part(NamedTuple):
    """images: uint8 (M, C, H, W). at: their places (M,) among the `of` that there are; None for all.

    labels: of all that there are, int64 (of,), or None.
    """

    images: np.ndarray
    labels: np.ndarray | None
    at: np.ndarray | None
    of: int


class Header(NamedTuple):
    shape: tuple[int, ...]
    fortran: bool
    dtype: np.dtype

    @property
    def bytes(self) -> int:
        count = 1
        for side in self.shape:  # of whole numbers without an end
            count *= side
        return count * self.dtype.itemsize


def read_npz(
    path: Path, choose: Callable[[int], np.ndarray] | None = None
) -> tuple[Part, Part | None, tuple[str, ...], tuple[str, ...]]:
    """The train part, the test part (or None), the class names and other keys of an .npz file.

    It never unpickles. choose: gives the places of the train images to keep, of how many there are.

    Keys: train_images (N, H, W) or (N, H, W, C), uint8; optional train_labels (N,) or (N, 1), integers, -1
    for none; test_images, test_labels; class_names (K,), of the labels 0 to K - 1. Raises InputError.
    """
    if not path.exists():
        raise InputError(f"there is no file {path}")
    with ExitStack() as stack:
        try:  # given a path, numpy would leave a damaged file open
            archive = np.load(stack.enter_context(opened(path)), allow_pickle=False, mmap_mode=None)
        except NoFile as error:
            raise InputError(str(error)) from error
        except Exception as error:  # numpy and zipfile raise a dozen types for a damaged file
            # numpy takes any text for a pickle, and advises to load it
            why = "" if "pickle" in str(error) else f" ({first_line(error)})"
            raise InputError(f"{path} is not a readable .npz file{why}") from error
        if not isinstance(archive, np.lib.npyio.NpzFile):
            raise InputError(f"{path} is a single array, not an .npz file with train_images")
        stack.enter_context(archive)
        train = _part(archive, path, "train", choose)
        test = _part(archive, path, "test", None) if "test_images" in archive else None
        names = array_of(archive, path, "class_names") if "class_names" in archive else None
        others = tuple(printable(key) for key in archive.files if key not in _KEYS)
    if test and test.images.shape[1:] != train.images.shape[1:]:
        shapes = f"test_images are {test.images.shape[1:]} but train_images are {train.images.shape[1:]}"
        raise InputError(f"{path}: {shapes} (channels, height, width)")
    classes: tuple[str, ...] = ()
    if names is not None:
        if names.ndim != 1 or names.dtype.kind not in "US":
            raise InputError(f"{path}: class_names must be (K,) strings, not {names.dtype} {names.shape}")
        texts = (n.decode("utf-8", "replace") if isinstance(n, bytes) else str(n) for n in names)
        classes = tuple(map(printable, texts))
    return train, test, classes, others


def _part(
    archive: np.lib.npyio.NpzFile, path: Path, part: str, choose: Callable[[int], np.ndarray] | None
) -> Part:
    key = f"{part}_images"
    head = _header(archive, path, key)
    shape = head.shape
    if head.dtype != np.uint8:
        raise InputError(f"{path}: {key} must be uint8, not {head.dtype}")
    if len(shape) not in (3, 4) or 0 in shape or (len(shape) == 4 and shape[3] not in (1, 3)):
        raise InputError(f"{path}: {key} must be (N, H, W) or (N, H, W, 1 or 3), not {shape}")
    # a limit above them all keeps all of them, and no list of places is longer than the images
    at = choose(shape[0]) if choose is not None and shape[0] <= head.bytes else None
    images = _rows(archive, path, key, head, at)
    images = images[:, None] if images.ndim == 3 else np.ascontiguousarray(images.transpose(0, 3, 1, 2))
    if f"{part}_labels" not in archive:
        return Part(images, None, at, shape[0])
    labels = array_of(archive, path, f"{part}_labels")
    if labels.dtype.kind not in "iu":
        raise InputError(f"{path}: {part}_labels must be integers, not {labels.dtype}")
    if labels.shape not in ((shape[0],), (shape[0], 1)):
        needed = f"{shape[0]} {part}_images need as many {part}_labels"
        raise InputError(f"{path}: {needed}, not {labels.shape}")
    return Part(images, labels.reshape(-1).astype(np.int64), at, shape[0])


def _rows(
    archive: np.lib.npyio.NpzFile, path: Path, key: str, head: Header, at: np.ndarray | None
) -> np.ndarray:
    """The images at places `at`, in rising order, read one piece after the other; None for all."""
    way_out = "take fewer images by data.limit=, or put them into a folder of image files (data=folder)"
    if at is None or head.fortran:
        found = array_of(archive, path, key, 2, way_out)  # channels first is a copy
        return found if at is None else found[at]
    one = head.bytes // head.shape[0]
    check_room(2 * one * len(at) + one, f"{path}: {key}", way_out)
    kept, step = np.empty((len(at), *head.shape[1:]), np.uint8), max(1, _AT_ONCE // one)
    assert archive.zip is not None  # it is open
    try:
        with archive.zip.open(f"{key}.npy") as member:
            _read_header(member)
            for start in range(0, int(at[-1]) + 1, step):
                count = min(step, head.shape[0] - start)
                content = member.read(count * one)
                if len(content) < count * one:
                    raise ValueError("it is cut short")
                first, last = np.searchsorted(at, (start, start + count))
                piece = np.frombuffer(content, np.uint8).reshape(count, *head.shape[1:])
                kept[first:last] = piece[at[first:last] - start]
    except Exception as error:  # a truncated member, a wrong checksum: all unreadable to us
        raise InputError(f"{path}: {key} cannot be read ({first_line(error)})") from error
    return kept


def array_of(
    archive: np.lib.npyio.NpzFile,
    path: Path,
    key: str,
    times: int = 1,
    way_out: str = "take a smaller file",
) -> np.ndarray:
    """A whole array. times: how often its size is needed. Raises InputError where memory cannot hold that."""
    check_room(times * _header(archive, path, key).bytes, f"{path}: {printable(key)}", way_out)
    try:
        return archive[key]
    except Exception as error:  # an object array, a truncated member, a broken header: all unreadable to us
        raise InputError(f"{path}: {printable(key)} cannot be read ({first_line(error)})") from error


def _header(archive: np.lib.npyio.NpzFile, path: Path, key: str) -> Header:
    """What an array claims to be. Raises InputError where it does not have just so many bytes."""
    if key not in archive:
        raise InputError(f"{path} has no {key}; it holds {', '.join(archive.files) or 'nothing'}")
    assert archive.zip is not None  # it is open
    names = [info.filename for info in archive.zip.infolist()]
    member_name = f"{key}.npy" if f"{key}.npy" in names else key
    try:
        if names.count(member_name) > 1:
            raise ValueError("it is there twice")
        with archive.zip.open(member_name) as member:
            head = _read_header(member)
            has = archive.zip.getinfo(member_name).file_size - member.tell()
        if head.dtype.hasobject:
            raise ValueError("it holds objects, and no numbers or texts")
        if has != head.bytes:
            raise ValueError(f"it claims {head.bytes:,} bytes, and has {has:,}")
    except (ValueError, OSError, EOFError, zipfile.BadZipFile, NotImplementedError, RuntimeError) as error:
        raise InputError(f"{path}: {printable(key)} cannot be read ({first_line(error)})") from error
    return head


def _read_header(member: IO[bytes]) -> Header:
    version = np.lib.format.read_magic(member)
    reader = np.lib.format.read_array_header_1_0
    reader = reader if version == (1, 0) else np.lib.format.read_array_header_2_0
    return Header(*reader(member))
