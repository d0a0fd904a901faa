"""Tables of labels, .csv, .tsv, .txt or .parquet: which column has the labels, and which the images' names.

Where a column names the images, its lines are matched with them by it, whatever their order. Names are the
same with or without folders and endings, in whatever case, with either slash.
"""

import csv
import re
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path, PurePosixPath

import numpy as np

from ssl_kd.data.labels import listed, positions_of
from ssl_kd.errors import InputError, nearest
from ssl_kd.system.reading import opened
from ssl_kd.system.text import printable

SUFFIXES = (".csv", ".tsv", ".txt", ".parquet")
# What columns are called, in lower case; of several the first that fits.
IMAGES = (
    *("filename", "file_name", "filenames", "filepath", "file_path", "path", "file"),
    *("image_path", "img_path", "image_name", "img_name", "imagename", "image", "images", "img"),
    *("image_id", "imageid", "img_id", "id", "name", "key"),
)
LABELS = ("label", "labels", "target", "targets", "class", "class_id", "category", "y")
_WHOLE = re.compile(r"[+-]?[0-9]{1,18}")
_ENDING = re.compile(r"\.(jpe?g|jpe|png|bmp|gif|webp|tiff?|p[gpb]m|avif|heic|jp2|tga|npy)$")
MOST_BYTES = 256 << 20  # of a table, unpacked
MOST_CELLS = 50_000_000
_LOOKED_AT = 50  # lines that say what stands between columns


@dataclass(frozen=True)
class Table:
    """lines: (its number in the file, its cells). header: what the columns are called; () for nothing."""

    path: Path
    header: tuple[str, ...]
    lines: list[tuple[int, list[str]]]

    def cells(self, column: int) -> list[str]:
        return [cells[column].strip() if column < len(cells) else "" for _, cells in self.lines]

    @property
    def width(self) -> int:
        return max((len(cells) for _, cells in self.lines), default=0)

    def called(self, column: int) -> str:
        return f'column "{printable(self.header[column])}"' if self.header else f"column {column + 1}"


def read_table(path: Path, key: str | None = None) -> Table:
    """The cells of a table. key: a column that its first line names. Raises InputError, and what csv does."""
    lines = _parquet(path) if path.suffix.lower() == ".parquet" else _text(path)
    if not lines:
        return Table(path, (), [])
    first = [cell.strip() for cell in lines[0][1]]
    if key is not None and key not in first:
        raise InputError(f'{path} has no column "{key}"; {nearest(key, first)}')
    if key is not None or _is_header(first, lines[1:]):
        return Table(path, tuple(first), lines[1:])
    return Table(path, (), lines)


def _is_header(first: Sequence[str], lines: Sequence[tuple[int, list[str]]]) -> bool:
    if any(cell.lower() in (*IMAGES, *LABELS) for cell in first):
        return True
    numbers = [
        column
        for column in range(len(first))
        if lines
        and all(column < len(cells) and _WHOLE.fullmatch(cells[column].strip()) for _, cells in lines)
    ]
    return len(first) > 1 and bool(numbers) and not any(_WHOLE.fullmatch(cell) for cell in first)


def _text(path: Path) -> list[tuple[int, list[str]]]:
    with opened(path) as file:
        content = file.read(MOST_BYTES + 1)
    _check_size(path, len(content))
    text = content.decode("utf-8-sig")
    found = text.splitlines()
    filled = [line for line in found if line.strip()][:_LOOKED_AT]
    for mark in (",", ";", "\t"):
        if filled and all(mark in line for line in filled):
            break
    else:
        mark = ","
        if path.suffix.lower() == ".txt" and filled and all(len(line.split()) > 1 for line in filled):
            parts = ((number, line.strip().rpartition(" ")) for number, line in enumerate(found, 1))
            return [(number, [name, label]) for number, (name, _, label) in parts if label]
    lines = csv.reader(text.splitlines(keepends=True), delimiter=mark, skipinitialspace=True)
    return [(lines.line_num, row) for row in lines if any(cell.strip() for cell in row)]


def _check_size(path: Path, size: int) -> None:
    if size > MOST_BYTES:
        raise InputError(
            f"{path} has more than {MOST_BYTES:,} bytes; keep the columns of names and labels, or put "
            "the labels alone into an .npy file"
        )


