"""What images there are: a source is indexable and gives uint8 (C, H, W), all of one shape, labelled or not.

`digits` needs no files, `arrays` reads an .npz, `cifar10`, `cifar100` and `fashion_mnist` come through
torchvision; `folders.folder`, `shards.shards` and `hub.hub` decode image files; each returns
`Data(train, test)`. Bad input raises InputError.
"""

from collections.abc import Iterator, Sequence
from copy import copy
from dataclasses import dataclass, field, replace
from functools import partial
from pathlib import Path
from typing import Any, Protocol

import numpy as np
import torch

from ssl_kd.data import depth
from ssl_kd.data.files import data_root, decode, first_line
from ssl_kd.data.labels import Said, number
from ssl_kd.data.npz import read_npz
from ssl_kd.data.workers import Chunk, decoding_threads, in_chunks
from ssl_kd.errors import InputError
from ssl_kd.streams import generator
from ssl_kd.system import network
from ssl_kd.system.paths import expand
from ssl_kd.system.text import printable

RESIDENT_BYTES = 2 << 30  # a source up to this size is held decoded


class Source(Protocol):
    """Images that can be indexed; anything with these members serves."""

    @property
    def shape(self) -> tuple[int, int, int]:
        """(C, H, W) of every image."""

    @property
    def labels(self) -> np.ndarray | None:
        """int64 (N,), -1 for an image without a label; None where there are no labels."""

    @property
    def classes(self) -> tuple[str, ...]:
        """Name of each label; () where there are no labels."""

    def __len__(self) -> int: ...

    def __getitem__(self, i: int) -> np.ndarray: ...  # uint8 (C, H, W)


@dataclass(eq=False)
class Arrays:
    """Images in memory: uint8 (N, C, H, W), labels int64 (N,) or None.

    at: where they lie (N,) among the `of` images that they were chosen from; None for all there were.
    numbers: what the data call each class, where that is a number; () where it is a name.
    """

    images: np.ndarray
    labels: np.ndarray | None = None
    classes: tuple[str, ...] = ()
    at: np.ndarray | None = None
    of: int | None = None
    numbers: tuple[int, ...] = ()

    def __post_init__(self) -> None:
        if self.images.dtype != np.uint8 or self.images.ndim != 4 or len(self.images) == 0:
            found = f"{self.images.dtype} {self.images.shape}"
            raise InputError(f"images must be uint8 (N, C, H, W), not {found}")
        if self.labels is not None:
            check_labels(len(self.images), self.labels)
            self.labels = self.labels.astype(np.int64)

    @property
    def shape(self) -> tuple[int, int, int]:
        _, channels, height, width = self.images.shape
        return channels, height, width

    def __len__(self) -> int:
        return len(self.images)

    def __getitem__(self, i: int) -> np.ndarray:
        return self.images[i]

    def part(self, at: np.ndarray) -> "Arrays":
        """A copy of the images at positions `at` (M,)."""
        labels = self.labels[at] if self.labels is not None else None
        place = at if self.at is None else self.at[at]
        return replace(self, images=self.images[at], labels=labels, at=place, of=self.of or len(self))


class Stored(Protocol):
    """Where encoded images lie. Worker processes get it pickled or by a fork, and threads share it."""

    def __len__(self) -> int: ...

    def read(self, i: int) -> bytes: ...  # what is in an image file

    def name(self, i: int) -> str: ...  # of image i, for people


@dataclass(eq=False)
class Encoded:
    """Images as they are stored, decoded when indexed: RGB squares of `size` pixels.

    resident_bytes: held decoded in memory where all of them together take no more.
    at: the images that belong to the source, by their positions in `stored`; None for all of them.
    skipped: names of the broken ones that were left out. bit_depth: see `files.decode`.
    numbers: what the data call each class, where that is a number; () where it is a name.
    """

    stored: Stored
    size: int
    labels: np.ndarray | None = None
    classes: tuple[str, ...] = ()
    resident_bytes: int = RESIDENT_BYTES
    at: np.ndarray | None = None
    skipped: list[str] = field(default_factory=list)
    numbers: tuple[int, ...] = ()
    bit_depth: int | None = None
    _resident: torch.Tensor | None = field(default=None, init=False, repr=False)

    @property
    def shape(self) -> tuple[int, int, int]:
        return 3, self.size, self.size

    def __len__(self) -> int:
        return len(self.stored if self.at is None else self.at)

    def __getitem__(self, i: int) -> np.ndarray:
        try:
            return decode(self.stored.read(self._position(i)), self.size, self.bit_depth)
        except Exception as error:  # besides OSError, Pillow's decoders let many other types through
            raise InputError(f"{printable(self.name(i))} cannot be decoded ({first_line(error)})") from error

    def name(self, i: int) -> str:
        return self.stored.name(self._position(i))

    def _position(self, i: int) -> int:
        return i if self.at is None else int(self.at[i])


