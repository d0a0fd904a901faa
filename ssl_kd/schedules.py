"""Rates and weights as functions of the optimiser step, without state. A plain number is one too."""

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass

Weight = float | Callable[[int], float]


def at(weight: Weight, index: int) -> float:
    """The value of a weight or rate at optimiser step `index`."""
    return float(weight(index) if callable(weight) else weight)


@dataclass(frozen=True)
class Cosine:
    """Linear warm-up from 0 to `peak`, then half a cosine down to `final` at step `steps`.

    warmup: share of the training, 0 to 1. steps: optimiser steps of the whole training.
    Source: Loshchilov & Hutter 2017 (SGDR), without restarts.
    """

    peak: float
    steps: int
    warmup: float = 0.0
    final: float = 0.0

    def __call__(self, index: int) -> float:
        rising = round(self.warmup * self.steps)
        if index < rising:
            return self.peak * (index + 1) / rising
        done = min(1.0, (index - rising) / max(1, self.steps - rising))
        return self.final + (self.peak - self.final) * 0.5 * (1 + math.cos(math.pi * done))


@dataclass(frozen=True)
class Milestones:
    """`peak` times `factor` for every milestone passed. milestones: shares of the training, 0 to 1."""

    peak: float
    steps: int
    milestones: Sequence[float]
    factor: float = 0.1

    def __call__(self, index: int) -> float:
        return self.peak * self.factor ** sum(index >= round(share * self.steps) for share in self.milestones)


@dataclass(frozen=True)
class Ramp:
    """0 until the share `start` of the training, then linear up to `peak` at the share `end`."""

    peak: float
    steps: int
    start: float = 0.0
    end: float = 1.0

    def __call__(self, index: int) -> float:
        share = index / max(1, self.steps)
        if share < self.start:
            return 0.0
        return self.peak * min(1.0, (share - self.start) / max(1e-12, self.end - self.start))


@dataclass(frozen=True)
class ExponentialRamp:
    """`peak * exp(-5 (1 - s/S)^2)` up to step S, `peak` from there on (Laine & Aila 2017).

    length: S as a share of the training.
    epochs: epochs of the whole training. With it the weight changes once per epoch: s is the epoch, counted
        from 1, and S is length * epochs (FFSD).
    """

    peak: float
    steps: int
    length: float = 1.0
    epochs: int | None = None

    def __call__(self, index: int) -> float:
        if self.epochs is None:
            now, length = index, self.length * self.steps
        else:
            now, length = index * self.epochs // max(1, self.steps) + 1, self.length * self.epochs
        if now >= length:
            return self.peak
        return self.peak * math.exp(-5 * (1 - now / length) ** 2)
