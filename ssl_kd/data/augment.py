"""Image operations on whole batches: every image has its own parameters, and none is looped over.

Images are float32 (N, C, H, W), parameters (N,) or (N, ...); what else is in the batch changes nothing. The
operations are those of torchvision's `transforms.v2.functional`, to rounding.
"""

import math
from collections.abc import Sequence
from typing import NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor

BRIGHTNESS, CONTRAST, SATURATION, HUE = range(4)  # torchvision's numbers


def crop_boxes(
    area: Tensor,
    aspect: Tensor,
    place: Tensor,
    height: int,
    width: int,
    scale: Sequence[float],
    ratio: Sequence[float],
) -> Tensor:
    """Boxes of a random resized crop, int64 (N, 4): top, left, height, width.

    area, aspect: float64 (N, A), uniform in [0, 1), one pair per attempt; the first box that fits wins; where
    none does, it is the largest central one of a permitted shape. place: float64 (N, 2), uniform.
    """
    target = height * width * (scale[0] + area * (scale[1] - scale[0]))
    low, high = math.log(ratio[0]), math.log(ratio[1])
    shape = torch.exp(low + aspect * (high - low))
    w, h = (target * shape).sqrt().round().long(), (target / shape).sqrt().round().long()  # (N, A)
    fits = (w > 0) & (w <= width) & (h > 0) & (h <= height)
    first = fits.int().argmax(1, keepdim=True)
    size = torch.cat([h.gather(1, first), w.gather(1, first)], 1)  # (N, 2)
    corner = (place * (torch.tensor([height, width]) - size + 1)).long()

    whole_h = min(height, round(width / ratio[0]))
    whole_w = min(width, round(height * ratio[1]))
    central = torch.tensor([(height - whole_h) // 2, (width - whole_w) // 2, whole_h, whole_w])
    return torch.where(fits.any(1, keepdim=True), torch.cat([corner, size], 1), central)


def resize_points(
    start: Tensor, length: Tensor, size: int, total: int, flip: Tensor | None = None
) -> tuple[Tensor, Tensor]:
    """Centres (N, size) of the new pixels and (N, total) of the old ones, for `resize_matrix`.

    The part [start, start + length) of a line of `total` pixels becomes `size` pixels, from its end if flip.
    The unit is the reach of a new pixel: one old pixel, or one new one if that is wider. Old pixels outside
    the part are infinitely far.
    """
    start, length = start[:, None].float(), length[:, None].float()
    out = torch.arange(size, device=start.device).expand(len(start), size)
    if flip is not None:
        out = torch.where(flip[:, None], size - 1 - out, out)
    step = length / size
    reach = step.clamp(min=1)
    new = (start + step * (out + 0.5)) / reach
    pixel = torch.arange(total, device=start.device) + 0.5
    outside = (pixel < start) | (pixel > start + length)
    return new, (pixel / reach).masked_fill(outside, math.inf)


def resize_matrix(new: Tensor, old: Tensor, unit: float = 1.0) -> Tensor:
    """(N, size, total): takes a line of pixels to its resized part; bilinear, with antialiasing.

    unit: what each row sums to; 1 / 255 takes bytes to [0, 1].
    """
    weight = (1 - (old[:, None] - new[..., None]).abs_()).clamp_(min=0)
    return weight.div_(weight.sum(-1, keepdim=True).div_(unit))


def resample(images: Tensor, rows: Tensor, columns: Tensor) -> Tensor:
    """(N, C, h, w) = rows @ images @ columns^T; in memory the channels come first.

    images: (N, C, H, W) of any type; rows: (N, h, H); columns: (N, w, W).
    """
    (n, channels, height, width), h, w = images.shape, rows.shape[1], columns.shape[1]
    lines = images.to(rows.dtype).reshape(n, channels * height, width)
    narrow = torch.bmm(lines, columns.mT).view(n, channels, height, w)
    planes = narrow.new_empty(channels, n, h, w)
    for channel in range(channels):
        torch.bmm(rows, narrow[:, channel], out=planes[channel])
    return planes.transpose(0, 1)


def rotate(x: Tensor, degrees: Tensor) -> Tensor:
    """Square images turned counter-clockwise about their centre; bilinear, black outside."""
    angle = degrees.float().deg2rad()
    cos, sin, zero = angle.cos(), angle.sin(), torch.zeros_like(angle)
    theta = torch.stack([cos, -sin, zero, sin, cos, zero], 1).view(-1, 2, 3)
    grid = F.affine_grid(theta.to(x.dtype), list(x.shape), align_corners=False)
    return F.grid_sample(x, grid, align_corners=False)


def luma(channels: int) -> list[float]:
    """The share of each channel in grey: ITU-R 601 for RGB, equal for any other number of channels."""
    return [0.2989, 0.587, 0.114] if channels == 3 else [1 / channels] * channels


def gray(x: Tensor) -> Tensor:
    """(N, 1, H, W): the weighted mean of the channels."""
    first, *others = luma(x.shape[1])
    mean = x[:, 0] * first
    for channel, share in enumerate(others, 1):
        mean.add_(x[:, channel], alpha=share)
    return mean.unsqueeze(1)


class Mixing(NamedTuple):
    """Colour jitter as `jitter` computes it; fields (N, ...), the first two for the three mixes in order."""

    mix: Tensor  # (N, 3, C, C)
    constant: Tensor  # (N, 3, C), times the mean of each channel
    hue_at: Tensor  # int64 (N,): the hue is turned before mix 0, 1 or 2, after them (3), or never (-1)
    turn: Tensor  # (N,), of the hue, in turns


def mixing(order: Tensor, factor: Tensor, channels: int) -> Mixing:
    """Brightness, contrast, saturation and hue, in each image's order; on the CPU, as its arguments.

    order: int64 (N, 4), permutations of the numbers above. factor: (N, 4); the first three multiply (1 does
    nothing), hue is added in turns (0 does nothing).

    The first three mix an image with black, its mean grey and its own grey: a product of its channels with a
    (C, C) matrix, and a constant.
    """
    if channels != 3:
        factor = torch.where(torch.arange(4) < SATURATION, factor, torch.tensor([1.0, 1.0, 1.0, 0.0]))
    mixes = order[order != HUE].view(-1, 3)
    keep = factor.gather(1, mixes)[..., None]  # (N, 3, 1)
    contrast, saturation = ((1 - keep) * (mixes == kind)[..., None] for kind in (CONTRAST, SATURATION))
    shares, same = torch.tensor(luma(channels)), torch.eye(channels)
    mix = same * keep[..., None] + shares * saturation[..., None]
    hue_at = (order == HUE).int().argmax(1)
    turn = factor[:, HUE]
    return Mixing(mix, contrast * shares, hue_at.where(turn != 0, -1), turn)


def jitter(x: Tensor, how: Mixing) -> Tensor:
    """Images after each mix and the turn of their hue, clamped to [0, 1] each time; may change x.

    Where all turn their hue at the same place, none is copied to be turned.
    """
    turn = how.turn.to(x)
    mix, constant = (field.to(x).transpose(0, 1) for field in (how.mix, how.constant))
    hue_at = int(how.hue_at[0]) if bool((how.hue_at == how.hue_at[0]).all()) else None
    for k in range(4):
        if k == hue_at:
            turn_hue(x, turn)
        elif hue_at is None:
            at = (how.hue_at == k).nonzero()[:, 0].to(x.device)
            x.index_copy_(0, at, turn_hue(x.index_select(0, at), turn[at]))
        if k < 3:
            added = (x.mean((2, 3)) * constant[k]).sum(1)[:, None, None]
            x = torch.baddbmm(added, mix[k], x.flatten(2)).view(x.shape).clamp_(0, 1)
    return x


def turn_hue(x: Tensor, shift: Tensor) -> Tensor:
    """Hue of RGB moved by `shift` turns, from [-1/2, 1/2]; value and chroma stay; changes x and returns it.

    With h in turns, |h| from red is (V - R + G + B - 2 min) / 6C, on green's side if G > B. Red is
    V - C * clamp(2 - |6h - 3|, 0, 1), green V - C * clamp(|6h - 2| - 1, 0, 1), blue the same about 4. Written
    without choosing among pixels, which costs a CPU more than all the rest, and in few planes of memory.
    """
    r, g, b = x.unbind(1)
    value, low = x.amax(1), x.amin(1)
    h = (value - r).add_(g).add_(b).sub_(low, alpha=2)
    side = g - b
    chroma = torch.sub(value, low, out=low)
    six = (6 * chroma).clamp_(min=1e-12)  # the hue of a grey pixel does not matter
    h.div_(six).copysign_(side).add_(shift[:, None, None] + 1).frac_()  # from [-1/2, 1/2] to [0, 1)
    torch.sub(h[:, None], torch.tensor([1 / 2, 1 / 3, 2 / 3]).to(x)[:, None, None], out=x)
    x.abs_().clamp_(1 / 6, 1 / 3)
    torch.addcmul(torch.sub(value, chroma, alpha=2, out=side), six, r, out=r)
    value.add_(chroma)
    torch.addcmul(value, six, g, value=-1, out=g)
    torch.addcmul(value, six, b, value=-1, out=b)
    return x


def solarize(x: Tensor) -> Tensor:
    """Pixels from 0.5 up are inverted."""
    return torch.minimum(x, 1 - x)


def blur(x: Tensor, sigma: Tensor, kernel: int) -> Tensor:
    """Gaussian blur of square images, `sigma` (N,) in pixels, `kernel` taps, mirrored at the borders."""
    size = x.shape[-1]
    tap = torch.arange(kernel, device=x.device) - kernel // 2
    weight = torch.exp(-0.5 * (tap / sigma[:, None]).square())  # (N, kernel)
    weight = weight / weight.sum(1, keepdim=True)
    source = mirrored(torch.arange(size, device=x.device)[:, None] + tap, size)  # (size, kernel)
    matrix = torch.zeros(len(x), size, size, device=x.device, dtype=x.dtype)
    matrix.scatter_add_(2, source.expand(len(x), size, kernel), weight[:, None].expand(-1, size, -1))
    return resample(x, matrix, matrix)


def mirrored(position: Tensor, size: int) -> Tensor:
    """Positions up to size - 1 beyond the ends, reflected into [0, size); the end itself is not repeated."""
    return (size - 1) - ((size - 1) - position.abs()).abs()


def quarter_turns(views: Tensor) -> Tensor:
    """The first of the views (V, B, C, S, S), turned left by 0 to 3 quarters: (4, B, C, S, S)."""
    return torch.stack([views[0].rot90(quarters, (-2, -1)) for quarters in range(4)])
