"""Losses that keep the columns of embeddings apart, so that no negatives are needed."""

import torch
import torch.nn.functional as F
from torch import Tensor

from ssl_kd import distributed
from ssl_kd.losses.needs import needs_rows, needs_views
from ssl_kd.losses.rows import check_views, full, products


@needs_views(2)
@needs_rows(2)
def barlow_twins(
    views: Tensor, redundancy: float = 5e-3, epsilon: float = 1e-5, gather: bool = True
) -> Tensor:
    """Cross-correlation of two views towards the identity: sum of (1 - C_ii)^2 + redundancy * sum of C_ij^2.

    views: (V, B, D), V >= 2; with V > 2 the mean over all pairs of views. C, D x D, is the mean over a batch
        of the products of columns that have mean 0 and variance 1 in the batch of their view.
    epsilon: added to that variance, as batch norm does.
    gather: the batch is that of all processes.
    Source: Zbontar et al. 2021 (Barlow Twins), eq. 1 and 2; redundancy is their lambda.
    """
    check_views("Barlow Twins", views)
    centred, size = _centred(full(views), gather)
    variance = _summed(centred.square().sum(1, keepdim=True), gather) / size  # (V, 1, D)
    columns = centred * (variance + epsilon).rsqrt()
    losses = []
    for a in range(len(views)):
        for b in range(a + 1, len(views)):
            c = _summed(products(columns[a].T, columns[b].T), gather) / size  # (D, D)
            losses.append((1 - c.diagonal()).square().sum() + redundancy * _beside(c).square().sum())
    return torch.stack(losses).mean()


@needs_views(2)
@needs_rows(2)
def vicreg(
    views: Tensor,
    invariance: float = 25.0,
    variance: float = 25.0,
    covariance: float = 1.0,
    epsilon: float = 1e-4,
    gather: bool = True,
) -> Tensor:
    """Variance, invariance, covariance: views near each other, columns of deviation 1 or more, uncorrelated.

    views: (V, B, D), V >= 2. The sum of these three, each times its weight:
        invariance: the mean of (z - z')^2 over elements and pairs of views;
        variance: the mean over views and columns of max(0, 1 - sqrt(var + epsilon));
        covariance: the sum over the two views of the sum of squares beside the diagonal of the covariance
        matrix, divided by D; twice the mean over views where there are more.
    var and covariance divide by N - 1.
    gather: the batch is that of all processes.
    Source: Bardes et al. 2022 (VICReg), eq. 1 to 6, with the authors' code's half in front of both variances.
    """
    check_views("VICReg", views)
    x = full(views)
    count, width = len(x), x.shape[-1]
    pairs = [F.mse_loss(x[a], x[b]) for a in range(count) for b in range(a + 1, count)]
    centred, size = _centred(x, gather)
    below, beside = [], []
    for view in centred:
        matrix = _summed(products(view.T, view.T), gather) / (size - 1)  # (D, D)
        below.append((1 - (matrix.diagonal() + epsilon).sqrt()).relu().mean())
        beside.append(_beside(matrix).square().sum() / width)
    return (
        invariance * torch.stack(pairs).mean()
        + variance * torch.stack(below).mean()
        + covariance * 2 * torch.stack(beside).mean()
    )


def _centred(x: Tensor, gather: bool) -> tuple[Tensor, int]:
    """The rows (V, B, D) without the mean of their view's batch, and how many rows that batch has."""
    size = x.shape[1] * (distributed.world() if gather else 1)
    return x - _summed(x.sum(1, keepdim=True), gather) / size, size


def _summed(local: Tensor, gather: bool) -> Tensor:
    return distributed.all_sum(local) if gather else local


def _beside(matrix: Tensor) -> Tensor:
    """What is beside the diagonal; the diagonal itself is 0."""
    return matrix - matrix.diagonal().diag()
