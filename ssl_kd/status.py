"""status.json: what a run is doing, true even of one that was killed; and that nobody else works on it.

| state | meaning |
|---|---|
| running | at work; `beat` is at most BEAT seconds old |
| interrupted | stopped when asked; saved, the same command continues |
| stopped | ended by its collapse alarm |
| failed | ended by an error, which is in `reason` |
| done | finished and scored |
| killed | says running, but nobody is: a reader finds that out, the file cannot know |
"""

import errno
import json
import os
import socket
import stat
import threading
import time
from collections.abc import Callable
from datetime import datetime
from pathlib import Path
from typing import IO, Any

from ssl_kd.errors import InputError
from ssl_kd.system.documents import mapping_of
from ssl_kd.system.writing import open_end, write_whole

try:
    import fcntl
except ImportError:  # not on Windows, where two processes on one folder are not noticed
    fcntl = None  # type: ignore[assignment]

BEAT = 15.0  # seconds between two signs of life
LATE = 4 * BEAT  # after which one on another machine is taken for dead
_HELD: set[Path] = set()  # by this process: closing any descriptor of a locked file would give the lock up


class Status:
    """Held by the process that works on the run in `folder`; writes status.json until it ends.

    step: optimiser steps done; saved: those that the newest checkpoint has. say: takes a sentence
    for the user. Raises InputError where another process works on the run.
    """

    def __init__(self, folder: Path, steps: int, say: Callable[[str], None] = print) -> None:
        self.folder, self.steps = folder, steps
        before = _said(folder)
        self.step, self.saved = before.get("step", 0), before.get("saved", 0)
        self._ends, self._writing = threading.Event(), threading.Lock()
        self._say, self._failed = say, 0
        self._lock = _take(folder, say)
        self._began = _now()
        self._thread = threading.Thread(target=self._beat, name="status", daemon=True)

    def __enter__(self) -> "Status":
        self._write_if_possible()
        self._thread.start()
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, trace: object) -> None:
        self._ends.set()
        self._thread.join()
        try:
            self._write_if_possible(*_end(error))
        finally:
            _unlock(self.folder, self._lock)

    def saved_at(self, step: int) -> None:
        """Says at once that there is a checkpoint."""
        self.saved = step
        self._write_if_possible()

    def _beat(self) -> None:
        while not self._ends.wait(BEAT):
            self._write_if_possible()

    def _write_if_possible(self, state: str = "running", reason: str | None = None) -> None:
        """A full disk ends no training, and hides no error: it is said once and tried at the next beat."""
        try:
            self._write(state, reason)
        except OSError as error:
            self._failed += 1
            if self._failed == 1:
                self._say(f"status.json could not be written ({error.strerror}); it is tried again")
        else:
            if self._failed:
                self._say(f"status.json is written again, after {self._failed} times that it could not be")
            self._failed = 0

    def _write(self, state: str, reason: str | None = None) -> None:
        said = {
            "state": state,
            **({"reason": reason} if reason else {}),
            "step": self.step,
            "steps": self.steps,
            "saved": self.saved,
            "began": self._began,
            "beat": _now(),
            "host": socket.gethostname(),
            "pid": os.getpid(),
        }
        with self._writing:  # the run saves while the heart beats
            write_whole(self.folder / "status.json", json.dumps(said, indent=2) + "\n", inside=self.folder)


def read(folder: str | Path) -> dict[str, Any] | None:
    """What status.json says, "killed" in place of a "running" that is not true; None where there is none."""
    said = _said(Path(folder))
    if not said:
        return None
    if said.get("state") == "running" and not _alive(Path(folder), said):
        said["state"] = "killed"
    return said


def _alive(folder: Path, said: dict[str, Any]) -> bool:
    if said.get("host") != socket.gethostname():
        return _beats(said)
    if folder.resolve() in _HELD:
        return True
    locked = _locked(folder)
    return _beats(said) if locked is None else locked


def _beats(said: dict[str, Any]) -> bool:
    """Whether the last sign of life is recent. One of the future is none: some clock is wrong."""
    return 0 <= _age(said) < LATE


