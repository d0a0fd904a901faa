"""One entry of views: uniform numbers for the rows of the global batch, the parameters they mean, the pixels.

Every random number is drawn on the CPU for the rows of the global batch, from a stream of a name, and cut to
this process's rows: so a row's views do not depend on the number of processes, nor on which other streams
there are (on a CPU to the last bit; a GPU may choose another kernel for another number of rows).
"""

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from itertools import pairwise
from typing import Any, NamedTuple

import torch
from torch import Tensor

from ssl_kd.data import augment
from ssl_kd.streams import generator

# Uniform numbers of one view: ten attempts at a crop (area, aspect) and its place; flip; rotation; order of
# the colour operations, whether, how much; grey; blur and its sigma; solarize. All are always drawn, so that
# switching one operation on does not change another's numbers.
DRAWS = (10, 10, 2, 1, 1, 4, 1, 4, 1, 1, 1, 1)
NO_CHANGE = torch.tensor([1.0, 1.0, 1.0, 0.0])  # brightness, contrast, saturation, hue
CACHE_BYTES = 1 << 21  # of views that a thread of a CPU makes together, so that they stay in its cache
DEVICE_BYTES = 1 << 28  # and an accelerator, so that what lies between takes little of its memory


class Parameters(NamedTuple):
    """What happens to each view, in this order; fields (V, B, ...), or (V * B, ...) to apply; on the CPU."""

    box: Tensor  # int64 (..., 4), of the crop in the image: top, left, height, width
    flip: Tensor  # bool, left to right
    degrees: Tensor  # of the rotation, counter-clockwise
    order: Tensor  # int64 (..., 4), of the colour operations, by torchvision's numbers
    factor: Tensor  # (..., 4): brightness, contrast, saturation; hue in turns; NO_CHANGE without jitter
    gray: Tensor  # bool
    sigma: Tensor  # of the blur, in pixels; 0 for none
    solarize: Tensor  # bool


