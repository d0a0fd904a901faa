"""A full disk: no line or curve ends a training, what was there stays, and the same command continues."""

import errno
import json
import os
import shutil
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest

from ssl_kd import status, trackers
from ssl_kd.cli import main
from ssl_kd.run import Run
from ssl_kd.system import lines, writing
from ssl_kd.system.lines import Lines
from ssl_kd.system.writing import NotWritten, unwritten, write_whole
from tests.field_trial.case import check_refusal, snapshot

RUN = [
    "train", "run=runs/a", "data=digits", "data.limit=64", "batch_size=32", "epochs=2", "probe.linear=false",
    "probe.knn=[1]", "probe.baselines=false", "peers={a: {backbone: {name: resnet8, base: 4}}}",
    "precision=float32", "threads=1", "log_every=1",
]  # fmt: skip


class Disk:
    """Has no room for files of some names: what is written to them fails as the system would say it."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch) -> None:
        self.full: Callable[[str], bool] = lambda path: False
        self.failed = 0
        fsync, write = os.fsync, os.write

        def synced(descriptor: int) -> None:
            self.check(os.readlink(f"/proc/self/fd/{descriptor}"))
            fsync(descriptor)

        def written(descriptor: int, content: bytes) -> int:
            path = os.readlink(f"/proc/self/fd/{descriptor}")
            if self.full(path):
                write(descriptor, content[: len(content) // 2])  # as much as there was room for
            self.check(path)
            return write(descriptor, content)

        monkeypatch.setattr(os, "fsync", synced)
        monkeypatch.setattr(os, "write", written)

    def check(self, path: str) -> None:
        if self.full(path):
            self.failed += 1
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))


@pytest.fixture
def disk(monkeypatch):
    return Disk(monkeypatch)


@pytest.fixture(scope="module")
def made(tmp_path_factory):
    folder = tmp_path_factory.mktemp("made")
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(folder)
        assert main(RUN) == 0 and main([*RUN, "run=runs/b", "clip=0.5"]) == 0
    return folder / "runs"


def steps() -> list[int]:
    return [line["step"] for line in Run("runs/a").metrics() if "loss" in line]


@pytest.mark.parametrize("until", [1, 2, 3])
def test_lines_that_could_not_be_written_are_when_there_is_room(disk, monkeypatch, capsys, until):
    append = Run.append

    def appended(self, line):
        room = line["step"] > until
        disk.full = lambda path: path.endswith("metrics.jsonl") and not room
        append(self, line)

    monkeypatch.setattr(Run, "append", appended)
    assert main(RUN) == 0
    assert disk.failed and steps() == [1, 2, 3, 4]
    error = capsys.readouterr().err
    assert error.count("could not be written (No space left on device); its lines are kept") == 1
    assert error.count("lines that had been kept") == 1


def test_lines_that_never_found_room_are_counted(disk, capsys):
    disk.full = lambda path: path.endswith("metrics.jsonl") and Path(path).exists()
    assert main(RUN) == 0
    assert Path("runs/a/summary.json").is_file() and steps() == []
    assert "lacks its last " in capsys.readouterr().err


def test_more_lines_than_are_kept_are_counted(disk, monkeypatch, capsys):
    monkeypatch.setattr(lines, "MOST", 3)
    kept = Lines(Path("x.jsonl"), Path())
    disk.full = lambda path: True
    for i in range(5):
        kept.add(str(i))
    assert Path("x.jsonl").read_text() == ""  # no half line
    disk.full = lambda path: False
    kept.add("5")
    assert Path("x.jsonl").read_text() == "3\n4\n5\n"
    assert "has 3 lines that had been kept; 3 before them are lost" in capsys.readouterr().err


def test_a_status_that_cannot_be_written_ends_nothing_and_hides_nothing(disk, monkeypatch, capsys):
    monkeypatch.setattr(status, "BEAT", 0.01)
    disk.full = lambda path: "status.json" in path
    assert main(RUN) == 0
    assert disk.failed > 1 and not Path("runs/a/status.json").exists()
    assert capsys.readouterr().out.count("status.json could not be written") == 1
    monkeypatch.setattr("ssl_kd.training.fit", lambda *a, **k: 1 / 0)
    with pytest.raises(ZeroDivisionError):
        main([*RUN[:1], "run=runs/b", *RUN[2:]])


def test_a_curve_is_drawn_again_when_there_is_room(monkeypatch, capsys):
    from accelerate.tracking import TensorBoardTracker

    log, tried = TensorBoardTracker.log, []

    def logged(self, values, step=None, **more):
        tried.append(step)
        if step < 3:
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
        log(self, values, step=step, **more)

    monkeypatch.setattr(trackers, "AGAIN", 0.0)
    monkeypatch.setattr(TensorBoardTracker, "log", logged)
    assert main([*RUN, "tracker=tensorboard"]) == 0
    said = capsys.readouterr().out
    assert {1, 2, 3, 4} <= set(tried) and said.count("it is tried again") == 1
    assert "tracker=tensorboard is written again; it lacks" in said and steps() == [1, 2, 3, 4]


@pytest.mark.parametrize(
    "name",
    ["config.yaml", "environment.json", "data.json", "start.safetensors", "cohort.safetensors",
     "optimizers.safetensors", "state.json", "summary.json"],
)  # fmt: skip
def test_a_training_ends_in_a_sentence_and_continues_when_there_is_room(disk, made, name, capsys):
    words = [*RUN, "peers.a.weights=null"] if name != "start.safetensors" else started(made)
    disk.full = lambda path: name in path
    code = main(words)
    check_refusal(code, capsys.readouterr().err, r"could not be written.*No space left on device.*continues")
    assert disk.failed and not list(Path("runs/a").rglob("*.part"))
    disk.full = lambda path: False
    assert main(words) == 0
    assert Path("runs/a/summary.json").is_file() and steps() == [1, 2, 3, 4]


def started(made: Path) -> list[str]:
    shutil.copytree(made / "a", "runs/first")
    return [*RUN, "peers.a.weights=runs/first"]


def test_a_checkpoint_that_fails_keeps_the_one_before(disk, capsys):
    disk.full = lambda path: "new/cohort" in path and Path("runs/a/checkpoints/last").exists()
    check_refusal(main(RUN), capsys.readouterr().err, "checkpoint of step 4 .*checkpoints/last is whole")
    assert Run("runs/a")._step() == 2
    disk.full = lambda path: False
    assert main(RUN) == 0
    assert "continues after step 2" in capsys.readouterr().out and steps() == [1, 2, 3, 4]


@pytest.mark.parametrize(
    ("words", "name"),
    [
        (["knn", "run=runs/a"], "knn.json"),
        (["health", "run=runs/a"], "health.json"),
        (["eval", "run=runs/a", "probes=[knn]"], "knn.json"),
        (["report", "run=runs/a"], "report.html"),
        (["compare", "runs/a", "runs/b", "base=a", "out=x"], "comparison.json"),
        (["export", "run=runs/a"], "export"),
        (["init", "to=start.yaml"], "start.yaml"),
    ],
    ids=lambda value: value if isinstance(value, str) else value[0],
)
def test_a_command_ends_in_a_sentence_and_works_when_there_is_room(disk, made, words, name, capsys):
    shutil.copytree(made, "runs")
    before = snapshot("runs")
    disk.full = lambda path: name in path
    code = main(words)
    check_refusal(
        code, capsys.readouterr().err, r"(could not|cannot|can) be written.*No space left on device"
    )
    assert disk.failed
    assert {path: said for path, said in snapshot("runs").items() if said[:5] != "other"} == {
        path: said for path, said in before.items() if said[:5] != "other"
    }  # but for empty folders
    disk.full = lambda path: False
    assert main(words) == 0


def test_a_file_that_was_there_stays(disk):
    Path("x.json").write_text("old")
    disk.full = lambda path: "x.json" in path
    with pytest.raises(NotWritten, match="No space left on device: 'x.json'"):
        write_whole("x.json", "new")
    assert os.listdir() == ["x.json"] or sorted(os.listdir()) == ["home", "x.json"]
    assert Path("x.json").read_text() == "old"


@pytest.mark.parametrize(
    ("error", "says"),
    [
        (OSError(errno.ENOSPC, "No space left on device"), "a file could not be written (No space left on"),
        (OSError(errno.EFBIG, "File too large", "x"), "x could not be written (File too large)"),
        (RuntimeError("I/O error: full (os error 28)"), "a file could not be written (No space left on"),
        (NotWritten(errno.EACCES, "Permission denied", "x"), "x could not be written (Permission denied)"),
        (OSError(errno.EACCES, "Permission denied", "x"), ""),  # most likely of reading
        (OSError("16 requested and 8 written"), ""),
        (ValueError("x"), ""),
    ],
)  # fmt: skip
def test_what_is_said_of_an_error(error, says):
    assert unwritten(error).startswith(says) and bool(unwritten(error)) == bool(says)


def test_a_library_that_fails_without_a_number_is_named_too():
    with pytest.raises(NotWritten, match="16 requested and 8 written: 'x.npy'"), writing.fresh("x.npy"):
        raise OSError("16 requested and 8 written")
    with pytest.raises(FileNotFoundError), writing.fresh("x.npy"):  # of reading something else
        open("elsewhere/y")


def test_a_screen_that_is_a_full_disk():
    """Standard output in a file: a page ends in a sentence, a training goes on."""
    if not Path("/dev/full").exists():
        pytest.skip("there is no /dev/full")
    for words, code in ((["show", "method=simclr"], 2), (RUN, 0)):
        with open("/dev/full", "w") as full:
            child = subprocess.run(
                [sys.executable, "-P", "-m", "ssl_kd", *words],
                stdout=full, stderr=subprocess.PIPE, text=True, check=False, timeout=120,
            )  # fmt: skip
        assert child.returncode == code and "Traceback" not in child.stderr, child.stderr
        assert child.stderr.count("could not be written (No space left on device)") == 1, child.stderr
    assert json.loads(Path("runs/a/summary.json").read_text())["steps"] == 4
