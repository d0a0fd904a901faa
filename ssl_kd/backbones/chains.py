"""torchvision's other convolutional networks: a chain of modules, cut into stages where the size falls.

For images of at most 64 pixels the stem is lowered as `timm_models` says of networks without patches: once
always, and again until the last map is at least 4x4 (3x3 below 32 pixels, 2x2 below 24). The classifier goes,
with the fixed grid that VGG and AlexNet have below it: the embedding is the mean of the last map.
"""

from collections.abc import Mapping
from contextlib import suppress
from typing import Any

from torch import Tensor, nn
from torchvision import models

from ssl_kd.backbones.cifar import Staged
from ssl_kd.backbones.stems import SMALL, UNFIT, drop_unused, dry, lowered, probe_image
from ssl_kd.data.files import first_line
from ssl_kd.errors import InputError

_AFTER = ("avgpool", "dropout", "fc", "classifier", "aux1", "aux2", "AuxLogits")  # the map, in the inceptions
_INCEPTIONS = {"aux_logits": False, "init_weights": True}
_TOKENS = ("vit_", "swin_", "maxvit_")


def build(name: str, channels: int, size: int, options: Mapping[str, Any]) -> Staged:
    """stage1, stage2, ...: the last map of each size. Raises InputError for networks that are no chain."""
    if name.startswith(_TOKENS):
        raise InputError(
            f"torchvision's {name} is not taken apart here; timm has its family, as {_twin(name)}"
        )
    more = _INCEPTIONS if name in ("googlenet", "inception_v3") else {}
    net = models.get_model(name, weights=None, **{**more, **options})
    chain = nn.Sequential(*links(net))
    if channels != 3:
        _take_channels(chain, channels)
    image = probe_image(channels, size)
    if size <= SMALL:
        chain = lowered(chain, image, lambda net, x: net(x), _side)
    try:
        staged = _staged(chain, image)
        drop_unused(staged, image)
    except UNFIT as error:
        raise InputError(f"{name} cannot take images of {size} pixels ({first_line(error)})") from error
    return staged


def _twin(name: str) -> str:
    return {"v": "vit_base_patch16_224", "s": "swin_tiny_patch4_window7_224", "m": "maxvit_tiny_tf_224"}[
        name[0]
    ]


def links(net: nn.Module) -> list[nn.Module]:
    """What runs one after the other, up to the last map."""
    if isinstance(net, models.DenseNet):
        return [*net.features, nn.ReLU(inplace=True)]
    if isinstance(net, models.RegNet):
        return [net.stem, *net.trunk_output]
    if isinstance(net, models.MNASNet):
        return list(net.layers)
    features = getattr(net, "features", None)
    if isinstance(features, nn.Sequential):
        return list(features)
    return [child for name, child in net.named_children() if name not in _AFTER]


def _take_channels(chain: nn.Module, channels: int) -> None:
    """A first convolution for another number of channels, initialised as torchvision initialises most."""
    for parent in chain.modules():
        for name, old in parent.named_children():
            if isinstance(old, nn.Conv2d):
                like: Any = {key: getattr(old, key) for key in ("kernel_size", "stride", "padding")}
                new = nn.Conv2d(channels, old.out_channels, bias=old.bias is not None, **like)
                nn.init.kaiming_normal_(new.weight, mode="fan_out")
                setattr(parent, name, new)
                return


def _side(chain: nn.Module, image: Tensor) -> int:
    """Pixels along the side of the last map; 0 where the network does not run."""
    with suppress(*UNFIT), dry(chain):
        return min(chain(image).shape[-2:])
    return 0


def _staged(chain: nn.Sequential, image: Tensor) -> Staged:
    ends: list[tuple[int, int]] = []  # of each size: how many links have run, and the channels by then
    side, x = 0, image
    with dry(chain):
        for count, link in enumerate(chain, 1):
            x = link(x)
            if x.shape[-1] != side:
                ends.append((count, x.shape[1]))
            side, ends[-1] = x.shape[-1], (count, x.shape[1])
    starts = [0, *(end for end, _ in ends)]
    stages = {f"stage{i + 1}": chain[starts[i] : end] for i, (end, _) in enumerate(ends)}
    counts = {f"stage{i}": width for i, (_, width) in enumerate(ends, 1)}
    return Staged(nn.Identity(), stages, counts, ends[-1][1])
