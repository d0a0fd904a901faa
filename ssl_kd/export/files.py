"""Exported files: all of them whole, or those that were there before; over nothing but exports of ours."""

import hashlib
import re
from collections.abc import Callable, Mapping
from contextlib import ExitStack
from pathlib import Path

from ssl_kd.data.files import first_line
from ssl_kd.errors import InputError
from ssl_kd.layout import run_of
from ssl_kd.system.reading import opened
from ssl_kd.system.writing import PARTIAL, fresh, place

_SEAL = re.compile(rb"\n<!-- ssl-kd export:((?: [0-9a-f]{64})+) -->\n\Z")
MOST_BYTES = 1 << 24  # of a card; ours have some KiB


def put(files: Mapping[Path, bytes], check: Callable[[Path], None], overwrite: bool) -> None:
    """Writes all files under fresh names, has `check` look at the first of these, and renames them.

    The last is their card, whose end then has the hashes of all: what an export may replace is known by
    them. Where `check` raises, or where nothing can be written, what was there before stays. overwrite:
    replace what is somebody's, too; files of a run are never replaced. Raises InputError.
    """
    *others, card = files
    seal = " ".join(_hash(files[path]) for path in (*others, card))
    contents = {**files, card: files[card] + f"\n<!-- ssl-kd export: {seal} -->\n".encode()}
    path = card
    try:
        known = _sealed(card)
        for path in files:
            _check(path, known, overwrite)
        with ExitStack() as stack:
            parts = {}
            for path in files:
                parts[path] = stack.enter_context(fresh(path))
                with open(parts[path], "wb") as file:
                    file.write(contents[path])
            check(next(iter(parts.values())))
    except OSError as error:
        raise InputError(
            f"{path} cannot be written ({first_line(error)}); name another file by to="
        ) from error


def own_folder(folder: Path, names: tuple[str, ...]) -> None:
    """Refuses a folder that holds anything but these names: what an export before has left there."""
    others = [] if not folder.is_dir() else sorted({path.name for path in folder.iterdir()} - {*names})
    others = [name for name in others if not name.endswith(PARTIAL)]
    if others:
        raise InputError(f'{folder} holds something else, "{others[0]}"; name another folder by to=')


def _check(path: Path, known: frozenset[str], overwrite: bool) -> None:
    """Refuses a path whose file is somebody's. known: the hashes of an earlier export."""
    if path.is_dir():
        raise IsADirectoryError(21, "it is a folder")
    real = place(path)
    for each in (real, Path(path).resolve()):
        if run := run_of(each):
            raise InputError(
                f"{path} would be one of the files of the run {run}, over which nothing is exported; name "
                "another file by to="
            )
    if overwrite or not (real.exists() or real.is_symlink()):
        return
    if real.is_symlink() or _content(real, known) is None:
        raise InputError(
            f"{path} is there already, and is no export of ours or was changed since; overwrite=true "
            "replaces it, to= names another"
        )


def _content(path: Path, known: frozenset[str]) -> str | None:
    """The hash of a file, if it is known; of a card without its seal."""
    with opened(path) as file:
        found = hashlib.file_digest(file, "sha256").hexdigest()
        if found not in known and path.suffix == ".md":
            file.seek(0)
            found = _hash(_SEAL.sub(b"", file.read(MOST_BYTES)))
    return found if found in known else None


def _sealed(card: Path) -> frozenset[str]:
    """The hashes that a card has of what it was exported with; empty where there is none of ours."""
    if card.is_symlink() or not card.is_file():
        return frozenset()
    with opened(card) as file:
        found = _SEAL.search(file.read(MOST_BYTES))
    return frozenset(found[1].decode().split()) if found else frozenset()


def _hash(content: bytes) -> str:
    return hashlib.sha256(content).hexdigest()
