"""Charts as Vega-Lite specifications by altair: what all of them share, curves, and accuracy against cost.

A chart fills the width of its place. Its colours are those of `theme`, its legend is the page's HTML, which
breaks into lines where a screen is narrow.
"""

from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import Any

import altair as alt
import numpy as np
from altair.utils.schemapi import debug_mode

from ssl_kd.report import theme

POINTS = 200  # of a curve that a screen can show apart
VISIBLE = 15  # points of a curve that are marked
PARETO = 230  # pixels of height

Row = dict[str, Any]
Point = tuple[float, float]


def vega_lite() -> str:
    """The version that altair writes, as vl_convert names it: "6.4"."""
    return ".".join(alt.SCHEMA_VERSION.lstrip("v").split(".")[:2])


@contextmanager
def unchecked() -> Iterator[None]:
    """Altair checks every part of a chart against Vega-Lite's schema: most of a page's time; not in here."""
    with debug_mode(False):
        yield


def values(rows: Iterable[Row]) -> alt.Data:
    """Rows as the data of a chart."""
    return alt.Data(values=list(rows))


def finish(chart: Any, height: int | None) -> dict[str, Any]:
    """The specification as wide as its place; height in pixels, None for a place that has a height itself."""
    fit = alt.AutoSizeParams(type="fit" if height is None else "fit-x", contains="padding")
    size: Any = "container" if height is None else height
    spec = chart.properties(width="container", height=size, autosize=fit).to_dict(validate=False)
    spec.pop("config", None)  # altair's own; the page has one for all charts
    return spec


def palette(styles: Sequence[theme.Style]) -> alt.Scale:
    """The colour of each name."""
    return alt.Scale(domain=[s.name for s in styles], range=[theme.series(s.colour) for s in styles])


def dashes(styles: Sequence[theme.Style]) -> alt.Scale:
    """The dashes of each name."""
    return alt.Scale(domain=[s.name for s in styles], range=[theme.dash(s.dash) for s in styles])


