"""torchvision's ResNets, ShuffleNets and MobileNetV2 with a stem that fits the size of the images.

Below 100 pixels the stem keeps the size: its first convolution has stride 1 and there is no max-pool (SimCLR,
Chen et al. 2020, appendix B.9; DoGo, Bhat et al. 2021). The total stride falls from 32 to 8: at 32 pixels the
last map is 4x4.
"""

from collections.abc import Mapping

from torch import nn
from torchvision import models

from ssl_kd.backbones.cifar import Staged

SMALL = 100  # pixels; from here on torchvision's own stem

# t (expansion), c (channels), n (blocks), s (stride) of each group: Sandler et al. 2018, table 2.
_MOBILENET_V2 = [
    [1, 16, 1, 1], [6, 24, 2, 2], [6, 32, 3, 2], [6, 64, 4, 2], [6, 96, 3, 1], [6, 160, 3, 2], [6, 320, 1, 1],
]  # fmt: skip


def build(name: str, channels: int, size: int, **options: object) -> Staged:
    """`name` is a constructor of torchvision.models; options go to it. Of the others: see `chains`."""
    make = {
        **dict.fromkeys(("resnet", "resnext", "wide_resnet"), _resnet),
        "shufflenet": _shufflenet,
        "mobilenet_v2": _mobilenet,
    }
    for prefix, family in make.items():
        if name.startswith(prefix):
            return family(name, channels, size < SMALL, options)
    from ssl_kd.backbones import chains

    return chains.build(name, channels, size, options)


def known() -> list[str]:
    """Every classifier of torchvision by its name."""
    return models.list_models(module=models)


def _resnet(name: str, channels: int, small: bool, options: Mapping) -> Staged:
    """stage1 to stage4 are layer1 to layer4. Width 512, or 2048 from ResNet-50 on."""
    net = getattr(models, name)(weights=None, **options)
    if small:
        stem = nn.Sequential(_stem_conv(channels, 64, 3, 1), net.bn1, net.relu)
    else:
        first = net.conv1 if channels == 3 else _stem_conv(channels, 64, 7, 2)
        stem = nn.Sequential(first, net.bn1, net.relu, net.maxpool)
    width = net.fc.in_features
    stages = {f"stage{i}": getattr(net, f"layer{i}") for i in range(1, 5)}
    return Staged(stem, stages, {f"stage{i}": width >> (4 - i) for i in range(1, 5)}, width)


def _shufflenet(name: str, channels: int, small: bool, options: Mapping) -> Staged:
    """stage1 to stage3 are torchvision's stage2 to stage4. Width 1024."""
    net = getattr(models, name)(weights=None, **options)
    first, norm, act = net.conv1
    if small or channels != 3:
        first = _stem_conv(channels, first.out_channels, 3, 1 if small else 2)
    stem = nn.Sequential(first, norm, act) if small else nn.Sequential(first, norm, act, net.maxpool)
    stages = {f"stage{i}": getattr(net, f"stage{i + 1}") for i in range(1, 4)}
    counts = {stage: 2 * module[-1].branch2[-2].num_features for stage, module in stages.items()}
    return Staged(stem, stages, counts, net.fc.in_features, tail=net.conv5)


def _mobilenet(name: str, channels: int, small: bool, options: Mapping) -> Staged:
    """A stage ends where torchvision's strides do: 16, 24, 32, 96, 320 channels. Width 1280.

    It has no max-pool; in its place the first strided group of blocks loses its stride.
    """
    groups = [[t, c, n, 1 if small and c == 24 else s] for t, c, n, s in _MOBILENET_V2]
    net = getattr(models, name)(weights=None, inverted_residual_setting=groups, **options)
    blocks = net.features  # stem, the blocks, last 1x1 convolution
    stem = blocks[0]
    if small or channels != 3:
        stem[0] = _stem_conv(channels, stem[0].out_channels, 3, 1 if small else 2)
    ends = [1, 2, 4, 7, 14, 18]
    stages = {f"stage{i}": blocks[ends[i - 1] : ends[i]] for i in range(1, 6)}
    counts = {stage: module[-1].out_channels for stage, module in stages.items()}
    return Staged(stem, stages, counts, net.last_channel, tail=blocks[-1])


def _stem_conv(channels: int, outputs: int, kernel: int, stride: int) -> nn.Conv2d:
    """Initialised as torchvision initialises its ResNets and MobileNets."""
    conv = nn.Conv2d(channels, outputs, kernel, stride, kernel // 2, bias=False)
    nn.init.kaiming_normal_(conv.weight, mode="fan_out", nonlinearity="relu")
    return conv
