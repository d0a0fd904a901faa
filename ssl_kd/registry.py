"""Nodes of a config that name what to build (`_target_`): found, checked against its signature, made."""

import difflib
import inspect
from collections.abc import Callable, Collection
from importlib import import_module
from types import ModuleType
from typing import Any

from hydra.utils import instantiate
from omegaconf import DictConfig, OmegaConf

from ssl_kd.errors import InputError
from ssl_kd.machine import lacks_memory
from ssl_kd.own.loading import meant
from ssl_kd.own.nodes import LIBRARIES

Beside = Callable[[str], Collection[str]]  # path of a node -> keys that are not for its constructor


def check(node: Any, beside: Beside, path: str = "") -> None:
    """Refuses options that no constructor takes, and targets that do not exist. Raises InputError."""
    if isinstance(node, DictConfig):
        if "_target_" in node:
            _check_options(node, beside(path), path)
        for key in node:
            check(node._get_node(key), beside, f"{path}.{key}" if path else str(key))
    elif OmegaConf.is_list(node):
        for i in range(len(node)):
            check(node._get_node(i), beside, f"{path}[{i}]")


def _check_options(node: DictConfig, beside: Collection[str], path: str) -> None:
    made = target(node, path)
    try:
        parameters = inspect.signature(made).parameters
    except ValueError:  # written in C, and silent about what it takes
        return
    if any(p.kind is p.VAR_KEYWORD for p in parameters.values()):
        return
    for key in node:
        if key not in parameters and key not in beside and not str(key).startswith("_"):
            options = [p for p in parameters if p != "self"]
            match = difflib.get_close_matches(str(key), options, n=1, cutoff=0.5)
            hint = f'did you mean "{path}.{match[0]}"?' if match else f"it takes: {', '.join(options)}"
            raise InputError(f'"{path}.{key}" is not an option of {node._target_}; {hint}')


def target(node: Any, path: str) -> Callable[..., Any]:
    """What the node names. Raises InputError."""
    if not node or "_target_" not in node:
        raise InputError(f"{path} must say what to build, as {path}._target_=module.name")
    name = node["_target_"]
    try:
        found = located(name)
    except Exception as error:  # whatever stopped the import
        cause = " ".join(str(error).split())
        raise InputError(f'{path}: "{name}" cannot be imported ({cause})') from error
    if not callable(found):
        raise InputError(f'{path}: "{name}" is neither a function nor a class')
    return found


def located(name: Any) -> Any:
    """What a dotted name means: an attribute, where there is none a module. Raises what the import does."""
    if not isinstance(name, str) or not all(part.isidentifier() for part in name.split(".")):
        raise ImportError("it is no dotted name, as module.name")
    parts = meant(name).split(".")
    found: Any = import_module(parts[0])
    for count, part in enumerate(parts[1:], 2):
        if isinstance(found, ModuleType) and not hasattr(found, part):
            found = import_module(".".join(parts[:count]))
        else:
            found = getattr(found, part)
    return found


def make(node: Any, *args: Any, **options: Any) -> Any:
    """The object that a node describes; plain values and lists as they are.

    Raises InputError where the constructor of a library fails; one of the user's raises what it raises.
    """
    if isinstance(node, dict):
        node = OmegaConf.create(node)
    if isinstance(node, DictConfig) and "_target_" not in node:
        return {key: make(value) for key, value in node.items()}
    if OmegaConf.is_list(node):
        return [make(value) for value in node]
    if not isinstance(node, DictConfig):
        return node
    try:
        plain = _meant(OmegaConf.to_container(node, resolve=True))
        return instantiate(plain, *args, **options, _convert_="all")
    except Exception as error:  # hydra wraps what the constructor raised
        cause = error.__cause__ or error
        name = str(node["_target_"])
        own = name.split(".")[0] not in LIBRARIES
        if own or isinstance(cause, InputError) or lacks_memory(cause):
            raise cause from error
        said = " ".join(str(cause).split()) or type(cause).__name__
        raise InputError(f"{name} cannot be made of its options: {said}") from error


def _meant(node: Any) -> Any:
    """The node with what its addresses mean in their place: the files of the user's own modules."""
    if isinstance(node, dict):
        return {key: meant(value) if key == "_target_" else _meant(value) for key, value in node.items()}
    return [_meant(value) for value in node] if isinstance(node, list) else node


def function(node: DictConfig, path: str) -> Callable[..., Any]:
    """A function with its options bound, or the object that a class makes (a module with a forward)."""
    return make(node) if inspect.isclass(target(node, path)) else make(node, _partial_=True)
