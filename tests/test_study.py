"""Methods x seeds from one file: what is planned, what is skipped, what is refused."""

import json
import os
import re
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from omegaconf import OmegaConf
from safetensors.torch import load_file

from ssl_kd import compare, study
from ssl_kd.cli import main
from ssl_kd.config import compose
from ssl_kd.train import main as train

QUICK = (
    "peers={a: resnet8} epochs=1 batch_size=64 data.limit=320 precision=float32 probe.knn=[1,20] "
    "probe.baselines=false"
)
STUDY = f"""
common: '{QUICK.replace("peers={a: resnet8} ", "")}'
groups:
  solo: ['method=simclr', 'peers={{a: resnet8}}']
  pair: ['method=dogo', 'peers={{a: resnet8, b: resnet8}}']
seeds: 2
base: [solo, pair]
"""


RESULTS = Path(__file__).parents[1] / "docs" / "results"
PUBLISHED = sorted(RESULTS.rglob("study.yaml"))

pytestmark = pytest.mark.usefixtures("own_folder")


def write(text: str = STUDY) -> None:
    Path("study.yaml").write_text(text)


@pytest.mark.usefixtures("warm_processes")
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


@pytest.mark.usefixtures("warm_processes")
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
    assert child.returncode == 75, said
    assert "stopped; the same command continues" in said
    assert Path("runs/s/solo-0/checkpoints/last").is_dir()
    assert not Path("runs/s/pair-0").exists()


def test_a_run_that_a_signal_ends_before_it_can_save_has_not_failed():
    write(STUDY.replace("epochs=1", "epochs=300"))
    command = [sys.executable, "-m", "ssl_kd", "study", "study.yaml", "out=runs/s", "jobs=2"]
    child = subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True)
    until = time.monotonic() + 120
    while len(list(Path("runs/s/logs").glob("*.log"))) < 2 and time.monotonic() < until:
        time.sleep(0.01)
    child.send_signal(signal.SIGTERM)  # both runs are still importing
    said = child.communicate(timeout=60)[0]
    assert child.returncode == 75, said
    assert "stopped; the same command continues" in said and "failed" not in said
    assert not Path("runs/s/solo-0/metrics.jsonl").exists() and len(list(Path("runs/s/logs").glob("*"))) == 2


def test_a_signal_that_does_not_wake_the_waiting_study_is_handled_soon(monkeypatch):
    """Another thread receives it, as good as one that comes just before the wait begins."""
    handled = []

    def training(run, threads, logs, children):
        children.running.add(
            process := subprocess.Popen([sys.executable, "-c", "import time; time.sleep(60)"])
        )
        signal.pthread_kill(threading.get_ident(), signal.SIGTERM)
        began = time.monotonic()
        process.wait()
        handled.append(time.monotonic() - began)
        return -signal.SIGTERM

    monkeypatch.setattr(study, "_train", training)
    write()
    assert main(["study", "study.yaml", "jobs=1"]) == 75 and handled[0] < 30


def test_a_dry_run_lists_the_commands(capsys):
    write()
    assert main(["study", "study.yaml", "dry_run=true"]) == 0
    lines = capsys.readouterr().out.splitlines()
    assert len(lines) == 4 and all(line.startswith("to do  ssl-kd train ") for line in lines)
    assert "run=runs/study/solo-0" in lines[0] and "run=runs/study/pair-0" in lines[1]


def test_brackets_hold_words_together():
    write("groups: {two: 'method=dogo peers={a: resnet8, b: {backbone: resnet8}} recipe.scale=[0.5, 1]'}")
    (run,) = study.read(Path("study.yaml"), Path("runs/s")).runs
    assert {"peers={a: resnet8, b: {backbone: resnet8}}", "recipe.scale=[0.5, 1]"} <= {*run.words}


@pytest.mark.parametrize("path", PUBLISHED, ids=lambda path: path.parent.relative_to(RESULTS).as_posix())
def test_a_published_study_can_be_carried_out_as_it_stands(path, capsys):
    write(re.sub(r"(?m)^seeds:.*", "seeds: 1", path.read_text()))
    assert main(["study", "study.yaml", "dry_run=true"]) == 0
    assert "ssl-kd train" in capsys.readouterr().out


