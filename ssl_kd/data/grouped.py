"""Images that belong together (of one patient, video or burst), by what their names or a table say."""

import re
from collections.abc import Mapping
from pathlib import PurePosixPath
from typing import Any

import numpy as np

from ssl_kd.data.label_files import SUFFIXES
from ssl_kd.data.label_tables import cells_of, read_table
from ssl_kd.data.relabel import names_of, positions
from ssl_kd.data.sources import Source
from ssl_kd.errors import InputError
from ssl_kd.system.paths import expand
from ssl_kd.system.text import printable

WAYS = (
    "hold_out_group is a folder level (1 is the folder that an image lies in, 2 the one above it), a pattern "
    "of the file name such as '(patient\\d+)', or {file: patients.csv, column: patient}"
)


def groups_of(source: Source, by: Any) -> np.ndarray:
    """A number for each image, int64 (N,), the same for the images of one group. Raises InputError.

    by: a folder level, from 1, the folder that an image lies in, upwards; a regular expression that is looked
    for in each name, whose first group, or all of it, is what counts; or {file, column} of a table, matched
    by the names of images as the tables of labels are.
    """
    at, count = positions(source)
    if isinstance(by, Mapping):
        found = _in_table(by, count, names_of(source))
    else:
        names = names_of(source)
        if names is None:
            raise InputError(
                "hold_out_group: these data have no names of images; {file: patients.csv, column: patient} "
                "takes a line for each image"
            )
        found = _in_names([names[i] for i in at.tolist()], by)
        at = np.arange(len(found))
    numbers: np.ndarray = np.unique(np.array(found)[at], return_inverse=True)[1].astype(np.int64)
    if len(numbers) and not numbers.any():
        raise InputError(f"hold_out_group: all images are of one group; {WAYS}")
    return numbers


def _in_names(names: list[str], by: Any) -> list[str]:
    if isinstance(by, int) and not isinstance(by, bool) and by >= 1:
        paths = [PurePosixPath(name.replace("\\", "/")) for name in names]
        short = next((path for path in paths if len(path.parts) <= by), None)
        if short is not None:
            raise InputError(f"hold_out_group={by}: {printable(str(short))} has no {by} folders above it")
        return ["/".join(path.parts[:-by]) for path in paths]
    if not isinstance(by, str) or not by:
        raise InputError(f"{WAYS}, not {by!r}")
    try:
        pattern = re.compile(by)
    except re.error as error:
        raise InputError(f'hold_out_group: "{printable(by)}" is no regular expression ({error})') from error
    found = [pattern.search(name) for name in names]
    lost = [name for name, match in zip(names, found, strict=True) if match is None]
    if lost:
        raise InputError(
            f'hold_out_group: "{printable(by)}" is not found in {len(lost):,} of {len(names):,} names, as in '
            f"{printable(lost[0])}"
        )
    return [match[1] or "" if pattern.groups else match[0] for match in found if match is not None]


def _in_table(by: Mapping[str, Any], count: int, names: list[str] | None) -> list[str]:
    if {*by} != {"file", "column"} or not all(isinstance(value, str) for value in by.values()):
        raise InputError(f"{WAYS}, not {dict(by)}")
    path = expand(by["file"])
    if path.suffix.lower() not in SUFFIXES:
        raise InputError(f"hold_out_group.file is one of {', '.join(SUFFIXES)}, and {path} is not")
    if not path.is_file():
        raise InputError(f"hold_out_group.file: there is no file {path}")
    try:
        table = read_table(path, by["column"])
    except InputError:
        raise
    except Exception as error:  # of csv and of arrow
        raise InputError(f"hold_out_group.file: {path} cannot be read ({error})") from error
    cells = cells_of(table, by["column"], count, names)
    if "" in cells:
        raise InputError(f'{path}: {cells.count(""):,} images have no "{by["column"]}"')
    return cells
