"""Charts of images and classes: a map of embeddings, a confusion matrix, where two peers agree."""

from collections.abc import Sequence
from typing import Any

import altair as alt

from ssl_kd.report import theme
from ssl_kd.report.charts import Row, finish, palette, values

LABELLED = 20  # classes that a map or a matrix can name
GROUND = alt.ViewBackground(fill="var(--panel)", cornerRadius=8, stroke=None)
SHAPES = ("circle", "triangle-up")  # of the first ten classes, and of the next ten


def embedding_map(points: Sequence[Row], classes: Sequence[str], extent: float) -> dict[str, Any]:
    """Points {"x", "y", "class", "label" (its number, -1 for none), "index", "tile"} on a square.

    classes: the names to write at the middle of their points; none of many. extent: half a side.
    """
    named = 0 < len(classes) <= LABELLED
    numbers = sorted({p["label"] for p in points})
    colours = [theme.category(n) if n >= 0 else "var(--accent)" for n in numbers]
    shapes = [SHAPES[n // 10] if named and n >= 0 else SHAPES[0] for n in numbers]
    square = alt.Scale(domain=[-extent, extent], nice=False)
    x, y = alt.X("x:Q", axis=None, scale=square), alt.Y("y:Q", axis=None, scale=square)
    dots = (
        alt.Chart(values(points))
        .mark_point(filled=True, size=18 if len(points) > 800 else 34, opacity=0.8, aria=False)
        .encode(
            x=x,
            y=y,
            color=alt.Color("label:N", scale=alt.Scale(domain=numbers, range=colours), legend=None),
            shape=alt.Shape("label:N", scale=alt.Scale(domain=numbers, range=shapes), legend=None),
            tooltip=["class:N", "index:Q", "tile:Q"],
        )
    )
    if not named:
        return finish(alt.layer(dots, view=GROUND), None)
    middles = [_middle([p for p in points if p["label"] == n], classes[n]) for n in numbers if n >= 0]
    _apart(middles, extent)
    names = alt.Chart(values(middles)).encode(x=x, y=y, text="class:N")
    halo = names.mark_text(fontWeight=600, stroke="var(--panel)", strokeWidth=4, strokeJoin="round")
    return finish(alt.layer(dots, halo, names.mark_text(fontWeight=600), view=GROUND), None)


def _middle(points: Sequence[Row], name: str) -> Row:
    """Where a class is: the median of its points."""
    middle = {axis: sorted(p[axis] for p in points)[len(points) // 2] for axis in "xy"}
    return {**middle, "class": name}


def _apart(names: Sequence[Row], extent: float) -> None:
    """Moves names that lie over each other up and down, a little at a time, until none does."""
    height, letter = 0.085 * extent, 0.042 * extent  # on the narrowest screens
    for _ in range(300):
        moved = False
        for i, a in enumerate(names):
            for b in names[:i]:
                wide = letter * (len(a["class"]) + len(b["class"])) / 2
                gap = a["y"] - b["y"]
                if abs(a["x"] - b["x"]) < wide and abs(gap) < height:
                    push = (height - abs(gap)) / 2 + 1e-6
                    a["y"] += push if gap >= 0 else -push
                    b["y"] -= push if gap >= 0 else -push
                    moved = True
        if not moved:
            return


def confusion(counts: Sequence[Sequence[int]], classes: Sequence[str]) -> dict[str, Any]:
    """A row for every true class, normalised, a column for what was predicted.

    counts: [true][predicted]. Numbers are per cent of the row; nothing is written for a zero.
    """
    rows, angle = [], -45 if max(map(len, classes)) > 3 else 0
    for true, row in zip(classes, counts, strict=True):
        total = max(1, sum(row))
        for predicted, count in zip(classes, row, strict=True):
            share = count / total
            text = f"{100 * share:.0f}" if round(100 * share) else ""
            rows.append({"true": true, "predicted": predicted, "share": share, "count": count, "text": text})
    base = alt.Chart(values(rows)).encode(
        x=alt.X(
            "predicted:N",
            sort=None,
            scale=alt.Scale(domain=list(classes), paddingInner=0.05),
            axis=alt.Axis(title="predicted", labelAngle=angle, domain=False, ticks=False, labelLimit=90),
        ),
        y=alt.Y(
            "true:N",
            sort=None,
            scale=alt.Scale(domain=list(classes), paddingInner=0.05),
            axis=alt.Axis(title="true", labelLimit=90),
        ),
    )
    cells = base.mark_rect(color="var(--accent)", cornerRadius=2).encode(
        fillOpacity=alt.FillOpacity(
            "share:Q", scale=alt.Scale(type="sqrt", domain=[0, 1], range=[0.04, 0.55]), legend=None
        ),
        tooltip=[
            "true:N",
            "predicted:N",
            alt.Tooltip("share:Q", format=".1%"),
            alt.Tooltip("count:Q", title="images"),
        ],
    )
    size = alt.ExprRef(f"width < {34 * len(classes)} ? 8 : 11")
    return finish(cells + base.mark_text(fontSize=size).encode(text="text:N"), None)


def agreement(rows: Sequence[Row], styles: Sequence[theme.Style]) -> dict[str, Any]:
    """A bar for each pair of peers, of {"pair", "outcome", "share" in per cent}; styles: of the outcomes."""
    stacked = []
    for pair in dict.fromkeys(row["pair"] for row in rows):
        start = 0.0
        for row in (r for r in rows if r["pair"] == pair):
            end = start + row["share"]
            text = f"{row['share']:.0f}" if row["share"] >= 5 else ""
            stacked.append({**row, "start": start, "end": end, "middle": (start + end) / 2, "text": text})
            start = end
    base = alt.Chart(values(stacked)).encode(y=alt.Y("pair:N", title=None, sort=None))
    bars = base.mark_bar(opacity=0.4, height=26).encode(
        x=alt.X("start:Q", title="images, %", scale=alt.Scale(domain=[0, 100]), axis=alt.Axis(grid=False)),
        x2="end:Q",
        color=alt.Color("outcome:N", scale=palette(styles), legend=None),
        tooltip=["pair:N", "outcome:N", alt.Tooltip("share:Q", title="%", format=".1f")],
    )
    numbers = base.mark_text().encode(x="middle:Q", text="text:N")
    pairs = len({row["pair"] for row in rows})
    return finish(bars + numbers, 44 * pairs)
