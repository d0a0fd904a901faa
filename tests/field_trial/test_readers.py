"""What is read of YAML and JSON, whoever wrote it: bounded, no pipe is waited for, no name counts twice."""

import ast
import json
import os
from pathlib import Path

import numpy as np
import pytest

import ssl_kd
from ssl_kd.cli import main
from ssl_kd.errors import InputError
from ssl_kd.system import documents
from ssl_kd.system.documents import check_yaml, from_json, from_yaml, lines_of, mapping_of, text_of, yaml_of
from tests.field_trial.case import Case, check

TINY = [
    *("train", "method=simclr", "batch_size=32", "epochs=1", "threads=1", "data=digits", "data.limit=64"),
    *("peers={a: {backbone: {name: resnet8, base: 4}}}", "probe.linear=false", "probe.knn=[1]"),
    *("probe.baselines=false", "tracker=none", "run=run"),
]
STUDY = ["study", "study.yaml", "out=out", "dry_run=true"]


def bomb(key: str = "a", levels: int = 12) -> str:
    """A few hundred bytes that come to ten to the `levels` values."""
    first = f"{key}0: &{key}0 [{', '.join('1' * 10)}]"
    more = [f"{key}{n}: &{key}{n} [{', '.join([f'*{key}{n - 1}'] * 10)}]" for n in range(1, levels)]
    return "\n".join([first, *more, ""])


def written(name: str, text: str):
    def prepare() -> None:
        Path(name).parent.mkdir(parents=True, exist_ok=True)
        Path(name).write_text(text)

    return prepare


def pipe(name: str):
    def prepare() -> None:
        Path(name).parent.mkdir(parents=True, exist_ok=True)
        os.mkfifo(name)

    return prepare


MY = ["train", "config=my.yaml", "dry_run=true"]
OWN = ["train", "method=mine", "dry_run=true"]
MANY, DEEP, TWICE, TAG = "more than 100,000 values", "nested too deeply", 'says "{}" twice', "has the tag"
HIDDEN = "# @package _global_\n"

CASES = [
    Case("config= bomb", "aliases", MY, MANY, written("my.yaml", bomb())),
    Case(
        "config= loop",
        "an alias of itself",
        MY,
        r"nothing before it that .\*x",
        written("my.yaml", "a: &x [*x]"),
    ),
    Case(
        "config= twins",
        "a line said twice",
        MY,
        TWICE.format("epochs"),
        written("my.yaml", "epochs: 1\nseed: 1\nepochs: 2\n"),
    ),
    Case(
        "config= twins below",
        "a line said twice",
        MY,
        TWICE.format("every"),
        written("my.yaml", "probe: {every: 1, every: 2}"),
    ),
    Case(
        "config= tag",
        "an object of Python",
        MY,
        TAG,
        written("my.yaml", "seed: !!python/object/apply:os.getpid []"),
    ),
    Case("config= deep", "brackets", MY, DEEP, written("my.yaml", "a: " + "[" * 4000)),
    Case(
        "config= large",
        "a file of a megabyte",
        MY,
        "more than 1,048,576 bytes",
        written("my.yaml", "#" * (1 << 20) + "\na: 1"),
    ),
    Case(
        "config= not text",
        "UTF-16",
        MY,
        "not UTF-8",
        lambda: Path("my.yaml").write_bytes("seed: 1".encode("utf-16")),
    ),
    Case("config= torn", "a typing error", MY, "line 3: ", written("my.yaml", "seed: 1\nepochs: [1\nb: 2")),
    Case(
        "own method bomb",
        "aliases in configs/",
        OWN,
        MANY,
        written("configs/method/mine.yaml", HIDDEN + bomb()),
    ),
    Case(
        "own method twins",
        "a line said twice",
        OWN,
        TWICE.format("terms"),
        written("configs/method/mine.yaml", HIDDEN + "terms: {}\nterms: {}\n"),
    ),
    Case(
        "own method tag",
        "an object of Python",
        OWN,
        TAG,
        written("configs/method/mine.yaml", HIDDEN + "terms: !!python/name:os.system"),
    ),
    Case(
        "own data bomb",
        "aliases in configs/",
        [*TINY, "dry_run=true"],
        MANY,
        written("configs/data/digits.yaml", bomb()),
    ),
    Case(
        "own recipe deep",
        "brackets in configs/",
        ["train", "recipe=mine", "dry_run=true"],
        DEEP,
        written("configs/recipe/mine.yaml", "a: " + "{a: " * 300),
    ),
    Case(
        "own pretext twins",
        "a line said twice",
        ["train", "pretext=mine", "dry_run=true"],
        TWICE.format("terms"),
        written("configs/pretext/mine.yaml", "terms: {}\nterms: {}\n"),
    ),
    Case(
        "below a choice",
        "aliases in a file that another names",
        OWN,
        MANY,
        lambda: (
            written(
                "configs/method/mine.yaml", HIDDEN + "defaults:\n  - simclr\n  - override /recipe: odd\n"
            )(),
            written("configs/recipe/odd.yaml", bomb())(),
        ),
    ),
    Case("study bomb", "aliases", STUDY, MANY, written("study.yaml", bomb("groups"))),
    Case(
        "study twins",
        "a group named twice",
        STUDY,
        TWICE.format("solo"),
        written("study.yaml", "groups:\n  solo: method=simclr\n  solo: method=dogo\n"),
    ),
    Case(
        "study twin seeds",
        "a key said twice",
        STUDY,
        TWICE.format("seeds"),
        written("study.yaml", "seeds: 1\ngroups: {solo: method=simclr}\nseeds: 2\n"),
    ),
    Case("study tag", "an object of Python", STUDY, TAG, written("study.yaml", "groups: !!python/tuple [1]")),
    Case("study pipe", "a pipe", STUDY, "study.yaml", pipe("study.yaml")),
    Case("config= pipe", "a pipe", MY, "my.yaml", pipe("my.yaml")),
    Case(
        "words",
        "aliases on the command line",
        ["train", 'peers={"a<-b": &x [1], b: *y}', "dry_run=true"],
        "cannot be read",
    ),
    Case(
        "words twins",
        "a key said twice",
        ["train", 'terms.kl.weight={"a<-b": 1, "a<-b": 2}', "dry_run=true"],
        "cannot be read|twice",
    ),
    Case(
        "export mapping",
        "shards",
        ["trust", "configs"],
        TWICE.format("a"),
        written("configs/data/x.yaml", "a: 1\na: 2"),
    ),
]


