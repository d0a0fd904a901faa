"""A torch Dataset of the user's own, as a source: its images become uint8 squares, exactly or not at all.

It gives (image, label) or an image alone, by its index. An image is of Pillow, or uint8, or floats that are
whole 255ths (what ToTensor makes); views and normalising are made on the device, so random transforms and
normalised floats are refused. What the labels are is asked of every item, unless the data set has them in
`targets` or `labels`, as torchvision's do.
"""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from threading import Lock
from typing import Any

import numpy as np
import torch
from torch import Tensor
from torch.utils.data import IterableDataset, Subset

from ssl_kd.data import adapt
from ssl_kd.data.ahead import ahead
from ssl_kd.data.files import first_line, squared
from ssl_kd.data.items import Label, label_of, pillow, shown
from ssl_kd.data.labels import number
from ssl_kd.data.sources import RESIDENT_BYTES, Data, chosen_by_limit
from ssl_kd.data.workers import CHUNK, Begin, decoding_processes
from ssl_kd.errors import InputError
from ssl_kd.own.loading import Granted, sent

LOOKED_AT = 4  # items that are asked for twice at the start
FEW = 1024  # items that one process reads faster than several start


@dataclass(eq=False)
class Own:
    """The images of a data set with `__len__` and `__getitem__`; of three channels, or one.

    Threads ask it one after the other: a user's data set need not be made for them.
    """

    dataset: Any
    size: int
    channels: int
    where: str
    labels: np.ndarray | None = None
    classes: tuple[str, ...] = ()
    numbers: tuple[int, ...] = ()
    resident_bytes: int = RESIDENT_BYTES
    bit_depth: int | None = None
    _resident: Tensor | None = field(default=None, init=False, repr=False)
    _lock: Any = field(default_factory=Lock, init=False, repr=False)

    @property
    def shape(self) -> tuple[int, int, int]:
        return self.channels, self.size, self.size

    def __len__(self) -> int:
        return len(self.dataset)

    def __getitem__(self, i: int) -> np.ndarray:
        return self.item(i)[0]

    def name(self, i: int) -> str:
        return f"item {i} of {self.where}"

    def item(self, i: int) -> tuple[np.ndarray, list[Label]]:
        """Image i, uint8 (C, size, size), and its label, or [] for an image alone.

        Raises InputError, and what the data set raises.
        """
        with self._lock:
            given = self.dataset[i]
        where = self.name(i)
        if isinstance(given, dict) or (isinstance(given, tuple | list) and len(given) not in (1, 2)):
            raise InputError(f"{where} is {shown(given)}; it has to be an image, or an image and its label")
        image, *label = given if isinstance(given, tuple | list) else (given,)
        decoded = pillow(image, where)
        try:
            square = squared(decoded, self.size, self.bit_depth)
        except (ValueError, OSError) as error:
            raise InputError(f"{where} cannot be decoded ({first_line(error)})") from error
        said = [label_of(one, where) for one in label]
        if self.channels == 1:
            return np.asarray(square.convert("L"))[None].copy(), said
        return np.ascontiguousarray(np.asarray(square).transpose(2, 0, 1)), said

    def names(self) -> list[str] | None:
        """The files of the images, where the data set lists them as torchvision's do; else None."""
        listed: Any = self.dataset
        at: Sequence[int] = range(len(self))
        while isinstance(listed, Subset):
            listed, at = listed.dataset, [int(listed.indices[i]) for i in at]
        found = getattr(listed, "samples", None) or getattr(listed, "imgs", None)
        if not isinstance(found, list | tuple) or not all(isinstance(one, tuple) for one in found):
            return None
        return [str(found[i][0]) for i in at]

    def __getstate__(self) -> dict[str, Any]:
        return {key: value for key, value in self.__dict__.items() if key != "_lock"}

    def __setstate__(self, state: dict[str, Any]) -> None:
        self.__dict__.update(state, _lock=Lock())


def dataset(
    train: Any,
    size: int,
    test: Any = None,
    channels: int = 3,
    labels: str = "auto",
    limit: int | None = None,
    resident_bytes: int = RESIDENT_BYTES,
    workers: int | None = None,
    bit_depth: int | None = None,
) -> Data:
    """Data sets with `__len__` and `__getitem__`, as torch's, as squares of `size` pixels.

    train, test: the data sets. channels: 3 for RGB, 1 for grey.
    labels: "auto" takes what stands beside the images, "none" never looks at it.
    limit: train on this many images, chosen once and for all; the others are not read.
    resident_bytes: read once, here, and held in memory where they take no more; else by worker processes
        again and again, and here only for labels that the data set says nowhere else.
    bit_depth: of images of 16 bits: how many bits their values have (see `depth`).
    workers: processes that read; None: as many as suit the machine. Raises InputError.
    """
    if labels not in ("auto", "none"):
        raise InputError(f'labels must be "auto" or "none", not "{labels}"')
    if channels not in (1, 3):
        raise InputError(f"channels must be 3 (RGB) or 1 (grey), not {channels}")
    if size < 1:
        raise InputError(f"size must be at least 1 pixel, not {size}")
    parts = [_own(train, size, channels, "data.train", resident_bytes, bit_depth)]
    if test is not None:
        parts.append(_own(test, size, channels, "data.test", resident_bytes, bit_depth))
    sources: list[Any] = []
    said: list[list[Label]] = []
    for part, most in zip(parts, (limit, None), strict=False):
        at = chosen_by_limit(len(part), most)
        known = _known(part, at) if labels == "auto" else []
        source: Any = part if len(at) == len(part) else adapt.Subset(part, at, None)
        fits = len(at) * channels * size**2 <= resident_bytes
        if fits or known is None:
            found = _read(part, at, fits, workers)
            source._resident = found[0]
            known = found[1] if known is None else known
        sources.append(source)
        said.append(known)
    where = parts[0].where, parts[-1].where
    names, others = _names(train), () if test is None else _names(test)
    numbered = number(said[0], said[1] if said[1:] else [], where, names, others)
    for part, source, own in zip(parts, sources, (numbered.train, numbered.test), strict=False):
        source.labels = own
        part.classes, part.numbers = (numbered.classes, numbered.numbers) if own is not None else ((), ())
    notes = numbered.notes
    if numbered.test is not None and bool(names) != bool(others) and numbered.numbers:
        named = where[0] if names else where[1]
        notes += (
            f"only {named} names its classes, so the numbers of both data sets are taken for the same; "
            "`classes` or `class_to_idx` of the other would tell",
        )
    return Data(sources[0], sources[1] if test is not None else None, notes=notes)


