"""What a training takes of a machine's memory, in words, and what to lower where that is too much."""

import os
import sys
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import torch
from omegaconf import DictConfig

from ssl_kd.commands.installed import Check
from ssl_kd.data import Arrays, Data
from ssl_kd.estimate import Need, estimate

# Beside the tensors of a training there are the libraries that a run loads after its first step, and what
# kernels need inside and the allocator cannot use again: measured on CPUs, docs/performance.md.
LATER = 150 << 20
SLACK = 1.6
ON_ACCELERATOR = 1.2  # of an allocator that works in blocks; not measured
ALMOST = 0.85  # of the memory, above which it is close


@dataclass(frozen=True)
class Footprint:
    """program: bytes of the interpreter and its libraries; reading: the most while the data was read."""

    need: Need
    program: int
    reading: int
    device: str
    processes: int
    batch_size: int
    accumulate: int
    precision: str

    @property
    def peak(self) -> int:
        """Of all processes on this machine, in its own memory."""
        need, held = self.need, self.need.workers + self.need.scores
        if self.device == "cpu":
            kept = SLACK * (need.weights + need.optimizer)
            held = need.images + int(max(SLACK * need.computing + need.workers, kept + need.scores))
        return self.processes * max(self.program + LATER + held, self.reading)

    @property
    def on_device(self) -> int:
        return int(ON_ACCELERATOR * (self.need.images + self.need.computing))

    def lines(self) -> Iterator[str]:
        """What the peak is made of."""
        need, share = self.need, self.batch_size // self.processes
        step = f"one step: activations, views and terms of {share} images, {self.precision}"
        parts = [
            ("weights and buffers", need.weights),
            ("gradients", need.gradients),
            ("the optimiser's state", need.optimizer),
            (step, need.step),
            ("images, decoded once", need.images),
            ("batches that decoding processes hold", need.workers),
            ("one pass of a probe, when gradients and the step are gone", need.embedding),
            ("what the probes at the end make of features", need.scores),
            ("the program and its libraries", self.program + LATER),
        ]
        for what, size in parts:
            if size:
                yield f"{_shown(size):>9}  {what}"

    def verdict(self, available: int | None) -> Check:
        """Whether it fits, and what to lower."""
        times = f" ({self.processes} processes)" if self.processes > 1 else ""
        if self.device != "cpu":
            free = torch.cuda.mem_get_info()[0] if self.device == "cuda" else None
            said = (
                f"about {_shown(self.on_device)} of the accelerator's memory for each process, not measured"
            )
            return self._compared(said, self.on_device, free)
        return self._compared(f"about {_shown(self.peak)} at the peak{times}", self.peak, available)

    def _compared(self, said: str, needed: int, free: int | None) -> Check:
        if free is None:
            return Check("ok", f"memory: {said}")
        against = f"memory: {said}, {_shown(free)} are available"
        if needed < ALMOST * free:
            return Check("ok", f"{against}: it fits")
        state = "note" if needed < free else "problem"
        verdict = "that is close" if needed < free else "it does not fit"
        return Check(state, f"{against}: {verdict}; {self._advice(free)}")  # type: ignore[arg-type]

    def _advice(self, free: int) -> str:
        need, factor = self.need, SLACK if self.device == "cpu" else ON_ACCELERATOR
        fixed = need.images + factor * (need.weights + need.optimizer + need.gradients)
        fixed += self.program + LATER if self.device == "cpu" else 0
        room = (ALMOST * free / self.processes - fixed) / factor  # that a step may take
        lower = []
        if 0 < room < need.step:
            batch = int(self.batch_size * room / need.step)
            lower.append(f"batch_size={max(2, batch // 8 * 8 or batch)} would fit")
            parts = next((k for k in (2, 4, 8, 16, 32) if need.step < k * room), 64)
            lower.append(f"or accumulate={parts * self.accumulate}, which takes each batch in parts")
        if need.images > 0.2 * free:
            lower.append("data.resident_bytes=0 holds no decoded images")
        if need.embedding > max(room, need.gradients + need.step):
            lower.append("a lower probe.batch_size=")
        if need.scores > factor * max(room, need.gradients + need.step):
            lower.append("probe.baselines=false scores no raw pixels")
        return ", ".join(lower) or "take fewer or smaller peers, or fewer images by data.limit="


def footprint(
    config: DictConfig, device: str, shape: tuple[int, int, int], train: int, test: int, images: int | None
) -> Footprint:
    """Of the training of `config` on images (C, H, W). images: bytes of them in this process already."""
    from accelerate import Accelerator

    from ssl_kd.machine import pick_precision, set_threads

    set_threads(config.threads)
    program, reading = _resident_size() - (images or 0), _largest_size()
    precision = pick_precision(config.precision, device)
    processes = config.processes or int(os.environ.get("LOCAL_WORLD_SIZE", "1"))
    own = config.copy()
    own.batch_size = max(config.accumulate, config.batch_size // processes)
    accelerator = Accelerator(cpu=True, mixed_precision="bf16" if precision == "bfloat16" else "no")
    need = estimate(own, accelerator, shape, train, test, device)
    return Footprint(
        need, program, reading, device, processes, config.batch_size, config.accumulate, precision
    )


def resident(data: Data) -> int:
    """Bytes of the images that reading has left in memory."""
    parts = [part for part in (data.train, data.test) if isinstance(part, Arrays)]
    return sum(part.images.nbytes for part in parts)


def _resident_size() -> int:
    try:
        return int(Path("/proc/self/statm").read_text().split()[1]) * os.sysconf("SC_PAGE_SIZE")
    except OSError:
        return _largest_size()


def _largest_size() -> int:
    import resource  # not on Windows

    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * (1 if sys.platform == "darwin" else 1024)


def _shown(size: float) -> str:
    return f"{size / 2**30:.2f} GiB" if size >= 2**30 else f"{size / 2**20:.0f} MiB"
