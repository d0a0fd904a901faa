"""Losses between a student and a teacher."""

from typing import Literal

import torch
import torch.nn.functional as F
from torch import Tensor

from ssl_kd import distributed
from ssl_kd.errors import InputError
from ssl_kd.losses.rows import full, unit


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
    return (unit(rows) @ every.T / temperature).log_softmax(1)


def kl(student: Tensor, teacher: Tensor, temperature: float = 1.0, squared: bool = False) -> Tensor:
    """KL(teacher || student) of softmax(logits / temperature): sum over classes, mean over the rest.

    student, teacher: logits (..., K). squared: times temperature^2, which keeps the gradient's size (Hinton
        et al. 2015).
    Source: Zhang et al. 2018 (DML), temperature 1.
    """
    if student.shape != teacher.shape:
        raise InputError(
            f"KL compares equal shapes; the student gave {tuple(student.shape)}, "
            f"the teacher {tuple(teacher.shape)}"
        )
    log_p = (full(student) / temperature).log_softmax(-1)
    log_q = (full(teacher) / temperature).log_softmax(-1)
    loss = F.kl_div(log_p, log_q, reduction="none", log_target=True).sum(-1).mean()
    return loss * temperature**2 if squared else loss


def mse(student: Tensor, teacher: Tensor) -> Tensor:
    """Mean squared difference over all elements, e.g. of logits (Kim et al. 2021)."""
    return F.mse_loss(full(student), full(teacher))


def not_true_kl(student: Tensor, teacher: Tensor, labels: Tensor, temperature: float = 1.0) -> Tensor:
    """KL(teacher || student) over the classes that are not the label, times temperature^2; mean over rows.

    student, teacher: logits (..., B, K); labels: (B,). The label's column is removed, so its gradient is
        exactly zero.
    Source: Lee et al. 2022 (FedNTD), eq. 4.
    """
    classes = student.shape[-1]
    others = torch.arange(classes - 1, device=student.device).expand(*student.shape[:-1], -1)
    others = others + (others >= labels[:, None])  # (..., B, K - 1): every class but the label
    return kl(student.gather(-1, others), teacher.gather(-1, others), temperature, squared=True)