@dataclass(frozen=True)
class Part:
    """Images as they are stored, what is said of their labels (or nothing), and what people call the part."""

    stored: Stored
    said: Said
    where: str


@dataclass(frozen=True)
class Data:
    """What is trained on, and what the probes score.

    labelled: other images, with labels, that the probes take in place of these: a few labelled images beside
        many without labels.
    notes: what people should know of the data before they are trained on, a sentence each.
    unlabelled: why the train images have no labels, and which option gives them some, where there is one.
    """

    train: Source
    test: Source | None = None
    labelled: "Data | None" = None
    notes: tuple[str, ...] = ()
    unlabelled: str = ""

    @property
    def scored(self) -> "Data":
        """What the probes learn from and are tested on."""
        return self if self.labelled is None else self.labelled


def lacks_labels(name: str, data: Data) -> str:
    """The end of a refusal: that the train images have no labels, or where they might be."""
    if not data.unlabelled:
        return f'the data "{name}" has none'
    return f'none are taken from the data "{name}": {data.unlabelled}'


def check_labels(images: int, labels: np.ndarray) -> None:
    """InputError unless there is one integer for each image."""
    if labels.shape != (images,) or labels.dtype.kind not in "iu":
        raise InputError(f"{images} images need {images} integer labels, not {labels.dtype} {labels.shape}")


def digits(limit: int | None = None) -> Data:
    """scikit-learn's 1,797 digits: grey, 8x8, 0..255; a fixed stratified split, 1,437 train and 360 test."""
    from sklearn.datasets import load_digits
    from sklearn.model_selection import train_test_split

    raw = load_digits()
    images = np.round(raw.images * (255 / 16)).astype(np.uint8)[:, None]
    train, test = train_test_split(np.arange(len(images)), test_size=360, stratify=raw.target, random_state=0)
    classes = tuple(map(str, range(10)))
    halves = [Arrays(images[part], raw.target[part], classes) for part in (train, test)]
    return Data(_limited(halves[0], limit), halves[1])


def arrays(path: str | Path, limit: int | None = None) -> Data:
    """An .npz file of uint8 images with the keys of `files.read_npz` (MedMNIST has them, too)."""
    path = expand(path)
    choose = None if limit is None else partial(chosen_by_limit, limit=limit)
    train, test, names, others = read_npz(path, choose)
    said, asked = (
        [] if part is None or part.labels is None else part.labels.tolist() for part in (train, test)
    )
    found = number(said, asked, (f"{path}: train_labels", f"{path}: test_labels"), names)
    halves = []
    for part, every in ((train, found.train), (test, found.test)):
        if part is not None:
            labels = every[part.at] if every is not None and part.at is not None else every
            classes, of = found.classes if labels is not None else (), None if part.at is None else part.of
            halves.append(Arrays(part.images, labels, classes, part.at, of, found.numbers))
    why = f"{path} has no train_labels, and holds {', '.join(others)}" if others and not found.classes else ""
    return Data(halves[0], halves[1] if test else None, notes=found.notes, unlabelled=why)


def cifar10(root: str | Path | None = None, limit: int | None = None) -> Data:
    """CIFAR-10 (Krizhevsky 2009): 50,000 train, 10,000 test, RGB 32x32; downloaded if missing."""
    return _torchvision("CIFAR10", data_root(root), limit, "cifar-10-python.tar.gz")


def cifar100(root: str | Path | None = None, limit: int | None = None) -> Data:
    """CIFAR-100 (Krizhevsky 2009): 50,000 train, 10,000 test, RGB 32x32; downloaded if missing."""
    return _torchvision("CIFAR100", data_root(root), limit, "cifar-100-python.tar.gz")


def fashion_mnist(root: str | Path | None = None, limit: int | None = None) -> Data:
    """Fashion-MNIST (Xiao et al. 2017): 60,000 train, 10,000 test, grey 28x28; under `root`/fashion-mnist."""
    place = data_root(root)
    place = place if (place / "FashionMNIST").is_dir() else place / "fashion-mnist"
    names = "{train,t10k}-{images-idx3,labels-idx1}-ubyte.gz (under FashionMNIST/raw)"
    return _torchvision("FashionMNIST", place, limit, names)


