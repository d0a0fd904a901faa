"""A comparison as a person reads it: a table, and what it says about each group."""

import math
import statistics
from collections.abc import Sequence

from rich.table import Table
from rich.text import Text

from ssl_kd.compare.differences import Comparison, Difference
from ssl_kd.compare.groups import Group
from ssl_kd.compare.notes import equal_compute
from ssl_kd.compare.scores import scored
from ssl_kd.console import stacked
from ssl_kd.saved import SINGLES

HEADLINES = ("top1", "knn20", "linear")  # named beforehand, so that nobody picks the best of many
CHANCE = 0.05  # of an interval that leaves out 0 where there is no difference


def points(value: float, signed: bool = True) -> str:
    """A fraction as points: `+0.3`; zero has no sign."""
    text = f"{100 * value:+.1f}" if signed else f"{100 * value:.1f}"
    return "0.0" if text in ("+0.0", "-0.0") else text


def label(score: str) -> str:
    """A score as a column's head: knn20 is `kNN 20`."""
    kind, _, amount = score.partition(" ")
    if kind == "few_labels":
        return f"{amount} labels" if amount.endswith("%") else amount
    return f"kNN {score[3:]}" if score.startswith("knn") else SINGLES.get(score, score)


def table(comparison: Comparison, shown: Sequence[str] | None = None) -> Table:
    """A row per group and peer, a column per score: the difference from the base in points and its interval.

    shown: scores, in this order; None shows all. Five fit into 110 columns.
    """
    shown = list(dict.fromkeys(d.score for d in comparison.differences)) if shown is None else shown
    base = comparison.groups[0]
    found = Table(
        title=f"difference from {base.name} in points, and its 95 % interval over the seeds",
        title_justify="left",
        caption=_caption(comparison),
        caption_justify="left",
        show_lines=True,
    )
    for head in ("group, peer", "cost"):
        found.add_column(head)
    for score in shown:
        found.add_column(label(score), justify="right")
    for peer in dict.fromkeys(d.base_peer for d in comparison.differences):
        has = [scored(run).get(peer, {}) for run in base.runs]
        cells = [[of[score] for of in has if score in of] for score in shown]
        means = (f"{points(statistics.fmean(cell), signed=False)} %" if cell else "" for cell in cells)
        found.add_row(stacked(base.name, peer), _cost(base, base, len(base.runs)), *means)
    groups = {group.name: group for group in comparison.groups}
    rows: dict[tuple[str, str, str], dict[str, Difference]] = {}
    for d in comparison.differences:
        rows.setdefault((d.group, d.peer, d.base_peer), {})[d.score] = d
    for (name, peer, base_peer), by_score in rows.items():
        count = max(len(d.seeds) for d in by_score.values())
        cells_ = (_cell(by_score[score]) if score in by_score else "" for score in shown)
        against = [] if base_peer == peer else [f"against {base_peer}"]
        found.add_row(stacked(name, peer, *against), _cost(groups[name], base, count), *cells_)
    return found


def conclusion(comparison: Comparison) -> list[str]:
    """What the numbers say, group by group: HEADLINES in words, and how many intervals leave out 0."""
    lines = []
    base = comparison.groups[0]
    for group in comparison.groups[1:]:
        own = [d for d in comparison.differences if d.group == group.name]
        if not own:
            continue
        lines.append(f"{group.name} against {base.name}, {_terms(group, base)}:")
        named = [d for d in own if d.score in HEADLINES] or own[:1]
        lines += [f"  {_sentence(d)}" for d in named]
        spans = [d for d in own if not math.isnan(d.low)]
        if spans:
            outside = sum(d.leaves_out_zero for d in spans)
            sides = sum(d.low > 0 for d in spans), sum(d.high < 0 for d in spans)
            which = f" ({sides[0]} above it, {sides[1]} below)" if outside else ""
            verb, expected = "leaves" if outside == 1 else "leave", CHANCE * len(spans)
            lines.append(
                f"  {outside} of {len(spans)} intervals {verb} out 0{which}; where nothing differs, about "
                f"{expected:.1f} of {len(spans)} would by chance"
            )
    return lines


def _sentence(d: Difference) -> str:
    what = f"{d.group}, {d.peer}, {label(d.score)}: {points(d.mean)} points"
    if math.isnan(d.low):
        why = (
            "of one pair of runs, which proves nothing"
            if len(d.seeds) == 1
            else "for every seed; no interval"
        )
        return f"{what} {why}"
    what += f" ({points(d.low)} to {points(d.high)})"
    if d.leaves_out_zero:
        return f"{what}: {'better' if d.mean > 0 else 'worse'} than {d.base_peer}"
    seen = points(d.detectable, signed=False)
    return f"{what}: no difference seen; one of {seen} points or more would probably have been"


def _terms(group: Group, base: Group) -> str:
    """At which cost: `10 epochs each, 2.0 times the compute`."""
    epochs = (
        f"{base.epochs} epochs each"
        if group.epochs == base.epochs
        else f"{group.epochs} epochs against {base.epochs}"
    )
    if math.isnan(group.compute / base.compute):
        return f"{epochs}, compute unknown"
    if equal_compute(group, base):
        return f"{epochs}, equal compute"
    return f"{epochs}, {group.compute / base.compute:.2g} times the compute"


def _cost(group: Group, base: Group, count: int) -> Text:
    ratio = group.compute / base.compute
    compute = "compute ?" if math.isnan(ratio) else f"{ratio:.1f} x compute"
    return stacked(f"{group.epochs} epochs", compute, f"{count} seed{'s' if count > 1 else ''}")


def _cell(d: Difference) -> Text:
    if math.isnan(d.low):
        return stacked(points(d.mean), "no interval")
    mark = "• " if d.leaves_out_zero else ""
    return stacked(f"{mark}{points(d.mean)}", f"{points(d.low)} to {points(d.high)}")


def _caption(comparison: Comparison) -> str:
    spans = [d for d in comparison.differences if not math.isnan(d.low)]
    outside = sum(d.leaves_out_zero for d in spans)
    said = f"{comparison.groups[0].name}: mean accuracy. "
    if not spans:
        return said + "No intervals: they need at least two seeds and differences that vary."
    chance = f"by chance about {CHANCE * len(spans):.1f}"
    return said + (
        f"• the interval leaves out 0: {outside} of {len(spans)} ({chance}). "
        "The intervals speak of other seeds, not of other images."
    )
