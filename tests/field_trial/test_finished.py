"""A finished run is left alone, whatever its command says now; and each start of a run is noted."""

import json
import re
import shutil
from pathlib import Path

import numpy as np
import pytest

from ssl_kd.cli import main
from ssl_kd.errors import InputError
from ssl_kd.saved import changes, environments
from ssl_kd.watchers import Saver
from tests.field_trial.case import snapshot

TRAIN = ["train", "method=simclr", "data=digits", "data.limit=64", "batch_size=32", "epochs=1", "run=runs/a"]
TRAIN += ["peers={a: {backbone: {name: resnet8, base: 4}}}", "tracker=none", "probe.linear=false"]
TRAIN += ["probe.knn=[1]", "probe.baselines=false"]


@pytest.fixture(scope="module")
def made(tmp_path_factory, request):
    """A finished run; each test works on a copy."""
    folder = tmp_path_factory.mktemp("finished")
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(folder)
        patch.setenv("HOME", str(folder))
        assert main(TRAIN) == 0
    return folder / "runs"


@pytest.fixture
def run(made):
    shutil.copytree(made, "runs")
    return Path("runs/a")


def times() -> dict[str, int]:
    return {str(path): path.lstat().st_mtime_ns for path in [Path("runs"), *Path("runs").rglob("*")]}


CALLS = {
    "the same": ([], None),
    "another temperature": (["probe.temperature=0.5"], "ssl-kd knn run=runs/a temperature=0.5"),
    "other neighbours": (["probe.knn=[5]"], r"ssl-kd knn run=runs/a 'knn=\[5\]'"),
    "a linear probe": (["probe.linear=true"], "ssl-kd linear run=runs/a"),
    "other groups": (["probe.groups=[1,2]"], "probe.groups is .* another run="),
    "more often": (["probe.every=1"], None),
    "other threads": (["threads=2"], None),
    "other lines": (["log_every=3", "save_every=2", "keep=1"], None),
}


@pytest.mark.parametrize("words, says", CALLS.values(), ids=CALLS)
def test_nothing_of_a_finished_run_changes(run, capsys, words, says):
    before = snapshot(), times()
    assert main([*TRAIN, *words]) == 0
    printed = " ".join(capsys.readouterr().out.split())
    assert (snapshot(), times()) == before and "finished before" in printed
    said = re.search(f"nothing of a finished run changes: .*{says or ''}", printed)
    assert bool(said) == (says is not None), printed


def labelled(name: str, seed: int) -> None:
    images = np.random.default_rng(seed).integers(0, 255, (24, 8, 8), np.uint8)
    labels = np.arange(24) % 3
    np.savez(
        name,
        train_images=images[:16],
        train_labels=labels[:16],
        test_images=images[16:],
        test_labels=labels[16:],
    )


def test_another_scored_data_set_changes_nothing_of_a_finished_run_and_is_scored_by_transfer(run, capsys):
    labelled("p.npz", 0)
    labelled("q.npz", 1)
    assert main([*TRAIN, "run=runs/b", "probe.data=p.npz"]) == 0
    before = snapshot(), times()
    capsys.readouterr()
    for words, says in (
        (
            ["probe.data=q.npz"],
            r"probe.data is \S*q.npz here and \S*p.npz there; to score it so: ssl-kd transfer ",
        ),
        ([], r"probe.data is None here and \S*p.npz there"),
    ):
        assert main([*TRAIN, "run=runs/b", *words]) == 0
        assert re.search(says, " ".join(capsys.readouterr().out.split()))
        assert (snapshot(), times()) == before
    path = Path("q.npz").absolute()
    assert main(["transfer", "run=runs/b", "data=arrays", f"data.path={path}"]) == 0


def test_another_scored_data_set_of_a_run_under_way_is_refused_and_a_moved_one_is_not(own_folder, capsys):
    labelled("p.npz", 0)
    labelled("q.npz", 1)
    stopped, whole = [*TRAIN, "epochs=2", "probe.data=p.npz"], Saver.__call__

    def stop_after_the_first(self, step, result):
        whole(self, step, result)
        if step == 2:
            raise InputError("the power is gone")

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(Saver, "__call__", stop_after_the_first)
        assert main(stopped) == 2
    before = snapshot()
    capsys.readouterr()
    assert main([*stopped, "probe.data=q.npz"]) == 2
    assert re.search(
        "probe.data is q.npz here and p.npz in runs/a, whose scores would be of both; ",
        capsys.readouterr().err,
    )
    assert snapshot() == before
    Path("p.npz").rename("moved.npz")
    assert main([*stopped, "probe.data=moved.npz"]) == 0


def test_another_version_changes_nothing_of_a_finished_run(run, monkeypatch):
    before = snapshot()
    monkeypatch.setattr("ssl_kd.run.version", lambda name: "9.9")
    assert main(TRAIN) == 0 and snapshot() == before


def test_a_read_only_finished_run_tells_its_scores(run, capsys):
    for path in [run, *run.rglob("*")]:
        path.chmod(0o555 if path.is_dir() else 0o444)
    assert main(TRAIN) == 0 and "finished before" in capsys.readouterr().out
    for path in [run, *run.rglob("*")]:
        path.chmod(0o755)


