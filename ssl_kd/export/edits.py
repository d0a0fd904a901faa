"""What has to be changed in a library's model before our weights fit: as an action, and as a line of code."""

from dataclasses import dataclass
from typing import Any

from torch import nn

_KINDS: dict[str, type[nn.Module]] = {
    "Identity": nn.Identity,
    "Flatten": nn.Flatten,
    "AdaptiveAvgPool2d": nn.AdaptiveAvgPool2d,
    "Conv2d": nn.Conv2d,
    "Linear": nn.Linear,
}


@dataclass(frozen=True)
class Edit:
    """At `path` in the model: another module, or (kind "") other attributes of the one that is there.

    kind: of torch.nn, one of _KINDS. options: its arguments, or the attributes.
    """

    path: str
    kind: str
    options: dict[str, Any]

    def apply(self, model: nn.Module) -> None:
        if self.kind:
            model.set_submodule(self.path, _KINDS[self.kind](**self.options))
        else:
            for key, value in self.options.items():
                setattr(model.get_submodule(self.path), key, value)

    def code(self) -> list[str]:
        """Lines that do it to `model`."""
        if self.kind:
            options = ", ".join(f"{key}={value!r}" for key, value in self.options.items())
            return [f"model.set_submodule({self.path!r}, torch.nn.{self.kind}({options}))"]
        return [f"model.get_submodule({self.path!r}).{key} = {v!r}" for key, v in self.options.items()]


def convolution(path: str, ours: nn.Conv2d, theirs: nn.Conv2d) -> list[Edit]:
    """What makes their convolution ours: other attributes, or another one where shapes differ."""
    if ours.weight.shape != theirs.weight.shape or (ours.bias is None) != (theirs.bias is None):
        options = {
            "in_channels": ours.in_channels,
            "out_channels": ours.out_channels,
            "kernel_size": ours.kernel_size,
            "stride": ours.stride,
            "padding": ours.padding,
            "groups": ours.groups,
            "bias": ours.bias is not None,
        }
        return [Edit(path, "Conv2d", options)]
    keys = ("stride", "padding", "dilation")
    odd = {key: getattr(ours, key) for key in keys if getattr(ours, key) != getattr(theirs, key)}
    return [Edit(path, "", odd)] if odd else []
