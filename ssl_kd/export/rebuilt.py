"""Our network as its library builds it: constructor, edits, and the weights under the library's names."""

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor, nn

from ssl_kd.errors import InputError
from ssl_kd.export.deployed import Deployed
from ssl_kd.export.edits import Edit

TOLERANCE = 1e-5  # of outputs, in units of the largest (1 where that is smaller)


@dataclass
class Rebuilt:
    """A library's own model with our weights, in eval mode: normalised images -> logits, or the embedding.

    call: what builds it, as code; edits: what is then changed. num_classes: 0 where it gives the embedding.
    """

    library: str
    architecture: str
    call: str
    arguments: dict[str, Any]
    model: nn.Module
    num_classes: int
    edits: Sequence[Edit] = field(default_factory=list)

    @property
    def code(self) -> list[str]:
        """Lines that build `model` without its weights."""
        return [f"model = {self.call}", *(line for edit in self.edits for line in edit.code())]


def given(network: Deployed) -> tuple[str, dict[str, Any]]:
    """The name and the options that the user gave to `ssl_kd.backbones.create`; ("", ...) for others."""
    node = dict(network.backbone)
    if node.pop("_target_", None) != "ssl_kd.backbones.create":
        return "", node
    own = ("channels", "size", "mean", "std", "pretrained")
    return str(node.pop("name", "")), {key: value for key, value in node.items() if key not in own}


def load(model: nn.Module, weights: dict[str, Tensor], what: str) -> None:
    """Puts weights into a library's model, each by its name. Raises InputError for another network."""
    try:
        model.load_state_dict(weights)
    except (RuntimeError, ValueError) as error:
        said = " ".join(str(error).split()[:40])
        raise InputError(f"{what} is built otherwise than the network of this run: {said}") from error


def check(network: Deployed, rebuilt: Rebuilt) -> None:
    """Refuses a model whose outputs differ from ours by more than TOLERANCE."""
    images = network.images()
    with torch.no_grad():
        wanted = network.network(images) if rebuilt.num_classes else network.network.embed(images)
        try:
            said = rebuilt.model.eval()(normalised(network, images))
        except RuntimeError:  # of shapes: its layers run in another order
            said = None
    if not alike(said, wanted, TOLERANCE):
        raise InputError(
            f'{rebuilt.library}\'s {rebuilt.architecture} does not give what "{network.name}" gives; take '
            "format=safetensors, onnx or hub-folder"
        )


def normalised(network: Deployed, images: Tensor) -> Tensor:
    """What the libraries leave to the transforms: (images - mean) / std per channel."""
    if network.normalisation is None:
        return images
    mean, std = (torch.tensor(values).view(-1, 1, 1) for values in network.normalisation)
    return (images - mean) / std


def alike(said: Any, wanted: Tensor, tolerance: float) -> bool:
    """Whether tensors are of one shape and equal, in units of the largest number or of 1."""
    if not isinstance(said, Tensor) or said.shape != wanted.shape:
        return False
    return float((said - wanted).abs().max()) <= tolerance * max(1.0, float(wanted.abs().max()))
