"""Runs what a page of the documentation tells its reader to type, in a folder of its own, offline.

Everything is run as it stands there, in the order of the page, with three differences: trainings get words
after theirs that make them short (SHORT), so do probes that train (BRIEF), and CIFAR is made up. What
installs or starts several machines is not run here (ELSEWHERE): its words are understood; other tests and CI
run it.
"""

import re
import shlex
import subprocess
import sys
from collections.abc import Iterator
from contextlib import redirect_stderr, redirect_stdout
from io import StringIO
from pathlib import Path

import yaml

from ssl_kd import cli
from ssl_kd.commands.catalogue import COMMANDS, PROBES
from ssl_kd.config import compose
from ssl_kd.errors import InputError
from tests.conftest import OLD_TORCH

ROOT = Path(__file__).parent.parent
SHORT = [
    "epochs=1",
    "data.limit=16",
    "batch_size=8",
    "probe.baselines=false",
    "probe.knn=[1]",
    "threads=1",
    "probe.every=0",
]
# Pages on few labels: of so many images ten of each class can be drawn.
MORE = {
    "docs/tutorials/few-labels.md": ["data.limit=200", "batch_size=100"],
    "docs/tutorials/stages.md": ["data.limit=200"],
}
BRIEF = {
    "few_labels": ["draws=2", "shares=[0.1]", "per_class=[1]"],
    "linear_sgd": ["epochs=1"],
    "finetune": ["epochs=1"],
    "robustness": ["limit=20", "severities=[1]"],
}
ELSEWHERE = ("pip install", "-m venv", "source ", "#SBATCH", "srun ", "scontrol ", "ssh ")
NEWER = ("format=onnx", "shared_out.py") if OLD_TORCH else ()  # what the oldest torch cannot
LAUNCHERS = ("accelerate", "torchrun")
KIT = "ssl_kd.testing"


def pages() -> list[str]:
    """Every page that tells a reader what to type, from the top of the repository."""
    records = {"docs/results.md", "docs/performance.md", "docs/design.md"}  # of what was measured and decided
    elsewhere = {"docs/tutorials/pretext/README.md"}  # in its own folder: stages/test_pretext_tutorial
    found = [path.relative_to(ROOT).as_posix() for path in sorted(ROOT.glob("docs/**/*.md"))]
    left = [name for name in found if name not in records | elsewhere and "docs/results/" not in name]
    return ["README.md", *left]


def blocks(page: str) -> list[tuple[int, str, str, str]]:
    """(line, name, language, text) of every block with a language; the name is what stands above it."""
    text = (ROOT / page).read_text()
    return [
        (text.count("\n", 0, found.start(2)) + 1, found[1] or "", found[2], found[3])
        for found in re.finditer(r"^(?:`([\w/.-]+)`\n\n)?```(\w+)\n(.*?)^```", text, re.S | re.M)
    ]


def understood(page: str) -> Iterator[str]:
    """Yields what a page says to type that is no command of ours, or has words that are no options."""
    for line, name, language, text in blocks(page):
        for words in commands(text) if language == "bash" and not name else ():
            if words[:1] != ["ssl-kd"] or words[1] in ("completion", "--help"):
                continue
            rest = [word for word in words[2:] if "=" in word]
            try:
                if words[1] == "train" and not any(
                    word.startswith(("config=", "run=", "pretext=")) for word in rest
                ):
                    compose(rest)
                elif words[1] not in (*COMMANDS, *PROBES):
                    yield f"{page}:{line}: there is no command {words[1]}"
            except InputError as error:
                yield f"{page}:{line}: {error}"


def run(page: str) -> Iterator[str]:
    """Runs the blocks of `page` in the current folder; yields what failed, with the line."""
    for line, name, language, text in blocks(page):
        try:
            if name or language == "yaml":
                _write(name, text, language)
            elif language == "python":
                exec(compile(text, page, "exec"), {"__name__": "page"})
            elif language == "bash":
                for words in commands(text):
                    _type(words, [*SHORT, *MORE.get(page, ())])
        except Exception as error:
            yield f"{page}:{line}: {type(error).__name__}: {error}"


def commands(text: str) -> list[list[str]]:
    """The commands of a block of shell, as words."""
    lines = text.replace("\\\n", " ").splitlines()
    return [shlex.split(line, comments=not line.startswith("#SBATCH")) for line in lines if line.strip()]


def _type(words: list[str], short: list[str]) -> None:
    text = " ".join(words)
    if not words or any(part in text for part in (*ELSEWHERE, *NEWER)):
        return
    if KIT in words:  # of many processes: test_testing
        compose([word for word in words[words.index(KIT) + 1 :] if not word.startswith("processes=")])
        return
    if words[0] in LAUNCHERS and ("ssl_kd" in text or "ssl-kd train" in text):
        first = next(i for i, word in enumerate(words) if word.endswith(("train.py", "train")))
        compose(words[first + 1 :])
        return
    if words[0] == "python" and words[1].startswith("eval/"):
        words = ["ssl-kd", Path(words[1]).stem, *words[2:]]
    if words[0] != "ssl-kd":
        programs = {"python": [], "torchrun": ["-m", "torch.distributed.run"]}
        if words[0] in programs:
            text = shlex.join([sys.executable, *programs[words[0]], *words[1:]])
        done = subprocess.run(text, shell=True, capture_output=True, text=True)
        assert done.returncode == 0, f"{text}: {done.stderr[-500:]}"
        return
    command, rest = words[1], [_expanded(word) for word in words[2:]]
    rest = [one for several in rest for one in several]
    if any(word.startswith("processes=") for word in rest):
        compose(rest)
        return
    if command == "train":
        rest += short
    if command == "study":
        rest.append("dry_run=true")
    if command == "timing":
        rest += [*short, "measure=2"]
    rest += BRIEF.get(command, [])
    said = StringIO()
    with redirect_stdout(said), redirect_stderr(said):
        code = cli.main([command, *rest])
    true = command == "doctor" and code == 1  # of this machine
    assert code == 0 or true, f"{text}: exit code {code}: {said.getvalue()[-500:]}"


def _expanded(word: str) -> list[str]:
    """As a shell does with a `*`."""
    return sorted(str(path) for path in Path().glob(word)) if "*" in word and "=" not in word else [word]


def _write(name: str, text: str, language: str) -> None:
    """A file, where its name stands above the block or in its first line; any YAML has to be YAML."""
    if language == "yaml":
        yaml.safe_load(text)
    first = re.match(r"# ([\w/.-]+\.yaml)", text)
    name = name or (first[1] if first else "")
    if name:
        Path(name).parent.mkdir(parents=True, exist_ok=True)
        Path(name).write_text(text)
