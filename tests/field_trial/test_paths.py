"""Paths with `~`: every path option of every command means the home, and no folder called `~` appears."""

import inspect
from importlib import import_module
from pathlib import Path

import numpy as np
import pytest

import ssl_kd
from ssl_kd.cli import main
from ssl_kd.commands.catalogue import COMMANDS, PROBES, command
from ssl_kd.commands.documented import options_in
from ssl_kd.config import compose
from ssl_kd.errors import InputError
from ssl_kd.export import read
from ssl_kd.groups import choices, chosen_file, config_folder
from ssl_kd.system.paths import OPTIONS, expand, expanded, is_path
from tests.field_trial.case import Case, check

TINY = "data=digits data.limit=64 batch_size=32 epochs=1 probe.linear=false probe.knn=[1]"
TRAIN = ["train", "method=simclr", "tracker=none", "peers={a: {backbone: {name: resnet8, base: 4}}}"]
TRAIN += [*TINY.split(), "probe.baselines=false"]


def home(name: str) -> Path:
    return Path("home") / name


def npz(path: str, labels: bool = True) -> None:
    images = np.random.default_rng(0).integers(0, 256, (64, 8, 8), dtype=np.uint8)
    said = {f"{part}_labels": np.arange(64) % 2 for part in ("train", "test")} if labels else {}
    np.savez(home(path), train_images=images, test_images=255 - images, **said)


def yaml(name: str, text: str) -> None:
    home(name).write_text(text)


def is_run(name: str) -> None:
    assert home(name).joinpath("config.yaml").is_file()


CASES = [
    Case(
        "a list of options with a run in it",
        "run=~/x in a file makes a folder called ~",
        ["train", "config=~/my.yaml", *TRAIN[1:]],
        prepare=lambda: yaml("my.yaml", "run: ~/from-file\n"),
        holds=lambda _: is_run("from-file"),
    ),
    Case(
        "an archive of arrays",
        "data.path=~/x is not found",
        [*TRAIN, "data=arrays", "data.path=~/a.npz", "data.size=8", "dry_run=true"],
        prepare=lambda: npz("a.npz"),
    ),
    Case(
        "the data of the probes, in a mapping",
        "probe.data={root: ~/x} is not found",
        [*TRAIN, "probe.data={name: arrays, path: ~/a.npz}", "dry_run=true"],
        prepare=lambda: npz("a.npz"),
    ),
    Case(
        "the data of the probes, in a word",
        "probe.data=~/x is not found",
        [*TRAIN, "probe.data=~/a.npz", "dry_run=true"],
        prepare=lambda: npz("a.npz"),
    ),
    Case(
        "labels in a file",
        "labels.file=~/x is not found",
        [*TRAIN, "method=supervised", "labels.file=~/l.npy", "dry_run=true"],
        prepare=lambda: np.save(home("l.npy"), np.zeros(1437, np.int64)),
    ),
    Case(
        "a folder of runs",
        "runs folder=~/x",
        ["runs", "folder=~/runs"],
        prepare=lambda: home("runs").mkdir(),
    ),
    Case(
        "a study's file and its place",
        "study ~/s.yaml out=~/x makes a folder called ~",
        ["study", "~/s.yaml", "out=~/studied", "dry_run=true"],
        prepare=lambda: yaml("s.yaml", "groups: {solo: method=simclr}\n"),
        holds=lambda printed: _says(printed, f"run={home('studied').absolute()}/solo-0"),
    ),
    Case(
        "a starter config",
        "init ~/photos to=~/x",
        ["init", "~/a.npz", "to=~/start.yaml"],
        prepare=lambda: npz("a.npz"),
        holds=lambda _: _says(home("start.yaml").read_text(), str(home("a.npz").absolute())),
    ),
    Case(
        "a user who is not there",
        "run=~x makes a folder called ~x",
        [*TRAIN, "run=~nobody_of_that_name/x"],
        says=r'run=~nobody_of_that_name/x: there is no user "nobody_of_that_name".*\./~nobody',
    ),
    Case(
        "a user who is not there, in a file",
        "run=~x makes a folder called ~x",
        ["train", "config=home/my.yaml"],
        prepare=lambda: yaml("my.yaml", "run: ~nobody_of_that_name/x\n"),
        says='there is no user "nobody_of_that_name"',
    ),
    *(
        Case(f"{words[0]} of a run that is not there", "~ is taken by its name", words, says="home/none")
        for words in (
            ["knn", "run=~/none"],
            ["eval", "run=~/none"],
            ["report", "run=~/none"],
            ["export", "run=~/none"],
            ["compare", "~/none"],
            ["transfer", "run=~/none", "data=digits"],
            ["doctor", "config=~/none.yaml"],
            ["timing", "config=~/none.yaml"],
            ["show", "config=~/none.yaml"],
        )
    ),
]


