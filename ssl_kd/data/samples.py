"""Which members of a tar file are one sample: the last suffix says what a member is, the rest is its key.

`slide_3.5x.png` and `slide_3.5x.cls` share the key "slide_3.5x". A key may end in the name of a column, a
word after a dot: `KEY.image.png` and `KEY.target.cls` are one sample, and `KEY.left.png` and `KEY.right.png`
are two images of one, of which an option chooses.
"""

import os
import re
from collections import defaultdict
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np

from ssl_kd.data.files import first_line
from ssl_kd.data.image_files import BESIDE, extensions, kinds
from ssl_kd.errors import InputError
from ssl_kd.system.documents import from_json
from ssl_kd.system.text import printable

MOST_LABEL = 1 << 20  # bytes of a .cls or .json
COLUMN = re.compile("[A-Za-z_][A-Za-z_0-9]*")  # a word, which "5x" in slide_3.5x is not

Label = int | str | None
Sample = tuple[int, int, Label]  # first byte, bytes, label


@dataclass
class Index:
    """What the files together hold beside the samples, for people to be told.

    passed: members that are not read. bare, orphans: how many images have no label, and labels no image.
    """

    passed: list[str] = field(default_factory=list)
    bare: list[str] = field(default_factory=list)
    orphans: list[str] = field(default_factory=list)
    fields: dict[str, None] = field(
        default_factory=dict
    )  # of the .json files without the one that is asked for
    labelled: int = 0
    keys: list[np.ndarray] = field(default_factory=list)

    @property
    def passed_images(self) -> list[str]:
        """Those that may be images of a kind that cannot be read."""
        return [
            name for name in self.passed if os.path.splitext(name)[1].lower() not in (*BESIDE, *extensions())
        ]

    def told(self, where: str, images: int, field: str) -> list[str]:
        """Sentences: the counts, what is passed over, what has no partner."""
        said = [f"{images:,} images"]
        if self.labelled:
            said.append(f"{self.labelled:,} of them with a label")
        notes = [f"data: {where}: {', '.join(said)}"]
        if self.labelled and self.bare:
            notes.append(f"data: {where}: {len(self.bare):,} images have no label, as {self.bare[0]}")
        if self.orphans:
            notes.append(f"data: {where}: {len(self.orphans):,} labels have no image, as {self.orphans[0]}")
        if self.passed:
            notes.append(
                f"data: {where}: {len(self.passed):,} members are passed over, {kinds(self.passed)}, as "
                f"{self.passed[0]}"
            )
        if self.fields and not self.labelled:
            notes.append(
                f'data: {where}: no .json has the field "{field}"; data.label names one of '
                f"{', '.join(map(printable, list(self.fields)[:8]))}"
            )
        keys = np.concatenate(self.keys) if self.keys else np.zeros(0, np.int64)
        twice = len(keys) - len(np.unique(keys))
        if twice:
            notes.append(
                f"data: {where}: {twice:,} keys are in several files, whose images are taken as different"
            )
        return notes


@dataclass
class _Member:
    """One image or label: `key` is the name without its last suffix."""

    name: str
    key: str
    offset: int
    size: int
    json: bool = False

    def prefixes(self) -> Iterator[str]:
        """The key, then without one column, without two, ...; some of it always stays."""
        yield self.key
        folder, slash, base = self.key.rpartition("/")
        while True:
            base, dot, column = base.rpartition(".")
            if not base or not COLUMN.fullmatch(column):
                return
            yield folder + slash + base


def samples_of(
    path: Path, members: Iterable[tuple[str, int, int]], label_field: str, column: str | None, index: Index
) -> list[Sample]:
    """The samples of a tar file, in the order of their images; what else there is goes into `index`.

    members: names, first bytes and lengths. label_field, column: as `label` and `image` of `shards.shards`.
    Raises InputError.
    """
    images: dict[str, _Member] = {}
    labels: dict[str, _Member] = {}
    for name, offset, size in members:
        folder, slash, base = name.rpartition("/")
        if base.startswith(".") or "__MACOSX" in folder.split("/"):
            continue  # hidden
        stem, suffix = os.path.splitext(base)
        member = _Member(name, folder + slash + stem, offset, size, json=suffix.lower() == ".json")
        if suffix.lower() in extensions():
            if member.key in images:
                raise InputError(f"{path} has two images called {printable(member.key)}")
            images[member.key] = member
        elif suffix.lower() in (".cls", ".json"):
            before = labels.get(member.key)
            if before is not None and before.json == member.json:
                raise InputError(f"{path} has two labels called {printable(name)}")
            if before is None or before.json:  # a .cls goes before a .json
                labels[member.key] = member
        else:
            index.passed.append(f"{path}:{printable(name)}")
    kept = _chosen(path, images, labels, column, index)
    paired = _paired(path, kept, labels, label_field)
    found: list[Sample] = []
    with path.open("rb", buffering=0) as file:
        for image in kept:
            label = paired.get(image.key)
            value = None if label is None else _value(file.fileno(), path, label, label_field, index)
            if value is None:
                index.bare.append(f"{path}:{printable(image.name)}")
            else:
                index.labelled += 1
            found.append((image.offset, image.size, value))
    used = {label.key for label in paired.values()}
    index.orphans += [f"{path}:{printable(label.name)}" for key, label in labels.items() if key not in used]
    index.keys.append(np.array([hash(image.key) for image in kept], np.int64))
    return found


