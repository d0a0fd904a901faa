"""Charts of a comparison: differences with their intervals, the runs one by one, their curves."""

import copy
import math
from collections.abc import Mapping, Sequence
from functools import lru_cache
from typing import TYPE_CHECKING, Any

import altair as alt

from ssl_kd.report import theme
from ssl_kd.report.charts import Point, Row, finish, palette, values

if TYPE_CHECKING:
    from ssl_kd.compare import Difference

SIGNED = alt.Axis(labelExpr="datum.value == 0 ? '0' : format(datum.value, '+.3~f')")
BAND = 13  # pixels of the band of what would be missed


def reach(differences: Sequence["Difference"]) -> float:
    """Half the width, in points, of an axis that holds all of the differences."""
    ends = [abs(v) for d in differences for v in (*d.values, d.mean, d.low, d.high) if not math.isnan(v)]
    bands = [d.detectable for d in differences if not math.isnan(d.detectable)]
    return 100 * max([*ends, *(min(b, 1.5 * max(ends, default=1)) for b in bands), 0.005]) * 1.08


def forest(
    differences: Sequence["Difference"], names: Sequence[str], extent: float, number: int
) -> dict[str, Any]:
    """A row for each score of one peer: interval and mean, the seeds, 0, and what would have been missed.

    names: of the scores, in the order of the differences. extent: see `reach`. number: of the series, another
    for each chart of a page.
    """
    rows = [_row(d, name, extent) for d, name in zip(differences, names, strict=True)]
    seeds = [
        {"score": name, "value": 100 * value, "seed": seed}
        for d, name in zip(differences, names, strict=True)
        for value, seed in zip(d.values, d.seeds, strict=True)
    ]
    bounded = [row for row in rows if row["low"] is not None]
    spec = copy.deepcopy(_forest(tuple(names), extent, theme.series(number)))
    for layer in spec["layer"]:
        layer["data"]["name"] += f"-{number}"  # a plot of several charts has all their data
    data = {"bounded": bounded, "zero": [{"zero": 0}], "seeds": seeds, "rows": rows}
    spec["datasets"] = {f"{name}-{number}": values for name, values in data.items()}
    return spec


@lru_cache(maxsize=64)
def _forest(names: tuple[str, ...], extent: float, colour: str) -> dict[str, Any]:
    """Without its data: altair takes 50 ms for a chart, and a comparison of many groups has many alike."""
    bounded, zero, seeds, rows = map(alt.NamedData, ("bounded", "zero", "seeds", "rows"))
    y = alt.Y("score:N", sort=None, title=None, scale=alt.Scale(domain=list(names)))
    scale = alt.Scale(domain=[-extent, extent], nice=False)
    x = alt.X("mean:Q", scale=scale, title="difference, points", axis=SIGNED)
    low, value = (
        alt.X(f"{f}:Q", scale=scale, title="difference, points", axis=SIGNED) for f in ("low", "value")
    )
    tooltip = [alt.Tooltip("score:N", title=" "), "difference:N", "interval:N", "detectable:N", "seeds:N"]
    bands = alt.Chart(bounded).mark_bar(color="var(--rule)", height=BAND, cornerRadius=3, opacity=0.7)
    intervals = alt.Chart(bounded).mark_rule(color=colour, strokeWidth=3, strokeCap="round")
    means = alt.Chart(rows).mark_point(filled=True, size=110, opacity=1, color=colour)
    dots = alt.Chart(seeds).mark_point(size=26, opacity=0.9, color=colour, fill="var(--paper)", strokeWidth=1)
    chart = alt.layer(
        bands.encode(
            x=alt.X("left:Q", scale=scale, title="difference, points", axis=SIGNED), x2="right:Q", y=y
        ),
        alt.Chart(zero).mark_rule(color="var(--text)").encode(x=alt.X("zero:Q", scale=scale, axis=SIGNED)),
        intervals.encode(x=low, x2="high:Q", y=y),
        dots.encode(x=value, y=y, tooltip=["seed:Q", alt.Tooltip("value:Q", title="points", format="+.2f")]),
        means.encode(x=x, y=y, tooltip=tooltip),
    )
    return finish(chart, forest_height(len(names)))


