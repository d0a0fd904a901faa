"""A folder with a library's model: weights under the library's names, and a config.json that timm reads."""

import json
from typing import Any

from safetensors.torch import save

from ssl_kd.export.deployed import Deployed
from ssl_kd.export.own import plain
from ssl_kd.export.rebuilt import Rebuilt


def weights(rebuilt: Rebuilt) -> bytes:
    """model.safetensors: every tensor of the library's model, so that a strict load takes it."""
    return save(plain(rebuilt.model), {"format": "pt"})


def config(network: Deployed, rebuilt: Rebuilt) -> dict[str, Any]:
    """config.json.

    In timm's form where timm alone builds the network. Where its stem was changed it has no "architecture",
    so that timm refuses the folder instead of giving a network of another stride and the same weights.
    """
    mean, std = network.normalisation or ([0.0] * network.channels, [1.0] * network.channels)
    size = [network.channels, network.size, network.size]
    labels = {"label_names": network.classes} if rebuilt.num_classes and network.classes else {}
    prepared = {
        "input_size": size,
        "mean": mean,
        "std": std,
        "interpolation": "bilinear",
        "crop_pct": 1.0,
        "crop_mode": "center",
        "num_classes": rebuilt.num_classes,
    }
    if rebuilt.library == "timm" and not rebuilt.edits:
        theirs: Any = rebuilt.model
        first = {key: theirs.pretrained_cfg.get(key) for key in ("first_conv", "classifier")}
        return {
            "architecture": rebuilt.architecture,
            "num_classes": rebuilt.num_classes,
            "num_features": network.network.embed(network.images(1)).shape[1],
            **labels,
            "model_args": {key: v for key, v in rebuilt.arguments.items() if key != "num_classes"},
            "pretrained_cfg": {**prepared, **{key: value for key, value in first.items() if value}},
            "ssl_kd": network.about,
        }
    return {
        "library": rebuilt.library,
        "model": rebuilt.architecture,
        "build": rebuilt.code,
        **prepared,
        **labels,
        "ssl_kd": network.about,
    }


def to_json(content: dict[str, Any]) -> bytes:
    return (json.dumps(content, indent=2) + "\n").encode()
