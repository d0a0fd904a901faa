"""Which images of a folder there are, and their labels, by a text file, as those of ImageNet-LT."""

import re
from collections.abc import Iterator
from pathlib import Path

from ssl_kd.data.label_tables import columns_of, read_table
from ssl_kd.errors import InputError
from ssl_kd.system.paths import expand
from ssl_kd.system.text import printable


def _pairs(place: Path, lines: list[str]) -> Iterator[tuple[int, str, str]]:
    """The number of each line, the path and the label that it says."""
    if place.suffix.lower() in (".csv", ".tsv"):
        table = read_table(place)
        column, named = columns_of(table, None)
        if not named:
            raise InputError(f"the list {place} has no column of paths, as in a first line path,label")
        rows = zip(table.lines, table.cells(named[0]), table.cells(column), strict=True)
        yield from ((number, name.replace("\\", "/"), label) for (number, _), name, label in rows)
        return
    for count, line in enumerate(lines, 1):
        name, _, label = line.strip().rpartition(" ")
        if line.strip() and not name.strip():
            shown = printable(line.strip()[:60])
            raise InputError(f'line {count} of {place} is "{shown}", not a path and a label, as in a/b.jpg 3')
        if line.strip():
            yield count, name.strip(), label


def read_list(root: Path, file: str | Path) -> tuple[list[str], list[int | str]]:
    """Names of images and what is said of each: `file` has on each line a path below `root` and a label.

    A .csv or .tsv has a column of paths and one of labels. A label is a number, or a name without spaces.
    An image may be listed several times. Raises InputError for a line that is otherwise, and names the first
    image that is not there.
    """
    place = expand(file)
    if not place.is_file():
        raise InputError(f"there is no list {place}")
    try:
        lines = place.read_text(encoding="utf-8-sig").splitlines()
    except (OSError, UnicodeDecodeError) as error:
        raise InputError(f"the list {place} cannot be read ({error.__class__.__name__})") from error
    names: list[str] = []
    said: list[int | str] = []
    for count, name, label in _pairs(place, lines):
        if Path(name).is_absolute() or ".." in Path(name).parts:
            raise InputError(f"line {count} of {place}: {printable(name)} is not below {root}")
        if not (root / name).is_file():
            raise InputError(f"line {count} of {place}: there is no image {printable(name)} in {root}")
        names.append(name)
        said.append(int(label) if re.fullmatch(r"[0-9]{1,18}", label) else label)
    if not names:
        raise InputError(f"the list {place} names no image")
    return names, said
