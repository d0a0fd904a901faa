"""`ssl-kd trust RUN`: shows what a run, an export, or `configs/`, would execute, and puts it on record."""

from collections.abc import Iterator, Sequence
from itertools import chain
from pathlib import Path

from omegaconf import OmegaConf

from ssl_kd.commands.catalogue import refuse_unknown
from ssl_kd.errors import InputError
from ssl_kd.own import record
from ssl_kd.own.found import Found
from ssl_kd.own.nodes import Named, named
from ssl_kd.own.places import Place, of_data, of_peers, unknown
from ssl_kd.own.words import config_hashes
from ssl_kd.saved import read_config
from ssl_kd.system.documents import yaml_of
from ssl_kd.system.paths import expand
from ssl_kd.system.text import print_line
from ssl_kd.trust import both_ways, entry_of, is_foreign, standing
from ssl_kd.words import options

_GROUPED = ("method", "data", "recipe", "optim", "pretext")


def main(words: Sequence[str]) -> int:
    """Says first what will run, then records it; returns the exit code."""
    folders = [word for word in words if "=" not in word]
    given = options([word for word in words if "=" in word])
    refuse_unknown("trust", given, ["run"])
    folders += [str(given["run"])] if given.get("run") else []
    if len(folders) != 1:
        raise InputError("trust takes one folder, as in ssl-kd trust runs/a, or ssl-kd trust configs")
    from ssl_kd.export import own

    folder, read = expand(folders[0]), list[Place]()
    run = (folder / "config.yaml").is_file() and not any((folder / group).is_dir() for group in _GROUPED)
    if run:
        config = read_config(folder)
        foreign = [each for each in named(OmegaConf.to_container(config)) if is_foreign(each)]
        read = unknown(chain(of_data(config), of_peers(config, whole=True)))
        hashes: dict[str, str] = {}
    elif own.file_in(folder).is_file():
        config = own.config_of(own.read_about(own.file_in(folder)))
        foreign, hashes = [each for each in named(OmegaConf.to_container(config)) if is_foreign(each)], {}
    elif any((folder / group).is_dir() for group in _GROUPED):
        foreign, hashes = list(_of_configs(folder)), config_hashes(folder)
    else:
        raise InputError(
            f"{folder} is neither a run folder, nor an export, nor a folder of configs "
            "(configs/method/NAME.yaml)"
        )
    if not foreign and not read:
        print_line(f"{folder} names nothing but parts of ssl_kd and of libraries: there is nothing to trust")
        return 0
    found = {each.name: standing(each) for each in foreign}
    if foreign:
        print_line(f"{folder} will run, when it is read:")
    for line in _lines(foreign, found):
        print_line(f"  {line}")
    if read:
        print_line(f"{folder} will have these read:")
    for place in read:
        print_line(f"  {place.path} ({place.key})")
    path = record.state_file()
    if foreign:
        bare = both_ways(OmegaConf.to_container(config)) if run else foreign
        path = record.write(folder, entry_of(bare, found, hashes))
    if read:
        path = record.add_paths(place.path for place in read)
    print_line(f"on record in {path}")
    return 0


def _of_configs(folder: Path) -> Iterator[Named]:
    """What the files of a folder of configs name; where they stand is said by the file's group."""
    for file in sorted(folder.rglob("*.y*ml")):
        content = yaml_of(file)
        group = file.relative_to(folder).parts[0]
        for each in named(content, "" if group in ("method", "pretext") else group):
            if is_foreign(each):
                yield each._replace(path=f"{file.relative_to(folder)}: {each.path}")


def _lines(foreign: Sequence[Named], found: dict[str, Found | None]) -> Iterator[str]:
    """What is named where, with its options and the line that defines it; then the files beside it."""
    beside: dict[str, None] = {}
    for each in foreign:
        there = found[each.name]
        given = ", ".join(f"{key}={value}" for key, value in each.node.items() if key != "_target_")
        place = there.where if there else "installed with its library"
        yield f"{each.path}: {each.name}({given}), {place}"
        beside |= dict.fromkeys(
            file for file in (there.hashes if there else ()) if not place.startswith(file)
        )
    yield from (f"with {file}" for file in beside)
