"""What the formulas share: full precision, unit rows, their products, means over what has a label."""

import math

import torch
from torch import Tensor

from ssl_kd.distributed import all_sum, world
from ssl_kd.errors import InputError

SHORT = 1e-12  # a row of this length or less has no direction


def full(x: Tensor) -> Tensor:
    """float32 for the half precisions; float32 and float64 stay as they are."""
    return x.float() if x.dtype in (torch.float16, torch.bfloat16) else x


def unit(x: Tensor) -> Tensor:
    """Rows of length 1 along the last axis, in full precision; a zero row stays zero and gets no gradient."""
    x = full(x)
    length = torch.linalg.vector_norm(x, dim=-1, keepdim=True)
    # Not F.normalize: it divides by at least 1e-12, so what a zero row gets is the gradient times 1e12.
    return x / torch.where(length <= SHORT, math.inf, length)


def products(a: Tensor, b: Tensor) -> Tensor:
    """The scalar product of each row of a (..., N, D) with each of b (M, D): (..., N, M).

    In the precision of the rows also under autocast, which would take a matrix product in half of it.
    """
    with torch.autocast(a.device.type, enabled=False):
        return a @ b.T


def mean_of_labelled(total: Tensor, known: Tensor) -> Tensor:
    """total, a sum over the rows where `known` is true, over their number in all processes; 0 for none."""
    # Processes are averaged, so each divides by its fair share.
    count = all_sum(known.sum().to(total.dtype)) / world()
    return total / count.clamp(min=1 / world())


def check_views(loss: str, *given: Tensor) -> None:
    """Refuses anything but two views or more of the same shape (V, B, D) from all."""
    if given[0].dim() != 3 or len(given[0]) < 2:
        raise InputError(f"{loss} compares at least two views, (V, B, D); it got {tuple(given[0].shape)}")
    if given[-1].shape != given[0].shape:
        raise InputError(
            f"{loss} compares equal shapes; it got {tuple(given[0].shape)} and {tuple(given[-1].shape)}"
        )


def check_shapes(loss: str, student: Tensor, teacher: Tensor) -> None:
    """Refuses a student and a teacher of different shapes."""
    if student.shape != teacher.shape:
        raise InputError(
            f"{loss} compares equal shapes; the student gave {tuple(student.shape)}, "
            f"the teacher {tuple(teacher.shape)}"
        )


def check_temperature(loss: str, temperature: float) -> None:
    """Refuses what cosines cannot be divided by."""
    if not 0 < temperature < math.inf:
        raise InputError(f"{loss} needs a finite temperature above 0, not {temperature}")
