"""What happened over the training: terms, rate, speed, probes; and the health of the embeddings."""

import functools
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

import numpy as np
from markupsafe import Markup

from ssl_kd.report import blocks
from ssl_kd.report.charts import Point, describe, lines
from ssl_kd.report.log import Curves
from ssl_kd.report.page import Section
from ssl_kd.report.reported import Reported
from ssl_kd.report.scores import probed
from ssl_kd.report.theme import Style

MANY = 8  # curves, more of which one chart does not show

# How to read each figure that a line's "health" may carry, by the word before its first "/".
HEALTH = {
    "rank": (
        "Effective rank",
        "How many directions the embedding uses, up to its width. Falling towards 1 is collapse.",
    ),
    "spread": (
        "Spread",
        "Mean standard deviation of the columns of the unit rows, times the root of their number. "
        "1 fills the sphere; 0 says the same of every image.",
    ),
    "alignment": (
        "Alignment",
        "Squared distance between two views of one image. Lower: the views are told apart less. "
        "Read it with uniformity: collapse makes it 0 too.",
    ),
    "uniformity": (
        "Uniformity",
        "How evenly the embeddings fill the sphere. Lower is more even, down to about -4; 0 is collapse.",
    ),
    "agreement": (
        "Agreement",
        "Share of images whose nearest other image is the same for both peers. "
        "1: they see the batch alike, and have little left to teach each other.",
    ),
    "cka": (
        "CKA",
        "How alike two peers' embeddings are, whatever their rotation and scale: 1 equal, 0 unrelated.",
    ),
    "cosine": (
        "Cosine of gradients",
        "Does what a teacher asks go the way of its student's own task? Below 0 it pulls "
        "against it; above 0 it does not, which is no proof that it helps.",
    ),
}


def training(run: Reported) -> Section:
    """Terms raw and weighted, the rate, the speed, and the probes that were made on the way."""
    lead = (
        "What was minimised, epoch by epoch. Raw terms say how well each is met; weighted ones say how much "
        "each counts in the sum. Long runs are shown as means of neighbouring steps."
    )
    if not run.log.count:
        return Section("Curves", lead, [blocks.note("This run has no metrics.jsonl.")])
    raw, weighted = run.log.curves("terms"), run.log.curves("weighted")
    charts = [_few(f"{group}, raw.", own, run) for group, own in grouped(raw).items()]
    if len(weighted) > MANY:
        sums = {group: _together(list(own.values())) for group, own in grouped(weighted).items()}
        charts.append(_chart("All terms, weighted.", sums, run, note="The sum over all peers and edges."))
    else:
        charts.append(_chart("All terms, weighted.", weighted, run))
    for key, title, form in (
        ("rate", "Learning rate.", "~g"),
        ("images_per_second", "Images per second.", "~s"),
    ):
        if found := run.log.curves(key):
            charts.append(_chart(title, found, run, form))
    parts = [blocks.charts(charts, narrow=True)]
    probes = _probes(run)
    if probes:
        parts += [
            blocks.heading("Probes during the training"),
            blocks.note(f"Accuracy on {run.scored_on}, which chose nothing."),
            blocks.charts(probes, narrow=True),
        ]
    return Section("Curves", lead, parts)


def health(run: Reported) -> Section:
    """What the embeddings looked like from inside, and what was said of them."""
    lead = (
        "Figures of the embeddings during the training, without labels: whether a network collapses, and "
        "whether the peers' lessons help."
    )
    groups = grouped(run.log.curves("health"))
    after = _afterwards(probed(run).get("health") or {})
    alarms = [f"{text[:1].upper()}{text[1:]}." for text in run.log.alarms]
    if not groups:
        return Section("Health", lead, after or [blocks.note("This run kept no figures of its health.")])
    said = f"{len(alarms)} {'alarm was' if len(alarms) == 1 else 'alarms were'} raised." if alarms else ""
    parts = [blocks.callout(said or "No alarm was raised.", alarm=bool(alarms))]
    parts += [blocks.bullets(alarms)] if alarms else []
    charts = []
    order = [*HEALTH, *(group for group in groups if group not in HEALTH)]
    for group in (g for g in order if g in groups):
        title, reading = HEALTH.get(group, (group, ""))
        charts.append(_few(f"{title}.", groups[group], run, note=reading, zero=group == "cosine"))
    return Section("Health", lead, [*parts, blocks.charts(charts, narrow=True), *after])


def _afterwards(found: Mapping[str, Any]) -> list[Markup]:
    """What eval/health.json says of each embedding and of each pair of them, as a table."""
    rows: dict[str, dict[str, float]] = {}
    for name, value in (found.get("health") or {}).items():
        figure, _, of = name.partition("/")
        rows.setdefault(of.replace(",", ", "), {})[figure] = value
    figures = list(dict.fromkeys(figure for own in rows.values() for figure in own))
    if not figures:
        return []
    body = [[of, *(f"{own[f]:.3g}" if f in own else "" for f in figures)] for of, own in rows.items()]
    head = ["embedding", *(HEALTH.get(figure, (figure, ""))[0] for figure in figures)]
    caption = f"The same figures of the checkpoint of step {found.get('step', '?')}, in eval mode"
    return [blocks.heading("After the training"), blocks.table(head, body, caption)]


