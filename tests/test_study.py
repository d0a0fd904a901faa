"""Methods x seeds from one file: what is planned, what is skipped, what is refused."""

import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from ssl_kd.cli import main

QUICK = "peers={a: resnet8} epochs=1 batch_size=256 precision=float32 probe.knn=[1,20] probe.baselines=false"
STUDY = f"""
common: '{QUICK.replace("peers={a: resnet8} ", "")}'
groups:
  solo: ['method=simclr', 'peers={{a: resnet8}}']
  pair: ['method=dogo', 'peers={{a: resnet8, b: resnet8}}']
seeds: 2
base: [solo, pair]
"""


pytestmark = pytest.mark.usefixtures("own_folder")


def write(text: str = STUDY) -> None:
    Path("study.yaml").write_text(text)


def test_a_study_trains_every_group_and_seed_compares_them_and_repeats_nothing(capfd):
    write()
    assert main(["study", "study.yaml", "out=runs/s", "jobs=2"]) == 0
    said = capfd.readouterr().out
    for name in ("solo-0", "pair-0", "solo-1", "pair-1"):
        assert Path(f"runs/s/{name}/summary.json").is_file()
        assert f"{name}: done" in said
    comparison = json.loads(Path("runs/s/comparison.json").read_text())
    assert comparison["base"] == "solo"
    other = json.loads(Path("runs/s/against-pair/comparison.json").read_text())
    assert other["base"] == "pair"
    made = {path: path.stat().st_mtime_ns for path in Path("runs/s").rglob("summary.json")}
    assert main(["study", "study.yaml", "out=runs/s"]) == 0
    assert "4 runs, 4 done before" in capfd.readouterr().out
    assert made == {path: path.stat().st_mtime_ns for path in Path("runs/s").rglob("summary.json")}

    write(STUDY.replace("epochs=1", "epochs=2"))
    assert main(["study", "study.yaml", "out=runs/s"]) == 2
    assert "solo-0 belongs to another configuration (epochs: 1 there, 2 here)" in capfd.readouterr().err


def test_one_run_that_fails_is_named_and_the_others_are_done(capfd):
    bad = "  pair: ['method=simclr', 'peers={a: resnet8}', 'optim.rate.peak=1e30']"
    text = "\n".join(bad if line.startswith("  pair") else line for line in STUDY.splitlines())
    write(text.replace("seeds: 2", "seeds: [3]"))
    assert main(["study", "study.yaml", "out=runs/s", "jobs=2"]) == 1
    said = capfd.readouterr().out
    assert "failed: pair-3;" in said and "runs/s/logs" in said
    assert 'the term "nt_xent/a" is nan' in Path("runs/s/logs/pair-3.log").read_text()
    assert Path("runs/s/solo-3/summary.json").is_file()


def test_ctrl_c_stops_a_study_which_the_same_command_continues():
    write(STUDY.replace("epochs=1", "epochs=300"))
    command = [sys.executable, "-m", "ssl_kd", "study", "study.yaml", "out=runs/s"]
    child = subprocess.Popen(
        command, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True, start_new_session=True,
        preexec_fn=lambda: signal.signal(signal.SIGINT, signal.default_int_handler),
    )  # fmt: skip
    until = time.monotonic() + 120
    while not Path("runs/s/solo-0/metrics.jsonl").exists() and time.monotonic() < until:
        time.sleep(0.2)
    os.killpg(child.pid, signal.SIGINT)  # as a terminal does
    said = child.communicate(timeout=60)[0]
    assert child.returncode == 130, said
    assert "stopped; the same command continues" in said
    assert Path("runs/s/solo-0/checkpoints/last").is_dir()
    assert not Path("runs/s/pair-0").exists()


def test_a_dry_run_lists_the_commands(capsys):
    write()
    assert main(["study", "study.yaml", "dry_run=true"]) == 0
    lines = capsys.readouterr().out.splitlines()
    assert len(lines) == 4 and all(line.startswith("to do  ssl-kd train ") for line in lines)
    assert "run=runs/study/solo-0" in lines[0] and "run=runs/study/pair-0" in lines[1]


@pytest.mark.parametrize(
    ("text", "sentence"),
    [
        (None, "there is no file study.yaml"),
        ("groups: [", "study.yaml is not YAML"),
        ("seeds: 3", "study.yaml needs groups"),
        (STUDY + "\njobs: 2", '"jobs" is not an option'),
        (STUDY.replace("method=dogo", "method=doge"), "study.yaml, group pair: there is no method"),
        (STUDY.replace("epochs=1", "epoch=1"), 'did you mean "epochs"?'),
        (STUDY.replace("seeds: 2", "seeds: two"), "seeds is a number of seeds or a list"),
        (STUDY.replace("[solo, pair]", "[pair, sole]"), 'did you mean "solo"?'),
        (STUDY.replace("epochs=1", "epochs=1 seed=3"), "seed is filled in by the study"),
        (STUDY.replace("'method=simclr'", "3"), "options are a text or a list of texts"),
    ],
)
def test_what_cannot_be_studied_is_refused_before_any_run(text, sentence, capsys):
    if text is not None:
        write(text)
    assert main(["study", "study.yaml"]) == 2
    assert sentence in capsys.readouterr().err
    assert not Path("runs").exists()


@pytest.mark.parametrize(
    ("words", "sentence"),
    [
        ([], "study takes one YAML file"),
        (["study.yaml", "job=2"], 'did you mean "jobs"?'),
        (["study.yaml", "jobs=0"], "at least 1"),
    ],
)
def test_the_command_says_what_it_takes(words, sentence, capsys):
    write()
    assert main(["study", *words]) == 2
    assert sentence in capsys.readouterr().err
