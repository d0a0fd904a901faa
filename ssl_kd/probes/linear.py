"""Multinomial logistic regression on frozen features: no schedule to tune, one minimum to reach."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor

from ssl_kd.errors import InputError
from ssl_kd.probes.features import Features, labelled
from ssl_kd.streams import generator
from ssl_kd.system.allocator import large_pieces_given_back

MEMORY = 100  # pairs that L-BFGS keeps, of 3 * K * (D + 1) float32 each,
MEMORY_BYTES = 96 << 20  # as long as they take no more than that, or than the rows do
ROUGH = 1e-6  # tolerance of the fits that only choose a penalty
MANY = 16  # with a class for so many columns, products with an inverse are faster than solving for each
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
    with large_pieces_given_back():
        return _fitted(features, penalties, seed, iterations)


def _fitted(features: Features, penalties: Sequence[float], seed: int, iterations: int) -> Linear:
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
    del solution, logits  # each as large as the weights, or as the rows
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
    spread = max((len(labels) - _dot(probabilities, probabilities)) / probabilities.numel(), 1e-12)
    gradient = _gradient(rows, labels, probabilities, penalty, solution)
    precondition = _inverse_curvature(covariance, penalty, spread, solution.shape[1])
    scaled = precondition(gradient)
    most = max(1, min(MEMORY, max(MEMORY_BYTES, rows.nbytes) // (12 * gradient.numel())))
    pairs: list[Pair] = []
    for _ in range(iterations):
        direction = _quasi_newton(gradient, scaled, pairs).neg_()
        slope = _dot(gradient, direction)
        if -slope / 2 <= tolerance:
            break
        along = _logits(rows, direction)
        length = _line_search(logits, along, labels, penalty, solution, direction, slope, probabilities)
        step = direction.mul_(length)
        solution += step
        logits.add_(along, alpha=length)
        change, scaled_change = gradient.neg_(), scaled.neg_()
        gradient = _gradient(rows, labels, probabilities, penalty, solution)
        scaled = precondition(gradient)
        change += gradient
        scaled_change += scaled
        product, curved = _dot(step, change), _dot(change, scaled_change)
        if product > 0 and curved > 0:  # always, but for rounding: the objective is convex
            del pairs[: len(pairs) + 1 - most]
            pairs.append((step.float(), change.float(), scaled_change, product, product / curved))
    return solution


def _line_search(
    logits: Tensor,
    along: Tensor,
    labels: Tensor,
    penalty: float,
    solution: Tensor,
    direction: Tensor,
    first: float,
    probabilities: Tensor,
) -> float:
    """A step length where the slope is at most a tenth of the `first`; writes `probabilities` (N, K) there.

    logits, along: (N, K), of the solution and of the direction. Logits are linear in the weights, so Newton's
    method in one dimension, kept inside a bracket, needs no further pass over the rows.
    """
    target = float(along.gather(1, labels[:, None]).mean())
    inner, square = _dot(solution[:-1], direction[:-1]), _dot(direction[:-1], direction[:-1])
    low, high, length = 0.0, float("inf"), 1.0
    for _ in range(30):
        means, variance = [], 0.0
        for here, there, part in zip(
            *(x.split(ROWS // 4) for x in (logits, along, probabilities)), strict=True
        ):
            torch.softmax(torch.add(here, there, alpha=length), 1, out=part)
            weighted = part * there
            means.append(weighted.sum(1))
            variance += float(weighted.flatten() @ there.flatten() - means[-1] @ means[-1])
        variance /= len(logits)
        slope = float(torch.cat(means).mean()) - target + penalty * (inner + length * square)
        if abs(slope) <= 0.1 * abs(first):
            break
        low, high = (length, high) if slope < 0 else (low, length)
        newton = min(length - slope / (variance + penalty * square), 4 * length)
        length = newton if low < newton < high else (low + high) / 2
    return length


# A step (D + 1, K), the change of the gradient on it, what the preconditioner makes of that, in float32;
# step times change, and how much larger the inverse curvature is there than the preconditioner.
Pair = tuple[Tensor, Tensor, Tensor, float, float]


def _quasi_newton(gradient: Tensor, scaled: Tensor, pairs: Sequence[Pair]) -> Tensor:
    """The inverse curvature that `pairs` and the preconditioner know of, times the gradient.

    scaled: what the preconditioner makes of the gradient. It is linear, so each step applies it only once.
    """
    left, result, shares = gradient.clone(), scaled.double(), []
    for step, change, scaled_change, product, _ in reversed(pairs):
        shares.append(_dot(left, step) / product)
        left.sub_(change, alpha=shares[-1])
        result.sub_(scaled_change, alpha=shares[-1])
    del left
    if pairs:
        result *= pairs[-1][-1]
    for step, change, _, product, _ in pairs:
        result.add_(step, alpha=shares.pop() - _dot(result, change) / product)
    return result


def _dot(a: Tensor, b: Tensor) -> float:
    """The sum of the products, in float64, without another tensor of that size."""
    return sum(float((x * y).sum()) for x, y in zip(a.split(ROWS // 8), b.split(ROWS // 8), strict=True))


def _inverse_curvature(
    covariance: Tensor, penalty: float, spread: float, classes: int
) -> Callable[[Tensor], Tensor]:
    """x -> (spread * covariance + penalty)^-1 x on the weights, x / spread on the bias; float32.

    spread: the mean of p (1 - p) over rows and classes; were it that of each, this is the inverse Hessian.
    classes: columns of x.
    """
    curvature = spread * covariance
    # The covariance is right to float32: beyond that its smallest eigenvalues may be negative.
    curvature.diagonal().add_(penalty + 1e-6 * spread * float(covariance.trace()))
    factor = torch.linalg.cholesky(curvature)
    del curvature
    solve = torch.linalg.solve_triangular  # twice: for few columns much faster than cholesky_solve
    if classes < len(factor) / MANY:

        def solved(x: Tensor) -> Tensor:
            return solve(factor.mT, solve(factor, x, upper=False), upper=True)

    else:  # the root of the inverse, in float32; as its square, rounding makes no direction lead upwards
        factor = factor.float()
        root = solve(factor, torch.eye(len(factor)), upper=False)
        del factor

        def solved(x: Tensor) -> Tensor:
            return root.T @ (root @ x.float())

    def inverse(x: Tensor) -> Tensor:
        found = torch.empty(x.shape)
        found[:-1], found[-1] = solved(x[:-1]), x[-1] / spread
        return found

    return inverse


def _logits(rows: Tensor, solution: Tensor) -> Tensor:
    return (rows @ solution[:-1].float()).double().add_(solution[-1])  # (N, K)


def _gradient(
    rows: Tensor, labels: Tensor, probabilities: Tensor, penalty: float, solution: Tensor
) -> Tensor:
    residual = probabilities  # (N, K), which nobody needs any more
    residual[torch.arange(len(labels)), labels] -= 1
    residual /= len(labels)
    found = torch.empty_like(solution)
    torch.add((residual.T.float() @ rows).T, solution[:-1], alpha=penalty, out=found[:-1])
    found[-1] = residual.sum(0)
    return found


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
