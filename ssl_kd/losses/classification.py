"""Losses against labels."""

import torch.nn.functional as F
from torch import Tensor

from ssl_kd.losses.rows import full, mean_of_labelled


def cross_entropy(logits: Tensor, labels: Tensor, smoothing: float = 0.0) -> Tensor:
    """Cross-entropy, mean over the rows that have a label, those of all processes together.

    logits: (B, K) or (V, B, K); labels: (B,), -1 means none, repeated over views. No label at all gives 0.
    """
    rows = full(logits).reshape(-1, logits.shape[-1])
    target = labels.expand(logits.shape[:-1]).reshape(-1)
    total = F.cross_entropy(rows, target, ignore_index=-1, reduction="sum", label_smoothing=smoothing)
    return mean_of_labelled(total, target >= 0)
