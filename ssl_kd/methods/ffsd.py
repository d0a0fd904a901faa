"""FFSD's modules: maps of several students fused, spread, decoded, and what students say together.

Li, Lin, Wang, Wu, Tian, Shao, Ji, "Distilling a powerful student model via online knowledge distillation",
IEEE TNNLS 2022 (FFSD). Each common student i has maps F_i^1 .. F_i^L, shallow to deep.

  fused map     F_f = Fuse(concat_i F_i^L), without gradient to the students
  decoder       D(F^L) -> maps like F^1 .. F^(L-1)

Networks may differ, which the paper does not need: 1 x 1 convolutions bring maps to one number of channels,
pooling to the smaller grid; the decoder averages or repeats neighbouring channels of what it is shown.
"""

import math
from collections.abc import Collection, Mapping, Sequence
from typing import Literal

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from ssl_kd.cohort import Batch, Outputs
from ssl_kd.errors import InputError
from ssl_kd.losses.features import shifted
from ssl_kd.losses.rows import full, unit
from ssl_kd.terms import check_address, fetch

Shapes = Mapping[str, tuple[int, ...]]


class Fuse(nn.Module):
    """Backbone of the fusion peer: maps (N, C_i, H_i, W_i) -> F_f, its one stage "map", and its mean.

    sees: the maps' addresses; shapes: of what they say, (C, H, W). like: an address whose number of channels
    F_f is to have; without it that of the first map. Nothing it reads gets a gradient from it.
    Raises InputError for a single map and for maps below 2 x 2.
    """

    def __init__(self, sees: Sequence[str], shapes: Shapes, like: str | None = None) -> None:
        super().__init__()
        if len(sees) < 2:
            raise InputError(f"fusion needs at least two peers to fuse, and there is only {', '.join(sees)}")
        seen = [_map(address, shapes) for address in sees]
        self.grid = min(shape[1] for shape in seen), min(shape[2] for shape in seen)
        if min(self.grid) < 2:
            raise InputError(
                f"fusion needs maps of at least 2 x 2, and the smallest is {self.grid[0]} x {self.grid[1]}; "
                "larger images or an earlier stage have them"
            )
        channels = _map(like, shapes)[0] if like else seen[0][0]
        self.adapt = nn.ModuleList(
            nn.Identity() if shape[0] == channels else _pointwise(shape[0], channels) for shape in seen
        )
        together = channels * len(seen)
        self.fuse = nn.Sequential(*_depthwise(together), *_pointwise(together, channels))
        self.width, self.stage_channels = channels, {"map": channels}

    def forward(self, maps: Sequence[Tensor]) -> Tensor:
        return self.forward_stages(maps, ())[0]

    def forward_stages(
        self, maps: Sequence[Tensor], stages: Collection[str]
    ) -> tuple[Tensor, dict[str, Tensor]]:
        """Maps (N, C_i, H_i, W_i) -> the pooled F_f (N, C), and F_f (N, C, H, W) as "map"."""
        alike = [
            adapt(_on(self.grid, x.detach())) for adapt, x in zip(self.adapt, maps, strict=True)
        ]  # each (N, C, H, W)
        fused = self.fuse(torch.cat(alike, 1))
        return fused.mean((2, 3)), {"map": fused}


class Spread(nn.Sequential):
    """A head on the leader's last map: as many channels as the maps at `like` have together ("trans-fusion").

    channels: of the map; shapes: of what the peers before said. (N, C, H, W) -> (N, sum of C_i, H, W).
    """

    def __init__(self, channels: int, shapes: Shapes, like: Sequence[str]) -> None:
        together = sum(_map(address, shapes)[0] for address in like)
        super().__init__(*_depthwise(channels), *_pointwise(channels, together))


