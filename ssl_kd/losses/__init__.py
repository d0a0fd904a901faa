"""Pure formulas: tensors in, most give a scalar. No parameter, no buffer, no detaching; the terms do that."""

from ssl_kd.losses.classification import cross_entropy
from ssl_kd.losses.contrastive import info_nce, negative_cosine, nt_xent
from ssl_kd.losses.distillation import kl, mse, not_true_kl, similarity_kl
from ssl_kd.losses.features import attention, attention_distance, diversity, feature_distance, shifted

__all__ = [
    "attention",
    "attention_distance",
    "cross_entropy",
    "diversity",
    "feature_distance",
    "info_nce",
    "kl",
    "mse",
    "negative_cosine",
    "not_true_kl",
    "nt_xent",
    "shifted",
    "similarity_kl",
]
