"""Exported files: all of them whole, or those that were there before."""

import os
from collections.abc import Callable, Mapping
from pathlib import Path

from ssl_kd.data.files import first_line
from ssl_kd.errors import InputError
from ssl_kd.system.writing import PARTIAL, sync


def place(files: Mapping[Path, bytes], check: Callable[[Path], None]) -> None:
    """Writes all files under temporary names, has `check` look at the first of these, and renames them.

    Where `check` raises, or where nothing can be written, what was there before stays. Raises InputError.
    """
    parts = {path.with_name(path.name + PARTIAL): path for path in files}
    path = next(iter(files))
    try:
        for part, path in parts.items():
            path.parent.mkdir(parents=True, exist_ok=True)
            if path.is_dir():
                raise IsADirectoryError(21, "it is a folder")
            with open(part, "wb") as file:
                file.write(files[path])
                file.flush()
                os.fsync(file.fileno())
        check(next(iter(parts)))
        for part, path in parts.items():
            part.replace(path)
            sync(path.parent)
    except OSError as error:
        raise InputError(
            f"{path} cannot be written ({first_line(error)}); name another file by to="
        ) from error
    finally:
        for part in parts:
            part.unlink(missing_ok=True)


def own_folder(folder: Path, names: tuple[str, ...]) -> None:
    """Refuses a folder that holds anything but these names: what an export before has left there."""
    others = [] if not folder.is_dir() else sorted({path.name for path in folder.iterdir()} - {*names})
    others = [name for name in others if not name.endswith(PARTIAL)]
    if others:
        raise InputError(f'{folder} holds something else, "{others[0]}"; name another folder by to=')
