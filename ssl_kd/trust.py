"""What a run folder may name, so that evaluating somebody's run executes nothing of theirs.

`_target_` names anything that can be imported, and building a run calls it with any options. Words on a
command line may do that; a run folder may be anybody's. What it names has to be
  - harmless in itself, wherever it comes from (`ssl_kd.own.harmless`),
  - or on record as the user's (`ssl_kd.own.record`), with just these options and these files: `train` was
    started with it, or `ssl-kd trust RUN` was said,
  - or below a path that SSL_KD_TRUST names.
Configs that lie in `configs/` of the current folder, which may be anybody's too, fall under the same rule.
"""

import os
import sys
from collections.abc import Iterable, Mapping
from itertools import chain
from pathlib import Path
from typing import Any

from omegaconf import DictConfig, OmegaConf

from ssl_kd.errors import InputError
from ssl_kd.own import files, loading, record
from ssl_kd.own.files import Module
from ssl_kd.own.found import Found, find, node_hash
from ssl_kd.own.harmless import DATA_SETS, may_be_named, reading_option
from ssl_kd.own.nodes import Named, named, of_library, within
from ssl_kd.own.places import of_data, of_peers, unknown
from ssl_kd.own.pretrained import without_weights
from ssl_kd.system.paths import expand
from ssl_kd.system.text import typed

VARIABLE = "SSL_KD_TRUST"


def check_names(config: DictConfig, folder: str | Path) -> None:
    """Refuses a config from the run folder `folder` that names anything else. Raises InputError.

    From then on, what it names of the user's own means the files on record, wherever the user stands.
    """
    foreign = foreign_nodes(config)
    entry = record.of(folder) if foreign else {}
    for each in foreign:
        _check(each, Path(folder), entry, exact=True)


def check_configs(foreign: Iterable[Named], folder: Path, hashes: Mapping[str, str]) -> None:
    """The same for what the files in `configs/` of the current folder name; hashes: of those files."""
    foreign = list(foreign)
    entry = record.of(folder) if foreign else {}
    said = entry.get("files") or {}
    for each in foreign:
        changed = next((file for file in hashes if said.get(file) != hashes[file]), None)
        if entry and changed and _by_variable(each, folder) is None:
            raise InputError(
                f'{folder} names "{each.name}" ({each.path}), and {changed} is not what it was when that was '
                f"trusted; look at it, and ssl-kd trust {typed(folder)} puts it on record as it is now"
            )
        _check(each, folder, entry, exact=False)


def foreign_nodes(config: DictConfig | Mapping[str, Any]) -> list[Named]:
    """What a config names that is not harmless by itself."""
    plain = OmegaConf.to_container(config, resolve=False) if isinstance(config, DictConfig) else config
    return [each for each in named(plain) if is_foreign(each)]


def is_foreign(each: Named) -> bool:
    """Whether a node is not harmless by itself."""
    return not may_be_named(each) or reading_option(each) is not None


def put_on_record(config: DictConfig | Mapping[str, Any], folder: str | Path) -> str:
    """Records what `config` names as the user's, code and places of data; returns "" or what went wrong.

    A state folder that cannot be written is no reason to stop a training.
    """
    if isinstance(config, DictConfig):
        config = OmegaConf.to_container(config, resolve=True)
    foreign = both_ways(config)
    try:
        whole = OmegaConf.create(dict(config))
        new = [place.path for place in unknown(chain(of_data(whole), of_peers(whole, whole=True)))]
        if foreign:
            record.write(folder, entry_of(foreign, {each.name: _granted(each.name) for each in foreign}))
        if new:
            record.add_paths(new)
    except (InputError, OSError) as error:
        return (
            f"what is your own in this run could not be put on record ({error}): to score it, say "
            f"{VARIABLE}=PATH of it, or ssl-kd trust {typed(folder)}"
        )
    return ""


def both_ways(config: Mapping[str, Any]) -> list[Named]:
    """What a config names that is not harmless: as it stands, and without weights that a checkpoint has."""
    bare = OmegaConf.create(dict(config))
    without_weights(bare)
    return [*foreign_nodes(config), *foreign_nodes(bare)]


def entry_of(
    foreign: Iterable[Named], found: Mapping[str, Found | None], hashes: Mapping[str, str] | None = None
) -> dict[str, Any]:
    """What goes on record of these nodes, where `found` says what they name; hashes: of files that say so."""
    nodes = sorted({node_hash(each.node) for each in foreign})
    names = {name: place.entry if place else {"root": None, "files": {}} for name, place in found.items()}
    return {"nodes": nodes, "names": names, "files": dict(hashes or {})}


def _granted(address: str) -> Found | None:
    module = loading.granted(address)
    return Found(address, module, module.hashes, "") if module else _here(address)


def standing(each: Named) -> Found | None:
    """What the node names, to somebody who stands in the current folder; InputError where nobody may."""
    if _is_never(each.name):
        raise InputError(f'"{each.name}" ({each.path}) is nothing that a run is built of: take it out')
    found = _here(each.name)
    if found is None and not of_library(each.name):
        first = each.name.split(".")[0]
        raise InputError(f'"{each.name}" ({each.path}): here is no {first}.py; say this where that file lies')
    if found is not None and found.module is not None and found.module.line(each.name) is None:
        what = each.name.removeprefix(f"{found.module.name}.")
        raise InputError(
            f'"{each.name}" ({each.path}): {found.module.file.path} defines no function or class "{what}"'
        )
    return found


