"""A map of each peer's embedding, and the images under its points."""

from collections.abc import Mapping

import numpy as np
import torch

from ssl_kd.report import blocks, images
from ssl_kd.report.blocks import Chart
from ssl_kd.report.class_charts import LABELLED, embedding_map
from ssl_kd.report.embeddings import Embedded, Seen, project, spaced, turned
from ssl_kd.report.page import Section
from ssl_kd.report.pictures import class_name, image
from ssl_kd.report.reported import Reported

POINTS = 2000
COLUMNS, SIDE = 50, 32  # of the sheet of small images


def maps(run: Reported, seen: Seen, embedded: Mapping[str, Embedded], how: str) -> Section:
    """how: pca or umap."""
    at = spaced(len(seen.asked), POINTS)
    classes = run.classes if len(run.classes) <= LABELLED else ()
    coloured = (
        "a name stands in the middle of its class"
        if classes
        else "colours repeat, since there are many classes"
        if run.classes
        else "there are no labels, so there is one colour"
    )
    lead = (
        f"{len(at):,} {seen.split} images where {how.upper()} puts their embeddings: images that a peer "
        f"finds alike lie near each other; {coloured}. Point at one, or touch it, to see it."
    )
    charts: list[Chart] = []
    first: np.ndarray | None = None
    for name, own in embedded.items():
        rows = own.unit[1][torch.from_numpy(at)]
        points, sentence = project(rows, how)
        points = turned(points, points if first is None else first)
        if first is None:
            first = points
        elif how == "pca":
            sentence += " Turned and mirrored to fit the first map."
        labels = own.features.test_labels[torch.from_numpy(at)].tolist()
        charts.append(_map(run, seen, name, points, labels, at, classes, sentence))
    if not charts:
        return Section("Map", lead, [blocks.note("No peer of this run embeds images.")])
    small = images.sprite([image(seen.asked, int(i)) for i in at], SIDE, COLUMNS)
    sheet = blocks.sheet(small, COLUMNS, -(-len(at) // COLUMNS))
    legend = [blocks.class_legend(classes)] if classes else []
    return Section("Map", lead, [sheet, *legend, blocks.charts(charts, narrow=True)])


def _map(
    run: Reported,
    seen: Seen,
    name: str,
    points: np.ndarray,
    labels: list[int],
    at: np.ndarray,
    classes: tuple[str, ...],
    sentence: str,
) -> Chart:
    low, high = points.min(0), points.max(0)
    scaled = np.round((points - (low + high) / 2) / max((high - low).max() / 2, 1e-12), 4)
    rows = [
        {
            "x": float(x),
            "y": float(y),
            "label": label,
            "class": class_name(run, label) or "no label",
            "index": int(seen.positions[i]),
            "tile": tile,
        }
        for tile, ((x, y), label, i) in enumerate(zip(scaled, labels, at, strict=True))
    ]
    alt = f"A map of {len(rows)} embeddings of {name}"
    return Chart(f"{name}.", embedding_map(rows, classes, 1.06), alt, sentence, square=True)
