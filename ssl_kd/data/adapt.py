"""Another data set for a cohort that is trained already: its channels changed, a part of it, a split of it.

Nothing is decoded here: what comes out is a source that reads the old one when it is indexed.
"""

from collections.abc import Sequence
from dataclasses import dataclass, field, replace

import numpy as np
import torch

from ssl_kd.data.sources import Arrays, Data, Encoded, Source
from ssl_kd.data.workers import name_of
from ssl_kd.data.wrapper import Wrapper
from ssl_kd.errors import InputError
from ssl_kd.streams import generator

LUMINANCE = np.array([19595, 38470, 7471], np.uint32)  # ITU-R 601 in 65,536ths, as Pillow rounds it


def as_channels(source: Source, channels: int) -> Source:
    """The source with images of `channels` channels: itself where it has them already.

    Grey (1) becomes RGB (3) by repeating it, RGB becomes grey by Pillow's luminance, to the bit. Everything
    else raises InputError.
    """
    have = source.shape[0]
    if have == channels:
        return source
    if {have, channels} != {1, 3}:
        raise InputError(
            f"images of {_channels(have)} cannot become images of {_channels(channels)}: only grey (1) and "
            "RGB (3) can be turned into each other"
        )
    return Recoloured(source, channels)


def subset(source: Source, positions: Sequence[int] | np.ndarray | torch.Tensor) -> Source:
    """The images at `positions` (M,), in that order; one may be there several times.

    Arrays are copied, of anything else only the positions are kept: each image is decoded as it was, and
    what the source holds decoded already is not decoded again. Raises InputError for no positions, for
    positions that are not integers, and for those outside the source.
    """
    at = np.asarray(positions)
    if at.ndim != 1 or at.size == 0 or at.dtype.kind not in "iu":
        raise InputError(f"positions must be integers (M,), at least one, not {at.dtype} {at.shape}")
    if at.min() < 0 or at.max() >= len(source):
        worst = at.min() if at.min() < 0 else at.max()
        raise InputError(f"there is no image {worst} in a source of {len(source)}, which count from 0")
    if isinstance(source, Arrays):
        return source.part(at)
    labels = source.labels[at] if source.labels is not None else None
    if isinstance(source, Recoloured):
        return replace(source, source=subset(source.source, at))
    if isinstance(source, Subset):
        return Subset(source.source, source.at[at], labels)
    if not isinstance(source, Encoded):
        return Subset(source, at, labels)
    chosen = replace(source, labels=labels, at=at if source.at is None else source.at[at])
    if source._resident is not None:
        chosen._resident = source._resident[torch.from_numpy(at)]
    return chosen


def hold_out(data: Data, share: float, seed: int, groups: np.ndarray | None = None) -> Data:
    """The train split alone, a random `share` of it set apart as the test split; the old one is in neither.

    Labels play no part in the choice. Both halves keep the old order of their images. Which are held out is
    a function of the seed and the number of images; a larger share holds out those of a smaller one too.
    groups: a number for each image (N,); images of one number stay together, and so many whole groups are
    held out as come nearest to the share.
    Raises InputError where the share is not between 0 and 1 or leaves one of the halves empty.
    """
    if isinstance(share, bool) or not isinstance(share, int | float) or not 0 < share < 1:
        raise InputError(f"the share to hold out must lie between 0 and 1, not {share}")
    images = len(data.train)
    held = round(share * images)
    if held in (0, images):
        part = "test" if held == 0 else "train"
        raise InputError(f"holding out {share} of {images} images leaves no {part} images")
    if groups is None:
        order = torch.randperm(images, generator=generator("hold-out", seed))
        chosen = torch.zeros(images, dtype=torch.bool).index_fill(0, order[:held], True).numpy()
    else:
        sizes = np.bincount(groups)
        drawn = torch.randperm(len(sizes), generator=generator("hold-out-group", seed)).numpy()
        whole = sizes[drawn].cumsum()[:-1]  # a group at least is left to learn from
        chosen = np.isin(groups, drawn[: np.abs(whole - held).argmin() + 1])
    return replace(
        data,
        train=subset(data.train, np.flatnonzero(~chosen)),
        test=subset(data.train, np.flatnonzero(chosen)),
    )


@dataclass(eq=False)
class Recoloured(Wrapper):
    """A source seen in another number of channels: 3 of a grey one, 1 of an RGB one. See `as_channels`."""

    channels: int
    _resident: torch.Tensor | None = field(default=None, init=False, repr=False)

    @property
    def shape(self) -> tuple[int, int, int]:
        return self.channels, *self.source.shape[1:]

    @property
    def labels(self) -> np.ndarray | None:
        return self.source.labels

    def __getitem__(self, i: int) -> np.ndarray:
        image = _read(self.source, i)
        if self.channels == 3:
            return np.repeat(image, 3, axis=0)
        return (np.tensordot(LUMINANCE, image, 1) + 32768 >> 16).astype(np.uint8)[None]


@dataclass(eq=False)
class Subset(Wrapper):
    """The images of any source at positions `at` (M,). See `subset`, which knows faster ways for ours."""

    at: np.ndarray
    labels: np.ndarray | None
    _resident: torch.Tensor | None = field(default=None, init=False, repr=False)

    def __len__(self) -> int:
        return len(self.at)

    def __getitem__(self, i: int) -> np.ndarray:
        return _read(self.source, int(self.at[i]))

    def name(self, i: int) -> str:
        return name_of(self.source)(int(self.at[i]))


def _read(source: Source, i: int) -> np.ndarray:
    """Image i, from where `loaders.resident` keeps what is decoded already, if it is."""
    kept = getattr(source, "_resident", None)
    return source[i] if kept is None else kept[i].numpy()


def _channels(number: int) -> str:
    return "1 channel" if number == 1 else f"{number} channels"
