"""What a config may name without anybody's word: parts of ssl_kd; networks, losses, optimisers of libraries.

What counts is where an object is defined, not by which way it was reached (`torch.os.system` is os's), and
what it does with its options: a constructor that is given weights, a folder, a file or an address reads them.
Nothing is imported before it is known to lie in one of these modules.
"""

import inspect
import re
from collections.abc import Mapping
from inspect import isclass, isfunction
from typing import Any

from torch import nn
from torch.optim import Optimizer

from ssl_kd import _HOME as PUBLIC
from ssl_kd import data
from ssl_kd.own.nodes import Named, of_library, within
from ssl_kd.registry import located

_PARTS = "backbones encoder exits heads losses memory methods optim schedules terms"
PARTS = tuple(f"ssl_kd.{part}" for part in _PARTS.split())
_VIEWS = "recipes views augment extra draws corruptions sampling"
DATA, VIEWS = ("ssl_kd.data",), tuple(f"ssl_kd.data.{part}" for part in _VIEWS.split())
CLASSES = (
    "torch.nn",
    "torch.optim",
    "torchvision.models",
    "torchvision.ops",
    "torchvision.transforms",
    "timm.layers",
    "timm.loss",
    "timm.models",
    "kornia.augmentation",
    "lightly.loss",
    "lightly.models",
)
FUNCTIONS = ("torch.nn.functional", "torchvision.models")
DATA_SETS = "torchvision.datasets"  # some unpickle what lies in their folder: for the user to trust
# Options by which a library's constructor reads files or addresses, and endings of the names of others.
READS = frozenset(
    "weights weights_backbone pretrained pretrained_backbone pretrained_cfg pretrained_cfg_overlay download "
    "checkpoint checkpoint_path root path paths file files filename folder url urls uri repo repo_id "
    "hf_hub_id cache_dir model_dir data_dir".split()
)
_READS = ("_path", "_dir", "_file", "_filename", "_url", "_root")
_PLACE = re.compile(
    r".*(?:[/\\]|://|\.(?:pth?|bin|npz|npy|safetensors|onnx|pkl|json|yaml|tar|zip|h5)$)|^~|^\.", re.S
)
_NOTHING: tuple[Any, ...] = (None, False, "", [], {})


def may_be_named(found: Named) -> bool:
    """Whether the address is one of those that a config from anywhere may name."""
    name = found.name
    if not of_library(name) or "__" in name:
        return False
    public = name.split(".")[0] == "ssl_kd" and name.split(".")[1] in PUBLIC if name.count(".") else False
    if not public and not within(name, (*PARTS, *DATA, *CLASSES, *FUNCTIONS)):
        return False
    try:
        made = located(name)
    except Exception:  # it is not there: whoever builds it says so
        return True
    home = str(getattr(made, "__module__", None))
    top = found.path.split(".")
    if within(home, DATA):
        of_data = top[0] == "data" or top[:2] == ["probe", "data"]
        return within(home, VIEWS) or (of_data and getattr(data, getattr(made, "__name__", ""), None) is made)
    if within(home, PARTS):
        return True
    if isclass(made) and issubclass(made, nn.Module | Optimizer):
        return within(home, CLASSES)
    return isfunction(made) and within(home, FUNCTIONS)


def reading_option(found: Named) -> str | None:
    """The option by which a library's constructor would read files or addresses, as key=value; None for none.

    One that is left out counts, too, where its default is to read: torchvision's detectors load a backbone.
    """
    if found.name.split(".")[0] == "ssl_kd":  # what ours read is known, and each asks for itself
        return None
    given = {str(key): value for key, value in found.node.items() if key != "_target_"}
    for key, value in given.items():
        words = value if isinstance(value, list) else [value]
        odd: Any = next((w for w in words if isinstance(w, str) and _PLACE.match(w)), None)
        if key == "_args_" and odd is None:  # whose names are not said: `true` may be `pretrained`
            odd = next((w for w in words if isinstance(w, str | bool) and w), None)
        if key in READS and value not in _NOTHING:
            odd = value
        elif key.endswith(_READS) and isinstance(value, str) and value:
            odd = value
        if odd is not None:
            return f"{key}={odd}"
    for key, parameter in _parameters(found).items():
        default = parameter.default
        if key in READS and key not in given and default is not parameter.empty and default not in _NOTHING:
            return f"{key}={default}"
    return None


def default_of(found: Named, key: str) -> Any:
    """What an option is that a node leaves out; None where its constructor has none such, or no default."""
    parameter = _parameters(found).get(key) if may_be_named(found) else None
    return None if parameter is None or parameter.default is parameter.empty else parameter.default


def _parameters(found: Named) -> Mapping[str, inspect.Parameter]:
    """Those of what is named; of a factory of networks by name, those of the network's own."""
    try:
        made = located(found.name)
        if getattr(made, "__name__", "") == "get_model" and within(made.__module__, FUNCTIONS):
            from torchvision.models import get_model_builder

            made = get_model_builder(str(found.node.get("name", "")))
        return inspect.signature(made).parameters
    except Exception:  # written in C, or not there: whoever builds it says so
        return {}
