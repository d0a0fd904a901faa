"""What the config in a run folder may name, so that evaluating somebody's run executes nothing of theirs.

`_target_` names anything that can be imported, and building a run calls it with any arguments. Words on a
command line and a user's own files may do that; a run folder may be anybody's. What it names has to be
  - a part of ssl_kd that builds networks, data, terms, rates and views (PARTS),
  - a class of modules or optimisers of a library, in the places where such are (CLASSES),
  - a function of losses or of networks (FUNCTIONS),
  - a function or class that a module in the current folder defines, as a loss of the user's own, unless that
    module lies in the run folder or in a package that the run folder lies in,
  - or what the user trusts by SSL_KD_TRUST=module,other.module.
What counts is where an object is defined, not by which way it was reached: `torch.os.system` is os's. And
nothing is imported before it is known to be one of these.
"""

import ast
import os
import sys
from collections.abc import Iterator
from importlib.util import find_spec
from inspect import isclass, isfunction
from pathlib import Path
from typing import Any

from omegaconf import DictConfig, OmegaConf
from torch import nn
from torch.optim import Optimizer

from ssl_kd.errors import InputError
from ssl_kd.registry import LIBRARIES, located

_PARTS = "backbones data encoder exits heads losses memory methods optim schedules terms"
PARTS = tuple(f"ssl_kd.{part}" for part in _PARTS.split())
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


def check_names(config: DictConfig, folder: str | Path) -> None:
    """Refuses a config from the run folder `folder` that names anything else. Raises InputError."""
    plain = OmegaConf.to_container(config, resolve=False)
    for path, name in _names(plain, ""):
        if not _allowed(name, Path(folder)):
            module, first = str(name).rpartition(".")[0], str(name).partition(".")[0]
            inside = Path(*module.split(".")).resolve().is_relative_to(Path(folder).resolve())
            others = first in (*sys.stdlib_module_names, *LIBRARIES) and module != DATA_SETS
            yours = module and not inside and not others
            raise InputError(
                f'{folder} names "{name}" ({path}), which nothing that is read from a run folder may call'
                + (f"; if it is yours, say so by SSL_KD_TRUST={module}" if yours else "")
            )


def _names(node: Any, path: str) -> Iterator[tuple[str, Any]]:
    """(where, what) of every `_target_`."""
    if isinstance(node, dict):
        if "_target_" in node:
            yield path, node["_target_"]
        for key, value in node.items():
            yield from _names(value, f"{path}.{key}" if path else str(key))
    elif isinstance(node, list):
        for number, value in enumerate(node):
            yield from _names(value, f"{path}[{number}]")


def _allowed(name: Any, folder: Path) -> bool:
    if not isinstance(name, str):
        return False
    trusted = tuple(filter(None, (part.strip() for part in os.environ.get("SSL_KD_TRUST", "").split(","))))
    if not _within(name, (*LIBRARIES, *trusted)):
        return _own(name, folder)
    try:
        found = located(name)
    except Exception:  # it is not there: whoever builds it says so
        return True
    home = str(getattr(found, "__module__", None))
    if _within(home, (*PARTS, *trusted)):
        return True
    if isclass(found) and issubclass(found, nn.Module | Optimizer):
        return _within(home, CLASSES)
    return isfunction(found) and _within(home, FUNCTIONS)


def _within(name: str, modules: tuple[str, ...]) -> bool:
    return any(name == module or name.startswith(f"{module}.") for module in modules)


def _own(name: str, folder: Path) -> bool:
    """Whether a module in the current folder defines it: found by reading that file, without importing it."""
    *modules, last = name.split(".")
    here, run = Path.cwd().resolve(), folder.resolve()
    if not modules or not all(part.isidentifier() for part in modules) or here.is_relative_to(run):
        return False
    place = here.joinpath(*modules)
    packages = [here.joinpath(*modules[:depth], "__init__.py") for depth in range(1, len(modules))]
    file = next((path for path in (place.with_suffix(".py"), place / "__init__.py") if path.is_file()), None)
    if file is None or not all(path.is_file() for path in packages) or run.is_relative_to(here / modules[0]):
        return False
    spec = find_spec(modules[0])  # an installed module of that name would be imported instead
    if spec is None or spec.origin is None or not Path(spec.origin).resolve().is_relative_to(here):
        return False
    try:
        body = ast.parse(file.read_bytes()).body
    except (SyntaxError, ValueError):
        return False
    return any(isinstance(node, ast.FunctionDef | ast.ClassDef) and node.name == last for node in body)