def _parquet(path: Path) -> list[tuple[int, list[str]]]:
    try:
        import pyarrow.parquet
    except ImportError as error:
        raise InputError(f'{path} needs the package "pyarrow": pip install "ssl-kd[hub]"') from error
    opened(path).close()  # what is no file is not waited for
    with pyarrow.parquet.ParquetFile(path) as file:  # never a folder of them
        groups = (file.metadata.row_group(i) for i in range(file.metadata.num_row_groups))
        _check_size(path, sum(group.total_byte_size for group in groups))
        if file.metadata.num_rows * file.metadata.num_columns > MOST_CELLS:
            raise InputError(
                f"{path} has more than {MOST_CELLS:,} cells; keep the columns of names and labels"
            )
        found = file.read()
    columns = [
        ["" if value is None else str(value) for value in column.to_pylist()] for column in found.columns
    ]
    rows = [list(found.column_names), *map(list, zip(*columns, strict=True))]
    return list(enumerate(rows, 1))


def labels_of(
    table: Table,
    key: str | None,
    count: int,
    images: Sequence[str] | None,
    classes: Sequence[str],
    numbers: Sequence[int],
) -> np.ndarray:
    """The label of each of `count` images, positions int64 (count,) among the classes, -1 for none.

    images: their names; None where they have none. classes, numbers: as of `label_files.read`.
    Raises InputError.
    """
    column, named = columns_of(table, key)
    return _of_images(table, column, named, _labels(table, column, classes, numbers), count, images)


def cells_of(table: Table, key: str, count: int, images: Sequence[str] | None) -> list[str]:
    """What the column `key` says of each of `count` images; matched as by `labels_of`. Raises InputError."""
    column, named = columns_of(table, key)
    kinds, numbers = np.unique(table.cells(column), return_inverse=True)
    return [str(kinds[i]) for i in _of_images(table, column, named, numbers, count, images)]


def _of_images(
    table: Table,
    column: int,
    named: list[int],
    labels: np.ndarray,
    count: int,
    images: Sequence[str] | None,
) -> np.ndarray:
    """Of what the lines say, (L,), that of each image, (N,)."""
    others = [other for other in range(table.width) if other not in (column, *named)]
    if images is not None:  # called as it may be, a column that has the images' names says which they are
        named += [other for other in others if _names_most(table.cells(other), images)]
    if not named:
        if len(labels) != count:
            raise InputError(
                f"{table.path} holds {len(labels)} lines, and the whole train split has {count} images"
            )
        return labels
    if images is None:
        return labels[_by_number(table, named, count)]
    found = [_matched(table, other, images, labels) for other in named]
    lines = next((lines for lines, wrong in found if not wrong), None)
    if lines is None:
        raise InputError(min((wrong for _, wrong in found), key=len))
    return labels[lines]


def columns_of(table: Table, key: str | None) -> tuple[int, list[int]]:
    """The column of the labels, and those that are called as columns of images are. Raises InputError."""
    names = [name.lower() for name in table.header]
    if not names:
        return _bare(table)
    named = sorted(
        (i for i, name in enumerate(names) if name in IMAGES), key=lambda i: IMAGES.index(names[i])
    )
    if key is not None:
        column = table.header.index(key)
        return column, [other for other in named if other != column]
    rest = [i for i in range(len(names)) if i not in named] or list(range(len(names)))
    chosen = rest if len(rest) == 1 else [i for i in rest if names[i] in LABELS]
    if len(chosen) != 1:
        raise InputError(
            f"{table.path} has several columns; labels.key names one of: "
            + ", ".join(map(printable, table.header))
        )
    return chosen[0], [other for other in named if other != chosen[0]]


def _bare(table: Table) -> tuple[int, list[int]]:
    """The columns of a table without a header: of the labels, which are numbers, and beside it of names."""
    if table.width <= 1:
        return 0, []
    numeric = [i for i in range(table.width) if all(map(_WHOLE.fullmatch, table.cells(i)))]
    if table.width == 2 and len(numeric) != 2:
        column = numeric[0] if numeric else 1
        return column, [1 - column]
    shown = ", ".join(map(printable, table.lines[0][1]))
    raise InputError(
        f"{table.path} has several columns; labels.key names one of: {shown}; where these are no names, a "
        "first line such as filename,label gives them some"
    )


def _labels(table: Table, column: int, classes: Sequence[str], numbers: Sequence[int]) -> np.ndarray:
    """Positions among the classes (L,) of all lines: by number, or by name where not all are numbers."""
    cells = table.cells(column)
    odd = [i for i, cell in enumerate(cells) if not _WHOLE.fullmatch(cell)]
    if not odd:
        said = np.array([int(cell) for cell in cells], np.int64)
        return positions_of(said, classes, str(table.path), numbers)
    position = {"-1": -1, **{name: i for i, name in enumerate(classes)}}
    named = any(printable(cells[i]) in position for i in odd)
    wrong = (
        next((i for i, cell in enumerate(cells) if printable(cell) not in position), -1) if named else odd[0]
    )
    if wrong >= 0:
        raise InputError(
            f'line {table.lines[wrong][0]} of {table.path} says "{printable(cells[wrong])}", which is not a '
            f"whole number, nor one of the classes {listed(classes)}"
        )
    return np.array([position[printable(cell)] for cell in cells], np.int64)


