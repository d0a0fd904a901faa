"""A file of options, for `config=my.yaml`: its lines mean what the same words mean on the command line.

    data: folder                 data=folder
    data.root: photos            data.root=photos
    peers: [resnet20, resnet20]  peers=[resnet20,resnet20]
    probe:                       probe.every=10
      every: 10

So `peers` given as a mapping is the whole cast, `data.splits` is one value, and a mapping with a `_target_`
describes one thing; any other mapping is its entries. Paths are seen from the folder in which the command
runs; `~` is the home, and `$NAME` stays as it is.
"""

from collections.abc import Iterator
from pathlib import Path
from typing import Any

from omegaconf import DictConfig, OmegaConf

from ssl_kd.errors import InputError
from ssl_kd.system.documents import config_of
from ssl_kd.system.text import typed
from ssl_kd.values import NAME

FILE = "config"  # the word that names one


def said_in(path: Path) -> list[tuple[str, Any]]:
    """(key, value) of everything in the file, in its order. Raises InputError."""
    if not path.is_file():
        made = "; ssl-kd init writes one" if not path.exists() else ""
        raise InputError(f"config={path}: there is no such file{made}")
    content = config_of(path)
    if not isinstance(content, DictConfig):
        raise InputError(f"{path} holds no options; they are lines of key: value, as in epochs: 10")
    plain = OmegaConf.to_container(content, resolve=False)
    assert isinstance(plain, dict)
    if {"steps", "classes"} & plain.keys():
        raise InputError(
            f"{path} is the resolved config of a run, not a file of options; to continue that run, "
            f"repeat the command that began it with {typed(f'run={path.parent}')}"
        )
    odd = next((key for key in plain if not isinstance(key, str)), None)
    if odd is not None or FILE in plain:
        what = (
            f'"{FILE}" cannot be in such a file' if FILE in plain else f'"{odd}" is not the name of an option'
        )
        raise InputError(f"{path}: {what}")
    found = [pair for key, value in plain.items() for pair in _entries(key, value)]
    if any(key == "data.name" for key, _ in found):
        raise InputError(
            f"{path}: which data is said by a line data: NAME, and its options by data.OPTION: ..."
        )
    return found


def _entries(key: str, value: Any) -> Iterator[tuple[str, Any]]:
    """The value itself, or of a mapping that only groups options its entries."""
    groups = (
        isinstance(value, dict)
        and value
        and "_target_" not in value
        and key.split(".")[0] != "peers"
        and key.split(".")[-1] != "splits"  # of folders: the mapping is the value
        and all(isinstance(name, str) and all(map(NAME.fullmatch, name.split("."))) for name in value)
    )
    if not groups:
        yield key, value
        return
    for name, entry in value.items():
        yield from _entries(f"{key}.{name}", entry)
