"""The one way to write files: whole or not there, in the folder where they belong, and never through a link.

A run folder may be anybody's: what lies at a name there may be a link to a file at home, or a pipe that
would be waited on for ever. So content goes to a fresh name of ours, which is then renamed; nothing that lies
there is opened. What cannot be written is an OSError, for the caller to say what is lost; a place that is
refused, an InputError.
"""

import errno
import hashlib
import os
import re
import secrets
import stat
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import IO, Any

from ssl_kd.errors import InputError

PARTIAL = ".part"  # ends the name of a file that is being written
_FRESH = re.compile(r"(.+?)(?:\.[0-9a-f]{8})?\.part")  # older versions gave names without digits
_NO_ROOM = (errno.ENOSPC, errno.EFBIG, getattr(errno, "EDQUOT", errno.ENOSPC), errno.EROFS)
_NUMBER = re.compile(r"\(os error (\d+)\)")  # in what libraries in Rust say
_NO_LINK = getattr(os, "O_NOFOLLOW", 0)
_NO_WAIT = getattr(os, "O_NONBLOCK", 0)


class NotWritten(OSError):
    """A file that could not be written: its name and why; what was there before is still there."""


def unwritten(error: BaseException) -> str:
    """What could not be written and why, if that is what an error is about; "" for any other error."""
    if not isinstance(error, OSError):
        number = _NUMBER.search(str(error))
        error = OSError(int(number[1]), os.strerror(int(number[1]))) if number else OSError()
    if not isinstance(error, NotWritten) and error.errno not in _NO_ROOM:
        return ""
    return f"{error.filename or 'a file'} could not be written ({error.strerror})"


@contextmanager
def _named(path: Path) -> Iterator[None]:
    """What fails inside for want of room, whichever library says so, becomes NotWritten of `path`."""
    try:
        yield
    except InputError:
        raise
    except Exception as error:
        number = _NUMBER.search(str(error))
        if isinstance(error, OSError) and (error.filename is None or _beside(error.filename, path)):
            why = error.strerror or " ".join(str(error).split()) or "input/output error"
            raise NotWritten(error.errno or errno.EIO, why, str(path)) from error
        if number and not isinstance(error, OSError):
            raise NotWritten(int(number[1]), os.strerror(int(number[1])), str(path)) from error
        raise


def _beside(name: object, path: Path) -> bool:
    """Whether an error names the file, its folder, or what is written for it."""
    said = Path(os.path.realpath(os.fsdecode(name)))  # type: ignore[arg-type]
    folder = Path(os.path.realpath(path.parent))
    return (
        said == folder
        or (said.parent == folder and said.name.startswith(path.name))
        or said in folder.parents
    )


def write_whole(
    path: str | Path, content: str | bytes, *, inside: str | Path | None = None, mode: int = 0o666
) -> None:
    """Writes a file of text (UTF-8) or bytes, whole or not at all; makes its folder.

    inside: the folder that it has to lie in, links followed. mode: of the file, less the user's umask.
    Raises InputError where a link leads out of `inside`, or where something lies that is no file; OSError
    where nothing can be written.
    """
    with fresh(path, inside=inside, mode=mode) as part:
        with open(part, "wb") as file:
            file.write(content.encode("utf-8") if isinstance(content, str) else content)


@contextmanager
def fresh(path: str | Path, *, inside: str | Path | None = None, mode: int = 0o666) -> Iterator[Path]:
    """An empty file beside `path`, for a library to write; takes the place of `path` when the block ends.

    Whatever goes wrong, the file that was there before stays. Arguments and errors: those of `write_whole`.
    """
    target = place(path, inside)
    with _named(Path(path)):
        with _fresh(target, mode) as part:
            yield part


@contextmanager
def _fresh(target: Path, mode: int) -> Iterator[Path]:
    make_folder(target.parent)
    part = target.with_name(f"{target.name}.{secrets.token_hex(4)}{PARTIAL}")
    os.close(os.open(part, os.O_WRONLY | os.O_CREAT | os.O_EXCL | _NO_LINK, mode))
    try:
        yield part
        sync(part)
        os.replace(part, target)
    except BaseException:
        part.unlink(missing_ok=True)
        raise
    sync(target.parent)


@contextmanager
def appending(path: str | Path, *, inside: str | Path | None = None) -> Iterator[IO[str]]:
    """A text file opened for what is added at its end. Errors are those of `write_whole`."""
    file = open_end(path, inside=inside)
    with file:
        yield file


def open_end(path: str | Path, *, inside: str | Path | None = None) -> IO[str]:
    """As `appending`, for a file that stays open."""
    target = place(path, inside)
    # Should something be put there meanwhile: a pipe is not waited for, a link is not followed.
    flags = os.O_WRONLY | os.O_APPEND | os.O_CREAT | _NO_LINK | _NO_WAIT
    descriptor = os.open(target, flags, 0o666)
    if not stat.S_ISREG(os.fstat(descriptor).st_mode):
        os.close(descriptor)
        raise InputError(_no_file(target))
    return os.fdopen(descriptor, "a", encoding="utf-8")


def place(path: str | Path, inside: str | Path | None = None) -> Path:
    """Where a file of that name would really lie: all links but a last one followed; opens nothing.

    Raises InputError where that is out of `inside`, or where something lies that is no file.
    """
    path = Path(path)
    target = Path(os.path.realpath(path.parent)) / path.name
    if inside is not None:
        check_inside(path, inside)
    try:
        kind = os.lstat(target).st_mode
    except (FileNotFoundError, NotADirectoryError):
        return target
    if not stat.S_ISREG(kind) and not stat.S_ISLNK(kind):
        raise InputError(_no_file(path))
    return target


def check_inside(path: str | Path, inside: str | Path) -> None:
    """Refuses a path that lies, itself or through a link, out of the folder `inside`. Raises InputError."""
    path, whole = Path(path), Path(os.path.realpath(inside))
    real = Path(os.path.realpath(path))  # follows a last link too, also one that leads nowhere
    if not real.is_relative_to(whole) or not Path(os.path.realpath(path.parent)).is_relative_to(whole):
        raise InputError(
            f"{path} is or lies behind a link that leads out of {inside}, to {real}, and what is written "
            "there would overwrite something else; take the link away"
        )


def make_folder(path: str | Path, *, inside: str | Path | None = None) -> Path:
    """Makes a folder and those above it. Raises InputError where a link leads out of `inside`; OSError."""
    path = Path(path)
    if inside is not None:
        check_inside(path, inside)
    path.mkdir(parents=True, exist_ok=True)
    return path


def remains_of(path: Path) -> str:
    """The name of the file that `path` was to become when its writing was cut short; "" for another file."""
    found = _FRESH.fullmatch(path.name)
    return found[1] if found and stat.S_ISREG(path.lstat().st_mode) else ""


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


def _no_file(path: Path) -> str:
    return f"{path} is a folder, a pipe or a device, and no file that could be written; take it away"
