"""Is it the data of before? Contents alone decide, and a change is refused by all who score."""

import json
import os
import re
import shutil
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from ssl_kd.cli import main
from ssl_kd.data import contents, hash_cache
from ssl_kd.data.folders import folder
from ssl_kd.data.identity import changed, identity, sampled
from ssl_kd.data.sources import Arrays, Data
from ssl_kd.errors import InputError
from ssl_kd.finished import load
from tests.field_trial.case import Case, check, snapshot

TINY = [
    *("method=simclr", "run=run", "batch_size=8", "epochs=1", "log_every=1", "threads=1", "health.every=0"),
    *("peers={a: {backbone: {name: resnet8, base: 4}}}", "probe.linear=false", "probe.knn=[1]"),
    *("probe.baselines=false", "tracker=none", "data.size=8"),
]


def pixels(count: int, seed: int, size: int = 8) -> np.ndarray:
    return np.random.default_rng(seed).integers(0, 256, (count, size, size, 3), np.uint8)


def write_npz(seed: int = 0) -> None:
    train, test = pixels(24, seed), pixels(8, seed + 100)
    labels = np.arange(24) % 2
    np.savez("data.npz", train_images=train, train_labels=labels, test_images=test, test_labels=labels[:8])


def write_folder(root: str = "photos", train: int = 12, test: int = 4) -> None:
    for part, count, seed in (("train", train, 1), ("test", test, 2)):
        for i, image in enumerate(pixels(count, seed)):
            place = Path(root, part, "ab"[i % 2])
            place.mkdir(parents=True, exist_ok=True)
            Image.fromarray(image).save(place / f"{i:03}.png")


ARRAYS, FOLDER = ["data=arrays", "data.path=data.npz"], ["data=folder", "data.root=photos"]


