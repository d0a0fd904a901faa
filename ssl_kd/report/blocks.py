"""What sections are made of: text, facts, tables, cards, charts, strips of images. Each is escaped HTML."""

import json
from collections.abc import Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from functools import cache
from pathlib import Path
from typing import Any

from jinja2 import Environment, FileSystemLoader, StrictUndefined
from markupsafe import Markup

from ssl_kd.report import theme
from ssl_kd.system.text import printable, printable_values


@dataclass(frozen=True)
class Chart:
    """A Vega-Lite chart with its heading, a sentence, its legend in HTML, and what it shows in words."""

    title: str
    spec: dict[str, Any]
    alt: str
    note: str = ""
    legend: Sequence[theme.Style] = ()
    lines: bool = True  # the legend shows lines, not dots
    square: bool = False


@dataclass(frozen=True)
class Strip:
    """A row of images as one, `source` being a data URL, `width` x `height` pixels."""

    title: str
    source: str
    alt: str
    width: int
    height: int
    note: str = ""


@dataclass(frozen=True)
class Card:
    title: str
    text: str
    facts: Sequence[tuple[str, str]] = field(default_factory=tuple)


@cache
def templates() -> Environment:
    """The templates of this package; what they are given is escaped and printable."""
    return Environment(
        loader=FileSystemLoader(Path(__file__).parent),
        autoescape=True,
        undefined=StrictUndefined,
        finalize=lambda value: printable(value) if type(value) is str else value,
    )


def heading(text: str) -> Markup:
    return _macros().heading(text)


def paragraph(text: str) -> Markup:
    return _macros().paragraph(text)


def note(text: str) -> Markup:
    """A quieter paragraph."""
    return _macros().note(text)


def callout(text: str, alarm: bool = False) -> Markup:
    """A paragraph that stands out."""
    return _macros().callout(text, alarm)


def verbatim(text: str) -> Markup:
    """Text with its lines, in a fixed width."""
    return _macros().verbatim(Markup("\n").join(map(printable, text.split("\n"))))


def bullets(items: Iterable[str]) -> Markup:
    return _macros().bullets(list(items))


def facts(items: Iterable[tuple[str, str]]) -> Markup:
    """Names with their values; those without a value are left out."""
    return _macros().facts([(name, value) for name, value in items if value])


def table(
    head: Sequence[str],
    rows: Sequence[Sequence[str]],
    caption: str,
    quiet: Collection[int] = (),
    words: Collection[int] = (),
) -> Markup:
    """quiet: rows that stand back. words: columns of text, which are set to the left and may break."""
    return _macros().table(head, rows, caption, quiet, words)


def cards(items: Sequence[Card]) -> Markup:
    return _macros().cards(items)


def charts(items: Sequence[Chart], narrow: bool = False) -> Markup:
    """narrow: two beside each other where there is room."""
    shown = [
        {
            "title": chart.title,
            "note": chart.note,
            "alt": chart.alt,
            "json": script_json(chart.spec),
            "legend": legend(chart.legend, chart.lines) if chart.legend else "",
            "square": chart.square,
        }
        for chart in items
    ]
    return _macros().charts(shown, narrow and len(items) > 1)


def legend(items: Iterable[theme.Style], lines: bool = True) -> Markup:
    """Names of series with their colours, and with their dashes where they are lines."""
    shown = [
        {
            "text": item.name,
            "colour": theme.series(item.colour),
            "dash": " ".join(map(str, theme.dash(item.dash))) if lines else "",
        }
        for item in items
    ]
    return _macros().legend(shown)


def class_legend(classes: Sequence[str]) -> Markup:
    """Names of classes with their colours."""
    shown = [{"text": text, "colour": theme.category(i), "dash": ""} for i, text in enumerate(classes)]
    return _macros().legend(shown)


def strips(items: Sequence[Strip]) -> Markup:
    return _macros().strips(items)


def sheet(source: str, columns: int, rows: int) -> Markup:
    """Small images in one, which is not seen itself: the points of maps show theirs, see page.js."""
    return _macros().sheet(source, columns, rows)


def drawing(svg: Markup, caption: str = "") -> Markup:
    """An SVG that is drawn already."""
    return _macros().drawing(svg, caption)


def script_json(value: Mapping[str, Any]) -> Markup:
    """JSON that may stand inside a script element; its texts are printable."""
    return Markup(json.dumps(printable_values(value), separators=(",", ":")).replace("<", "\\u003c"))


def _macros() -> Any:
    return templates().get_template("blocks.html").module
