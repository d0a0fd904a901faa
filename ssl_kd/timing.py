"""Where the time of a step goes: the real loop, timed from outside, part by part."""

import math
import statistics
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, replace
from functools import partial
from itertools import islice
from typing import Any

import torch
from omegaconf import DictConfig
from rich.table import Table
from torch import nn

from ssl_kd.cohort import Batch
from ssl_kd.data import Batches
from ssl_kd.engine import NonFinite, Result, Term, Watcher, fit
from ssl_kd.errors import InputError
from ssl_kd.training import Parts, build, say

WARM_UP = 3  # steps before the measured ones
PARTS = ("data", "views", "cache", "forward", "terms", "backward", "clip", "optimiser", "followers", "rest")
NOTABLE = {"data": 0.1, "views": 0.2, "optimiser": 0.2}  # shares of a step from which on there is advice

Key = tuple[str, str]  # a part, and the peer or term inside it, or ""


@dataclass(frozen=True)
class Timing:
    """Seconds of a step.

    parts: medians; the rest is what no part accounts for. step: median, waiting for the device around each
    part. free: mean over the steps of a loop that waits nowhere, as a run's.
    """

    parts: dict[Key, float]
    step: float
    free: float

    def share(self, part: str) -> float:
        """Of the step, 0 to 1."""
        return self.parts.get((part, ""), 0.0) / self.step


class Stopwatch:
    """Seconds of each part of each step; as a watcher of `fit` it ends a step.

    wait: returns when the device has done all that it was given; called at both ends of a part.
    """

    def __init__(self, wait: Callable[[], object]) -> None:
        self.wait = wait
        self.steps: list[tuple[float, dict[Key, float]]] = []
        self._began: dict[Key, float] = {}
        self._parts: dict[Key, float] = {}
        self._since = time.perf_counter()

    def begin(self, key: Key) -> None:
        self.wait()
        self._began[key] = time.perf_counter()

    def end(self, key: Key) -> None:
        self.wait()
        took = time.perf_counter() - self._began.pop(key)
        self._parts[key] = self._parts.get(key, 0.0) + took

    def timed(self, function: Callable[..., Any], *keys: Key) -> Callable[..., Any]:
        """`function`, with its time counted for each of the keys."""

        def call(*args: Any, **options: Any) -> Any:
            for key in keys:
                self.begin(key)
            result = function(*args, **options)
            for key in keys:
                self.end(key)
            return result

        return call

    def items(self, source: Callable[[int], Iterator[Any]], key: Key) -> Callable[[int], Iterator[Any]]:
        """`source`, with the time until each of its items counted."""

        def iterate(start: int) -> Iterator[Any]:
            following = self.timed(partial(next, source(start), None), key)
            while (item := following()) is not None:
                yield item

        return iterate

    def __call__(self, step: int, result: Result) -> None:
        self.wait()
        now = time.perf_counter()
        self.steps.append((now - self._since, self._parts))
        self._since, self._parts = now, {}


def measure(parts: Parts, count: int) -> Timing:
    """Times `count` steps as they are and then `count` part by part; weights move, nothing is written."""
    wait = _wait_for(parts.accelerator.device)
    if parts.cache is not None:  # a run has filled it before its first step
        parts.cache.fill(_first(parts, WARM_UP + count))
    marks: list[float] = []

    def mark(step: int, result: Result) -> None:
        if step in (WARM_UP, WARM_UP + count):
            wait()
            marks.append(time.perf_counter())

    _loop(parts, count, mark)
    clock = Stopwatch(wait)
    with _timed(parts, clock) as timed:
        _loop(timed, count, clock)
    measured = clock.steps[WARM_UP:]
    for took, found in measured:
        found["rest", ""] = took - sum(seconds for (_, inside), seconds in found.items() if not inside)
    keys = dict.fromkeys(key for _, found in measured for key in found)
    return Timing(
        {key: statistics.median(found.get(key, 0.0) for _, found in measured) for key in keys},
        statistics.median(took for took, _ in measured),
        (marks[1] - marks[0]) / count,
    )


def report(config: DictConfig, count: int) -> int:
    """Prints the table of `config`'s step, measured over `count` of them; returns the exit code."""
    parts = build(config)
    try:
        timing = measure(parts, count)
    except NonFinite as error:
        raise InputError(f"{error}; a lower learning rate (optim.rate.peak) may help") from error
    say(parts, _table(timing, count))
    speed = config.batch_size / timing.free
    say(
        parts,
        f"in a run a step takes {_milliseconds(timing.free)} ms on average: {speed:,.0f} images/s, and "
        f"{config.epochs} epochs of {parts.per_epoch} steps about {_duration(timing.free * config.steps)}",
    )
    if parts.accelerator.device.type != "cpu":
        say(parts, "the table waits for the device around each part, a run does not: its step may be shorter")
    for line in _advice(timing, parts):
        say(parts, line)
    parts.accelerator.end_training()
    return 0


