"""One peer from its node of the config, built into what stands around it: the images and the peers before it.

Where the constructor of a network, of a backbone or of a head has an argument of one of these names, it is
filled in unless the config does it:
  a head's first argument   features or channels of what the head reads
  channels, size, mean, std of the images; `image`: zeros (1, C, size, size)
  backbone, stage           of a head: the network it sits on, and the stage that it reads ("" if none)
  sees, shapes              the addresses that an encoder sees; the shape of everything said by the peers
                            before, by its address and without views and images: (C, H, W), (D,), ...
"""

import inspect
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from functools import cached_property
from typing import Any

import torch
from omegaconf import DictConfig
from torch import Tensor, nn

from ssl_kd.backbones.cut import through_head
from ssl_kd.cohort import Outputs
from ssl_kd.encoder import Encoder, Head
from ssl_kd.errors import InputError
from ssl_kd.probes.features import evaluating
from ssl_kd.registry import function, make, target

# What a peer says beside the arguments of its constructor.
BESIDE = ("frozen", "follow", "lr_scale", "weights", "optim", "cache", "cut")


@dataclass(frozen=True)
class Surroundings:
    """channels: of the images. before: the peers built so far, by name."""

    config: DictConfig
    channels: int
    before: Mapping[str, nn.Module]

    @property
    def image(self) -> Tensor:
        return torch.zeros(1, self.channels, self.config.data.size, self.config.data.size)

    @cached_property
    def shapes(self) -> dict[str, tuple[int, ...]]:
        """Of each output of the peers before, for one view of one image; they run once, in eval mode."""
        entries = {view for peer in self.before.values() for view in getattr(peer, "views", ())}
        batch = dict.fromkeys(entries, self.image[None])
        seen: dict[str, Outputs] = {}
        for name, peer in self.before.items():
            with evaluating(peer), torch.no_grad():
                seen[name] = peer(batch, seen)
        return {
            f"{name}.{output}": tuple(value.shape[2:])
            for name, outputs in seen.items()
            for output, value in outputs.items()
            if isinstance(value, Tensor)
        }

    def fill(self, node: Any, path: str, **more: Any) -> dict[str, Any]:
        """The arguments of the constructor of `node` that are known here and that the config leaves open."""
        takes = inspect.signature(target(node, path)).parameters
        data = self.config.data
        stated = {key: data[key] for key in ("size", "mean", "std") if key in data}  # a user's may say less
        known = {"channels": self.channels, **stated}
        filled = {key: make(value) for key, value in known.items()} | {"image": self.image} | more
        if "shapes" in takes:
            filled["shapes"] = self.shapes
        return {key: value for key, value in filled.items() if key in takes and key not in node}


def build_peer(name: str, node: DictConfig, around: Surroundings) -> nn.Module:
    """The network that `node` describes, its weights drawn from torch's generator. Raises InputError."""
    path = f"peers.{name}"
    if "_target_" in node:
        own = {key: value for key, value in node.items() if key not in BESIDE}
        return make(own, **around.fill(node, path))
    sees = list(node.get("sees") or ())
    try:
        backbone = make(node.backbone, **around.fill(node.backbone, f"{path}.backbone", sees=sees))
    except TypeError as error:  # an option of a network whose constructor takes anything
        raise InputError(f"{path}.backbone: {' '.join(str(error).split())}") from error
    if node.get("cut"):
        head = _head(node.cut.head, "embedding", {}, backbone, around, f"{path}.cut.head")
        try:
            backbone = through_head(backbone, head, node.cut.layers)
        except InputError as error:
            raise InputError(f"{path}.cut: {error}") from error
    channels: dict[str, int] = getattr(backbone, "stage_channels", {})
    stages = _stages(node.get("stages") or {}, channels, name)
    heads: dict[str, Head] = {}
    for head_name, head in (node.get("heads") or {}).items():
        reads = head.get("reads", "embedding")
        reads = stages.get(reads, reads) if isinstance(reads, str) else stage_at(reads, channels, name)
        module = _head(head, reads, heads, backbone, around, f"{path}.heads.{head_name}")
        heads[str(head_name)] = Head(module, reads, _changed(head, f"{path}.heads.{head_name}.views"))
    options = {key: make(node[key]) for key in ("views", "per_view") if key in node}
    options["frozen_backbone"] = node.get("frozen") == "backbone"
    return Encoder(backbone, heads, sees=sees, stages=stages, **options)


def stage_at(place: Any, channels: Mapping[str, int], name: str) -> str:
    """The stage at a share of the depth: of n, number place * n, rounded. A name is checked."""
    have = list(channels)
    if isinstance(place, str) and place in have:
        return place
    if isinstance(place, bool) or not isinstance(place, int | float) or not 0 < place <= 1 or not have:
        raise InputError(
            f'"{name}" has no stage "{place}"; its stages: {", ".join(have) or "none"}; a number between 0 '
            "and 1 is a share of the depth"
        )
    return have[min(len(have), max(1, round(place * len(have)))) - 1]


def _stages(given: Any, channels: Mapping[str, int], name: str) -> dict[str, str]:
    """Output -> stage, from names of stages or from a mapping to names or shares of the depth."""
    pairs = given.items() if isinstance(given, Mapping | DictConfig) else ((stage, stage) for stage in given)
    return {str(output): stage_at(place, channels, name) for output, place in pairs}


def _changed(head: DictConfig, path: str) -> Callable[[Tensor], Tensor] | None:
    """What a head sees in place of the peer's views: a function of these, or nothing of the kind."""
    if head.get("views") is None:
        return None
    if not isinstance(head.views, DictConfig):
        raise InputError(f"{path} must name a function of the peer's views, as {{_target_: module.name}}")
    return function(head.views, path)


def _head(
    node: DictConfig,
    reads: str,
    heads: Mapping[str, Head],
    backbone: nn.Module,
    around: Surroundings,
    path: str,
) -> nn.Module:
    channels: dict[str, int] = getattr(backbone, "stage_channels", {})
    own = {key: value for key, value in node.items() if key not in ("reads", "views")}
    stage = reads if reads in channels else ""
    more = around.fill(own, path, backbone=backbone, stage=stage)
    first = next(iter(inspect.signature(target(own, path)).parameters), None)
    if first is None or first in own:
        return make(own, **more)
    width = _width(path, backbone, heads, reads, around)
    return make(own, width, **{key: value for key, value in more.items() if key != first})


def _width(
    path: str, backbone: nn.Module, heads: Mapping[str, Head], reads: str, around: Surroundings
) -> int:
    """Features of the embedding or of an earlier head, or channels of a stage."""
    if reads == "embedding":
        return int(backbone.width) if hasattr(backbone, "width") else _dry(backbone, around.image)  # type: ignore[arg-type]
    if reads in heads:
        source = heads[reads]
        if hasattr(source.module, "width"):
            return int(source.module.width)  # type: ignore[arg-type]
        return _dry(source.module, torch.zeros(2, _width(path, backbone, heads, source.reads, around)))
    stages: dict[str, int] = getattr(backbone, "stage_channels", {})
    if reads not in stages:
        peer, have = path.split(".")[1], ["embedding", *stages, *heads]
        raise InputError(
            f'a head of "{peer}" reads "{reads}", which is not there; there are: {", ".join(have)}'
        )
    return stages[reads]


def _dry(module: nn.Module, x: Tensor) -> int:
    with evaluating(module), torch.no_grad():
        return module(x).shape[-1]
