"""Multinomial logistic regression on frozen features: no schedule to tune, one minimum to reach."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor

from ssl_kd.errors import InputError
from ssl_kd.probes.features import Features, labelled
from ssl_kd.streams import generator

MEMORY = 100  # pairs that L-BFGS keeps, of 2 * K * (D + 1) float64 each
ROUGH = 1e-6  # tolerance of the fits that only choose a penalty
ROWS = 2048  # at once, where float32 rows are summed in float64


@dataclass(frozen=True)
class Linear:
    """A fitted probe: logits ((x - mean) / std) @ weight.T + bias, with the train split's mean and std."""

    accuracy: float  # on the test split
    penalty: float
    held_out: float  # accuracy with this penalty on the held-out tenth of the train split
    weight: Tensor  # (K, D) float32
    bias: Tensor  # (K,) float32
    mean: Tensor  # (D,) float32
    std: Tensor  # (D,) float32, infinite for a constant column

    def logits(self, rows: Tensor) -> Tensor:
        """What the probe says of other rows (N, D), (N, K) float32. Raises InputError for another width."""
        if rows.dim() != 2 or rows.shape[1] != len(self.mean):
            raise InputError(
                f"the linear probe was fitted to rows of {len(self.mean)} numbers, and was given "
                f"{tuple(rows.shape)}."
            )
        return (rows.float() - self.mean) / self.std @ self.weight.T + self.bias