def _wait_for(device: torch.device) -> Callable[[], object]:
    waits: dict[str, Callable[[], object]] = {"cuda": torch.cuda.synchronize, "mps": torch.mps.synchronize}
    return waits.get(device.type, lambda: None)


def _loop(parts: Parts, count: int, watcher: Watcher) -> None:
    fit(
        parts.cohort,
        parts.terms,
        parts.batches,
        parts.optimizers,
        parts.rates,
        parts.accelerator,
        steps=WARM_UP + count,
        watchers=[watcher],
        clip=parts.config.clip,
        join=parts.join,
        known=parts.cache,
    )


def _first(parts: Parts, count: int) -> Iterator[Batch]:
    """The batches of the first steps, or their parts."""
    for batch in islice(parts.batches(0), count):
        yield from batch if isinstance(batch, list) else [batch]


@contextmanager
def _timed(parts: Parts, clock: Stopwatch) -> Iterator[Parts]:
    """`parts` with the clock around all that a step calls; afterwards they are as they were."""
    own, accelerator = parts.own, parts.accelerator
    modules: list[tuple[nn.Module, Key]] = [(parts.cohort, ("forward", ""))]
    modules += [(peer, ("forward", name)) for name, peer in own.peers.items()]
    methods: list[tuple[Any, str, str]] = [
        (accelerator, "backward", "backward"),
        (accelerator, "clip_grad_norm_", "clip"),
    ]
    for optimizer in parts.optimizers:
        methods += [(optimizer, "step", "optimiser"), (optimizer, "zero_grad", "optimiser")]
    if own.follow or any(hasattr(peer, "advance") for peer in own.peers.values()):
        methods.append((own, "advance", "followers"))
    cache: Any = parts.cache if parts.cache is None else clock.timed(parts.cache, ("cache", ""))
    batches = replace(
        parts.batches,
        loader=clock.items(parts.batches.loader, ("data", "")),
        recipe=clock.timed(parts.batches.recipe, ("views", "")),
    )
    terms = [clock.timed(term, ("terms", ""), ("terms", _name(term))) for term in parts.terms]
    with ExitStack() as undo:
        for module, key in modules:
            undo.callback(module.register_forward_pre_hook(_hook(clock.begin, key)).remove)
            undo.callback(module.register_forward_hook(_hook(clock.end, key)).remove)
        for owner, name, part in methods:
            vars(owner)[name] = clock.timed(getattr(owner, name), (part, ""))
            undo.callback(vars(owner).pop, name)
        yield replace(parts, batches=batches, terms=terms, cache=cache)


def _hook(note: Callable[[Key], None], key: Key) -> Callable[..., None]:
    return lambda *_: note(key)


def _name(term: Term) -> str:
    inner: Any = term.func if isinstance(term, partial) else term
    return str(getattr(inner, "name", None) or getattr(inner, "__name__", type(inner).__name__))


def _table(timing: Timing, count: int) -> Table:
    table = Table(title=f"time of a step, median of {count}", title_justify="left")
    table.add_column("part")
    table.add_column("ms", justify="right")
    table.add_column("share", justify="right")

    def row(name: str, seconds: float, style: str | None = None) -> None:
        table.add_row(name, _milliseconds(seconds), f"{seconds / timing.step:.1%}", style=style)

    for part in PARTS:
        inside = {name: seconds for (outer, name), seconds in timing.parts.items() if outer == part and name}
        if (part, "") in timing.parts:
            row(part, timing.parts[part, ""])
            for name, seconds in inside.items():
                row(f"  {name}", seconds, "dim")
    table.add_section()
    row("step", timing.step)
    return table


def _advice(timing: Timing, parts: Parts) -> Sequence[str]:
    """What the user can do about parts that take more than they need."""
    config, loader, lines = parts.config, parts.batches.loader, []
    notable = [part for part, share in NOTABLE.items() if timing.share(part) > share]
    if "data" in notable and isinstance(loader, Batches) and loader.images is None:
        size = len(parts.data.train) * math.prod(parts.data.train.shape)
        more = ", or decode in more processes, data.workers=" if "workers" in config.data else ""
        lines.append(
            f"waiting for images takes {timing.share('data'):.0%} of the step: keep them in memory with "
            f"data.resident_bytes={size} ({size / 2**30:.1f} GiB){more}"
        )
    if "views" in notable and timing.share("views") > timing.share("forward"):
        shared = "; separate_views=false makes them once for all peers" if config.separate_views else ""
        trial = (
            "; recipe.jitter=0, say, shows what one operation costs" if config.recipe.get("jitter") else ""
        )
        lines.append(f"the views take longer than the forward passes{shared}{trial}")
    if "optimiser" in notable:
        lines.append(
            "the optimiser's work is the same for any batch: with a larger batch_size it weighs less"
        )
    return lines


def _milliseconds(seconds: float) -> str:
    return f"{1000 * seconds:,.2f}"


def _duration(seconds: float) -> str:
    if seconds < 120:
        return f"{seconds:.0f} s"
    return f"{seconds / 60:.0f} min" if seconds < 7200 else f"{seconds / 3600:.1f} h"
