"""Rates and weights as functions of the optimiser step, without state. A plain number is one too."""

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from fractions import Fraction

from ssl_kd.errors import InputError

Weight = float | Callable[[int], float]


def at(weight: Weight, index: int) -> float:
    """The value of a weight or rate at optimiser step `index`."""
    return float(weight(index) if callable(weight) else weight)


def share(value: float | str) -> float:
    """A share of the training, as a number or as a fraction of whole numbers, as in 5/300."""
    try:
        return float(Fraction(value)) if isinstance(value, str) else value
    except (ValueError, ZeroDivisionError) as error:
        raise InputError(
            f'"{value}" is no share of the training; say a number, or a fraction as 5/300'
        ) from error


@dataclass(frozen=True)
class Cosine:
    """Linear warm-up to `peak`, then half a cosine down to `final` at step `steps`.

    warmup: share of the training, 0 to 1. steps: optimiser steps of the whole training.
    from_zero: of the W steps of the warm-up, step k (from 0) has peak * k / W; the first moves nothing, as
        in the code of SimCLR (Chen et al. 2020). Else it has peak * (k + 1) / W, and none is without effect.
    Source: Loshchilov & Hutter 2017 (SGDR), without restarts.
    """

    peak: float
    steps: int
    warmup: float = 0.0
    final: float = 0.0
    from_zero: bool = False

    def __call__(self, index: int) -> float:
        rising = round(self.warmup * self.steps)
        if index < rising:
            return self.peak * (index if self.from_zero else index + 1) / rising
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

    length: S as a share of the training, a number or a fraction as in 5/300.
    epochs: epochs of the whole training. With it the weight changes once per epoch: s is the epoch, counted
        from 1, and S is length * epochs (FFSD).
    """

    peak: float
    steps: int
    length: float | str = 1.0
    epochs: int | None = None

    def __post_init__(self) -> None:
        share(self.length)  # refuses what is none

    def __call__(self, index: int) -> float:
        part = share(self.length)
        if self.epochs is None:
            now, length = index, part * self.steps
        else:
            now, length = index * self.epochs // max(1, self.steps) + 1, part * self.epochs
        if now >= length:
            return self.peak
        return self.peak * math.exp(-5 * (1 - now / length) ** 2)
