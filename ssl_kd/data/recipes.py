"""Recipes: from a raw batch to its views, all images at once, on the batch's device, float32 in [0, 1].

Normalising is the networks' business. What is random is a function of (seed, stream, step, row of the global
batch) alone: see `ssl_kd.data.views`.
"""

from collections.abc import Callable, Mapping, Sequence
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

from ssl_kd.data import augment
from ssl_kd.data.extra import extend
from ssl_kd.data.views import Views
from ssl_kd.errors import InputError
from ssl_kd.streams import generator


class Recipe:
    """Crop, flip, rotation, colour jitter, grey, blur, solarize, noise: the views of SimCLR, BYOL and SwAV.

    size: of a view in pixels. scale, ratio: area of the crop as a part of the image, and width / height.
    flip, jitter, gray, blur, solarize: probabilities; one number, or one for each view.
    rotate: degrees, to both sides.
    brightness, contrast, saturation: factors from [max(0, 1 - x), 1 + x]; hue: from [-x, x], in turns.
    blur_sigma: pixels; the kernel is SimCLR's, a tenth of the view: below 20 pixels nothing is blurred.
    noise: standard deviation of Gaussian noise.
    extra: modules (N, C, H, W) -> the same shape, applied to each view after all these, in order; kornia's
        augmentations are such. They draw by torch, for 64 images of the global batch at a time.
    local_views: so many small views more, as "views_local". Their size is `local_size` of `size`, their crops
        from `local_scale` of the image up to the smallest of the others, `scale[0]`. A list of probabilities
        has the local views at its end.
    streams: names (of peers) that get views of their own, as "views_<name>", instead of shared "views"; local
        ones as "views_local_<name>".

    Chen et al. 2020 (SimCLR), appendix A, in torchvision's form: bilinear instead of bicubic, contrast about
    the mean of the grey image, a sigma for every image. Solarizing is that of Grill et al. 2020 (BYOL), local
    views are those of Caron et al. 2020 (SwAV). Images that are not RGB get no saturation, hue or grey.
    """

    def __init__(
        self,
        size: int,
        *,
        views: int = 2,
        scale: Sequence[float] = (0.08, 1.0),
        ratio: Sequence[float] = (3 / 4, 4 / 3),
        flip: float | Sequence[float] = 0.5,
        rotate: float = 0.0,
        brightness: float = 0.0,
        contrast: float = 0.0,
        saturation: float = 0.0,
        hue: float = 0.0,
        jitter: float | Sequence[float] = 0.8,
        gray: float | Sequence[float] = 0.0,
        blur: float | Sequence[float] = 0.0,
        blur_sigma: Sequence[float] = (0.1, 2.0),
        solarize: float | Sequence[float] = 0.0,
        noise: float = 0.0,
        extra: Sequence[Callable[[Tensor], Tensor]] = (),
        local_views: int = 0,
        local_size: float = 3 / 7,
        local_scale: float = 0.05,
        streams: Sequence[str] = (),
        seed: int = 0,
    ):
        _check(size >= 1, "size", size, "at least 1 pixel")
        _check(views >= 1, "views", views, "at least 1")
        _check_rising("scale", scale, most=1.0)
        _check_rising("ratio", ratio)
        _check_rising("blur_sigma", blur_sigma)
        _check(0 <= hue <= 0.5, "hue", hue, "in [0, 0.5]")
        strengths = {"brightness": brightness, "contrast": contrast, "saturation": saturation}
        for name, strength in {**strengths, "rotate": rotate, "noise": noise}.items():
            _check(strength >= 0, name, strength, "at least 0")
        _check(local_views >= 0, "local_views", local_views, "at least 0")
        _check(0 < local_size <= 1, "local_size", local_size, "a part of the size, in (0, 1]")
        if local_views:
            _check(
                0 < local_scale <= scale[0], "local_scale", local_scale, f"in (0, {scale[0]}], up to scale[0]"
            )
        _check(len(set(streams)) == len(streams), "streams", list(streams), "names that differ")
        listed = extra if isinstance(extra, list | tuple) else [extra]
        odd = [module for module in listed if not callable(module)]
        _check(not odd, "extra", odd, "modules that take images (N, C, H, W)")
        given = {"flip": flip, "jitter": jitter, "gray": gray, "blur": blur, "solarize": solarize}
        chance = {name: _chances(name, value, views + local_views) for name, value in given.items()}
        low = [max(0.0, 1 - s) for s in strengths.values()] + [-hue]
        high = [1 + s for s in strengths.values()] + [hue]
        shared: dict[str, Any] = dict(ratio=ratio, rotate=rotate, blur_sigma=blur_sigma, noise=noise)
        shared["factors"] = torch.tensor([low, high])
        whole = {name: p[:views] for name, p in chance.items()}
        self.entries = {"views": Views(size, scale, chance=whole, **shared)}
        if local_views:
            local = {name: p[views:] for name, p in chance.items()}
            small = max(1, round(local_size * size))
            self.entries["views_local"] = Views(small, (local_scale, scale[0]), chance=local, **shared)
        self.extra, self.streams, self.seed = tuple(listed), tuple(streams), seed

    def __call__(self, batch: Mapping[str, Any], index: int) -> dict[str, Any]:
        """The batch without "image" and with views (V, B, C, size, size); `index` is the optimiser step."""
        out = {key: value for key, value in batch.items() if key != "image"}
        row, rows = batch["row"].cpu(), batch["rows"]
        for name in self.streams or ("",):
            for entry, make in self.entries.items():
                stream = (self.seed, entry, name, index)
                views = make(batch, *stream)
                for number, view in enumerate(views if self.extra else ()):
                    view.copy_(extend(view, self.extra, row, rows, *stream, "extra", number))
                out[f"{entry}_{name}" if name else entry] = views
        return out


