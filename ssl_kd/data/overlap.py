"""The same images in what is learned from and what is scored: counted, said, refused if many.

Equal is what is stored alike (copies of files), or has the same pixels (files that were saved again), as far
as the decoded images are held in memory anyway. Beside a held-out part, near copies are counted too.
"""

from collections.abc import Iterator

import numpy as np
import torch
from torch import Tensor
from torch.nn.functional import adaptive_avg_pool2d

from ssl_kd.data.contents import digests, names, pixel_digests, sizes
from ssl_kd.data.identity import HASH_BYTES
from ssl_kd.data.loaders import _fits, resident
from ssl_kd.data.sources import Arrays, Data, Source
from ssl_kd.errors import InputError
from ssl_kd.system.text import printable

MOST = 0.01  # of the test images
GRID = 8  # a picture is compared by its means over so many squares a side
NEAR = 0.995  # correlation of the grey levels of two such grids
LOOKED_AT = 2000  # held-out images that near copies are looked for
_FLAT = 2.0  # grey levels: an image that varies less is like any other of its kind


def check_overlap(
    data: Data, accept: str | None = None, hold_out: float | None = None, hash_bytes: int = HASH_BYTES
) -> Iterator[str]:
    """What is to be said of images that are in both parts, a sentence each.

    accept: "accept" takes any number of them; else InputError where more than MOST of the test images are in
    the train part, or in that of other data that the probes learn from.
    hash_bytes: most bytes of images that are read for it, `data.hash_bytes`.
    """
    pairs = [("train", data.train, "test", data.test)]
    if data.labelled is not None:
        other = data.labelled
        pairs = [("train", data.train, "probe.data's test", other.test)]
        pairs.append(("probe.data's train", other.train, "probe.data's test", other.test))
    for name, train, called, test in pairs:
        if test is None:
            continue
        both = common(train, test, hash_bytes)
        if both is None:
            yield f"whether {called} images are in the {name} split too was not looked at (data.hash_bytes)"
            continue
        count = int(both.sum())
        if count:
            first = names(test)
            one = "" if first is None else f", the first is {printable(first[int(np.flatnonzero(both)[0])])}"
            said = (
                f"{count:,} of {len(test):,} {called} images ({100 * count / len(test):.3g} %) are in the "
                f"{name} split too{one}"
            )
            if count > MOST * len(test) and accept != "accept":
                raise InputError(
                    f"{said}: scores on them would say nothing; take them out of one of the two, or say "
                    "data.overlap=accept"
                )
            yield said
    tested = data.scored
    if hold_out is None or tested.test is None:
        return
    near = near_copies(tested.train, tested.test)
    if near is None:
        yield (
            "near copies of held-out images in the train split were not looked for, as the images are not "
            "held in memory (data.resident_bytes); hold_out_group keeps those of one patient, video or burst "
            "together"
        )
    elif near:
        looked = min(LOOKED_AT, len(tested.test))
        yield (
            f"{near:,} of {looked:,} held-out images look almost like one in the train split; are they of "
            "one patient, video or burst? hold_out_group keeps such images together"
        )


def common(train: Source, test: Source, hash_bytes: int = HASH_BYTES) -> np.ndarray | None:
    """Which images of `test` are in `train` too, bool (N,); None where more would have to be read for it.

    Of parts that are larger than hash_bytes only images of equal sizes are read.
    """
    both, parts = np.zeros(len(test), bool), (test, train)
    bytes_of = [sizes(part) for part in parts]
    if max(int(each.sum()) for each in bytes_of) <= hash_bytes:
        both |= _among(digests(test), digests(train))
    else:
        asked, known = (np.flatnonzero(np.isin(a, b)) for a, b in (bytes_of, bytes_of[::-1]))
        if bytes_of[0][asked].sum() + bytes_of[1][known].sum() > hash_bytes:
            return None
        both[asked] = _among(digests(test, asked), digests(train, known))
    encoded = not any(isinstance(part, Arrays) for part in parts)
    if encoded and train.shape == test.shape and _fits(train) and _fits(test):
        both |= _among(pixel_digests(resident(test)), pixel_digests(resident(train)))
    return both


def near_copies(train: Source, test: Source) -> int | None:
    """How many of LOOKED_AT images of `test` look almost like one of `train`, exact copies included.

    None where the images are not held decoded in memory. Takes 2 * LOOKED_AT * N * GRID^2 operations, about a
    second for N = 100,000 on a core.
    """
    if not (_fits(train) and _fits(test)):
        return None
    at = torch.linspace(0, len(test) - 1, min(LOOKED_AT, len(test))).round().long()
    asked = _grids(resident(test)[at])
    best = torch.full((len(asked),), -1.0)
    for images in resident(train).split(8192):
        best = torch.maximum(best, (asked @ _grids(images).T).amax(1))
    return int((best >= NEAR).sum())


def _grids(images: Tensor) -> Tensor:
    """Grey means over GRID x GRID squares, centred and of length 1, (N, GRID^2); zeros for flat images."""
    rows = [
        adaptive_avg_pool2d(part.float().mean(1, keepdim=True), GRID).flatten(1)
        for part in images.split(1024)
    ]
    grids = torch.cat(rows)
    grids = grids - grids.mean(1, keepdim=True)
    length = grids.norm(dim=1, keepdim=True)
    return torch.where(length > _FLAT * GRID, grids / length.clamp_min(1e-6), torch.zeros(()))


def _among(asked: np.ndarray, known: np.ndarray) -> np.ndarray:
    first, second = (np.ascontiguousarray(part).view("<u8")[:, 0] for part in (asked, known))  # 64 bits
    return np.isin(first, second)
