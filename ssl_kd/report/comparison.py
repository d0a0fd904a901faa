"""The report of a comparison: did the peers help, how sure is that, and at what cost."""

import math
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import altair as alt
from markupsafe import Markup

from ssl_kd.compare import Comparison, Difference, conclusion, label, points, scored, scores
from ssl_kd.compare.words import HEADLINES
from ssl_kd.labelled import scored_on
from ssl_kd.report import blocks, options, theme
from ssl_kd.report.blocks import Chart
from ssl_kd.report.charts import Point, unchecked, vega_lite
from ssl_kd.report.comparison_charts import forest, ranges, reach, runs
from ssl_kd.report.figures import short
from ssl_kd.report.page import Page, Section, write
from ssl_kd.saved import read_lines
from ssl_kd.system.paths import expand
from ssl_kd.system.text import printable_values
from ssl_kd.system.writing import write_whole

CHARTS = 6  # scores whose runs are drawn one by one
WIDTH = 460  # pixels of the plot that stands alone
PANELS = 12  # peers above which it has a row for each of them, in a chart for each of HEADLINES
READING = (
    "The thick line is the 95 % interval of the mean, the large dot the mean, each small ring one seed. A "
    "true difference inside the pale band would probably have been missed with so few seeds."
)

Peer = tuple[str, str, str]  # group, peer, peer of the base


@unchecked()
def comparison_page(comparison: Comparison, folder: str | Path) -> Path:
    """Writes `folder`/comparison.html and comparison.svg, the differences alone; returns the page's path."""
    folder = expand(folder)
    base = comparison.groups[0].name
    others = " and ".join(group.name for group in comparison.groups[1:])
    runs_ = sum(len(group.runs) for group in comparison.groups)
    forests = _forests(comparison)
    found = [
        _answer(comparison),
        _differences(comparison, forests),
        _runs(comparison),
        *_curves(comparison),
        _cost(comparison),
        options.section(comparison.groups),
    ]
    title = f"{others} against {base}"
    spans = [d for d in comparison.differences if not math.isnan(d.low)]
    outside = sum(d.leaves_out_zero for d in spans)
    lead = (
        f"Did it help? {runs_} runs, paired by seed: {outside} of {len(spans)} differences have an interval "
        "that leaves out 0."
        if spans
        else f"Did it help? {runs_} runs are too few for an interval."
    )
    page = write(Page(title, "Comparison of runs", lead, found), folder / "comparison.html")
    write_whole(folder / "comparison.svg", plot(comparison, forests), inside=folder)
    return page


def plot(comparison: Comparison, forests: Mapping[Peer, dict[str, Any]]) -> str:
    """The differences as one SVG that stands alone, in light colours. forests: the chart of each peer."""
    import vl_convert

    drawn = {_title(peer): chart for peer, chart in forests.items()}
    parts: list[Any] = []
    data: dict[str, Any] = {}
    for name, chart in (drawn if len(drawn) <= PANELS else _by_score(comparison)).items():
        data |= chart.get("datasets", {})
        own = {key: value for key, value in chart.items() if key not in ("$schema", "datasets", "autosize")}
        parts.append({**own, "width": WIDTH, "title": name})
    title = f"Difference from {comparison.groups[0].name}, with 95 % intervals over the seeds"
    spec: dict[str, Any] = {"vconcat": parts, "datasets": data, "$schema": alt.SCHEMA_URL}
    spec["title"] = {"text": title, "fontSize": 15, "offset": 16}
    spec["config"] = {**theme.vega(), "background": "var(--paper)", "padding": 12}
    return vl_convert.vegalite_to_svg(printable_values(theme.plain(spec)), vl_version=vega_lite())


def _by_score(comparison: Comparison) -> dict[str, dict[str, Any]]:
    """A chart of all peers for each of HEADLINES that there is; else for the first score."""
    found = list(dict.fromkeys(d.score for d in comparison.differences))
    extent, charts = reach(comparison.differences), {}
    for i, score in enumerate([score for score in HEADLINES if score in found] or found[:1]):
        own = [d for d in comparison.differences if d.score == score]
        names = [_title((d.group, d.peer, d.base_peer)) for d in own]
        charts[label(score)] = forest(own, names, extent, i + 1)
    return charts


def _answer(comparison: Comparison) -> Section:
    lead = (
        "The differences in words, and what has to be known beside them. A point is one per cent of the test "
        "images."
    )
    parts: list[Markup] = []
    items: list[str] = []
    for line in [*conclusion(comparison), ""]:
        if line.startswith(" "):
            items.append(f"{line.strip()}.")
            continue
        parts += [blocks.bullets(items)] if items else []
        parts += [blocks.heading(line.rstrip(":"))] if line else []
        items = []
    notes = [blocks.heading("To keep in mind"), blocks.bullets(comparison.notes)] if comparison.notes else []
    return Section("Answer", lead, [*parts, *notes])


def _forests(comparison: Comparison) -> dict[Peer, dict[str, Any]]:
    """The chart of each peer."""
    extent = reach(comparison.differences)
    return {
        peer: forest(own, [label(d.score) for d in own], extent, i + 1)
        for i, (peer, own) in enumerate(_by_peer(comparison.differences).items())
    }