class Supervised:
    """One view: the image (resized if need be) moved by up to `pad` pixels, borders mirrored, then flipped.

    Zhang et al. 2018 (DML) for CIFAR. cutout: edge of a square of mid-grey laid at a random place (DeVries &
    Taylor 2017), 0 for none. Adds "views" (1, B, C, size, size).
    """

    def __init__(self, size: int, *, pad: int = 4, flip: float = 0.5, cutout: int = 0, seed: int = 0):
        _check(size >= 1, "size", size, "at least 1 pixel")
        _check(0 <= pad < size, "pad", pad, f"in [0, {size}), less than the size")
        _check(0 <= flip <= 1, "flip", flip, "a probability")
        _check(cutout >= 0, "cutout", cutout, "at least 0")
        self.size, self.pad, self.flip, self.cutout, self.seed = size, pad, flip, cutout, seed

    def __call__(self, batch: Mapping[str, Any], index: int) -> dict[str, Any]:
        images, stream = batch["image"], generator(self.seed, "views", "", index)
        size, device = self.size, images.device
        drawn = torch.rand(batch["rows"], 5, generator=stream, dtype=torch.float64)[batch["row"].cpu()]
        shift = ((2 * self.pad + 1) * drawn[:, :2]).long() - self.pad  # (B, 2)
        at = augment.mirrored(torch.arange(size) + shift[..., None], size)  # (B, 2, size)
        at[:, 1] = at[:, 1].flip(1).where(drawn[:, 2:3] < self.flip, at[:, 1])
        lines = []
        for axis, total in enumerate(images.shape[2:]):
            points = augment.resize_points(torch.zeros(1), torch.full((1,), total), size, total)
            whole = augment.resize_matrix(*points)[0]
            lines.append(whole[at[:, axis]].to(device))  # (B, size, total)
        views = augment.resample(images, lines[0], lines[1] / 255).contiguous().clamp_(0, 1)[None]
        if self.cutout:
            first = (drawn[:, 3:5] * size).long() - self.cutout // 2  # (B, 2)
            line = torch.arange(size)
            inside = (line >= first[..., None]) & (line < first[..., None] + self.cutout)  # (B, 2, size)
            hole = inside[:, 0, :, None] & inside[:, 1, None, :]
            views = views.masked_fill(hole[:, None].to(device), 0.5)
        return {**{k: v for k, v in batch.items() if k != "image"}, "views": views}


class Plain:
    """No augmentation, for probes: uint8 (B, C, H, W) -> float32 (B, C, size, size), antialiased bilinear."""

    def __init__(self, size: int):
        _check(size >= 1, "size", size, "at least 1 pixel")
        self.size = size

    def __call__(self, images: Tensor) -> Tensor:
        x = images.float() / 255
        if x.shape[2:] == (self.size, self.size):
            return x
        return F.interpolate(x, (self.size, self.size), mode="bilinear", antialias=True).clamp_(0, 1)


class Fixed:
    """One view: the image, resized if need be. Adds "views" (1, B, C, size, size)."""

    fixed = True  # the views are a function of the image alone, so what a frozen peer says of them is too

    def __init__(self, size: int):
        self.plain = Plain(size)

    def __call__(self, batch: Mapping[str, Any], index: int) -> dict[str, Any]:
        views = self.plain(batch["image"])[None]
        return {**{key: value for key, value in batch.items() if key != "image"}, "views": views}


def _check(good: bool, name: str, value: object, wanted: str) -> None:
    if not good:
        raise InputError(f"{name} must be {wanted}, not {value}")


def _check_rising(name: str, ends: object, most: float = float("inf")) -> None:
    numbers = ends if isinstance(ends, list | tuple) and all(isinstance(e, int | float) for e in ends) else ()
    good = len(numbers) == 2 and 0 < numbers[0] <= numbers[1] <= most
    _check(good, name, ends, "two rising numbers " + ("above 0" if most == float("inf") else "in (0, 1]"))


def _chances(name: str, value: float | Sequence[float], views: int) -> Tensor:
    """A probability, or one for each view -> float64 (views, 1)."""
    listed = [value] * views if isinstance(value, int | float) else list(value)
    _check(len(listed) == views, name, list(listed), f"one probability, or one for each of the {views} views")
    for p in listed:
        _check(0 <= p <= 1, name, p, "a probability")
    return torch.tensor(listed, dtype=torch.float64)[:, None]
