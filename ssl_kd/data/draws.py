"""Which rows of a train split count as labelled: the same ones for every network of a data set."""

import torch
from torch import Tensor

from ssl_kd.errors import InputError
from ssl_kd.streams import generator

Amount = float | int  # a share of the labelled rows in (0, 1], or a number per class


def amount_name(amount: Amount) -> str:
    """`0.01` is "1%", `5` is "5 per class". Raises InputError for what is neither a share nor a number."""
    if isinstance(amount, float) and 0 < amount <= 1:
        return f"{100 * amount:g}%"
    if isinstance(amount, int) and not isinstance(amount, bool) and amount >= 1:
        return f"{amount} per class"
    raise InputError(
        f"an amount of labels is a share in (0, 1] such as 0.1, or a whole number per class, not {amount!r}."
    )


def draw(labels: Tensor, classes: int, amount: Amount, seed: int = 0, number: int = 0) -> Tensor:
    """Positions int64 (n,) of as many rows as `amount` says, class by class, drawn without replacement.

    labels: int64 (N,), -1 for none, which is never drawn. A share is that of all labelled rows, rounded, and
    every class gets its part of it by largest remainder, but one row at least; a class without any gets none.
    number: which of many draws.
    What is drawn is a function of the labels and of (seed, amount, number): no network has a part in it.
    Raises InputError where a class has fewer rows than asked for.
    """
    name = amount_name(amount)
    known = (labels >= 0).nonzero()[:, 0]
    if len(known) and int(labels.max()) >= classes:
        raise InputError(f"there are {classes} classes, and a label is {int(labels.max())}.")
    have = labels[known].bincount(minlength=classes).tolist()
    counts = [amount if of else 0 for of in have] if isinstance(amount, int) else _shared(have, amount)
    for index, (count, available) in enumerate(zip(counts, have, strict=True)):
        if available < count:
            raise InputError(
                f'"{name}" takes {count} of class {index}, which has {available} labelled images; '
                "ask for fewer, or label more."
            )
    order = known[torch.randperm(len(known), generator=generator("few labels", seed, name, number))]
    drawn = labels[order]
    return torch.cat([order[drawn == index][:count] for index, count in enumerate(counts)])


def _shared(have: list[int], share: float) -> list[int]:
    """Rows of each class, in proportion: whole numbers, at least one each, together `share` of all."""
    rows = sum(have)
    total = round(share * rows)
    counts = [max(1, of * total // rows) if of else 0 for of in have]
    missing = [of * total - count * rows for of, count in zip(have, counts, strict=True)]
    there = [index for index, of in enumerate(have) if of]
    largest = sorted(there, key=lambda index: -missing[index])  # stable: ties to the lowest class
    for index in largest[: max(0, total - sum(counts))]:
        counts[index] += 1
    return counts
