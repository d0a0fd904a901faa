"""Images made worse in known ways and degrees, to ask what a finished network still recognises.

Kinds and the five severities follow Hendrycks & Dietterich 2019 (ImageNet-C, CIFAR-10-C); the values are
ours, for images of about 32 pixels, and each severity is strictly harder than the one before:

| kind     | 1    | 2    | 3   | 4    | 5    | what the number is                                          |
|----------|------|------|-----|------|------|-------------------------------------------------------------|
| noise    | 0.04 | 0.06 | 0.1 | 0.15 | 0.2  | std of Gaussian noise on every value, of images in [0, 1]   |
| blur     | 0.5  | 0.7  | 1.0 | 1.4  | 2.0  | std of a Gaussian in pixels, borders mirrored               |
| jpeg     | 80   | 50   | 30  | 15   | 7    | quality, of 100                                             |
| contrast | 0.75 | 0.5  | 0.3 | 0.2  | 0.1  | what is left of the distance to the mean of each channel    |
"""

from io import BytesIO

import numpy as np
import torch
from PIL import Image
from scipy.ndimage import gaussian_filter
from torch import Tensor

from ssl_kd.errors import InputError, nearest
from ssl_kd.streams import generator

STRENGTHS = {
    "noise": (0.04, 0.06, 0.1, 0.15, 0.2),
    "blur": (0.5, 0.7, 1.0, 1.4, 2.0),
    "jpeg": (80, 50, 30, 15, 7),
    "contrast": (0.75, 0.5, 0.3, 0.2, 0.1),
}
KINDS = tuple(STRENGTHS)
SEVERITIES = (1, 2, 3, 4, 5)


def corrupt(images: Tensor, kind: str, severity: int, seed: int, start: int = 0) -> Tensor:
    """uint8 (N, C, H, W), grey or RGB, corrupted: a new tensor of the same shape, on the same device.

    start: the position of the first image in its data set. What becomes of an image is a function of the
    image, kind, severity, seed and its position, whatever else is in the batch; the noise of an image is the
    same at every severity, only louder. All of it happens on the CPU; the bytes of a JPEG are those of the
    Pillow installed. Raises InputError for an unknown kind or severity and for other images.
    """
    value = strength(kind, severity)
    if images.dtype != torch.uint8 or images.dim() != 4 or images.shape[1] not in (1, 3):
        found = f"{str(images.dtype).removeprefix('torch.')} {tuple(images.shape)}"
        raise InputError(f"what is corrupted must be uint8 (N, 1 or 3, H, W), not {found}")
    clean = images.cpu()
    worse = torch.empty_like(clean)
    for i, image in enumerate(clean):  # one by one: rounding may depend on what else is in a batch
        if kind == "noise":
            worse[i] = _noise(image, value, generator(seed, "corruption", kind, start + i))
        elif kind == "blur":
            worse[i] = _blur(image, value)
        elif kind == "jpeg":
            worse[i] = _jpeg(image, int(value))
        else:
            worse[i] = _contrast(image, value)
    return worse.to(images.device)


def strength(kind: str, severity: int) -> float:
    """The number in the table. Raises InputError where there is none."""
    if kind not in STRENGTHS:
        raise InputError(f'there is no corruption "{kind}"; {nearest(kind, list(KINDS))}')
    if severity not in SEVERITIES:
        raise InputError(f"the severity of a corruption must be 1, 2, 3, 4 or 5, not {severity}")
    return STRENGTHS[kind][int(severity) - 1]


def _noise(image: Tensor, std: float, stream: torch.Generator) -> Tensor:
    return _bytes(image + 255 * std * torch.randn(image.shape, generator=stream))


def _blur(image: Tensor, sigma: float) -> Tensor:
    blurred = gaussian_filter(image.numpy(), (0, sigma, sigma), mode="mirror", output=np.float32)
    return _bytes(torch.from_numpy(blurred))


def _jpeg(image: Tensor, quality: int) -> Tensor:
    pixels = image.permute(1, 2, 0).numpy()  # (H, W, C), of which Pillow wants no C for grey
    stored = BytesIO()
    Image.fromarray(pixels[:, :, 0] if pixels.shape[2] == 1 else pixels).save(stored, "JPEG", quality=quality)
    with Image.open(stored) as opened:
        decoded = np.array(opened).reshape(pixels.shape)
    return torch.from_numpy(decoded).permute(2, 0, 1)


def _contrast(image: Tensor, left: float) -> Tensor:
    mean = image.float().mean((1, 2), keepdim=True)  # (C, 1, 1)
    return _bytes(mean.lerp(image.float(), left))


def _bytes(image: Tensor) -> Tensor:
    return image.round_().clamp_(0, 255).to(torch.uint8)
