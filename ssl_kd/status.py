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

import json
import os
import socket
import threading
from datetime import datetime
from pathlib import Path
from typing import IO, Any

from ssl_kd.disk import write_whole
from ssl_kd.errors import InputError

try:
    import fcntl
except ImportError:  # not on Windows, where two processes on one folder are not noticed
    fcntl = None  # type: ignore[assignment]

BEAT = 15.0  # seconds between two signs of life
LATE = 4 * BEAT  # after which one on another machine is taken for dead
_HELD: set[Path] = set()  # by this process: closing any descriptor of a locked file would give the lock up


class Status:
    """Held by the process that works on the run in `folder`; writes status.json until it ends.

    step: optimiser steps done; saved: those that the newest checkpoint has. Raises InputError where another
    process works on the run.
    """

    def __init__(self, folder: Path, steps: int) -> None:
        self.folder, self.steps = folder, steps
        before = _said(folder)
        self.step, self.saved = before.get("step", 0), before.get("saved", 0)
        self._ends, self._writing = threading.Event(), threading.Lock()
        self._lock = _lock(folder)
        self._began = _now()
        self._thread = threading.Thread(target=self._beat, name="status", daemon=True)

    def __enter__(self) -> "Status":
        self._write("running")
        self._thread.start()
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, trace: object) -> None:
        self._ends.set()
        self._thread.join()
        try:
            self._write(*_end(error))
        finally:
            _unlock(self.folder, self._lock)

    def saved_at(self, step: int) -> None:
        """Says at once that there is a checkpoint."""
        self.saved = step
        self._write_if_possible()

    def _beat(self) -> None:
        while not self._ends.wait(BEAT):
            self._write_if_possible()

    def _write_if_possible(self) -> None:
        try:
            self._write("running")
        except OSError:  # a full disk: the next checkpoint will say so
            pass

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
            write_whole(self.folder / "status.json", json.dumps(said, indent=2) + "\n")


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
        return _age(said) < LATE
    if folder.resolve() in _HELD:
        return True
    try:
        _unlock(folder, _lock(folder))
    except InputError:
        return True
    return False


def _lock(folder: Path) -> IO[str] | None:
    """Takes the folder for this process. The lock ends with the process, however that ends."""
    said = _said(folder)
    elsewhere = said.get("host") not in (None, socket.gethostname())
    if elsewhere and said.get("state") == "running" and _age(said) < LATE:
        raise InputError(_busy(folder, said))  # file systems of clusters do not always lock between machines
    if fcntl is None:
        return None
    if folder.resolve() in _HELD:
        raise InputError(_busy(folder, said))
    file = open(folder / "lock", "a")  # noqa: SIM115  held until the run ends
    try:
        fcntl.lockf(file, fcntl.LOCK_EX | fcntl.LOCK_NB)  # of the process: a forked worker does not keep it
    except OSError as error:
        file.close()
        raise InputError(_busy(folder, said)) from error
    _HELD.add(folder.resolve())
    return file


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
        said = json.loads((folder / "status.json").read_text())
    except (OSError, ValueError):
        return {}
    return said if isinstance(said, dict) else {}


def _now() -> str:
    return datetime.now().astimezone().isoformat(timespec="seconds")


def _age(said: dict[str, Any]) -> float:
    """Seconds since the last sign of life."""
    try:
        return (datetime.now().astimezone() - datetime.fromisoformat(str(said.get("beat")))).total_seconds()
    except (ValueError, TypeError):
        return float("inf")
