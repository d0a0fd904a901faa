"""Nothing is lost: checkpoints are whole and kept, their damage is seen, and a run says what it is doing."""

import json
import os
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from ssl_kd.cli import main as cli
from ssl_kd.run import Run
from ssl_kd.status import Status, read
from ssl_kd.train import main
from tests import warm

SOLO = [
    "method=simclr",
    "peers={a: {backbone: {name: resnet8, base: 4}}}",
    "batch_size=64",
    "data.limit=320",
    "precision=float32",
    "probe.knn=[1]",
    "probe.linear=false",
    "probe.baselines=false",
    "log_every=1",
    "threads=1",
]  # 5 steps in an epoch

pytestmark = pytest.mark.usefixtures("own_folder")


def state(folder: str = "runs/a", name: str = "last") -> dict:
    return json.loads(Path(folder, "checkpoints", name, "state.json").read_text())


def weights(folder: str) -> bytes:
    return Path(folder, "checkpoints/last/cohort.safetensors").read_bytes()


def curve(folder: str) -> list[tuple]:
    """Everything in metrics.jsonl but how fast it was."""
    lines = [json.loads(line) for line in Path(folder, "metrics.jsonl").read_text().splitlines()]
    return [{key: value for key, value in line.items() if key != "images_per_second"} for line in lines]


def names(folder: str = "runs/a") -> list[str]:
    return sorted(path.name for path in Path(folder, "checkpoints").iterdir())


@pytest.fixture(scope="module")
def finished(tmp_path_factory) -> Path:
    folder = tmp_path_factory.mktemp("finished")
    done = warm.run("train", *SOLO, "epochs=3", "run=runs/a", cwd=folder)
    assert done.returncode == 0, done.stderr
    return folder / "runs/a"


@pytest.fixture
def trained(finished) -> str:
    """A finished run of three epochs, and one just like it that is left alone."""
    shutil.copytree(finished, "runs/a")
    shutil.copytree(finished, "runs/whole")
    return "runs/a"


def test_the_last_checkpoints_are_kept(trained):
    assert names() == ["last", "step-10"] and state()["step"] == 15 and state(name="step-10")["step"] == 10
    main([*SOLO, "epochs=4", "run=runs/b", "keep=3"])
    assert names("runs/b") == ["last", "step-10", "step-15"]
    main([*SOLO, "epochs=2", "run=runs/c", "keep=1"])
    assert names("runs/c") == ["last"]


def cut(path: Path) -> None:
    path.write_bytes(path.read_bytes()[:-7])


def flip(path: Path) -> None:
    content = bytearray(path.read_bytes())
    content[-100] ^= 1
    path.write_bytes(content)


def remove(path: Path) -> None:
    path.unlink()


def scramble(path: Path) -> None:
    path.write_text("{")


@pytest.mark.parametrize(
    ("file", "harm", "says"),
    [
        ("cohort.safetensors", cut, "cohort.safetensors has "),
        ("cohort.safetensors", flip, "cohort.safetensors was changed"),
        ("optimizers.safetensors", remove, "optimizers.safetensors is missing"),
        ("state.json", scramble, "state.json cannot be read"),
    ],
)
def test_a_damaged_checkpoint_falls_back_to_the_one_before_and_ends_the_same(
    trained, file, harm, says, capsys
):
    harm(Path("runs/a/checkpoints/last", file))
    Path("runs/a/summary.json").unlink()
    capsys.readouterr()
    assert main([*SOLO, "epochs=3", "run=runs/a"]) == 0
    said = capsys.readouterr().out
    assert f"checkpoints/last is damaged ({says}" in said and "continues after step 10" in said
    assert weights("runs/a") == weights("runs/whole") and curve("runs/a") == curve("runs/whole")
    assert names() == ["damaged", "last", "step-10"]


def test_a_damaged_checkpoint_is_not_scored(trained, capsys):
    flip(Path("runs/a/checkpoints/last/cohort.safetensors"))
    assert cli(["knn", "run=runs/a"]) == 2
    assert "checkpoints/last is damaged (cohort.safetensors was changed)" in capsys.readouterr().err