@pytest.fixture
def on_arrays(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    write_npz()
    assert main(["train", *TINY, *ARRAYS]) == 0


NOISE = lambda: write_npz(seed=7)  # noqa: E731
CHANGED = "the data of run changed since it began: .*data_changed=accept"


def test_who_scores_a_run_on_other_data_is_refused(
    on_arrays: None, capsys: pytest.CaptureFixture[str]
) -> None:
    write_npz(seed=7)
    for words in (
        *(["knn", "run=run"], ["linear", "run=run"], ["robustness", "run=run"], ["few_labels", "run=run"]),
        *(["eval", "run=run"], ["report", "run=run"], ["train", *TINY, *ARRAYS], ["finetune", "run=run"]),
    ):
        check(Case(words[0], "noise in place of the data", words, CHANGED), capsys)
    with pytest.raises(InputError, match="changed since it began"):
        _ = load("run").data


def test_accepted_data_are_scored_and_the_result_says_so(on_arrays: None) -> None:
    write_npz(seed=7)
    assert main(["knn", "run=run", "data_changed=accept"]) == 0
    assert "images are others" in json.loads(Path("run/eval/knn.json").read_text())["data_changed"]
    assert main(["report", "run=run", "data_changed=accept"]) == 0
    assert load("run", data_changed="accept").data.train is not None


def test_accept_is_the_only_word(on_arrays: None, capsys: pytest.CaptureFixture[str]) -> None:
    says = 'data_changed is "yes", but can be: accept'
    for words in (["knn", "run=run"], ["eval", "run=run"], ["report", "run=run"], ["train", *TINY, *ARRAYS]):
        check(Case(words[0], "another word", [*words, "data_changed=yes"], says), capsys)


def test_runs_of_before_go_by_their_own_rule(on_arrays: None, capsys: pytest.CaptureFixture[str]) -> None:
    path, data = Path("run/data.json"), load("run").data
    noted = {name: identity(data, like={name: {"samples": ""}})[name] for name in ("train", "test")}
    assert set(noted["train"]) == {"images", "shape", "labels", "samples"}
    path.write_text(json.dumps(noted))
    assert main(["knn", "run=run"]) == 0
    write_npz(seed=7)
    capsys.readouterr()
    assert main(["knn", "run=run"]) == 2
    assert "the train images are others" in capsys.readouterr().err


def test_each_replaced_file_is_noticed_and_named(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    write_folder(train=200)
    before = identity(folder("photos", 8))
    victim = Path("photos/train/b/101.png")
    kept = victim.read_bytes()
    for i, noise in enumerate(pixels(3, 50)):
        Image.fromarray(noise).save(victim)
        data = folder("photos", 8)
        said = changed(before, identity(data), data)
        assert "train images are others, the first is one of train/b/101.png to" in said, i
    victim.write_bytes(kept)
    assert not changed(before, identity(folder("photos", 8)))


def test_a_copy_elsewhere_with_other_times_is_the_same(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    write_folder()
    shutil.copytree("photos", "copy", copy_function=shutil.copyfile)
    assert identity(folder("photos", 8)) == identity(folder("copy", 8))


@pytest.mark.parametrize(
    "change, says",
    [
        (lambda: Path("photos/train/a/000.png").rename("photos/train/a/0000.png"), "other names"),
        (lambda: Path("photos/train/a/000.png").unlink(), "12 train images then, 11 train images now"),
        (
            lambda: [Path(f"photos/{part}/a").rename(f"photos/{part}/aa") for part in ("train", "test")],
            "12 train images|classes were|other names",
        ),
        (
            lambda: shutil.rmtree("photos/test"),
            "there was a test split|train classes were a, b, and are none",
        ),
        (lambda: os.replace("photos/test/a/000.png", "photos/test/a/002.png"), "test images"),
    ],
)
def test_names_numbers_and_classes_are_part_of_it(change, says: str, tmp_path, monkeypatch) -> None:
    monkeypatch.chdir(tmp_path)
    write_folder()
    before = identity(folder("photos", 8))
    change()
    data = folder("photos", 8)
    assert re.search(says, changed(before, identity(data), data))


def test_the_file_of_labels_is_part_of_it(tmp_path: Path) -> None:
    data = Data(Arrays(pixels(4, 0).transpose(0, 3, 1, 2), np.zeros(4, np.int64), ("x",)))
    file = tmp_path / "labels.txt"
    file.write_text("0\n0\n0\n0\n")
    before = identity(data, labels_file=file)
    file.write_text("0\n0\n0\n-1\n")
    assert changed(before, identity(data, labels_file=file)) == "labels.file holds something else"


def test_a_large_part_is_sampled_by_name_and_says_so() -> None:
    data = Data(Arrays(pixels(50, 0).transpose(0, 3, 1, 2)))
    noted = identity(data, hash_bytes=10 * 192)
    assert sampled(noted) == "identity: sampled, 10 of 50 train images (data.hash_bytes)"
    assert not changed(noted, identity(data, like=noted))  # whatever data.hash_bytes is by now
    assert not sampled(identity(data))


def test_unchanged_files_are_not_read_again(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    monkeypatch.setattr(hash_cache, "SETTLED", -1.0)
    write_folder()
    before = identity(folder("photos", 8))
    (file, *_) = (tmp_path / "cache/ssl_kd/hashes").iterdir()
    read: list[str] = []
    plain = contents._content
    monkeypatch.setattr(contents, "_content", lambda name: read.append(name) or plain(name))
    assert identity(folder("photos", 8)) == before and not read
    Image.fromarray(pixels(1, 9)[0]).save("photos/train/a/000.png")
    assert changed(before, identity(folder("photos", 8))) and len(read) == 1
    file.write_bytes(file.read_bytes()[:-5] + b"wrong")
    read.clear()
    identity(folder("photos", 8))
    assert len(read) > 1


def test_a_file_of_this_moment_is_not_remembered(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    write_folder()
    identity(folder("photos", 8))
    assert not (tmp_path / "cache").exists()
    assert not hash_cache.settled(os.stat("photos"))


def test_without_a_cache_it_is_the_same(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(hash_cache, "SETTLED", -1.0)
    write_folder()
    (tmp_path / "file").write_text("")
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "file"))
    before = snapshot()
    assert identity(folder("photos", 8)) == identity(folder("photos", 8))
    assert snapshot() == before


def test_a_cache_keeps_to_its_size(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    monkeypatch.setattr(hash_cache, "MOST_BYTES", 4096)
    for number in range(6):
        rows = np.random.default_rng(number).integers(0, 256, (40, 32), np.uint8)
        hash_cache.HashCache(tmp_path / str(number)).add(rows[:, :16], rows[:, 16:])
    sizes = [file.stat().st_size for file in hash_cache.folder().iterdir()]
    assert sizes and sum(sizes) <= 4096


def test_a_resumed_run_on_changed_data_notes_what_was_accepted(
    on_arrays: None, capsys: pytest.CaptureFixture[str]
) -> None:
    write_npz(seed=7)
    Path("run/summary.json").unlink()
    capsys.readouterr()
    assert main(["train", *TINY, *ARRAYS, "data_changed=accept"]) == 0
    assert "data_changed=accept takes" in capsys.readouterr().out
    assert "accepted" in json.loads(Path("run/data.json").read_text())
    assert main(["knn", "run=run"]) == 0


def test_a_number_of_bytes_is_a_number(tmp_path, monkeypatch, capsys) -> None:
    monkeypatch.chdir(tmp_path)
    write_npz()
    check(
        Case("hash_bytes", "a mistake", ["train", *TINY, *ARRAYS, "data.hash_bytes=0"], "data.hash_bytes"),
        capsys,
    )
