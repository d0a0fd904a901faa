"""Asked to stop: Ctrl-C, SIGTERM, and SIGUSR1, which SLURM sends before the time is over."""

import signal
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from types import FrameType
from typing import Any

REQUEUE = 75  # exit code (EX_TEMPFAIL of sysexits.h): stopped when asked, saved, the same command continues
SIGNALS = tuple(getattr(signal, name) for name in ("SIGINT", "SIGTERM", "SIGUSR1") if hasattr(signal, name))


class Interrupted(Exception):
    """The run was asked to stop, and what it has done so far is saved."""

    state = "interrupted"


class Stop:
    """Inside it a signal is a wish: kept while steps run, so that they end well, and met at once elsewhere.

    A second Ctrl-C does not wait: KeyboardInterrupt. Further SIGTERM and SIGUSR1 change nothing, since
    whoever sends them sends them more than once.
    """

    def __init__(self) -> None:
        self.asked = False
        self._waits = False

    def __enter__(self) -> "Stop":
        if threading.current_thread() is threading.main_thread():  # Python handles signals nowhere else
            self._before = {number: signal.signal(number, self._ask) for number in SIGNALS}
        return self

    def __exit__(self, *error: object) -> None:
        for number, handler in getattr(self, "_before", {}).items():
            signal.signal(number, handler)

    @contextmanager
    def waiting(self) -> Iterator[None]:
        """While inside, a signal only sets `asked`."""
        self._waits = True
        try:
            yield
        finally:
            self._waits = False

    def _ask(self, number: int, frame: FrameType | None) -> None:
        if self.asked and number == signal.SIGINT:
            raise KeyboardInterrupt
        again, self.asked = self.asked, True
        if not self._waits and not again:
            raise Interrupted


@contextmanager
def passed_on(send: Callable[[int], Any]) -> Iterator[None]:
    """SIGTERM and SIGUSR1 are handed to `send`; Ctrl-C needs that not, a terminal sends it to all."""
    handled = [number for number in SIGNALS if number != signal.SIGINT]
    before = {number: signal.signal(number, lambda got, frame: send(got)) for number in handled}
    try:
        yield
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)