@pytest.mark.parametrize("case", CASES, ids=lambda case: case.name)
def test_case(case: Case, tmp_path, monkeypatch, capsys) -> None:
    monkeypatch.chdir(tmp_path)
    check(case, capsys)


@pytest.fixture(scope="module")
def trained(tmp_path_factory) -> Path:
    before = Path.cwd()
    os.chdir(tmp_path_factory.mktemp("run"))
    try:
        assert main(TINY) == 0
        return Path("run").resolve()
    finally:
        os.chdir(before)


def big(path: Path) -> None:
    with path.open("w") as file:
        file.write('{"a": [' + "1," * (9 << 20) + "1]}")


def twin(path: Path) -> None:
    text = path.read_text().strip()
    first = next(iter(json.loads(text)))
    path.write_text(f'{{"{first}": 1, {text[1:]}')


def fifo(path: Path) -> None:
    path.unlink()
    os.mkfifo(path)


FILES = ("summary.json", "data.json", "environment.json")
WHAT = {
    "large": (big, "bytes"),
    "twin": (twin, "twice"),
    "pipe": (fifo, "pipe|no summary|not finished|is no file"),
}


@pytest.mark.parametrize("what", WHAT)
@pytest.mark.parametrize("name", ["summary.json", "data.json"])
def test_a_file_of_a_run_is_read_in_bounds(name, what, trained, tmp_path, monkeypatch, capsys) -> None:
    import shutil

    monkeypatch.chdir(tmp_path)
    shutil.copytree(trained, "run")
    make, says = WHAT[what]
    words = ["compare", "run", "run"] if name == "summary.json" else ["knn", "run=run"]
    check(
        Case(
            f"{name} {what}",
            "a run folder",
            words,
            f"{name}.*({says})|({says})",
            lambda: make(Path("run", name)),
        ),
        capsys,
    )


@pytest.mark.parametrize("command", ["show", "doctor", "runs"])
def test_who_looks_at_runs_waits_for_no_pipe(command, trained, tmp_path, monkeypatch, capsys) -> None:
    import shutil

    monkeypatch.chdir(tmp_path)
    shutil.copytree(trained, "runs/run")
    for name in (*FILES, "status.json", "metrics.jsonl"):
        fifo(Path("runs/run", name))
    assert main(["runs"] if command == "runs" else [command, "method=simclr"]) in (0, 1, 2)


