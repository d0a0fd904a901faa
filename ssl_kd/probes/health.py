"""What a representation looks like from inside, without labels: numbers of the embeddings of one batch.

All take rows of any scale, compute in float64 and return a float.
"""

import math

import torch
import torch.nn.functional as F
from torch import Tensor

TIE = 1e-6  # cosines that differ by less are equal: embeddings are float32


def effective_rank(rows: Tensor) -> float:
    """How many directions the rows (N, D) fill: exp of the entropy of their singular values, 1 to min(N, D).

    The rows are not centred, so that a network that says the same of every image has rank 1.
    Source: Roy & Vetterli 2007; as a measure of representations, Garrido et al. 2023 (RankMe).
    """
    rows = rows.double()
    gram = rows.T @ rows if rows.shape[1] <= len(rows) else rows @ rows.T
    share = torch.linalg.eigvalsh(gram).clamp_min(0).sqrt()
    share = share / share.sum().clamp_min(torch.finfo(share.dtype).tiny)
    return float(torch.special.entr(share).sum().exp())


def alignment(views: Tensor) -> float:
    """Mean squared distance between the unit rows of two views of one image, 0 (equal) to 4.

    views: (V, B, D); the mean is over all pairs of views.
    Source: Wang & Isola 2020, alpha = 2.
    """
    unit = F.normalize(views.double(), dim=-1)
    count = len(unit)
    if count < 2:
        return float("nan")
    # The sum over pairs of |x - y|^2 is V * sum |x|^2 - |sum x|^2.
    total = count * unit.square().sum() - unit.sum(0).square().sum()
    return float(total / (count * (count - 1) / 2 * views.shape[1]))


def uniformity(rows: Tensor) -> float:
    """log of the mean of exp(-2 |x - y|^2) over pairs of different unit rows: 0 (all equal) down to about -4.

    rows: (N, D), of different images.
    Source: Wang & Isola 2020, t = 2.
    """
    squared = torch.pdist(F.normalize(rows.double(), dim=-1)).square()
    return float((-2 * squared).exp().mean().log())


def spread(rows: Tensor) -> float:
    """Mean standard deviation of the columns of the unit rows (N, D), times sqrt(D): about 1 on all of the
    sphere, 0 when collapsed; NaN for one row, which has none.

    Source: Chen & He 2021 (SimSiam), figure 2.
    """
    if len(rows) < 2:
        return float("nan")
    unit = F.normalize(rows.double(), dim=-1)
    return float(unit.std(0).mean()) * math.sqrt(rows.shape[1])


def agreement(a: Tensor, b: Tensor) -> float:
    """Share of images whose nearest other image, by cosine, is the same for both: 0 to 1.

    a: (N, D), b: (N, E), of the same N images; NaN for one image, which has no other. Of images that are
    equally near (within TIE) the first counts.
    """
    if len(a) < 2:
        return float("nan")
    return float((_nearest(a) == _nearest(b)).double().mean())


def cka(a: Tensor, b: Tensor) -> float:
    """Linear centred kernel alignment of (N, D) and (N, E): 1 for equal up to rotation and scale, about 0 for
    unrelated ones.

    Debiased (Song et al. 2012), since few rows of many columns look alike without it.
    Source: Kornblith et al. 2019; Nguyen et al. 2021 for the estimator.
    """
    grams = [_debiased(x.double() @ x.double().T) for x in (a, b)]
    own = (grams[0] * grams[0]).sum() * (grams[1] * grams[1]).sum()
    return float((grams[0] * grams[1]).sum() / own.clamp_min(torch.finfo(own.dtype).tiny).sqrt())


def _nearest(rows: Tensor) -> Tensor:
    """Positions (N,) of the nearest other rows; of those that are as near but for rounding, the first."""
    unit = F.normalize(rows.double(), dim=-1)
    similar = (unit @ unit.T).fill_diagonal_(-2)
    near = similar >= similar.amax(1, keepdim=True) - TIE
    return near.cumsum(1).eq(0).sum(1)


def _debiased(gram: Tensor) -> Tensor:
    """U-centred: the sum of the product of two is an unbiased estimate of their HSIC, but for a factor."""
    n = len(gram)
    gram = gram.clone().fill_diagonal_(0)
    means = gram.sum(1) / (n - 2)
    means = means - means.sum() / (2 * (n - 1))
    gram = gram - means[:, None] - means[None, :]
    return gram.fill_diagonal_(0)
