"""Where an address of the user's own lies: a file in the folder they stand in, or something installed."""

import hashlib
import json
import sysconfig
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from ssl_kd.own import files, loading
from ssl_kd.own.files import Module
from ssl_kd.own.nodes import of_library


@dataclass(frozen=True)
class Found:
    """module: loaded by its files; None for what is installed and imported by its name, as anywhere.

    hashes: path -> hash of all that it consists of. where: file and line, for people.
    """

    address: str
    module: Module | None
    hashes: dict[str, str]
    where: str

    @property
    def entry(self) -> dict[str, Any]:
        """As it stands on record."""
        return {"root": str(self.module.root) if self.module else None, "files": self.hashes}


def find(address: str, root: Path) -> Found | None:
    """What the address means to somebody who stands in `root`: what is installed goes before a file there.

    Nothing is imported. None where there is neither; raises InputError for a file that cannot be read.
    """
    spec = loading.installed(address)
    if spec is None:
        module = files.find(address, root)
        return Found(address, module, module.hashes, _where(module, address)) if module else None
    if spec.origin is None and spec.submodule_search_locations:  # a folder without __init__.py
        around = [Path(place).resolve().parent for place in spec.submodule_search_locations]
        module = next(filter(None, (files.find(address, place) for place in around)), None)
        return Found(address, None, module.hashes, _where(module, address)) if module else None
    if spec.origin in (None, "built-in", "frozen"):
        return Found(address, None, {}, "installed")
    top = Path(spec.origin).resolve()
    above = top.parent.parent if top.name == "__init__.py" else top.parent
    module = files.find(address, above, beside=not _is_installed(top))
    if module is None:
        return Found(address, None, {str(top): hashlib.sha256(top.read_bytes()).hexdigest()}, str(top))
    return Found(address, None, module.hashes, _where(module, address))


def allow_address(address: str) -> None:
    """Lets an address that the user's own program or words say mean what it does where they stand."""
    if not of_library(address):
        found = find(address, Path.cwd().resolve())
        loading.grant(address, found.module if found else None)


def node_hash(node: Any) -> str:
    """Of a node of a config: what it names, and all options."""
    return hashlib.sha256(json.dumps(node, sort_keys=True, default=str).encode()).hexdigest()


def _where(module: Module, address: str) -> str:
    line = module.line(address)
    return f"{module.file.path}, line {line}" if line else str(module.file.path)


def _is_installed(file: Path) -> bool:
    """Whether it lies among installed packages, of which only the module's own file is looked at."""
    places = {sysconfig.get_path(name) for name in ("purelib", "platlib", "stdlib", "platstdlib")}
    return any(file.is_relative_to(Path(place).resolve()) for place in places if place)
