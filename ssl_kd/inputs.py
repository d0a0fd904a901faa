"""Images as people have them, made into what a trained network takes: arrays, tensors, PIL images, files."""

import os
from collections.abc import Iterator, Sequence
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from PIL import Image
from torch import Tensor

from ssl_kd.data.adapt import LUMINANCE
from ssl_kd.data.files import decode, first_line, read_file, squared
from ssl_kd.errors import InputError
from ssl_kd.system.paths import expand
from ssl_kd.system.text import printable

One = np.ndarray | Tensor | Image.Image | str | os.PathLike[str]
Images = One | Sequence[One]
SLACK = 1e-4  # by which a float may leave [0, 1]: what other resizers round to

_SEVERAL = (
    "images are (N, H, W, C) or (N, C, H, W) with 1, 3 or 4 channels, or grey (N, H, W); one image alone is "
    "images[None]"
)


def batches(
    images: Images,
    shape: tuple[int, int, int],
    size: int,
    batch_size: int,
    device: torch.device | str = "cpu",
    bit_depth: int | None = None,
) -> Iterator[Tensor]:
    """The images in their order, float32 (b, C, size, size) in [0, 1], as a network of a run takes them.

    images: an array or a tensor of all of them, uint8 or floats in [0, 1]: (N, H, W, C), (N, C, H, W) or grey
        (N, H, W); or a list of such images (H, W[, C]) or (C, H, W) of any sizes, of PIL images and of paths
        of image files, mixed as you like; or a single PIL image or path.
    shape: (C, H, W) of the images that the network was trained on; size: pixels that it takes.
    bit_depth: of the run's images of 16 bits, as `files.decode` takes it.
    Arrays are cropped to the aspect of `shape` around their centre and scaled bilinearly with antialiasing,
    as the probes do; PIL images and files become their central square, as `data=folder` makes it. Grey and
    RGB turn into each other, transparency is dropped. Raises InputError for anything else.
    """
    if batch_size < 1:
        raise InputError(f"batch_size must be at least 1, not {batch_size}")
    if isinstance(images, np.ndarray | Tensor):
        rows = _rows(images)
        if len(rows) == 0:
            raise InputError("there are no images")
        for part in rows.split(batch_size):
            yield _fit(part.to(device), shape, size)
        return
    listed: Any = [images] if isinstance(images, str | os.PathLike | Image.Image) else images
    if not hasattr(listed, "__len__") or not hasattr(listed, "__getitem__"):
        raise InputError(f"images are an array, a tensor, or a list of images, not {type(images).__name__}")
    if len(listed) == 0:
        raise InputError("there are no images")
    for start in range(0, len(listed), batch_size):
        chunk = [
            _one(listed[i], i, size, bit_depth) for i in range(start, min(start + batch_size, len(listed)))
        ]
        yield torch.cat([_fit(each.to(device), shape, size) for each in chunk])


def _one(image: Any, at: int, size: int, bit_depth: int | None) -> Tensor:
    """Image number `at` of a list as (1, C, H, W)."""
    if isinstance(image, np.ndarray | Tensor):
        if image.ndim not in (2, 3):
            raise InputError(
                f"image {at} of the list is (H, W), (H, W, C) or (C, H, W), not {tuple(image.shape)}"
            )
        return _rows(image[None])
    if not isinstance(image, str | os.PathLike | Image.Image):
        raise InputError(f"image {at} of the list is {type(image).__name__}: no array, PIL image or path")
    name = f"image {at} of the list" if isinstance(image, Image.Image) else printable(os.fspath(image))
    try:
        if isinstance(image, Image.Image):
            square = squared(image, size, bit_depth)
            decoded = np.ascontiguousarray(np.asarray(square).transpose(2, 0, 1))
        else:
            decoded = decode(read_file(expand(image)), size, bit_depth)
    except Exception as error:  # Pillow's decoders let many types through
        raise InputError(f"{name} cannot be decoded ({first_line(error)})") from error
    return torch.from_numpy(decoded)[None]


def _rows(images: np.ndarray | Tensor) -> Tensor:
    """(N, C, H, W), uint8 or float; the memory of `images` wherever that can be."""
    first = isinstance(images, Tensor)  # which layout goes before the other
    if not isinstance(images, Tensor):
        if images.dtype != np.uint8 and images.dtype.kind != "f":
            raise InputError(f"images are uint8, or floats in [0, 1], not {images.dtype}")
        images = torch.from_numpy(np.require(images, requirements=["C", "W"]))
    if images.dtype != torch.uint8 and not images.is_floating_point():
        raise InputError(f"images are uint8, or floats in [0, 1], not {images.dtype}")
    images = images.detach()
    shape = tuple(images.shape)
    if images.ndim == 3 and shape[0] not in (3, 4) and shape[2] not in (3, 4):
        return images[:, None]
    if images.ndim != 4:
        raise InputError(f"{_SEVERAL}, and these are {shape}")
    for channels in ((1, 3), (4,)):
        for axis in (1, 3) if first else (3, 1):
            if shape[axis] in channels:
                return images if axis == 1 else images.permute(0, 3, 1, 2)
    raise InputError(f"{_SEVERAL}, and these are {shape}")


def _fit(images: Tensor, shape: tuple[int, int, int], size: int) -> Tensor:
    """(b, C', H', W') of any kind -> float32 (b, C, size, size) in [0, 1]."""
    if images.is_floating_point():
        low, high = float(images.min()), float(images.max())
        if not (low >= -SLACK and high <= 1 + SLACK):  # a NaN is neither
            raise InputError(
                f"images of floats lie in [0, 1], and these between {low:.4g} and {high:.4g}; hand over "
                "uint8, or divide"
            )
    images = _crop(_channels(images, shape[0]), shape[1], shape[2])
    x = images.float() / 255 if images.dtype == torch.uint8 else images.float()
    if x.shape[2:] == (size, size):
        return x
    return F.interpolate(x, (size, size), mode="bilinear", antialias=True).clamp_(0, 1)


def _channels(images: Tensor, wanted: int) -> Tensor:
    images = images[:, :3] if images.shape[1] == 4 != wanted else images  # transparency
    have = images.shape[1]
    if have == wanted:
        return images
    if have == 1 and wanted == 3:
        return images.expand(-1, 3, -1, -1)
    if have != 3 or wanted != 1:
        raise InputError(f"the network takes images of {wanted} channels, not of {have}")
    weights = torch.from_numpy(LUMINANCE.astype(np.int64)).to(images.device).view(1, 3, 1, 1)
    if images.is_floating_point():
        return (images * (weights / 65536).to(images.dtype)).sum(1, keepdim=True)
    return ((images.long() * weights).sum(1, keepdim=True) + 32768 >> 16).to(torch.uint8)


def _crop(images: Tensor, height: int, width: int) -> Tensor:
    """The central part of the aspect height : width."""
    tall, wide = images.shape[2:]
    h, w = min(tall, max(1, wide * height // width)), min(wide, max(1, tall * width // height))
    top, left = (tall - h) // 2, (wide - w) // 2
    return images[:, :, top : top + h, left : left + w]
