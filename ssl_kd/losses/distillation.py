"""Losses between a student and a teacher."""

import math
from collections.abc import Callable
from typing import Literal

import torch
import torch.nn.functional as F
from torch import Tensor

from ssl_kd import distributed
from ssl_kd.errors import InputError
from ssl_kd.losses.needs import needs_rows, needs_views, needs_width
from ssl_kd.losses.rows import (
    check_shapes,
    check_temperature,
    full,
    mean_of_labelled,
    products,
    unit,
)


@needs_width(2)
@needs_rows(2)
def similarity_kl(
    student: Tensor,
    teacher: Tensor,
    temperature: float = 0.1,
    symmetric: bool = False,
    gather: bool = True,
    reduction: Literal["row", "element"] = "row",
) -> Tensor:
    """KL(teacher || student) between the rows of two cross-view similarity matrices (diagonal kept).

    student, teacher: (2, B, D), two views of B images, any scale; D may differ between the two.
    symmetric: the mean with the same on the second view's rows against the first's columns.
    gather: over several processes, this one's rows against the columns of all.
    reduction: row is the mean over rows; element divides by the columns too, as the authors' code does.
    Source: Bhat et al. 2021 (DoGo); NeurAI-Lab/DoGo criterion/kl.py takes the element mean, weight 100 at
    B = 256, which is 0.39 of a row mean.
    """
    for name, x in (("student", student), ("teacher", teacher)):
        if x.dim() != 3 or len(x) != 2:
            raise InputError(f"similarity KL compares two views, (2, B, D); the {name} gave {tuple(x.shape)}")
    if student.shape[1] != teacher.shape[1]:
        raise InputError(
            f"similarity KL compares the same images; the student gave {student.shape[1]}, "
            f"the teacher {teacher.shape[1]}"
        )
    check_temperature("similarity KL", temperature)
    if reduction not in ("row", "element"):
        raise InputError(f'reduction is "{reduction}", but can be: row, element')
    directions = [(0, 1), (1, 0)] if symmetric else [(0, 1)]
    losses = []
    for rows, columns in directions:
        log_p = _log_similarity(student[rows], student[columns], temperature, gather)  # (B, W * B)
        log_q = _log_similarity(teacher[rows], teacher[columns], temperature, gather)  # (B, W * B)
        loss = F.kl_div(log_p, log_q, reduction="batchmean", log_target=True)
        losses.append(loss / log_p.shape[1] if reduction == "element" else loss)
    return torch.stack(losses).mean()


def _log_similarity(rows: Tensor, columns: Tensor, temperature: float, gather: bool) -> Tensor:
    columns = unit(columns)
    every = distributed.gather(columns) if gather else columns
    return (products(unit(rows), every) / temperature).log_softmax(1)


@needs_width(2)
def kl(
    student: Tensor,
    teacher: Tensor,
    temperature: float = 1.0,
    squared: bool = False,
    epsilon: float = 0.0,
) -> Tensor:
    """KL(teacher || student) of softmax(logits / temperature): sum over classes, mean over the rest.

    student, teacher: logits (..., K). squared: times temperature^2, which keeps the gradient's size (Hinton
        et al. 2015).
    temperature: inf (in YAML .inf) is the limit of the squared form, |d|^2 / (2 K) - (sum d)^2 / (2 K^2) with
        d = student - teacher: MSE that leaves the student's mean logit free (Kim et al. 2021).
    epsilon: both distributions are (p + epsilon) / (1 + K epsilon), 1e-8 in DCM.
    Source: Zhang et al. 2018 (DML), temperature 1; Yao & Sun 2020 (DCM), with epsilon.
    """
    return _kl(student, teacher, temperature, squared, epsilon, torch.mean)


def _kl(
    student: Tensor,
    teacher: Tensor,
    temperature: float,
    squared: bool,
    epsilon: float,
    mean: Callable[[Tensor], Tensor],
) -> Tensor:
    check_shapes("KL", student, teacher)
    if not temperature > 0:
        raise InputError(f"KL needs a temperature above 0, not {temperature}")
    if not 0 <= epsilon < math.inf:
        raise InputError(f"KL needs an epsilon of 0 or more, not {epsilon}")
    classes = student.shape[-1]
    if math.isinf(temperature):
        if not squared:
            raise InputError(
                "KL at infinite temperature needs squared: true, since without temperature^2 it is 0"
            )
        difference = full(student) - full(teacher)
        # The formula is half a variance; written as one, a large mean does not cancel in it.
        # Smoothing shrinks what remains of both distributions, their distance from uniform, by 1 + K epsilon.
        return mean(difference.var(-1, correction=0)) / (2 * (1 + classes * epsilon) ** 2)
    log_p = _smoothed((full(student) / temperature).log_softmax(-1), epsilon)
    log_q = _smoothed((full(teacher) / temperature).log_softmax(-1), epsilon)
    loss = mean(F.kl_div(log_p, log_q, reduction="none", log_target=True).sum(-1))
    return loss * temperature**2 if squared else loss


