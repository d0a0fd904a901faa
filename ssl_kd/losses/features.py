"""Losses between feature maps, and the attention shift that keeps peers apart (Li et al. 2022, FFSD)."""

import math

import torch
import torch.nn.functional as F
from torch import Tensor

from ssl_kd.errors import InputError
from ssl_kd.losses.fused import mean_square, unit_distance
from ssl_kd.losses.needs import needs_width
from ssl_kd.losses.rows import check_shapes, full, unit


def attention(maps: Tensor) -> Tensor:
    """Where a map is active: the mean over channels of its squares.

    maps: (..., C, H, W). Returns (..., H, W), in full precision.
    Source: Li et al. 2022 (FFSD), after Zagoruyko & Komodakis 2017.
    """
    return mean_square(maps, -3)


def feature_distance(student: Tensor, teacher: Tensor) -> Tensor:
    """Squared distance of whole maps, each sample at length 1: the mean over all elements, not their sum.

    student, teacher: (..., C, H, W), equal shapes.
    Source: Li et al. 2022 (FFSD), the authors' D. The mean hides a factor 1 / (C * H * W), hence weights like
    1000.
    """
    check_shapes("the feature distance", student, teacher)
    return unit_distance(student, teacher, (-3, -2, -1)).mean() / math.prod(student.shape[-3:])


@needs_width(2)
def cosine_distance(student: Tensor, teacher: Tensor) -> Tensor:
    """1 - cos of each row with the teacher's, mean over all rows.

    student, teacher: (..., D), equal shapes. Source: Iscen et al. 2021 (Class-balanced distillation), L_FD.
    """
    check_shapes("the cosine distance", student, teacher)
    return 1 - (unit(student) * unit(teacher)).sum(-1).mean()


def attention_distance(student: Tensor, teacher: Tensor) -> Tensor:
    """Squared distance of two attentions, each sample at length 1, mean over all elements.

    student, teacher: (..., C, H, W); C may differ. Where the grids differ, the attention of the larger one is
        brought to the smaller (H, W) by adaptive average pooling, which the source does not need.
    Source: Li et al. 2022 (FFSD), the authors' D of attentions. The mean hides a factor 1 / (H * W).
    Raises InputError for maps of one place, whose attention at length 1 is 1 whatever they show.
    """
    a, b = _attentions(student, teacher)  # (..., H * W) both
    if a.shape[-1] < 2:
        raise InputError(
            "the attention distance compares where maps are active, and learns nothing from maps of 1 x 1; "
            "take a larger data.size, or the maps of an earlier stage"
        )
    return unit_distance(a, b, (-1,)).mean() / a.shape[-1]


def diversity(student: Tensor, previous: Tensor) -> Tensor:
    """Pulls the student's attention to where that of the previous student is weak; mean over all elements.

    student, previous: (..., C, H, W) with H * W >= 3; C may differ, and grids as in `attention_distance`: the
        shift is computed on the smaller one.
    The student's side has length 1 per sample, the target has not: the pull grows with the previous student's
    features, and only a weight like 1e-5 tames it.
    Source: Li et al. 2022 (FFSD), as in the authors' code.
    """
    a, b = _attentions(student, previous)  # (..., H * W) both
    _, _, target = _shift(b)
    return (unit(a) - target).square().mean()


def shifted(maps: Tensor) -> Tensor:
    """The maps with their attention shifted: n * (s - h) / C is added to each of the C channels.

    maps: (..., C, H, W) with H * W >= 3. Returns the same shape, in full precision.
    n: length of a sample's attention; h: that attention at length 1; s: the target of `diversity`.
    Source: Li et al. 2022 (FFSD), what the self-distillation of a student reads.
    """
    maps = full(maps)
    channels, height, width = maps.shape[-3:]
    n, h, s = _shift(attention(maps).flatten(-2))
    correction = (n * (s - h) / channels).unflatten(-1, (height, width))
    return maps + correction.unsqueeze(-3)


def _attentions(student: Tensor, other: Tensor) -> tuple[Tensor, Tensor]:
    """Both attentions as rows (..., H * W) of one grid, the smaller of the two along each axis."""
    if student.shape[:-3] != other.shape[:-3]:
        raise InputError(
            f"attentions are compared sample by sample; the student's maps are {tuple(student.shape)}, "
            f"the others {tuple(other.shape)}"
        )
    grid = (min(student.shape[-2], other.shape[-2]), min(student.shape[-1], other.shape[-1]))
    a, b = (_pooled(attention(maps), grid).flatten(-2) for maps in (student, other))
    return a, b


def _pooled(x: Tensor, grid: tuple[int, int]) -> Tensor:
    """x: (..., H, W), averaged over the cells of `grid`; left alone if it is on that grid already."""
    if x.shape[-2:] == grid:
        return x
    flat = x.reshape(-1, *x.shape[-2:])  # pooling takes one leading axis
    return F.adaptive_avg_pool2d(flat, grid).reshape(*x.shape[:-2], *grid)


def _shift(a: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """n, h, s of attentions a (..., N): their lengths (..., 1), themselves at length 1, and the shifted ones.

    With t the floor(N / 3)-th smallest of h: s = n - h above t, n / 2 at t, h below. So the upper two thirds
    are turned over, in the scale of n, which is that of the raw map.
    """
    third = a.shape[-1] // 3
    if third < 1:
        raise InputError(
            f"the attention shift needs maps of 2 x 2 or more, and got {a.shape[-1]} element(s); "
            "take a larger data.size, or the maps of an earlier stage"
        )
    n, h = torch.linalg.vector_norm(a, dim=-1, keepdim=True), unit(a)
    t = h.sort(-1).values[..., third - 1, None]  # every device has sort; not all have kthvalue
    return n, h, torch.where(h > t, n - h, torch.where(h < t, h, n / 2))
