"""What happens beside the steps: metrics, probes, checkpoints.

Each is called as `watcher(steps done, result)`.
"""

import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import Any

import torch
from torch.optim import Optimizer

from ssl_kd.cohort import Cohort
from ssl_kd.console import Meter
from ssl_kd.distributed import world
from ssl_kd.engine import NON_FINITE_CHECK, Result
from ssl_kd.run import Run
from ssl_kd.signals import Interrupted, Stop
from ssl_kd.status import Status
from ssl_kd.trackers import Trackers, drawn


class Logger:
    """metrics.jsonl, the trackers and the progress display, every `every` steps and at the last one."""

    def __init__(
        self,
        run: Run,
        meter: Meter,
        optimizers: Sequence[Optimizer],
        per_epoch: int,
        batch_size: int,
        every: int,
        trackers: Trackers,
    ) -> None:
        self.run, self.meter, self.optimizers, self.per_epoch = run, meter, optimizers, per_epoch
        self.batch_size, self.every, self.trackers = batch_size, every, trackers
        self.images_per_second: list[tuple[int, float]] = []  # steps, seconds
        self._since: tuple[int, float] | None = None

    def __call__(self, step: int, result: Result) -> None:
        if self._since is None:  # the first step pays for warming up
            self._since = (step, time.monotonic())
        due = step % self.every == 0 or step in (1, self.meter.steps)
        if not due and not self.meter.plain(step):
            self.meter.tick(step)
            return
        result = result.averaged()  # on all processes: at which steps depends on nothing but the step
        terms = {name: float(raw) for name, (raw, _) in result.terms.items()}
        speed = self._speed(step)
        self.meter.report(step, terms, speed)
        if due and self.run.writes:
            line = {
                "loss": float(result.loss),
                "terms": terms,
                "weighted": {name: float(raw) * weight for name, (raw, weight) in result.terms.items()},
                "rate": [group["lr"] for group in self.optimizers[0].param_groups][0],
                "images_per_second": speed,
            }
            self.write(step, line)

    def write(self, step: int, line: Mapping[str, Any]) -> None:
        """One line of metrics.jsonl, which the trackers draw."""
        self.run.append({"step": step, "epoch": step / self.per_epoch, **line})
        self.trackers.log(step, drawn(line))

    @contextmanager
    def paused(self) -> Iterator[None]:
        """Time spent inside (on probes, on checkpoints) is not counted as the steps'."""
        began = time.monotonic()
        yield
        if self._since is not None:
            self._since = (self._since[0], self._since[1] + time.monotonic() - began)

    @property
    def mean_speed(self) -> float:
        """Images per second over all measured steps."""
        seconds = sum(s for _, s in self.images_per_second)
        return sum(n for n, _ in self.images_per_second) * self.batch_size / seconds if seconds else 0.0

    def _speed(self, step: int) -> float:
        assert self._since is not None
        before, began = self._since
        now = time.monotonic()
        if step > before:
            self.images_per_second.append((step - before, now - began))
        self._since = (step, now)
        steps, seconds = self.images_per_second[-1] if self.images_per_second else (0, 0.0)
        return steps * self.batch_size / seconds if seconds else 0.0


class Prober:
    """Scores every peer each `every` steps; the last ones are kept, with their step."""

    def __init__(
        self, cohort: Cohort, score: Callable[[Cohort], dict[str, Any]], logger: Logger, every: int
    ) -> None:
        self.cohort, self.score, self.logger, self.every = cohort, score, logger, every
        self.last: tuple[int, dict[str, Any]] | None = None

    def __call__(self, step: int, result: Result) -> None:
        if not self.every or step % self.every or not self.logger.run.writes:
            return
        with self.logger.paused():
            self.last = (step, self.score(self.cohort))
        self.logger.write(step, self.last[1])
        peers = self.last[1]["peers"]
        ks = [k for scores in peers.values() for k in scores.get("knn", ())]
        if ks:
            k = "20" if "20" in ks else ks[-1]
            shown = " ".join(f"{100 * scores['knn'][k]:.1f}" for scores in peers.values())
            self.logger.meter.note = f"kNN{k} {shown} %"


class Saver:
    """A checkpoint every `every` steps and at the last; and one before stopping, when asked to stop.

    With several processes all of them stop after the same step: they compare notes, after every step on a CPU
    and every NON_FINITE_CHECK steps on accelerators, which the comparison waits for.
    """

    def __init__(
        self,
        run: Run,
        cohort: Cohort,
        optimizers: Sequence[Optimizer],
        logger: Logger,
        steps: int,
        every: int,
        stop: Stop,
        status: Status | None = None,
        begun: int = 0,
    ) -> None:
        self.run, self.cohort, self.optimizers, self.logger = run, cohort, optimizers, logger
        self.steps, self.every, self.stop, self.status = steps, every, stop, status
        self.step = self.saved = begun

    def __call__(self, step: int, result: Result) -> None:
        self.step = step
        if self.status is not None:
            self.status.step = step
        stop = self._agreed(step)
        if stop or step % self.every == 0 or step == self.steps:
            self._save()
        if stop:
            raise Interrupted(f" after step {step} of {self.steps}")

    def between_steps(self) -> Interrupted:
        """Saves what is done, where the next step still waits for its data; returns what is to be raised."""
        if self.step > self.saved:
            self._save()
        return Interrupted(f" after step {self.step} of {self.steps}, waiting for data")

    def _save(self) -> None:
        with self.logger.paused():
            self.run.save(self.cohort, self.optimizers, self.step)
        self.saved = self.step
        if self.status is not None:
            self.status.saved_at(self.step)

    def _agreed(self, step: int) -> bool:
        if world() == 1:
            return self.stop.asked
        device = next(self.cohort.parameters()).device
        if device.type != "cpu" and step % NON_FINITE_CHECK:
            return False
        asked = torch.tensor(int(self.stop.asked), device=device)
        torch.distributed.all_reduce(asked)
        return bool(asked)
