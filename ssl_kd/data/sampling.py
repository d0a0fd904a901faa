"""Which images an epoch has, and which classes are rare: functions of the seed, the epoch and the labels.

Both know nothing of the images themselves.
"""

from collections.abc import Callable

import numpy as np
import torch
from torch import Tensor

from ssl_kd.data.adapt import subset
from ssl_kd.data.sources import Source
from ssl_kd.errors import InputError
from ssl_kd.streams import generator

# (labels int64 (N,), seed, epoch, ...) -> positions int64 (M,), M about N
Sampler = Callable[..., Tensor]


def instance(labels: Tensor, seed: int, *when: int) -> Tensor:
    """Every image once, in another order in each epoch."""
    return torch.randperm(len(labels), generator=generator(seed, "order", *when))


def class_balanced(labels: Tensor, seed: int, *when: int) -> Tensor:
    """All classes as often, whatever their number of images: about N / C of each, shuffled.

    An image of a class with n_c of the N labelled images comes r = N / (C n_c) times in the mean: floor(r)
    times, and once more with probability r - floor(r). An image without a label, -1, never comes. C counts
    the classes that are there.
    Source: Iscen et al. 2021 (Class-balanced distillation for long-tailed visual recognition).
    """
    known = (labels >= 0).nonzero()[:, 0]
    counts = labels[known].bincount()
    wanted = len(known) / (int((counts > 0).sum()) * counts.double())
    draws = torch.rand(len(known), dtype=torch.float64, generator=generator(seed, "class balanced", *when))
    times = (wanted[labels[known]] + draws).floor().long()
    drawn = known.repeat_interleave(times)
    return drawn[torch.randperm(len(drawn), generator=generator(seed, "order", *when))]


SAMPLERS: dict[str, Sampler] = {"instance": instance, "class_balanced": class_balanced}


def one_epoch(sampler: Sampler, labels: Tensor, count: int, seed: int, epoch: int) -> Tensor:
    """`count` positions: the first that the sampler gives; where it gives fewer, what it gives again.

    Raises InputError where it gives none.
    """
    found, again = sampler(labels, seed, epoch), 0
    while len(found) < count:
        again += 1
        more = sampler(labels, seed, epoch, again)
        if not len(more):
            raise InputError(f"the sampler draws no image for epoch {epoch}")
        found = torch.cat([found, more])
    return found[:count]


def long_tailed(source: Source, imbalance: float) -> Source:
    """Fewer and fewer images from class to class: the first keeps all, the last 1 / `imbalance` of that.

    Class c of C keeps n * imbalance^(-c / (C - 1)) images, rounded down, at least one, where n is what the
    largest class has; a class that has fewer keeps what it has. Which ones is a function of the number of
    images alone; an image without a label stays. C counts the classes that are there.
    Source: Cui et al. 2019 (Class-balanced loss).
    Raises InputError for an imbalance below 1, and for images without labels or of one class.
    """
    if isinstance(imbalance, bool) or not isinstance(imbalance, int | float) or imbalance < 1:
        raise InputError(
            f"long_tail is how many times more images the first class has, from 1 on, not {imbalance}"
        )
    classes = len(source.classes)
    if source.labels is None or classes < 2:
        raise InputError(
            f"long_tail={imbalance:g} makes classes rare, and the data has {classes or 'no'} classes"
        )
    labels = np.asarray(source.labels)
    counts = np.bincount(labels[labels >= 0], minlength=classes)
    there, most = np.flatnonzero(counts), counts.max()
    order = torch.randperm(len(labels), generator=generator("long tail")).numpy()
    kept = [order[labels[order] < 0]]
    for c, label in enumerate(there):
        kept.append(
            order[labels[order] == label][: max(1, int(most * imbalance ** (-c / max(1, len(there) - 1))))]
        )
    return subset(source, np.sort(np.concatenate(kept)))
