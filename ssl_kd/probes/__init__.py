"""One protocol for what a representation is worth, during training and on a finished run."""

from ssl_kd.probes.features import Features, embed, pixels
from ssl_kd.probes.knn import knn
from ssl_kd.probes.linear import Linear, linear

__all__ = ["Features", "Linear", "embed", "knn", "linear", "pixels"]
