"""`ssl-kd runs`: every run of a folder in one table, whatever state it is in, without torch."""

import json
import os
import subprocess
import sys
from datetime import datetime, timedelta
from pathlib import Path

import pytest
from omegaconf import OmegaConf

from ssl_kd.cli import main
from ssl_kd.config import compose


def cpu() -> float:
    """Seconds that child processes have computed: the time an answer takes where nobody else is at work."""
    spent = os.times()
    return spent.children_user + spent.children_system


@pytest.fixture(scope="module")
def config() -> str:
    composed = compose(["method=dogo", "peers={small: resnet8, large: wrn-16-2}", "seed=3"])
    composed.steps, composed.classes = 60, 10
    return OmegaConf.to_yaml(OmegaConf.create(OmegaConf.to_container(composed, resolve=True)))


def make(folder: Path, config: str, state: str | None = "done", scores: dict | None = None, **status) -> Path:
    folder.mkdir(parents=True)
    (folder / "config.yaml").write_text(config)
    (folder / "checkpoints").mkdir()
    now = datetime.now().astimezone()
    said = {
        "state": state,
        "step": 40,
        "steps": 60,
        "beat": now.isoformat(),
        "began": now.isoformat(),
        **status,
    }
    if state:
        (folder / "status.json").write_text(json.dumps(said))
    if scores:
        (folder / "summary.json").write_text(json.dumps({"method": "dogo", "seconds": 90.0, "peers": scores}))
    return folder


def listed(capsys, *words: str) -> list[dict]:
    assert main(["runs", *words, "format=json"]) == 0
    return [json.loads(line) for line in capsys.readouterr().out.splitlines()]


SCORES = {
    "small": {"knn": {"1": 0.5, "20": 0.61}, "linear": 0.7},
    "large": {"knn": {"20": 0.66}, "linear": 0.72},
}


def test_every_state_is_named_and_the_scores_of_each_peer(tmp_path, config, capsys):
    hour = (datetime.now().astimezone() - timedelta(hours=3)).isoformat()
    make(tmp_path / "a", config, scores=SCORES, step=60)
    make(tmp_path / "study/pair-0", config, "failed", reason="the loss is not finite")
    make(tmp_path / "study/pair-1", config, "running", host=os.uname().nodename)  # and nobody holds its lock
    make(tmp_path / "deep/er/b", config, "interrupted", beat=hour)
    (tmp_path / "study/logs").mkdir()
    rows = {row["run"]: row for row in listed(capsys, f"folder={tmp_path}")}
    states = {name: row["state"] for name, row in rows.items()}
    assert states == {
        "a": "done",
        "study/pair-0": "failed",
        "study/pair-1": "killed",
        "deep/er/b": "interrupted",
    }
    a = rows["a"]
    assert (a["method"], a["data"], a["seed"], a["step"], a["steps"]) == ("dogo", "digits", 3, 60, 60)
    assert a["peers"] == {"small": {"knn": 0.61, "linear": 0.7}, "large": {"knn": 0.66, "linear": 0.72}}
    assert a["duration"] == 90 and 10_700 < rows["deep/er/b"]["age"] < 10_900
    assert list(rows["deep/er/b"]["peers"]) == ["small", "large"]
    main(["runs", str(tmp_path)])
    table = capsys.readouterr().out
    assert "study/pair-0: the loss is not finite" in table and "continues: deep/er/b, study/pair-1" in table
    assert "61.0" in table and "3.0 h ago" in table and "no runs" not in table


def test_runs_are_sorted_with_the_best_last(tmp_path, config, capsys):
    make(tmp_path / "good", config, scores={"small": {"linear": 0.9}})
    make(tmp_path / "bad", config, scores={"small": {"linear": 0.2}})
    make(tmp_path / "none", config, "running", beat="2020-01-01T00:00:00")
    names = [row["run"] for row in listed(capsys, f"folder={tmp_path}", "sort=linear")]
    assert names == ["none", "bad", "good"]
    assert [row["run"] for row in listed(capsys, f"folder={tmp_path}", "sort=age")][0] == "none"


@pytest.mark.parametrize(
    ("file", "text"),
    [
        ("config.yaml", "a: ["),
        ("config.yaml", "hello"),
        ("config.yaml", "!!python/object/apply:os.system [touch hurt]"),
        ("config.yaml", "peers: 3\nmethod: x\n"),
        ("config.yaml", "\xff\xfe"),
        ("summary.json", "{"),
        ("summary.json", "[]"),
        ("summary.json", '{"peers": 3, "seconds": "x", "method": 4}'),
        ("summary.json", '{"peers": {"a": 3, "b": {"knn": 2, "linear": {}}}}'),
        ("status.json", "[1]"),
        ("status.json", '{"state": 3, "step": "many", "beat": 7, "began": null}'),
    ],
)
def test_what_is_broken_or_somebody_elses_is_named_and_hinders_no_other(file, text, tmp_path, config, capsys,
                                                                        monkeypatch):  # fmt: skip
    monkeypatch.chdir(tmp_path)
    make(tmp_path / "fine", config, scores=SCORES)
    (make(tmp_path / "odd", config) / file).write_bytes(text.encode("latin-1"))
    (tmp_path / "notes").mkdir()
    rows = {row["run"]: row for row in listed(capsys, "folder=.")}
    assert rows["fine"]["state"] == "done" and rows["odd"]["state"] in ("broken", "done", "unknown")
    assert main(["runs", "."]) == 0
    assert "no runs: notes" in capsys.readouterr().out and not Path("hurt").exists()


def test_a_config_that_was_written_by_hand_is_read_too(tmp_path, config, capsys):
    make(tmp_path / "a", "{method: simclr, seed: 1, data: {name: cifar10}, peers: {x: {backbone: resnet8}}}")
    row = listed(capsys, f"folder={tmp_path}")[0]
    assert (row["method"], row["data"], row["seed"], list(row["peers"])) == ("simclr", "cifar10", 1, ["x"])


@pytest.mark.parametrize(
    ("words", "says"),
    [
        (["folder=nowhere"], "there is no folder nowhere"),
        (["nowhere"], '"nowhere" is neither an option'),
        (["sort=ag"], 'sort is "ag"; did you mean "age"?'),
        (["srot=age"], '"srot" is not an option of runs; did you mean "sort"?'),
        (["format=yaml"], 'format is "yaml"'),
    ],
)
def test_wrong_words_are_one_sentence(words, says, capsys):
    assert main(["runs", *words]) == 2
    assert says in capsys.readouterr().err


def test_a_hundred_runs_are_listed_in_half_a_second_without_torch(tmp_path, config):
    for i in range(100):
        make(tmp_path / f"study-{i % 5}/{i}", config, scores=SCORES)
    code = (
        f"import sys; from ssl_kd.cli import main; main(['runs', {str(tmp_path)!r}]);"
        "sys.exit(bool({'torch', 'hydra', 'omegaconf'} & set(sys.modules)))"
    )
    took = []
    for _ in range(5):
        began = cpu()
        done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)
        took.append(cpu() - began)
    assert done.returncode == 0 and len(done.stdout.splitlines()) > 200
    assert min(took) < 0.5
