"""The one way to open a file that may be anybody's: what is a pipe or a device is never waited for."""

import os
import stat
from io import BufferedReader
from pathlib import Path

_NO_WAIT = getattr(os, "O_NONBLOCK", 0)


class NoFile(OSError):
    """What lies there is a pipe, a socket or a device."""


def opened(path: str | Path) -> BufferedReader:
    """The file, opened for reading bytes. Raises OSError; NoFile, which is one, for what is none."""
    descriptor = os.open(path, os.O_RDONLY | _NO_WAIT | getattr(os, "O_BINARY", 0))
    try:
        if not stat.S_ISREG(os.fstat(descriptor).st_mode):
            raise NoFile(f"{path} is a folder, a pipe or a device, and no file that could be read")
        return os.fdopen(descriptor, "rb")
    except BaseException:
        os.close(descriptor)
        raise
