"""Writes stay where they belong: nothing goes through a link, into a pipe, or over what is somebody's."""

import ast
import json
import os
import re
import shutil
import socket
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
import torch

from ssl_kd.cli import main
from ssl_kd.errors import InputError
from ssl_kd.export import read
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


# Exports


def theirs(*names: str) -> Callable[[], None]:
    """Files that are somebody's, and no exports."""

    def prepare() -> None:
        for name in names:
            Path(name).parent.mkdir(parents=True, exist_ok=True)
            Path(name).write_text("precious")

    return prepare


def exported(name: str, change: Callable[[Path], object]) -> Callable[[], None]:
    """An export of ours, one of whose files was changed since."""

    def prepare() -> None:
        assert main([*EXPORT, "to=kept/x"]) == 0
        change(Path("kept", name))

    return prepare


def moved(to: str) -> Callable[[Path], None]:
    def change(path: Path) -> None:
        path.rename(to)
        path.symlink_to(Path(to).absolute())

    return change


THERE, OF_A_RUN = "is there already, and is no export of ours", "is|would be one of the files of the run"
LAST = "runs/a/checkpoints/last/cohort.safetensors"
HUB = "format=hub-folder"
EXPORTS = [
    Case("a-text", "an export over a thesis", [*EXPORT, "to=thesis.tex"], THERE, theirs("thesis.tex")),
    Case("its-card", "a note beside it", [*EXPORT, "to=thesis"], THERE, theirs("thesis.md")),
    Case("a-readme", "a project's README", [*EXPORT, "to=README.md"], THERE, theirs("README.md")),
    Case("weights", "another's weights", [*EXPORT, "to=w.safetensors"], THERE, theirs("w.safetensors")),
    Case("folder", "a folder with a README", [*EXPORT, HUB, "to=kept"], THERE, theirs("kept/README.md")),
    Case("config", "a folder of a model", [*EXPORT, HUB, "to=kept"], THERE, theirs("kept/config.json")),
    Case("a-folder", "a folder of other things", [*EXPORT, HUB, "to=."], "holds something else"),
    Case(
        "a-changed-file",
        "retrained since",
        [*EXPORT, "to=kept/x"],
        THERE,
        exported("x", lambda path: path.write_bytes(b"mine")),
    ),
    Case(
        "a-changed-card",
        "a licence put into a card",
        [*EXPORT, "to=kept/x"],
        THERE,
        exported(
            "x.md", lambda path: path.write_text(path.read_text().replace("---\n", "---\nlicense: mit\n", 1))
        ),
    ),
    Case("a-link", "an export moved, and linked", [*EXPORT, "to=kept/x"], THERE, exported("x", moved("x"))),
    Case("a-linked-card", "the same of a card", [*EXPORT, "to=kept/x"], THERE, exported("x.md", moved("x"))),
    Case(
        "a-pipe",
        "a pipe to export into",
        [*EXPORT, "to=kept"],
        "is a folder, a pipe or a device",
        pipe("kept"),
    ),
    *(
        Case(f"{to}-{more}", "an export over a run", [*EXPORT, f"to={to}", *more.split()], OF_A_RUN)
        for to in (
            "runs/b/config.yaml",
            "runs/a/config.yaml",
            LAST,
            "runs/a/metrics.jsonl",
            "runs/a/eval/new.safetensors",
            "runs/a/checkpoints/new.safetensors",
            "runs/b/Summary.json",
        )
        for more in ("overwrite=false", "overwrite=true")
    ),
    Case(
        "a-run-by-a-link",
        "an export through a folder that is a link",
        [*EXPORT, "to=kept/cohort.safetensors", "overwrite=true"],
        OF_A_RUN,
        lambda: Path("kept").symlink_to("runs/b/checkpoints/last"),
    ),
    Case(
        "checkpoint-as-export",
        "export/ that is a checkpoint",
        [*EXPORT, "overwrite=true"],
        OF_A_RUN,
        lambda: Path("runs/a/export").symlink_to("checkpoints/last"),
    ),
    Case(
        "half-a-word", "overwrite is a word", [*EXPORT, "overwrite=maybe"], "overwrite must be true or false"
    ),
]


@pytest.mark.parametrize("case", EXPORTS, ids=lambda case: case.name)
def test_an_export_replaces_nothing_but_exports(case, runs, capsys):
    check(case, capsys)


@pytest.mark.parametrize("form", ["safetensors", "hub-folder"])
def test_an_export_replaces_an_earlier_one_and_with_overwrite_any_file(form, runs, capsys):
    words = [*EXPORT, f"format={form}", "to=x"]
    assert main(words) == 0 and main([*words, "checkpoint=last"]) == 0
    before, card = snapshot("."), Path("x/README.md" if form == "hub-folder" else "x.md")
    card.write_text("precious")
    assert main(words) == 2 and main([*words, "overwrite=true"]) == 0 and snapshot(".") == before
    assert not list(Path().rglob("*.part"))


# A network of the user's own


NET = """import torch
class Net(torch.nn.Module):
    def __init__(self, width):
        super().__init__()
        self.convolution = torch.nn.Conv2d(1, width, 3)
    def forward(self, x):
        return self.convolution(x).mean((2, 3))
"""
OWN = [*QUICK[:-1], "peers={a: {backbone: {_target_: mine.Net, width: 4}}}"]


