"""Waiting for data: never for ever, whoever dies, stands still or is asked to stop; slow is not dead."""

import faulthandler
import os
import re
import signal
import subprocess
import sys
import threading
import time
from itertools import islice
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from ssl_kd.cli import main
from ssl_kd.data import waiting
from ssl_kd.data.ahead import ahead
from ssl_kd.data.loaders import Batches, resident
from ssl_kd.errors import InputError
from ssl_kd.run import Run
from ssl_kd.status import read

RUN = [
    "train", "run=runs/a", "data=folder", "data.root=images", "data.size=8", "batch_size=8", "epochs=3",
    "probe.linear=false", "probe.knn=[1]", "probe.baselines=false", "precision=float32", "threads=1",
    "peers={a: {backbone: {name: resnet8, base: 4}}}", "log_every=1",
]  # fmt: skip
STREAMED = [*RUN, "data.resident_bytes=0"]


def images(count: int = 48) -> None:
    for i in range(count):
        place = Path("images", "train" if i % 4 else "test", f"class{i % 2}")
        place.mkdir(parents=True, exist_ok=True)
        Image.fromarray(np.full((8, 8, 3), i, np.uint8)).save(place / f"{i}.png")


class Odd:
    """A source of the user's own, in which image 5 does what `does` says."""

    shape, classes, labels = (3, 4, 4), (), None

    def __init__(self, does, pause: float = 0.0) -> None:
        self.does, self.pause = does, pause

    def __len__(self) -> int:
        return 64

    def name(self, i: int) -> str:
        return f"drive/{i}.png"

    def __getitem__(self, i: int) -> np.ndarray:
        time.sleep(self.pause)
        if i == 5:
            self.does()
        return np.full(self.shape, i, np.uint8)


def pipe_read() -> None:
    """What a read from a network drive that has gone does."""
    reader, writer = os.pipe()
    os.read(reader, 1)


def memory_error() -> None:
    raise MemoryError("can't allocate memory")


def end(number: int):
    def now() -> None:
        faulthandler.disable()
        os.kill(os.getpid(), number)
        time.sleep(5)

    return now


def all_of(source, workers: int) -> None:
    for _ in Batches(source, 8, resident_bytes=0, workers=workers).once():
        pass


@pytest.mark.parametrize(
    ("does", "says"),
    [
        (end(signal.SIGKILL), r"ended \(worker 1 of 2, at drive/5.png; SIGKILL\).*data.workers="),
        (end(signal.SIGBUS), r"ended \(worker 1 of 2, at drive/5.png; SIGBUS\)"),
        (lambda: os._exit(3), r"ended \(worker 1 of 2, at drive/5.png; exit code 3\)"),
    ],
)
def test_a_worker_that_dies_is_noticed_at_once(does, says):
    began = time.monotonic()
    with pytest.raises(InputError, match=says):
        all_of(Odd(does), 2)
    assert time.monotonic() - began < 4


def test_what_a_worker_raises_arrives_as_it_was():
    with pytest.raises(MemoryError, match="can't allocate"):
        all_of(Odd(memory_error), 2)


@pytest.mark.parametrize("task", [np.arange(3), torch.arange(3)], ids=["array", "tensor"])
@pytest.mark.parametrize("workers", [0, 1])
def test_what_a_task_comes_to_does_not_depend_on_who_does_it(task, workers):
    results = ahead(lambda at, begin: (np.asarray(at) * 2, len(at)), [task, task], workers, str, 64)
    assert [(array.tolist(), rest) for array, rest in results] == [([0, 2, 4], 3)] * 2


@pytest.fixture
def impatient(monkeypatch):
    monkeypatch.setattr(waiting, "QUIET", 0.3)
    monkeypatch.setenv("SSL_KD_PATIENCE", "1")


@pytest.mark.parametrize(
    ("read_all", "who"),
    [
        (lambda source: all_of(source, 2), "worker 1 of 2"),
        (lambda source: all_of(source, 0), "worker 1 of 1"),
        (lambda source: resident(source, 2), "thread . of 2"),
    ],
    ids=["processes", "none", "threads"],
)
@pytest.mark.parametrize("does", [pipe_read, lambda: time.sleep(1e6)], ids=["read", "sleep"])
def test_who_stands_still_is_named_and_then_ended(impatient, capsys, read_all, who, does):
    began = time.monotonic()
    with pytest.raises(InputError, match=rf"no image for 1 s from {who}, at drive/5.png.*SSL_KD_PATIENCE"):
        read_all(Odd(does))
    assert time.monotonic() - began < 4
    said = capsys.readouterr().err
    assert re.search(
        rf"waiting for data: nothing for . s from {who}, at drive/5.png; given up after 1 s", said
    )


