"""The comment at the top of a method's file, as paragraphs that know what they are.

Commands begin with `ssl-kd`, an objective has an equation or indented lines, a measured result begins with
"Measured"; all else is prose. Lines of prose are joined, indented lines and lists stay as they stand.
"""

import re
from itertools import groupby
from typing import Literal, NamedTuple

Kind = Literal["prose", "measured", "objective", "commands"]


class Paragraph(NamedTuple):
    kind: Kind
    lines: list[str]

    @property
    def text(self) -> str:
        """In one line."""
        return " ".join(self.lines)


def header(text: str) -> str:
    """The comment at the top of a YAML file, without its marks and the line that hydra reads."""
    lines = text.splitlines()
    top = lines[: next((i for i, line in enumerate(lines) if not line.startswith("#")), len(lines))]
    said = [line.removeprefix("#").removeprefix(" ").rstrip() for line in top if "@package" not in line]
    return "\n".join(said).strip("\n")


def paragraphs(text: str) -> list[Paragraph]:
    """What a header says."""
    found = [part.split("\n") for part in re.split(r"\n\n+", text) if part.strip()]
    return [Paragraph(_kind(lines), lines) for lines in found]


def _kind(lines: list[str]) -> Kind:
    if lines[0].startswith("ssl-kd "):
        return "commands"
    if lines[0].startswith("Measured"):
        return "measured"
    return "objective" if any(map(_laid_out, lines)) or re.match(r".{,20} = ", lines[0]) else "prose"


def blocks(lines: list[str]) -> list[tuple[bool, str]]:
    """Runs of lines that are set under each other, with True, and of those that may be joined, which are."""
    return [
        (laid_out, ("\n" if laid_out else " ").join(run)) for laid_out, run in groupby(lines, key=_laid_out)
    ]


def commands(lines: list[str]) -> list[str]:
    """Commands, with what is said beside them as a comment above; one may go on in an indented line."""
    whole: list[str] = []
    for line in lines:
        if line.startswith("  ") and whole and whole[-1].count("'") % 2:  # inside a quoted word
            whole[-1] += " " + line.strip()
        else:
            whole.append(line)
    shown: list[str] = []
    for line in whole:
        command, _, comment = (part.strip() for part in line.partition("   "))
        if not command.startswith("ssl-kd "):
            shown.append(f"# {line.strip()}")
        else:
            shown += [f"# {comment}", command] if comment else [command]
    return shown


def _laid_out(line: str) -> bool:
    return line.startswith(("  ", "- ", "* "))
