"""Lines at the end of a file: whole or not there, and kept while the disk has no room for them."""

import os
import sys
from pathlib import Path

from ssl_kd.system.text import print_line
from ssl_kd.system.writing import appending, sync

MOST = 10_000  # lines that are kept


class Lines:
    """Adds lines to a file. One that cannot be written is no error: it is said once, kept and tried again."""

    def __init__(self, path: Path, inside: Path) -> None:
        self.path, self.inside = path, inside
        self.kept: list[str] = []
        self.lost = 0
        self._said = False

    def add(self, line: str) -> None:
        """Writes a line, after those that are kept."""
        self.kept.append(line)
        if len(self.kept) > MOST:
            self.lost += 1
            del self.kept[0]
        self.flush()

    def flush(self) -> None:
        """Tries to write the lines that are kept."""
        if not self.kept:
            return
        content = "".join(f"{line}\n" for line in self.kept).encode()
        try:
            with appending(self.path, inside=self.inside) as file:
                _all_or_none(file.fileno(), content)
        except OSError as error:
            self._fails(error)
            return
        if self._said:
            self._said = False
            self._say(f"has {len(self.kept)} lines that had been kept{self._without()}")
        self.kept.clear()
        self.lost = 0

    def sync(self) -> None:
        """Tries to have all lines on the disk."""
        self.flush()
        try:
            if self.path.exists():
                sync(self.path)
        except OSError as error:
            self._fails(error)

    def close(self) -> None:
        """Tries a last time, and says how many lines are missing."""
        self.flush()
        if self.kept:
            self._say(f"lacks its last {len(self.kept)} lines, which could not be written{self._without()}")

    def _fails(self, error: OSError) -> None:
        if not self._said:
            self._said = True
            self._say(f"could not be written ({error.strerror}); its lines are kept and tried again")

    def _without(self) -> str:
        return f"; {self.lost} before them are lost" if self.lost else ""

    def _say(self, what: str) -> None:
        print_line(f"{self.path} {what}", sys.stderr)


def _all_or_none(descriptor: int, content: bytes) -> None:
    """A line that is cut short would spoil the next one."""
    size = os.fstat(descriptor).st_size
    try:
        while content:
            content = content[os.write(descriptor, content) :]
    except OSError:
        os.ftruncate(descriptor, size)
        raise
