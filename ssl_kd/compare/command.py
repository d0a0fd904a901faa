"""`ssl-kd compare`: run folders in, a table and comparison.json out."""

import dataclasses
import json
import math
import os
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from omegaconf import OmegaConf

from ssl_kd.compare.differences import Comparison, compare
from ssl_kd.compare.words import conclusion, table
from ssl_kd.console import console
from ssl_kd.errors import InputError, nearest
from ssl_kd.system.paths import expand
from ssl_kd.system.writing import place, write_whole
from ssl_kd.words import options

OPTIONS = ("base", "out")
COLUMNS = 5  # scores beside each other
_OWN = ("comparison.json", "comparison.html", "comparison.svg")  # what lies beside the runs, as in runs/*


def main(words: list[str]) -> int:
    """`FOLDER ... [base=GROUP] [out=FOLDER]`; prints, writes, and returns the exit code."""
    folders = [word for word in words if "=" not in word or Path(word).is_dir()]
    given = options([word for word in words if word not in folders])
    for key in given:
        if key not in OPTIONS:
            raise InputError(f'"{key}" is not an option of compare; {nearest(key, list(OPTIONS))}')
    folders = [str(expand(folder)) for folder in folders if Path(folder).name not in _OWN]
    base = given.get("base")
    comparison = compare(folders, None if base is None else str(base))
    out = expand(str(given["out"])) if given.get("out") else _usual(folders)
    for name in _OWN:
        place(out / name, out)
    _print(comparison)
    path = out / "comparison.json"
    write_whole(path, json.dumps(plain(comparison), indent=2, allow_nan=False) + "\n", inside=out)
    console().print(str(path), soft_wrap=True)
    try:
        from ssl_kd.report import comparison_page

        console().print(str(comparison_page(comparison, out)), soft_wrap=True)
    except InputError as error:  # the packages that draw are optional
        console().print(f"no page: {error}", soft_wrap=True)
    return 0


def plain(comparison: Comparison) -> dict[str, Any]:
    """Everything in a comparison as JSON takes it: NaN is None; compute also relative to the base."""
    found = _plain(comparison)
    for group in found["groups"]:
        own, base = group["compute"], found["groups"][0]["compute"]
        group["relative_compute"] = own / base if own and base else None
    return {**found, "conclusion": conclusion(comparison)}


def _plain(value: Any) -> Any:
    if OmegaConf.is_config(value):
        value = OmegaConf.to_container(value)
    if dataclasses.is_dataclass(value):  # not asdict, which copies every config in it
        value = {field.name: getattr(value, field.name) for field in dataclasses.fields(value)}
    if isinstance(value, dict):
        return {str(key): _plain(entry) for key, entry in value.items()}
    if isinstance(value, list | tuple):
        return [_plain(entry) for entry in value]
    return None if isinstance(value, float) and not math.isfinite(value) else value


def _print(comparison: Comparison) -> None:
    out = console()
    shown = list(dict.fromkeys(d.score for d in comparison.differences))
    for start in range(0, len(shown), COLUMNS):
        out.print(table(comparison, shown[start : start + COLUMNS]))
    for line in [*conclusion(comparison), *comparison.notes]:
        out.print(line, soft_wrap=True)


def _usual(folders: Sequence[str]) -> Path:
    """The folder that holds all runs, where that is, or is in, runs/ below the current one; else that one.

    Somebody's folder is read, and nothing is written into it.
    """
    own, current = Path(os.path.realpath("runs")), Path.cwd()
    parent = Path(os.path.commonpath([Path(folder).absolute().parent for folder in folders]))
    return parent if Path(os.path.realpath(parent)).is_relative_to(own) else current
