"""The header of configs/method/NAME.yaml as Markdown: source, objective, commands, results, remarks."""

import re
from html import escape
from typing import NamedTuple

from ssl_kd.headers import blocks, commands, paragraphs
from ssl_kd.headers import header as header


class Header(NamedTuple):
    """Parts of a page, each Markdown or empty."""

    source: str
    measured: str
    objective: str
    commands: str
    remarks: str


def read(text: str) -> Header:
    """What the header of a YAML file says."""
    first, *rest = paragraphs(header(text))
    parts: dict[str, list[str]] = {name: [] for name in Header._fields}
    parts["source"].append(_prose(first.text))
    for paragraph in rest:
        if paragraph.kind == "commands":
            parts["commands"].append("\n".join(["```bash", *commands(paragraph.lines), "```"]))
        elif paragraph.kind == "objective":
            parts["objective"].append(_equation(paragraph.lines))
        else:
            parts["measured" if paragraph.kind == "measured" else "remarks"].append(_prose(paragraph.text))
    return Header(*("\n\n".join(parts[name]) for name in Header._fields))


# What is marked already; a page of ours; an option with its value; an option or a name of Python.
_NAMED = re.compile(
    r"`[^`]*`|docs/[\w/-]+(?:\.md)?|~?[a-z][\w.]*=(?:{[^}]*}|\[[^]]*]|[\w./-]*\w)"
    r"|~?[a-z]\w+(?:[./]\w{2,})+|\w*_\w*"
)


def _prose(text: str) -> str:
    return _NAMED.sub(_named, text)


def _named(found: re.Match[str]) -> str:
    word = found[0]
    if word.startswith("docs/"):
        page = word.removeprefix("docs/").removesuffix(".md")
        return f'<a href="../../{page}/">{word}</a>'
    return word if word.startswith("`") else f"`{word}`"


def _equation(lines: list[str]) -> str:
    parts = [
        f'<div class="{"laid-out" if laid_out else "running"}">{escape(text, quote=False)}</div>'
        for laid_out, text in blocks(lines)
    ]
    return f'<pre class="objective">{"".join(parts)}</pre>'
