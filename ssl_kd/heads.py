"""Heads on an embedding (N, D): projections, predictions, classifiers."""

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from ssl_kd.errors import InputError
from ssl_kd.losses.rows import products, unit


def mlp(
    in_features: int,
    out: int = 128,
    hidden: int | None = 512,
    layers: int = 2,
    last_norm: bool = False,
    last_bias: bool = True,
) -> nn.Sequential:
    """Linear - batch norm - ReLU, `layers - 1` times, then a last Linear.

    hidden: width between, None for that of the input. last_norm: batch norm without shift after the last
    layer, whose Linear then has no bias (SimCLR's code; Chen et al. 2020).
    Defaults are DoGo's projector (Bhat et al. 2021).
    """
    if out < 1 or layers < 1 or (hidden is not None and hidden < 1):
        raise InputError(
            f"a head needs out, hidden and layers of at least 1, not {out}, {hidden} and {layers}"
        )
    between = hidden or in_features
    parts: list[nn.Module] = []
    for _ in range(layers - 1):
        parts += [nn.Linear(in_features, between, bias=False), nn.BatchNorm1d(between), nn.ReLU(inplace=True)]
        in_features = between
    parts.append(nn.Linear(in_features, out, bias=last_bias and not last_norm))
    if last_norm:
        norm = nn.BatchNorm1d(out)
        norm.register_parameter("bias", None)
        parts.append(norm)
    return nn.Sequential(*parts)


class CosineClassifier(nn.Module):
    """Scores of the classes: `scale` times the cosine of a row with the direction of each class; no bias.

    (N, in_features) -> (N, out_features). Which class is frequent then lies in no length and no bias.
    Source: Iscen et al. 2021 (Class-balanced distillation), whose scale of 20 is fixed.
    """

    def __init__(self, in_features: int, out_features: int, scale: float = 20.0) -> None:
        super().__init__()
        if out_features < 1:
            raise InputError(f"a classifier needs out_features of at least 1, not {out_features}")
        self.scale, self.out_features = scale, out_features
        self.weight = nn.Parameter(nn.init.xavier_uniform_(torch.empty(out_features, in_features)))

    def forward(self, rows: Tensor) -> Tensor:
        return self.scale * products(unit(rows), unit(self.weight))


class Prototypes(nn.Module):
    """Scores of a row against `out` learned directions: cosines, since both have length 1.

    (N, in_features) -> (N, out). Source: Caron et al. 2021 (DINO), the weight-normalised last layer after an
    L2 bottleneck, its lengths fixed at 1.
    """

    def __init__(self, in_features: int, out: int = 1024) -> None:
        super().__init__()
        if out < 1:
            raise InputError(f"prototypes need out of at least 1, not {out}")
        self.weight = nn.Parameter(F.normalize(torch.randn(out, in_features), dim=1))

    def forward(self, rows: Tensor) -> Tensor:
        return products(unit(rows), unit(self.weight))
