"""One protocol for what a representation is worth, during training and on a finished run."""

from collections.abc import Sequence
from typing import Any

from ssl_kd.probes.features import Features, embed, pixels
from ssl_kd.probes.knn import knn
from ssl_kd.probes.linear import Linear, linear

__all__ = ["Features", "Linear", "embed", "knn", "linear", "pixels", "score"]


def score(
    features: Features, seed: int = 0, k: Sequence[int] = (1, 10, 20, 200), temperature: float = 0.07
) -> dict[str, Any]:
    """Both probes, ready for JSON: knn (a dict with string keys), linear, linear_held_out, linear_penalty.

    Accuracies are fractions in [0, 1]; errors are those of `knn` and `linear`.
    """
    nearest = knn(features, k, temperature)
    fitted = linear(features, seed=seed)
    return {
        "knn": {str(count): accuracy for count, accuracy in nearest.items()},
        "linear": fitted.accuracy,
        "linear_held_out": fitted.held_out,
        "linear_penalty": fitted.penalty,
    }
