"""Data sets of the Hugging Face Hub, or of its format on disk, read at random places from mapped files.

Needs the package `datasets`, which the extra `hub` brings.
"""

import os
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager, nullcontext
from dataclasses import replace
from pathlib import Path
from typing import Any

from ssl_kd.data.files import first_line, read_file
from ssl_kd.data.labels import Said, lacks, listed
from ssl_kd.data.sources import RESIDENT_BYTES, Data, Part, encoded
from ssl_kd.data.splits import TEST, TRAIN, VALIDATION, role
from ssl_kd.errors import InputError, nearest
from ssl_kd.system import network
from ssl_kd.system.documents import json_of
from ssl_kd.system.paths import expand
from ssl_kd.system.text import printable

_LABELS = ("int", "uint", "string", "large_string")  # how the kinds of a column of labels begin
# What columns of classes are called, where their kind does not say that they are.
USUAL = "label labels target targets y class classes category fine_label coarse_label".split()


def hub(
    path: str,
    size: int,
    subset: str | None = None,
    image: str | None = None,
    label: str | None = None,
    train: str = "train",
    test: str | None = None,
    skip_broken: bool = False,
    limit: int | None = None,
    resident_bytes: int = RESIDENT_BYTES,
    bit_depth: int | None = None,
) -> Data:
    """A data set of the Hub, or on disk, as RGB squares of `size` pixels.

    path: a name on the Hub, a folder that `save_to_disk` wrote, or one of parquet, arrow or image files.
    subset: one of the configurations that a data set on the Hub may have.
    image, label: columns; None where there is one of images, and one of classes or none.
    train, test: splits; None for `test` takes "test", or else "validation", where there is one; one with
        labels before one without. Other spellings of these names are known, too (`splits.SPELLINGS`).
    skip_broken, limit, resident_bytes, bit_depth: as in `folders.folder`.
    """
    splits = _load(path, subset)
    if train == TRAIN:
        train = _split(path, splits, TRAIN, "train") or train
    if train not in splits:
        raise InputError(f'{path} has no split "{train}"; {nearest(train, list(splits))}')
    if test is not None and test not in splits:
        raise InputError(f'{path} has no split "{test}"; {nearest(test, list(splits))}')
    features = splits[train].features
    image = _column(path, features, "image", image, "Image")
    label = _column(path, features, "label", label, "ClassLabel")
    if image is None:
        raise InputError(f"{path} has no column of images; its columns are {', '.join(features)}")
    test = test or _test_split(path, splits, train, label)
    used = [train] if test is None else [train, test]
    said = [_said(splits[name], label) for name in used]
    names = [_names(splits[name], label) for name in used]
    where = [f"{path}, {name}" for name in used]
    if len(used) == 2 and all(map(_any, said)):
        said[1], names[1] = _as_in_train(said, names, where, str(label))
    data = encoded(
        [
            Part(Rows(splits[name], image, place, path), labels, place)
            for name, place, labels in zip(used, where, said, strict=True)
        ],
        size,
        names=names[0],
        test_names=names[-1],
        limit=limit,
        skip_broken=skip_broken,
        resident_bytes=resident_bytes,
        bit_depth=bit_depth,
    )
    why = _unlabelled(splits, train, label) if data.train.labels is None else ""
    return replace(data, notes=(_splits(path, splits, train, test), *data.notes), unlabelled=why)


def _test_split(path: str, splits: Mapping[str, Any], train: str, label: str | None) -> str | None:
    """The test split, or else the one to validate on, the first that has labels; None where there is none."""
    rest = {name: part for name, part in splits.items() if name != train}
    found = [_split(path, rest, part, "test") for part in (TEST, VALIDATION)]
    there = [name for name in found if name is not None]
    labelled = (name for name in there if _any(_said(splits[name], label)))
    return next(labelled, next(iter(there), None))


def _any(said: Said) -> bool:
    """Whether any image has a label."""
    return any(value is not None and value != -1 for value in said)


def _names(dataset: Any, label: str | None) -> Sequence[str]:
    """What the numbers of a split's labels stand for; () where it does not say it."""
    return tuple(getattr(dataset.features.get(label), "names", None) or ()) if label else ()


