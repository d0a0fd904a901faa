"""What is installed here, against what this version of ssl_kd declares."""

import platform
import re
import tomllib
from collections.abc import Iterator
from dataclasses import dataclass
from importlib.metadata import PackageNotFoundError, metadata, requires, version
from pathlib import Path
from typing import Literal

from packaging.requirements import Requirement
from packaging.specifiers import SpecifierSet


@dataclass(frozen=True)
class Check:
    state: Literal["ok", "note", "problem"]
    what: str


def packages() -> Iterator[Check]:
    """Versions against what this version of ssl_kd declares, and the extras."""
    python, declared = _declared()
    here = platform.python_version()
    if not SpecifierSet(python).contains(here):
        yield Check(
            "problem", f"Python {here}, and {python} is supported; make an environment of another Python"
        )
    core = [line for line in declared if line.marker is None]
    wrong = [line for line in core if not _satisfied(line)]
    for line in wrong:
        yield Check(
            "problem",
            f"{line.name} {installed(line.name) or 'is missing'}, and {line.specifier} is supported: "
            f"pip install -U '{line.name}{line.specifier}'",
        )
    if not wrong:
        shown = ", ".join(
            f"{name} {installed(name)}" for name in ("torch", "torchvision", "accelerate", "timm")
        )
        yield Check(
            "ok", f"Python {here}, {shown}; all that is needed is here, in versions that are supported"
        )
    extras: dict[str, list[Requirement]] = {}
    for line in declared:
        match = re.search(r"""extra == ['"]([\w-]+)['"]""", str(line.marker or ""))
        if match and match[1] != "test":
            extras.setdefault(match[1], []).append(line)
    there = [name for name, lines in extras.items() if all(map(_satisfied, lines))]
    missing = [name for name in extras if name not in there]
    more = f"; not installed: {', '.join(missing)} (pip install 'ssl-kd[{missing[0]}]')" if missing else ""
    yield Check("ok", f"extras installed: {', '.join(there) or 'none'}{more}")


def _declared() -> tuple[str, list[Requirement]]:
    """The supported Pythons, and every requirement: of the checkout, where this is one, or of the package."""
    file = Path(__file__).parents[2] / "pyproject.toml"
    if not file.is_file():
        return metadata("ssl-kd")["Requires-Python"] or "", [Requirement(r) for r in requires("ssl-kd") or []]
    project = tomllib.loads(file.read_text(encoding="utf-8"))["project"]
    extras = project["optional-dependencies"].items()
    lines = [f"{line}; extra == '{name}'" for name, lines in extras for line in lines]
    return project["requires-python"], [Requirement(line) for line in [*project["dependencies"], *lines]]


def _satisfied(line: Requirement) -> bool:
    here = installed(line.name)
    return here is not None and line.specifier.contains(here, prereleases=True)


def installed(name: str) -> str | None:
    try:
        return version(name)
    except PackageNotFoundError:
        return None
