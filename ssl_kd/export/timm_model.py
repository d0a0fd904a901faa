"""A peer as timm's own model: networks of timm, and our ResNets, whose names timm shares."""

from typing import Any

import torch
from torch import Tensor, nn

from ssl_kd.backbones.cut import Cut
from ssl_kd.errors import InputError
from ssl_kd.export.deployed import Deployed
from ssl_kd.export.edits import Edit, convolution
from ssl_kd.export.rebuilt import Rebuilt, check, given, load
from ssl_kd.export.torchvision_model import RESNET, resnet_weights, stem_edits


def rebuild(network: Deployed) -> Rebuilt:
    """The model of `timm.create_model` with these weights. Raises InputError where timm has none such."""
    import timm

    name, options = given(network)
    if isinstance(network.network.backbone, Cut):
        name = f"{name} with layers of its head"
    plain = name.removeprefix("timm/")
    ours = getattr(network.network.backbone, "net", None)
    adapted = getattr(ours, "model", None)
    if not plain or not timm.is_model(plain) or (adapted is None and not RESNET.fullmatch(plain)):
        what = f"is {name}, which timm does not build" if name else "was built by a constructor of its own"
        raise InputError(f'"{network.name}" {what}; take format=safetensors, onnx or hub-folder')
    linear = network.linear
    arguments = {"num_classes": linear.out_features if linear else 0, "in_chans": network.channels, **options}
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)  # of parts of timm's model that never run, and keep their first weights
        model, arguments = _create(plain, arguments, network.size, adapted)
    if adapted is None:
        assert isinstance(ours, nn.Module)
        edits = stem_edits(ours, model)
        weights = resnet_weights(ours)
    else:
        edits = _differences(adapted, model)
        weights = dict(adapted.state_dict())
    for edit in edits:
        edit.apply(model)
    if linear is not None:
        weights |= _classifier(model, linear)
    idle = {key: value for key, value in model.state_dict().items() if key not in weights}
    load(model, {**idle, **weights}, f"timm's {plain}")
    said = ", ".join([repr(plain), *(f"{key}={value!r}" for key, value in arguments.items())])
    call = f"timm.create_model({said})"
    found = Rebuilt("timm", plain, call, arguments, model.eval(), arguments["num_classes"], edits)
    check(network, found)
    return found


def _create(name: str, arguments: dict[str, Any], size: int, ours: Any) -> tuple[Any, dict[str, Any]]:
    """The model of these arguments; with the size where it wants it, with the patches of ours."""
    import timm

    def attempt(more: dict[str, Any]) -> Any:
        try:
            return timm.create_model(name, **arguments, **more)
        except TypeError as error:
            if "img_size" not in str(error):
                raise InputError(f"timm's {name} cannot be built again ({error})") from error
            return None

    more: dict[str, Any] = {"img_size": size}
    model = attempt(more)
    if model is None:
        more = {}
        model = attempt(more)
    patch, theirs = (_patch(each) for each in (ours, model))
    if patch and patch != theirs:
        more["patch_size"] = patch
        model = attempt(more)
    return model, {**arguments, **more}


def _patch(model: Any) -> int:
    patch = getattr(getattr(model, "patch_embed", None), "patch_size", 0)
    return int(patch[0] if isinstance(patch, tuple | list) else patch)


def _differences(ours: nn.Module, theirs: nn.Module) -> list[Edit]:
    """Strides and padding that were lowered for small images, and poolings that went."""
    edits: list[Edit] = []
    there = dict(ours.named_modules())
    for path, module in theirs.named_modules():
        own = there.get(path)
        if isinstance(module, nn.Conv2d) and isinstance(own, nn.Conv2d):
            edits += convolution(path, own, module)
        elif type(own) is nn.Identity and type(module) is not nn.Identity and path:
            if not list(module.parameters()):  # with parameters it is a part that never runs
                edits.append(Edit(path, "Identity", {}))
    return edits


def _classifier(model: Any, linear: nn.Linear) -> dict[str, Tensor]:
    """Our classifier under timm's name for it."""
    theirs = model.get_classifier()
    path = next((path for path, module in model.named_modules() if module is theirs), "")
    own = {f"{path}.{key}": value for key, value in linear.state_dict().items()}
    fits = isinstance(theirs, nn.Linear) and theirs.state_dict().keys() == linear.state_dict().keys()
    if not fits or theirs.weight.shape != linear.weight.shape:
        raise InputError("timm's model has another classifier; take format=safetensors, onnx or hub-folder")
    return own
