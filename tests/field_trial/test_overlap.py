"""The same images in train and test; weights that are no numbers; files and names of one's own."""

import shutil
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image
from safetensors.torch import load_file, save_file

from ssl_kd.cli import main
from ssl_kd.config import compose
from ssl_kd.errors import InputError
from ssl_kd.finished import load
from tests.field_trial.case import Case, check
from tests.field_trial.test_identity import ARRAYS, FOLDER, TINY, pixels, write_folder, write_npz

REFUSED = "test images .* are in the train split too.*data.overlap=accept"
DRY = "dry_run=true"


def copies() -> None:
    write_folder()
    shutil.copyfile("photos/train/a/000.png", "photos/test/a/copy.png")


def saved_again() -> None:
    write_folder()
    Image.open("photos/train/a/000.png").save("photos/test/a/again.bmp")


def same_arrays(rows: int = 8) -> None:
    train, test = pixels(24, 0), pixels(200, 1)
    test[:rows] = train[:rows]
    np.savez(
        "data.npz", train_images=train, train_labels=np.arange(24) % 2,
        test_images=test, test_labels=np.arange(200) % 2,
    )  # fmt: skip


def one_of_many() -> None:
    same_arrays(rows=2)


def copies_of_odd_size() -> None:
    """Of all images one alone has the size of another."""
    write_folder()
    for i, path in enumerate(sorted(Path("photos").rglob("*.png"))):
        path.write_bytes(path.read_bytes() + bytes(i))
    shutil.copyfile("photos/train/a/000.png", "photos/test/a/copy.png")


def not_looked_at(printed: str) -> None:
    assert "the train split too was not looked at (data.hash_bytes)" in printed


def said(printed: str) -> None:
    assert "2 of 200 test images (1 %) are in the train split too" in printed


def labelled_beside() -> None:
    write_npz()
    shutil.copyfile("data.npz", "own.npz")
    train = np.load("data.npz")["train_images"]
    np.savez("other.npz", train_images=pixels(8, 5), train_labels=np.arange(8) % 2, test_images=train[:4],
             test_labels=np.arange(4) % 2)  # fmt: skip


CASES = [
    Case("copies", "copied files", ["train", *TINY, *FOLDER, DRY], REFUSED + "|a/copy.png", copies),
    Case("saved again", "another format", ["train", *TINY, *FOLDER, DRY], REFUSED, saved_again),
    Case("arrays", "the same rows", ["train", *TINY, *ARRAYS, DRY], "8 of 200 .*" + REFUSED, same_arrays),
    Case("accepted", "the same rows", ["train", *TINY, *ARRAYS, DRY, "data.overlap=accept"], None,
         same_arrays),
    Case("few", "a share below the limit", ["train", *TINY, *ARRAYS, DRY], None, one_of_many, said),
    Case("run", "before training", ["train", *TINY, *ARRAYS], REFUSED, same_arrays),
    Case("word", "another word", ["train", *TINY, *ARRAYS, "data.overlap=yes"], "can be: accept",
         same_arrays),
    Case("sampled", "data that are too large to read",
         ["train", *TINY, *FOLDER, DRY, "data.hash_bytes=100"], None, write_folder, not_looked_at),
    Case("sampled copies", "a copy in large data", ["train", *TINY, *FOLDER, DRY, "data.hash_bytes=1000"],
         REFUSED + "|a/copy.png", copies_of_odd_size),
    Case(
        "probe.data", "the labelled images are trained on",
        ["train", *TINY, *ARRAYS, DRY, "probe.data=other.npz"], "probe.data's test images", labelled_beside,
    ),
    *(
        Case(f"{method} {peers}", "peers that replace those of a method",
             ["train", f"method={method}", peers, DRY],
             f"method={method} goes by the names of its peers, .*say peers.{role}=resnet8")
        for method, peers, role in (
            ("moco", "peers=[resnet8]", "query"), ("moco", "peers=[resnet8,resnet20]", "query"),
            ("kd", "peers=[resnet8]", "student"), ("cbd", "peers=[resnet8]", "student"),
            ("cbd", "peers=[resnet8,resnet8]", "student"),
        )
    ),
]  # fmt: skip


@pytest.mark.parametrize("case", CASES, ids=lambda case: case.name)
def test_case(case: Case, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys) -> None:
    monkeypatch.chdir(tmp_path)
    check(case, capsys)


def test_weights_that_are_no_numbers_are_refused_where_they_are_read(tmp_path, monkeypatch, capsys) -> None:
    monkeypatch.chdir(tmp_path)
    write_npz()
    assert main(["train", *TINY, *ARRAYS]) == 0
    assert main(["export", "run=run", "peer=a", "to=net.safetensors"]) == 0
    good = load_file("net.safetensors")
    name = next(key for key, value in good.items() if value.is_floating_point())
    for value, ending in ((float("nan"), "safetensors"), (float("inf"), "pt"), (float("-inf"), "pth")):
        bad = {key: tensor.clone() for key, tensor in good.items()}
        bad[name].view(-1)[0] = value
        file = f"bad.{ending}"
        save_file(bad, file) if ending == "safetensors" else torch.save({"state_dict": bad}, file)
        words = ["train", *TINY[:1], "run=other", *TINY[2:], *ARRAYS, f"peers.a.weights={file}"]
        check(Case(ending, "NaN in weights", words, "infinite or not a number, the first in"), capsys)
    place = next(Path("run/checkpoints").glob("step-*/cohort.safetensors"), None) or next(
        Path("run/checkpoints").rglob("cohort.safetensors")
    )
    weights = load_file(place)
    key = next(key for key, value in weights.items() if value.is_floating_point())
    weights[key].view(-1)[0] = float("nan")
    save_file(weights, place)
    with pytest.raises(InputError, match="damaged|infinite or not a number"):
        load("run")


def test_an_export_that_is_no_numbers_is_refused(tmp_path, monkeypatch) -> None:
    from safetensors import safe_open

    from ssl_kd.export import read

    monkeypatch.chdir(tmp_path)
    write_npz()
    assert main(["train", *TINY, *ARRAYS]) == 0
    assert main(["export", "run=run", "peer=a", "to=net.safetensors"]) == 0
    with safe_open("net.safetensors", "pt") as file:
        about, weights = file.metadata(), {key: file.get_tensor(key) for key in file.keys()}  # noqa: SIM118
    key = next(key for key, value in weights.items() if value.is_floating_point())
    weights[key].view(-1)[0] = float("nan")
    save_file(weights, "net.safetensors", about)
    with pytest.raises(InputError, match="infinite or not a number"):
        read("net.safetensors")


@pytest.mark.parametrize("group, name, key", [("data", "digits", "size"), ("recipe", "simclr", "views")])
def test_a_file_of_ones_own_goes_before_ours(group: str, name: str, key: str, tmp_path, monkeypatch) -> None:
    from ssl_kd.groups import chosen_file

    monkeypatch.chdir(tmp_path)
    ours = chosen_file(group, name)
    assert ours is not None
    text = ours.read_text()
    Path("configs", group).mkdir(parents=True)
    lines = [f"{key}: 7" if line.startswith(f"{key}:") else line for line in text.splitlines()]
    Path("configs", group, f"{name}.yaml").write_text("\n".join(lines))
    Path("configs/config.yaml").write_text("this: is of another program\n")
    config = compose(["method=simclr", "data=digits"])
    assert config[group][key] == 7 and "this" not in config
