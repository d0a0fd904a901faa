"""From a source to raw batches: resident when it fits, otherwise streamed by worker processes.

Which images are in step k is a function of the seed and k alone: not of the number of processes, not of where
the run was resumed, not of whether the images are resident.
"""

from collections.abc import Iterable, Iterator
from itertools import chain, islice
from typing import Any

import numpy as np
import torch
from torch import Tensor

from ssl_kd.data.ahead import ahead
from ssl_kd.data.sampling import Sampler, instance, one_epoch
from ssl_kd.data.sources import RESIDENT_BYTES, Arrays, Source, check_labels
from ssl_kd.data.workers import Begin, Chunk, decoding_processes, decoding_threads, in_chunks, name_of
from ssl_kd.errors import InputError
from ssl_kd.own.loading import Granted, sent


class Batches:
    """Shuffled raw batches of one process, without end; an epoch leaves out what does not fill a batch.

    source: the images; decoded at once when they take at most `resident_bytes` (and kept on `device`); None
        leaves that to the source, or else to RESIDENT_BYTES.
    batch_size: of all `world` processes together; this one is number `rank`.
    parts: that the batch will be split into (accumulation).
    workers: threads that decode a resident source; processes that decode a streamed one, two batches ahead
        each, 0 for none. None: as many as suit the machine (`ssl_kd.data.workers`).
    sampler: which images an epoch has (`ssl_kd.data.sampling`).

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
        parts: int = 1,
        device: torch.device | str = "cpu",
        resident_bytes: int | None = None,
        workers: int | None = None,
        sampler: Sampler = instance,
    ):
        if batch_size < 1 or batch_size % world:
            raise InputError(f"a batch of {batch_size} images cannot be shared equally by {world} processes")
        if batch_size % (world * parts):
            raise InputError(
                f"a batch of {batch_size} images has no {parts} equal parts for {world} processes"
            )
        if batch_size > len(source):
            raise InputError(f"a batch of {batch_size} images is larger than the data set of {len(source)}")
        if workers is not None and (not isinstance(workers, int) or workers < 0):
            raise InputError(f"workers must be a whole number from 0 on, not {workers}")
        self.source, self.batch_size, self.seed, self.workers = source, batch_size, seed, workers
        self.sampler = sampler
        self.device = torch.device(device)
        self.steps_per_epoch = len(source) // batch_size
        # Of every part an equal share, so that a part has the same images whatever `world` is; gathering
        # restores its order.
        self.row = torch.arange(batch_size).view(parts, world, -1)[:, rank].flatten()
        self.labels = label_tensor(source).to(self.device)
        fits = _fits(source, resident_bytes)
        self.images = resident(source, workers).to(self.device) if fits else None

    def __call__(self, start: int) -> Iterator[dict[str, Any]]:
        """The batches from optimiser step `start` on."""
        return self._read(self._positions(start))

    def once(self) -> Iterator[dict[str, Any]]:
        """Batches of all images in their order, each of them once; the first ones again to fill the last."""
        count = len(self.source)
        starts = range(0, count, self.batch_size)
        return self._read((start + self.row) % count for start in starts)

    def _read(self, positions: Iterable[Tensor]) -> Iterator[dict[str, Any]]:
        if self.images is not None:
            for index in positions:
                index = _send(index, self.device)
                yield self._batch(self.images[index], index)
        else:
            for image, index in _streamed(self.source, positions, self.workers, self.device.type == "cuda"):
                yield self._batch(_send(image, self.device), _send(index, self.device))

    def _batch(self, image: Tensor, index: Tensor) -> dict[str, Any]:
        label = self.labels[index]
        return {"image": image, "label": label, "index": index, "row": self.row, "rows": self.batch_size}

    def _positions(self, start: int) -> Iterator[Tensor]:
        """This process's positions in the source, int64 (b,), for one step after the other."""
        epoch, step = divmod(start, self.steps_per_epoch)
        labels, count = label_tensor(self.source), self.steps_per_epoch * self.batch_size
        while True:
            order = one_epoch(self.sampler, labels, count, self.seed, epoch)
            for k in range(step, self.steps_per_epoch):
                yield order[k * self.batch_size + self.row]
            epoch, step = epoch + 1, 0


