"""Asked to stop: Ctrl-C, SIGTERM, SIGHUP of a closed terminal, SIGUSR1 of SLURM before the time is over."""

import os
import signal
import sys
import threading
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from types import FrameType
from typing import Any

REQUEUE = 75  # exit code (EX_TEMPFAIL of sysexits.h): stopped when asked, saved, the same command continues
_NAMES = ("SIGINT", "SIGTERM", "SIGUSR1", "SIGHUP")
SIGNALS = tuple(getattr(signal, name) for name in _NAMES if hasattr(signal, name))
GRACE = (
    10.0  # seconds that one of several processes still waits for its data, since all stop after the same step
)

_stop: "Stop | None" = None  # that of the training which runs
_command = False  # whether this process is the command, and ends with it


class Interrupted(BaseException):
    """The run was asked to stop, and what it has done so far is saved.

    No Exception: who reads a file and takes whatever goes wrong for a broken one must not take this.
    """

    state = "interrupted"


class Starved(Interrupted):
    """Asked to stop while it waited for data: between two steps, so that what it has done can be saved."""


class Stop:
    """Inside it a signal is a wish: kept while steps run, so that they end well, and met at once elsewhere.

    A second Ctrl-C does not wait: KeyboardInterrupt. Further other signals change nothing, since
    whoever sends them sends them more than once; after `ends` no signal does.
    """

    def __init__(self) -> None:
        self.asked = False
        self._waits = self._reads = self._ended = False

    def __enter__(self) -> "Stop":
        global _stop
        if threading.current_thread() is threading.main_thread():  # Python handles signals nowhere else
            self._before = {number: signal.signal(number, self._ask) for number in handled()}
            self._outer, _stop = _stop, self
        return self

    def __exit__(self, *error: object) -> None:
        global _stop
        if hasattr(self, "_before"):
            restore(self._before, self.asked)
            _stop = self._outer

    @contextmanager
    def waiting(self) -> Iterator[None]:
        """While inside, a signal only sets `asked`."""
        self._waits = True
        try:
            yield
        finally:
            self._waits = False

    @contextmanager
    def reading(self) -> Iterator[None]:
        """While inside, between two steps, a signal ends what is waited for.

        Of several processes each first waits for GRACE seconds, in which data that are not stalled arrive.
        """
        self._reads = True
        try:
            if self.asked:
                self._hurry()
            yield
        finally:
            self._reads = False
            if self.asked and self._waits and hasattr(self, "_alarm"):
                signal.setitimer(signal.ITIMER_REAL, 0)
                signal.signal(signal.SIGALRM, self.__dict__.pop("_alarm"))

    def ends(self) -> None:
        """From now on signals change nothing."""
        self._ended = True

    def _ask(self, number: int, frame: FrameType | None) -> None:
        if self._ended:
            return
        if self.asked and number == signal.SIGINT:
            raise KeyboardInterrupt
        again, self.asked = self.asked, True
        if not self._waits and not again:
            raise Interrupted
        if self._waits and self._reads:
            self._hurry()

    def _hurry(self) -> None:
        if int(os.environ.get("WORLD_SIZE", "1")) == 1:
            raise Starved
        if not hasattr(self, "_alarm") and hasattr(signal, "setitimer"):
            self._alarm = signal.signal(signal.SIGALRM, self._starve)
            signal.setitimer(signal.ITIMER_REAL, GRACE)

    def _starve(self, number: int, frame: FrameType | None) -> None:
        if self._reads:
            raise Starved


@contextmanager
def reading() -> Iterator[None]:
    """Around a wait for data, wherever it is: see `Stop.reading`."""
    if _stop is None or threading.current_thread() is not threading.main_thread():
        yield
    else:
        with _stop.reading():
            yield


def handled() -> list[int]:
    """The signals that ask to stop; SIGHUP not where it is ignored from the start, as under nohup."""
    hangup = getattr(signal, "SIGHUP", None)
    return [number for number in SIGNALS if number != hangup or signal.getsignal(number) != signal.SIG_IGN]


def own_process(words: Sequence[str]) -> None:
    """Notes whether this process is the command `words` and ends with it, or some program that calls it."""
    global _command
    _command = list(words) == sys.argv[1:]


def restore(before: dict[int, Any], asked: bool) -> None:
    """Puts the handlers back; in a command that was asked to stop, none follows: its exit code stays."""
    for number, handler in before.items():
        signal.signal(number, signal.SIG_IGN if asked and _command else handler)


@contextmanager
def passed_on(send: Callable[[int], Any]) -> Iterator[None]:
    """SIGTERM, SIGHUP and SIGUSR1 are handed to `send`; Ctrl-C needs that not, a terminal sends it to all."""
    asked = False

    def hand_on(number: int, frame: FrameType | None) -> None:
        nonlocal asked
        asked = True
        send(number)

    numbers = [number for number in handled() if number != signal.SIGINT]
    before = {number: signal.signal(number, hand_on) for number in numbers}
    try:
        yield
    finally:
        restore(before, asked)