def _here(address: str) -> Found | None:
    return None if of_library(address) else find(address, Path.cwd().resolve())


def _is_never(name: Any) -> bool:
    """Whether nobody is advised to allow it: no address at all, or what reads, writes or executes things."""
    if (
        not isinstance(name, str)
        or "." not in name
        or not all(part.isidentifier() for part in name.split("."))
    ):
        return True
    if of_library(name):
        return not (within(name, (DATA_SETS,)) or may_be_named(Named("", name, {})))
    return name.split(".")[0] in sys.stdlib_module_names


def _check(each: Named, folder: Path, entry: Mapping[str, Any], exact: bool) -> None:
    """exact: the options have to be those on record, too."""
    name = each.name
    noted = (entry.get("names") or {}).get(name) if isinstance(name, str) else None
    known = isinstance(noted, dict) and (not exact or node_hash(each.node) in (entry.get("nodes") or ()))
    trusted = None if known else _by_variable(each, folder)
    if known:
        assert isinstance(noted, dict)
        _grant(each, folder, noted)
    elif trusted is not None:
        loading.grant(name, trusted.module)
    else:
        raise InputError(_refusal(each, folder, isinstance(noted, dict)))


def _grant(each: Named, folder: Path, noted: Mapping[str, Any]) -> None:
    """Lets the address mean what is on record, if every file is what it was. Raises InputError."""
    root, said = noted.get("root"), noted.get("files")
    found: Found | None = None
    if isinstance(root, str):
        module = files.find(each.name, Path(root))
        found = Found(each.name, module, module.hashes, "") if module else None
    elif not of_library(each.name):
        found = find(each.name, Path(os.devnull))
    now = found.hashes if found else {}
    if said != now and said is not None:
        odd = sorted(file for file in {*said, *now} if said.get(file) != now.get(file))[0]
        what = "has changed" if odd in said and odd in now else "is gone" if odd in said else "is new"
        raise InputError(
            f'{folder} names "{each.name}" ({each.path}), and {odd} {what} since that was trusted; look '
            f"at it, and ssl-kd trust {typed(folder)} puts it on record as it is now"
        )
    loading.grant(each.name, found.module if found else None)


def _refusal(each: Named, folder: Path, other_options: bool) -> str:
    said = f'{folder} names "{each.name}" ({each.path})'
    if _is_never(each.name):
        return f"{said}, which nothing that is read from a run folder may call"
    out = f"look at it, and ssl-kd trust {typed(folder)} lets it"
    if of_library(each.name):
        option = reading_option(each)
        what = (
            f"with {option}, which reads files or an address" if option else "which reads files or addresses"
        )
        return f"{said}, {what} and is not on record as yours; {out}"
    found = _here(each.name)
    if found is None:
        first = str(each.name).split(".")[0]
        return (
            f"{said}, which is not on record as yours, and the current folder has no {first}.py; where that "
            f"file lies, ssl-kd trust {typed(Path(folder).absolute())} shows what it would run, and lets it"
        )
    other = " with these options" if other_options else ""
    return f"{said}, which {found.where} defines and which is not on record as yours{other}; {out}"


def _by_variable(each: Named, folder: Path) -> Found | None:
    """What the address means below a path that SSL_KD_TRUST names. Raises InputError for what is no path."""
    said = os.environ.get(VARIABLE, "")
    parts = [part.strip() for part in said.replace(os.pathsep, ",").split(",")]
    for part in filter(None, parts):
        path = expand(part)
        if not path.exists():
            raise InputError(
                f'{VARIABLE} names paths, of a file or a folder, and there is no "{part}" here; a module is '
                f"named by its file, as {VARIABLE}={part.replace('.', '/')}.py"
            )
        found = _below(each, path.resolve(), (folder if folder.is_dir() else folder.parent).resolve())
        if found is not None:
            return found
    return None


def _below(each: Named, path: Path, run: Path) -> Found | None:
    if not isinstance(each.name, str) or _is_never(each.name):
        return None
    if of_library(each.name):
        home = _file_of(each.name)
        return Found(each.name, None, {}, "") if home and home.is_relative_to(path) else None
    roots = [*([path] if path.is_dir() else []), *path.parents]
    for root in roots[: each.name.count(".") + 1]:
        module: Module | None = files.find(each.name, root)
        if module is None or not module.file.path.is_relative_to(path):
            continue
        if module.file.path.is_relative_to(run) and not path.is_relative_to(run):
            continue  # what came with the run is not meant by a folder around it
        return Found(each.name, module, module.hashes, "")
    return None


def _file_of(address: str) -> Path | None:
    """The file in which a library defines what the address names."""
    from ssl_kd.registry import located

    try:
        file = sys.modules[located(address).__module__].__file__
    except Exception:  # it is not there
        return None
    return Path(file).resolve() if file else None
