"""Pure formulas: tensors in, one scalar out. No parameter, no buffer, no detaching (the terms do that)."""

from ssl_kd.losses.classification import cross_entropy
from ssl_kd.losses.contrastive import info_nce, negative_cosine, nt_xent
from ssl_kd.losses.distillation import kl, mse, not_true_kl, similarity_kl

__all__ = [
    "cross_entropy",
    "info_nce",
    "kl",
    "mse",
    "negative_cosine",
    "not_true_kl",
    "nt_xent",
    "similarity_kl",
]
