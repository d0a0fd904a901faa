"""What the user has trusted: `$XDG_STATE_HOME/ssl_kd/trusted.json`, outside every run folder.

{"version": 1, "places": {FOLDER: {"nodes": [HASH, ...], "names": {ADDRESS: {"root": FOLDER or null,
"files": {FILE: HASH}}}, "files": {FILE: HASH}}}, "paths": [PATH, ...]}: of a run folder, or a folder of
configs, what it may name, with which options (nodes), and the files of which that is made. root: null for
what is installed. paths: what may be read for any run, of data and weights.
"""

import json
import os
from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from ssl_kd.errors import InputError
from ssl_kd.system.documents import from_json
from ssl_kd.system.reading import opened
from ssl_kd.system.writing import write_whole

VERSION = 1
MOST_BYTES = 1 << 26


def state_file() -> Path:
    """Where it is; an empty or relative variable counts for nothing. Raises InputError without a home."""
    said = os.environ.get("XDG_STATE_HOME", "")
    try:
        home = Path(said) if os.path.isabs(said) else Path.home() / ".local" / "state"
    except RuntimeError as error:
        raise InputError("there is no home folder; XDG_STATE_HOME=FOLDER says where states lie") from error
    return home / "ssl_kd" / "trusted.json"


def places() -> dict[str, Any]:
    """Folder -> what is on record of it; {} where nothing is. Raises InputError, as `paths`."""
    return _document()["places"]


def paths() -> list[str]:
    """Files and folders that the user has trained on, or has allowed to be read."""
    return _document()["paths"]


def _document() -> dict[str, Any]:
    """All that is on record. Raises InputError for a file that is not as it was left."""
    path = state_file()
    try:
        with opened(path) as file:
            there = os.fstat(file.fileno())
            if there.st_size > MOST_BYTES:
                raise ValueError("it is no record of ours")
            if there.st_mode & 0o022 or (hasattr(os, "geteuid") and there.st_uid not in (os.geteuid(), 0)):
                raise ValueError("others may write it")
            said = from_json(file.read().decode("utf-8"), path)
        if (
            not isinstance(said, dict)
            or said.get("version") != VERSION
            or not isinstance(said["places"], dict)
        ):
            raise ValueError("it is no record of this version")
        read = said.get("paths", [])
        if not isinstance(read, list) or not all(isinstance(path, str) for path in read):
            raise ValueError("its paths are none")
        return {"version": VERSION, "places": said["places"], "paths": read}
    except (FileNotFoundError, NotADirectoryError):
        return {"version": VERSION, "places": {}, "paths": []}
    except OSError as error:
        raise InputError(f"{path} cannot be read ({error.strerror}); it says what you trust") from error
    except (ValueError, KeyError) as error:
        raise InputError(
            f"{path} says what you trust, and cannot be used ({error}); take it away, and say ssl-kd trust "
            "again of what you need"
        ) from error


def of(place: str | Path) -> dict[str, Any]:
    """What is on record of the place, or of the nearest folder around it: an export lies in its run."""
    known, path = places(), Path(place).resolve()
    found: Any = next((known[str(each)] for each in (path, *path.parents) if str(each) in known), {})
    if not isinstance(found, dict) or not all(
        isinstance(found.get(key, {}), dict) for key in ("names", "files")
    ):
        return {}
    return found


def write(place: str | Path, entry: Mapping[str, Any]) -> Path:
    """Puts an entry on record in place of an earlier one; returns the file. Raises InputError, OSError."""
    return _write(lambda there: there["places"].update({str(Path(place).resolve()): entry}))


def add_paths(read: Iterable[str]) -> Path:
    """Puts paths on record; returns the file. Raises InputError, OSError."""
    new = list(read)
    return _write(lambda there: there.update(paths=sorted({*there["paths"], *new})))


def _write(change: Callable[[dict[str, Any]], None]) -> Path:
    path = state_file()
    path.parent.mkdir(parents=True, exist_ok=True, mode=0o700)
    with _locked(path.with_name("lock")):
        there = _document()
        change(there)
        write_whole(path, json.dumps(there, indent=1), mode=0o600)
    return path


@contextmanager
def _locked(path: Path) -> Iterator[None]:
    """One writer at a time; where files cannot be locked, the last one counts."""
    descriptor = os.open(path, os.O_RDWR | os.O_CREAT, 0o600)
    try:
        try:
            import fcntl

            fcntl.flock(descriptor, fcntl.LOCK_EX)
        except (ImportError, OSError):
            pass
        yield
    finally:
        os.close(descriptor)