@pytest.mark.parametrize(
    ("text", "sentence"),
    [
        (None, "there is no file study.yaml"),
        ("groups: [", "study.yaml cannot be read (line 2"),
        ("seeds: 3", "study.yaml needs groups"),
        (STUDY + "\njobs: 2", '"jobs" is not an option'),
        (STUDY.replace("method=dogo", "method=doge"), "study.yaml, group pair: there is no method"),
        (STUDY.replace("epochs=1", "epoch=1"), 'did you mean "epochs"?'),
        (STUDY.replace("seeds: 2", "seeds: two"), "seeds is a number of seeds, at most 1000, or a list"),
        (
            STUDY.replace("seeds: 2", "seeds: 1000000000"),
            "seeds is a number of seeds, at most 1000, or a list",
        ),
        (STUDY.replace("seeds: 2", "seeds: [1, 1]"), "seeds names one twice"),
        (STUDY.replace("[solo, pair]", "[pair, sole]"), 'did you mean "solo"?'),
        (STUDY.replace("epochs=1", "epochs=1 seed=3"), "seed is filled in by the study"),
        (STUDY.replace("'method=simclr'", "3"), "options are a text or a list of texts"),
        (STUDY.replace("epochs=1", "epochs=1 peers.a.weights=@solo"), "in a circle: solo -> solo"),
        (
            STUDY.replace("b: resnet8", "b: {backbone: resnet8, weights: @sola}"),
            'study.yaml, group pair: "@sola" is no group; did you mean "solo"?',
        ),
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


# Groups that refer to others

CHAIN = """
groups:
  student: ['method=simclr', 'peers={a: resnet8}', 'peers.a.weights=@middle']
  middle: ['method=simclr', 'peers={a: resnet8}', 'peers.a.weights={run: @teacher, peer: a}']
  plain: ['method=simclr', 'peers={a: resnet8}']
  teacher: ['method=simclr', 'peers={a: resnet8}']
seeds: 2
"""


class Trained:
    """Takes the place of training and of comparing: writes down what was started and ended, and when."""

    def __init__(self, monkeypatch, code: Callable[[str], int] = lambda name: 0) -> None:
        self.said: list[str] = []
        self.compared: list[list[str]] = []
        self.threads: set[int] = set()
        self.code, self.lock, self.wait = code, threading.Lock(), 0.0
        monkeypatch.setattr(study, "_train", self.train)
        monkeypatch.setattr(compare, "main", self.compare)

    def train(self, run: study.Planned, threads: int, *others: object) -> int:
        name, code = run.folder.name, self.code(run.folder.name)
        self.threads.add(threads)
        with self.lock:
            self.said.append(f"{name} begins")
        time.sleep(self.wait if name.startswith("teacher") else 0)
        if not code:
            run.folder.mkdir(parents=True, exist_ok=True)
            with self.lock:  # hydra composes one config at a time
                config = compose(run.words)
            config.steps, config.classes = 10, 10
            OmegaConf.resolve(config)
            OmegaConf.save(config, run.folder / "config.yaml")
            (run.folder / "summary.json").write_text("{}")
        with self.lock:
            self.said.append(f"{name} ends")
        return code

    def compare(self, words: list[str]) -> int:
        self.compared.append([Path(word).name for word in words if "=" not in word])
        return 0

    @property
    def began(self) -> list[str]:
        return [line.removesuffix(" begins") for line in self.said if line.endswith(" begins")]


def test_each_run_comes_after_those_that_it_refers_to(monkeypatch, capsys):
    write(CHAIN)
    trained = Trained(monkeypatch)
    assert main(["study", "study.yaml", "dry_run=true"]) == 0
    lines = capsys.readouterr().out.splitlines()
    order = [line.rpartition("/")[2] for line in lines]
    assert order[:4] == ["teacher-0", "middle-0", "student-0", "plain-0"] and len(order) == 8
    assert "'peers.a.weights={run: runs/study/teacher-0, peer: a}'" in lines[1]
    assert "peers.a.weights=runs/study/middle-1" in lines[6]
    assert main(["study", "study.yaml"]) == 0
    assert trained.began == order


def test_others_go_on_while_a_run_waits_for_what_it_refers_to(monkeypatch):
    write(CHAIN)
    trained = Trained(monkeypatch)
    trained.wait = 0.3
    assert main(["study", "study.yaml", "jobs=2"]) == 0
    for seed in (0, 1):
        moments = [trained.said.index(line) for line in (
            f"teacher-{seed} ends", f"middle-{seed} begins", f"middle-{seed} ends", f"student-{seed} begins",
        )]  # fmt: skip
        assert moments == sorted(moments)
    assert trained.said.index("plain-0 ends") < trained.said.index("teacher-0 ends")


@pytest.mark.parametrize(("said", "jobs", "threads"), [(None, 1, 8), (None, 9, 1), ("3", 2, 3), ("8", 2, 4)])
def test_runs_share_the_cores_and_take_no_more_than_the_user_says(said, jobs, threads, monkeypatch):
    write("groups: {a: 'method=simclr peers={a: resnet8}'}\n")
    monkeypatch.setattr(study, "cores", lambda: 8)
    if said is None:
        monkeypatch.delenv("OMP_NUM_THREADS", raising=False)
    else:
        monkeypatch.setenv("OMP_NUM_THREADS", said)
    trained = Trained(monkeypatch)
    assert main(["study", "study.yaml", f"jobs={jobs}"]) == 0
    assert trained.threads == {threads}


@pytest.mark.usefixtures("warm_processes")
def test_what_others_refer_to_is_compared_only_as_a_base(monkeypatch):
    write(CHAIN)
    trained = Trained(monkeypatch)
    assert main(["study", "study.yaml", "out=a"]) == 0
    write(CHAIN + "base: [middle, plain]")
    assert main(["study", "study.yaml", "out=b"]) == 0
    with_base = ["middle-0", "student-0", "plain-0", "middle-1", "student-1", "plain-1"]
    assert trained.compared == [["student-0", "plain-0", "student-1", "plain-1"], with_base, with_base]


def test_a_base_may_name_what_is_compared_with_it_also_what_others_go_on_from(monkeypatch):
    write(CHAIN + "base: {plain: [middle, student], teacher: middle}")
    trained = Trained(monkeypatch)
    assert main(["study", "study.yaml"]) == 0
    assert trained.compared == [
        ["middle-0", "student-0", "plain-0", "middle-1", "student-1", "plain-1"],
        ["teacher-0", "middle-0", "teacher-1", "middle-1"],
    ]


@pytest.mark.parametrize("base", ["{plain: midle}", "[midle]", "midle", "{midle: plain}", "[{midle: plain}]"])
def test_a_base_that_is_no_group_is_refused(base, monkeypatch, capsys):
    write(CHAIN + f"base: {base}")
    assert main(["study", "study.yaml"]) == 2
    said = capsys.readouterr().err
    assert "base names" in said and "midle" in said


@pytest.mark.usefixtures("warm_processes")
def test_a_failure_keeps_back_what_refers_to_it_and_the_same_command_goes_on(monkeypatch, capsys):
    write(CHAIN)
    trained = Trained(monkeypatch, lambda name: int(name == "teacher-0"))
    assert main(["study", "study.yaml"]) == 1
    said = capsys.readouterr().out
    assert trained.began == ["teacher-0", "plain-0", "teacher-1", "middle-1", "student-1", "plain-1"]
    for name in ("middle-0", "student-0"):
        assert f"{name}: not started, since teacher-0 failed" in said
    assert "failed: teacher-0; not started because of that: middle-0, student-0; what they said" in said
    assert trained.compared == [["plain-0", "student-1", "plain-1"]]

    again = Trained(monkeypatch)
    monkeypatch.setattr(study, "_same", lambda folder, config: None)
    assert main(["study", "study.yaml"]) == 0
    assert again.began == ["teacher-0", "middle-0", "student-0"]


def test_groups_that_refer_to_each_other_in_a_circle_are_refused(capsys):
    write(
        CHAIN.replace(
            "  teacher: ['method=simclr'", "  teacher: ['method=simclr', 'peers.a.weights=@student'"
        )
    )
    assert main(["study", "study.yaml"]) == 2
    said = capsys.readouterr().err
    assert "in a circle: student -> middle -> teacher -> student" in said and said.count("\n") == 1
    assert not Path("runs").exists()


@pytest.mark.parametrize("place", ["me@teacher", "runs/@teacher/w.pt", "with a space@teacher"])
def test_an_at_sign_inside_a_value_means_nothing(place, capsys):
    write(CHAIN.replace("peers.a.weights=@middle", f"peers.a.weights={place}"))
    assert main(["study", "study.yaml", "dry_run=true"]) == 0
    assert f"peers.a.weights={place}" in capsys.readouterr().out


@pytest.mark.usefixtures("warm_processes")
def test_a_student_of_a_study_starts_with_what_its_teacher_has_learned(capsys):
    common = ["method=simclr", *QUICK.split()[2:], "probe.linear=false"]
    groups = {
        "student": ["peers={a: {backbone: resnet8, weights: @teacher}}", "optim.rate=0.0"],
        "teacher": ["peers={a: resnet8}"],
    }
    write(json.dumps({"common": common, "groups": groups}))
    for run in study.read(Path("study.yaml"), Path("runs/s")).runs:  # as the processes of a study do it
        assert train([*run.words]) == 0
    files = [f"runs/s/{name}-0/checkpoints/last/cohort.safetensors" for name in ("teacher", "student")]
    teacher, student = map(load_file, files)
    learned = [key for key in teacher if key.endswith("weight")]
    assert learned and all(torch.equal(teacher[key], student[key]) for key in learned)
    capsys.readouterr()
    assert main(["study", "study.yaml", "out=runs/s"]) == 0
    assert "2 runs, 2 done before" in capsys.readouterr().out
