"""Numbers for people: nested results as columns and cells."""

from collections.abc import Iterator, Mapping
from typing import Any

NO_SHARES = {"penalty", "rate", "seconds", "weight", "temperature", "labels", "epochs", "seed", "step"}
LONG = 6  # entries of a list that a cell has room for
NAMES = {"linear_held_out": "linear, held out", "top1": "top-1", "linear_sgd": "linear, SGD"}


def leaves(node: Any, prefix: str = "") -> Iterator[tuple[str, Any]]:
    """Every value of a nested mapping with its path, "knn/20"; a mean with its interval is one value."""
    if isinstance(node, Mapping) and not {"mean", "low", "high"} <= node.keys():
        for key, value in node.items():
            yield from leaves(value, f"{prefix}/{key}" if prefix else str(key))
    else:
        yield prefix, node


def cell(path: str, value: Any, shares: bool = True) -> str:
    """A value in a table. shares: numbers from 0 to 1 are shares of the images, and shown in per cent."""
    if value is None or (isinstance(value, list) and len(value) > LONG):
        return ""
    if isinstance(value, Mapping):
        mean, low, high = (cell(path, value[key], shares) for key in ("mean", "low", "high"))
        return f"{mean} ({low} to {high})"
    if isinstance(value, list):
        return ", ".join(cell(path, entry, shares) for entry in value)
    if isinstance(value, bool) or not isinstance(value, int | float):
        return str(value)
    parts = {*path.rpartition("/")[2].split("_")}
    if shares and isinstance(value, float) and 0 <= value <= 1 and not parts & NO_SHARES:
        return f"{100 * value:.1f}"
    return f"{value:,}" if isinstance(value, int) else f"{value:.4g}"


def called(path: str) -> str:
    """The name of a column: "knn/20" is kNN 20."""
    first, _, rest = path.partition("/")
    first = {"knn": "kNN"}.get(first, NAMES.get(first, first.replace("_", " ")))
    return f"{first} {rest.replace('_', ' ').replace('/', ' ')}".strip()


def short(number: float) -> str:
    """1,234,567 as 1.23 M."""
    for unit, factor in (("T", 1e12), ("G", 1e9), ("M", 1e6), ("k", 1e3)):
        if number >= factor:
            return f"{number / factor:.3g} {unit}"
    return f"{number:.3g}"
