"""Data sets of the Hugging Face Hub, or of its format on disk, read at random places from mapped files.

Needs the package `datasets`, which the extra `hub` brings.
"""

import json
import os
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from ssl_kd.data.files import first_line, read_file
from ssl_kd.data.labels import Said
from ssl_kd.data.sources import RESIDENT_BYTES, Data, Part, encoded
from ssl_kd.errors import InputError, nearest
from ssl_kd.system.paths import expand

TEST = ("test", "validation", "valid", "val")  # parts to score on, the first that is there


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
) -> Data:
    """A data set of the Hub, or on disk, as RGB squares of `size` pixels.

    path: a name on the Hub, a folder that `save_to_disk` wrote, or one of parquet, arrow or image files.
    subset: one of the configurations that a data set on the Hub may have.
    image, label: columns; None where there is one of images, and one of classes or none.
    train, test: splits; None for `test` takes "test", or else "validation", where there is one.
    skip_broken, limit, resident_bytes: as in `sources.folder`.
    """
    splits = _load(path, subset)
    if train not in splits:
        raise InputError(f'{path} has no split "{train}"; {nearest(train, list(splits))}')
    if test is not None and test not in splits:
        raise InputError(f'{path} has no split "{test}"; {nearest(test, list(splits))}')
    test = test or next((name for name in TEST if name in splits and name != train), None)
    features = splits[train].features
    image = _column(path, features, "image", image, "Image")
    label = _column(path, features, "label", label, "ClassLabel")
    if image is None:
        raise InputError(f"{path} has no column of images; its columns are {', '.join(features)}")
    parts = [
        Part(
            Rows(splits[name], image, f"{path}, {name}", path), _said(splits[name], label), f"{path}, {name}"
        )
        for name in (train, test)
        if name is not None
    ]
    names = getattr(features[label], "names", ()) if label else ()
    return encoded(
        parts, size, names=names, limit=limit, skip_broken=skip_broken, resident_bytes=resident_bytes
    )


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
        if saved:
            found = datasets.load_from_disk(str(place))
        else:
            found = datasets.load_dataset(str(place) if place.is_dir() else path, subset)
    except Exception as error:  # of the network, of file systems, of arrow, and of its own
        cause = error.__cause__ if isinstance(error.__cause__, Exception) else error
        raise InputError(f"the data set {path} cannot be read ({first_line(cause)})") from error
    return found if isinstance(found, dict) else {"train": found}


def _check_parts(place: Path) -> None:
    """Refuses what save_to_disk wrote where its files name parts that lie elsewhere."""
    whole = place.resolve()
    for file in [*place.glob("dataset_dict.json"), *place.glob("state.json"), *place.glob("*/state.json")]:
        try:
            said = json.loads(file.read_text(encoding="utf-8"))
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
    kind = getattr(dataset.features[label], "dtype", "a list")
    if not kind.startswith(("int", "uint", "string", "large_string")):
        raise InputError(f'the column "{label}" holds {kind}, neither whole numbers nor names')
    return dataset.with_format(None)[label][:]
