"""The tutorial on pretexts of one's own does what it says."""

import json
import os
import re
import shlex
import subprocess
import sys
from pathlib import Path

import pytest

from tests import warm

PRETEXT = Path(__file__).parents[2] / "docs/tutorials/pretext"
PAGE = (PRETEXT / "README.md").read_text()
SHOWN = dict(re.findall(r"^`([\w/.]+)`\n\n```\w+\n(.*?)```", PAGE, re.S | re.M))
BLOCKS = re.findall(r"```(\w+)\n(.*?)```", PAGE, re.S)
COMMANDS = [line for language, text in BLOCKS if language == "bash" for line in text.splitlines()]
QUICK = ["epochs=1", "log_every=1", "probe.linear=false", "probe.baselines=false"]


@pytest.fixture(autouse=True)
def _trusted(monkeypatch, tmp_path):
    monkeypatch.setenv("SSL_KD_TRUST", str(PRETEXT))
    monkeypatch.setenv("XDG_STATE_HOME", str(tmp_path / "state"))


def run(words: list[str]) -> subprocess.CompletedProcess:
    """A command of the page, in its folder."""
    environment = {**os.environ, "PYTHONDONTWRITEBYTECODE": "1"}
    done = subprocess.run(words, cwd=PRETEXT, env=environment, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    return done


def train(words: list[str], folder: Path) -> list[dict]:
    """What the run says of its steps."""
    done = warm.run("train", *words, f"run={folder}", cwd=PRETEXT)
    assert done.returncode == 0, done.stderr
    lines = [json.loads(line) for line in (folder / "metrics.jsonl").read_text().splitlines()]
    return [line["terms"] for line in lines if "terms" in line]


def test_the_page_shows_the_files_that_lie_beside_it_and_nothing_else():
    files = [path for path in PRETEXT.rglob("*") if path.suffix in (".py", ".yaml")]
    assert SHOWN == {str(path.relative_to(PRETEXT)): path.read_text() for path in files}
    assert len(BLOCKS) == len(SHOWN) + sum(language == "bash" for language, _ in BLOCKS)


def test_each_pretext_of_the_users_own_is_at_most_40_lines_with_its_yaml():
    for name in ("jigsaw", "colours", "tico", "hypersphere"):
        files = [path for path in PRETEXT.rglob("*") if path.stem == name and path.suffix in (".py", ".yaml")]
        assert files and sum(len(file.read_text().splitlines()) for file in files) <= 40, name


@pytest.mark.parametrize("command", COMMANDS)
def test_every_command_of_the_page_does_what_it_says(command, tmp_path):
    first, kind, *words = shlex.split(command)
    if kind == "trust":
        assert "jigsaw.shuffled(), " in (
            said := run([sys.executable, "-P", "-m", "ssl_kd", kind, *words]).stdout
        )
        assert said.endswith("trusted.json\n")
    elif first == "python":
        assert "equal up to 1e-09 in float64" in run([sys.executable, kind, *words]).stdout
    elif kind == "show":
        assert "colours" in run([sys.executable, "-P", "-m", "ssl_kd", kind, *words]).stdout
    else:
        terms = train([*words, *QUICK], tmp_path / "run")
        tasks = [name for name in terms[0] if not name.startswith("kl/")]
        assert tasks and all(value < 100 for name, value in terms[-1].items() if name in tasks)


def test_two_peers_that_solve_jigsaws_teach_each_other_and_learn(tmp_path):
    small = "{backbone: {name: resnet8, base: 8}}"
    words = ["method=dogo", "pretext=jigsaw", f"peers={{a: {small}, b: {small}}}", *QUICK, "epochs=6"]
    terms = train(words, tmp_path / "run")
    assert set(terms[0]) == {"order/a", "order/b", "kl/a<-b", "kl/b<-a"}
    assert terms[0]["order/a"] > 1.6 and max(terms[-1]["order/a"], terms[-1]["order/b"]) < 1.4
