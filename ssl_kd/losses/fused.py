"""Reductions of large maps with a backward pass of their own: a few passes over the maps in place of many."""

from typing import Any

import torch
from torch import Tensor

from ssl_kd.losses.rows import SHORT


def mean_square(x: Tensor, dim: int) -> Tensor:
    """The mean over `dim` of the squares, in full precision."""
    return _MeanSquare.apply(x, dim)


def unit_distance(a: Tensor, b: Tensor, dims: tuple[int, ...]) -> Tensor:
    """Squared distance of a and b, each at length 1 over `dims`, which are kept as 1; in full precision.

    Where either has no direction, that one is zero, and gets no gradient.
    """
    return _UnitDistance.apply(a, b, dims)


def _precision(*x: Tensor) -> torch.dtype:
    """float32, or float64 where one of them is."""
    return torch.float64 if any(each.dtype == torch.float64 for each in x) else torch.float32


class _MeanSquare(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, x: Tensor, dim: int) -> Tensor:
        ctx.save_for_backward(x)
        ctx.dim = dim
        return torch.linalg.vector_norm(x, dim=dim, dtype=_precision(x)).square_().div_(x.shape[dim])

    @staticmethod
    def backward(ctx: Any, *grads: Tensor) -> tuple[Tensor, None]:
        (x,) = ctx.saved_tensors
        scale = grads[0].unsqueeze(ctx.dim) * (2 / x.shape[ctx.dim])
        return (x * scale).to(x.dtype), None


class _UnitDistance(torch.autograd.Function):
    """With u = a / |a|, v = b / |b| and t = u - v: d = |t|^2, its gradient for a is 2 (t - (t u) u) / |a|."""

    @staticmethod
    def forward(ctx: Any, a: Tensor, b: Tensor, dims: tuple[int, ...]) -> Tensor:
        precision = _precision(a, b)
        lengths = [torch.linalg.vector_norm(x, dim=dims, keepdim=True, dtype=precision) for x in (a, b)]
        to_a, to_b = (torch.where(length <= SHORT, 0.0, 1 / length) for length in lengths)
        t = (a * to_a).addcmul_(b.to(precision), to_b, value=-1)
        d = torch.linalg.vector_norm(t, dim=dims, keepdim=True).square_()
        ctx.save_for_backward(a, b, to_a, to_b, t, d)
        return d

    @staticmethod
    def backward(ctx: Any, *grads: Tensor) -> tuple[Tensor | None, Tensor | None, None]:
        a, b, to_a, to_b, t, d = ctx.saved_tensors
        has_a, has_b = (to_a > 0).to(d.dtype), (to_b > 0).to(d.dtype)  # |u|^2 and |v|^2
        g = 2 * grads[0]
        found: list[Tensor | None] = [None, None]
        if ctx.needs_input_grad[0]:
            along = (has_a - has_b + d) / 2  # t u
            found[0] = (t * (g * to_a)).addcmul_(a.to(t.dtype), g * along * to_a * to_a, value=-1).to(a.dtype)
        if ctx.needs_input_grad[1]:
            along = (has_a - has_b - d) / 2  # t v
            found[1] = (t * (-g * to_b)).addcmul_(b.to(t.dtype), g * along * to_b * to_b).to(b.dtype)
        return found[0], found[1], None
