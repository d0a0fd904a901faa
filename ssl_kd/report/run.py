"""The report of one run: what it was, what came of it, and what its networks see."""

from pathlib import Path

import torch

from ssl_kd.report import curves, deployment, embeddings, head, maps, pictures, predictions, scores
from ssl_kd.report.charts import unchecked
from ssl_kd.report.embeddings import BANK, IMAGES
from ssl_kd.report.page import Page, Section, write
from ssl_kd.report.reported import Reported, read
from ssl_kd.system.paths import expand


@unchecked()
def run_page(
    folder: str | Path,
    device: torch.device | str = "cpu",
    map: str = "pca",
    data_changed: str | None = None,
) -> Path:
    """Writes `folder`/report.html from the run's files and the checkpoint that it reports; returns its path.

    device: where images are embedded. map: pca, or umap where umap-learn is installed. Equal checkpoints give
    equal pages but for measured latencies. Raises InputError for what is no run, has no checkpoint, or has
    been asked for a map that cannot be made; and where the images changed, unless data_changed is "accept".
    """
    folder = expand(folder)
    embeddings.check(map)
    run = read(folder, device, data_changed)
    return write(
        Page(head.title(run), "Report of a run", head.lead(run), _sections(run, map)),
        folder / "report.html",
    )


def _sections(run: Reported, how: str) -> list[Section]:
    found = [
        *head.sections(run),
        scores.section(run),
        deployment.section(run),
        curves.training(run),
        curves.health(run),
        pictures.views(run),
    ]
    seen = embeddings.choose(run)
    embedded = embeddings.embed_all(run, seen)
    pages = [
        maps.maps(run, seen, embedded, how),
        pictures.neighbours(run, seen, embedded),
        *predictions.sections(run, seen, embedded),
    ]
    if not seen.whole:
        most = f"{BANK:,} train and {IMAGES:,} other images" if seen.tested else f"{IMAGES:,} images"
        left_out = f" Of larger splits {most} are looked at, evenly spaced."
        pages = [Section(page.title, page.lead + left_out, page.blocks) for page in pages]
    return [*found, *pages]
