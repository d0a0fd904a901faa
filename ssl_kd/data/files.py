"""What is read from disk: the arrays of an .npz file, and image files."""

import os
import stat
import warnings
from collections.abc import Iterable
from contextlib import ExitStack
from io import BytesIO
from itertools import pairwise
from pathlib import Path
from threading import Lock
from typing import Any

import numpy as np
from PIL import Image, UnidentifiedImageError
from PIL.JpegImagePlugin import JpegImageFile

from ssl_kd.data import depth
from ssl_kd.data.depth import FULL
from ssl_kd.data.image_files import formats
from ssl_kd.errors import InputError
from ssl_kd.system.paths import expand
from ssl_kd.system.text import printable

MOST_BYTES = 1 << 30  # of a file: more than the pixels that an image may have

_opening = Lock()  # Python's warnings are one thing for all threads

_KEYS = ("train_images", "train_labels", "test_images", "test_labels", "class_names")
Part = tuple[np.ndarray, np.ndarray | None]  # images uint8 (N, C, H, W), labels int64 (N,)


def read_npz(path: Path) -> tuple[Part, Part | None, tuple[str, ...], tuple[str, ...]]:
    """The train part, the test part (or None), the class names and other keys of an .npz file.

    It never unpickles.

    Keys: train_images (N, H, W) or (N, H, W, C), uint8; optional train_labels (N,) or (N, 1), integers, -1
    for none; test_images, test_labels; class_names (K,), of the labels 0 to K - 1. Raises InputError.
    """
    if not path.is_file():
        raise InputError(f"there is no file {path}")
    with ExitStack() as opened:
        try:  # given a path, numpy would leave a damaged file open
            archive = np.load(opened.enter_context(path.open("rb")), allow_pickle=False)
        except Exception as error:  # numpy and zipfile raise a dozen types for a damaged file
            # numpy takes any text for a pickle, and advises to load it
            why = "" if "pickle" in str(error) else f" ({first_line(error)})"
            raise InputError(f"{path} is not a readable .npz file{why}") from error
        if not isinstance(archive, np.lib.npyio.NpzFile):
            raise InputError(f"{path} is a single array, not an .npz file with train_images")
        opened.enter_context(archive)
        train = _part(archive, path, "train")
        test = _part(archive, path, "test") if "test_images" in archive else None
        names = _array(archive, path, "class_names") if "class_names" in archive else None
        others = tuple(printable(key) for key in archive.files if key not in _KEYS)
    if test and test[0].shape[1:] != train[0].shape[1:]:
        shapes = f"test_images are {test[0].shape[1:]} but train_images are {train[0].shape[1:]}"
        raise InputError(f"{path}: {shapes} (channels, height, width)")
    classes: tuple[str, ...] = ()
    if names is not None:
        if names.ndim != 1 or names.dtype.kind not in "US":
            raise InputError(f"{path}: class_names must be (K,) strings, not {names.dtype} {names.shape}")
        texts = (n.decode("utf-8", "replace") if isinstance(n, bytes) else str(n) for n in names)
        classes = tuple(map(printable, texts))
    return train, test, classes, others


def _part(archive: np.lib.npyio.NpzFile, path: Path, part: str) -> Part:
    images = _array(archive, path, f"{part}_images")
    if images.dtype != np.uint8:
        raise InputError(f"{path}: {part}_images must be uint8, not {images.dtype}")
    if images.ndim not in (3, 4) or 0 in images.shape or (images.ndim == 4 and images.shape[3] not in (1, 3)):
        raise InputError(f"{path}: {part}_images must be (N, H, W) or (N, H, W, 1 or 3), not {images.shape}")
    images = images[:, None] if images.ndim == 3 else np.ascontiguousarray(images.transpose(0, 3, 1, 2))
    if f"{part}_labels" not in archive:
        return images, None
    labels = _array(archive, path, f"{part}_labels")
    if labels.dtype.kind not in "iu":
        raise InputError(f"{path}: {part}_labels must be integers, not {labels.dtype}")
    if labels.shape not in ((len(images),), (len(images), 1)):
        needed = f"{len(images)} {part}_images need as many {part}_labels"
        raise InputError(f"{path}: {needed}, not {labels.shape}")
    return images, labels.reshape(-1).astype(np.int64)


def _array(archive: np.lib.npyio.NpzFile, path: Path, key: str) -> np.ndarray:
    if key not in archive:
        raise InputError(f"{path} has no {key}; it holds {', '.join(archive.files) or 'nothing'}")
    try:
        return archive[key]
    except Exception as error:  # an object array, a truncated member, a broken header: all unreadable to us
        raise InputError(f"{path}: {key} cannot be read ({first_line(error)})") from error


class Paths:
    """Image files below `root` by their relative names, all of them in two arrays.

    Worker processes share arrays. A list of a million paths they would copy page by page, since whoever looks
    at an object counts that in it.
    """

    def __init__(self, root: Path, names: Iterable[str]):
        encoded = [os.fsencode(name) for name in names]
        self.root, self.text = root, np.frombuffer(b"".join(encoded), np.uint8)
        self.ends = np.cumsum([0, *map(len, encoded)])

    def __len__(self) -> int:
        return len(self.ends) - 1

    def read(self, i: int) -> bytes:
        return read_file(self._path(i))

    def name(self, i: int) -> str:
        return str(self._path(i))

    def names(self) -> list[str]:
        """Of all, below the root."""
        text, ends = self.text.tobytes(), self.ends.tolist()
        return [os.fsdecode(text[start:end]) for start, end in pairwise(ends)]

    def _path(self, i: int) -> Path:
        return self.root / os.fsdecode(self.text[self.ends[i] : self.ends[i + 1]].tobytes())