def _torchvision(name: str, root: Path, limit: int | None, files: str) -> Data:
    """Both parts of a torchvision data set: what lies in `root` first, a download second."""
    from torchvision import datasets

    def part(train: bool) -> Arrays:
        try:
            data = getattr(datasets, name)(root, train=train, download=False)
        except Exception:  # missing files are a RuntimeError, damaged ones anything
            kind = getattr(datasets, name)
            address = kind.url if hasattr(kind, "url") else kind.mirrors[0]
            network.ask(f"{name}, of which {root} has no whole copy,", address)
            try:
                data = kind(root, train=train, download=True)
            except Exception as error:
                unsafe = "weights_only" in str(error)  # torch refuses to execute a file, and advises to
                why = "a file of it holds more than numbers" if unsafe else first_line(error)
                failed = f"{name} could be neither read nor downloaded ({why})"
                raise InputError(f"{failed}; put {files} into {root}") from error
        images = np.asarray(data.data)
        images = images[:, None] if images.ndim == 3 else np.ascontiguousarray(images.transpose(0, 3, 1, 2))
        return Arrays(images, np.asarray(data.targets, dtype=np.int64), tuple(data.classes))

    return Data(_limited(part(True), limit), part(False))


def encoded(
    parts: Sequence[Part],
    size: int,
    *,
    names: Sequence[str] = (),
    test_names: Sequence[str] = (),
    limit: int | None = None,
    skip_broken: bool = False,
    resident_bytes: int = RESIDENT_BYTES,
    bit_depth: int | None = None,
    notes: Sequence[str] = (),
) -> Data:
    """The train part and, where there is a second, the test part as data.

    names, test_names: of the classes, where labels are numbers (see `labels.number`).
    The other options are those of `folders.folder`. Raises InputError.
    """
    if size < 1:
        raise InputError(f"size must be at least 1 pixel, not {size}")
    test = parts[1].said if parts[1:] else []
    found = number(parts[0].said, test, (parts[0].where, parts[-1].where), names, test_names)
    said = ""
    if bit_depth is None:
        bit_depth, said = depth.of_data_set(content for part in parts for content in _sample(part.stored))
    elif isinstance(bit_depth, bool) or not isinstance(bit_depth, int) or not 8 <= bit_depth <= depth.FULL:
        raise InputError(f"bit_depth is a whole number from 8 to 16, not {bit_depth}")
    sources = [
        Encoded(
            part.stored,
            size,
            label,
            found.classes if label is not None else (),
            resident_bytes,
            numbers=found.numbers,
            bit_depth=bit_depth,
        )
        for part, label in zip(parts, (found.train, found.test), strict=False)
    ]
    sources[0] = _limited(sources[0], limit)
    train, *others = [_without_broken(source) for source in sources] if skip_broken else sources
    return Data(train, others[0] if others else None, notes=(*notes, *found.notes, *([said] if said else [])))


def _sample(stored: Stored) -> Iterator[bytes]:
    """What is in a few of the files, evenly spread, as far as they can be read."""
    count, stored = min(depth.LOOKED_AT, len(stored)), copy(stored)  # which opens files of its own
    for i in np.unique(np.linspace(0, len(stored) - 1, count).astype(int)).tolist():
        try:
            yield stored.read(i)
        except Exception:  # a data set's own store lets any type through; training on the image says why
            continue


def _without_broken(source: Encoded) -> Encoded:
    """Decode everything once and keep what can be decoded; the images too, where `loaders.resident` looks."""
    fits = len(source) * 3 * source.size**2 <= source.resident_bytes
    images = np.empty((len(source) if fits else 0, *source.shape), np.uint8)
    good = np.zeros(len(source), bool)

    def attempt(chunk: Chunk) -> None:
        for i in chunk:
            try:
                image = source[i]
            except InputError:
                continue
            good[i] = True
            if fits:
                images[i] = image

    list(in_chunks(attempt, len(source), decoding_threads(), source.name))
    skipped = [printable(source.name(int(i))) for i in np.flatnonzero(~good)]
    if not good.any():
        raise InputError(f"none of the {len(skipped)} images can be decoded, the first is {skipped[0]}")
    kept = _chosen(source, np.flatnonzero(good)) if skipped else source
    kept.skipped = skipped
    if fits:
        kept._resident = torch.from_numpy(images[good] if skipped else images)
    return kept


def _limited(source: Any, limit: int | None) -> Any:
    """The first `limit` images of a fixed shuffle, in their old order; all of them if there are fewer."""
    return source if limit is None else _chosen(source, chosen_by_limit(len(source), limit))


def chosen_by_limit(images: int, limit: int | None) -> np.ndarray:
    """Positions (M,) of the images that a limit leaves; None leaves all. Raises InputError."""
    if limit is None:
        return np.arange(images)
    if isinstance(limit, bool) or not isinstance(limit, int):
        raise InputError(f'limit must be a whole number, and "{limit}" is not')
    if limit < 1:
        raise InputError(f"limit must be at least 1, not {limit}")
    shuffled = torch.randperm(images, generator=generator("limit"))
    return shuffled[:limit].sort().values.numpy()


def _chosen(source: Any, at: np.ndarray) -> Any:
    if isinstance(source, Arrays):
        return source.part(at)
    labels = source.labels[at] if source.labels is not None else None
    return replace(source, labels=labels, at=at if source.at is None else source.at[at])
