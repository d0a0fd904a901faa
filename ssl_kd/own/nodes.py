"""Nodes of a config that say what to build, by `_target_`, and whose code they name. No torch here."""

from collections.abc import Iterator
from typing import Any, NamedTuple

# A constructor of theirs that fails was most likely given wrong options; a user's own shows its trace.
LIBRARIES = ("ssl_kd", "torch", "torchvision", "timm", "kornia", "lightly")


class Named(NamedTuple):
    """A node: where it stands in its config, what it names, and all of it."""

    path: str
    name: Any
    node: dict[Any, Any]


def named(node: Any, path: str = "") -> Iterator[Named]:
    """Every node with a `_target_`, of a plain config."""
    if isinstance(node, dict):
        if "_target_" in node:
            yield Named(path, node["_target_"], node)
        for key, value in node.items():
            yield from named(value, f"{path}.{key}" if path else str(key))
    elif isinstance(node, list):
        for number, value in enumerate(node):
            yield from named(value, f"{path}[{number}]")


def within(name: str, modules: tuple[str, ...]) -> bool:
    """Whether a dotted name is one of these or lies in one."""
    return any(name == module or name.startswith(f"{module}.") for module in modules)


def of_library(name: Any) -> bool:
    """Whether an address lies in ssl_kd or in a library that it builds from."""
    return isinstance(name, str) and within(name, LIBRARIES)