def _few(title: str, named: Curves, run: Reported, note: str = "", **options: Any) -> blocks.Chart:
    """A chart; instead of more than MANY curves it shows those of embeddings, or means over edges."""
    if len(named) <= MANY:
        return _chart(title, named, run, note=note, **options)
    if embeddings := {name: points for name, points in named.items() if name.partition("/")[2] in run.names}:
        others = f"{len(named) - len(embeddings)} more curves, of other outputs, are in metrics.jsonl."
        return _chart(title, embeddings, run, note=f"{note} {others}".strip(), **options)
    alike: dict[str, list[np.ndarray]] = {}
    for name, points in named.items():
        alike.setdefault(f"{name.rpartition('/')[0]}/{_of(name)}" if "<-" in name else name, []).append(
            points
        )
    means = {name: _together(own) / (1, len(own)) for name, own in alike.items()}
    if len(means) < len(named):
        note = f"{note} Means over the edges of each peer, {len(named)} in all.".strip()
    return _chart(title, means, run, note=note, **options)


def _together(curves: Sequence[np.ndarray]) -> np.ndarray:
    """The sum of curves, where all of them have a point."""
    shared = functools.reduce(np.intersect1d, (points[:, 0] for points in curves))
    values = [points[np.unique(points[:, 0], return_index=True)[1]] for points in curves]
    kept = [own[np.isin(own[:, 0], shared), 1] for own in values]
    return np.column_stack([shared, np.sum(kept, axis=0)])


def grouped(named: Curves) -> dict[str, Curves]:
    """Curves by the word before the first "/" of their names."""
    groups: dict[str, Curves] = {}
    for name, points in named.items():
        groups.setdefault(name.partition("/")[0], {})[name] = points
    return groups


def _probes(run: Reported) -> list[blocks.Chart]:
    found: dict[str, dict[str, list[Point]]] = {}
    for epoch, peers in run.log.probes:
        for peer, scores in peers.items():
            knn = {f"kNN {k}.": value for k, value in (scores.get("knn") or {}).items() if k == "20"}
            knn = knn or {f"kNN {k}.": value for k, value in list((scores.get("knn") or {}).items())[-1:]}
            singles = {"Linear probe.": scores.get("linear"), "Top-1.": scores.get("top1")}
            for title, value in {**knn, **singles}.items():
                if value is not None:
                    own = found.setdefault(title, {}).setdefault(peer, [])
                    own.append((epoch, 100 * value))
    return [_chart(title, own, run, ".3~g", "%") for title, own in found.items()]


def _chart(
    title: str,
    named: Mapping[str, Sequence[Point] | np.ndarray],
    run: Reported,
    form: str = ".4~g",
    y: str = "",
    note: str = "",
    zero: bool = False,
) -> blocks.Chart:
    group = {name.partition("/")[0] for name in named if "/" in name}
    own = {_short(name, len(group) == 1): points for name, points in named.items()}
    styles = [
        Style(name, look.colour, look.dash) for name, look in zip(own, looks(named, run.names), strict=True)
    ]
    first = next(iter(own), "")
    alone = len(own) == 1 and (first in ("rate", "images per second") or title.startswith(f"{first},"))
    spec = lines(own, styles, y=y, form=form, zero=zero)
    return blocks.Chart(title, spec, describe(own, title.rstrip(".")), note, () if alone else styles)


def looks(names: Iterable[str], peers: Sequence[str]) -> list[Style]:
    """A peer's curves have its colour; several of one peer have dashes of their own. Others come after."""
    found: list[Style] = []
    names = list(names)
    others = len(peers) if any(_of(name) in peers for name in names) else 0
    for name in names:
        own = _of(name)
        colour = peers.index(own) if own in peers else others
        others += own not in peers
        found.append(Style(name, colour, sum(style.colour == colour for style in found)))
    if all(style.dash == 0 for style in found):
        return [Style(style.name, style.colour, style.colour) for style in found]
    return found


def _of(name: str) -> str:
    """The peer that a curve belongs to: "small" of "nt_xent/small" and of "kl/small<-large"."""
    return name.rpartition("/")[2].partition("<-")[0].partition(".")[0]


def _short(name: str, alone: bool) -> str:
    """A curve's name in a legend; alone: all curves of the chart are of the group that its title names."""
    own = name.partition("/")[2] if alone and "/" in name else name
    return own.replace("<-", " \N{LEFTWARDS ARROW} ").replace(",", ", ")
