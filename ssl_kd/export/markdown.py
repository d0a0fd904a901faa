"""Anybody's words as Markdown: nothing in them ends a table, a block of code or a line."""

import re
from collections.abc import Sequence
from typing import Any

from ssl_kd.system.text import printable


def text(value: Any) -> str:
    """Anybody's words as they can stand in Markdown."""
    return re.sub(r"([\\`*\[\]<>|])", r"\\\1", printable(str(value)))


def table(head: Sequence[str], rows: Sequence[Sequence[str]]) -> str:
    lines = [head, ["---"] * len(head), *rows]
    return "\n".join("| " + " | ".join(line) + " |" for line in lines)


def fence(language: str, text: str) -> str:
    """A block of code that nothing in it can end."""
    longest = max([2, *(len(run) for run in re.findall("`+", text))])
    ticks = "`" * (longest + 1)
    return f"{ticks}{language}\n{text}\n{ticks}"
