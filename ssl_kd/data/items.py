"""What an item of a user's data set is: an image made Pillow's without loss, a label, or a refusal."""

from typing import Any

import numpy as np
from PIL import Image
from torch import Tensor

from ssl_kd.errors import InputError

EXACT = 1e-3  # how far 255 times a float may be from a whole number

Label = int | str | None


def label_of(given: Any, where: str) -> Label:
    if isinstance(given, Tensor | np.ndarray | np.generic) and getattr(given, "ndim", 0) == 0:
        given = given.item()
    if isinstance(given, bool) or not isinstance(given, int | str | None):
        raise InputError(
            f"the label of {where} is {shown(given)}, neither a whole number nor a name nor None"
        )
    return given


def pillow(image: Any, where: str) -> Image.Image:
    """An image of Pillow's from what a data set gives, without loss."""
    if isinstance(image, Image.Image):
        return image
    if not isinstance(image, Tensor | np.ndarray):
        raise InputError(f"{where} has {shown(image)} for an image; give one of Pillow, an array or a tensor")
    first = isinstance(image, Tensor)  # torch's channels come first, those of arrays last
    pixels = image.detach().cpu().numpy() if isinstance(image, Tensor) else image
    if pixels.ndim == 3:
        ends = (0, 2) if first else (2, 0)
        channels = next((axis for axis in ends if pixels.shape[axis] in (1, 3)), None)
        if channels is not None:
            pixels = np.moveaxis(pixels, channels, 2)
            pixels = pixels[..., 0] if pixels.shape[2] == 1 else pixels
    if pixels.ndim not in (2, 3) or 0 in pixels.shape or (pixels.ndim == 3 and pixels.shape[2] != 3):
        raise InputError(f"{where} has {shown(image)} for an image, which is neither grey nor RGB")
    if pixels.dtype.kind == "f":
        whole = np.round(pixels * 255)
        exact = np.isfinite(whole).all() and np.abs(pixels * 255 - whole).max() <= EXACT
        if not exact or whole.min() < 0 or whole.max() > 255:
            raise InputError(
                f"{where} has floats that are not whole 255ths from 0 to 1, as after Normalize; leave "
                "transforms out: views and normalising are made on the device (recipe=..., data.mean)"
            )
        pixels = whole.astype(np.uint8)
    if pixels.dtype != np.uint8:
        raise InputError(f"{where} has {shown(image)} for an image; pixels are uint8")
    return Image.fromarray(np.ascontiguousarray(pixels))


def shown(value: Any) -> str:
    """A value as it can stand in a sentence."""
    if isinstance(value, Tensor | np.ndarray):
        kind = "a tensor" if isinstance(value, Tensor) else "an array"
        return f"{kind} of {str(value.dtype).removeprefix('torch.')} {tuple(value.shape)}"
    if isinstance(value, tuple | list):
        return f"{len(value)} things"
    return f"a {type(value).__name__}"
