"""Recipes: from a raw batch to its views, all images at once, on the batch's device, float32 in [0, 1].

Normalising is the networks' business. Every random number is drawn on the CPU for the rows of the global
batch, from a stream named by (seed, stream, step), and cut to this process's rows: so a row's views do not
depend on the number of processes, nor on which other streams there are (on a CPU to the last bit; a GPU may
choose another kernel for another number of rows).
"""

from collections.abc import Mapping, Sequence
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

from ssl_kd.data import augment
from ssl_kd.errors import InputError
from ssl_kd.streams import generator

# Uniform numbers of one view: ten attempts at a crop (area, aspect) and its place; flip; rotation; order of
# the colour operations, whether, how much; grey; blur and its sigma. One draw for all, so that switching one
# operation on does not change another's numbers.
DRAWS = (10, 10, 2, 1, 1, 4, 1, 4, 1, 1, 1)
NO_CHANGE = torch.tensor([1.0, 1.0, 1.0, 0.0])  # brightness, contrast, saturation, hue
CACHE_BYTES = 1 << 20  # a CPU works on as many views at once as stay in its cache


class Recipe:
    """Random resized crop, flip, rotation, colour jitter, grey, blur, noise: the views of SimCLR and its kin.

    size: of a view in pixels. scale, ratio: area of the crop as a part of the image, and width / height.
    flip, jitter, gray, blur: probabilities. rotate: degrees, to both sides.
    brightness, contrast, saturation: factors from [max(0, 1 - x), 1 + x]; hue: from [-x, x], in turns.
    blur_sigma: pixels; the kernel is SimCLR's, a tenth of the view: below 20 pixels nothing is blurred.
    noise: standard deviation of Gaussian noise.
    streams: names (of peers) that get views of their own, as "views_<name>", instead of shared "views".

    Chen et al. 2020 (SimCLR), appendix A, in torchvision's form: bilinear instead of bicubic, contrast about
    the mean of the grey image, a sigma for every image. Images that are not RGB get brightness and contrast
    only.
    """

    def __init__(
        self,
        size: int,
        *,
        views: int = 2,
        scale: Sequence[float] = (0.08, 1.0),
        ratio: Sequence[float] = (3 / 4, 4 / 3),
        flip: float = 0.5,
        rotate: float = 0.0,
        brightness: float = 0.0,
        contrast: float = 0.0,
        saturation: float = 0.0,
        hue: float = 0.0,
        jitter: float = 0.8,
        gray: float = 0.0,
        blur: float = 0.0,
        blur_sigma: Sequence[float] = (0.1, 2.0),
        noise: float = 0.0,
        streams: Sequence[str] = (),
        seed: int = 0,
    ):
        _check(size >= 1, "size", size, "at least 1 pixel")
        _check(views >= 1, "views", views, "at least 1")
        _check(0 < scale[0] <= scale[1] <= 1, "scale", scale, "two rising numbers in (0, 1]")
        _check(0 < ratio[0] <= ratio[1], "ratio", ratio, "two rising numbers above 0")
        _check(0 < blur_sigma[0] <= blur_sigma[1], "blur_sigma", blur_sigma, "two rising numbers above 0")
        _check(0 <= hue <= 0.5, "hue", hue, "in [0, 0.5]")
        for name, p in {"flip": flip, "jitter": jitter, "gray": gray, "blur": blur}.items():
            _check(0 <= p <= 1, name, p, "a probability")
        strengths = {"brightness": brightness, "contrast": contrast, "saturation": saturation}
        for name, strength in {**strengths, "rotate": rotate, "noise": noise}.items():
            _check(strength >= 0, name, strength, "at least 0")
        _check(len(set(streams)) == len(streams), "streams", list(streams), "names that differ")
        self.size, self.views, self.streams, self.seed = size, views, tuple(streams), seed
        self.scale, self.ratio, self.flip, self.rotate = scale, ratio, flip, rotate
        self.jitter, self.gray, self.blur, self.blur_sigma, self.noise = jitter, gray, blur, blur_sigma, noise
        low = [max(0.0, 1 - s) for s in strengths.values()] + [-hue]
        high = [1 + s for s in strengths.values()] + [hue]
        self.factors = torch.tensor([low, high])  # (2, 4)

    def __call__(self, batch: Mapping[str, Any], index: int) -> dict[str, Any]:
        """The batch without "image" and with views (V, B, C, size, size); `index` is the optimiser step."""
        out = {key: value for key, value in batch.items() if key != "image"}
        for name in self.streams or ("",):
            stream = generator(self.seed, "views", name, index)
            out[f"views_{name}" if name else "views"] = self._views(batch, stream)
        return out

    def _views(self, batch: Mapping[str, Any], stream: torch.Generator) -> Tensor:
        images, rows, row = batch["image"], batch["rows"], batch["row"].cpu()
        (b, channels), v = images.shape[:2], self.views
        drawn = torch.rand(rows, v, sum(DRAWS), generator=stream, dtype=torch.float64)[row]
        x = torch.empty(v, b, channels, self.size, self.size, device=images.device)
        part = max(1, CACHE_BYTES * b // (x.nelement() * x.element_size())) if x.device.type == "cpu" else b
        for i in range(0, b, part):
            x[:, i : i + part] = self.apply(images[i : i + part], drawn[i : i + part])
        if self.noise > 0:
            noise = torch.randn(rows, v, *x.shape[2:], generator=stream)[row].transpose(0, 1)
            x.add_(noise.to(x.device), alpha=self.noise).clamp_(0, 1)
        return x

    def apply(self, images: Tensor, drawn: Tensor) -> Tensor:
        """Views (V, B, C, size, size) of uint8 images (B, C, H, W), by uniform numbers (B, V, 36)."""
        (b, channels, height, width), v, device = images.shape, self.views, images.device
        numbers = drawn.transpose(0, 1).flatten(0, 1).split(DRAWS, 1)  # (V * B, ...) each
        area, aspect, place, flip, turn, order, jitter, factor, gray, blur, sigma = numbers

        boxes = augment.crop_boxes(area, aspect, place, height, width, self.scale, self.ratio)
        top, left, h, w = boxes.to(device).unbind(1)
        rows = augment.resize_matrix(top, h, self.size, height)
        columns = augment.resize_matrix(left, w, self.size, width, (flip[:, 0] < self.flip).to(device)) / 255
        rows, columns = (matrix.unflatten(0, (v, b)).transpose(0, 1) for matrix in (rows, columns))
        x = augment.resample(images, rows, columns).flatten(0, 1).clamp_(0, 1)  # (V * B, C, size, size)
        if self.rotate > 0:
            x = augment.rotate(x, ((2 * turn[:, 0] - 1) * self.rotate).to(device))
        low, high = self.factors
        if self.jitter > 0 and bool((low != high).any()):
            chosen = low + factor.float() * (high - low)
            x = augment.jitter(x, order.argsort(1), chosen.where(jitter < self.jitter, NO_CHANGE))
        if self.gray > 0 and channels == 3:
            at = (gray[:, 0] < self.gray).nonzero()[:, 0].to(device)
            x[at] = augment.gray(x[at]).expand(-1, channels, -1, -1)
        kernel = 2 * (self.size // 10 // 2) + 1
        if self.blur > 0 and kernel > 1:
            at = (blur[:, 0] < self.blur).nonzero()[:, 0]
            pixels = self.blur_sigma[0] + sigma[at, 0].float() * (self.blur_sigma[1] - self.blur_sigma[0])
            x[at.to(device)] = augment.blur(x[at.to(device)], pixels.to(device), kernel)
        return x.unflatten(0, (v, b))


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
            whole = augment.resize_matrix(torch.zeros(1), torch.full((1,), total), size, total)[0]
            lines.append(whole[at[:, axis]].to(device)[:, None])  # (B, 1, size, total)
        views = augment.resample(images, lines[0], lines[1] / 255).clamp_(0, 1)
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


def _check(good: bool, name: str, value: object, wanted: str) -> None:
    if not good:
        raise InputError(f"{name} must be {wanted}, not {value}")
