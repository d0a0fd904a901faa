"""From what a data set says of each image (a number, a name, nothing) to int64 labels and class names."""

import re
from collections.abc import Iterable, Sequence
from itertools import pairwise

import numpy as np

from ssl_kd.errors import InputError

Said = Sequence[int | str | None]

MOST_CLASSES = 1_000_000  # by number: a single wrong label would make that many


def number(
    train: Said, test: Said, where: tuple[str, str], names: Sequence[str] = ()
) -> tuple[tuple[str, ...], np.ndarray | None, np.ndarray | None]:
    """Class names, labels of the train part, labels of the test part: int64 (N,), -1 for an image without.

    Names are numbered in their order, which is that of their values where all are whole numbers (2 before 10,
    and 02 is 2); numbers stay, and are called by `names` or else by themselves. Labels are None for a part in
    which no image has one, and for both where the train part has none.
    where: what the parts are called. Raises InputError for a label that the train part cannot have.
    """
    kinds = {type(value) for part in (train, test) for value in part if value is not None}
    if len(kinds) > 1:
        places = " and ".join(dict.fromkeys(where))
        raise InputError(f"some labels are numbers and some are names in {places}")
    known = {value for value in train if value is not None}
    if kinds == {str}:
        scored = {str(value) for value in test if value is not None}
        order = _Order({*map(str, known), *scored})
        names = order.of(map(str, known), where[0])
        position = {order.key(name): i for i, name in enumerate(names)}
        unknown = [name for name in order.of(scored, where[1]) if order.key(name) not in position]
        if names and unknown:
            listed = ", ".join(map(printable, unknown[:5]))
            raise InputError(f"{where[1]} has classes that {where[0]} lacks: {listed}")
        classes = tuple(map(printable, names))
        parts = [
            [-1 if value is None else position.get(order.key(str(value)), -1) for value in part]
            for part in (train, test)
        ]
    else:
        parts = [[-1 if value is None else int(value) for value in part] for part in (train, test)]
        largest = max(parts[0], default=-1)
        if largest >= MOST_CLASSES and not names:
            raise InputError(
                f"{where[0]} holds the label {largest}, and there can be {MOST_CLASSES:,} classes at most"
            )
        called = tuple(map(printable, names)) or tuple(map(str, range(largest + 1)))
        classes = called if largest >= 0 else ()
        for part, place in zip(parts, where, strict=True):
            wrong = next((v for v in part if v < -1 or (classes and v >= len(classes))), None)
            if wrong is not None:
                raise InputError(
                    f"{place} holds the label {wrong}, which is none of the {len(classes)} classes"
                )
    arrays = [np.array(part, dtype=np.int64) for part in parts]
    given = [array if classes and (array >= 0).any() else None for array in arrays]
    return classes, given[0], given[1]


def values(names: Iterable[str]) -> list[int] | None:
    """What the names of classes are as numbers, as those of folders 1 to 10; None unless all are."""
    found = list(names)
    whole = bool(found) and all(re.fullmatch("[0-9]{1,18}", name) for name in found)
    return [int(name) for name in found] if whole else None


def positions_of(labels: np.ndarray, classes: Sequence[str], where: str) -> np.ndarray:
    """Labels int64 (N,) that another place says, as positions among `classes`; -1 stays none.

    Where the classes are called by numbers, a label is the class of that number: 3 is the class "3", or "03".
    Raises InputError for a label that is none of them.
    """
    called = values(classes) or list(range(len(classes)))
    numbers, at = np.unique(labels, return_inverse=True)
    position = {-1: -1, **{number: i for i, number in enumerate(called)}}
    wrong = [int(number) for number in numbers if int(number) not in position]
    if wrong:
        sentence = f"{where} holds the label {wrong[0]}, which is none of the {len(classes)} classes"
        if called != list(range(len(classes))):
            sentence += f": a label is the number that its class is called by, {called[0]} to {called[-1]}"
        raise InputError(sentence)
    return np.array([position[int(number)] for number in numbers], np.int64)[at.reshape(-1)]


class _Order:
    """Of names: by their values where all are whole numbers, else as text."""

    def __init__(self, names: Iterable[str]) -> None:
        self.numeric = values(names) is not None

    def key(self, name: str) -> int | str:
        return int(name) if self.numeric else name

    def of(self, names: Iterable[str], where: str) -> list[str]:
        """The names in their order. Raises InputError for two that are one number."""
        ordered = sorted(set(names), key=lambda name: (self.key(name), name))
        for one, two in pairwise(ordered):
            if self.key(one) == self.key(two):
                raise InputError(f"{where} has the classes {one} and {two}, which are one number; rename one")
        return ordered


def printable(name: str) -> str:
    """A name out of a data set as it can stand in a sentence or a page: what cannot be printed is escaped."""
    return "".join(c if c.isprintable() else c.encode("unicode_escape").decode() for c in name)
