"""From what a data set says of each image (a number, a name, nothing) to int64 labels and class names.

The classes are those that occur among the train images. A class that the data only name, or a number between
two that are used, is none: heads have no output for it, and it is told of. A test image of a class that no
train image has is refused: its score would be of something that nobody could learn.
"""

import re
from collections import Counter
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from itertools import pairwise

import numpy as np

from ssl_kd.errors import InputError
from ssl_kd.system.text import printable

Said = Sequence[int | str | None]

MOST_CLASSES = 1_000_000  # by number: a single wrong label would make that many
LISTED = 5  # classes that a sentence names


@dataclass(frozen=True)
class Numbered:
    """Class names; labels of the two parts, int64 (N,), -1 for an image without, None for none at all.

    numbers: what the data call each class, where that is a number. notes: sentences for people.
    """

    classes: tuple[str, ...]
    train: np.ndarray | None
    test: np.ndarray | None
    numbers: tuple[int, ...] = ()
    notes: tuple[str, ...] = ()


def number(
    train: Said,
    test: Said,
    where: tuple[str, str],
    names: Sequence[str] = (),
    test_names: Sequence[str] = (),
) -> Numbered:
    """The labels of both parts by one numbering, that of the classes among the train images.

    Names are numbered in their order, which is that of their values where all are whole numbers (2 before 10,
    and 02 is 2); numbers in theirs, and are called by `names` or else by themselves.
    Labels are None for a part in which no image has one, and for both where the train part has none.
    where: what the parts are called. test_names: what the numbers of the test part are called, where it has
    names of its own; by these they are matched with `names`. Raises InputError for a label that the train
    part cannot have.
    """
    notes: list[str] = []
    known: list[int | str]
    if names and test_names and list(names) != list(test_names):
        test = _by_name(test, where, names, test_names)
        notes.append(
            f"the classes of {where[1]} are numbered otherwise than those of {where[0]}: they are matched by "
            "their names"
        )
    kinds = {type(value) for part in (train, test) for value in part if value is not None}
    if len(kinds) > 1:
        places = " and ".join(dict.fromkeys(where))
        raise InputError(f"some labels are numbers and some are names in {places}")
    numbers: tuple[int, ...] = ()
    if kinds <= {str}:
        parts = [[None if value is None else str(value) for value in part] for part in (train, test)]
        ours, theirs = ({name for name in part if name is not None} for part in parts)
        order = _Order(ours | theirs)
        called = order.of(ours, where[0])
        shown = {order.key(name): name for name in order.of(theirs, where[1])}
        known = [order.key(name) for name in called]
        train, test = ([None if name is None else order.key(name) for name in part] for part in parts)
    else:
        for part, place in ((train, where[0]), (test, where[1])):
            _check(part, place, names)
        numbers = tuple(sorted({int(value) for value in train if value is not None and int(value) >= 0}))
        known = list(numbers)
        shown = {v: names[int(v)] if names else str(v) for v in test if v is not None and int(v) >= 0}
        called = [names[value] if names else str(value) for value in numbers]
        notes += _unused(numbers, names, where[0])
    if not known:
        return Numbered((), None, None)
    position = {value: i for i, value in enumerate(known)}
    lacking = Counter(v for v in test if v is not None and v != -1 and v not in position)
    if lacking:
        counted = [f"{shown[v]} ({n:,} {'image' if n == 1 else 'images'})" for v, n in lacking.items()]
        raise lacks(where, counted, called)
    labels = [
        np.array([-1 if v is None else position.get(v, -1) for v in part], dtype=np.int64)
        for part in (train, test)
    ]
    trained, scored = (part if (part >= 0).any() else None for part in labels)
    return Numbered(tuple(map(printable, called)), trained, scored, numbers, tuple(notes))


def _check(part: Said, where: str, names: Sequence[str]) -> None:
    """Refuses numbers that are no label."""
    least, largest = (
        pick((int(value) for value in part if value is not None), default=-1) for pick in (min, max)
    )
    if largest >= MOST_CLASSES and not names:
        raise InputError(
            f"{where} holds the label {largest}, and there can be {MOST_CLASSES:,} classes at most"
        )
    wrong = least if least < -1 else largest if names and largest >= len(names) else None
    if wrong is not None:
        of = f"the {len(names)} classes" if names else "the classes, which count from 0"
        raise InputError(f"{where} holds the label {wrong}, which is none of {of}")


def _unused(numbers: Sequence[int], names: Sequence[str], where: str) -> list[str]:
    """A sentence on the classes without a train image, where there are any."""
    used, end = set(numbers), len(names) or max(numbers, default=-1) + 1
    unused = [names[i] if names else str(i) for i in range(end) if i not in used]
    if not unused or not numbers:
        return []
    what = "is of the class" if names else "has the label"
    return [f"no image of {where} {what} {listed(unused)}: the classes are the {len(numbers)} that occur"]


def _by_name(test: Said, where: tuple[str, str], names: Sequence[str], test_names: Sequence[str]) -> Said:
    """The numbers of the test part as those that `names` gives the same classes."""
    if any(isinstance(value, str) for value in test):
        return test
    _check(test, where[1], test_names)
    place = {name: i for i, name in enumerate(names)}
    used = sorted({int(value) for value in test if value is not None and int(value) >= 0})
    lacking = [test_names[value] for value in used if test_names[value] not in place]
    if lacking:
        raise lacks(where, lacking, names, f", and {where[1]} {listed(test_names)}")
    return [v if v is None or int(v) < 0 else place[test_names[int(v)]] for v in test]


def lacks(where: tuple[str, str], lacking: Sequence[str], known: Sequence[str], more: str = "") -> InputError:
    """The refusal of test classes that no train image has."""
    return InputError(
        f"{where[1]} has classes that {where[0]} lacks: {listed(lacking)}; {where[0]} has {listed(known)}"
        f"{more}; name them alike, or take the images of these classes out"
    )


def listed(names: Sequence[str]) -> str:
    """The first names, and how many more there are."""
    shown = ", ".join(map(printable, map(str, names[:LISTED])))
    return shown if len(names) <= LISTED else f"{shown} and {len(names) - LISTED:,} more"


def values(names: Iterable[str]) -> list[int] | None:
    """What the names of classes are as numbers, as those of folders 1 to 10; None unless all are."""
    found = list(names)
    whole = bool(found) and all(re.fullmatch("[0-9]{1,18}", name) for name in found)
    return [int(name) for name in found] if whole else None


def positions_of(
    labels: np.ndarray, classes: Sequence[str], where: str, numbers: Sequence[int] = ()
) -> np.ndarray:
    """Labels int64 (N,) that another place says, as positions among `classes`; -1 stays none.

    Where the classes are called by numbers, a label is the class of that number: 3 is the class "3", or "03".
    numbers: what the data themselves call each class that has another name; () where that is its position.
    Raises InputError for a label that is none of them.
    """
    called = values(classes) or list(numbers) or list(range(len(classes)))
    found, at = np.unique(labels, return_inverse=True)
    position = {-1: -1, **{number: i for i, number in enumerate(called)}}
    wrong = [int(number) for number in found if int(number) not in position]
    if wrong:
        sentence = f"{where} holds the label {wrong[0]}, which is none of the {len(classes)} classes"
        if called != list(range(len(classes))):
            sentence += f": a label is the number that its class is called by, {called[0]} to {called[-1]}"
        raise InputError(sentence)
    return np.array([position[int(number)] for number in found], np.int64)[at.reshape(-1)]


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
