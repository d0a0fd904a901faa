"""What lies in a folder of a user's own, as training would read it: a few hundred images of it are opened."""

import statistics
from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from ssl_kd.data import Data, Encoded, arrays, folder, shards
from ssl_kd.data.files import decode, opened
from ssl_kd.data.image_files import extensions
from ssl_kd.errors import InputError, nearest
from ssl_kd.groups import choices
from ssl_kd.system.paths import expand
from ssl_kd.system.text import printable

LOOKED_AT = 200  # images that are opened, evenly spread
BUILT_IN = ("digits", "cifar10", "cifar100", "fashion_mnist")
_HUB = ("dataset_info.json", "dataset_dict.json", "*.parquet", "*.arrow")


@dataclass(frozen=True)
class Seen:
    """options: of data=kind, beside its size. edge: the median of the shorter sides, None where nobody knows.

    classes: name -> training images, empty without labels. looked, broken, grey: of the opened images.
    notes: how the files were understood.
    """

    kind: str
    options: dict[str, Any]
    name: str
    train: int = 0
    test: int = 0
    classes: dict[str, int] | None = None
    edge: int | None = None
    looked: int = 0
    broken: tuple[str, ...] = ()
    grey: bool = False
    notes: tuple[str, ...] = ()

    @property
    def labelled(self) -> bool:
        return bool(self.classes)


def look(place: str | None, said: Mapping[str, Any] | None = None) -> Seen:
    """A folder of images or tar files, a pattern of tar files, an .npz, a data set of Hugging Face.

    place: also the name of a data set of ours; None is the digits. said: options of data=folder that the user
    gives. Raises InputError.
    """
    path = expand(place or "")
    if place is None or (place in BUILT_IN and not path.exists()):
        name = place or "digits"
        edge = {"digits": 16, "fashion_mnist": 28}.get(name, 32)
        return Seen(name, {}, name, edge=edge, classes=dict.fromkeys(map(str, range(10)), 0))
    whole = str(path.absolute())
    if path.suffix == ".npz":
        return _seen("arrays", {"path": whole}, path.stem, arrays(path))
    if (
        path.suffix == ".tar"
        or any(c in path.name for c in "*{")
        or (path.is_dir() and any(path.glob("*.tar")))
    ):
        return _seen(
            "shards",
            {"path": whole},
            path.name if path.is_dir() else path.absolute().parent.name,
            shards(path, 32),
        )
    if not path.is_dir():
        if path.exists():
            kinds = " ".join(extensions())
            raise InputError(
                f"{place} is a file; name a folder of images ({kinds}) or of .tar files, or an .npz"
            )
        raise InputError(f"there is no folder {place}; {_like(path)}")
    if any(next(path.glob(pattern), None) for pattern in _HUB):
        from ssl_kd.data import hub

        return _seen("hub", {"path": whole}, path.name, hub(whole, 32))
    options: dict[str, Any] = {"root": whole, **(said or {})}
    try:
        data = folder(path, 32, **(said or {}))
    except InputError as error:
        if "beside its sub-folders" not in str(error):
            raise
        options["labels"] = "none"  # no layout of classes: the folders mean something else
        data = folder(path, 32, labels="none", **(said or {}))
    return _seen("folder", options, path.resolve().name, data)


def _like(path: Path) -> str:
    """The nearest name beside a path that is not there, or among ours."""
    beside = [entry.name for entry in path.parent.iterdir() if entry.is_dir()] if path.parent.is_dir() else []
    said = nearest(path.name, beside) if beside else ""
    return (
        said
        if said.startswith("did you mean")
        else f"or a name: {', '.join(c for c in choices('data') if c in BUILT_IN)}"
    )


def _seen(kind: str, options: dict[str, Any], name: str, data: Data) -> Seen:
    """Counts, and what a look at some of the images says."""
    train: Any = data.train
    at = np.unique(np.linspace(0, len(train) - 1, min(LOOKED_AT, len(train))).astype(int))
    broken, edges, grey = [], [], []
    for i in map(int, at):
        if not isinstance(train, Encoded):
            image = train[i]
        else:
            try:
                content = train.stored.read(train._position(i))
                image = decode(content, 32, train.bit_depth)
                edges.append(_edge(content))
            except Exception:  # Pillow's decoders let any type through
                broken.append(printable(train.name(i)))
                continue
        grey.append(len(image) == 1 or bool((image == image[:1]).all()))
    counts: Counter[int] = Counter(train.labels.tolist() if train.labels is not None else ())
    edge = int(statistics.median(edges)) if edges else int(min(train.shape[1:]))
    if len(broken) == len(at):
        raise InputError(
            f"none of the {len(at)} images that were opened can be decoded, the first is {broken[0]}"
        )
    return Seen(
        kind,
        options,
        name,
        len(train),
        len(data.test) if data.test is not None else 0,
        {cls: counts[k] for k, cls in enumerate(train.classes)},
        edge,
        len(at),
        tuple(broken),
        bool(grey) and all(grey),
        data.notes,
    )


def _edge(content: bytes) -> int:
    """The shorter side, before anything is scaled."""
    with opened(content) as image:
        return min(image.size)