def _differences(comparison: Comparison, forests: Mapping[Peer, dict[str, Any]]) -> Section:
    lead = (
        "To the right of the line at 0 the group is better than the base, to the left it is worse. " + READING
    )
    head = ["score", "base, %", "here, %", "difference", "95 % interval", "detectable", "seeds"]
    parts: list[Markup] = []
    for peer, own in _by_peer(comparison.differences).items():
        names = [label(d.score) for d in own]
        said = "; ".join(f"{name} {points(d.mean)} points" for name, d in zip(names, own, strict=True))
        rows = [[name, *_cells(d)] for name, d in zip(names, own, strict=True)]
        parts += [
            blocks.heading(_title(peer)),
            blocks.charts([Chart("Differences, points.", forests[peer], said)]),
        ]
        parts.append(blocks.table(head, rows, f"{_title(peer)}: differences in points"))
    note = blocks.note(
        "Detectable: the smallest true difference that so many seeds with this spread would have found four "
        "times in five. The intervals speak of other seeds, not of other images."
    )
    return Section("Differences", lead, [*parts, note])


def _runs(comparison: Comparison) -> Section:
    lead = "Every run by itself: a dot for each seed, a line at the mean."
    by_score: dict[str, dict[str, list[tuple[int, float]]]] = {}
    for group in comparison.groups:
        for run in group.runs:
            for peer, own in scored(run).items():
                for score, value in own.items():
                    names = by_score.setdefault(score, {})
                    names.setdefault(f"{group.name}, {peer}", []).append((run.seed, 100 * value))
    order = sorted(by_score, key=lambda score: score not in HEADLINES)[:CHARTS]
    on = scored_on(comparison.groups[0].runs[0].config)
    charts = [
        Chart(f"{label(score)}.", runs(by_score[score]), _means(by_score[score]), f"Accuracy on {on}.")
        for score in order
    ]
    return Section("Runs", lead, [blocks.charts(charts, narrow=True)])


def _curves(comparison: Comparison) -> list[Section]:
    """Probes that the runs made while they trained, if they did."""
    found: dict[str, dict[str, list[list[Point]]]] = {}
    for group in comparison.groups:
        for run in group.runs:
            for score, peers in _probed(run.folder).items():
                for peer, curve in peers.items():
                    found.setdefault(score, {}).setdefault(f"{group.name}, {peer}", []).append(curve)
    if not found:
        return []
    lead = "Probes during the training: the mean over the seeds, and a band from the lowest to the highest."
    charts = []
    for score, curves in found.items():
        ends = {name: [(0, own[-1][1]) for own in runs_ if own] for name, runs_ in curves.items()}
        charts.append(
            Chart(f"{label(score)}.", ranges(curves), _means(ends), "", theme.styles(curves), lines=False)
        )
    return [Section("Curves", lead, [blocks.charts(charts, narrow=True)])]


def _cost(comparison: Comparison) -> Section:
    lead = (
        "A fair comparison is one at equal epochs or at equal compute, and says which. Compute counts the "
        "multiply-adds of a whole training, forward and backward, of all peers."
    )
    base = comparison.groups[0]
    rows = []
    for group in comparison.groups:
        ratio = group.compute / base.compute
        seconds = [run.seconds for run in group.runs if not math.isnan(run.seconds)]
        minutes = f"{sum(seconds) / len(seconds) / 60:.1f}" if seconds else ""
        compute = ["unknown", ""] if math.isnan(ratio) else [short(group.compute), f"{ratio:.2f}"]
        seeds = ", ".join(str(run.seed) for run in group.runs)
        peers = ", ".join(map(str, group.runs[0].config.peers))
        rows.append([group.name, peers, str(group.epochs), *compute, minutes, seeds])
    head = ["group", "peers", "epochs", "multiply-adds", "times the base", "minutes", "seeds"]
    table = blocks.table(head, rows, "Cost of one run of each group; minutes are the mean", words=(1,))
    return Section("Cost", lead, [table])


def _by_peer(differences: Sequence[Difference]) -> dict[Peer, list[Difference]]:
    found: dict[Peer, list[Difference]] = {}
    for d in differences:
        found.setdefault((d.group, d.peer, d.base_peer), []).append(d)
    return found


def _title(peer: Peer) -> str:
    group, name, base = peer
    return f"{group}, {name}" if name == base else f"{group}, {name} against {base}"


def _cells(d: Difference) -> list[str]:
    bounded = not math.isnan(d.low)
    return [
        f"{100 * d.base_mean:.1f}",
        f"{100 * d.group_mean:.1f}",
        points(d.mean),
        f"{points(d.low)} to {points(d.high)}" if bounded else "none",
        points(d.detectable, signed=False) if bounded else "",
        str(len(d.seeds)),
    ]


def _means(named: dict[str, list[tuple[int, float]]]) -> str:
    means = [f"{name} {sum(v for _, v in own) / len(own):.1f} %" for name, own in named.items() if own]
    return "Means: " + "; ".join(means)


def _probed(folder: str) -> dict[str, dict[str, list[Point]]]:
    """HEADLINES of a run's probes: score -> peer -> (epoch, per cent)."""
    found: dict[str, dict[str, list[Point]]] = {}
    for line in read_lines(Path(folder) / "metrics.jsonl"):
        for peer, own in (line.get("peers") or {}).items():
            for score, value in scores(own).items():
                if score in HEADLINES:
                    curve = found.setdefault(score, {}).setdefault(peer, [])
                    curve.append((round(line["epoch"], 6), 100 * value))
    return {score: peers for score, peers in found.items() if any(len(c) > 1 for c in peers.values())}
