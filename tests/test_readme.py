"""What the README promises: its commands are understood, its Python runs, its files exist."""

import re
import shlex
from pathlib import Path

import pytest

from ssl_kd import cli
from ssl_kd.config import compose

ROOT = Path(__file__).parent.parent
README = (ROOT / "README.md").read_text()
BLOCKS = re.findall(r"```(\w+)\n(.*?)```", README, re.S)
SHELL = [text.replace("\\\n", " ") for language, text in BLOCKS if language == "bash"]
COMMANDS = [line for text in SHELL for line in text.splitlines() if line]
PYTHON = [text for language, text in BLOCKS if language == "python"]
TRAINING = [
    shlex.split(line, comments=True) for line in COMMANDS if line.startswith(("ssl-kd train", "accel"))
]


def test_one_command_sets_up_and_trains_and_one_sets_up_and_tests():
    assert COMMANDS[0].endswith(".venv/bin/pip install -e . && .venv/bin/ssl-kd train")
    assert COMMANDS[1].endswith("&& .venv/bin/python -m pytest")
    assert "pytest$" in (ROOT / ".ci/run").read_text()


@pytest.mark.parametrize("words", TRAINING, ids=" ".join)
def test_every_training_command_is_understood(words):
    first = next(i for i, word in enumerate(words) if word.endswith(("train", "train.py")))
    assert compose(words[first + 1 :]).terms


def test_every_command_exists():
    split = [shlex.split(line, comments=True) for line in COMMANDS]
    named = [words[1] for words in split if words and words[0] == "ssl-kd"]
    named += re.findall(r"`ssl-kd (\w+)", README)
    assert {"train", "few_labels", "study", "compare", "report"} <= {*named} <= {*cli.COMMANDS, *cli.PROBES}


def test_the_studies_are_understood(tmp_path, monkeypatch, capsys):
    chain, study = [text for language, text in BLOCKS if language == "yaml"]
    monkeypatch.chdir(tmp_path)
    for text, runs in ((study, 15), (chain, 3)):
        Path("study.yaml").write_text(text)
        assert cli.main(["study", "study.yaml", "dry_run=true"]) == 0
        assert len(capsys.readouterr().out.splitlines()) == runs


def test_the_python_example_runs_and_is_under_20_lines_of_its_own():
    code = PYTHON[0]
    assert len([line for line in code.splitlines() if line and "import" not in line]) < 20
    exec(compile(code, "README.md", "exec"), {})


def test_files_that_the_readme_points_at_exist():
    for target in re.findall(r"\]\(([^)#]+)\)", README):
        assert (ROOT / target).exists(), target
