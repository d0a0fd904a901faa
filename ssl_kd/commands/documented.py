"""Options as their config files describe them: key, default, and the comment that says what it means.

The files are read as text. A YAML parser would lose the comments, and help must not wait for one.
"""

import re
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

_LINE = re.compile(r"(?P<indent> *)(?P<key>[A-Za-z0-9_.~-]+):(?P<rest>(\s.*)?)$")
_COMMENT = re.compile(r"(?:^|\s)#\s?(?P<text>.*)$")
_HYDRA = ("defaults",)  # which files are laid over each other


@dataclass(frozen=True)
class Option:
    """default: as it is written; "" where there is none, or where the option is a group of others."""

    key: str
    default: str = ""
    meaning: str = ""


def options_in(file: Path, prefix: str = "") -> list[Option]:
    """The options of a config file, in its order, groups before what is in them; those of the files it builds
    on come first.

    prefix: stands before every key, as "data.".
    """
    text = file.read_text(encoding="utf-8")
    packaged = "# @package _global_" in text
    found = {option.key: option for base in _bases(file, text) for option in options_in(base, prefix)}
    for option in [each for whole in _parsed(text) for each in (whole, *_inside(whole))]:
        key = option.key if packaged else prefix + option.key
        found[key] = Option(key, option.default, option.meaning or found.get(key, option).meaning)
    return list(found.values())


def header(file: Path) -> list[str]:
    """The comment lines at the top of a file."""
    lines: list[str] = []
    for line in file.read_text(encoding="utf-8").splitlines():
        if not line.startswith("#"):
            break
        if not line.startswith("# @package"):
            lines.append(line[1:].removeprefix(" "))
    return lines


def _bases(file: Path, text: str) -> Iterator[Path]:
    """Files beside this one that it builds on, as `- simclr` under `defaults:`."""
    inside = False
    for line in text.splitlines():
        if line.startswith("defaults:"):
            inside = True
        elif inside and line.lstrip().startswith("- "):
            name = line.strip()[2:].partition("@")[0]
            base = file.parent / f"{name}.yaml"
            if name.isidentifier() and base.is_file() and base != file:  # not `override /recipe: ...`
                yield base
        elif line and not line.startswith((" ", "#")):
            inside = False


def _inside(option: Option) -> Iterator[Option]:
    """What a mapping on one line holds: of `rate: {peak: 0.1}` rate.peak."""
    if not (option.default.startswith("{") and option.default.endswith("}")):
        return
    depth, start, inner = 0, 0, option.default[1:-1] + ","
    for i, character in enumerate(inner):
        depth += (character in "[{(") - (character in "]})")
        if character == "," and depth == 0:
            key, colon, value = inner[start:i].partition(":")
            start = i + 1
            if colon and _LINE.match(f"{key.strip()}:"):
                found = Option(f"{option.key}.{key.strip()}", value.strip())
                yield from (found, *_inside(found))


def _parsed(text: str) -> Iterator[Option]:
    parents: list[tuple[int, str]] = []  # indent, key
    last: Option | None = None
    for line in text.splitlines():
        comment = _COMMENT.search(line)
        code = line[: comment.start()] if comment else line
        if not code.strip():
            if comment and last and line.startswith(" ") and last.meaning:
                last = Option(last.key, last.default, f"{last.meaning} {comment['text'].strip()}")
            elif last:
                yield last
                last = None
            continue
        if last:
            yield last
            last = None
        match = _LINE.match(code.rstrip())
        if not match:
            continue
        while parents and parents[-1][0] >= len(match["indent"]):
            parents.pop()
        parents.append((len(match["indent"]), match["key"]))
        keys = [key for _, key in parents]
        if keys[0] not in _HYDRA:
            last = Option(".".join(keys), match["rest"].strip(), comment["text"].strip() if comment else "")
    if last:
        yield last
