"""How much memory a training will take: one small step of it is recorded, and the record is scaled.

Two batches, of b and 2b images, go through the real step on the CPU while every tensor that is made and freed
is written down. Both records have the same order, so the growth of each tensor with the batch is known: none,
linear (activations), or with the square (similarity matrices). Replayed with the sizes of the real batch they
give the peak. Not in it: what kernels need inside, and what the allocator cannot use again.
"""

import gc
import weakref
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from accelerate import Accelerator
from omegaconf import DictConfig
from torch import Tensor
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves

from ssl_kd.build import build_batches
from ssl_kd.cohort import Cohort
from ssl_kd.data import Arrays, Data, Plain, in_order
from ssl_kd.data.adapt import subset
from ssl_kd.encoder import Encoder
from ssl_kd.engine import step
from ssl_kd.probes.features import at_once, embed
from ssl_kd.training import Parts, assemble

SMALL = 4  # images in each part of the smaller batch
PIXELS = 3 * 32 * 32  # of an image as the pixel baseline sees it, at most
EMBEDDING = 512  # where a peer does not say how wide its embedding is


@dataclass(frozen=True)
class Need:
    """Bytes.

    weights: of all peers, with their buffers. gradients, optimizer: of those that learn. step: what a step
    makes and frees, gradients left out, at its peak. embedding: the same of the forward pass of a probe.
    images: that stay decoded. workers: what decoding processes hold. scores: features, and what probes make
    of them, when gradients and the step are gone.
    """

    weights: int
    gradients: int
    optimizer: int
    step: int
    embedding: int
    images: int
    workers: int
    scores: int

    @property
    def computing(self) -> int:
        """The most that training or embedding takes at once."""
        return self.weights + self.optimizer + max(self.gradients + self.step, self.embedding)