def read_file(path: Path) -> bytes:
    """What is in a file. ValueError for what has no end (a pipe, a device) and for more than MOST_BYTES."""
    found = path.stat()
    if not stat.S_ISREG(found.st_mode):
        raise ValueError("it is no regular file")
    if found.st_size > MOST_BYTES:
        raise ValueError(f"it has {found.st_size:,} bytes, more than {MOST_BYTES:,}")
    return path.read_bytes()


def decode(content: bytes, size: int, bit_depth: int | None = None) -> np.ndarray:
    """What is in an image file, as uint8 (3, size, size), RGB: its central square, resized.

    bit_depth: of the values of an image of 16 bits that does not say itself (see `depth`); None where nobody
    knows. Of an animation the first frame. Transparency is dropped, grey and CMYK become RGB, 16 bits are
    scaled to 8, and the orientation that a camera noted is not applied (as torchvision does not), but in
    a TIFF, where it says how the lines are stored and Pillow applies it.
    Bilinear with antialiasing. A JPEG of at least twice the size is decoded at a half, a quarter or an eighth
    of its own (still at least `size`), which takes a fraction of the time; the grey levels of a photograph
    then differ from those of the whole decode by 1 to 4 in the mean. Raises what Pillow does, or ValueError,
    for more than Pillow's MAX_IMAGE_PIXELS (89 million) before any memory is taken for them.
    """
    with opened(content) as image:
        head = depth.header(image, content)
        bits = head.said or bit_depth if head else FULL
        edge = min(image.size)
        left, top = (image.width - edge) // 2, (image.height - edge) // 2
        right, bottom = left + edge, top + edge
        by = _draft(image, size)
        image.load()
        if head and head.upper:
            depth.check_upper(image, bits)
        if by > 1:
            box = (left / by, top / by, right / by, bottom / by)
            square = rgb(image).resize((size, size), Image.Resampling.BILINEAR, box)
        else:
            square = squared(image, size, bits)
        return np.ascontiguousarray(np.asarray(square).transpose(2, 0, 1))


def squared(image: Image.Image, size: int, bit_depth: int | None = None) -> Image.Image:
    """The central square of an image, resized to `size` pixels, in RGB. Raises as `decode` does."""
    edge = min(image.size)
    left, top = (image.width - edge) // 2, (image.height - edge) // 2
    whole, inverted = image.size == (edge, edge), depth.white_is_zero(image)
    square = rgb(image if whole else image.crop((left, top, left + edge, top + edge)), bit_depth, inverted)
    return square if edge == size else square.resize((size, size), Image.Resampling.BILINEAR)


def opened(content: bytes) -> Image.Image:
    limit = Image.MAX_IMAGE_PIXELS
    try:
        with _opening, warnings.catch_warnings():  # Pillow only warns up to twice the limit
            warnings.simplefilter("ignore", Image.DecompressionBombWarning)
            image = Image.open(BytesIO(content), formats=formats())
    except UnidentifiedImageError as error:  # its text has the address of the object in memory
        raise ValueError("it is no image of a known kind") from error
    except Image.DecompressionBombError as error:
        raise ValueError(f"it claims to have more than {2 * (limit or 0):,} pixels") from error
    if limit is not None and image.width * image.height > limit:
        image.close()
        raise ValueError(f"{image.width} x {image.height} pixels are more than {limit:,}")
    return image


def _draft(image: Image.Image, size: int) -> int:
    """Has a JPEG decoded at 1/2, 1/4 or 1/8 of its size, where that is enough; returns 2, 4, 8, or else 1."""
    if isinstance(image, JpegImageFile):
        for fraction in (8, 4, 2):
            if min(image.size) // fraction >= size:
                drafted = image.draft(None, (image.width // fraction, image.height // fraction))
                return fraction if drafted else 1
    return 1


def rgb(image: Image.Image, bit_depth: int | None = None, inverted: bool = False) -> Image.Image:
    if image.mode == "RGB":  # convert() would copy
        return image
    if image.mode == "F":
        raise ValueError("it holds floating-point pixels; convert it to 8 or 16 bits")
    if image.mode.startswith("I"):  # 16 bits: convert() would clip at 255 instead of scaling
        return Image.fromarray(depth.grey(image, bit_depth, inverted)).convert("RGB")
    if image.mode == "P" and "transparency" in image.info:  # Pillow wants this way round
        image = image.convert("RGBA")
    return image.convert("RGB")


def data_root(root: str | Path | None) -> Path:
    """Where data sets lie: `root`, or $SSL_KD_DATA, or ~/.cache/ssl_kd/data."""
    return expand(root or os.environ.get("SSL_KD_DATA") or "~/.cache/ssl_kd/data")


def first_line(error: Exception) -> str:
    """What an exception says, fit for brackets in one sentence."""
    if isinstance(error, OSError) and error.strerror:
        return error.strerror  # without the file, which the sentence names
    text = str(error).strip().splitlines()
    return text[0].rstrip(".") if text else type(error).__name__


def load_tensors(path: Path) -> Any:
    """What torch.save wrote, if it is tensors and plain containers. Nothing in it is executed.

    Raises what torch does, in a hundred ways.
    """
    import torch

    with warnings.catch_warnings():  # of pickles that are not its own, before it refuses them
        warnings.simplefilter("ignore")
        return torch.load(path, map_location="cpu", weights_only=True)