def forest_height(rows: int) -> int:
    return 30 * rows


def runs(accuracies: Mapping[str, Sequence[tuple[int, float]]]) -> dict[str, Any]:
    """A dot for each run, of label -> (seed, accuracy in per cent), and a line at their mean."""
    names = list(accuracies)
    rows = [{"name": n, "seed": s, "accuracy": a} for n, own in accuracies.items() for s, a in own]
    means = [{"name": n, "mean": sum(a for _, a in own) / len(own)} for n, own in accuracies.items() if own]
    y = alt.Y("name:N", sort=None, title=None, scale=alt.Scale(domain=names), axis=alt.Axis(labelLimit=130))
    scale = alt.Scale(zero=False, padding=10)
    colour = alt.Color("name:N", scale=palette(theme.styles(names)), legend=None)
    dots = alt.Chart(values(rows)).mark_point(filled=True, size=55, opacity=0.75)
    ticks = alt.Chart(values(means)).mark_tick(thickness=2, size=22, color="var(--text)")
    tooltip = ["name:N", "seed:Q", alt.Tooltip("accuracy:Q", title="%", format=".2f")]
    layers = alt.layer(
        ticks.encode(x=alt.X("mean:Q", scale=scale, title="accuracy, %"), y=y),
        dots.encode(
            x=alt.X("accuracy:Q", scale=scale, title="accuracy, %"), y=y, color=colour, tooltip=tooltip
        ),
    )
    return finish(layers, 30 * len(names))


def ranges(curves: Mapping[str, Sequence[Sequence[Point]]]) -> dict[str, Any]:
    """The mean curve of each label over its runs, and a band from the lowest to the highest of them.

    curves: label -> a curve (epoch, per cent) for each run; epochs that one of them lacks are left out.
    """
    rows = [row for name, own in curves.items() for row in _spread(name, own)]
    names = list(curves)
    colour = alt.Color("name:N", scale=palette(theme.styles(names)), legend=None)
    x = alt.X("epoch:Q", axis=alt.Axis(grid=False), scale=alt.Scale(nice=False, padding=7))
    base = alt.Chart(values(rows)).encode(x=x, color=colour)
    scale = alt.Scale(zero=False)
    tooltip = ["name:N", "epoch:Q", *(alt.Tooltip(f"{k}:Q", format=".2f") for k in ("low", "mean", "high"))]
    band = base.mark_area(opacity=0.18).encode(y=alt.Y("low:Q", scale=scale, title="%"), y2="high:Q")
    y = alt.Y("mean:Q", scale=scale, title="%")
    points = base.mark_point(filled=True, size=36, opacity=1).encode(y=y, tooltip=tooltip)
    return finish(alt.layer(band, base.mark_line().encode(y=y), points), 210)


def _row(d: "Difference", name: str, extent: float) -> Row:
    bounded = not math.isnan(d.low)
    band = min(100 * d.detectable, extent) if bounded else 0.0
    return {
        "score": name,
        "mean": 100 * d.mean,
        "low": max(100 * d.low, -extent) if bounded else None,
        "high": min(100 * d.high, extent) if bounded else None,
        "left": -band,
        "right": band,
        "difference": f"{100 * d.mean:+.2f} points",
        "interval": f"{100 * d.low:+.2f} to {100 * d.high:+.2f}" if bounded else "none",
        "detectable": f"{100 * d.detectable:.2f} or more" if bounded else "unknown",
        "seeds": str(len(d.seeds)),
    }


def _spread(name: str, runs: Sequence[Sequence[Point]]) -> list[Row]:
    by_epoch: dict[float, list[float]] = {}
    for curve in runs:
        for epoch, value in curve:
            by_epoch.setdefault(epoch, []).append(value)
    return [
        {"name": name, "epoch": epoch, "low": min(v), "high": max(v), "mean": sum(v) / len(v)}
        for epoch, v in sorted(by_epoch.items())
        if len(v) == len(runs)
    ]
