"""What functions of ours take, and what their docstrings say of it: read from their files, not imported."""

import ast
import re
from functools import cache
from pathlib import Path

from ssl_kd.commands.documented import Option

_PACKAGE = Path(__file__).parent.parent


def parameters(file: str, function: str) -> list[Option]:
    """Every parameter of a function in a file of ours, with its default as it is typed on a command line."""
    arguments, text = _functions(file)[function]
    return [Option(key, default, _said_of(key, text)) for key, default in arguments]


def purpose(file: str, function: str) -> str:
    """What its docstring says before it comes to the parameters."""
    return re.split(r"\s\w+(?:, \w+)*: ", _functions(file)[function][1])[0]


def entries(file: str, table: str) -> dict[str, str]:
    """A mapping of names to functions that a file of ours assigns."""
    for node in _tree(file).body:
        if isinstance(node, ast.AnnAssign) and ast.unparse(node.target) == table:
            assert isinstance(node.value, ast.Dict)
            pairs = zip(node.value.keys, node.value.values, strict=True)
            return {str(ast.literal_eval(key)): ast.unparse(value) for key, value in pairs if key is not None}
    raise KeyError(table)


@cache
def _functions(file: str) -> dict[str, tuple[list[tuple[str, str]], str]]:
    """name -> ((argument, default), ...) and docstring."""
    found = {}
    for node in _tree(file).body:
        if isinstance(node, ast.FunctionDef):
            arguments = [*node.args.args, *node.args.kwonlyargs]
            plain = [""] * (len(node.args.args) - len(node.args.defaults))
            defaults = [*plain, *(ast.unparse(value) for value in node.args.defaults)]
            defaults += ["" if value is None else ast.unparse(value) for value in node.args.kw_defaults]
            pairs = [(a.arg, _as_typed(text)) for a, text in zip(arguments, defaults, strict=True)]
            found[node.name] = pairs, " ".join((ast.get_docstring(node) or "").split())
    return found


@cache
def _tree(file: str) -> ast.Module:
    return ast.parse((_PACKAGE / file).read_text(encoding="utf-8"))


def _as_typed(default: str) -> str:
    """A default of Python as it is typed on the command line."""
    words = {"None": "null", "True": "true", "False": "false"}
    return words.get(default, default.replace("(", "[").replace(",)", "]").replace(")", "]").replace("'", ""))


def _said_of(key: str, text: str) -> str:
    """What a docstring says as `key: ...`, up to the next one of that form."""
    match = re.search(rf"(?:^|[\s,]){key}(?:, \w+)*: (.*?)(?=\s(?:\w+, )*\w+: |$)", text)
    return match[1].partition(" Raises ")[0].rstrip(".") if match else ""
