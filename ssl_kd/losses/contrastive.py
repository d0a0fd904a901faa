"""Losses between the views of one network."""

import torch
from torch import Tensor

from ssl_kd import distributed
from ssl_kd.errors import InputError
from ssl_kd.losses.needs import needs_rows, needs_views, needs_width
from ssl_kd.losses.rows import (
    check_temperature,
    check_views,
    mean_of_labelled,
    products,
    unit,
)


@needs_views(2)
@needs_width(2)
@needs_rows(2)
def nt_xent(views: Tensor, temperature: float = 0.5, gather: bool = True, scale: float = 1.0) -> Tensor:
    """Normalised-temperature cross-entropy: each row picks its other views out of all rows of the batch.

    views: (V, B, D), V >= 2, any scale. With V > 2 the mean over a row's V - 1 partners.
    gather: over several processes, this one's rows against the rows of all.
    scale: 2 gives the authors' code, which adds the two directions.
    Source: Chen et al. 2020 (SimCLR), eq. 1, mean over all V * B rows.
    """
    check_views("NT-Xent", views)
    check_temperature("NT-Xent", temperature)
    logits, partners, itself = _against_all(views, temperature, gather)
    count = len(views)
    logits = logits.scatter(1, partners.gather(1, itself), float("-inf"))
    others = (itself + torch.arange(1, count, device=views.device)) % count  # (V * B, V - 1)
    positives = logits.gather(1, partners.gather(1, others))
    return scale * (logits.logsumexp(1) - positives.mean(1)).mean()


@needs_views(2)
@needs_width(2)
@needs_rows(2)
def dcl(views: Tensor, temperature: float = 0.1, gather: bool = True) -> Tensor:
    """Decoupled contrastive loss: NT-Xent whose denominator leaves out the row's own image altogether.

    views: (V, B, D), V >= 2, any scale. A row's loss is -cos(its partner) / temperature + log of the sum over
        the rows of other images of exp(cos / temperature); with V > 2 the mean over its V - 1 partners.
    gather: over several processes, this one's rows against the rows of all.
    Source: Yeh et al. 2022 (DCL), eq. 6 without weights, mean over all V * B rows.
    """
    check_views("DCL", views)
    check_temperature("DCL", temperature)
    logits, partners, itself = _against_all(views, temperature, gather)
    count = len(views)
    others = (itself + torch.arange(1, count, device=views.device)) % count  # (V * B, V - 1)
    positives = logits.gather(1, partners.gather(1, others))
    return (logits.scatter(1, partners, float("-inf")).logsumexp(1) - positives.mean(1)).mean()


@needs_width(2)
@needs_rows(2)
def sup_con(views: Tensor, labels: Tensor, temperature: float = 0.1, gather: bool = True) -> Tensor:
    """Supervised contrast: each row picks every other row of its class out of all rows of the batch.

    views: (V, B, D), any scale; labels: (B,). A row's loss is the mean over the others of its class, its own
        other views among them, of log( sum over all others of exp(cos / temperature) ) - cos / temperature.
        An image without a label, -1, is a class of its own: with no label at all this is NT-Xent. The mean
        is over the rows that have somebody to pick, those of all processes.
    gather: over several processes, this one's rows against the rows of all.
    Raises InputError where nobody has anybody to pick, as may be with one view.
    Source: Khosla et al. 2020 (SupCon), L_out, eq. 2; the authors' code has a factor temperature / 0.07 more.
    """
    if views.dim() != 3:
        raise InputError(f"SupCon compares views, (V, B, D); it got {tuple(views.shape)}")
    check_temperature("SupCon", temperature)
    logits, partners, itself = _against_all(views, temperature, gather)
    every = distributed.gather(labels) if gather else labels  # (W * B,)
    count = len(views)
    alike = (labels[:, None] == every) & (labels[:, None] >= 0)  # (B, W * B)
    alike = alike.repeat(count, count).scatter(1, partners, True)  # (V * B, V * W * B)
    own = partners.gather(1, itself)
    alike = alike.scatter(1, own, False)
    total = logits.scatter(1, own, float("-inf")).logsumexp(1)
    number = alike.sum(1)
    chosen = logits.where(alike, 0.0).sum(1) / number.clamp(min=1)
    known = number > 0
    if count == 1 and not distributed.all_sum(known.sum()):  # of two views, each row has one to pick
        raise InputError(
            "SupCon has nothing to learn from: it got one view of each image, and no two of these of one "
            "class; take two views, or a larger batch"
        )
    return mean_of_labelled((total - chosen).where(known, 0.0).sum(), known)


def _against_all(views: Tensor, temperature: float, gather: bool) -> tuple[Tensor, Tensor, Tensor]:
    """Every row's cosines with all rows of all processes, over the temperature, and where the row's image is.

    views: (V, B, D). Returns logits (V * B, V * W * B), the columns of all views of the row's image
        (V * B, V), and which of these is the row itself (V * B, 1).
    """
    count, size, _ = views.shape
    own = unit(views)  # (V, B, D)
    every = distributed.gather(own, dim=1) if gather else own  # (V, W * B, D)
    offset = distributed.rank() * size if gather else 0
    total = every.shape[1]
    logits = products(own.flatten(0, 1), every.flatten(0, 1)) / temperature  # (V * B, V * W * B)
    columns = (
        torch.arange(count, device=views.device)[:, None] * total + offset
    )  # (V, 1), of each view's first row
    rows = torch.arange(size, device=views.device)
    partners = (columns + rows).T.repeat(count, 1)  # (V * B, V)
    itself = torch.arange(count, device=views.device).repeat_interleave(size)[:, None]  # (V * B, 1)
    return logits, partners, itself


@needs_views(2)
@needs_width(2)
def info_nce(query: Tensor, key: Tensor, negatives: Tensor, temperature: float = 0.1) -> Tensor:
    """Each query picks the key of the same image's other view out of that key and the negatives.

    query, key: (V, B, D), V >= 2; negatives: (N, D); any scale. Mean over rows and ordered pairs of views.
    Source: He et al. 2020 (MoCo), eq. 1.
    """
    check_views("InfoNCE", query, key)
    check_temperature("InfoNCE", temperature)
    if not len(negatives):
        raise InputError("InfoNCE picks a key out of others, and got no negatives")
    q, k = unit(query), unit(key)
    count = len(q)
    against = products(q, unit(negatives)) / temperature  # (V, B, N)
    losses = []
    for a in range(count):
        for b in range(count):
            if a != b:
                positive = (q[a] * k[b]).sum(-1, keepdim=True) / temperature
                losses.append(torch.cat([positive, against[a]], 1).logsumexp(1) - positive[:, 0])
    return torch.stack(losses).mean()


@needs_views(2)
@needs_width(2)
def negative_cosine(prediction: Tensor, target: Tensor) -> Tensor:
    """-cos(prediction of one view, target of another), mean over all ordered pairs of different views.

    prediction, target: (V, B, D), V >= 2. The term that calls it detaches the target.
    Source: Chen & He 2021 (SimSiam), eq. 2, which halves the sum of the two directions: the mean here.
    BYOL's loss (Grill et al. 2020) is 2 + 2 * this.
    """
    check_views("the negative cosine", prediction, target)
    p, z = unit(prediction), unit(target)
    count = len(p)
    return -torch.stack(
        [(p[a] * z[b]).sum(-1).mean() for a in range(count) for b in range(count) if a != b]
    ).mean()
