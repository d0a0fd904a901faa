"""Heads on an embedding (N, D): projections, predictions, classifiers."""

from torch import nn

from ssl_kd.errors import InputError


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
