"""What a few runs can say about a mean: its interval, and the effect that they would have found."""

import math
import statistics
from collections.abc import Sequence
from dataclasses import dataclass

from scipy.special import nctdtrinc, stdtrit

LEVEL = 0.95
POWER = 0.8
_NO_SPREAD = 1e-12  # of accuracies; what is below is the rounding of equal values


@dataclass(frozen=True)
class Interval:
    """A mean, its interval at LEVEL, and the smallest true mean that POWER of such experiments would find."""

    mean: float
    low: float
    high: float
    detectable: float


def interval(values: Sequence[float]) -> Interval:
    """Student's t interval for the mean of `values`, in their unit.

    Of paired differences it is the paired t test's. All but the mean is NaN for fewer than two values, and
    where all are equal: then nothing says how far the next one would lie. Raises ValueError without values.
    """
    mean, count = statistics.fmean(values), len(values)
    spread = statistics.stdev(values) if count > 1 else 0.0
    if spread < _NO_SPREAD:
        return Interval(mean, math.nan, math.nan, math.nan)
    half = _limit(count) * spread / math.sqrt(count)
    return Interval(mean, mean - half, mean + half, detectable(spread, count))


def detectable(spread: float, count: int) -> float:
    """The smallest true mean whose interval leaves out 0 with probability POWER.

    spread: standard deviation of one value, taken as the true one; count: values, at least 2. In the unit of
    `spread`. By the noncentral t distribution (Cohen 1988, chapter 2), without the tail on the other side of
    0, which adds less than 0.0001 to the power.
    """
    return float(nctdtrinc(count - 1, 1 - POWER, _limit(count))) * spread / math.sqrt(count)


def _limit(count: int) -> float:
    """Half an interval in standard errors."""
    return float(stdtrit(count - 1, (1 + LEVEL) / 2))
