"""Anybody's words on a screen or a page: what could steer a terminal or is not seen becomes its escape.

Names of folders, peers, classes and files, and the messages of exceptions, may hold anything: sequences that
move the cursor or set a window's title, characters that turn the reading direction, line ends, bytes that are
no text. Nothing is printed but through here, or through `ssl_kd.console`, which asks here.
"""

import shlex
import sys
import traceback
import warnings
from typing import Any, TextIO


def printable(text: str) -> str:
    r"""The text as it can stand in a line or on a page: ESC as `\x1b`, a line's end as `\n`.

    Escaped are control characters (C0, C1, DEL), separators other than the space, marks without width such
    as those of the reading direction, lone surrogates (bytes of a file's name that are no text), and
    characters that Unicode does not define. Letters of every script stay.
    """
    if text.isprintable():
        return text
    return "".join(c if c.isprintable() else c.encode("unicode_escape").decode() for c in text)


def typed(word: object) -> str:
    """A word of a command that is printed for people to type: a shell takes it for that one word."""
    return shlex.quote(printable(str(word)))


def printable_lines(text: str) -> str:
    """As `printable`, for a text whose line ends are meant."""
    return "\n".join(map(printable, text.split("\n")))


def printable_values(value: Any) -> Any:
    """As `printable`, for every text in nested mappings and lists."""
    if isinstance(value, str):
        return printable(value)
    if isinstance(value, dict):
        return {printable_values(key): printable_values(entry) for key, entry in value.items()}
    return [printable_values(entry) for entry in value] if isinstance(value, list | tuple) else value


def print_line(text: object = "", file: TextIO | None = None) -> None:
    """Prints one line, to standard output where no file is said."""
    print(printable(str(text)), file=file or sys.stdout, flush=file is not None)


def print_lines(text: str) -> None:
    """Prints a text whose line ends are meant; one at its very end is not doubled."""
    print(printable_lines(text.removesuffix("\n")))


def guard_streams() -> None:
    """Makes what Python itself prints, tracebacks and warnings, printable too; for a command's process."""
    sys.excepthook = _traceback
    warnings.showwarning = _warning
    for stream in (sys.stdout, sys.stderr):
        if reconfigure := getattr(stream, "reconfigure", None):
            reconfigure(errors="backslashreplace")  # where the terminal's encoding lacks a letter


def _traceback(kind: type[BaseException], error: BaseException, at: Any) -> None:
    for line in "".join(traceback.format_exception(kind, error, at)).splitlines():
        print_line(line, sys.stderr)


def _warning(
    message: Warning | str,
    category: type[Warning],
    filename: str,
    lineno: int,
    file: TextIO | None = None,
    line: str | None = None,
) -> None:
    for text in warnings.formatwarning(message, category, filename, lineno, line).splitlines():
        print_line(text, file or sys.stderr)
