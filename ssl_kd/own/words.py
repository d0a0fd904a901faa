"""What the user's own words name, on a command line or in a file named there: theirs, and found by its file.

What `configs/` of the current folder names is not theirs by that: the folder may be anybody's. Neither is a
file that lies in a run folder.
"""

import hashlib
from collections.abc import Iterator, Sequence
from pathlib import Path

from omegaconf import DictConfig, OmegaConf

from ssl_kd.errors import InputError
from ssl_kd.groups import folders
from ssl_kd.lineage import UNKNOWN
from ssl_kd.own import loading
from ssl_kd.own.found import allow_address
from ssl_kd.own.nodes import Named, named, of_library
from ssl_kd.words import Said


def allow(config: DictConfig, assigned: Sequence[Said], inherited: dict[str, str]) -> None:
    """Lets the addresses of a composed config mean what the user says, or refuses them. Raises InputError.

    inherited: what those of an earlier run mean, whose networks were taken over (`loading.since`).
    """
    plain = OmegaConf.to_container(config, resolve=True)
    theirs = {name for item in assigned if _run(item) is None for name in _names(item)}
    others = [
        each for each in named(plain) if each.name not in theirs and each.name not in (*inherited, UNKNOWN)
    ]
    _check_others(others, [run for item in assigned if (run := _run(item))])
    for name in sorted(
        {each.name for each in named(plain) if each.name in theirs and not of_library(each.name)}
    ):
        allow_address(name)
        if loading.meant(name) != inherited.get(name, loading.meant(name)):
            raise InputError(
                f'"{name}" is one thing in {Path.cwd()} and another in the run that a peer starts from; '
                "give the module here another name"
            )


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
    above: Sequence[Path] = Path(item.where).resolve().parents if item.where else ()
    return next(filter(_is_run, above), None)


def _is_run(folder: Path) -> bool:
    return (folder / "config.yaml").is_file() and any(
        (folder / name).exists() for name in ("checkpoints", "status.json")
    )
