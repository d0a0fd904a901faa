"""Networks made for 32-pixel images: ResNet-(6n+2) and WRN-(6n+4)-k.

Sources: He et al. 2016, "Deep residual learning", section 4.2; Zagoruyko and Komodakis 2016, "Wide residual
networks"; He et al. 2015, "Delving deep into rectifiers" (the initialisation, fan-out form); Yao and Sun
2020, "Knowledge transfer via dense cross-layer mutual-distillation" (DCM: the blocks of exits).
"""

import copy
from collections.abc import Callable, Collection, Mapping, Sequence
from functools import partial
from typing import TypeVar

import torch.nn.functional as F
from torch import Tensor, nn

from ssl_kd.errors import InputError

Net = TypeVar("Net", bound=nn.Module)


class Staged(nn.Module):
    """stem -> stages, whose maps can be asked for -> tail -> mean over the pixels.

    remainder: builds what `self.remainder` gives, where that is no copy of the later stages. A module-level
        function, with `partial`: it copies and pickles with the network, unlike a closure.
    """

    def __init__(
        self,
        stem: nn.Module,
        stages: Mapping[str, nn.Module],
        stage_channels: Mapping[str, int],
        width: int,
        tail: nn.Module | None = None,
        remainder: Callable[[str], tuple[nn.Module, int]] | None = None,
    ) -> None:
        super().__init__()
        self.stem = stem
        self.stages = nn.ModuleDict(stages)
        self.tail = tail or nn.Identity()
        self.width = width
        self.stage_channels = dict(stage_channels)
        self._remainder = remainder

    def forward(self, x: Tensor, stages: Collection[str] = ()) -> tuple[Tensor, dict[str, Tensor]]:
        """x: (N, C, H, W), normalised. The embedding (N, width) and the asked-for maps (N, C, H, W)."""
        maps = {}
        x = self.stem(x)
        for name, stage in self.stages.items():
            x = stage(x)
            if name in stages:
                maps[name] = x
        return self.tail(x).mean((2, 3)), maps

    def remainder(self, stage: str) -> tuple[nn.Module, int]:
        """The blocks after that stage, freshly initialised: (N, C, H, W) -> (N, width), and that width."""
        if self._remainder is not None:
            return self._remainder(stage)
        later = list(self.stages).index(stage) + 1
        return pooled([anew(part) for part in [*list(self.stages.values())[later:], self.tail]]), self.width


class BasicBlock(nn.Module):
    """Two 3x3 convolutions; where the shape changes, the shortcut is 1x1 with batch norm ("option B")."""

    def __init__(self, inputs: int, outputs: int, stride: int) -> None:
        super().__init__()
        self.conv1 = _conv(inputs, outputs, 3, stride)
        self.bn1 = nn.BatchNorm2d(outputs)
        self.conv2 = _conv(outputs, outputs, 3)
        self.bn2 = nn.BatchNorm2d(outputs)
        self.shortcut = nn.Sequential()
        if stride != 1 or inputs != outputs:
            self.shortcut = nn.Sequential(_conv(inputs, outputs, 1, stride), nn.BatchNorm2d(outputs))

    def forward(self, x: Tensor) -> Tensor:
        residual = self.bn2(self.conv2(F.relu(self.bn1(self.conv1(x)), inplace=True)))
        return F.relu(residual.add_(self.shortcut(x)), inplace=True)  # nobody's backward reads what is lost


class WideBlock(nn.Module):
    """Batch norm and ReLU come first; a 1x1 shortcut reads the activated input, the identity the raw one."""

    def __init__(self, inputs: int, outputs: int, stride: int) -> None:
        super().__init__()
        self.bn1 = nn.BatchNorm2d(inputs)
        self.conv1 = _conv(inputs, outputs, 3, stride)
        self.bn2 = nn.BatchNorm2d(outputs)
        self.conv2 = _conv(outputs, outputs, 3)
        changes = stride != 1 or inputs != outputs
        self.shortcut = _conv(inputs, outputs, 1, stride) if changes else None

    def forward(self, x: Tensor) -> Tensor:
        active = F.relu(self.bn1(x), inplace=True)
        residual = self.conv2(F.relu(self.bn2(self.conv1(active)), inplace=True))
        return residual.add_(x if self.shortcut is None else self.shortcut(active))