def _by_number(table: Table, named: Sequence[int], count: int) -> np.ndarray:
    """The line of each image, where the images have no names: by a column that counts them from 0 or 1."""
    for column in named:
        cells = table.cells(column)
        if len(cells) == count and all(map(_WHOLE.fullmatch, cells)):
            at = np.array([int(cell) for cell in cells])
            if np.array_equal(np.sort(at), np.arange(count) + at.min()) and at.min() in (0, 1):
                return np.argsort(at)
    raise InputError(
        f"{table.path} has the {table.called(named[0])}, and these data have no names of images to match it "
        "with; without that column its lines are taken in the order of the images"
    )


class _Names:
    """Images by the last part of their names, without an ending."""

    def __init__(self, images: Sequence[str]) -> None:
        self.parts = [_parts(image) for image in images]
        self.at: dict[str, list[int]] = {}
        self.numbers: dict[int, list[int]] = {}
        for i, parts in enumerate(self.parts):
            stem = _stem(parts[-1])
            self.at.setdefault(stem, []).append(i)
            if stem.isdecimal():
                self.numbers.setdefault(int(stem), []).append(i)

    def find(self, name: str) -> tuple[list[int], int]:
        """The images that a name may mean, and how much of it they have in common."""
        parts = _parts(name)
        stem = _stem(parts[-1])
        near = self.at.get(stem) or (self.numbers.get(int(stem)) if stem.isdecimal() else None) or []
        alike = [_common(parts, self.parts[i]) for i in near]
        best = max(alike, default=0)
        return [i for i, common in zip(near, alike, strict=True) if common == best], best


def _parts(name: str) -> list[str]:
    found = name.strip().replace("\\", "/").casefold()
    return [part for part in found.split("/") if part not in ("", ".")] or [""]


def _stem(last: str) -> str:
    return _ENDING.sub("", last)


def _common(one: Sequence[str], two: Sequence[str]) -> int:
    """How many parts are the same, from the last on; the last counts twice with its ending."""
    count = 1 + (one[-1] == two[-1])
    for a, b in zip(reversed(one[:-1]), reversed(two[:-1]), strict=False):
        if a != b:
            break
        count += 2
    return count


def _names_most(cells: Sequence[str], images: Sequence[str]) -> bool:
    """Whether a column has the names of most of the images."""
    if all(map(_WHOLE.fullmatch, cells)):
        return False
    stems = {_stem(_parts(cell)[-1]) for cell in cells}
    return sum(_stem(_parts(image)[-1]) in stems for image in images) > len(images) / 2


def _matched(table: Table, column: int, images: Sequence[str], labels: np.ndarray) -> tuple[np.ndarray, str]:
    """The line of each image (N,), and what is wrong, in a sentence; "" for nothing."""
    names, lines = _Names(images), np.full(len(images), -1)
    best = np.zeros(len(images), np.int64)
    lost: list[str] = []
    called = f"{table.path}, {table.called(column)}"
    for line, cell in enumerate(table.cells(column)):
        near, common = names.find(cell)
        if len(near) > 1:
            both = " and ".join(PurePosixPath(*names.parts[i][-2:]).as_posix() for i in near[:2])
            return lines, f"{called}: {printable(cell)} may be {printable(both)}; say the folder with it"
        if not near or common < best[near[0]]:
            lost.append(cell)
            continue
        (image,) = near
        if common == best[image] and labels[lines[image]] != labels[line]:
            one, two = (table.lines[i][0] for i in (lines[image], line))
            return lines, f"{called}: lines {one} and {two} are of one image, {printable(cell)}, and differ"
        lines[image], best[image] = line, common
    missing = np.flatnonzero(lines < 0)
    if not len(missing):
        return lines, ""
    more = (
        f"; {len(lost):,} of its {len(table.lines):,} lines match no image, as {printable(lost[0])}"
        if lost
        else ""
    )
    return lines, (
        f"{called} does not have {len(missing):,} of the {len(images):,} images of the whole train split, as "
        f"{printable(images[missing[0]])}{more}; a line with -1 says that an image has no label"
    )