def thin(points: Sequence[Point] | np.ndarray, most: int = POINTS) -> list[list[float]]:
    """At most `most` points (x, y): the means of as many neighbours each as it takes."""
    found = np.asarray(points, float).reshape(-1, 2)
    if not len(found):
        return []
    size = -(-len(found) // most)
    starts = np.arange(0, len(found), size)
    counts = np.diff(np.append(starts, len(found)))
    return (np.add.reduceat(found, starts) / counts[:, None]).tolist()


def lines(
    curves: Mapping[str, Sequence[Point] | np.ndarray],
    styles: Sequence[theme.Style],
    x: str = "epoch",
    y: str = "",
    form: str = ".4~g",
    zero: bool = False,
    height: int = 190,
) -> dict[str, Any]:
    """A line for each of the named curves of points (x, y).

    styles: of the same names. x, y: titles. form: d3's format of y. zero: 0 is on the axis. height: pixels.
    """
    thinned = {name: thin(points) for name, points in curves.items()}
    rows = [{"x": a, "y": b, "name": name} for name, points in thinned.items() for a, b in points]
    few = max(map(len, thinned.values()), default=0) <= VISIBLE
    base = alt.Chart(values(rows)).encode(
        x=alt.X(
            "x:Q", title=x, axis=alt.Axis(grid=False), scale=alt.Scale(nice=False, padding=7 if few else 0)
        ),
        y=alt.Y("y:Q", title=y or None, scale=alt.Scale(zero=zero), axis=alt.Axis(format=form)),
        color=alt.Color("name:N", scale=palette(styles), legend=None),
    )
    line = base.mark_line(clip=True).encode(
        strokeDash=alt.StrokeDash("name:N", scale=dashes(styles), legend=None)
    )
    points = base.mark_point(filled=True, size=36, opacity=1.0 if few else 0.0).encode(
        tooltip=[
            alt.Tooltip("name:N", title=" "),
            alt.Tooltip("x:Q", title=x, format=".3~f"),
            alt.Tooltip("y:Q", title=y or "value", format=form),
        ]
    )
    return finish(line + points, height)


def describe(curves: Mapping[str, Sequence[Point] | np.ndarray], what: str, form: str = ".3g") -> str:
    """The curves in words, for those who do not see them."""
    ends = [f"{name} from {p[0][1]:{form}} to {p[-1][1]:{form}}" for name, p in curves.items() if len(p)]
    return f"{what} over training: {'; '.join(ends)}"


def pareto(points: Sequence[Row], cost: str, score: str, floor: tuple[str, float] | None) -> dict[str, Any]:
    """Accuracy against cost, and a stepped line through the points that no other beats in both.

    points: {"name", "cost", "score" in per cent, "series"}. floor: a baseline and its score, as a line.
    """
    ordered = sorted(points, key=lambda p: (p["cost"], -p["score"]))
    costs = [p["cost"] for p in ordered]
    levels = [p["score"] for p in ordered] + ([floor[1]] if floor else [])
    room = max(1.0, 0.2 * (max(levels) - min(levels)))
    domain = [min(levels) - room, min(100, max(levels) + room)]
    x = alt.X("cost:Q", title=cost, axis=alt.Axis(format="~s", grid=False)).scale(
        type="log", domain=[costs[0] / 1.7, costs[-1] * 1.7], nice=False
    )
    y = alt.Y("score:Q", title=f"{score}, %").scale(domain=domain)
    front, best = [], float("-inf")
    for point in ordered:
        if point["score"] > best:
            front.append(point)
            best = point["score"]
    front.append({**front[-1], "cost": costs[-1] * 1.7})
    steps = alt.Chart(values(front)).mark_line(interpolate="step-after", color="var(--muted)", strokeWidth=1)
    layers = [steps.encode(x=x, y=y, strokeDash=alt.value([3, 3]))]
    if floor:
        baseline = alt.Chart(values([{"score": floor[1], "name": floor[0]}]))
        name = baseline.mark_text(align="left", dy=-7, color="var(--muted)")
        layers.append(baseline.mark_rule(color="var(--rule)", strokeWidth=2).encode(y=y))
        layers.append(name.encode(y=y, x=alt.value(6), text="name:N"))
    names = _apart(ordered, 16 / PARETO * (domain[1] - domain[0]))
    return finish(alt.layer(*layers, *_dots(ordered, x, y, cost, score), *_names(names, x, y)), PARETO)


def _dots(points: Sequence[Row], x: alt.X, y: alt.Y, cost: str, score: str) -> list[alt.Chart]:
    tooltip = [
        alt.Tooltip("name:N", title=" "),
        alt.Tooltip("cost:Q", title=cost, format=".3~s"),
        alt.Tooltip("score:Q", title=f"{score}, %", format=".1f"),
    ]
    return [
        alt.Chart(values([point]))
        .mark_point(filled=True, size=110, opacity=1, color=theme.series(point["series"]))
        .encode(x=x, y=y, tooltip=tooltip)
        for point in points
    ]


def _apart(points: Sequence[Row], height: float) -> list[Row]:
    """Where the points' names go: as high as the points, or lower where names would lie over each other.

    height: of a name, in units of the score. Points of nearly equal cost share a column of names.
    """
    middle = (points[0]["cost"] * points[-1]["cost"]) ** 0.5
    placed: list[Row] = []
    for point in sorted(points, key=lambda p: -p["score"]):
        above = [p["score"] for p in placed if 0.5 < p["cost"] / point["cost"] < 2]
        level = min([point["score"], *(score - height for score in above)])
        placed.append({**point, "score": level, "left": point["cost"] > middle})
    return placed


def _names(names: Sequence[Row], x: alt.X, y: alt.Y) -> list[alt.Chart]:
    found = []
    for side in (True, False):
        own = alt.Chart(values([name for name in names if name["left"] == side]))
        look: dict[str, Any] = {
            "align": "right" if side else "left",
            "dx": -12 if side else 12,
            "fontWeight": 600,
        }
        halo = own.mark_text(stroke="var(--paper)", strokeWidth=5, strokeJoin="round", **look)
        found += [layer.encode(x=x, y=y, text="name:N") for layer in (halo, own.mark_text(**look))]
    return found
