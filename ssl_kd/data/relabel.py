"""Labels that are not the data's own, for training alone: read from a file, wrong at random, or few.

What a file says and what is wrong belongs to the whole train split as it was before a limit or a held-out
part: an image has the same label whichever of the others are there.
"""

from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
import torch

from ssl_kd.data.adapt import Recoloured, Subset, subset
from ssl_kd.data.draws import Amount, draw
from ssl_kd.data.label_files import read
from ssl_kd.data.sources import Arrays, Encoded, Source
from ssl_kd.data.wrapper import Wrapper
from ssl_kd.errors import InputError
from ssl_kd.streams import generator

SEED = 0  # of the noise, in every run: a teacher and its student see the same wrong labels


def taught(
    source: Source,
    noise: float | None = None,
    file: str | Path | None = None,
    key: str | None = None,
    amount: Amount | None = None,
    draw: int = 0,
    only: bool = False,
) -> Source:
    """The images and labels that training sees; the source itself, where nothing is asked for.

    noise: the share of wrong ones, of the file's labels where there is a file (see `symmetric`).
    file, key: where labels are (see `label_files.read`): one for each image of the whole train split.
    amount: of how many images the label is kept, a share (0.1) or a number of each class (10). Which ones is
        a function of the labels and of `draw`, a number, not of the run's seed.
    only: the images that have a label then are all there is.
    Raises InputError.
    """
    if key is not None and file is None:
        raise InputError(f'labels.key is "{key}", and there is no labels.file to take it from')
    asked = {"noise": noise not in (None, 0), "file": file is not None, "amount": amount is not None}
    if not (any(asked.values()) or only):
        return source
    if source.labels is None:
        first = next((option for option, there in asked.items() if there), "only")
        raise InputError(f"labels.{first} changes the labels that training sees, and the data has none")
    if asked["noise"] or asked["file"]:
        source = relabelled(source, _changed(source, noise, file, key))
    if amount is not None:
        source = relabelled(source, _fewer(source, amount, draw))
    if not only:
        return source
    known = np.flatnonzero(np.asarray(source.labels) >= 0)
    if not len(known):
        raise InputError("labels.only leaves the labelled images alone, and none has a label")
    return subset(source, known)


def _fewer(source: Source, amount: Amount, number: int) -> np.ndarray:
    """The labels (N,) of a few images, -1 for the others."""
    if isinstance(number, bool) or not isinstance(number, int) or number < 0:
        raise InputError(f"labels.draw is the number of a draw, from 0 on, not {number}")
    labels = torch.tensor(source.labels)
    try:
        at = draw(labels, len(source.classes), amount, SEED, number)
    except InputError as error:
        raise InputError(f"labels.amount: {error}".rstrip(".")) from error
    return torch.full_like(labels, -1).index_copy(0, at, labels[at]).numpy()


def _changed(source: Source, noise: float | None, file: str | Path | None, key: str | None) -> np.ndarray:
    """The labels (N,) that a file says, some of them wrong."""
    at, count = positions(source)
    labels = np.full(count, -1, dtype=np.int64)
    labels[at] = np.asarray(source.labels)
    if file is not None:
        labels = read(
            file, key, count, source.classes, getattr(source, "numbers", ()), lambda: names_of(source)
        )
    if noise not in (None, 0):
        labels = symmetric(labels, len(source.classes), noise, SEED)
    return labels[at]


def symmetric(labels: np.ndarray, classes: int, rate: float, seed: int) -> np.ndarray:
    """Labels (N,), each replaced with probability `rate` by one of the other classes, all of them alike.

    -1 stays. Which positions are hit, and how many classes further they go, is a function of the seed and the
    position alone; a higher rate hits those of a lower one too. Raises InputError for a rate outside [0, 1)
    and where there is no other class.
    """
    if isinstance(rate, bool) or not isinstance(rate, int | float) or not 0 <= rate < 1:
        raise InputError(f"labels.noise is a share of the labels, from 0 to less than 1, not {rate}")
    if classes < 2:
        raise InputError("labels.noise needs at least 2 classes, and the data has 1")
    draws = torch.rand(len(labels), dtype=torch.float64, generator=generator("label-noise", seed)).numpy()
    further = torch.randint(1, classes, (len(labels),), generator=generator("label-noise-class", seed))
    wrong = (draws < rate) & (labels >= 0)
    return np.where(wrong, (labels + further.numpy()) % classes, labels)


def positions(source: Source) -> tuple[np.ndarray, int]:
    """Where the images of a source lie in the whole split, int64 (N,), and how many images that has."""
    if isinstance(source, Recoloured | Relabelled):
        return positions(source.source)
    if isinstance(source, Subset):
        at, count = positions(source.source)
        return at[source.at], count
    if not isinstance(source, Arrays | Encoded):
        return np.arange(len(source)), len(source)
    count = len(source.stored) if isinstance(source, Encoded) else source.of or len(source)
    return np.arange(count) if source.at is None else source.at, count


def names_of(source: Source) -> list[str] | None:
    """What the files of the images of the whole split are called; None where they have no names."""
    if isinstance(source, Wrapper):
        return names_of(source.source)
    names = getattr(source.stored if isinstance(source, Encoded) else source, "names", None)
    return None if names is None else names()


def relabelled(source: Source, labels: np.ndarray) -> Source:
    """The same images with labels int64 (N,), -1 for none. What is decoded for one is decoded for both."""
    if isinstance(source, Arrays):  # nothing to decode, and the loaders know them
        return replace(source, labels=labels)
    return Relabelled(source, labels)


@dataclass(eq=False)
class Relabelled(Wrapper):
    """A source with other labels. See `relabelled`."""

    labels: np.ndarray | None

    @property
    def _resident(self) -> torch.Tensor | None:
        return getattr(self.source, "_resident", None)

    @_resident.setter
    def _resident(self, images: torch.Tensor) -> None:
        self.source._resident = images  # type: ignore[attr-defined]
