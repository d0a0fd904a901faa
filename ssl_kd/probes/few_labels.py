"""Accuracy from a handful of labels: logistic regression on frozen features, many small draws of labels."""

import math
from collections.abc import Sequence
from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor

from ssl_kd.data.draws import amount_name, draw
from ssl_kd.errors import InputError
from ssl_kd.intervals import interval
from ssl_kd.probes.features import Features, labelled
from ssl_kd.probes.linear import minimise

PENALTIES = (100.0, 10.0, 1.0, 1e-1, 1e-2, 1e-3, 1e-4, 1e-5)  # from strong to weak
FOLDS = 5
FIXED = 1e-1  # where a class has too few labels for FOLDS; why this: see `few_labels`
ROUGH = 1e-5  # tolerance of the fits that only choose a penalty


@dataclass(frozen=True)
class FewLabels:
    """Test accuracies of probes that saw few labels, one for each draw, and what they say of the mean."""

    labels: int  # of each draw
    accuracies: tuple[float, ...]
    mean: float
    low: float  # the 95 % interval of the mean over draws (Student's t), which may pass 0 and 1
    high: float
    penalties: tuple[float, ...]  # of each draw


def few_labels(
    features: Features,
    shares: Sequence[float] = (0.01, 0.1),
    per_class: Sequence[int] = (1, 5, 10),
    draws: int = 5,
    seed: int = 0,
) -> dict[str, FewLabels]:
    """Test accuracy of logistic regression on few labelled train rows, per amount: "1%", "5 per class", ...

    Each amount is drawn `draws` times, stratified (see `draws.draw`): the same rows for every network of one
    data set, so that differences between networks are paired. The interval says how much the choice of labels
    matters; it knows nothing of other trainings of the network, and large shares overlap between draws.
    Columns are standardised by all train rows, which takes no label. The objective is that of `linear`.

    Penalty: where every class has FOLDS labels or more, that of least cross-entropy in stratified FOLDS-fold
    cross-validation inside the drawn labels, from strong to weak until it gets worse; accuracy on so few rows
    is mostly ties. With fewer labels nothing can be held out, and the penalty is FIXED: on six feature sets
    of 32 to 512 columns (embedding and projection of networks trained on digits and on CIFAR-10), no penalty
    from 10 to 1e-5 was better by more than 1.2 points with one label per class (most by 0.1), nor by more
    than 1.3 with five; measured on train rows that were not drawn.
    Raises InputError for features that `linear` refuses, fewer than two draws, and too few rows of a class.
    """
    if draws < 2:
        raise InputError(
            f"the few-label probe needs two draws or more to say how far to trust it, not {draws}."
        )
    rows, labels, test, test_labels = labelled(features, "the few-label probe")
    std, mean = torch.std_mean(rows.double(), 0, correction=0)
    std = std.where(std > 1e-6 * mean.abs(), torch.inf)  # a constant column becomes 0
    rows, test = ((split.double() - mean).div_(std).float() for split in (rows, test))
    found = {}
    for amount in (*map(float, shares), *per_class):
        accuracies, penalties = [], []
        for number in range(draws):
            at = draw(labels, features.classes, amount, seed, number)
            weight, bias, penalty = _fitted(rows[at], labels[at], features.classes)
            hits = (test @ weight + bias).argmax(1) == test_labels
            accuracies.append(int(hits.sum()) / len(test))
            penalties.append(penalty)
        found[amount_name(amount)] = FewLabels(
            len(at), tuple(accuracies), *_interval(accuracies), tuple(penalties)
        )
    return found


def _fitted(rows: Tensor, labels: Tensor, classes: int) -> tuple[Tensor, Tensor, float]:
    """Weight (D, K) and bias (K,), float32, and the penalty they were fitted with."""
    basis = None
    if len(rows) < rows.shape[1]:
        # The minimum is a combination of the rows: in an orthonormal basis of them it is the same, but small.
        basis = torch.linalg.qr(rows.T).Q  # (D, n)
        rows = rows @ basis
    counts = labels.bincount()
    enough = int(counts[counts > 0].min()) >= FOLDS
    penalty = _chosen(rows, labels, classes) if enough else FIXED
    solution = minimise(rows, labels, penalty, _zeros(rows, classes), _covariance(rows)).float()
    weight = solution[:-1] if basis is None else basis @ solution[:-1]
    return weight, solution[-1], penalty


def _chosen(rows: Tensor, labels: Tensor, classes: int) -> float:
    """The penalty of least cross-entropy on rows left out, in stratified cross-validation."""
    from sklearn.model_selection import StratifiedKFold  # here: it takes most of a second to import

    folds = []
    for fit, held in StratifiedKFold(FOLDS).split(rows.numpy(), labels.numpy()):
        inside, outside = torch.from_numpy(fit), torch.from_numpy(held)
        folds.append((rows[inside], labels[inside], rows[outside], labels[outside]))
    solutions = [_zeros(rows, classes)] * FOLDS
    covariance = _covariance(rows)
    least, chosen = float("inf"), PENALTIES[0]
    for penalty in PENALTIES:
        loss = 0.0
        for number, (inner, inner_labels, outer, outer_labels) in enumerate(folds):
            solution = minimise(inner, inner_labels, penalty, solutions[number], covariance, tolerance=ROUGH)
            solutions[number] = solution
            logits = outer @ solution[:-1].float() + solution[-1].float()
            loss += float(F.cross_entropy(logits, outer_labels, reduction="sum"))
        if loss >= least:
            break
        least, chosen = loss, penalty
    return chosen


def _interval(values: Sequence[float]) -> tuple[float, float, float]:
    """Mean, and both ends of its interval: the mean itself where all draws agree."""
    found = interval(values)
    if math.isnan(found.low):
        return found.mean, found.mean, found.mean
    return found.mean, found.low, found.high


def _zeros(rows: Tensor, classes: int) -> Tensor:
    return torch.zeros(rows.shape[1] + 1, classes, dtype=torch.float64)


def _covariance(rows: Tensor) -> Tensor:
    """(D, D) float64, about 0: it only shapes the steps of `minimise`."""
    return (rows.T @ rows).double() / len(rows)