class Record(TorchDispatchMode):
    """What is allocated and freed while inside: +bytes of the n-th tensor, or -n - 1 when that is freed."""

    def __init__(self) -> None:
        super().__init__()
        self.sizes: list[int] = []
        self.events: list[int] = []  # n, or -n - 1
        self._known: dict[int, Any] = {}

    def __torch_dispatch__(self, function: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        made = function(*args, **(kwargs or {}))
        for leaf in tree_leaves(made):
            if isinstance(leaf, Tensor) and leaf.layout == torch.strided:
                self._note(leaf.untyped_storage(), args, kwargs)
        return made

    def _note(self, storage: Any, args: Any, kwargs: Any) -> None:
        key = storage._cdata
        if key in self._known:
            return
        if any(
            isinstance(a, Tensor) and a.untyped_storage()._cdata == key for a in tree_leaves((args, kwargs))
        ):
            return  # a view of what was there before
        number = len(self.sizes)
        self.sizes.append(storage.nbytes())
        self.events.append(number)
        self._known[key] = weakref.finalize(storage, self._free, key, number)

    def _free(self, key: int, number: int) -> None:
        self._known.pop(key, None)
        self.events.append(-number - 1)

    def peak(self, sizes: Any = None) -> int:
        """The most bytes alive at once, with other sizes instead of those that were seen."""
        sizes = self.sizes if sizes is None else sizes
        changes = np.array([sizes[e] if e >= 0 else -sizes[-e - 1] for e in self.events], dtype=np.float64)
        return int(changes.cumsum().max(initial=0))


def estimate(
    config: DictConfig,
    accelerator: Accelerator,
    shape: tuple[int, int, int],
    train: int,
    test: int,
    device: str = "cpu",
) -> Need:
    """The need of the training that `config` describes, of `train` images (C, H, W), `test` more to score.

    config: composed, with `classes` and `steps` filled in. accelerator: of the CPU, where steps are recorded.
    device: where the training will be. Raises InputError where the training would.
    """
    small = min(SMALL * config.accumulate, config.batch_size)
    sizes = sorted({small, min(2 * small, config.batch_size)})
    own = config.copy()
    own.batch_size, own.compile = sizes[-1], False
    data = _blank(shape, sizes[-1], config.classes)
    parts = assemble(own, accelerator, data)
    _step(parts, own, data, sizes[0])  # the optimiser makes its state
    records = [_recorded(parts, own, data, size) for size in sizes]
    learning = [p for p in parts.own.parameters() if p.requires_grad]
    gradients = _bytes(learning)
    state = [v for o in parts.own_optimizers for s in o.state.values() for v in s.values()]
    resident = train * int(np.prod(shape))
    fits = resident <= config.data.get("resident_bytes", 1 << 62)
    scored = bool(test and config.classes)
    return Need(
        weights=_bytes([*parts.own.parameters(), *parts.own.buffers()]),
        gradients=gradients,
        optimizer=_bytes([v for v in state if isinstance(v, Tensor)]),
        step=max(0, _scaled(records, sizes, config.batch_size) - gradients),
        images=resident + test * int(np.prod(shape)) if fits else 0,
        workers=0 if fits else _workers(config, shape),
        embedding=_embedding(config, parts.own, shape, train + test, device) if scored else 0,
        scores=_scores(config, parts.own, shape, train + test) if scored else 0,
    )


def _blank(shape: tuple[int, int, int], count: int, classes: int | None) -> Data:
    """Images of noise, with labels of all classes where there are classes."""
    draw = np.random.default_rng(0)
    labels = np.arange(count) % classes if classes else None
    names = tuple(map(str, range(classes or 0)))
    return Data(Arrays(draw.integers(0, 256, (count, *shape), np.uint8), labels, names))


def _step(parts: Parts, config: DictConfig, data: Data, size: int) -> None:
    """One optimiser step on a batch of that size; the rate is that of the optimiser's constructor."""
    config.batch_size = size
    batches, _ = build_batches(config, data, parts.accelerator.device)
    step(
        parts.cohort,
        parts.terms,
        next(batches(0)),
        parts.optimizers,
        parts.accelerator,
        0,
        clip=config.clip,
        join=parts.join,
    )


def _recorded(parts: Parts, config: DictConfig, data: Data, size: int) -> Record:
    gc.collect()
    gc.disable()  # cycles would be freed now in one place, now in another
    try:
        with Record() as record:
            _step(parts, config, data, size)
    finally:
        gc.enable()
    return record


def _scaled(records: list[Record], sizes: list[int], size: int) -> int:
    """The peak at the real batch size."""
    if len({*sizes}) == 1:
        return records[0].peak()
    one, two = records
    a, b = sizes
    if one.events != two.events:  # a path that depends on the batch: all of it is taken as linear
        rise = (two.peak() - one.peak()) / (b - a)
        return int(max(two.peak(), one.peak() + rise * (size - a)))
    first, second = np.array(one.sizes, np.float64), np.array(two.sizes, np.float64)
    ratio = np.divide(second, first, out=np.ones_like(second), where=first > 0)
    slope = (second - first) / (b - a)
    # between constant and linear: a + b x; between linear and the square: b x + c x^2
    bend = (second - first * (b / a)) / (b * b - a * b)
    squares = (first / a - bend * a) * size + bend * size * size
    return one.peak(np.where(ratio <= b / a + 1e-9, first + slope * (size - a), squares))


def _bytes(tensors: Any) -> int:
    return sum({t.untyped_storage()._cdata: t.untyped_storage().nbytes() for t in tensors}.values())


def _workers(config: DictConfig, shape: tuple[int, int, int]) -> int:
    """Decoded batches that wait, two for each process."""
    from ssl_kd.data.workers import decoding_processes

    count = config.data.get("workers")
    count = decoding_processes() if count is None else count
    return 2 * max(1, count) * config.batch_size * int(np.prod(shape))


def _peers(cohort: Cohort) -> list[Encoder]:
    """Those that embed images by themselves."""
    return [peer for peer in cohort.peers.values() if isinstance(peer, Encoder) and not peer.sees]


def _scores(config: DictConfig, cohort: Cohort, shape: tuple[int, int, int], images: int) -> int:
    """Features of all learning peers, kept for the ensemble, copies of the widest, and its covariance."""
    widths = [getattr(peer.backbone, "width", EMBEDDING) for peer in _peers(cohort)]
    pixels = min(PIXELS, int(np.prod(shape))) if config.probe.baselines else 0
    widest = max([pixels, *widths])
    return 4 * images * (sum(widths) + 3 * widest) + 4 * 8 * widest * widest


def _embedding(
    config: DictConfig, cohort: Cohort, shape: tuple[int, int, int], images: int, device: str
) -> int:
    """A probe's forward pass, in float32 and of the images embedded at once: of the peer that takes most."""
    side = config.data.size
    batch = min(config.probe.batch_size, images)
    together = min(batch, at_once(side, side)) if device == "cpu" else batch
    waiting = 4 * (batch - together) * shape[0] * side * side  # float32 views of the others
    sizes = [SMALL, 2 * SMALL]
    source = _blank(shape, sizes[-1], None).train
    peaks = [0]
    for peer in _peers(cohort):
        records = []
        for count in sizes:
            few = in_order(subset(source, np.arange(count)), count)
            gc.collect()
            with Record() as record:
                embed(peer.embed, few, Plain(side), "cpu")
            records.append(record)
        peaks.append(_scaled(records, sizes, together) + waiting)
    return max(peaks)