def linear(
    features: Features,
    penalties: Sequence[float] = (1e-1, 1e-2, 1e-3, 1e-4, 1e-5, 1e-6),
    seed: int = 0,
    iterations: int = 500,
) -> Linear:
    """Logistic regression on the standardised train rows, its penalty chosen on a tenth of them, tested once.

    Objective: mean cross-entropy + penalty / 2 * ||weight||^2, the bias free; that of scikit-learn's
    LogisticRegression(C=1 / (N * penalty)). The penalties are fitted to nine tenths of the train split from
    strong to weak, each from the solution before, until the cross-entropy of the last tenth rises and its
    accuracy does not. Of those equally good on it the strongest is chosen, and fitted again to all rows,
    closer than for choosing. iterations: the most for one fit. Equal thread counts, equal bits.
    Raises InputError for unlabelled, one-class or non-finite features and for a penalty <= 0.
    """
    if not penalties or not min(penalties) > 0:
        raise InputError(f"the linear probe needs penalties > 0, and was given {list(penalties)}.")
    rows, labels, test, test_labels = labelled(features, "the linear probe")
    mean, std = _mean_std(rows)
    order = torch.randperm(len(rows), generator=generator("held-out", seed))
    rows, labels = rows[order].float().sub_(mean).div_(std), labels[order]  # nine tenths: a slice, no copy
    kept = len(rows) - max(1, len(rows) // 10)
    covariance = _covariance(rows)
    solution = torch.zeros(rows.shape[1] + 1, features.classes, dtype=torch.float64)
    held_out, chosen, start, before = -1.0, 0.0, solution, torch.inf
    for penalty in sorted(penalties, reverse=True):
        solution = minimise(rows[:kept], labels[:kept], penalty, solution, covariance, iterations, ROUGH)
        logits = _logits(rows[kept:], solution)
        entropy = float(F.cross_entropy(logits, labels[kept:]))
        accuracy = int((logits.argmax(1) == labels[kept:]).sum()) / len(logits)
        if accuracy > held_out:
            held_out, chosen, start = accuracy, penalty, solution
        elif entropy > before:
            break
        before = entropy
    solution = minimise(rows, labels, chosen, start, covariance, iterations)
    accuracy = _accuracy((test - mean) / std, test_labels, solution)
    weight, bias = solution.float()[:-1].T.contiguous(), solution.float()[-1].clone()
    return Linear(accuracy, chosen, held_out, weight, bias, mean, std)


def minimise(
    rows: Tensor,
    labels: Tensor,
    penalty: float,
    start: Tensor,
    covariance: Tensor,
    iterations: int = 500,
    tolerance: float = 1e-8,
) -> Tensor:
    """The minimum of the objective, (D + 1, K) float64, the bias in its last row.

    rows: (N, D) float32; start: (D + 1, K); covariance: (D, D) float64, of the rows or of rows like them.
    L-BFGS (Nocedal 1980), preconditioned with the curvature at `start` because features are often nearly
    collinear: 10 to 100 steps for 50,000 rows, more for a few hundred under a weak penalty. It ends where the
    next step promises to lower the objective by less than `tolerance`; the minimum is 3 to 50 times as far.
    """
    solution = start.clone()
    logits = _logits(rows, solution)
    probabilities = logits.softmax(1)
    gradient = _gradient(rows, labels, probabilities, penalty, solution)
    spread = max(float((probabilities * (1 - probabilities)).mean()), 1e-12)
    precondition = _inverse_curvature(covariance, penalty, spread)
    pairs: list[tuple[Tensor, Tensor, Tensor]] = []
    for _ in range(iterations):
        direction = -_quasi_newton(gradient, pairs, precondition)
        slope = float((gradient * direction).sum())
        if -slope / 2 <= tolerance:
            break
        along = _logits(rows, direction)
        length, probabilities = _line_search(logits, along, labels, penalty, solution, direction, slope)
        step = length * direction
        solution += step
        logits.add_(along, alpha=length)
        before, gradient = gradient, _gradient(rows, labels, probabilities, penalty, solution)
        change = gradient - before
        product = (step * change).sum()
        if product > 0:  # always, but for rounding: the objective is convex
            pairs = [*pairs[1 - MEMORY :], (step, change, 1 / product)]
    return solution


def _line_search(
    logits: Tensor,
    along: Tensor,
    labels: Tensor,
    penalty: float,
    solution: Tensor,
    direction: Tensor,
    first: float,
) -> tuple[float, Tensor]:
    """A step length where the slope is at most a tenth of the `first`, and the probabilities (N, K) there.

    logits, along: (N, K), of the solution and of the direction. Logits are linear in the weights, so Newton's
    method in one dimension, kept inside a bracket, needs no further pass over the rows.
    """
    target = float(along.gather(1, labels[:, None]).mean())
    inner, square = float((solution * direction)[:-1].sum()), float(direction[:-1].square().sum())
    low, high, length = 0.0, float("inf"), 1.0
    for _ in range(30):
        probabilities = torch.add(logits, along, alpha=length).softmax(1)
        weighted = probabilities * along  # (N, K)
        mean = weighted.sum(1)  # (N,)
        variance = float(weighted.flatten() @ along.flatten() - mean @ mean) / len(mean)
        slope = float(mean.mean()) - target + penalty * (inner + length * square)
        if abs(slope) <= 0.1 * abs(first):
            break
        low, high = (length, high) if slope < 0 else (low, length)
        newton = min(length - slope / (variance + penalty * square), 4 * length)
        length = newton if low < newton < high else (low + high) / 2
    return length, probabilities


def _quasi_newton(gradient: Tensor, pairs: Sequence, precondition: Callable[[Tensor], Tensor]) -> Tensor:
    """The inverse curvature that `pairs` and `precondition` know of, times the gradient."""
    result, shares = gradient, []
    for step, change, inverse in reversed(pairs):
        shares.append(inverse * (step * result).sum())
        result = result - shares[-1] * change
    result = precondition(result)
    if pairs:
        step, change, inverse = pairs[-1]
        result = result / (inverse * (change * precondition(change)).sum())
    for step, change, inverse in pairs:
        result = result + (shares.pop() - inverse * (change * result).sum()) * step
    return result


def _inverse_curvature(covariance: Tensor, penalty: float, spread: float) -> Callable[[Tensor], Tensor]:
    """x -> (spread * covariance + penalty)^-1 x on the weights, x / spread on the bias.

    spread: the mean of p (1 - p) over rows and classes; were it that of each, this is the inverse Hessian.
    """
    curvature = spread * covariance
    # The covariance is right to float32: beyond that its smallest eigenvalues may be negative.
    curvature.diagonal().add_(penalty + 1e-6 * spread * float(covariance.trace()))
    factor = torch.linalg.cholesky(curvature)
    solve = torch.linalg.solve_triangular  # twice: for few columns much faster than cholesky_solve

    def inverse(x: Tensor) -> Tensor:
        return torch.cat([solve(factor.mT, solve(factor, x[:-1], upper=False), upper=True), x[-1:] / spread])

    return inverse


def _logits(rows: Tensor, solution: Tensor) -> Tensor:
    return (rows @ solution[:-1].float()).double() + solution[-1]  # (N, K)


def _gradient(
    rows: Tensor, labels: Tensor, probabilities: Tensor, penalty: float, solution: Tensor
) -> Tensor:
    residual = probabilities.clone()  # (N, K)
    residual[torch.arange(len(labels)), labels] -= 1
    residual /= len(labels)
    weight = (residual.T.float() @ rows).T.double() + penalty * solution[:-1]  # (D, K)
    return torch.cat([weight, residual.sum(0, keepdim=True)])


def _accuracy(rows: Tensor, labels: Tensor, solution: Tensor) -> float:
    return int((_logits(rows, solution).argmax(1) == labels).sum()) / len(labels)


def _mean_std(rows: Tensor) -> tuple[Tensor, Tensor]:
    """Of each column, float32 (D,); the std of a constant column is infinite, which makes the column 0."""
    mean = sum((part.double().sum(0) for part in rows.split(ROWS)), torch.zeros(())) / len(rows)
    square = sum(((part.double() - mean).square().sum(0) for part in rows.split(ROWS)), torch.zeros(()))
    std = (square / len(rows)).sqrt()
    return mean.float(), std.where(std > 1e-6 * mean.abs(), torch.inf).float()


def _covariance(rows: Tensor) -> Tensor:
    """(D, D) float64, of centred rows."""
    total = torch.zeros(rows.shape[1], rows.shape[1], dtype=torch.float64)
    for part in rows.split(ROWS):
        total += part.T @ part
    return total / len(rows)
