"""A peer as torchvision's own model: its names for our ResNets, ShuffleNets and MobileNetV2, and the rest."""

import inspect
import re
from typing import Any

import torch
from torch import Tensor, nn

from ssl_kd.backbones.cut import Cut
from ssl_kd.errors import InputError
from ssl_kd.export.deployed import Deployed
from ssl_kd.export.edits import Edit, convolution
from ssl_kd.export.rebuilt import Rebuilt, check, given, load

RESNET = re.compile(r"(resnet|resnext|wide_resnet)\d+.*")
# Our names of modules -> theirs, by family; the first that matches counts.
_RESNET = [(r"stem\.0", "conv1"), (r"stem\.1", "bn1"), (r"stages\.stage(\d)", r"layer\1")]
_SHUFFLENET = [
    (r"stem\.([01])", r"conv1.\1"), (r"tail", "conv5"),
    *((rf"stages\.stage{i}", f"stage{i + 1}") for i in (1, 2, 3)),
]  # fmt: skip
_MOBILENET = [(r"stem", "features.0"), (r"tail", "features.18"), (r"stages\.stage\d\.(\d+)", r"features.\1")]
_FAMILIES = [
    (RESNET, _RESNET),
    (re.compile("shufflenet.*"), _SHUFFLENET),
    (re.compile("mobilenet_v2"), _MOBILENET),
]


def rebuild(network: Deployed) -> Rebuilt:
    """torchvision's model with these weights. Raises InputError where torchvision has no such network."""
    target = str(network.backbone.get("_target_", ""))
    if target.startswith("torchvision.models."):
        return _unchanged(network, target)
    from torchvision import models

    name, options = given(network)
    if isinstance(network.network.backbone, Cut):
        name = f"{name} with layers of its head"
    plain = name.removeprefix("torchvision/")
    ours = getattr(network.network.backbone, "net", None)
    if not plain or plain not in models.list_models(module=models) or not hasattr(ours, "stages"):
        what = f"is {name}, which torchvision does not build" if name else "was built by something else"
        raise InputError(f'"{network.name}" {what}; take format=safetensors, onnx or hub-folder')
    linear = network.linear
    arguments = {**({"num_classes": linear.out_features} if linear else {}), **options}
    with torch.random.fork_rng(devices=[]):
        model = getattr(models, plain)(**arguments)
    assert isinstance(ours, nn.Module)
    known = next((table for pattern, table in _FAMILIES if pattern.fullmatch(plain)), None)
    table = known or _chain(model)
    head, end = _head(model, linear, natural=known is not None)
    edits = [*stem_edits(ours, model, table), *end]
    weights = renamed(ours, table)
    if linear is not None:
        weights |= {f"{head}.{key}": value for key, value in linear.state_dict().items()}
    for edit in edits:
        edit.apply(model)
    idle = {key: value for key, value in model.state_dict().items() if key not in weights}
    load(model, {**idle, **weights}, f"torchvision's {plain}")
    said = ", ".join(f"{key}={value!r}" for key, value in arguments.items())
    call = f"torchvision.models.{plain}({said})"
    classes = linear.out_features if linear else 0
    found = Rebuilt("torchvision", plain, call, arguments, model.eval(), classes, edits)
    check(network, found)
    return found


def _head(model: Any, linear: nn.Linear | None, natural: bool) -> tuple[str, list[Edit]]:
    """Where the classifier lies, and what makes it ours. natural: it already sits on the mean of the map."""
    head = "fc" if hasattr(model, "fc") else "classifier"
    if linear is not None and natural:
        return (head if head == "fc" else f"{head}.1"), []
    edits = []
    pool = getattr(model, "avgpool", None)
    if isinstance(pool, nn.AdaptiveAvgPool2d) and pool.output_size not in (1, (1, 1)):
        edits.append(Edit("avgpool", "AdaptiveAvgPool2d", {"output_size": 1}))  # VGG, AlexNet: a fixed grid
    if linear is None:
        return head, [*edits, Edit(head, "Flatten", {})]  # where it is flat already that changes nothing
    last = f"{head}.2"
    if type(model).__name__ == "ConvNeXt" and model.get_submodule(last).weight.shape == linear.weight.shape:
        return last, [*edits, Edit(f"{head}.0", "Identity", {})]  # its own norm, behind the mean
    options = {"in_features": linear.in_features, "out_features": linear.out_features}
    return head, [*edits, Edit(head, "Linear", options)]


def _chain(model: nn.Module) -> list[tuple[str, str]]:
    """Our names -> theirs for the networks that are cut into a chain of modules (`backbones.chains`)."""
    from ssl_kd.backbones.chains import links

    paths = {module: path for path, module in model.named_modules()}
    stages = [(i, paths[link]) for i, link in enumerate(links(model)) if link in paths]
    return [(rf"stages\.stage\d+\.{i}", path) for i, path in stages]


def _unchanged(network: Deployed, target: str) -> Rebuilt:
    """A backbone that is torchvision's model itself; its last layer gives the embedding."""
    from torchvision import models

    plain = target.removeprefix("torchvision.models.")
    arguments = {key: value for key, value in network.backbone.items() if key != "_target_"}
    function = getattr(models, plain, None)
    if not inspect.isfunction(function):
        raise InputError(f'"{network.name}" is {target}; take format=safetensors, onnx or hub-folder')
    model = network.network.backbone
    shown = {key: value for key, value in arguments.items() if key not in ("weights", "weights_backbone")}
    said = ", ".join(f"{key}={value!r}" for key, value in shown.items())
    found = Rebuilt("torchvision", plain, f"{target}({said})", shown, model.eval(), 0)
    check(network, found)
    return found


def renamed(ours: nn.Module, table: list[tuple[str, str]]) -> dict[str, Tensor]:
    """Our weights under their names."""
    return {_their(key, table): value for key, value in ours.state_dict().items()}


def resnet_weights(ours: nn.Module) -> dict[str, Tensor]:
    """A ResNet's weights under the names that torchvision and timm share."""
    return renamed(ours, _RESNET)


def stem_edits(ours: nn.Module, model: Any, table: list[tuple[str, str]] = _RESNET) -> list[Edit]:
    """What our stem for small images, or for another number of channels, changes in their model."""
    edits: list[Edit] = []
    there = dict(model.named_modules())
    for path, module in ours.named_modules():
        theirs = _their(path, table)
        other = there.get(theirs)
        if isinstance(module, nn.Conv2d) and isinstance(other, nn.Conv2d):
            edits += convolution(theirs, module, other)
        elif type(module) is nn.Identity and other is not None and type(other) is not nn.Identity:
            if not list(other.parameters()):  # with parameters it is a part that never runs
                edits.append(Edit(theirs, "Identity", {}))
    pools = any(isinstance(module, nn.MaxPool2d) for module in ours.modules())
    if isinstance(getattr(model, "maxpool", None), nn.MaxPool2d) and not pools:
        edits.append(Edit("maxpool", "Identity", {}))
    return edits


def _their(name: str, table: list[tuple[str, str]]) -> str:
    for ours, theirs in table:
        found = re.match(ours + r"(?=\.|$)", name)
        if found:
            return found.expand(theirs) + name[found.end() :]
    return name