def in_order(source: Source, batch_size: int) -> Iterator[tuple[Tensor, Tensor]]:
    """Images uint8 (b, C, H, W) and labels int64 (b,), -1 for none; the last batch may be smaller."""
    labels = label_tensor(source)
    positions = torch.arange(len(source)).split(batch_size)
    if getattr(source, "_resident", None) is not None or _fits(source):
        images = resident(source)
        for index in positions:
            yield images[index[0] : index[-1] + 1], labels[index]
    else:
        for image, index in _streamed(source, positions):
            yield image, labels[index]


def resident(source: Source, workers: int | None = None) -> Tensor:
    """All images, uint8 (N, C, H, W) on the CPU, decoded once by `workers` threads and kept on the source.

    Pillow decodes outside the interpreter's lock, so threads are enough. The result is not to be changed.
    """
    kept = getattr(source, "_resident", None)
    if kept is None:
        if isinstance(source, Arrays):  # from_numpy wants a writable array; only a read-only one is copied
            images = np.require(source.images, requirements=["C", "W"])
        else:
            images = np.empty((len(source), *source.shape), dtype=np.uint8)

            def fill(chunk: Chunk) -> None:
                for i in chunk:
                    images[i] = source[i]

            threads = decoding_threads() if workers is None else max(workers, 1)
            for _ in in_chunks(fill, len(source), threads, name_of(source)):
                pass
        kept = torch.from_numpy(images)
        source._resident = kept  # type: ignore[attr-defined]
    return kept


def _fits(source: Source, resident_bytes: int | None = None) -> bool:
    most = getattr(source, "resident_bytes", RESIDENT_BYTES) if resident_bytes is None else resident_bytes
    return len(source) * int(np.prod(source.shape)) <= most


def _streamed(
    source: Source, positions: Iterable[Tensor], workers: int | None = None, pin: bool = False
) -> Iterator[tuple[Tensor, Tensor]]:
    """Images at `positions` (b,) and those, a batch after the other, decoded ahead by `workers` processes."""
    if isinstance(source, Arrays):  # which need no decoding
        for index in positions:
            yield torch.from_numpy(source.images[index.numpy()]), index
        return
    processes = decoding_processes() if workers is None else workers
    coming = iter(positions)
    first = list(islice(coming, 1))
    size = max((len(index) for index in first), default=0) * int(np.prod(source.shape))
    for image, index in ahead(_Decoded(source), chain(first, coming), processes, name_of(source), size):
        assert image is not None
        yield image.pin_memory() if pin else image, index


class _Decoded:
    """Images uint8 (b, C, H, W) at positions (b,), and the positions."""

    def __init__(self, source: Source):
        self.source = source

    def __reduce__(self) -> tuple[Any, ...]:
        return sent, (Granted(), type(self), self.source)  # to a worker process that is no fork

    def __call__(self, index: Tensor, begin: Begin) -> tuple[np.ndarray, Tensor]:
        images = []
        for i in index.tolist():
            begin(i)
            images.append(self.source[i])
        return np.stack(images), index


def label_tensor(source: Source) -> Tensor:
    """int64 (N,), -1 where there is no label."""
    if source.labels is None:
        return torch.full((len(source),), -1)
    check_labels(len(source), source.labels)
    return torch.tensor(source.labels, dtype=torch.int64)


def _send(tensor: Tensor, device: torch.device) -> Tensor:
    """To the device without waiting for what runs there (which takes pinned memory)."""
    if device.type != "cuda":
        return tensor.to(device)
    return (tensor if tensor.is_pinned() else tensor.pin_memory()).to(device, non_blocking=True)