def test_a_stopped_worker_stands_still_too(impatient):
    with pytest.raises(InputError, match="no image for 1 s from worker 1 of 2, at drive/5.png"):
        all_of(Odd(lambda: os.kill(os.getpid(), signal.SIGSTOP)), 2)


@pytest.mark.parametrize("workers", [0, 2])
def test_slow_is_not_dead(impatient, workers):
    source = Odd(lambda: None, pause=0.25)  # 2 s a batch
    batches = Batches(source, 8, resident_bytes=0, workers=workers).once()
    assert [batch["index"].tolist() for batch in islice(batches, 1)] == [list(range(8))]


@pytest.mark.parametrize("said", ["never", "0", "nan"])
def test_a_patience_that_is_no_number_is_refused(said, monkeypatch, capsys):
    images()
    monkeypatch.setenv("SSL_KD_PATIENCE", said)
    assert main(STREAMED) == 2
    assert "SSL_KD_PATIENCE is a number of seconds" in capsys.readouterr().err


@pytest.fixture
def drive(monkeypatch):
    """The images are on a drive that is gone as soon as there is a file `gone`."""
    from ssl_kd.data.files import Paths

    whole = Paths.read

    def read_there(self, i):
        if Path("gone").exists():
            pipe_read()
        return whole(self, i)

    monkeypatch.setattr(Paths, "read", read_there)


def ask(number: int) -> None:
    """Sends this process a signal, once it waits, if a Stop is there to take it."""
    if callable(signal.getsignal(number)) and signal.getsignal(number) is not signal.default_int_handler:
        os.kill(os.getpid(), number)


@pytest.mark.parametrize("workers", [0, 2])
@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGHUP, signal.SIGINT])
def test_a_signal_ends_the_wait_and_saves_what_was_done(monkeypatch, capsys, drive, number, workers):
    from ssl_kd import watchers

    images()
    whole = watchers.Logger.__call__

    def goes(self, step, result):
        whole(self, step, result)
        if step == 6:
            Path("gone").touch()
            threading.Timer(0.7, ask, [number]).start()

    monkeypatch.setattr(watchers.Logger, "__call__", goes)
    began = time.monotonic()
    assert main([*STREAMED, f"data.workers={workers}", "epochs=300", "save_every=200"]) == 75
    assert time.monotonic() - began < 20
    step = Run("runs/a")._step()
    assert step >= 6 and f"stopped after step {step} of 1200, waiting for data" in capsys.readouterr().out
    assert read("runs/a")["state"] == "interrupted"


def test_a_signal_ends_the_wait_for_what_is_decoded_once(drive, monkeypatch):
    from ssl_kd.data import loaders

    images()
    whole = loaders.in_chunks

    def goes(*given):
        Path("gone").touch()
        threading.Timer(0.5, ask, [signal.SIGTERM]).start()
        return whole(*given)

    monkeypatch.setattr(loaders, "in_chunks", goes)
    assert main(RUN) == 75
    Path("gone").unlink()
    monkeypatch.setattr(loaders, "in_chunks", whole)
    assert main(RUN) == 0


def test_a_small_dev_shm_is_no_matter():
    """Docker's has 64 MiB; here it has 64 KiB, of which two batches take more."""
    images(100)
    words = [word.replace("data.size=8", "data.size=64") for word in STREAMED]
    words += ["data.workers=2", "device=cpu", "epochs=1", "channels_last=false"]
    mount = "mount -t tmpfs -o size=64k tmpfs /dev/shm && exec "
    if os.geteuid() or subprocess.run(["unshare", "-m", "sh", "-c", f"{mount} true"], check=False).returncode:
        pytest.skip("nothing can be mounted here")
    command = f'{mount} "{sys.executable}" -m ssl_kd "$@"'
    child = subprocess.run(
        ["unshare", "-m", "sh", "-c", command, "sh", *words], capture_output=True, text=True, timeout=120
    )
    assert child.returncode == 0, child.stderr
