"""What images there are: a source is indexable and gives uint8 (C, H, W), all of one shape, labelled or not.

`digits` needs no files, `arrays` reads an .npz, `cifar10`, `cifar100` and `fashion_mnist` come through
torchvision, `folder` decodes image files; each returns `Data(train, test)`. Bad input raises InputError.
"""

import os
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Protocol

import numpy as np
import torch

from ssl_kd.data.files import class_index, class_names, data_root, decode, first_line, image_files, read_npz
from ssl_kd.errors import InputError
from ssl_kd.streams import generator

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
    """Images in memory: uint8 (N, C, H, W), labels int64 (N,) or None."""

    images: np.ndarray
    labels: np.ndarray | None = None
    classes: tuple[str, ...] = ()

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


@dataclass(eq=False)
class FolderSource:
    """Image files, decoded when indexed: RGB squares of `size` pixels. `skipped`: broken files left out."""

    files: list[Path]
    size: int
    labels: np.ndarray | None = None
    classes: tuple[str, ...] = ()
    skipped: list[str] = field(default_factory=list)

    @property
    def shape(self) -> tuple[int, int, int]:
        return 3, self.size, self.size

    def __len__(self) -> int:
        return len(self.files)

    def __getitem__(self, i: int) -> np.ndarray:
        return decode(self.files[i], self.size)


@dataclass(frozen=True)
class Data:
    train: Source
    test: Source | None = None


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
    train, test, classes = read_npz(Path(path).expanduser())
    halves = [Arrays(*part, classes if part[1] is not None else ()) for part in (train, test) if part]
    return Data(_limited(halves[0], limit), halves[1] if test else None)


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
            try:
                data = getattr(datasets, name)(root, train=train, download=True)
            except Exception as error:
                failed = f"{name} could be neither read nor downloaded ({first_line(error)})"
                raise InputError(f"{failed}; put {files} into {root}") from error
        images = np.asarray(data.data)
        images = images[:, None] if images.ndim == 3 else np.ascontiguousarray(images.transpose(0, 3, 1, 2))
        return Arrays(images, np.asarray(data.targets, dtype=np.int64), tuple(data.classes))

    return Data(_limited(part(True), limit), part(False))


def folder(
    root: str | Path,
    size: int,
    test: str | Path | None = None,
    skip_broken: bool = False,
    limit: int | None = None,
    labels: str = "auto",
) -> Data:
    """Image files in a folder, at any depth, as RGB squares of `size` pixels.

    root: holds train/ and test/ (or val/), or the training images themselves.
    test: another folder, or a sub-folder of root, for the test images.
    skip_broken: decode every file now, leave out what cannot be decoded, name it in the sources' `skipped`.
    labels: "auto" takes the first-level folders, if there are two or more, as classes; images that lie flat
        have no labels. "none" never looks at folders.
    """
    root = Path(root).expanduser()
    if size < 1:
        raise InputError(f"size must be at least 1 pixel, not {size}")
    if labels not in ("auto", "none"):
        raise InputError(f'labels must be "auto" or "none", not "{labels}"')
    parts = [p for p in ("test", "val") if (root / p).is_dir()] if (root / "train").is_dir() else []
    test_root = root / parts[0] if parts else None
    if test is not None:  # `/` keeps an absolute path as it is
        test_root = root / test if (root / test).is_dir() else Path(test).expanduser()
    train_root = root / "train" if parts or (test is not None and (root / "train").is_dir()) else root
    if test_root and test_root.resolve().is_relative_to(train_root.resolve()):
        raise InputError(f"the test folder {test_root} lies inside the training folder {train_root}")

    files = image_files(train_root)
    names = class_names(train_root, files) if labels == "auto" else []
    classes = tuple(sorted(set(names))) if len(set(names)) > 1 else ()
    train = FolderSource(files, size, class_index(names, classes), classes)
    sources = [_limited(train, limit)]
    if test_root:
        files = image_files(test_root)
        names = class_names(test_root, files) if classes else []
        unknown = sorted(set(names) - set(classes))
        if unknown:
            listed = ", ".join(unknown[:5])
            raise InputError(f"{test_root} has class folders that {train_root} lacks: {listed}")
        sources.append(FolderSource(files, size, class_index(names, classes), classes if names else ()))
    if skip_broken:
        sources = [_without_broken(source) for source in sources]
    return Data(sources[0], sources[1] if test_root else None)


def _without_broken(source: FolderSource) -> FolderSource:
    """Decode everything once and keep what can be decoded; the images too, where `loaders.resident` looks."""
    fits = len(source) * 3 * source.size**2 <= RESIDENT_BYTES
    keep, images, skipped = [], [], list[str]()

    def attempt(i: int) -> np.ndarray | None:
        try:
            return source[i]
        except InputError:
            return None

    with ThreadPoolExecutor(os.cpu_count()) as pool:
        for i, image in enumerate(pool.map(attempt, range(len(source)))):
            if image is None:
                skipped.append(str(source.files[i]))
            else:
                keep.append(i)
                images += [image] if fits else []
    if not keep:
        raise InputError(f"none of the {len(skipped)} images can be decoded, the first is {skipped[0]}")
    good = _chosen(source, np.array(keep))
    good.skipped = skipped
    if fits:
        good._resident = torch.from_numpy(np.stack(images))
    return good


def _limited(source: Any, limit: int | None) -> Any:
    """The first `limit` images of a fixed shuffle, in their old order; all of them if there are fewer."""
    if limit is None:
        return source
    if limit < 1:
        raise InputError(f"limit must be at least 1, not {limit}")
    shuffled = torch.randperm(len(source), generator=generator("limit"))
    return _chosen(source, shuffled[:limit].sort().values.numpy())


def _chosen(source: Any, at: np.ndarray) -> Any:
    labels = source.labels[at] if source.labels is not None else None
    if isinstance(source, Arrays):
        return Arrays(source.images[at], labels, source.classes)
    return FolderSource([source.files[i] for i in at], source.size, labels, source.classes)