def _own(given: Any, size: int, channels: int, where: str, resident_bytes: int, bit_depth: int | None) -> Own:
    if isinstance(given, str | list | dict) or given is None:
        raise InputError(f"{where} must name a data set, as {{_target_: my_module.MyDataset}}, not {given}")
    if isinstance(given, IterableDataset) or not (
        hasattr(given, "__len__") and hasattr(given, "__getitem__")
    ):
        raise InputError(
            f"{where} is a {type(given).__name__} without an index; an exact shuffle needs __len__ and "
            "__getitem__"
        )
    if len(given) == 0:
        raise InputError(f"{where} is empty")
    own = Own(given, size, channels, where, resident_bytes=resident_bytes, bit_depth=bit_depth)
    for i in _spread(np.arange(len(given))):
        if not np.array_equal(own[i], own[i]):
            raise InputError(
                f"{where} gives another image each time it is asked for item {i}; leave its random "
                "transforms out: views are made on the device (recipe=...)"
            )
    return own


def _known(own: Own, at: np.ndarray) -> list[Label] | None:
    """The labels of the items `at` where they can be had without reading all; None where they cannot."""
    looked = {i: own.item(i)[1] for i in _spread(at)}
    if not any(looked.values()):
        return []  # images alone
    said = _said(own.dataset)
    if said is None or len(said) != len(own):
        return None
    try:
        labels = {i: label_of(said[i], own.where) for i in at.tolist()}
    except InputError:
        return None
    return list(labels.values()) if all([labels[i]] == label for i, label in looked.items()) else None


def _said(dataset: Any) -> Any:
    """What a data set says of all its labels at once, as torchvision's do; None where it does not."""
    if isinstance(dataset, Subset):
        whole = _said(dataset.dataset)
        return None if whole is None else [whole[i] for i in dataset.indices]
    for name in ("targets", "labels"):
        found = getattr(dataset, name, None)
        if isinstance(found, list | tuple | np.ndarray | Tensor) and len(found) > 0:
            return found.tolist() if isinstance(found, np.ndarray | Tensor) else found
    return None


def _read(own: Own, at: np.ndarray, keep: bool, workers: int | None) -> tuple[Tensor | None, list[Label]]:
    """Every item of `at` once, in order: the images uint8 (M, C, H, W), if they are kept, and the labels."""
    images = torch.empty((len(at), *own.shape), dtype=torch.uint8) if keep else None
    labels: list[Label] = []
    for part, said in _chunks(own, at, keep, workers):
        if images is not None:
            images[len(labels) : len(labels) + len(said)] = part
        labels += said
    return images, labels


def _chunks(own: Own, at: np.ndarray, keep: bool, workers: int | None) -> Iterator[tuple[Any, list[Label]]]:
    several = decoding_processes() if workers is None else workers
    tasks = np.split(at, range(CHUNK, len(at), CHUNK))
    size = CHUNK * int(np.prod(own.shape)) if keep else 0
    yield from ahead(_Chunks(own, keep), tasks, several if len(at) > FEW else 0, own.name, size)


class _Chunks:
    """At positions: images (b, C, H, W) or nothing, and their labels."""

    def __init__(self, own: Own, keep: bool) -> None:
        self.own, self.keep = own, keep

    def __reduce__(self) -> tuple[Any, ...]:
        return sent, (Granted(), type(self), self.own, self.keep)  # to a worker process that is no fork

    def __call__(self, at: np.ndarray, begin: Begin) -> tuple[np.ndarray | None, list[Label]]:
        items = []
        for i in at.tolist():
            begin(i)
            items.append(self.own.item(i))
        labels = [label[0] if label else None for _, label in items]
        return np.stack([image for image, _ in items]) if self.keep else None, labels


def _names(dataset: Any) -> tuple[str, ...]:
    """What a data set calls its classes, if it does."""
    while isinstance(dataset, Subset):
        dataset = dataset.dataset
    places = getattr(dataset, "class_to_idx", None)
    if isinstance(places, Mapping) and sorted(set(places.values())) == list(range(len(set(places.values())))):
        first = {i: str(name) for name, i in reversed(list(places.items()))}  # a class may have several names
        return tuple(first[i] for i in range(len(first)))
    found = getattr(dataset, "classes", None)
    if isinstance(found, list | tuple) and all(isinstance(name, str) for name in found):
        return tuple(found)
    return ()


def _spread(at: np.ndarray) -> list[int]:
    """A few of the positions, evenly spaced."""
    return [int(at[i]) for i in sorted({(len(at) - 1) * k // (LOOKED_AT - 1) for k in range(LOOKED_AT)})]
