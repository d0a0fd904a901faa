"""Early exits: heads on a stage's map, which give features as the backbone's embedding does.

Yao and Sun 2020, "Knowledge transfer via dense cross-layer mutual-distillation" (DCM), take the network's own
blocks; the others cost less. Weights come from torch's global generator.
"""

import math

import torch
from torch import Tensor, nn

from ssl_kd.backbones.cifar import pooled
from ssl_kd.backbones.mobile import separable
from ssl_kd.errors import InputError
from ssl_kd.probes.features import evaluating


class Exit(nn.Module):
    """body: (N, C, H, W) -> (N, width)."""

    def __init__(self, body: nn.Module, width: int) -> None:
        super().__init__()
        self.body = body
        self.width = width

    def forward(self, x: Tensor) -> Tensor:
        """x: a stage's map (N, C, H, W). Features (N, width)."""
        return self.body(x)


def own(channels: int, *, backbone: nn.Module, stage: str) -> Exit:
    """The backbone's own blocks after the stage, freshly initialised (`Backbone.remainder`).

    The dearest: of ResNet-20's multiply-adds 0.41 at stage1, and 1.22 at stage2, where DCM doubles the width.
    channels: of the map, which those blocks know anyway. Raises InputError where they cannot be built.
    """
    if not hasattr(backbone, "remainder"):
        raise InputError(
            f"{type(backbone).__name__} has no remainder(stage), which builds its blocks after a stage; take "
            "the light exit (ssl_kd.exits.light)"
        )
    return Exit(*backbone.remainder(stage))  # type: ignore[operator]


def light(channels: int, *, backbone: nn.Module, stage: str, image: Tensor) -> Exit:
    """MobileNetV1's blocks (Howard et al. 2017) in place of the backbone's.

    One block for each halving of the size between the stage and the last; it doubles the channels. Where
    there is none, one block that keeps both. Of ResNet-20's multiply-adds less than 0.01.
    image: (1, C, H, W) of the size to come. The backbone sees it once, in eval mode: its modes, its buffers
    and the random state stay as they are. Raises InputError for a stage that the backbone does not have.
    """
    last = list(backbone.stage_channels)[-1]  # type: ignore[arg-type]
    with evaluating(backbone), torch.no_grad(), torch.random.fork_rng(devices=[]):
        maps = backbone.forward_stages(image, [stage, last])[1]  # type: ignore[operator]
    halvings = round(math.log2(maps[stage].shape[2] / maps[last].shape[2]))
    widths = [channels << i for i in range(max(halvings, 0) + 1)]
    blocks = [separable(width, 2 * width, 2) for width in widths[:-1]] or [separable(channels, channels, 1)]
    return Exit(pooled(blocks), widths[-1])


def pool(channels: int) -> Exit:
    """The mean over the pixels: nothing to learn before the projection."""
    return Exit(pooled([]), channels)
