"""Files that are whole or not there, whenever a process or the machine stops."""

import hashlib
import os
from pathlib import Path
from typing import Any

PARTIAL = ".part"  # ends the name of a file that is being written


def write_whole(path: Path, text: str) -> None:
    """Writes a text file under a temporary name, makes sure that it is on the disk, and renames it."""
    partial = path.with_name(path.name + PARTIAL)
    path.parent.mkdir(parents=True, exist_ok=True)
    with open(partial, "w") as file:
        file.write(text)
        file.flush()
        os.fsync(file.fileno())
    partial.replace(path)
    sync(path.parent)


def sync(path: Path) -> None:
    """Makes sure that a file, or the names in a folder, are on the disk."""
    try:
        descriptor = os.open(path, os.O_RDONLY)
    except PermissionError:  # a folder, on Windows
        return
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def fingerprint(path: Path) -> dict[str, Any]:
    """Size and hash of a file, by which damage is noticed."""
    with open(path, "rb") as file:
        return {"bytes": path.stat().st_size, "sha256": hashlib.file_digest(file, "sha256").hexdigest()}


def damage(path: Path, said: dict[str, Any]) -> str:
    """What is wrong with a file whose `fingerprint` was `said`; "" for nothing."""
    if not path.is_file():
        return f"{path.name} is missing"
    size = path.stat().st_size
    if size != said["bytes"]:
        return f"{path.name} has {size:,} of {said['bytes']:,} bytes"
    return "" if fingerprint(path) == said else f"{path.name} was changed"
