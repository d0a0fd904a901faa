"""What the user's own words name, on a command line or in a file named there: theirs, and found by its file.

What `configs/` of the current folder names is not theirs by that: the folder may be anybody's. Neither is a
file that lies in a run folder.
"""

import hashlib
import os
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from itertools import chain
from pathlib import Path
from typing import Any

from omegaconf import DictConfig, OmegaConf

from ssl_kd.errors import InputError
from ssl_kd.groups import folders
from ssl_kd.lineage import UNKNOWN
from ssl_kd.options_file import FILE
from ssl_kd.own import loading
from ssl_kd.own.found import allow_address
from ssl_kd.own.nodes import Named, named, of_library
from ssl_kd.system import network
from ssl_kd.system.paths import expand
from ssl_kd.words import Said


def allow(config: DictConfig, assigned: Sequence[Said], inherited: dict[str, str]) -> None:
    """Lets the addresses of a composed config mean what the user says, or refuses them. Raises InputError.

    inherited: what those of an earlier run mean, whose networks were taken over (`loading.since`).
    """
    runs = [run for item in assigned if (run := _run(item))]
    if runs:
        _check_reads(config, assigned, runs[0])
    plain = OmegaConf.to_container(config, resolve=True)
    theirs = {name for item in assigned if _run(item) is None for name in _names(item)}
    others = [
        each for each in named(plain) if each.name not in theirs and each.name not in (*inherited, UNKNOWN)
    ]
    _check_others(others, runs)
    for name in sorted(
        {each.name for each in named(plain) if each.name in theirs and not of_library(each.name)}
    ):
        allow_address(name)
        if loading.meant(name) != inherited.get(name, loading.meant(name)):
            raise InputError(
                f'"{name}" is one thing in {Path.cwd()} and another in the run that a peer starts from; '
                "give the module here another name"
            )


@contextmanager
def starting(words: Sequence[str]) -> Iterator[list[str]]:
    """The words of a training without `online=`. Inside, what they name may be fetched, or not.

    What a file of options names that lies in a run folder is fetched only with online=true: it is not theirs.
    """
    rest, allow = network.taken(words)
    files = (word.partition("=")[2] for word in rest if word.partition("=")[0] == FILE)
    if allow is None and any(_run_of(str(expand(file))) for file in files):
        allow = False
    with network.online(allow):
        yield rest


def _check_reads(config: DictConfig, assigned: Sequence[Said], run: Path) -> None:
    """Refuses places that a file in a run folder says and nobody else."""
    from ssl_kd.own.places import check_places, of_data, of_peers, own_copies

    theirs = {text for item in assigned if _run(item) is None for text in _texts(item.value)}
    user = {os.path.abspath(expand(text)) for text in theirs if text}
    own_copies(config, run, user)
    check_places(chain(of_data(config), of_peers(config, whole=True)), run, user)


def _texts(value: Any) -> Iterator[str]:
    if isinstance(value, str):
        yield value
    elif isinstance(value, Mapping | list):
        for entry in value.values() if isinstance(value, Mapping) else value:
            yield from _texts(entry)


def _check_others(others: Sequence[Named], runs: Sequence[Path]) -> None:
    """What the user did not say is ours, or came from files that may be anybody's."""
    users = folders()[1:]
    if not users and not runs:
        return
    from ssl_kd.trust import check_configs, is_foreign  # takes torch

    foreign = [each for each in others if is_foreign(each)]
    if users:
        check_configs(foreign, Path(users[0].name), config_hashes(users[0]))
    else:
        check_configs(foreign, runs[0], {})


def config_hashes(folder: Path) -> dict[str, str]:
    """Path -> hash of the files of a folder of configs."""
    return {
        str(file.resolve()): hashlib.sha256(file.read_bytes()).hexdigest()
        for file in sorted(folder.rglob("*.y*ml"))
        if file.is_file()
    }


def _names(item: Said) -> Iterator[str]:
    """The addresses in an assignment."""
    if item.key.split(".")[-1] == "_target_" and isinstance(item.value, str):
        yield item.value
    yield from (each.name for each in named(item.value) if isinstance(each.name, str))


def _run(item: Said) -> Path | None:
    """The run folder in which the file lies that says it."""
    return _run_of(item.where)


def _run_of(file: str) -> Path | None:
    above: Sequence[Path] = Path(file).resolve().parents if file else ()
    return next(filter(_is_run, above), None)


def _is_run(folder: Path) -> bool:
    return (folder / "config.yaml").is_file() and any(
        (folder / name).exists() for name in ("checkpoints", "status.json")
    )
