"""From a source to raw batches: resident when it fits, otherwise streamed by worker processes.

Which images are in step k is a function of the seed and k alone: not of the number of processes, not of where
the run was resumed, not of whether the images are resident.
"""

from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import numpy as np
import torch
from torch import Tensor
from torch.utils.data import DataLoader, Dataset

from ssl_kd.data.sources import RESIDENT_BYTES, Arrays, Source, check_labels
from ssl_kd.errors import InputError
from ssl_kd.streams import generator


class Batches:
    """Shuffled raw batches of one process, without end; an epoch leaves out what does not fill a batch.

    source: the images; decoded at once when they take at most `resident_bytes` (and kept on `device`).
    batch_size: of all `world` processes together; this one is number `rank`.
    workers: threads that decode a resident source; processes that decode a streamed one.

    A raw batch: "image" uint8 (b, C, H, W), "label" int64 (b,), -1 for none, and "index" int64 (b,), the
    position in the source, all on `device`; "row" int64 (b,), the position in the global batch, on the CPU,
    where random numbers are drawn; "rows", the size of the global batch.
    """

    def __init__(
        self,
        source: Source,
        batch_size: int,
        *,
        seed: int = 0,
        rank: int = 0,
        world: int = 1,
        device: torch.device | str = "cpu",
        resident_bytes: int = RESIDENT_BYTES,
        workers: int = 0,
    ):
        if batch_size < 1 or batch_size % world:
            raise InputError(f"a batch of {batch_size} images cannot be shared equally by {world} processes")
        if batch_size > len(source):
            raise InputError(f"a batch of {batch_size} images is larger than the data set of {len(source)}")
        self.source, self.batch_size, self.seed, self.workers = source, batch_size, seed, workers
        self.device = torch.device(device)
        self.steps_per_epoch = len(source) // batch_size
        share = batch_size // world
        self.row = torch.arange(rank * share, (rank + 1) * share)  # gathering restores the order
        self.labels = label_tensor(source).to(self.device)
        fits = len(source) * int(np.prod(source.shape)) <= resident_bytes
        self.images = resident(source, workers).to(self.device) if fits else None

    def __call__(self, start: int) -> Iterator[dict[str, Any]]:
        """The batches from optimiser step `start` on."""
        positions = self._positions(start)
        if self.images is not None:
            for index in positions:
                index = _send(index, self.device)
                yield self._batch(self.images[index], index)
        else:
            for image, index in self._streamed(positions):
                yield self._batch(_send(image, self.device), _send(index, self.device))

    def _batch(self, image: Tensor, index: Tensor) -> dict[str, Any]:
        label = self.labels[index]
        return {"image": image, "label": label, "index": index, "row": self.row, "rows": self.batch_size}

    def _positions(self, start: int) -> Iterator[Tensor]:
        """This process's positions in the source, int64 (b,), for one step after the other."""
        epoch, step = divmod(start, self.steps_per_epoch)
        while True:
            order = torch.randperm(len(self.source), generator=generator(self.seed, "order", epoch))
            for k in range(step, self.steps_per_epoch):
                yield order[k * self.batch_size + self.row]
            epoch, step = epoch + 1, 0

    def _streamed(self, positions: Iterator[Tensor]) -> Iterator[tuple[Tensor, Tensor]]:
        """Images and positions. torch gives a worker process one thread: pools there would fight ours."""
        loader = DataLoader(
            _Decoded(self.source),
            batch_size=None,  # an index of the data set is a whole batch
            sampler=positions,
            num_workers=0 if isinstance(self.source, Arrays) else self.workers,  # arrays need no decoding
            pin_memory=self.device.type == "cuda",
            generator=torch.Generator(),  # otherwise each start would draw from the run's own stream
        )
        for image, index, error in loader:
            if error:
                raise InputError(error)
            yield image, index


class _Decoded(Dataset):
    """Indexed by positions (b,): images uint8 (b, C, H, W), the positions, and what went wrong or ""."""

    def __init__(self, source: Source):
        self.source = source

    def __getitem__(self, index: Tensor) -> tuple[Tensor, Tensor, str]:
        try:
            return _stack(self.source, index.tolist()), index, ""
        except InputError as error:  # raised in a worker, it would arrive wrapped in the worker's stack trace
            return torch.empty(0), index, str(error)


def in_order(source: Source, batch_size: int) -> Iterator[tuple[Tensor, Tensor]]:
    """Images uint8 (b, C, H, W) and labels int64 (b,), -1 for none; the last batch may be smaller."""
    labels = label_tensor(source)
    fits = len(source) * int(np.prod(source.shape)) <= RESIDENT_BYTES
    images = resident(source) if fits else None
    for first in range(0, len(source), batch_size):
        at = range(first, min(first + batch_size, len(source)))
        yield _stack(source, at) if images is None else images[at.start : at.stop], labels[at.start : at.stop]


def resident(source: Source, workers: int = 0) -> Tensor:
    """All images, uint8 (N, C, H, W) on the CPU, decoded once by `workers` threads and kept on the source.

    Pillow decodes outside the interpreter's lock, so threads are enough. The result is not to be changed.
    """
    kept = getattr(source, "_resident", None)
    if kept is None:
        if isinstance(source, Arrays):  # from_numpy wants a writable array; only a read-only one is copied
            images = np.require(source.images, requirements=["C", "W"])
        else:
            images = np.empty((len(source), *source.shape), dtype=np.uint8)
            with ThreadPoolExecutor(max(workers, 1)) as pool:
                for i, image in enumerate(pool.map(source.__getitem__, range(len(source)))):
                    images[i] = image
        kept = torch.from_numpy(images)
        source._resident = kept  # type: ignore[attr-defined]
    return kept


def label_tensor(source: Source) -> Tensor:
    """int64 (N,), -1 where there is no label."""
    if source.labels is None:
        return torch.full((len(source),), -1)
    check_labels(len(source), source.labels)
    return torch.tensor(source.labels, dtype=torch.int64)


def _stack(source: Source, at: Any) -> Tensor:
    return torch.from_numpy(np.stack([source[i] for i in at]))


def _send(tensor: Tensor, device: torch.device) -> Tensor:
    """To the device without waiting for what runs there (which takes pinned memory)."""
    if device.type != "cuda":
        return tensor.to(device)
    return (tensor if tensor.is_pinned() else tensor.pin_memory()).to(device, non_blocking=True)
