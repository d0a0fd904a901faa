"""Waiting for those who decode: whoever says nothing is named with the image it is at, and ended in time.

A network drive that has gone makes a read wait for ever, and a slow one only for long: what counts is that
images come, however slowly.
"""

import mmap
import os
import sys
import time
from collections.abc import Callable, Iterator

import numpy as np

from ssl_kd.errors import InputError
from ssl_kd.system.text import print_line

QUIET = 60.0  # seconds without an image after which whoever is waited for is named
PATIENCE = 600.0  # and after which reading ends, unless SSL_KD_PATIENCE says another number
POLL = 0.5  # seconds between two looks


def patience() -> float:
    """Seconds. Raises InputError for an SSL_KD_PATIENCE that is no number."""
    said = os.environ.get("SSL_KD_PATIENCE")
    try:
        seconds = PATIENCE if said is None else float(said)
    except ValueError:
        seconds = 0.0
    if not seconds > 0:
        raise InputError(f'SSL_KD_PATIENCE is a number of seconds without an image, not "{said}"')
    return seconds


class Progress:
    """How many images each of those who decode has begun, and which it is at; shared with forked processes.

    name: of an image by its position, for people.
    """

    def __init__(self, count: int, name: Callable[[int], str], what: str) -> None:
        # Of its own, not in /dev/shm, which is small in containers; a zero-filled page or two.
        self._marks = np.frombuffer(mmap.mmap(-1, 16 * count), np.int64).reshape(count, 2)
        self.name, self.what, self.count = name, what, count

    def begin(self, worker: int, image: int) -> None:
        """The worker is at this image from now on."""
        self._marks[worker] = self._marks[worker, 0] + 1, image

    def begun(self, worker: int) -> int:
        return int(self._marks[worker, 0])

    def where(self, worker: int) -> str:
        """ "worker 2 of 8, at cat/7.png" """
        who = f"{self.what} {worker + 1} of {self.count}"
        return f"{who}, at {self.name(int(self._marks[worker, 1]))}" if self.begun(worker) else who

    def watched(self, worker: int) -> Iterator[None]:
        """To be asked for the next item at every look at a worker that is waited for.

        Says once when it was quiet for QUIET seconds, and raises InputError after `patience()`.
        """
        most, begun, since, said = patience(), self.begun(worker), time.monotonic(), False
        while True:
            yield
            now, silent = self.begun(worker), time.monotonic() - since
            if now != begun:
                begun, since, said = now, time.monotonic(), False
            elif silent >= most:
                raise InputError(
                    f"no image for {silent:.0f} s from {self.where(worker)}: is the drive there? The same "
                    "command continues after the last checkpoint; SSL_KD_PATIENCE=seconds waits longer"
                )
            elif silent >= QUIET and not said:
                said = True
                print_line(
                    f"waiting for data: nothing for {silent:.0f} s from {self.where(worker)}; given up after "
                    f"{most:.0f} s",
                    sys.stderr,
                )