def resnet(depth: int, channels: int = 3, base: int = 16) -> Staged:
    """ResNet-depth for small images; stages of 16, 32, 64 channels at 1, 1/2, 1/4 of the size. Width 64.

    base: channels of the first stage, if not 16; the others have twice and four times as many.
    Raises InputError unless depth = 6n + 2 and base >= 1.
    """
    blocks = _blocks_per_stage("resnet", depth, 2)
    if base < 1:
        raise InputError(f"resnet has at least 1 channel in its first stage, not {base}")
    stem = nn.Sequential(_conv(channels, base, 3), nn.BatchNorm2d(base), nn.ReLU(inplace=True))
    counts = {"stage1": base, "stage2": 2 * base, "stage3": 4 * base}
    stages = {
        "stage1": _stage(BasicBlock, blocks, base, base, 1),
        "stage2": _stage(BasicBlock, blocks, base, 2 * base, 2),
        "stage3": _stage(BasicBlock, blocks, 2 * base, 4 * base, 2),
    }
    rest = partial(_remainder, BasicBlock, blocks, (base, 2 * base, 4 * base))
    return _initialise(Staged(stem, stages, counts, 4 * base, remainder=rest))


def wide_resnet(depth: int, widen: int, channels: int = 3) -> Staged:
    """WRN-depth-widen; stages of 16k, 32k, 64k channels at 1, 1/2, 1/4 of the size. Width 64k. No dropout.

    The maps of stage1 and stage2 are raw sums, as the next block reads them; stage3 ends with the last batch
    norm and ReLU, so its mean is the embedding. Raises InputError unless depth = 6n + 4 and widen >= 1.
    """
    blocks = _blocks_per_stage("wrn", depth, 4)
    if widen < 1:
        raise InputError(f"wrn widens by at least 1, not {widen}")
    narrow, middle, wide = 16 * widen, 32 * widen, 64 * widen
    last = _stage(WideBlock, blocks, middle, wide, 2)
    last.extend([nn.BatchNorm2d(wide), nn.ReLU(inplace=True)])
    stages = {
        "stage1": _stage(WideBlock, blocks, 16, narrow, 1),
        "stage2": _stage(WideBlock, blocks, narrow, middle, 2),
        "stage3": last,
    }
    counts = {"stage1": narrow, "stage2": middle, "stage3": wide}
    rest = partial(_remainder, WideBlock, blocks, (narrow, middle, wide))
    return _initialise(Staged(_conv(channels, 16, 3), stages, counts, wide, remainder=rest))


def pooled(parts: Sequence[nn.Module]) -> nn.Sequential:
    """The parts in a row, then the mean over the pixels: (N, C, H, W) -> (N, C')."""
    return nn.Sequential(*parts, nn.AdaptiveAvgPool2d(1), nn.Flatten())


def anew(module: Net) -> Net:
    """A copy that shares nothing, in training mode and trainable, whatever the original is.

    Initialised by each part's `reset_parameters`; parameters of a part without it keep their values.
    """
    copied = copy.deepcopy(module)
    for part in copied.modules():
        reset = getattr(part, "reset_parameters", None)
        if callable(reset):
            reset()
    return copied.train().requires_grad_(True)


def _remainder(
    block: type[nn.Module], blocks: int, counts: tuple[int, int, int], stage: str
) -> tuple[nn.Module, int]:
    """DCM's exits: after stage1 both later stages, the last of half its blocks; after stage2 a wider last."""
    narrow, middle, wide = counts
    if stage == "stage1":
        width = wide
        parts = [
            _stage(block, blocks, narrow, middle, 2),
            _stage(block, max(1, blocks // 2), middle, wide, 2),
        ]
    else:
        width = 2 * wide
        parts = [_stage(block, blocks, middle, width, 2)]
    if block is WideBlock:  # which ends in a raw sum
        parts[-1].extend([nn.BatchNorm2d(width), nn.ReLU(inplace=True)])
    return _initialise(pooled(parts)), width


def _blocks_per_stage(family: str, depth: int, extra: int) -> int:
    """Three stages of n blocks of two convolutions, and `extra` layers around them."""
    blocks, rest = divmod(depth - extra, 6)
    if blocks < 1 or rest:
        examples = ", ".join(str(6 * n + extra) for n in range(1, 4))
        raise InputError(f"{family} has depth 6n + {extra} ({examples}, ...), not {depth}")
    return blocks


def _stage(block: type[nn.Module], blocks: int, inputs: int, outputs: int, stride: int) -> nn.Sequential:
    later = [block(outputs, outputs, 1) for _ in range(blocks - 1)]
    return nn.Sequential(block(inputs, outputs, stride), *later)


def _conv(inputs: int, outputs: int, kernel: int, stride: int = 1) -> nn.Conv2d:
    return nn.Conv2d(inputs, outputs, kernel, stride, kernel // 2, bias=False)


def _initialise(net: Net) -> Net:
    for module in net.modules():
        if isinstance(module, nn.Conv2d):
            nn.init.kaiming_normal_(module.weight, mode="fan_out", nonlinearity="relu")
    return net
