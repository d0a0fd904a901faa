"""MobileNetV1 for 32-pixel images, as DCM trains it on CIFAR, and its block.

Sources: Howard et al. 2017, "MobileNets" (the block, the width multiplier); Yao and Sun 2020, "Knowledge
transfer via dense cross-layer mutual-distillation" (DCM: strides for small images, the blocks of exits).
The initialisation is PyTorch's own, as in DCM.
"""

import math
from collections.abc import Sequence
from functools import partial
from itertools import pairwise

from torch import nn

from ssl_kd.backbones.cifar import Staged, pooled
from ssl_kd.errors import InputError


def separable(inputs: int, outputs: int, stride: int) -> nn.Sequential:
    """The block: depthwise 3x3 - batch norm - ReLU - 1x1 - batch norm - ReLU."""
    return nn.Sequential(
        nn.Conv2d(inputs, inputs, 3, stride, 1, groups=inputs, bias=False),
        nn.BatchNorm2d(inputs),
        nn.ReLU(inplace=True),
        nn.Conv2d(inputs, outputs, 1, bias=False),
        nn.BatchNorm2d(outputs),
        nn.ReLU(inplace=True),
    )


def mobilenet(channels: int = 3, widen: float = 1.0) -> Staged:
    """MobileNetV1; stages of 256, 512, 1024 channels at 1, 1/2, 1/4 of the size. Width 1024.

    widen: every number of channels is multiplied by it and rounded, and is at least 1.
    Raises InputError unless widen is above 0 and finite.
    """
    if not 0 < widen < math.inf:
        raise InputError(f"mobilenet_v1 widens by a number above 0, not {widen}")
    first, narrow, middle, wide = _widened(widen, [32, 256, 512, 1024])
    conv = nn.Conv2d(channels, first, 3, 1, 1, bias=False)
    stem = nn.Sequential(conv, nn.BatchNorm2d(first), nn.ReLU(inplace=True))
    stages = {
        "stage1": _stage(first, _widened(widen, [64, 128, 128, 256, 256]), 1),
        "stage2": _stage(narrow, [middle] * 6, 2),
        "stage3": _stage(middle, [wide] * 2, 2),
    }
    counts = {"stage1": narrow, "stage2": middle, "stage3": wide}
    return Staged(stem, stages, counts, wide, remainder=partial(_remainder, widen))


def _remainder(widen: float, stage: str) -> tuple[nn.Module, int]:
    """DCM's exits: four and two blocks after stage1; two of twice the width after stage2."""
    narrow, middle, wide, double = _widened(widen, [256, 512, 1024, 2048])
    if stage == "stage1":
        return pooled([_stage(narrow, [middle] * 4, 2), _stage(middle, [wide] * 2, 2)]), wide
    return pooled([_stage(middle, [double] * 2, 2)]), double


def _stage(inputs: int, outputs: Sequence[int], stride: int) -> nn.Sequential:
    """One block for each number of output channels, the first with the stride."""
    widths = pairwise([inputs, *outputs])
    return nn.Sequential(*[separable(a, b, 1 if i else stride) for i, (a, b) in enumerate(widths)])


def _widened(widen: float, counts: Sequence[int]) -> list[int]:
    return [max(1, round(widen * count)) for count in counts]
