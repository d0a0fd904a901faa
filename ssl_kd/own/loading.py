"""Modules of the user's are loaded by their files, under a name of their own, and see only their own files.

Each `Module` becomes a package `ssl_kd_own_HASH`, so that nothing of it stands where a library would look for
a module that is not there, and two projects with a module of the same name do not meet. In its files,
`import x` of a file that was found with it means that one unless x is installed. Nothing is read again once
it was hashed, no bytecode that lies beside a file is taken, and none is written there.
"""

import ast
import hashlib
import sys
from collections.abc import Callable
from importlib.abc import InspectLoader, MetaPathFinder
from importlib.machinery import ModuleSpec, PathFinder
from importlib.util import decode_source, spec_from_loader
from pathlib import Path
from types import CodeType, ModuleType
from typing import Any

from ssl_kd.own.files import File, Module

PREFIX = "ssl_kd_own_"


class _Loader(InspectLoader):
    def __init__(self, prefix: str, name: str, module: Module) -> None:
        self.prefix, self.name, self.module = prefix, name, module

    @property
    def _file(self) -> File | None:
        return self.module.files.get(self.name)

    def is_package(self, fullname: str) -> bool:
        return self._file is None or self._file.package

    def get_source(self, fullname: str) -> str:
        return decode_source(self._file.source) if self._file else ""

    def get_code(self, fullname: str) -> CodeType:
        if self._file is None:
            return compile("", f"<{fullname}>", "exec")
        path = str(self._file.path)
        tree = _Renamed(self.prefix, _own(self.module)).visit(ast.parse(self._file.source, path))
        return compile(ast.fix_missing_locations(tree), path, "exec", dont_inherit=True)

    def exec_module(self, module: ModuleType) -> None:
        if self._file is not None:
            module.__file__ = str(self._file.path)
        exec(self.get_code(module.__name__), module.__dict__)


class _Renamed(ast.NodeTransformer):
    """Imports of files that were found with the module get them from the package that they lie in."""

    def __init__(self, prefix: str, own: frozenset[str]) -> None:
        self.prefix, self.own = prefix, own

    def visit_Import(self, node: ast.Import) -> list[ast.stmt]:
        made: list[ast.stmt] = []
        for alias in node.names:
            first = alias.name.split(".")[0]
            if first not in self.own:
                made.append(ast.Import([alias]))
                continue
            made.append(ast.Import([ast.alias(f"{self.prefix}.{alias.name}", alias.asname)]))
            if alias.asname is None:  # `import kit.losses` makes the name kit
                made.append(ast.ImportFrom(self.prefix, [ast.alias(first)], 0))
        return [ast.copy_location(each, node) for each in made]

    def visit_ImportFrom(self, node: ast.ImportFrom) -> ast.ImportFrom:
        if not node.level and node.module and node.module.split(".")[0] in self.own:
            node.module = f"{self.prefix}.{node.module}"
        return node


def _own(module: Module) -> frozenset[str]:
    """First names of the module's files; what is installed under such a name goes before those it imports."""
    firsts = {name.split(".")[0] for name in module.files}
    return frozenset(one for one in firsts if one == module.name.split(".")[0] or installed(one) is None)


class _Finder(MetaPathFinder):
    """Serves what was granted, and nothing else."""

    def __init__(self) -> None:
        self.modules: dict[str, Module] = {}

    def find_spec(self, fullname: str, path: Any = None, target: Any = None) -> ModuleSpec | None:
        prefix, _, name = fullname.partition(".")
        module = self.modules.get(prefix)
        if module is None:
            return None
        known = not name or any(each == name or each.startswith(f"{name}.") for each in module.files)
        return spec_from_loader(fullname, _Loader(prefix, name, module)) if known else None


_FINDER = _Finder()
_ADDRESSES: dict[str, str] = {}  # what a config says -> what is imported
_LATEST: dict[str, str] = {}


def serve(module: Module) -> str:
    """Makes the module importable; returns the package that it then lies in."""
    if _FINDER not in sys.meta_path:
        sys.meta_path.insert(0, _FINDER)
    said = f"{module.root}\n" + "\n".join(
        f"{name} {file.digest}" for name, file in sorted(module.files.items())
    )
    prefix = PREFIX + hashlib.sha256(said.encode()).hexdigest()[:16]
    _FINDER.modules.setdefault(prefix, module)
    return prefix


def grant(address: str, module: Module | None) -> None:
    """From here on the address means what it names in this module; None: what is installed under it."""
    _ADDRESSES[address] = address if module is None else f"{serve(module)}.{address}"
    _LATEST[address] = _ADDRESSES[address]


def meant(address: Any) -> Any:
    """What is imported for an address of a config: the user's own, where it was granted."""
    return _ADDRESSES.get(address, address) if isinstance(address, str) else address


def begin() -> None:
    """From here on, `since` counts."""
    _LATEST.clear()


def since() -> dict[str, str]:
    """What was granted since `begin`: address -> what it means."""
    return dict(_LATEST)


def granted(address: str) -> Module | None:
    """The module that an address means; None for what is installed, or means nothing."""
    return _FINDER.modules.get(_ADDRESSES.get(address, "").split(".")[0])


def carried() -> dict[str, Any]:
    """All that was granted, of plain texts, for a process that `restore` shall give the same."""
    modules = {
        prefix: {
            "root": str(module.root),
            "name": module.name,
            "files": {
                name: [str(file.path), file.source.decode("latin-1"), file.package]
                for name, file in module.files.items()
            },
        }
        for prefix, module in _FINDER.modules.items()
    }
    return {"modules": modules, "addresses": dict(_ADDRESSES)}


def restore(granted: dict[str, Any]) -> None:
    """Takes over what another process of the same command had been granted."""
    for said in granted["modules"].values():
        files = {
            name: File(Path(path), source.encode("latin-1"), package)
            for name, (path, source, package) in said["files"].items()
        }
        serve(Module(Path(said["root"]), said["name"], files))
    _ADDRESSES.update(granted["addresses"])


class Granted:
    """Stands first in what a process is sent, so that functions and classes of the user's are found there."""

    def __reduce__(self) -> tuple[Any, ...]:
        return _restored, (carried(),)


def _restored(granted: dict[str, Any]) -> Granted:
    restore(granted)
    return Granted()


def sent(granted: Granted, kind: Callable[..., Any], *of: Any) -> Any:
    """What another process gets, to which `granted` has made the user's modules known before."""
    return kind(*of)


def installed(name: str) -> ModuleSpec | None:
    """The module of this name that any program would import, by the first part of the name."""
    first = name.split(".")[0]
    if first in sys.builtin_module_names or first in sys.stdlib_module_names:
        return ModuleSpec(first, None, origin="built-in")
    return PathFinder.find_spec(first) or _otherwise(first)


def _otherwise(first: str) -> ModuleSpec | None:
    """From finders of editable installs, and of whatever else is set up."""
    for finder in sys.meta_path:
        found = (
            None
            if isinstance(finder, _Finder)
            else getattr(finder, "find_spec", lambda *_: None)(first, None)
        )
        if found is not None:
            return found
    return None