def test_a_run_that_was_killed_after_its_last_file_is_done(run):
    before = snapshot()
    status = json.loads((run / "status.json").read_text())
    (run / "status.json").write_text(json.dumps({**status, "state": "running", "pid": 1 << 22}))
    assert main([*TRAIN, "probe.temperature=0.5"]) == 0
    assert json.loads((run / "status.json").read_text())["state"] == "done"
    after = snapshot()
    assert {name for name in after if after[name] != before[name]} == {str(run / "status.json")}


def test_a_run_that_is_scored_otherwise_on_request_keeps_its_summary(run):
    before = snapshot()
    assert main(["knn", "run=runs/a", "temperature=0.5", "knn=[1]"]) == 0
    assert {name: kept for name, kept in snapshot().items() if "eval" not in name} == before
    assert json.loads((run / "eval/knn.json").read_text())["protocol"]["temperature"] == 0.5


def test_what_was_scored_and_how_stands_in_the_summary(run):
    scored = json.loads((run / "summary.json").read_text())["scored"]
    assert (scored["on"], scored["probe"]["temperature"], scored["probe"]["knn"]) == (
        "the test split",
        0.07,
        [1],
    )


def edit(path: Path, old: str, new: str) -> None:
    text = path.read_text()
    assert old in text
    path.write_text(text.replace(old, new))


def test_compare_reads_the_protocol_in_the_summary(run, capsys):
    assert main([*TRAIN, "method=byol", "run=runs/b"]) == 0
    names = ["compare", "runs/a", "runs/b", "base=a"]
    assert main(names) == 0, capsys.readouterr().err
    edit(Path("runs/b/config.yaml"), "temperature: 0.07", "temperature: 0.5")
    assert main(names) == 0  # the scores are of the summary
    edit(Path("runs/b/summary.json"), '"temperature": 0.07', '"temperature": 0.5')
    assert (
        main(names) == 2 and "scored differently (probe.temperature: 0.07 and 0.5)" in capsys.readouterr().err
    )
    for name in ("a", "b"):  # of older versions
        summary = json.loads(Path(f"runs/{name}/summary.json").read_text())
        summary.pop("scored")
        Path(f"runs/{name}/summary.json").write_text(json.dumps(summary))
    assert main(names) == 2 and "probe.temperature" in capsys.readouterr().err


def test_the_card_says_the_temperature_of_the_scores(run):
    edit(run / "config.yaml", "temperature: 0.07", "temperature: 0.5")
    assert main(["export", "run=runs/a", "to=x.safetensors"]) == 0
    card = Path("x.safetensors.md").read_text()
    assert "exp(similarity / 0.07)" in card and "0.5)" not in card


def test_a_summary_whose_protocol_is_none_is_refused(run, capsys):
    edit(run / "summary.json", '"temperature": 0.07', '"temperature": "warm"')
    assert main(["export", "run=runs/a", "to=x.safetensors"]) == 2
    assert "probe.temperature must be a number" in capsys.readouterr().err


def start(step: int, **others: object) -> dict:
    return {"step": step, "processes": 1, "threads": 2, "packages": {"torch": "2.14"}, **others}


def test_each_start_of_a_run_is_noted(own_folder, capsys, monkeypatch):
    stopped = [*TRAIN, "epochs=2", "threads=1"]
    whole = Saver.__call__

    def stop_after_the_first(self, step, result):
        whole(self, step, result)
        if step == 2:
            raise InputError("the power is gone")

    with monkeypatch.context() as patch:
        patch.setattr(Saver, "__call__", stop_after_the_first)
        assert main(stopped) == 2
    assert main([*stopped, "threads=2"]) == 0
    starts = environments(Path("runs/a"))
    assert [one["step"] for one in starts] == [0, 2] and starts[1]["threads"] == 2
    assert starts[0]["processes"] == 1 and starts[0]["threads"] == 1
    assert "its starts differ: threads: 1, after step 2: 2" in " ".join(capsys.readouterr().out.split())
    assert main(["export", "run=runs/a", "to=x.safetensors"]) == 0
    assert "threads: 1, after step 2: 2" in Path("x.safetensors.md").read_text()


def test_what_changed_between_starts_is_told_of_those_that_left_steps():
    assert changes([start(0), start(0, threads=4), start(5, threads=4)]) == ""
    assert changes([start(0), start(5, processes=2)]) == "processes: 1, after step 5: 2"
    newer = start(7, packages={"torch": "2.15"})
    assert changes([start(0), newer]) == "torch: 2.14, after step 7: 2.15"
    assert changes([]) == changes([{}, {"step": "x"}]) == ""


@pytest.mark.parametrize("words", [["report", "run=runs/a"], ["knn", "run=runs/a"], ["runs"], TRAIN])
def test_the_single_environment_of_an_older_run_is_read(run, words):
    single = environments(run)[0]
    single.pop("step")
    (run / "environment.json").write_text(json.dumps(single))
    assert main(words) == 0 and environments(run) == [single]


@pytest.mark.parametrize("content", ["[1]", '"x"', "[", "3"])
def test_an_environment_that_is_none_is_refused(run, capsys, content):
    (run / "environment.json").write_text(content)
    assert main(["export", "run=runs/a", "to=x.safetensors"]) == 2
    assert "environment.json" in capsys.readouterr().err
