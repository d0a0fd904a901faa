"""Image operations on whole batches: every image has its own parameters, and none is looped over.

Images are float32 (N, C, H, W), parameters (N,) or (N, ...); what else is in the batch changes nothing. The
operations are those of torchvision's `transforms.v2.functional`, to rounding.
"""

import math
from collections.abc import Sequence

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


def resize_matrix(start: Tensor, length: Tensor, size: int, total: int, flip: Tensor | None = None) -> Tensor:
    """(N, size, total): takes a line of `total` pixels to its part [start, start + length), resized.

    Bilinear; when shrinking, the triangle is as much wider (antialias). Pixels outside the part do not count.
    """
    start, length = start[:, None].float(), length[:, None].float()
    out = torch.arange(size, device=start.device).expand(len(start), size)
    if flip is not None:
        out = torch.where(flip[:, None], size - 1 - out, out)
    step = length / size
    centre = start + step * (out + 0.5)  # (N, size)
    pixel = torch.arange(total, device=start.device) + 0.5
    weight = (1 - (pixel - centre[..., None]).abs() / step.clamp(min=1)[..., None]).clamp_(min=0)
    weight *= ((pixel > start) & (pixel < start + length))[:, None]
    return weight / weight.sum(-1, keepdim=True)


def resample(images: Tensor, rows: Tensor, columns: Tensor) -> Tensor:
    """V views of each image, (V, B, C, h, w) = rows @ image @ columns^T.

    images: (B, C, H, W) of any type; rows: (B, V, h, H); columns: (B, V, w, W).
    """
    (b, c, height, width), (v, h, w) = images.shape, (*rows.shape[1:3], columns.shape[2])
    lines = images.permute(0, 2, 1, 3).to(rows.dtype).reshape(b, height, c * width)
    lines = torch.bmm(rows.reshape(b, v * h, height), lines)  # (B, V * h, C * W)
    views = torch.bmm(lines.view(b * v, h * c, width), columns.reshape(b * v, w, width).mT)
    return views.view(b, v, h, c, w).permute(1, 0, 3, 2, 4).contiguous()


def rotate(x: Tensor, degrees: Tensor) -> Tensor:
    """Square images turned counter-clockwise about their centre; bilinear, black outside."""
    angle = degrees.float().deg2rad()
    cos, sin, zero = angle.cos(), angle.sin(), torch.zeros_like(angle)
    theta = torch.stack([cos, -sin, zero, sin, cos, zero], 1).view(-1, 2, 3)
    grid = F.affine_grid(theta, list(x.shape), align_corners=False)
    return F.grid_sample(x, grid, align_corners=False)


def gray(x: Tensor) -> Tensor:
    """(N, 1, H, W): luma (ITU-R 601) of RGB, the mean of any other number of channels."""
    if x.shape[1] != 3:
        return x.mean(1, keepdim=True)
    return (x[:, 0] * 0.2989 + x[:, 1] * 0.587 + x[:, 2] * 0.114).unsqueeze(1)


def jitter(x: Tensor, order: Tensor, factor: Tensor) -> Tensor:
    """Brightness, contrast, saturation, hue, in each image's order, clamped to [0, 1] after each; changes x.

    order: int64 (N, 4), permutations of the numbers above. factor: (N, 4); the first three multiply (1 does
    nothing), hue is added in turns (0 does nothing). Both on the CPU: choosing images waits for no device.
    """
    colour = x.shape[1] == 3
    for operation in order.unbind(1):  # (N,), what each image gets now
        keep = factor.gather(1, operation[:, None])
        blended = operation[:, None] == torch.tensor([BRIGHTNESS, CONTRAST, SATURATION])  # (N, 3)
        if not colour:
            blended[:, SATURATION] = False
        keep = keep.where(blended.any(1, keepdim=True), 1.0)
        weights = torch.cat([keep, blended * (1 - keep)], 1).to(x)  # of the image; of black, mean and grey
        keep, _, contrast, saturation = weights.T[..., None, None, None]
        luma = gray(x)
        towards = luma * saturation + luma.mean((2, 3), keepdim=True) * contrast
        x.mul_(keep).add_(towards).clamp_(0, 1)
        turned = ((operation == HUE) & (factor[:, HUE] != 0) & colour).nonzero()[:, 0]
        if len(turned):
            at = turned.to(x.device)
            x[at] = turn_hue(x[at], factor[turned, HUE].to(x))
    return x


def turn_hue(x: Tensor, shift: Tensor) -> Tensor:
    """Hue moved by `shift` turns; with h in [0, 6), red is V - C * clamp(2 - |h - 3|, 0, 1)."""
    r, g, b = x.unbind(1)
    value, low = torch.maximum(torch.maximum(r, g), b), torch.minimum(torch.minimum(r, g), b)
    chroma = value - low
    safe = chroma.clamp(min=1e-12)  # the hue of a grey pixel does not matter
    from_green = torch.where(g == value, (b - r) / safe + 2, (r - g) / safe + 4)
    h = torch.where(r == value, (g - b) / safe, from_green) + 6 * shift[:, None, None]
    h -= 6 * (h / 6).floor()
    centre, sign, bias = torch.tensor([[3.0, 2, 4], [-1, 1, 1], [2, -1, -1]]).to(x)[..., None, None]
    lack = (h[:, None] - centre).abs_().mul_(sign).add_(bias).clamp_(0, 1)
    return value[:, None] - chroma[:, None] * lack


def blur(x: Tensor, sigma: Tensor, kernel: int) -> Tensor:
    """Gaussian blur of square images, `sigma` (N,) in pixels, `kernel` taps, mirrored at the borders."""
    size = x.shape[-1]
    tap = torch.arange(kernel, device=x.device) - kernel // 2
    weight = torch.exp(-0.5 * (tap / sigma[:, None]).square())  # (N, kernel)
    weight = weight / weight.sum(1, keepdim=True)
    source = mirrored(torch.arange(size, device=x.device)[:, None] + tap, size)  # (size, kernel)
    matrix = torch.zeros(len(x), size, size, device=x.device, dtype=x.dtype)
    matrix.scatter_add_(2, source.expand(len(x), size, kernel), weight[:, None].expand(-1, size, -1))
    return resample(x, matrix[:, None], matrix[:, None])[0]


def mirrored(position: Tensor, size: int) -> Tensor:
    """Positions up to size - 1 beyond the ends, reflected into [0, size); the end itself is not repeated."""
    return (size - 1) - ((size - 1) - position.abs()).abs()