def test_a_run_whose_checkpoints_are_all_damaged_or_gone_does_not_start_from_zero(trained, capsys):
    for place in ("last", "step-10"):
        cut(Path("runs/a/checkpoints", place, "cohort.safetensors"))
    before = Path("runs/a/metrics.jsonl").read_bytes()
    for _ in range(2):
        assert main([*SOLO, "epochs=3", "run=runs/a"]) == 2
        said = capsys.readouterr().err
        assert "last is damaged" in said and "step-10 is damaged" in said and said.count("\n") == 1
    shutil.rmtree("runs/a/checkpoints")
    for _ in range(2):
        assert main([*SOLO, "epochs=3", "run=runs/a"]) == 2
        assert "was saved after step 15, and its checkpoints are gone" in capsys.readouterr().err
    assert Path("runs/a/metrics.jsonl").read_bytes() == before


def test_what_a_killed_save_left_is_taken_away_or_finished(trained, capsys):
    place = Path("runs/a/checkpoints")
    (place / "new").mkdir()
    (place / "new/cohort.safetensors").write_bytes(b"half")
    (place / "old").mkdir()
    Path("runs/a/summary.json.part").write_text("{")
    Path("runs/a/checkpoints/last/state.json.part").write_text("{")
    assert main([*SOLO, "epochs=3", "run=runs/a"]) == 0
    assert names() == ["last", "step-10"] and not list(Path("runs/a").rglob("*.part"))
    (place / "last").rename(place / "new")  # killed between two renames
    assert main([*SOLO, "epochs=3", "run=runs/a"]) == 0
    assert names() == ["last", "step-10"] and state()["step"] == 15


def test_a_line_of_metrics_that_was_cut_short_is_written_again(trained):
    path = Path("runs/a/metrics.jsonl")
    shutil.rmtree("runs/a/checkpoints/last")
    Path("runs/a/summary.json").unlink()
    path.write_bytes(path.read_bytes()[:-3])
    assert main([*SOLO, "epochs=3", "run=runs/a"]) == 0
    assert curve("runs/a") == curve("runs/whole")
    path.write_text('{"step": 1, "terms": {"x": 1}')  # ends like a whole one
    assert not list(Run("runs/a").metrics())


def test_a_checkpoint_that_does_not_fit_on_the_disk_leaves_the_one_before_whole(trained):
    shutil.copytree("runs/a/checkpoints/last", "before")
    size = Path("before/cohort.safetensors").stat().st_size
    words = [*SOLO, "epochs=3", "run=runs/b"]
    child = warm.run("train", *words, limit=size - 1)
    assert child.returncode == 2 and "Traceback" not in child.stderr
    assert "the checkpoint of step 5 could not be written to runs/b" in child.stderr
    assert "there was none before it" in child.stderr and child.stderr.count("\n") == 1
    assert read("runs/b")["state"] == "failed" and "could not be written" in read("runs/b")["reason"]
    assert main(words) == 0 and weights("runs/b") == weights("runs/whole")

    shutil.rmtree("runs/a/checkpoints/last")
    (Path("runs/a/summary.json")).unlink()
    child = warm.run("train", *SOLO, "epochs=3", "run=runs/a", limit=size - 1)
    assert child.returncode == 2 and "checkpoints/step-10 is whole" in child.stderr
    assert names() == ["step-10"]
    assert main([*SOLO, "epochs=3", "run=runs/a"]) == 0 and weights("runs/a") == weights("runs/whole")


@pytest.mark.skipif(os.geteuid() == 0, reason="root may write anywhere")
def test_a_folder_that_cannot_be_written_is_refused_by_its_rights(capsys):
    Path("runs").mkdir(mode=0o500)
    assert main([*SOLO, "run=runs/a"]) == 2
    assert "nothing can be written to runs/a (Permission denied)" in capsys.readouterr().err


def test_a_run_folder_that_cannot_be_made_is_refused(capsys):
    Path("runs").write_text("a file")
    assert main([*SOLO, "run=runs/a"]) == 2
    assert "nothing can be written to runs/a (Not a directory)" in capsys.readouterr().err


def wait_for(done, child: subprocess.Popen | warm.Command | None = None, seconds: float = 120) -> None:
    until = time.monotonic() + seconds
    while not done() and time.monotonic() < until and (child is None or child.poll() is None):
        time.sleep(0.02)
    assert done(), child and child.communicate(timeout=60)


def start(words: list[str]) -> subprocess.Popen:
    command = [sys.executable, "-m", "ssl_kd", "train", *words]
    return subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True)


