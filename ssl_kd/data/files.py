"""What is read from disk: image files, and files of tensors."""

import os
import warnings
from collections.abc import Iterable
from contextlib import nullcontext
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
from ssl_kd.system.reading import NoFile
from ssl_kd.system.reading import opened as opened_file
from ssl_kd.system.room import SMALL, check_tensor_file

MOST_BYTES = 1 << 30  # of a file: more than the pixels that an image may have

LARGE = 16_000_000  # pixels, above which a process decodes one image at a time

_opening = Lock()  # Python's warnings are one thing for all threads
_large = Lock()


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
    try:
        file = opened_file(path)
    except NoFile as error:
        raise ValueError("it is no regular file") from error
    with file:
        size = os.fstat(file.fileno()).st_size
        content = file.read(MOST_BYTES + 1) if size <= MOST_BYTES else b""
    if max(size, len(content)) > MOST_BYTES:
        raise ValueError(f"it has {max(size, len(content)):,} bytes, more than {MOST_BYTES:,}")
    return content


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
        with _large if image.width * image.height > LARGE else nullcontext():
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
        raise ValueError(f"{image.width} x {image.height} pixels are more than {limit:,}; make it smaller")
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

    check_tensor_file(path)
    with warnings.catch_warnings():  # of pickles that are not its own, before it refuses them
        warnings.simplefilter("ignore")
        found = torch.load(path, map_location="cpu", weights_only=True)
    most = path.stat().st_size
    for value in found.values() if isinstance(found, dict) else [found]:
        for one in value.values() if isinstance(value, dict) else [value]:
            # a number that is said to be repeated, without being there so often
            if isinstance(one, torch.Tensor) and one.numel() * one.element_size() > max(most, SMALL):
                raise InputError(f"{path} holds a tensor that is larger than the file; save it again")
    return found