def _as_in_train(
    said: Sequence[Said], names: Sequence[Sequence[str]], where: Sequence[str], label: str
) -> tuple[Said, Sequence[str]]:
    """The test labels and their names, in the kind of the train part: numbers with names, or names.

    Raises InputError where only one part says what its numbers stand for.
    """
    if bool(names[0]) == bool(names[1]):
        return said[1], names[1]
    bare = 1 if names[0] else 0
    if not any(isinstance(value, str) for value in said[bare]):
        raise InputError(
            f'the column "{label}" of {where[1 - bare]} names its classes, {listed(names[1 - bare])}, and '
            f"that of {where[bare]} has numbers alone: make both ClassLabel (cast_column), or choose the "
            "splits by data.train= and data.test="
        )
    if bare == 0:
        return [None if value in (None, -1) else names[1][int(value)] for value in said[1]], ()
    place = {name: i for i, name in enumerate(names[0])}
    lacking = sorted({str(value) for value in said[1] if value is not None} - {*place})
    if lacking:
        raise lacks((where[0], where[1]), lacking, names[0])
    return [None if value is None else place[str(value)] for value in said[1]], names[0]


def _unlabelled(splits: Mapping[str, Any], train: str, label: str | None) -> str:
    """Why there are no labels, and which columns and splits there are."""
    features = splits[train].features
    columns = f"its columns are {', '.join(map(printable, features))}"
    if label is None:
        fit = [name for name, feature in features.items() if _kind(feature).startswith(_LABELS)]
        taken = next(iter(sorted(fit, key=lambda name: name.lower() not in USUAL)), None)
        return columns + (f"; data.label={printable(taken)} takes its labels from that one" if taken else "")
    others = [name for name in splits if name != train and _any(_said(splits[name], label))]
    have = f", and these splits have some: {', '.join(others)} (data.train=)" if others else ""
    return f'its column "{label}" holds none in the split {train}{have}'


def _kind(feature: Any) -> str:
    return str(getattr(feature, "dtype", "a list"))


def _splits(path: str, splits: Mapping[str, Any], train: str, test: str | None) -> str:
    """Which split is what."""
    rest = [f"{name} ({len(part):,})" for name, part in splits.items() if name not in (train, test)]
    tested = f"{test} ({len(splits[test]):,}) is tested on" if test else "none is tested on"
    more = f"; not read: {', '.join(map(printable, rest))}" if rest else ""
    return f"{path}: the split {train} ({len(splits[train]):,} images) is trained on, {tested}{more}"


def _split(path: str, splits: Mapping[str, Any], part: str, option: str) -> str | None:
    """The split whose name stands for a part; None where none does. Raises InputError for two."""
    found = [name for name in splits if role(name) == part]
    if part in found or not found:
        return part if found else None
    if len(found) > 1:
        raise InputError(
            f"{path} has the splits {', '.join(found)}, all of them {part}; choose by data.{option}="
            f"{found[0]}"
        )
    return found[0]


class Rows:
    """The images in one column of a `datasets.Dataset`, as they are stored; `where`: what people call it.

    A row may name a file instead of having the bytes; it must lie in the data set's folder `path`, or where
    `datasets` keeps what it has unpacked.
    """

    def __init__(self, dataset: Any, column: str, where: str, path: str):
        from datasets import Image, config
        from huggingface_hub.constants import HF_HUB_CACHE

        try:
            only = dataset.with_format(None).select_columns([column])
            self.dataset = only.cast_column(column, Image(decode=False))
        except Exception as error:  # arrow's, whatever stands in the column
            raise InputError(f'{where}: "{column}" is no column of images ({first_line(error)})') from error
        self.column, self.where = column, where
        places = (path, config.HF_DATASETS_CACHE, config.DOWNLOADED_DATASETS_PATH, HF_HUB_CACHE)
        homes = [expand(place) for place in places]
        self.homes = [home.absolute() for home in homes] + [home.resolve() for home in homes]

    def __len__(self) -> int:
        return len(self.dataset)

    def read(self, i: int) -> bytes:
        stored = self.dataset[i][self.column]
        if stored is None:
            raise ValueError("the row has none")
        if stored["bytes"] is not None:
            return stored["bytes"]
        file = Path(os.path.abspath(stored["path"] or ""))  # a link in the folder may lead elsewhere
        if not any(file.is_relative_to(home) for home in self.homes):
            raise ValueError(f"it names {file}, which is not in the data set")
        return read_file(file)

    def name(self, i: int) -> str:
        return f"{self.where}, row {i}"

    def names(self) -> list[str] | None:
        """The files that the images come from; None where the data set does not say it of all."""
        paths: list[str | None] = []
        for chunk in self.dataset.with_format("arrow").iter(1000):
            paths += chunk.column(self.column).combine_chunks().field("path").to_pylist()
        return [path for path in paths if path] if all(paths) else None


