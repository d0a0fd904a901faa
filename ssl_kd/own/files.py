"""The files of a module of the user's: its own, and those beside it that it imports, found without executing.

`kit.losses.loss` is looked for below a root: `kit/losses.py`, `kit/losses/__init__.py`, `kit.py`.
What is imported by a name that only the running program knows is not found, and then not served either.
"""

import ast
import hashlib
import sys
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path

from ssl_kd.errors import InputError
from ssl_kd.own.nodes import LIBRARIES

MOST_FILES = 500
MOST_BYTES = 1 << 22  # of one file
_NOT_BESIDE = {*LIBRARIES, *sys.stdlib_module_names}  # what these names mean never lies beside a module


@dataclass(frozen=True)
class File:
    """A file of a module as it was read once: what is hashed is what is executed."""

    path: Path
    source: bytes
    package: bool

    @property
    def digest(self) -> str:
        return hashlib.sha256(self.source).hexdigest()


@dataclass(frozen=True)
class Module:
    """name: of the module that an address names. files: of it and of all that it imports, by module's name.

    A folder without `__init__.py` on the way to one has none; it is a package of nothing.
    """

    root: Path
    name: str
    files: dict[str, File]

    @property
    def file(self) -> File:
        return self.files[self.name]

    @property
    def hashes(self) -> dict[str, str]:
        """Path -> hash."""
        return {str(file.path): file.digest for file in self.files.values()}

    def line(self, address: str) -> int | None:
        """The line that defines what the address names, None where the module only imports it or has none."""
        first = address.removeprefix(f"{self.name}.").split(".")[0]
        tree = _tree(self.file.source)
        for node in tree.body if tree else []:
            named = isinstance(node, ast.FunctionDef | ast.ClassDef) and node.name == first
            if named:
                return node.lineno
        return None


def find(address: str, root: Path, beside: bool = True) -> Module | None:
    """The module below `root` in which the address lies. None where there is none; raises InputError.

    beside: with the files that it imports.
    """
    parts = address.split(".")
    if not all(part.isidentifier() for part in parts):
        return None
    names = [".".join(parts[:depth]) for depth in range(len(parts) - 1, 0, -1)]
    name = next((name for name in names if _path(root, name)), None)
    if name is None:
        return None
    files: dict[str, File] = {}
    wanted = [*(_above(name) if beside else ()), name]
    seen: set[str] = set()
    while wanted:
        one = wanted.pop()
        if one in seen:
            continue
        seen.add(one)
        path = _path(root, one)
        if path is None:
            continue
        files[one] = _read(path)
        if len(files) > MOST_FILES:
            raise InputError(f"{files[name].path} imports more than {MOST_FILES} files beside it")
        if not beside:
            continue
        wanted += _imported(one, files[one].package, files[one].source)
    return Module(root, name, files)


def _above(name: str) -> list[str]:
    parts = name.split(".")
    return [".".join(parts[:depth]) for depth in range(1, len(parts))]


def _path(root: Path, name: str) -> Path | None:
    place = root.joinpath(*name.split("."))
    return next((path for path in (place / "__init__.py", place.with_suffix(".py")) if path.is_file()), None)


def _read(path: Path) -> File:
    try:
        if path.stat().st_size > MOST_BYTES:
            raise InputError(f"{path} has more than {MOST_BYTES:,} bytes, which no module has")
        return File(path.resolve(), path.read_bytes(), path.name == "__init__.py")
    except OSError as error:
        raise InputError(f"{path} cannot be read ({error.strerror})") from error


def _tree(source: bytes) -> ast.Module | None:
    try:
        return ast.parse(source)
    except (SyntaxError, ValueError, RecursionError):  # whoever imports it says so
        return None


@lru_cache(maxsize=2 * MOST_FILES)  # each address of a config asks for the same files again
def _imported(name: str, is_package: bool, source: bytes) -> tuple[str, ...]:
    """Dotted names that a file may import, wherever in it, and the packages that they lie in."""
    package = (name if is_package else name.rpartition(".")[0]).split(".")
    found: dict[str, None] = {}
    for node in ast.walk(_tree(source) or ast.Module([], [])):
        if isinstance(node, ast.Import):
            found |= dict.fromkeys(alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            base = node.module or ""
            if node.level:
                up = package[: len(package) - node.level + 1]
                base = ".".join([*up, *([node.module] if node.module else [])])
            found |= dict.fromkeys([base, *(f"{base}.{alias.name}".strip(".") for alias in node.names)])
    own = name.split(".")[0]
    firsts = {each: each.split(".")[0] for each in found if each}
    beside = [each for each, first in firsts.items() if first == own or first not in _NOT_BESIDE]
    return tuple(dict.fromkeys(each for one in beside for each in (*_above(one), one)))