def _says(text: str, part: str) -> None:
    assert part in text, text


@pytest.mark.parametrize("case", CASES, ids=lambda case: case.name)
def test_a_path_with_a_tilde(case, capsys):
    check(case, capsys)
    assert not [path for path in Path().rglob("*") if path.name.startswith("~")]


def test_a_run_is_made_scored_exported_compared_and_loaded_by_a_path_with_a_tilde(capsys):
    assert main([*TRAIN, "run=~/runs/a"]) == 0
    for words in (
        ["knn", "run=~/runs/a", "knn=[1]"],
        ["export", "run=~/runs/a", "to=~/out.safetensors"],
        [*TRAIN, "run=~/runs/b", "peers.a.weights=~/runs/a"],
        [*TRAIN, "run=~/runs/c", "peers.a.weights={run: ~/runs/a}"],
        ["compare", "~/runs/a", "~/runs/b", "base=a", "out=~/compared"],
    ):
        assert main(words) == 0, capsys.readouterr().err
    assert (home("runs/a/eval/knn.json").is_file(), home("out.safetensors").is_file()) == (True, True)
    assert home("compared/comparison.json").is_file()
    assert ssl_kd.load("~/runs/a").step == 2 and read("~/out.safetensors") is not None
    assert not Path("~").exists()


@pytest.mark.parametrize("key", OPTIONS)
def test_every_option_of_the_table_is_expanded(key, monkeypatch):
    monkeypatch.setenv("HOME", "/at/home")
    key = key.replace("*", "name")
    first, _, rest = key.partition(".")
    assert expanded(key, "~/x") == "/at/home/x" and expanded(key, "$HOME/~/x") == "$HOME/~/x"
    if rest:  # the same in a mapping
        assert expanded(first, {rest: "~/x"} if "." not in rest else {}) in ({rest: "/at/home/x"}, {})


def test_every_option_that_is_a_path_is_in_the_table():
    """By the annotations of what reads data, and by the names and words of all other options."""
    found = {option.key for name in (*COMMANDS, *PROBES) for option in command(name).options}
    found = {key for key in found if key in ("run", "to", "out", "folder")}
    for name in choices("data"):
        if name == "dataset":  # of the user's own, which take what they like
            continue
        file = chosen_file("data", name)
        target = next(line.split(": ")[1] for line in file.read_text().splitlines() if "_target_:" in line)
        module, _, function = target.split(" ")[0].rpartition(".")
        takes = inspect.signature(getattr(import_module(module), function)).parameters
        found |= {f"data.{key}" for key, one in takes.items() if "Path" in str(one.annotation)}
    found |= {
        option.key
        for option in options_in(config_folder() / "config.yaml")
        if option.key.rpartition(".")[2] in ("run", "file", "path", "root", "folder", "dir")
    }
    assert {"run", "out", "to", "folder", "data.root", "data.train_list", "labels.file"} <= found
    assert [key for key in sorted(found) if not is_path(key)] == []


def test_a_config_file_of_ones_own_may_say_a_path_with_a_tilde(monkeypatch):
    folder = Path("configs/data")
    folder.mkdir(parents=True)
    own = (config_folder() / "data" / "folder.yaml").read_text()
    (folder / "mine.yaml").write_text(own.replace("root: ???", "root: ~/photos"))
    monkeypatch.setenv("HOME", "/at/home")
    assert compose(["data=mine"]).data.root == "/at/home/photos"


def test_only_a_leading_tilde_is_a_home():
    assert [str(expand(text)) for text in ("a/~/b", "$HOME/x", "./~", "a~")] == [
        "a/~/b",
        "$HOME/x",
        "~",
        "a~",
    ]
    with pytest.raises(InputError, match="no user"):
        expand("~nobody_of_that_name")
