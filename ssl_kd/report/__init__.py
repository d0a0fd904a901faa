"""Reports: one HTML file for a run, one for a comparison of runs; each stands alone and loads nothing."""

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from ssl_kd.errors import InputError, nearest
from ssl_kd.system.text import print_line

if TYPE_CHECKING:
    import torch

    from ssl_kd.compare import Comparison

__all__ = ["comparison_page", "main", "run_page"]


def run_page(
    folder: str | Path,
    device: "torch.device | str" = "cpu",
    map: str = "pca",
    data_changed: str | None = None,
) -> Path:
    """Writes `folder`/report.html and returns its path.

    map: pca or umap. data_changed: "accept" takes images that changed since the run began.
    Raises InputError for what is no finished run, and without the packages of the extra.
    """
    _need_charts()
    from ssl_kd.report.run import run_page as write

    return write(folder, device, map, data_changed)


def comparison_page(comparison: "Comparison", folder: str | Path) -> Path:
    """Writes `folder`/comparison.html and comparison.svg; returns the path of the page.

    Raises InputError without the packages of the extra.
    """
    _need_charts()
    from ssl_kd.report.comparison import comparison_page as write

    return write(comparison, folder)


def main(words: Sequence[str]) -> int:
    """`ssl-kd report run=FOLDER [map=umap] [device=cpu]`: writes the report and prints its path."""
    from ssl_kd.words import options

    given = options(words)
    known = ["run", "map", "device", "data_changed"]
    for key in given:
        if key not in known:
            raise InputError(f'"{key}" is not an option; {nearest(key, known)}')
    if given.get("run") in (None, ""):
        raise InputError("run is needed; give it as run=runs/NAME")
    _need_charts()
    from ssl_kd.machine import pick_device, set_threads

    set_threads(None)
    device, changed = pick_device(given.get("device", "auto")), given.get("data_changed")
    print_line(run_page(str(given["run"]), device, given.get("map", "pca"), changed))
    return 0


def _need_charts() -> None:
    from importlib.util import find_spec

    if any(find_spec(name) is None for name in ("altair", "vl_convert")):
        raise InputError("the report needs its charts: pip install 'ssl-kd[report]'")
