"""Clocks that are wrong, hosts that change their name, file systems without locks: who works on a run."""

import errno
import json
import os
import socket
import threading
import time
from datetime import datetime, timedelta
from pathlib import Path

import pytest

from ssl_kd import status
from ssl_kd.errors import InputError
from ssl_kd.status import Status, read

HERE = socket.gethostname()


def left(host: str = HERE, age: float = 0.0, **more: object) -> None:
    """The status.json of a run that says it is running, with a beat `age` seconds ago."""
    beat = (datetime.now().astimezone() - timedelta(seconds=age)).isoformat()
    said = {"state": "running", "step": 3, "saved": 0, "beat": beat, "host": host, "pid": 4_000_000}
    Path("status.json").write_text(json.dumps({**said, **more}))


@pytest.mark.parametrize(
    ("source", "host", "age", "state"),
    [
        ("a run on another machine", "other", 5, "running"),
        ("a run on another machine that was killed", "other", 90, "killed"),
        ("a clock that was set back by an hour", "other", -3600, "killed"),
        ("a clock somewhat ahead", "other", -2, "killed"),
        ("a machine without a battery: 1970", "other", 1.7e9, "killed"),
        ("a reboot, after which another process has the number", HERE, 5, "killed"),
        ("a clock of the future on this machine", HERE, -3600, "killed"),
    ],
)
def test_a_run_is_alive_by_a_recent_beat_or_a_lock(source, host, age, state):
    left(host, age, pid=os.getpid())
    assert read(".")["state"] == state
    assert not Path("lock").exists()  # nothing is written by looking


@pytest.mark.parametrize("beat", [None, 5, "soon", "2026-13-01", [], "9" * 400])
def test_a_beat_that_is_no_time_is_none(beat):
    left("other", beat=beat)
    assert read(".")["state"] == "killed"


def test_a_pipe_in_place_of_the_lock_is_not_waited_for():
    os.mkfifo("lock")
    left(HERE, 90)
    assert read(".")["state"] == "killed"


@pytest.fixture
def quick(monkeypatch):
    monkeypatch.setattr(status, "LATE", 1.0)
    monkeypatch.setattr(status, "BEAT", 0.2)


@pytest.mark.parametrize("age", [0.4, -0.4])
def test_a_container_of_another_name_waits_no_longer_than_the_limit_and_says_how_long(quick, age):
    left("container-1", age)
    said: list[str] = []
    began = time.monotonic()
    with Status(Path(), 10, said.append):
        assert time.monotonic() - began < 2
    (line,) = said
    assert "process 4000000 on container-1, 0 s ago: waiting 1 s" in line


@pytest.mark.parametrize("age", [5, -5, 1e9, -1e9])
def test_a_beat_out_of_the_limit_is_not_waited_for(quick, age):
    left("container-1", age)
    said: list[str] = []
    with Status(Path(), 10, said.append):
        pass
    assert not said


def test_a_sign_of_life_while_it_waits_is_a_refusal(quick):
    left("container-1", 0.1)
    later = threading.Timer(0.3, left, ["container-1", 0.0], {"step": 4})
    later.start()
    with pytest.raises(InputError, match=r"another process works on \. \(process 4000000 on container-1\)"):
        Status(Path(), 10, lambda line: None)
    later.join()
    with Status(Path(), 10, lambda line: None):  # the refusal has let the lock go
        pass


@pytest.mark.parametrize("number", [errno.ENOLCK, errno.ENOTSUP, errno.EINVAL])
def test_a_file_system_without_locks_is_no_second_process(quick, monkeypatch, number):
    def lockf(*given: object) -> None:
        raise OSError(number, os.strerror(number))

    monkeypatch.setattr(status.fcntl, "lockf", lockf)
    with Status(Path(), 10):
        assert read(".")["state"] == "running"
    assert read(".")["state"] == "done"
    left(HERE, 0.2)  # of a process that was killed: known by its beat alone
    said: list[str] = []
    with Status(Path(), 10, said.append):
        pass
    assert len(said) == 1


def test_a_clock_that_is_set_back_makes_no_negative_durations(capsys):
    from ssl_kd.cli import main

    folder = Path("runs/a")
    folder.mkdir(parents=True)
    (folder / "config.yaml").write_text("method: simclr\n")
    said = {"state": "interrupted", "step": 3, "began": "2026-01-02T00:00:00+00:00"}
    (folder / "status.json").write_text(json.dumps({**said, "beat": "2026-01-01T00:00:00+00:00"}))
    assert main(["runs", "format=json"]) == 0
    assert '"duration": null' in capsys.readouterr().out