def _chosen(
    path: Path, images: dict[str, _Member], labels: dict[str, _Member], column: str | None, index: Index
) -> list[_Member]:
    """One image of each sample. Raises InputError where there are several and nothing says which."""
    if column == "all":
        return list(images.values())
    samples: dict[str, list[_Member]] = defaultdict(list)
    for image in images.values():
        if image.key in labels:  # it is a sample by itself, however many dots its key has
            samples[image.key].append(image)
        else:
            whole, *shorter = image.prefixes()
            known = (prefix for prefix in shorter if prefix in images or prefix in labels)
            samples[next(known, shorter[-1] if shorter else whole)].append(image)
    kept = []
    for key, some in samples.items():
        one = next((image for image in some if column and image.key == f"{key}.{column}"), None)
        one = one or next((image for image in some if image.key == key), None)
        if one is None and len(some) > 1:
            columns = [image.key.removeprefix(f"{key}.") for image in some]
            names = ", ".join(map(printable, columns[:6]))
            wrong = f' and none called "{column}"' if column else ""
            raise InputError(
                f"{path} has several images of the sample {printable(key)}, {names}{wrong}; data.image="
                f"{printable(columns[0])} takes these, data.image=all each for an image of its own"
            )
        kept.append(one or some[0])
        index.passed += [f"{path}:{printable(image.name)}" for image in some if image is not kept[-1]]
    chosen = {id(image) for image in kept}
    return [image for image in images.values() if id(image) in chosen]


def _paired(
    path: Path, images: Iterable[_Member], labels: dict[str, _Member], column: str
) -> dict[str, _Member]:
    """Key of an image -> its label: of the same key, or of one that differs in columns alone."""
    below: dict[str, list[_Member]] = defaultdict(list)
    for label in labels.values():
        for prefix in list(label.prefixes())[1:]:
            below[prefix].append(label)
    found: dict[str, _Member] = {}
    used: set[str] = set()
    rest = []
    for image in images:
        if image.key in labels:
            found[image.key] = labels[image.key]
            used.add(image.key)
        else:
            rest.append(image)
    for image in rest:
        for prefix in image.prefixes():
            if prefix in labels:
                found[image.key] = labels[prefix]
                break
            some = [label for label in below.get(prefix, ()) if label.key not in used]
            if some:
                found[image.key] = _one(path, prefix, some, column)
                break
    return found


def _one(path: Path, key: str, labels: list[_Member], column: str) -> _Member:
    """Of several labels of a sample that of the column, else a .cls. InputError where two are left."""
    named = [label for label in labels if label.key == f"{key}.{column}"]
    some = named or [label for label in labels if not label.json] or labels
    if len(some) > 1:
        columns = [label.key.removeprefix(f"{key}.") for label in some]
        raise InputError(
            f"{path} has several labels of the sample {printable(key)}, "
            f"{', '.join(map(printable, columns[:6]))}; data.label={printable(columns[0])} takes these"
        )
    return some[0]


def _value(file: int, path: Path, label: _Member, label_field: str, index: Index) -> Label:
    where = f"{path}:{printable(label.name)}"
    if label.size > MOST_LABEL:
        raise InputError(f"{where} has {label.size:,} bytes, which is no label")
    return _label(os.pread(file, label.size, label.offset), where, label_field if label.json else None, index)


def _label(content: bytes, where: str, field: str | None, index: Index) -> Label:
    """What a .cls file says, or the field of a .json file; None where that says nothing."""
    try:
        if field is None:
            value: Any = content.decode()
        else:
            said = from_json(content.decode(), where)
            value = said.get(field)
            index.fields |= {} if field in said else dict.fromkeys(map(str, said))
    except (ValueError, AttributeError, RecursionError) as error:
        raise InputError(f"{where} cannot be read ({first_line(error)})") from error
    if isinstance(value, str):
        value = value.strip()
        return int(value) if re.fullmatch(r"-?[0-9]{1,18}", value) else value or None
    if value is None or type(value) is int:
        return value
    raise InputError(f"{where}: {field} is {value!r}, neither a whole number nor a name")