@pytest.mark.parametrize(
    ("form", "to"), [("safetensors", "models/a.safetensors"), ("hub-folder", "models/a")]
)
def test_an_export_of_ones_own_network_is_read_anywhere_and_a_copy_once_trusted(
    form, to, capsys, monkeypatch
):
    Path("mine.py").write_text(NET)
    assert main(["train", *OWN, RUN]) == 0
    Path("models").mkdir()
    assert main([*EXPORT, f"format={form}", f"to={to}"]) == 0
    place = Path(to).absolute()
    Path("elsewhere").mkdir()
    with monkeypatch.context() as patch:
        patch.chdir("elsewhere")
        assert read(place).embed(torch.rand(2, 1, 8, 8)).shape == (2, 4)
    copy = place.with_name("copy.safetensors" if place.is_file() else "copy")
    (shutil.copytree if place.is_dir() else shutil.copy)(place, copy)
    with pytest.raises(InputError, match=rf"ssl-kd trust {copy} lets it"):
        read(copy)
    capsys.readouterr()
    assert main(["trust", str(copy)]) == 0
    assert "mine.Net(width=4)" in capsys.readouterr().out
    read(copy)
    Path("mine.py").write_text(NET + "\n")
    with pytest.raises(InputError, match=r"mine\.py has changed since that was trusted"):
        read(copy)


# Studies


def study(name: str) -> Callable[[], None]:
    def prepare() -> None:
        Path("s.yaml").write_text(json.dumps({"groups": {name: QUICK}}))

    return prepare


NAMES = [
    *("../../x", "..", ".", "/tmp/x", "a/b", "a\\b", "", " ", "~", "-x", ".x", "a\x1b[31m", "a\nb", "a\x85"),
    *("a\u202eb", "a\u2028b", "${oc.env:HOME}", "x" * 300),
]


@pytest.mark.parametrize("name", NAMES, ids=ascii)
def test_a_study_stays_in_its_folder(name, capsys):
    words = ["study", "s.yaml", "out=kept", "dry_run=true"]
    check(
        Case(name, "a group named by a path", words, "a group's name is that of a folder", study(name)),
        capsys,
    )


@pytest.mark.parametrize("name", ["logs", "solo-0"])
def test_a_study_in_whose_folder_a_link_leads_out_is_refused(name, capsys):
    def prepare() -> None:
        study("solo")()
        link(f"kept/{name}", put="new")()

    says = f"kept/{name} is or lies behind a link that leads out of kept"
    check(Case(name, "a study's folder with a link", ["study", "s.yaml", "out=kept"], says, prepare), capsys)


# All of the code


ROOT = Path(__file__).parent.parent.parent
NAMED = {
    "write_text",
    "write_bytes",
    "savez",
    "savez_compressed",
    "save_file",
    "to_csv",
    "mkdir",
    "makedirs",
    "touch",
}
NAMED |= {
    "unlink",
    "rmtree",
    "rmdir",
    "rename",
    "copy2",
    "copyfile",
    "copytree",
    "symlink_to",
    "hardlink_to",
    "tofile",
}
NAMED |= {
    "NamedTemporaryFile",
    "TemporaryFile",
    "TemporaryDirectory",
    "mkstemp",
    "mkdtemp",
    "chmod",
    "savefig",
}
NAMED |= {"SummaryWriter", "FileHandler", "memmap"}
OF = {
    ("torch", "save"),
    ("np", "save"),
    ("os", "replace"),
    ("os", "remove"),
    ("os", "open"),
    ("shutil", "move"),
}
ELSEWHERE = {
    "system/writing.py": "is where it is written",
    "run.py": "a checkpoint is a folder of its own, made beside the others and renamed when it is whole",
    "own/record.py": "the lock and the folder of the user's own record, both for the user alone",
    "export/files.py": "fills the fresh files of system.writing: all are whole before one is renamed",
    "data/hash_cache.py": "a cache in the home of the user, which loses its oldest files",
    "commands/checks.py": "tries whether anything can be written, by a file without a name",
    "testing": "the kit's processes talk through a temporary folder of their own",
}
READING = {  # these open for reading, which a call of os.open does not tell by its name
    "system/reading.py",
    "status.py",
    "data/shards.py",
    "errors.py",
    "commands/runs.py",
}


def writing(file: Path) -> Iterator[str]:
    """The lines of a file that write, make, rename or take away something."""
    for node in ast.walk(ast.parse(file.read_text(encoding="utf-8"))):
        if not isinstance(node, ast.Call):
            continue
        function = node.func
        name = function.attr if isinstance(function, ast.Attribute) else getattr(function, "id", "")
        on = getattr(getattr(function, "value", None), "id", "")
        modes = [
            *node.args[: 2 if on or name == "open" else 1],
            *(k.value for k in node.keywords if k.arg == "mode"),
        ]
        said = [
            mode.value for mode in modes if isinstance(mode, ast.Constant) and isinstance(mode.value, str)
        ]
        opens = name in ("open", "fdopen") and any(
            re.fullmatch(r"[rwaxbt+]+", m) and set(m) & set("wax+") for m in said
        )
        if name in NAMED or (on, name) in OF or opens:
            yield f"{on}.{name}".lstrip(".")


def test_nothing_but_the_one_module_writes():
    found = {}
    for file in (*sorted((ROOT / "ssl_kd").rglob("*.py")), *sorted((ROOT / "eval").rglob("*.py"))):
        name = str(file.relative_to(ROOT)).removeprefix("ssl_kd/")
        calls = [call for call in writing(file) if not (name in READING and call == "os.open")]
        if calls and name not in ELSEWHERE and name.split("/")[0] not in ELSEWHERE:
            found[name] = calls
    assert not found, "ssl_kd.system.writing writes files"


@pytest.mark.parametrize(
    "line",
    [
        "open(p, 'w')",
        "p.open('ab')",
        "p.open(mode='x')",
        "p.write_text(t)",
        "torch.save(x, p)",
        "p.parent.mkdir()",
    ],
)
def test_a_line_that_writes_is_seen(line, tmp_path):
    (tmp_path / "a.py").write_text(line)
    assert list(writing(tmp_path / "a.py"))