def test_a_second_process_on_a_run_is_refused_and_the_first_goes_on(capsys):
    words = [*SOLO, "epochs=2000", "run=runs/a"]
    child = warm.Command("train", *words)
    wait_for(Path("runs/a/metrics.jsonl").exists, child)
    assert read("runs/a")["state"] == "running"
    other = warm.run("train", *words)
    assert other.returncode == 2
    assert f"another process works on runs/a (process {child.pid} on " in other.stderr.splitlines()[-1]
    assert child.poll() is None and read("runs/a")["pid"] == child.pid
    child.kill()
    child.wait()
    assert read("runs/a")["state"] == "killed"


@pytest.mark.parametrize("name", ["SIGINT", "SIGTERM", "SIGUSR1"])
def test_a_signal_saves_and_says_requeue(name):
    words = [*SOLO, "epochs=2000", "run=runs/a"]
    child = warm.Command("train", *words)
    wait_for(Path("runs/a/metrics.jsonl").exists, child)
    child.send_signal(getattr(signal, name))
    assert child.wait() == 75, child.stderr
    step = state()["step"]
    assert f"stopped after step {step} of 10000; the same command continues" in child.stdout + child.stderr
    found = read("runs/a")
    assert (found["state"], found["step"], found["saved"]) == ("interrupted", step, step)


def test_several_processes_stop_after_the_same_step_whoever_is_asked():
    words = [*SOLO, "epochs=2000", "run=runs/a", "processes=2", "device=cpu"]
    child = start(words)
    wait_for(Path("runs/a/metrics.jsonl").exists, child)
    ranks = [
        int(pid)
        for pid in subprocess.run(
            ["pgrep", "-P", str(child.pid)], capture_output=True, text=True
        ).stdout.split()
    ]
    second = next(
        pid
        for pid in ranks
        if b"RANK=1\0" in Path(f"/proc/{pid}/environ").read_bytes().replace(b"LOCAL_RANK", b"")
    )
    os.kill(second, signal.SIGUSR1)
    said = child.communicate(timeout=60)[0]
    assert child.returncode == 75, said
    assert f"stopped after step {state()['step']} of" in said and "Traceback" not in said
    assert read("runs/a")["state"] == "interrupted"
    child = start(words)
    wait_for(lambda: read("runs/a")["state"] == "running" and read("runs/a")["pid"] != ranks[0], child)
    wait_for(lambda: len(curve("runs/a")) > state()["step"], child)
    child.send_signal(signal.SIGTERM)  # to the parent alone, which passes it on
    said = child.communicate(timeout=60)[0]
    assert child.returncode == 75 and "continues after step" in said and "Traceback" not in said


def test_a_second_ctrl_c_stops_at_once(monkeypatch):
    from ssl_kd.signals import Stop

    with Stop() as stop, stop.waiting():
        os.kill(os.getpid(), signal.SIGTERM)
        os.kill(os.getpid(), signal.SIGUSR1)
        assert stop.asked
        with pytest.raises(KeyboardInterrupt):
            os.kill(os.getpid(), signal.SIGINT)
            time.sleep(1)


def test_a_signal_while_a_run_is_scored_leaves_it_to_the_same_command(monkeypatch, capsys):
    from ssl_kd.evaluate import Evaluator

    whole = Evaluator.cohort

    def asked(self, *given):
        os.kill(os.getpid(), signal.SIGTERM)
        time.sleep(1)
        return whole(self, *given)

    with monkeypatch.context() as patch:
        patch.setattr(Evaluator, "cohort", asked)
        assert main([*SOLO, "epochs=1", "run=runs/a"]) == 75
    assert "stopped; the same command continues" in capsys.readouterr().out
    assert read("runs/a")["state"] == "interrupted" and not Path("runs/a/summary.json").exists()
    assert main([*SOLO, "epochs=1", "run=runs/a"]) == 0
    assert read("runs/a")["state"] == "done" and Path("runs/a/summary.json").exists()


def test_the_state_of_a_run_that_failed_or_collapsed_says_why(capsys):
    assert main([*SOLO, "epochs=2", "run=runs/a", "optim.rate.peak=1e30"]) == 2
    found = read("runs/a")
    assert found["state"] == "failed" and 'the term "nt_xent/a" is nan' in found["reason"]


