"""Names of backbones without importing a network: ours and timm's are read from their source files."""

import ast
import re
from collections.abc import Iterator
from importlib.util import find_spec
from pathlib import Path

_TIMM = re.compile(r"@register_model\s+def (\w+)\(")


def backbones(start: str = "") -> list[str]:
    """Those that begin so: ours, and where none of ours does, timm's."""
    own = [name for name in dict.fromkeys(_ours()) if name.startswith(start)]
    if own or not start:
        return own
    forced, plain = start.startswith("timm/"), start.removeprefix("timm/")
    return [f"timm/{name}" if forced else name for name in sorted(_timm()) if name.startswith(plain)]


def _ours() -> Iterator[str]:
    """The lists of names in ssl_kd/backbones/__init__.py."""
    file = Path(__file__).parent.parent / "backbones" / "__init__.py"
    for node in ast.parse(file.read_text(encoding="utf-8")).body:
        value = node.value if isinstance(node, ast.Assign | ast.AnnAssign) else None
        if isinstance(value, ast.List) and all(isinstance(entry, ast.Constant) for entry in value.elts):
            yield from (str(ast.literal_eval(entry)) for entry in value.elts)
    yield "wrn-16-2"


def _timm() -> set[str]:
    found = find_spec("timm")
    if found is None or found.origin is None:
        return set()
    files = (Path(found.origin).parent / "models").glob("*.py")
    return {name for file in files for name in _TIMM.findall(file.read_text(encoding="utf-8"))}
