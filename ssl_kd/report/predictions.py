"""Which classes each peer mixes up, and where two peers say the same."""

from collections.abc import Mapping
from itertools import combinations

import torch
from markupsafe import Markup
from torch import Tensor

from ssl_kd.probes.health import cka
from ssl_kd.report import blocks
from ssl_kd.report.class_charts import LABELLED, agreement, confusion
from ssl_kd.report.embeddings import NEIGHBOURS, Embedded, Seen, spaced
from ssl_kd.report.page import Section
from ssl_kd.report.reported import Reported
from ssl_kd.report.theme import Style

PAIRS = 15  # of classes that are mixed up most, where a matrix would be too large
COMPARED = 2000  # images that CKA is taken over
COLOURS = (2, 0, 1, 3, 4)
OUTCOMES = ("both right", "only the first", "only the second", "both wrong, alike", "both wrong, apart")


def sections(run: Reported, seen: Seen, embedded: Mapping[str, Embedded]) -> list[Section]:
    why = run.unscored
    if why or not embedded:
        sentence = f"Not shown: {why}." if why else "No peer of this run embeds images."
        titles = ["Confusion"] + (["Agreement"] if len(run.encoders) > 1 else [])
        return [Section(title, sentence, []) for title in titles]
    temperature = run.config.probe.temperature
    said = {name: own.predicted(temperature) for name, own in embedded.items()}
    found = [_confusion(run, said)]
    if len(said) > 1:
        found.append(_agreement(run, said, embedded))
    return found


def counts(predicted: Tensor, labels: Tensor, classes: int) -> Tensor:
    """Images by true (row) and predicted class, int64 (K, K)."""
    return torch.bincount(labels * classes + predicted, minlength=classes**2).view(classes, classes)


def outcomes(a: Tensor, b: Tensor, labels: Tensor) -> list[float]:
    """Shares of the images (M,) for which the classes that two peers say come out as in OUTCOMES."""
    right_a, right_b = a == labels, b == labels
    kinds = [
        right_a & right_b,
        right_a & ~right_b,
        ~right_a & right_b,
        ~right_a & ~right_b & (a == b),
        ~right_a & ~right_b & (a != b),
    ]
    return [float(kind.double().mean()) for kind in kinds]


def _confusion(run: Reported, said: Mapping[str, tuple[Tensor, Tensor]]) -> Section:
    classes = run.classes
    small = len(classes) <= LABELLED
    how = (
        "A row for each true class, a column for each predicted one; numbers are per cent of the row."
        if small
        else f"The {PAIRS} pairs of classes that are mixed up most."
    )
    lead = f"What {NEIGHBOURS} nearest train images vote for, against the truth, on {run.scored_on}. {how}"
    charts, parts = [], []
    for name, (predicted, labels) in said.items():
        matrix = counts(predicted, labels, len(classes))
        right = 100 * float((predicted == labels).double().mean())
        if small:
            alt = f"Confusion matrix of {name}, {right:.1f} per cent right. {_worst(matrix, classes)}"
            spec = confusion(matrix.tolist(), classes)
            note = f"{right:.1f} % right. {_worst(matrix, classes)}"
            charts.append(blocks.Chart(f"{name}.", spec, alt, note, square=True))
        else:
            parts += [blocks.heading(f"{name}: {right:.1f} % right"), _pairs(name, matrix, classes)]
    return Section("Confusion", lead, [blocks.charts(charts, narrow=True)] if small else parts)


def _mixed(matrix: Tensor) -> list[tuple[float, int, int, int]]:
    """(share of the true class, images, true, predicted), worst first."""
    shares = (matrix / matrix.sum(1, keepdim=True).clamp_min(1)).tolist()
    wrong = matrix.clone().fill_diagonal_(0).nonzero().tolist()
    counts = matrix.tolist()
    found = [(shares[i][j], counts[i][j], i, j) for i, j in wrong]
    return sorted(found, key=lambda entry: (-entry[0], -entry[1], entry[2:]))


def _worst(matrix: Tensor, classes: tuple[str, ...]) -> str:
    found = _mixed(matrix)
    if not found:
        return "Nothing is mixed up."
    share, _, true, predicted = found[0]
    return f"Most often mixed up: {classes[true]} taken for {classes[predicted]} ({100 * share:.0f} %)."


def _pairs(name: str, matrix: Tensor, classes: tuple[str, ...]) -> Markup:
    rows = [
        [classes[i], classes[j], f"{100 * share:.1f}", str(count)]
        for share, count, i, j in _mixed(matrix)[:PAIRS]
    ]
    head = ["true class", "taken for", "% of the class", "images"]
    return blocks.table(head, rows, f"The classes that {name} mixes up most", words=(1,))


def _agreement(
    run: Reported, said: Mapping[str, tuple[Tensor, Tensor]], embedded: Mapping[str, Embedded]
) -> Section:
    lead = (
        "Each image by what two peers' neighbours vote for. Peers that are right on different images "
        "can still teach each other, and are better together than alone; CKA says how alike their "
        "embeddings are."
    )
    bars, rows = [], []
    for a, b in combinations(said, 2):
        shares = outcomes(said[a][0], said[b][0], said[a][1])
        pair = f"{a}, {b}"
        bars += [
            {"pair": pair, "outcome": outcome, "share": 100 * share}
            for outcome, share in zip(OUTCOMES, shares, strict=True)
        ]
        same = shares[0] + shares[3]
        either = sum(shares[:3])
        alike = cka(_some(embedded[a]), _some(embedded[b]))
        rows.append([pair, *(f"{100 * s:.1f}" for s in (same, either, *shares)), f"{alike:.2f}"])
    legend = [Style(outcome, i, 0) for outcome, i in zip(OUTCOMES, COLOURS, strict=True)]
    alt = "; ".join(f"{row[0]}: the same on {row[1]} per cent of the images" for row in rows)
    chart = blocks.Chart("Right and wrong, together.", agreement(bars, legend), alt, "", legend, lines=False)
    head = ["pair", "same class", "either right", *OUTCOMES, "CKA"]
    table = blocks.table(head, rows, f"Shares of the images, %, on {run.scored_on}; CKA from 0 to 1")
    return Section("Agreement", lead, [blocks.charts([chart]), table])


def _some(own: Embedded) -> Tensor:
    rows = own.features.test
    return rows[torch.from_numpy(spaced(len(rows), COMPARED))]