def test_the_heartbeat_goes_on_while_the_run_is_busy(monkeypatch):
    monkeypatch.setattr("ssl_kd.status.BEAT", 0.05)
    with Status(Path(), 10) as status:
        status.step = 7
        wait_for(lambda: read(".")["step"] == 7, seconds=5)
        assert read(".")["state"] == "running"
    assert read(".")["state"] == "done"


def test_a_run_on_another_machine_is_alive_until_its_heartbeat_stops(monkeypatch):
    with Status(Path(), 10):
        pass
    said = {**json.loads(Path("status.json").read_text()), "state": "running", "host": "elsewhere"}
    Path("status.json").write_text(json.dumps(said))
    assert read(".")["state"] == "running"
    Path("status.json").write_text(json.dumps({**said, "beat": "2020-01-01T00:00:00+00:00"}))
    assert read(".")["state"] == "killed"
    with Status(Path(), 10):
        pass


def test_data_that_changed_since_the_run_began_is_refused(capsys):
    import numpy as np

    rng = np.random.default_rng(0)
    images = rng.integers(0, 256, (300, 8, 8, 3), dtype=np.uint8)
    labels = np.arange(300) % 3
    given = {
        "train_images": images,
        "train_labels": labels,
        "test_images": rng.integers(0, 256, (60, 8, 8, 3), dtype=np.uint8),
        "test_labels": labels[:60],
    }
    np.savez("x.npz", **given)
    words = [*SOLO, "data=arrays", "data.path=x.npz", "batch_size=64", "epochs=1", "run=runs/a"]
    assert main(words) == 0
    before = Path("runs/a/status.json").read_bytes()
    for changes, says in [
        (
            {"train_images": images[:-1], "train_labels": labels[:-1]},
            "300 train images then, 299 train images now",
        ),
        ({"train_images": images[::-1]}, "the contents of from 64 to 300 of 300 train images are others"),
        ({"train_labels": labels[::-1].copy()}, "the train labels are others"),
        (
            {"test_images": given["test_images"][:50], "test_labels": labels[:50]},
            "60 test images then, 50 test images now",
        ),
    ]:
        np.savez("x.npz", **{**given, **changes})
        assert main([*words, "epochs=1"]) == 2
        error = capsys.readouterr().err
        assert f"the data of runs/a changed since it began: {says}" in error
        assert "data_changed=accept" in error
    assert Path("runs/a/status.json").read_bytes() == before
    np.savez("x.npz", **given)
    assert main(words) == 0


def test_a_run_has_the_weights_of_its_frozen_peers_itself(trained, capsys):
    taught = [
        "method=dogo", "peers={a: {backbone: {name: resnet8, base: 4}}, "
        "t: {backbone: {name: resnet8, base: 4}, frozen: true, weights: {run: runs/a, peer: a}}}",
        "terms.kl.peers=[a,t]", "terms.kl.weight={\"a<-t\": 1.0, \"t<-a\": null}", *SOLO[2:], "epochs=2",
    ]  # fmt: skip
    assert main([*taught, "run=runs/b"]) == 0
    assert main([*taught, "run=runs/c", "epochs=2"]) == 0
    shutil.rmtree("runs/c/checkpoints/last")
    Path("runs/c/summary.json").unlink()
    shutil.rmtree("runs/a")
    assert cli(["knn", "run=runs/b"]) == 0
    assert main([*taught, "run=runs/c"]) == 0
    assert weights("runs/c") == weights("runs/b") and curve("runs/c") == curve("runs/b")
    assert main([*taught, "run=runs/d"]) == 2  # a new one needs what it starts from
    flip(Path("runs/b/start.safetensors"))
    capsys.readouterr()
    assert cli(["knn", "run=runs/b"]) == 2
    assert "start.safetensors was changed" in capsys.readouterr().err


def test_going_on_and_starting_from_another_runs_weights_are_two_things(trained):
    start = [*SOLO, "epochs=1", "peers.a.weights=runs/a", "run=runs/b"]
    assert main(start) == 0
    fresh = [*SOLO, "epochs=1", "run=runs/c"]
    assert main(fresh) == 0
    assert weights("runs/b") != weights("runs/c") and weights("runs/a") == weights("runs/whole")
    assert state("runs/b")["step"] == 5  # from step 0, with a new schedule and optimiser
