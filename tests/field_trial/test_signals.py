"""Signals: whatever comes, whenever and how often, what was done is saved and the exit code says so."""

import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pytest

from ssl_kd import study
from ssl_kd.cli import main
from ssl_kd.run import Run
from ssl_kd.signals import Interrupted, Stop, passed_on
from ssl_kd.status import read
from tests import warm

RUN = [
    "train", "run=runs/a", "data=digits", "data.limit=64", "batch_size=32", "epochs=1", "probe.linear=false",
    "probe.knn=[1]", "probe.baselines=false", "peers={a: {backbone: {name: resnet8, base: 4}}}",
    "precision=float32", "threads=1", "log_every=1",
]  # fmt: skip
STORM = (signal.SIGTERM, signal.SIGHUP, signal.SIGUSR1)


def test_signals_from_the_first_to_the_end_of_the_process_leave_the_exit_code():
    child = warm.Command(*RUN, "epochs=100000")
    until = time.monotonic() + 120
    while not Path("runs/a/metrics.jsonl").exists() and time.monotonic() < until and child.poll() is None:
        time.sleep(0.02)
    while child.poll() is None and time.monotonic() < until:
        for number in STORM:
            try:
                child.send_signal(number)
            except ProcessLookupError:
                break
        if "stopped after" in child.stdout:
            child.send_signal(signal.SIGINT)
        time.sleep(0.001)
    assert child.returncode == 75, child.stderr
    saved = json.loads(Path("runs/a/checkpoints/last/state.json").read_text())["step"]
    assert f"stopped after step {saved} of" in child.stdout
    assert (read("runs/a")["state"], read("runs/a")["saved"]) == ("interrupted", saved)


@pytest.mark.parametrize(
    ("where", "number"),
    [
        ("ssl_kd.training.read_data", signal.SIGHUP),  # the images are looked for
        ("ssl_kd.data.loaders.resident", signal.SIGTERM),  # and decoded
        ("ssl_kd.cache.Cache.fill", signal.SIGUSR1),
        ("ssl_kd.training.Evaluator.cohort", signal.SIGHUP),
        ("ssl_kd.training.Evaluator.cohort", signal.SIGINT),
    ],
)
def test_a_signal_is_met_wherever_it_comes(monkeypatch, where, number):
    module, _, name = where.rpartition(".")
    owner = _found(module)

    def asked(*given, **named):
        os.kill(os.getpid(), number)
        time.sleep(0.5)
        pytest.fail("it was not met")

    taught = [f"peers.{peer}.backbone={{name: resnet8, base: 4}}" for peer in ("teacher", "student")]
    taught = ["method=kd", *taught, "peers.teacher.weights=null", "peers.teacher.cache=true", "recipe=plain"]
    words = [*(word for word in RUN if "peers" not in word), *taught] if name == "fill" else RUN
    monkeypatch.setattr(owner, name, asked)
    before = [signal.getsignal(number) for number in STORM]
    assert main(words) == 75
    assert [signal.getsignal(number) for number in STORM] == before  # of a program that goes on
    assert not Path("runs/a/summary.json").exists()


def _found(path: str):
    import importlib

    try:
        return importlib.import_module(path)
    except ModuleNotFoundError:
        module, _, name = path.rpartition(".")
        return getattr(importlib.import_module(module), name)


def test_a_file_that_is_being_read_when_a_signal_comes_is_not_called_broken(monkeypatch, capsys):
    def interrupted(*given, **named):
        os.kill(os.getpid(), signal.SIGHUP)
        time.sleep(0.5)

    np.savez("x.npz", train_images=np.zeros((64, 8, 8), np.uint8))
    monkeypatch.setattr("ssl_kd.data.files.np.load", interrupted)
    assert main([*RUN, "data=arrays", "data.path=x.npz"]) == 75
    assert capsys.readouterr().err == ""


def test_ctrl_c_twice_while_a_checkpoint_is_written_ends_at_once_with_the_last_one_whole(monkeypatch, capsys):
    put = Run._put

    def twice(self, files, state, name):
        if state["step"] == 4:
            (self.folder / "checkpoints/new").mkdir()
            for _ in range(2):
                os.kill(os.getpid(), signal.SIGINT)
                time.sleep(0.2)
        put(self, files, state, name)

    with monkeypatch.context() as patch:
        patch.setattr(Run, "_put", twice)
        assert main([*RUN, "epochs=3"]) == 130
    assert read("runs/a")["state"] == "interrupted"
    assert not Run("runs/a")._damage(Run("runs/a").checkpoint)
    capsys.readouterr()
    assert main([*RUN, "epochs=3"]) == 0
    assert "continues after step 2" in capsys.readouterr().out


def test_a_hangup_that_is_ignored_from_the_start_stays_so():
    """As `nohup ssl-kd train ...` has it."""
    before = signal.signal(signal.SIGHUP, signal.SIG_IGN)
    try:
        with Stop() as stop:
            os.kill(os.getpid(), signal.SIGHUP)
            time.sleep(0.05)
            assert not stop.asked
        with passed_on(pytest.fail):
            os.kill(os.getpid(), signal.SIGHUP)
            time.sleep(0.05)
        assert signal.getsignal(signal.SIGHUP) == signal.SIG_IGN
    finally:
        signal.signal(signal.SIGHUP, before)


def test_after_the_end_was_said_no_signal_changes_it():
    with Stop() as stop:
        with pytest.raises(Interrupted):
            os.kill(os.getpid(), signal.SIGTERM)
            time.sleep(1)
        stop.ends()
        for number in (*STORM, signal.SIGINT):
            os.kill(os.getpid(), number)
            time.sleep(0.02)


@pytest.mark.parametrize("number", STORM)
def test_a_study_hands_a_signal_to_its_runs_and_says_requeue(monkeypatch, number, capsys):
    def training(run, threads, logs, children):
        process = subprocess.Popen([sys.executable, "-c", "import time; time.sleep(60)"])
        children.running.add(process)
        os.kill(os.getpid(), number)
        return process.wait()

    monkeypatch.setattr(study, "_train", training)
    Path("s.yaml").write_text("groups: {a: data=digits epochs=1}\n")
    assert main(["study", "s.yaml"]) == 75
    assert "stopped; the same command continues" in capsys.readouterr().out
