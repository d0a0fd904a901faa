"""The commands as a user runs them: how fast they answer, what they import, how they launch."""

import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from ssl_kd import launch
from ssl_kd.config import compose
from ssl_kd.console import Meter
from ssl_kd.show import graph

ROOT = Path(__file__).parent.parent
QUICK = [
    "peers={a: resnet8, b: resnet8}",
    "epochs=1",
    "batch_size=64",
    "data.limit=320",
    "probe.linear=false",
    "run=runs/a",
]


KD = (sys.executable, "-m", "ssl_kd")


def run(*command: object, folder: Path, **environment: str) -> subprocess.CompletedProcess:
    kept = {key: value for key, value in os.environ.items() if key not in ("OMP_NUM_THREADS", "LOCAL_RANK")}
    return subprocess.run(
        [str(word) for word in command],
        cwd=folder,
        env={**kept, **environment},
        capture_output=True,
        text=True,
        check=False,
        timeout=300,
    )


def python(code: str, folder: Path) -> subprocess.CompletedProcess:
    return run(sys.executable, "-c", code, folder=folder)


@pytest.mark.parametrize("words", [["--help"], ["train", "--help"], ["show", "method=dogo"]])
def test_help_and_show_answer_within_a_second_without_torch(words, tmp_path):
    code = f"import sys; from ssl_kd.cli import main; sys.exit(main({words!r}) or 'torch' in sys.modules)"
    assert python(code, tmp_path).returncode == 0
    took = []
    for _ in range(3):
        began = time.monotonic()
        done = run(*KD, *words, folder=tmp_path)
        took.append(time.monotonic() - began)
    assert done.returncode == 0 and done.stdout and min(took) < 1.0


def test_show_lists_every_edge_of_a_method(tmp_path):
    said = run(
        sys.executable, "-m", "ssl_kd", "show", "method=dogo", "peers=[resnet20,resnet32]", folder=tmp_path
    ).stdout
    assert "Bhat, Arani, Zonooz" in said and "peers=[resnet18,resnet50] data=cifar10" in said
    assert "resnet20.projection" in said and "Ramp(peak=0.39" in said and "resnet32 <── resnet20" in said


def test_show_says_of_each_peer_what_it_goes_by():
    words = ["method=ssl_kd", "parts=[peers,fusion,shift,teacher,ema]", "peers={a: resnet8, b: resnet8}"]
    lines = [" ".join(line.split()) for line in graph(compose([*words, "others.teacher.weights=x"]))]
    assert lines == [
        "a <── b, teacher, a_ema",
        "b <── a, b_decoder, teacher, b_ema",
        "leader <── fusion, maps, leader_decoder",
        "fusion <── together; reads a, b",
        "together reads a, b",
        "maps reads a, b",
        "b_decoder <── b; reads a",
        "leader_decoder <── leader; reads fusion",
        "teacher frozen",
        "a_ema follows a",
        "b_ema follows b",
    ]
    assert graph(compose(["method=moco"]))[1:] == ["key   follows query", "queue reads key"]


def test_a_line_of_progress_shows_a_few_of_many_terms(capsys):
    meter = Meter(10, 0)
    meter.report(10, {f"t{i}/a": float(i) for i in range(9)}, 3.0)
    meter.report(10, {f"t{i}": float(i) for i in range(5)}, 3.0)
    many, few = capsys.readouterr().out.splitlines()
    assert "t0 0.000  t1 1.000  t2 2.000  t3 3.000  and 5 more terms" in many and "t4 4.000" not in many
    assert "t4 4.000" in few and "more terms" not in few


def test_importing_the_package_is_quick_and_brings_its_public_names(tmp_path):
    began = time.monotonic()
    done = python(
        "from ssl_kd import Cohort, Each, Edge, Encoder, Mutual, fit; print(Cohort.__name__)", tmp_path
    )
    assert done.stdout == "Cohort\n" and time.monotonic() - began < 15
    began = time.monotonic()
    assert python("import ssl_kd; ssl_kd.__version__", tmp_path).returncode == 0
    assert time.monotonic() - began < 4