def _smoothed(log_p: Tensor, epsilon: float) -> Tensor:
    """log of (p + epsilon) / (1 + K epsilon), exact where p is below what its precision can hold."""
    if not epsilon:
        return log_p
    smoothed = torch.logaddexp(log_p, log_p.new_full((), math.log(epsilon)))
    return smoothed - math.log1p(log_p.shape[-1] * epsilon)


@needs_views(2)
@needs_width(2)
def dino(
    student: Tensor, teacher: Tensor, temperature: float = 0.1, teacher_temperature: float = 0.04
) -> Tensor:
    """Cross-entropy of the student's softmax against the teacher's on other views of the same images.

    student: scores (V, B, K); teacher: scores (U, B, K), centred, of the first U <= V of the same views
        (multi-crop: of the large ones). Mean over rows and over all pairs of different views.
    temperature, teacher_temperature: of the two softmaxes; the teacher's is sharper.
    Source: Caron et al. 2021 (DINO), eq. 3 and algorithm 1. The centre is a peer's: `ssl_kd.memory.Centre`.
    """
    if not 3 == student.dim() == teacher.dim() or student.shape[1:] != teacher.shape[1:]:
        raise InputError(
            f"DINO compares views of the same images, (V, B, K); the student gave {tuple(student.shape)}, "
            f"the teacher {tuple(teacher.shape)}"
        )
    if len(student) < 2 or len(teacher) > len(student):
        raise InputError(
            f"DINO needs two views or more, the teacher's among them; the student gave {len(student)}, the "
            f"teacher {len(teacher)}"
        )
    check_temperature("DINO", temperature)
    check_temperature("DINO", teacher_temperature)
    log_p = (full(student) / temperature).log_softmax(-1)
    q = (full(teacher) / teacher_temperature).softmax(-1)
    return -torch.stack(
        [(q[b] * log_p[a]).sum(-1).mean() for b in range(len(q)) for a in range(len(log_p)) if a != b]
    ).mean()


def mse(student: Tensor, teacher: Tensor, reduction: Literal["mean", "sum"] = "mean") -> Tensor:
    """Squared difference, e.g. of logits.

    student, teacher: (..., K), equal shapes.
    reduction: mean is over all elements, as in the code of Kim et al. 2021; sum is over the classes, then
        the mean over rows, as in their paper: K times as much.
    """
    check_shapes("MSE", student, teacher)
    if reduction not in ("mean", "sum"):
        raise InputError(f'reduction is "{reduction}", but can be: mean, sum')
    if reduction == "sum":
        return (full(student) - full(teacher)).square().sum(-1).mean()
    return F.mse_loss(full(student), full(teacher))


@needs_width(3)  # of two classes the true one leaves one
def not_true_kl(student: Tensor, teacher: Tensor, labels: Tensor, temperature: float = 1.0) -> Tensor:
    """KL(teacher || student) over the classes that are not the label, times temperature^2.

    student, teacher: logits (..., B, K); labels: (B,), -1 means none. The label's column is removed, so its
        gradient is exactly zero. The mean is over the rows that have a label, as in `cross_entropy`.
    Source: Lee et al. 2022 (FedNTD), eq. 4.
    """
    check_shapes("KL", student, teacher)
    classes = student.shape[-1]
    others = torch.arange(classes - 1, device=student.device).expand(*student.shape[:-1], -1)
    others = others + (others >= labels[:, None])  # (..., B, K - 1): every class but the label
    known = (labels >= 0).expand(student.shape[:-1])

    def mean(rows: Tensor) -> Tensor:
        return mean_of_labelled(rows.where(known, 0.0).sum(), known)

    return _kl(student.gather(-1, others), teacher.gather(-1, others), temperature, True, 0.0, mean)
