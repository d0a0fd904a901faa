"""From what a data set says of each image (a number, a name, nothing) to int64 labels and class names."""

from collections.abc import Sequence

import numpy as np

from ssl_kd.errors import InputError

Said = Sequence[int | str | None]

MOST_CLASSES = 1_000_000  # by number: a single wrong label would make that many


def number(
    train: Said, test: Said, where: tuple[str, str], names: Sequence[str] = ()
) -> tuple[tuple[str, ...], np.ndarray | None, np.ndarray | None]:
    """Class names, labels of the train part, labels of the test part: int64 (N,), -1 for an image without.

    Names are numbered in their order; numbers stay, and are called by `names` or else by themselves. Labels
    are None for a part in which no image has one, and for both where the train part has none.
    where: what the parts are called. Raises InputError for a label that the train part cannot have.
    """
    kinds = {type(value) for part in (train, test) for value in part if value is not None}
    if len(kinds) > 1:
        places = " and ".join(dict.fromkeys(where))
        raise InputError(f"some labels are numbers and some are names in {places}")
    known = {value for value in train if value is not None}
    if kinds == {str}:
        names = sorted(map(str, known))
        position = {name: i for i, name in enumerate(names)}
        unknown = sorted({str(value) for value in test if value is not None} - set(names))
        if names and unknown:
            listed = ", ".join(map(printable, unknown[:5]))
            raise InputError(f"{where[1]} has classes that {where[0]} lacks: {listed}")
        classes = tuple(map(printable, names))
        parts = [[position.get(str(value), -1) for value in part] for part in (train, test)]
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


def printable(name: str) -> str:
    """A name out of a data set as it can stand in a sentence or a page: what cannot be printed is escaped."""
    return "".join(c if c.isprintable() else c.encode("unicode_escape").decode() for c in name)
