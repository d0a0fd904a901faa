"""Paths as people write them. A leading `~` or `~user` is a home; `$NAME` is left to the shell.

A folder may well be called `$NAME`, and nothing here reads the environment for it. OPTIONS is the one place
that says which options are paths, of all commands.
"""

import os
import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from ssl_kd.errors import InputError

_DATA = ("root", "path", "test", "train_list", "test_list")
_TRACKED = ("dir", "log_dir", "logging_dir", "tracking_uri")
# `*` stands for any one key. Of a mapping, as probe.data={name: folder, root: ...}, the entries count.
OPTIONS = (
    *("run", "config", "out", "to", "folder", "labels.file", "hold_out_group.file"),
    *(f"{where}.{key}" for where in ("data", "probe.data", "transfer.data") for key in _DATA),
    "probe.data",
    *(f"{peer}.weights{key}" for peer in ("peers.*", "others.*", "peer") for key in ("", ".run")),
    *(f"tracker_options.*.{key}" for key in _TRACKED),
)
_PATTERNS = re.compile("|".join(re.escape(key).replace(r"\*", "[^.]+") for key in OPTIONS))


def expand(path: str | os.PathLike[str]) -> Path:
    """The path with a leading `~` or `~user` as the home that it stands for, and nothing else changed.

    Raises InputError where there is no such home, and for what is neither text nor a path.
    """
    if not isinstance(path, str | os.PathLike):
        raise InputError(f"a path is text, and {path!r} is none; put a number in quotes")
    text = os.fspath(path)
    if not text.startswith("~"):
        return Path(text)
    found = os.path.expanduser(text)
    if not found.startswith("~"):
        return Path(found)
    first = Path(text).parts[0]
    who = "the home of this user is not known" if first == "~" else f'there is no user "{first[1:]}"'
    raise InputError(f"{text}: {who}; a file or folder of that very name is ./{text}")


def cache_folder() -> Path:
    """What may be deleted at any time lies there: $XDG_CACHE_HOME/ssl_kd, or ~/.cache/ssl_kd."""
    base = os.environ.get("XDG_CACHE_HOME") or ""
    return (Path(base) if os.path.isabs(base) else Path(os.path.expanduser("~/.cache"))) / "ssl_kd"


def is_path(key: str) -> bool:
    """Whether the option is a path."""
    return _PATTERNS.fullmatch(key) is not None


def expanded(key: str, value: Any) -> Any:
    """The value of an option with `expand` done to all that is a path in it. Raises InputError."""
    if isinstance(value, Mapping):
        return {name: expanded(f"{key}.{name}", entry) for name, entry in value.items()}
    if not (isinstance(value, str) and value.startswith("~") and is_path(key)):
        return value
    try:
        return str(expand(value))
    except InputError as error:
        raise InputError(f"{key}={error}") from error
