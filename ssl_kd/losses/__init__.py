"""Pure formulas: tensors in, most give a scalar. No parameter, no buffer, no detaching; the terms do that."""

from ssl_kd.losses.classification import cross_entropy, which_view
from ssl_kd.losses.contrastive import dcl, info_nce, negative_cosine, nt_xent, sup_con
from ssl_kd.losses.distillation import dino, kl, mse, not_true_kl, similarity_kl
from ssl_kd.losses.features import (
    attention,
    attention_distance,
    cosine_distance,
    diversity,
    feature_distance,
    shifted,
)
from ssl_kd.losses.needs import needs_rows
from ssl_kd.losses.redundancy import barlow_twins, vicreg

__all__ = [
    "attention",
    "attention_distance",
    "barlow_twins",
    "cosine_distance",
    "cross_entropy",
    "dcl",
    "dino",
    "diversity",
    "feature_distance",
    "info_nce",
    "kl",
    "mse",
    "needs_rows",
    "negative_cosine",
    "not_true_kl",
    "nt_xent",
    "shifted",
    "similarity_kl",
    "sup_con",
    "vicreg",
    "which_view",
]
