"""The header of configs/method/NAME.yaml as Markdown: source, objective, commands, results, remarks.

A header is paragraphs; each shows what it is: commands begin with `ssl-kd`, an objective has an equation or
indented lines, a measurement begins with "Measured".
"""

import re
from html import escape
from itertools import groupby
from typing import NamedTuple


class Header(NamedTuple):
    """Parts of a page, each Markdown or empty."""

    source: str
    measured: str
    objective: str
    commands: str
    remarks: str


def lines(text: str) -> list[str]:
    """The header's lines of a YAML file, without their marks."""
    return [line[2:].rstrip() for line in text.splitlines() if line.startswith("#")][1:]


def read(text: str) -> Header:
    """What the header of a YAML file says."""
    paragraphs = [part.split("\n") for part in re.split(r"\n\n+", "\n".join(lines(text)))]
    parts: dict[str, list[str]] = {name: [] for name in Header._fields}
    parts["source"].append(_prose(paragraphs[0]))
    for paragraph in paragraphs[1:]:
        if paragraph[0].startswith("ssl-kd "):
            parts["commands"].append(_commands(paragraph))
        elif paragraph[0].startswith("Measured"):
            parts["measured"].append(_prose(paragraph))
        elif any(line.startswith("  ") for line in paragraph) or re.match(r".{,20} = ", paragraph[0]):
            parts["objective"].append(_equation(paragraph))
        else:
            parts["remarks"].append(_prose(paragraph))
    return Header(*("\n\n".join(parts[name]) for name in Header._fields))


# What is marked already; a page of ours; an option with its value; an option or a name of Python.
_NAMED = re.compile(
    r"`[^`]*`|docs/[\w/-]+(?:\.md)?|~?[a-z][\w.]*=(?:{[^}]*}|\[[^]]*]|[\w./-]*\w)"
    r"|~?[a-z]\w+(?:[./]\w{2,})+|\w*_\w*"
)


def _prose(paragraph: list[str]) -> str:
    return _NAMED.sub(_named, " ".join(paragraph))


def _named(found: re.Match[str]) -> str:
    word = found[0]
    if word.startswith("docs/"):
        page = word.removeprefix("docs/").removesuffix(".md")
        return f'<a href="../../{page}/">{word}</a>'
    return word if word.startswith("`") else f"`{word}`"


def _equation(paragraph: list[str]) -> str:
    """Indented lines, set under each other, stay as they stand; those around them may wrap."""
    blocks = []
    for laid_out, block in groupby(paragraph, key=lambda line: line.startswith("  ")):
        text = ("\n" if laid_out else " ").join(block)
        kind = "laid-out" if laid_out else "running"
        blocks.append(f'<div class="{kind}">{escape(text, quote=False)}</div>')
    return f'<pre class="objective">{"".join(blocks)}</pre>'


def _commands(paragraph: list[str]) -> str:
    """Commands with what is said beside them as a comment above; a command may go on in an indented line."""
    shown: list[str] = []
    for line in _joined(paragraph):
        command, _, comment = (part.strip() for part in line.partition("   "))
        if not command.startswith("ssl-kd "):
            shown.append(f"# {line.strip()}")
        elif comment:
            shown += [f"# {comment}", command]
        else:
            shown.append(command)
    return "\n".join(["```bash", *shown, "```"])


def _joined(paragraph: list[str]) -> list[str]:
    whole: list[str] = []
    for line in paragraph:
        if line.startswith("  ") and whole and whole[-1].count("'") % 2:  # inside a quoted word
            whole[-1] += " " + line.strip()
        else:
            whole.append(line)
    return whole
