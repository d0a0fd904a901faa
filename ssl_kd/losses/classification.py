"""Losses against labels, given or known."""

import torch
import torch.nn.functional as F
from torch import Tensor

from ssl_kd.errors import InputError
from ssl_kd.losses.needs import needs_width
from ssl_kd.losses.rows import full, mean_of_labelled


@needs_width(2)
def cross_entropy(logits: Tensor, labels: Tensor, smoothing: float = 0.0) -> Tensor:
    """Cross-entropy, mean over the rows that have a label, those of all processes together.

    logits: (B, K) or (V, B, K); labels: (B,), -1 means none, repeated over views. No label at all gives 0.
    """
    rows = full(logits).reshape(-1, logits.shape[-1])
    target = labels.expand(logits.shape[:-1]).reshape(-1)
    total = F.cross_entropy(rows, target, ignore_index=-1, reduction="sum", label_smoothing=smoothing)
    return mean_of_labelled(total, target >= 0)


def which_view(logits: Tensor) -> Tensor:
    """Cross-entropy of which view a row is: the number of the view is the answer.

    logits: (V, B, V), as of the four quarter turns of an image (`ssl_kd.data.augment.quarter_turns`).
    Source: Gidaris et al. 2018 (RotNet), eq. 2 and 3.
    """
    if logits.dim() != 3 or logits.shape[0] != logits.shape[2]:
        raise InputError(f"one class for each view, (V, B, V), is needed; it got {tuple(logits.shape)}")
    answers = torch.arange(len(logits), device=logits.device).repeat_interleave(logits.shape[1])
    return F.cross_entropy(full(logits).flatten(0, 1), answers)
