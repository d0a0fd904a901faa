"""The colours of a page, in light and in dark, once: for its style sheet and for its charts.

Charts name a colour as the page's CSS does, `var(--text)`, and so follow the reader's scheme and the printer
without being drawn again. A picture that stands alone gets the light values instead: see `plain`.
"""

from collections.abc import Iterable
from dataclasses import dataclass
from typing import Any

# name -> (light, dark). Text has a contrast of at least 4.5 to the paper, marks of at least 3.
COLOURS = {
    "paper": ("#ffffff", "#15181d"),
    "panel": ("#f6f7f9", "#1d2128"),
    "text": ("#1b1f24", "#e6e9ee"),
    "muted": ("#57606a", "#a3acb8"),
    "rule": ("#e1e4e8", "#30363f"),
    "accent": ("#0b6285", "#62b8dd"),
    "warn": ("#a3480f", "#f0a35c"),
    "warn-panel": ("#fdf3e7", "#2e241a"),
}
# Series: Okabe & Ito 2008 without its yellow, which white paper swallows; darker or lighter where need be.
SERIES = (
    ("#0072b2", "#56a8e0"),
    ("#d55e00", "#f2884b"),
    ("#00805d", "#35c493"),
    ("#b4568e", "#e79ac6"),
    ("#3d4650", "#c9d0d9"),
    ("#2f8fc4", "#9fd6f7"),
    ("#a87400", "#eebb52"),
    ("#6a51a3", "#b6a3ea"),
)
# Classes: Tol 2021 "muted", its sand and grey darkened on white, its indigo and wine lightened on black.
CLASSES = (
    ("#332288", "#8c80e8"),
    ("#3d9fd0", "#88ccee"),
    ("#2f9483", "#44aa99"),
    ("#117733", "#3fb465"),
    ("#7e7e22", "#b5b54e"),
    ("#a88c26", "#ddcc77"),
    ("#cc6677", "#e0808f"),
    ("#882255", "#cc5c93"),
    ("#aa4499", "#cf74c0"),
    ("#6e747b", "#b9bfc7"),
)
DASHES = ((1, 0), (7, 3), (2, 2), (9, 3, 2, 3))  # a second sign beside the colour, in turns
FONT = 'system-ui, -apple-system, "Segoe UI", Roboto, "Helvetica Neue", Arial, sans-serif'


@dataclass(frozen=True)
class Style:
    """How a named series looks: the numbers of its colour and of its dashes."""

    name: str
    colour: int
    dash: int


def styles(names: Iterable[str]) -> list[Style]:
    """A colour and dashes of its own for each name, in turns."""
    return [Style(name, i, i) for i, name in enumerate(names)]


def series(i: int) -> str:
    """The colour of series i, which is the same in every chart of a page."""
    return f"var(--s{i % len(SERIES)})"


def category(i: int) -> str:
    """The colour of class i."""
    return f"var(--k{i % len(CLASSES)})"


def dash(i: int) -> list[int]:
    """The dashes of series i."""
    return list(DASHES[i % len(DASHES)])


def variables(dark: bool) -> str:
    """The colours as CSS declarations, for one of the two schemes."""
    return "".join(f"--{name}:{pair[dark]};" for name, pair in _all().items())


def vega() -> dict[str, Any]:
    """The config of every chart, its colours as CSS variables."""
    quiet = {"labelColor": "var(--muted)", "titleColor": "var(--muted)", "titleFontWeight": "normal"}
    axis = {"gridColor": "var(--rule)", "domainColor": "var(--rule)", "tickColor": "var(--rule)"}
    return {
        "background": None,
        "font": FONT,
        "view": {"stroke": None},
        "axis": {**quiet, **axis, "labelFontSize": 11, "titleFontSize": 11, "titlePadding": 8},
        "axisQuantitative": {"tickCount": 5},
        "header": {**quiet, "labelColor": "var(--text)", "labelFontSize": 12, "labelFontWeight": 600},
        "title": {"color": "var(--text)", "fontSize": 13, "fontWeight": 600, "anchor": "start"},
        "text": {"color": "var(--text)", "fontSize": 11},
        "rule": {"color": "var(--muted)"},
        "line": {"strokeWidth": 2, "strokeJoin": "round"},
        "axisY": {"domain": False, "ticks": False},
    }


def plain(chart: Any) -> Any:
    """The same chart with the light values in place of the variables."""
    if isinstance(chart, dict):
        return {key: plain(value) for key, value in chart.items()}
    if isinstance(chart, list):
        return [plain(value) for value in chart]
    if isinstance(chart, str) and chart.startswith("var(--"):
        return _all()[chart[6:-1]][0]
    return chart


def _all() -> dict[str, tuple[str, str]]:
    numbered = {f"s{i}": pair for i, pair in enumerate(SERIES)}
    return COLOURS | numbered | {f"k{i}": pair for i, pair in enumerate(CLASSES)}