class Decoder(nn.Module):
    """A peer that learns to tell a network's shallow maps from its deepest, and from another one's.

    maps: addresses of the network's maps, shallow to deep. shown: address of another deepest map; shift: with
    its attention shifted. shapes: of what the peers before said.
    Outputs, for all maps but the deepest, under their names: what is decoded from the network's own deepest
    map; and "shown_NAME", what is decoded from `shown`, without gradient and by running statistics. What is
    read gets no gradient. Each step: transposed 3 x 3 convolution, stride 2, batch norm, ReLU.
    """

    def __init__(self, maps: Sequence[str], shown: str, shapes: Shapes, shift: bool = False) -> None:
        super().__init__()
        if len(maps) < 2:
            raise InputError("a decoder needs at least two maps of its network")
        check_address("a decoder", "maps", maps, several=True)
        check_address("a decoder", "shown", shown, several=False)
        self.maps, self.shown, self.shift = tuple(maps), shown, shift
        self.reads = (*maps, shown)
        self.names = tuple(address.partition(".")[2] for address in maps[:-1])
        like = [_map(address, shapes) for address in maps]
        self.steps = nn.ModuleList(
            _upward(deep, shallow) for shallow, deep in zip(like[-2::-1], like[:0:-1], strict=True)
        )  # deep to shallow
        self.channels = like[-1][0]

    def forward(self, batch: Batch, seen: Mapping[str, Outputs]) -> Outputs:
        maps = [fetch(address, seen, batch) for address in self.maps]  # each (V, B, C, H, W)
        shown = fetch(self.shown, seen, batch).detach()
        grids = [x.shape[-2:] for x in maps]
        views = maps[-1].shape[:2]
        said = {}
        training = self.training  # first as it was before this step, as the authors do
        self.steps.eval()
        with torch.no_grad():
            other = (shifted(shown) if self.shift else shown).flatten(0, 1)
            for name, x in zip(self.names, self._decode(_in(self.channels, other), grids), strict=True):
                said[f"shown_{name}"] = x.unflatten(0, views)
        torch.clear_autocast_cache()  # else older torch takes the weights cast there, which have no gradient
        self.steps.train(training)
        for name, x in zip(self.names, self._decode(maps[-1].detach().flatten(0, 1), grids), strict=True):
            said[name] = x.unflatten(0, views)
        return said

    def _decode(self, x: Tensor, grids: Sequence[Sequence[int]]) -> list[Tensor]:
        """Shallow to deep, without the deepest; each on the grid of the network's own map."""
        found = []
        for step, grid in zip(self.steps, grids[-2::-1], strict=True):
            x = step(x)
            if x.shape[-2:] != torch.Size(grid):
                x = F.interpolate(x, tuple(grid), mode="bilinear")
            found.append(x)
        return found[::-1]


class Consensus(nn.Module):
    """A peer that says what several say together, as "said", without gradient.

    how: mean, of logits, say; similarity: rows (V, B, sum of D) whose cosines are the mean of the peers'
    cosines (unit rows side by side); maps: channels side by side, on the smallest grid.
    """

    outputs = ("said",)

    def __init__(self, reads: Sequence[str], how: Literal["mean", "similarity", "maps"] = "mean") -> None:
        super().__init__()
        if how not in ("mean", "similarity", "maps"):
            raise InputError(f'how is "{how}", but can be: mean, similarity, maps')
        if not reads:
            raise InputError("reads is empty; name the outputs of which there is to be a mean")
        check_address("a consensus", "reads", reads, several=True)
        self.reads, self.how = tuple(reads), how

    def forward(self, batch: Batch, seen: Mapping[str, Outputs]) -> Outputs:
        said = [fetch(address, seen, batch).detach() for address in self.reads]
        if self.how == "similarity":
            return {"said": torch.cat([unit(x) for x in said], -1)}
        if self.how == "mean":
            return {"said": torch.stack([full(x) for x in said]).mean(0)}
        grid = min(x.shape[-2] for x in said), min(x.shape[-1] for x in said)
        alike = [_on(grid, x.flatten(0, 1)).unflatten(0, x.shape[:2]) for x in said]
        return {"said": torch.cat(alike, -3)}


def _map(address: str, shapes: Shapes) -> tuple[int, int, int]:
    if address not in shapes:
        raise InputError(f'nothing before says "{address}"; there are: {", ".join(shapes) or "none"}')
    if len(shapes[address]) != 3:
        raise InputError(f'"{address}" is no map (C, H, W) but {shapes[address]}')
    return shapes[address]  # type: ignore[return-value]


def _on(grid: tuple[int, int], x: Tensor) -> Tensor:
    return x if x.shape[-2:] == grid else F.adaptive_avg_pool2d(x, grid)


def _in(channels: int, x: Tensor) -> Tensor:
    """x (N, C, H, W) with `channels` channels, each the mean of neighbours or one of them again."""
    if x.shape[1] == channels:
        return x
    return F.adaptive_avg_pool1d(x.flatten(2).mT, channels).mT.unflatten(2, x.shape[2:])


def _depthwise(channels: int) -> nn.Sequential:
    conv = nn.Conv2d(channels, channels, 3, padding=1, groups=channels, bias=False)
    return nn.Sequential(conv, nn.BatchNorm2d(channels), nn.ReLU(inplace=True))


def _pointwise(inputs: int, outputs: int) -> nn.Sequential:
    conv = nn.Conv2d(inputs, outputs, 1, bias=False)
    return nn.Sequential(conv, nn.BatchNorm2d(outputs), nn.ReLU(inplace=True))


def _upward(deep: tuple[int, int, int], shallow: tuple[int, int, int]) -> nn.Sequential:
    """From the one map to the grid and channels of the other; twice the size in each block."""
    doublings = max(0, round(math.log2(shallow[1] / deep[1])))
    parts: list[nn.Module] = []
    channels = deep[0]
    for _ in range(max(1, doublings)):
        stride = 2 if doublings else 1
        conv = nn.ConvTranspose2d(channels, shallow[0], 3, stride, 1, output_padding=stride - 1, bias=False)
        parts += [conv, nn.BatchNorm2d(shallow[0]), nn.ReLU(inplace=True)]
        channels = shallow[0]
    return nn.Sequential(*parts)