@pytest.mark.parametrize(
    "text, value",
    [
        ("a: 1e-3", {"a": 0.001}),
        ("a: 2020-01-01", {"a": "2020-01-01"}),
        ("a: &x [1, 2]\nb: *x", {"a": [1, 2], "b": [1, 2]}),
        ("base: &x {a: 1}\nc: {<<: *x, b: 2}", {"base": {"a": 1}, "c": {"a": 1, "b": 2}}),
        ("- {a: 1}\n- {a: 1}", [{"a": 1}, {"a": 1}]),
        ("a: a\nb: b\nc: [a, a]", {"a": "a", "b": "b", "c": ["a", "a"]}),
        ("\ufeffa: 1", {"a": 1}),
        ("", {}),
    ],
)
def test_what_is_no_harm_is_read_as_before(text, value, tmp_path) -> None:
    (tmp_path / "x.yaml").write_text(text)
    assert yaml_of(tmp_path / "x.yaml") == value


@pytest.mark.parametrize(
    "text, says",
    [
        ("1: a\n1: b", "twice"),
        ("a: 1\n'a': 2", "twice"),
        ("a: 1\n---\na: 2", "another document"),
        ("? [a]\n: 1", "unhashable"),
        ("a: &x 1\nb: *y", "nothing before it"),
    ],
)
def test_yaml_that_means_two_things_is_refused(text, says) -> None:
    with pytest.raises(InputError, match=says):
        from_yaml(text, "x.yaml")


@pytest.mark.parametrize(
    "text, says",
    [
        ('{"a": 1, "a": 2}', 'says "a" twice'),
        ('[{"a": {"b": 1, "b": 2}}]', 'says "b" twice'),
        ("[" * 200_000, "nested too deeply"),
        ("9" * 5000, "too many digits"),
        ('{"a": 1', "cannot be read"),
    ],
)
def test_json_that_means_two_things_is_refused(text, says) -> None:
    with pytest.raises(InputError, match=says):
        from_json(text, "x.json")


def test_an_alias_of_many_is_counted_and_not_made() -> None:
    with pytest.raises(ValueError, match="100,000 values"):
        check_yaml(bomb(levels=40))
    with pytest.raises(ValueError, match="has an alias"):
        check_yaml("a: &x 1\nb: *x", plain=True)


def test_lines_are_read_one_by_one(tmp_path, monkeypatch) -> None:
    path = tmp_path / "metrics.jsonl"
    path.write_text('{"step": 1}\n{"step": 2}\n{"step"')
    assert [line["step"] for line in lines_of(path)] == [1, 2]
    for text, says in (('{"a": 1, "a": 2}\n', "line 1.*twice"), ("[1]\n", "no mapping"), ("{\n", "line 1")):
        path.write_text(text)
        with pytest.raises(InputError, match=says):
            list(lines_of(path))
    monkeypatch.setattr(documents, "LINE", 1 << 10)
    path.write_text('{"a": "' + "x" * 2000 + '"}\n')
    with pytest.raises(InputError, match="line 1 has more than 1,024 bytes"):
        list(lines_of(path))


def test_of_what_is_too_large_nothing_is_read(tmp_path) -> None:
    path = tmp_path / "summary.json"
    with path.open("wb") as file:
        file.truncate(1 << 40)  # a tebibyte that takes no room
    with pytest.raises(InputError, match="more than 16,777,216 bytes"):
        mapping_of(path)
    with pytest.raises(InputError, match="folder, a pipe or a device"):
        text_of("/dev/zero")
    assert mapping_of(tmp_path / "none.json") == {}


READERS = {"safe_load", "load_all", "safe_load_all", "full_load", "unsafe_load"}


def test_nobody_else_reads_yaml_or_json() -> None:
    """So that a new reader cannot forget the bounds."""
    package, found = Path(ssl_kd.__file__).parent, []
    for file in sorted(package.rglob("*.py")):
        if file.relative_to(package).as_posix() == "system/documents.py":
            continue
        for node in ast.walk(ast.parse(file.read_text())):
            if isinstance(node, ast.Call) and isinstance(node.func, ast.Attribute):
                owner = node.func.value.id if isinstance(node.func.value, ast.Name) else ""
                called = f"{owner}.{node.func.attr}"
                if (
                    called in ("json.load", "json.loads", "yaml.load", "OmegaConf.load")
                    or node.func.attr in READERS
                ):
                    found.append(f"{file.relative_to(package)}:{node.lineno} {called}")
    assert not found


def test_arrays_stay_what_they_are(tmp_path) -> None:
    np.savez(tmp_path / "a.npz", a=np.arange(3))
    with pytest.raises(InputError, match="not UTF-8"):
        text_of(tmp_path / "a.npz")