@dataclass(frozen=True)
class Views:
    """How the views of one entry are made; the options are those of `Recipe`, for views of one size.

    chance: of flip, jitter, gray, blur and solarize, float64 (V, 1) each.
    factors: (2, 4), the least and the largest of each colour operation.
    """

    size: int
    scale: Sequence[float]
    ratio: Sequence[float]
    rotate: float
    chance: Mapping[str, Tensor]
    factors: Tensor
    blur_sigma: Sequence[float]
    noise: float

    def __call__(self, batch: Mapping[str, Any], *name: int | str) -> Tensor:
        """Views (V, B, C, size, size) of the batch's images, by the stream of this name."""
        images, row = batch["image"], batch["row"].cpu()
        drawn, stream = self.draw(batch["rows"], *name)
        x = self.apply(images, self.parameters(drawn[row], *images.shape[2:]))
        if self.noise > 0:
            noise = torch.randn(*drawn.shape[:2], *x.shape[2:], generator=stream)[row].transpose(0, 1)
            x.add_(noise.to(x.device), alpha=self.noise).clamp_(0, 1)
        return x

    def draw(self, rows: int, *name: int | str) -> tuple[Tensor, torch.Generator]:
        """Uniform numbers of the global batch, float64 (rows, V, sum(DRAWS)), and their stream, for more."""
        stream, views = generator(*name), len(self.chance["flip"])
        first = torch.rand(rows, views, sum(DRAWS) - 1, generator=stream, dtype=torch.float64)
        # A stream of its own: a recipe from before solarizing makes the same views still.
        last = torch.rand(rows, views, 1, generator=generator(*name, "solarize"), dtype=torch.float64)
        return torch.cat([first, last], 2), stream

    def parameters(self, drawn: Tensor, height: int, width: int) -> Parameters:
        """What uniform numbers (B, V, sum(DRAWS)) mean for images of this height and width."""
        b, v = drawn.shape[:2]
        numbers = drawn.transpose(0, 1).split(DRAWS, 2)  # (V, B, ...) each
        area, aspect, place, flip, turn, order, jitter, factor, gray, blur, sigma, solarize = numbers
        area, aspect, place = (part.flatten(0, 1) for part in (area, aspect, place))
        low, high = self.factors
        return Parameters(
            box=augment.crop_boxes(area, aspect, place, height, width, self.scale, self.ratio).view(v, b, 4),
            flip=flip[..., 0] < self.chance["flip"],
            degrees=((2 * turn[..., 0] - 1) * self.rotate).float(),
            order=order.argsort(2),
            factor=torch.where(
                jitter < self.chance["jitter"][..., None], low + factor.float() * (high - low), NO_CHANGE
            ),
            gray=gray[..., 0] < self.chance["gray"],
            sigma=torch.where(
                blur[..., 0] < self.chance["blur"],
                self.blur_sigma[0] + sigma[..., 0].float() * (self.blur_sigma[1] - self.blur_sigma[0]),
                0.0,
            ),
            solarize=solarize[..., 0] < self.chance["solarize"],
        )

    def apply(self, images: Tensor, parameters: Parameters) -> Tensor:
        """Views (V, B, C, size, size) in [0, 1] of uint8 images (B, C, H, W)."""
        (b, channels, height, width), device = images.shape, images.device
        flat = Parameters(*(field.flatten(0, 1) for field in parameters))
        how = augment.mixing(flat.order, flat.factor, channels)
        x = torch.empty(len(flat.flip), channels, self.size, self.size, device=device)
        pixels = max(images[0].numel(), x[0].numel())
        place, parts = _parts(how.hue_at, pixels, device)
        flat = Parameters(*(field[place] for field in flat))
        how = augment.Mixing(*(field[place] for field in how))
        place = place.to(device)
        top, left, h, w = flat.box.to(device).unbind(1)
        new_rows, rows = augment.resize_points(top, h, self.size, height)
        new_columns, columns = augment.resize_points(left, w, self.size, width, flat.flip.to(device))
        for part in parts:
            y = augment.resample(
                images.index_select(0, place[part] % b),
                augment.resize_matrix(new_rows[part], rows[part]),
                augment.resize_matrix(new_columns[part], columns[part], unit=1 / 255),
            )
            some = Parameters(*(field[part] for field in flat))
            y = self._finished(y, some, augment.Mixing(*(field[part] for field in how)))
            x.index_copy_(0, place[part], y.clamp_(0, 1))
        return x.unflatten(0, (-1, b))

    def _finished(self, x: Tensor, parameters: Parameters, how: augment.Mixing) -> Tensor:
        """Crops (N, C, size, size) after what follows the crop; to rounding in [0, 1]."""
        _, _, degrees, _, factor, gray, sigma, solarize = parameters
        if bool(degrees.any()):
            x = augment.rotate(x, degrees.to(x.device))
        # Clamped either way, so that a view's last bit does not depend on whom it is made with.
        x = augment.jitter(x, how) if bool((factor != NO_CHANGE).any()) else x.clamp_(0, 1)
        at = gray.nonzero()[:, 0].to(x.device)
        if len(at) and x.shape[1] == 3:
            x.index_copy_(0, at, augment.gray(x.index_select(0, at)).expand(-1, 3, -1, -1))
        kernel, blurred = 2 * (self.size // 10 // 2) + 1, sigma.nonzero()[:, 0]
        if len(blurred) and kernel > 1:
            at = blurred.to(x.device)
            x.index_copy_(0, at, augment.blur(x.index_select(0, at), sigma[blurred].to(x.device), kernel))
        at = solarize.nonzero()[:, 0].to(x.device)
        if len(at):
            x.index_copy_(0, at, augment.solarize(x.index_select(0, at)))
        return x


def _parts(hue_at: Tensor, pixels: int, device: torch.device) -> tuple[Tensor, list[slice]]:
    """An order of the views, and the parts of it to be made together, each of about as many views.

    On a CPU a part has views that turn their hue at the same place among the colour operations: then `jitter`
    copies none to be turned. pixels: of one view or of its image, whichever has more.
    """
    cpu = device.type == "cpu"
    most = max(1, (CACHE_BYTES * torch.get_num_threads() if cpu else DEVICE_BYTES) // (4 * pixels))
    kind = hue_at + 1 if cpu else torch.zeros_like(hue_at)
    parts = []
    for start, end in pairwise([0, *kind.bincount().cumsum(0).tolist()]):
        if end > start:
            size = math.ceil((end - start) / math.ceil((end - start) / most))
            parts += [slice(i, min(i + size, end)) for i in range(start, end, size)]
    return kind.argsort(stable=True), parts
