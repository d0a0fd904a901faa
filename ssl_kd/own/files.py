"""The files of a module of the user's: its own, and those beside it that it imports, found without executing.

`kit.losses.loss` is looked for below a root: `kit/losses.py`, `kit/losses/__init__.py`, `kit.py`.
What is imported by a name that only the running program knows is not found, and then not served either.
"""

import ast
import hashlib
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from ssl_kd.errors import InputError

MOST_FILES = 500
MOST_BYTES = 1 << 22  # of one file


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
        tree = _tree(self.file)
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
    while wanted:
        one = wanted.pop()
        path = _path(root, one)
        if one in files or path is None:
            continue
        files[one] = _read(path)
        if len(files) > MOST_FILES:
            raise InputError(f"{files[name].path} imports more than {MOST_FILES} files beside it")
        if not beside:
            continue
        wanted += [each for found in _imported(one, files[one]) for each in (*_above(found), found)]
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


def _tree(file: File) -> ast.Module | None:
    try:
        return ast.parse(file.source)
    except (SyntaxError, ValueError, RecursionError):  # whoever imports it says so
        return None


def _imported(name: str, file: File) -> Iterator[str]:
    """Dotted names that the file may import, wherever in it."""
    package = name if file.package else name.rpartition(".")[0]
    tree = _tree(file)
    for node in ast.walk(tree) if tree else ():
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            base = node.module or ""
            if node.level:
                up = package.split(".")[: len(package.split(".")) - node.level + 1]
                base = ".".join([*up, *([node.module] if node.module else [])])
            yield base
            yield from (f"{base}.{alias.name}" if base else alias.name for alias in node.names)
