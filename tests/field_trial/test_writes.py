"""Writes stay where they belong: nothing goes through a link, into a pipe, or over what is somebody's."""

import json
import os
import shutil
import socket
from collections.abc import Callable
from pathlib import Path

import pytest

from ssl_kd.cli import main
from tests.field_trial.case import Case, check, snapshot

QUICK = [
    *("data=digits", "data.limit=64", "batch_size=32", "epochs=1", "probe.linear=false", "probe.knn=[1]"),
    *("probe.baselines=false", "health.every=0", "method=simclr"),
    "peers={a: {backbone: {name: resnet8, base: 4}}}",
]
RUN, KNN, REPORT = "run=runs/a", ["knn", "run=runs/a"], ["report", "run=runs/a"]
TRAIN, EXPORT = ["train", *QUICK, RUN], ["export", RUN]
ALSO = [*QUICK, "clip=0.5", "run=runs/b"]


@pytest.fixture(scope="module")
def made(tmp_path_factory):
    """A finished run, and one of another option."""
    folder = tmp_path_factory.mktemp("made")
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(folder)
        patch.setenv("XDG_STATE_HOME", str(folder / "state"))
        assert main([*TRAIN]) == 0 and main(["train", *ALSO]) == 0
    return folder / "runs"


@pytest.fixture
def runs(made):
    """They lie in the current folder, and beside them what is precious to its user."""
    shutil.copytree(made, "runs")
    Path("home/thesis.tex").write_text("precious")
    return Path("runs")


def link(name: str, to: str = "home", put: str = "") -> Callable[[], None]:
    """What the run has of that name lies behind a link, in `to`."""

    def prepare() -> None:
        path, target = Path(name), Path(to).absolute() / (put or Path(name).name)
        if path.exists():
            shutil.move(path, target)
        path.parent.mkdir(exist_ok=True)
        path.symlink_to(target)

    return prepare


def pipe(name: str) -> Callable[[], None]:
    def prepare() -> None:
        path = Path(name)
        path.unlink(missing_ok=True)
        path.parent.mkdir(exist_ok=True)
        os.mkfifo(path)

    return prepare


def unfinished(*more: Callable[[], None]) -> Callable[[], None]:
    """The run was stopped at its last step, so that `train` goes on with it."""

    def prepare() -> None:
        Path("runs/a/summary.json").unlink()
        for each in more:
            each()

    return prepare


LINKS = [
    Case(f"{name}-{words[0]}", "a link in the folder of a run", words, f"{name} is a link", unfinished(made))
    for name in ("checkpoints", "metrics.jsonl", "tensorboard", "eval", "export", "status.json")
    for words in (TRAIN, KNN)
    for made in [link(f"runs/a/{name}")]
]
LINKS += [
    Case("report-page", "a page that is a link", REPORT, "report.html is a link", link("runs/a/report.html")),
    Case(
        "link-within",
        "lines that go into the config",
        TRAIN,
        "metrics.jsonl is a link",
        unfinished(
            lambda: Path("runs/a/metrics.jsonl").unlink(),
            lambda: Path("runs/a/metrics.jsonl").symlink_to("config.yaml"),
        ),
    ),
    Case(
        "nowhere",
        "a link to a file that is not there yet",
        KNN,
        "knn.json is a link",
        link("runs/a/eval/knn.json", put="new"),
    ),
    *(
        Case(
            f"compare-{name}",
            "a link where the comparison goes",
            ["compare", "runs/a", "runs/b", "base=a", "out=theirs"],
            f"{name} is or lies behind a link that leads out of theirs",
            link(f"theirs/{name}", put="thesis.tex"),
        )
        for name in ("comparison.json", "comparison.svg", "comparison.html")
    ),
]
PIPES = [
    Case(
        f"{name}-{words[0]}", "a pipe in the folder of a run", words, says, unfinished(pipe(f"runs/a/{name}"))
    )
    for name, says in (
        ("metrics.jsonl", "is a pipe"),
        ("status.json", "is a pipe"),
        ("summary.json", "is a pipe"),
        ("eval/knn.json", "is a pipe"),
        ("report.html.part", "is a pipe"),
        ("eval/knn.json.part", "is a pipe"),
        ("export/a.safetensors.part", "is a pipe"),
        ("checkpoints/last/cohort.safetensors", "is a pipe|is missing"),
        ("config.yaml", "is a pipe|no config.yaml|not a run folder"),
    )
    for words in (TRAIN, KNN)
]


@pytest.mark.parametrize("case", [*LINKS, *PIPES], ids=lambda case: case.name)
def test_nothing_is_written_through_a_link_or_waited_for(case, runs, capsys):
    check(case, capsys)


def test_a_listing_and_a_comparison_pass_over_pipes_and_sockets(runs, capsys, monkeypatch):
    pipe("runs/a/status.json")()
    pipe("runs/a/summary.json")()
    assert main(["runs", "runs"]) == 0
    assert main(["compare", "runs/a", "runs/b"]) == 2
    capsys.readouterr()
    monkeypatch.chdir("runs/b")  # the address of a socket is short
    with socket.socket(socket.AF_UNIX) as there:
        Path("lock").unlink()
        there.bind("lock")
        monkeypatch.chdir("../..")
        assert main(["knn", "run=runs/b"]) == 2
    assert "lock is a pipe, a socket or a device" in capsys.readouterr().err


def test_a_comparison_of_somebodys_runs_is_written_here_and_not_there(runs, capsys):
    shutil.copytree(runs, "theirs")
    before = snapshot("theirs")
    assert main(["compare", "theirs/a", "theirs/b", "base=a"]) == 0
    assert main(["compare", "theirs/a", "runs/b", "base=a", "out=kept"]) == 0
    assert snapshot("theirs") == before and json.loads(Path("comparison.json").read_text())["base"] == "a"
    assert Path("kept/comparison.html").is_file() and not Path("runs/comparison.json").exists()
    assert main(["compare", "runs/a", "runs/b", "base=a"]) == 0
    assert Path("runs/comparison.json").is_file()


def test_only_what_we_name_ourselves_is_tidied(runs):
    unfinished()()
    ours = ["report.html.part", "summary.json.0123abcd.part", "eval/knn.json.part"]
    theirs = ["thesis.tex.part", "notes/summary.json.part", "notes/data.json.0123abcd.part", "export/x.part"]
    for name in (*ours, *theirs):
        Path("runs/a", name).parent.mkdir(exist_ok=True)
        Path("runs/a", name).write_text("half")
    assert main(TRAIN) == 0
    assert [name for name in (*ours, *theirs) if Path("runs/a", name).exists()] == theirs


def test_a_folder_with_half_a_file_of_somebodys_is_no_run_that_has_barely_begun(capsys):
    Path("runs/a").mkdir(parents=True)
    Path("runs/a/thesis.tex.part").write_text("precious")
    assert main(TRAIN) == 2
    assert "exists and is not a run folder" in capsys.readouterr().err