def test_importing_everything_changes_nothing_of_a_plain_torch_script(tmp_path):
    code = """
import json, logging, os, signal, sys, warnings
import torch
def state():
    return {
        "environment": dict(os.environ), "handlers": [repr(h) for h in logging.root.handlers],
        "hook": repr(sys.excepthook), "threads": torch.get_num_threads(),
        "dtype": str(torch.get_default_dtype()),
        "signals": [repr(signal.getsignal(s)) for s in (signal.SIGINT, signal.SIGTERM)],
        "methods": {f"{c.__name__}.{n}": id(v) for c in (torch.nn.Module, torch.Tensor, torch.optim.Optimizer,
                    torch.nn.BatchNorm2d) for n, v in vars(c).items()},
        "seed": torch.initial_seed(), "random": torch.get_rng_state().sum().item(), "path": list(sys.path),
    }
before = state()
import ssl_kd.backbones, ssl_kd.cohort, ssl_kd.data, ssl_kd.distributed, ssl_kd.encoder, ssl_kd.losses
import ssl_kd.optim
import ssl_kd.probes, ssl_kd.run, ssl_kd.schedules, ssl_kd.streams, ssl_kd.terms, ssl_kd.watchers
import ssl_kd.config, ssl_kd.cli
after = state()
print(json.dumps([key for key in before if before[key] != after[key]]))
"""
    done = python(code, tmp_path)
    assert done.returncode == 0, done.stderr
    assert json.loads(done.stdout) == []


def test_the_accelerate_launcher_runs_the_script_on_all_cores(tmp_path):
    done = run(
        sys.executable, "-m", "accelerate.commands.launch", "--cpu", "--num_processes", "1",
        ROOT / "ssl_kd/train.py", *QUICK, folder=tmp_path,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    environment = json.loads((tmp_path / "runs/a/environment.json").read_text())[-1]
    assert environment["threads"] == len(os.sched_getaffinity(0))
    assert "raw pixels" in done.stdout and len(done.stdout.splitlines()) <= 30


def test_the_users_own_number_of_threads_is_respected(tmp_path):
    assert run(*KD, "train", *QUICK, folder=tmp_path, OMP_NUM_THREADS="1").returncode == 0
    assert json.loads((tmp_path / "runs/a/environment.json").read_text())[-1]["threads"] == 1


def test_processes_are_started_and_counted(tmp_path):
    done = run(*KD, "train", "processes=2", *QUICK, folder=tmp_path)
    assert done.returncode == 0, done.stderr
    assert "2 x cpu" in done.stdout and done.stdout.count("raw pixels") == 1 and not done.stderr
    bad = run(
        sys.executable,
        "-m",
        "ssl_kd",
        "train",
        "processes=2",
        *QUICK[:-1],
        "terms.kl.peers=[a,c]",
        folder=tmp_path,
    )
    assert bad.returncode == 2
    assert bad.stderr == 'ssl-kd: the term "kl" names the peer "c", and there are: a, b\n'


def test_a_signal_between_two_starts_leaves_no_process_behind(monkeypatch):
    started, start = [], subprocess.Popen

    def popen(command, **options):
        if started:
            os.kill(os.getpid(), signal.SIGTERM)
        started.append(start([sys.executable, "-c", "import time; time.sleep(60)"], **options))
        return started[-1]

    monkeypatch.setattr(launch.subprocess, "Popen", popen)
    assert launch.spawn([], 2) == 128 + signal.SIGTERM
    assert [child.returncode for child in started] == [-signal.SIGTERM] * 2


def test_what_only_the_second_process_meets_is_said_once_too(tmp_path):
    (tmp_path / "bad.py").write_text(
        "from ssl_kd import InputError\n"
        "def recipe(batch, index):\n"
        "    if batch['row'][0] > 0:\n"
        "        raise InputError('only the second process sees this')\n"
        "    return {**batch, 'views': batch['image'].float().expand(2, -1, -1, -1, -1) / 255}\n"
    )
    words = ["recipe={_target_: bad.recipe}", "recipe=own", "processes=2", *QUICK]
    done = run(*KD, "train", *words, folder=tmp_path)
    assert done.returncode == 2
    assert done.stderr.splitlines()[-1] == "ssl-kd: only the second process sees this"


def test_a_count_of_processes_that_the_launcher_ignored_is_noticed(tmp_path):
    done = run(
        sys.executable, ROOT / "ssl_kd/train.py", "processes=2", *QUICK, folder=tmp_path, LOCAL_RANK="-1"
    )
    assert done.returncode == 2 and "processes is 2, but 1 were started" in done.stderr