def _load(path: str, subset: str | None) -> Mapping[str, Any]:
    """The splits of a data set by their names."""
    try:
        import datasets
    except ImportError as error:
        raise InputError('data=hub needs the package "datasets": pip install "ssl-kd[hub]"') from error
    place = expand(path)
    saved = any((place / name).is_file() for name in ("dataset_dict.json", "state.json"))
    program = place / f"{place.name}.py"
    if program.is_file():  # older versions of `datasets` would run it
        raise InputError(f"the data set {path} has a program, {program.name}, and is not read for that")
    if saved:
        _check_parts(place)
    try:
        with nullcontext() if network.allowed() else _kept_only():
            if saved:
                found = datasets.load_from_disk(str(place))
            else:
                found = datasets.load_dataset(str(place) if place.is_dir() else path, subset)
    except Exception as error:  # of the network, of file systems, of arrow, and of its own
        if not place.is_dir():
            network.ask(f"the data set {path}", f"https://huggingface.co/datasets/{path}")
        cause = error.__cause__ if isinstance(error.__cause__, Exception) else error
        raise InputError(f"the data set {path} cannot be read ({first_line(cause)})") from error
    return found if isinstance(found, dict) else {"train": found}


@contextmanager
def _kept_only() -> Iterator[None]:
    """Inside, `datasets` takes what lies on this machine, and asks nobody whether there is anything newer."""
    from datasets import config
    from huggingface_hub import constants

    before = config.HF_HUB_OFFLINE, constants.HF_HUB_OFFLINE
    config.HF_HUB_OFFLINE = constants.HF_HUB_OFFLINE = True
    try:
        with network.fenced():  # the card of a folder may name addresses
            yield
    finally:
        config.HF_HUB_OFFLINE, constants.HF_HUB_OFFLINE = before


def _check_parts(place: Path) -> None:
    """Refuses what save_to_disk wrote where its files name parts that lie elsewhere."""
    whole = place.resolve()
    for file in [*place.glob("dataset_dict.json"), *place.glob("state.json"), *place.glob("*/state.json")]:
        try:
            said = json_of(file)
            parts = said.get("splits") or [part["filename"] for part in said.get("_data_files", [])]
            outside = [part for part in parts if not (file.parent / part).resolve().is_relative_to(whole)]
        except (ValueError, TypeError, KeyError, AttributeError, RecursionError) as error:
            raise InputError(f"the data set {place} cannot be read ({file}: {first_line(error)})") from error
        if outside:
            raise InputError(
                f"the data set {place} names a part that is not in it, {outside[0]} ({file.name})"
            )


def _column(path: str, features: Mapping[str, Any], what: str, wanted: str | None, kind: str) -> str | None:
    """The column `wanted`, or the only one of its kind, or None where there is none."""
    if wanted is not None:
        if wanted not in features:
            raise InputError(f'{path} has no column "{wanted}"; {nearest(wanted, list(features))}')
        return wanted
    found = [name for name, feature in features.items() if type(feature).__name__ == kind]
    if len(found) > 1:
        raise InputError(
            f"{path} has the {what} columns {', '.join(found)}; choose by data.{what}={found[0]}"
        )
    return found[0] if found else None


def _said(dataset: Any, label: str | None) -> Said:
    if label is None or label not in dataset.features:
        return []
    kind = _kind(dataset.features[label])
    if not kind.startswith(_LABELS):
        raise InputError(f'the column "{label}" holds {kind}, neither whole numbers nor names')
    return dataset.with_format(None)[label][:]