def _locked(folder: Path) -> bool | None:
    """Whether a process of this machine works on the folder; None where its file system cannot say."""
    if fcntl is None:
        return None
    try:
        descriptor = os.open(folder / "lock", os.O_RDONLY | os.O_NONBLOCK)  # a pipe is not waited for
    except FileNotFoundError:
        return False
    except OSError:
        return None
    try:
        if not stat.S_ISREG(os.fstat(descriptor).st_mode):
            return None
        fcntl.lockf(descriptor, fcntl.LOCK_SH | fcntl.LOCK_NB)
    except OSError as error:
        return True if error.errno in _TAKEN else None
    finally:
        os.close(descriptor)
    return False


_TAKEN = (errno.EACCES, errno.EAGAIN)  # by another process; any other errno is of a file system without locks


def _take(folder: Path, say: Callable[[str], None]) -> IO[str] | None:
    """Takes the folder for this process. The lock ends with the process, however that ends."""
    said = _said(folder)
    if folder.resolve() in _HELD:
        raise InputError(_busy(folder, said))
    file, works = _lock(folder)
    if file is None and works:
        raise InputError(_busy(folder, said))
    # File systems of clusters do not always lock between machines, and some not at all.
    here = said.get("host") in (None, socket.gethostname())
    if said.get("state") == "running" and (not here or (not works and said.get("pid") != os.getpid())):
        try:
            _outwait(folder, said, say)
        except BaseException:
            if file is not None:
                file.close()
            raise
    if file is not None:
        _HELD.add(folder.resolve())
    return file


def _lock(folder: Path) -> tuple[IO[str] | None, bool]:
    """The locked file, or None; and whether the file system locks."""
    if fcntl is None:
        return None, False
    file = open_end(folder / "lock", inside=folder)  # held until the run ends
    try:
        fcntl.lockf(file, fcntl.LOCK_EX | fcntl.LOCK_NB)  # of the process: a forked worker does not keep it
    except OSError as error:
        file.close()
        return None, error.errno in _TAKEN
    return file, True


def _outwait(folder: Path, said: dict[str, Any], say: Callable[[str], None]) -> None:
    """Waits until a process that was killed would have given a sign of life; InputError where one comes.

    It compares what is said twice and no clocks, which differ between machines: a beat somewhat in the
    future may be of a machine whose clock is ahead.
    """
    left = LATE - abs(_age(said))
    if left <= 0:
        return
    say(
        f"{folder} was worked on by process {said.get('pid')} on {said.get('host')}, {abs(_age(said)):.0f} s "
        f"ago: waiting {left:.0f} s for a sign of life, since it may have been killed"
    )
    until = time.monotonic() + left
    while time.monotonic() < until:
        time.sleep(min(1.0, BEAT / 4))
        now = _said(folder)
        if now.get("state") != "running":
            return
        if now != said:
            raise InputError(_busy(folder, now))


def _unlock(folder: Path, file: IO[str] | None) -> None:
    if file is not None:
        file.close()
        _HELD.discard(folder.resolve())


def _busy(folder: Path, said: dict[str, Any]) -> str:
    who = f" (process {said['pid']} on {said['host']})" if "pid" in said and "host" in said else ""
    return f"another process works on {folder}{who}; wait for it, stop it, or name another run="


def _end(error: BaseException | None) -> tuple[str, str | None]:
    """The state that a run ends in; exceptions that are no failure say theirs."""
    if error is None:
        return "done", None
    if isinstance(error, KeyboardInterrupt):
        return "interrupted", None
    text = " ".join(str(error).split()) or type(error).__name__
    if not isinstance(error, InputError):
        text = text if hasattr(error, "state") else f"{type(error).__name__}: {text}"
    return getattr(error, "state", "failed"), text


def _said(folder: Path) -> dict[str, Any]:
    try:
        return mapping_of(folder / "status.json")
    except InputError:
        return {}


def _now() -> str:
    return datetime.now().astimezone().isoformat(timespec="seconds")


def _age(said: dict[str, Any]) -> float:
    """Seconds since the last sign of life."""
    try:
        return (datetime.now().astimezone() - datetime.fromisoformat(str(said.get("beat")))).total_seconds()
    except (ValueError, TypeError):
        return float("inf")
