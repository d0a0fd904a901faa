"""What the networks see: the views that the recipe makes, and the images that each peer finds alike."""

from collections.abc import Mapping
from typing import Any

import numpy as np
import torch
from torch import Tensor

from ssl_kd.build import build_batches
from ssl_kd.data import Source
from ssl_kd.report import blocks, images
from ssl_kd.report.embeddings import Embedded, Seen, spaced
from ssl_kd.report.page import Section
from ssl_kd.report.reported import Reported

SHOWN = 8  # images of the sheet of views, and neighbours of a query
QUERIES = 10


def views(run: Reported) -> Section:
    """The first images of the first step, as they are and as the recipe shows them."""
    lead = (
        "What the recipe makes of eight images: the originals, and below each of them its views in the first "
        "step. What differs between views is what the networks learn to look past."
    )
    feed, _ = build_batches(run.config, run.data, torch.device("cpu"))
    batch = next(feed(0))
    part: Mapping[str, Any] = batch[0] if isinstance(batch, list) else batch
    found = {key: value for key, value in part.items() if _is_views(value, part)}
    if not found:
        return Section("Views", lead, [blocks.note("The recipe of this run makes no views of images.")])
    at = part["index"][:SHOWN].tolist()
    strips = [_strip("original", [images.tile(image(run.data.train, i)) for i in at], "eight train images")]
    for key, value in found.items():
        kind = key.removeprefix("views").strip("_").replace("_", " ")
        for number, view in enumerate(value[:, :SHOWN], 1):
            title = f"{kind or 'view'} {number}" if kind in ("", "local") else f"view {number} of {kind}"
            tiles = [images.tile(own) for own in view]
            strips.append(_strip(title, tiles, f"{title} of the same images"))
    return Section("Views", lead, [blocks.strips(strips)])


def neighbours(run: Reported, seen: Seen, embedded: Mapping[str, Embedded]) -> Section:
    """Each peer's nearest train images of the same few queries."""
    labelled = bool(run.classes)
    mark = (
        " A neighbour of another class is framed and has a corner cut off."
        if labelled
        else " There are no labels, so nothing is marked."
    )
    lead = (
        f"The first image of each row is a {seen.split} image; then its {SHOWN} nearest train images by "
        f"cosine, nearest first.{mark}"
    )
    at = spaced(len(seen.asked), QUERIES)
    parts = []
    for name, own in embedded.items():
        nearest = own.nearest(at.tolist(), SHOWN, itself=not seen.tested)
        labels = own.features.test_labels[torch.from_numpy(at)]
        strips = [
            _row(run, seen, int(query), int(label), found, own)
            for query, label, found in zip(at, labels, nearest, strict=True)
        ]
        parts += [blocks.heading(name), blocks.strips(strips)]
    return Section("Neighbours", lead, parts or [blocks.note("No peer of this run embeds images.")])


def image(source: Source, i: int) -> np.ndarray:
    """Image i, uint8 (C, H, W), from memory where the source is decoded already."""
    kept = getattr(source, "_resident", None)
    return source[i] if kept is None else kept[i].numpy()


def class_name(run: Reported, label: int) -> str:
    return run.classes[label] if 0 <= label < len(run.classes) else ""


def _row(run: Reported, seen: Seen, query: int, label: int, found: Tensor, own: Embedded) -> blocks.Strip:
    near = own.features.train_labels[found].tolist()
    tiles = [images.tile(image(seen.asked, query))]
    tiles += [images.tile(image(seen.bank, int(i))) for i in found]
    wrong = [label >= 0 and other >= 0 and other != label for other in near]
    name = class_name(run, label) or f"image {int(seen.positions[query])}"
    right = f"{len(near) - sum(wrong)} of {len(near)} alike" if label >= 0 else ""
    others = ", ".join(class_name(run, n) or "unlabelled" for n in near)
    return _strip(name, tiles, f"{name}, and its nearest: {others}", [False, *wrong], right)


def _strip(
    title: str, tiles: list, alt: str, marked: list[bool] | None = None, note: str = ""
) -> blocks.Strip:
    source, width, height = images.strip(tiles, marked or ())
    return blocks.Strip(title, source, alt, width, height, note)


def _is_views(value: Any, batch: Mapping[str, Any]) -> bool:
    """Images (V, B, C, H, W) of the rows of the batch."""
    return (
        isinstance(value, Tensor)
        and value.dim() == 5
        and value.is_floating_point()
        and value.shape[1] == len(batch.get("index", ()))
        and value.shape[2] in (1, 3)
    )
