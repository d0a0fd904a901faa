"""Labels for training alone: wrong at random or from a file, for the right images, and never scored."""

import json
import os
import pickle
from collections import Counter
from itertools import islice
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from ssl_kd.build import build_batches, read_data
from ssl_kd.config import compose
from ssl_kd.data.adapt import as_channels, hold_out, subset
from ssl_kd.data.folders import folder
from ssl_kd.data.label_files import read
from ssl_kd.data.loaders import Batches, resident
from ssl_kd.data.relabel import positions, relabelled, symmetric, taught
from ssl_kd.data.sources import Arrays, Data, digits
from ssl_kd.errors import InputError
from ssl_kd.train import main

# Python 3.12 and 3.13 warn of any fork beside torch's threads; a worker uses none of them.
forking = pytest.mark.filterwarnings("ignore:.*multi-threaded.*fork:DeprecationWarning")
LABELS = np.arange(12) * 7 % 3


class Numbered:
    """A source of the user's own: image i is filled with i; it counts how often each is decoded."""

    shape = (3, 4, 4)
    classes = ("a", "b", "c")

    def __init__(self, n: int = 12):
        self.labels = np.arange(n) % 3
        self.decoded = np.zeros(n, dtype=int)

    def __len__(self):
        return len(self.decoded)

    def __getitem__(self, i):
        self.decoded[i] += 1
        return np.full(self.shape, i, dtype=np.uint8)


def arrays(n: int = 12) -> Arrays:
    images = np.zeros((n, 3, 4, 4), np.uint8) + np.arange(n, dtype=np.uint8)[:, None, None, None]
    return Arrays(images, np.arange(n) % 3, ("a", "b", "c"))


@pytest.fixture
def photos(tmp_path) -> Path:
    """Twelve PNG files, image i filled with i, in three classes."""
    for i in range(12):
        place = tmp_path / "photos" / f"class{i % 3}"
        place.mkdir(parents=True, exist_ok=True)
        Image.fromarray(np.full((4, 4, 3), i, np.uint8)).save(place / f"{i:02}.png")
    return tmp_path / "photos"


def first(source) -> list[int]:
    """A pixel of each image, which says which one it is."""
    return [int(source[i][0, 0, 0]) for i in range(len(source))]


# Noise


def test_noise_hits_the_share_that_is_asked_for():
    labels = np.arange(40_000) % 10
    for rate in (0.05, 0.4, 0.8):
        hit = symmetric(labels, 10, rate, 0) != labels
        assert abs(hit.sum() - 40_000 * rate) < 4 * np.sqrt(40_000 * rate * (1 - rate))


def test_noise_leads_to_each_other_class_alike_and_never_to_the_same():
    labels = np.arange(90_000) % 10
    wrong = symmetric(labels, 10, 0.5, 0)
    hit = wrong != labels
    pairs = Counter(zip(labels[hit].tolist(), wrong[hit].tolist(), strict=True))
    assert set(pairs) == {(a, b) for a in range(10) for b in range(10) if a != b}
    expected = 90_000 * 0.5 / 90
    assert all(abs(count - expected) < 4.5 * np.sqrt(expected) for count in pairs.values())
    assert ((symmetric(np.ones(1000, int), 2, 0.999, 0) == 0).sum()) > 990  # what is hit has changed


def test_noise_is_a_function_of_seed_and_position_alone():
    labels = np.arange(1000) % 10
    wrong = symmetric(labels, 10, 0.4, 0)
    assert np.array_equal(symmetric(labels[:77], 10, 0.4, 0), wrong[:77])
    other = np.roll(labels, 1)
    assert np.array_equal(symmetric(other, 10, 0.4, 0) != other, wrong != labels)
    assert not np.array_equal(symmetric(labels, 10, 0.4, 1), wrong)


def test_more_noise_hits_what_less_noise_hits_in_the_same_way():
    labels = np.arange(1000) % 10
    little, much = symmetric(labels, 10, 0.2, 0), symmetric(labels, 10, 0.8, 0)
    hit = little != labels
    assert np.array_equal(little[hit], much[hit])


def test_an_image_without_a_label_stays_without():
    labels = np.where(np.arange(1000) % 2, -1, 3)
    assert (symmetric(labels, 10, 0.9, 0)[1::2] == -1).all()


@pytest.mark.parametrize("rate", [1.0, -0.1, float("nan"), True, "0.4", None])
def test_a_rate_that_is_no_share_is_refused(rate):
    with pytest.raises(
        InputError, match="^labels.noise is a share of the labels, from 0 to less than 1, not"
    ):
        symmetric(LABELS, 3, rate, 0)


def test_noise_between_one_class_is_refused():
    with pytest.raises(InputError, match="at least 2 classes"):
        symmetric(LABELS * 0, 1, 0.5, 0)


# Files


def text(path: Path, content: str) -> None:
    path.write_text(content)


WRITERS = {
    "l.npy": (None, lambda path: np.save(path, LABELS)),
    "rows.npy": (None, lambda path: np.save(path, LABELS[:, None].astype(np.uint8))),
    "l.npz": (None, lambda path: np.savez(path, x=LABELS)),
    "two.npz": ("worse", lambda path: np.savez(path, worse=LABELS, clean=LABELS * 0)),
    "l.txt": (None, lambda path: text(path, "\n".join(map(str, LABELS)) + "\n\n")),
    "l.csv": (
        "worse",
        lambda path: text(path, "name, worse\n" + "".join(f'"a,{i}", {k}\n' for i, k in enumerate(LABELS))),
    ),
    "tensor.pt": (None, lambda path: torch.save(torch.from_numpy(LABELS), path)),
    "array.pt": (None, lambda path: torch.save(LABELS, path)),
    "list.pth": ("l", lambda path: torch.save({"l": LABELS.tolist(), "m": "said"}, path)),
    # as CIFAR-N's: several arrays
    "dict.pt": (
        "worse_label",
        lambda path: torch.save(
            {
                "clean_label": LABELS * 0,
                "worse_label": LABELS,
                "names": np.array(["a"]),
                "x": np.ones((2, 2)),
            },
            path,
        ),
    ),
    "big_endian.pt": (None, lambda path: torch.save({"l": LABELS.astype(">i4")}, path)),
    "columns.pt": (None, lambda path: torch.save({"l": np.asfortranarray(LABELS[:, None])}, path)),
}


@pytest.mark.parametrize("name", WRITERS)
def test_labels_are_read_from_every_kind_of_file(name, tmp_path):
    key, write = WRITERS[name]
    write(tmp_path / name)
    found = read(str(tmp_path / name), key, 12, "abc", images=lambda: [f"a,{i}" for i in range(12)])
    assert found.dtype == np.int64 and np.array_equal(found, LABELS)


def test_a_file_may_leave_images_without_a_label(tmp_path):
    np.save(tmp_path / "l.npy", np.where(LABELS == 1, -1, LABELS))
    assert (read(tmp_path / "l.npy", None, 12, "abc")[LABELS == 1] == -1).all()


class Harm:
    """What a pickle can do."""

    def __reduce__(self):
        return os.mkdir, ("harmed",)


class Claim:
    """A pickled array that says of its memory what is not so: eight bytes that are an object's address."""

    def __reduce__(self):
        rebuild, arguments, _ = np.arange(1).__reduce__()
        return rebuild, arguments, (1, (1,), np.dtype("O"), False, b"\1" * 8)


@pytest.mark.parametrize(
    ("name", "key", "write", "sentence"),
    [
        ("l.npy", None, None, "there is no file l.npy"),
        ("l.json", None, lambda path: text(path, "[]"), "labels.file is one of .npy, .npz, .csv"),
        (
            "l.npy",
            None,
            lambda path: np.save(path, LABELS[:11]),
            "11 labels, and the whole train split has 12",
        ),
        (
            "l.npy",
            None,
            lambda path: np.save(path, LABELS + 1),
            "the label 3, which is none of the 3 classes",
        ),
        ("l.npy", None, lambda path: np.save(path, LABELS - 2), "the label -2, which is none of the 3"),
        ("l.npy", None, lambda path: np.save(path, LABELS / 2), "whole numbers (N,), not float64 (12,)"),
        ("l.npy", None, lambda path: np.save(path, np.eye(12, 3, dtype=int)), "not int64 (12, 3)"),
        ("l.npy", "worse", lambda path: np.save(path, LABELS), 'has nothing called "worse"'),
        ("l.npy", None, lambda path: np.save(path, np.array([Harm()] * 12)), "or holds more than numbers"),
        ("l.npy", None, lambda path: text(path, "0 1 2"), "l.npy cannot be read"),
        ("l.npz", None, lambda path: np.savez(path, a=LABELS, b=LABELS), "says which to take of a, b"),
        ("l.npz", "c", lambda path: np.savez(path, aa=LABELS, b=LABELS), 'no "c"; there are: aa, b'),
        ("l.npz", "a", lambda path: np.savez(path, a=np.array([Harm()] * 12)), "it holds objects"),
        ("l.npz", None, lambda path: text(path, "no archive"), "l.npz cannot be read"),
        ("l.csv", None, lambda path: text(path, "a,b\n1,2\n"), "labels.key names one of: a, b"),
        ("l.csv", "worst", lambda path: text(path, "a,worse\n1,2\n"), 'did you mean "worse"?'),
        ("l.txt", None, lambda path: text(path, "0\n\ntwo\n"), 'line 3 of l.txt says "two", which is not'),
        ("l.csv", "b", lambda path: text(path, "a,b\n1,2\n1\n"), 'line 3 of l.csv says "", which is not'),
        ("l.txt", None, lambda path: path.write_bytes(b"\xff\xfe\x00"), "l.txt cannot be read"),
        ("l.pt", "c", lambda path: torch.save({"aa": LABELS}, path), 'no "c"; there are: aa'),
        ("l.pt", None, lambda path: torch.save({}, path), "which to take of nothing"),
        ("l.pt", "a", lambda path: torch.save({"a": LABELS, "b": Harm()}, path), "more than numbers"),
        ("l.pt", None, lambda path: torch.save(Harm(), path), "more than numbers"),
        ("l.pt", None, lambda path: path.write_bytes(pickle.dumps(Harm())), "more than numbers"),
        ("l.pt", "a", lambda path: torch.save({"a": np.array([Harm()])}, path), "more than numbers"),
        ("l.pt", "a", lambda path: torch.save({"a": Claim()}, path), "its labels are O8, not numbers"),
        (
            "l.pt",
            "a",
            lambda path: torch.save({"a": np.array(["x"])}, path),
            'line 1 of l.pt says "x", which is not a whole number, nor one of the classes a, b, c',
        ),
        ("l.pt", None, lambda path: text(path, "no archive"), "l.pt cannot be read"),
    ],
)
def test_a_file_that_is_of_no_use_is_refused_in_one_sentence_and_not_executed(
    name, key, write, sentence, tmp_path, monkeypatch
):
    monkeypatch.chdir(tmp_path)
    if write is not None:
        write(Path(name))
    with pytest.raises(InputError) as refused:
        read(name, key, 12, "abc")
    assert sentence in str(refused.value) and "\n" not in str(refused.value)
    assert not Path("harmed").exists()


# Sources


@pytest.fixture(params=["arrays", "files", "numbered"])
def source(request, photos):
    return {"arrays": arrays, "numbered": Numbered}.get(request.param, lambda: folder(photos, 4).train)()


def test_a_source_with_other_labels_shows_the_same_images(source):
    before, images = source.labels.copy(), first(source)
    other = relabelled(source, LABELS)
    assert first(other) == images and other.shape == source.shape and other.classes == source.classes
    assert np.array_equal(other.labels, LABELS) and np.array_equal(source.labels, before)
    again = pickle.loads(pickle.dumps(other))
    assert first(again) == images and np.array_equal(again.labels, LABELS)


@pytest.mark.parametrize("first_read", ["own", "other"])
def test_what_is_decoded_for_one_of_them_is_decoded_for_both(first_read):
    own = Numbered()
    other = relabelled(own, LABELS)
    images = resident(own if first_read == "own" else other)
    assert resident(other) is images and resident(own) is images
    assert (own.decoded == 1).all()


@forking
def test_worker_processes_read_a_source_with_other_labels(source):
    other = relabelled(source, LABELS)
    for batch in islice(Batches(other, 4, resident_bytes=0, workers=1)(0), 3):
        assert torch.equal(batch["label"], torch.from_numpy(LABELS)[batch["index"]])
        assert [int(image[0, 0, 0]) for image in batch["image"]] == [first(source)[i] for i in batch["index"]]


def test_positions_are_those_in_the_whole_split_through_limits_and_held_out_parts(source, photos):
    whole = first(source)
    for part in (
        source,
        subset(source, [5, 2, 2]),
        as_channels(subset(source, [7, 1]), 1),
        subset(as_channels(subset(source, [7, 1, 4]), 1), [2, 0]),
        hold_out(hold_out(Data(source), 0.25, seed=0), 0.25, seed=0).train,
        relabelled(subset(source, [3, 4]), np.array([0, 0])),
    ):
        at, count = positions(part)
        assert count == 12 and [whole[i] for i in at] == first(part)
    (photos / "class0" / "00.png").write_bytes(b"no image")
    part = folder(photos, 4, skip_broken=True, limit=8).train
    at, count = positions(part)
    assert count == 12 and [sorted(range(12), key=lambda i: (i % 3, i))[i] for i in at] == first(part)


def test_a_file_belongs_to_the_whole_split_and_each_image_gets_its_own(source, tmp_path):
    mine = (np.array(first(source)) // 4) % 3  # what an image shows says which label it has in the file
    np.save(tmp_path / "l.npy", mine)
    for part in (source, hold_out(Data(source), 0.25, seed=0).train, subset(source, [8, 3])):
        own = part.labels.copy()
        seen = taught(part, file=tmp_path / "l.npy")
        assert list(seen.labels) == [(value // 4) % 3 for value in first(part)]
        assert np.array_equal(part.labels, own)
    with pytest.raises(InputError, match="holds 12 labels, and the whole train split has 15 images"):
        taught(arrays(15), file=tmp_path / "l.npy")


def test_the_labels_of_a_limited_data_set_are_those_of_the_images_that_it_keeps(tmp_path):
    whole, limited = digits().train, digits(limit=300).train
    at, count = positions(limited)
    assert count == len(whole) and np.array_equal(whole.images[at], limited.images)
    np.save(tmp_path / "l.npy", (whole.labels + 1) % 10)
    seen = taught(limited, file=tmp_path / "l.npy")
    assert np.array_equal(seen.labels, (limited.labels + 1) % 10)


def test_an_image_has_the_same_noise_whatever_else_is_held_out(tmp_path):
    whole = digits().train
    wrong = taught(whole, noise=0.4)
    part = hold_out(Data(whole), 0.3, seed=0).train
    assert np.array_equal(taught(part, noise=0.4).labels, wrong.labels[positions(part)[0]])
    np.save(tmp_path / "l.npy", whole.labels * 0)
    both = taught(whole, noise=0.4, file=tmp_path / "l.npy").labels  # of the file's labels
    assert np.array_equal(both != 0, wrong.labels != whole.labels)


def test_where_nothing_is_asked_for_the_source_is_handed_back():
    source = arrays()
    assert taught(source) is source and taught(source, noise=0.0) is source


@pytest.mark.parametrize(
    ("options", "sentence"),
    [
        ({"noise": 0.4}, "labels.noise changes the labels that training sees, and the data has none"),
        ({"file": "l.npy"}, "labels.file changes the labels that training sees, and the data has none"),
        ({"key": "worse"}, 'labels.key is "worse", and there is no labels.file'),
    ],
)
def test_options_that_mean_nothing_for_the_data_are_refused(options, sentence):
    with pytest.raises(InputError, match=sentence):
        taught(Arrays(np.zeros((4, 1, 2, 2), np.uint8)), **options)


# Runs

QUICK = [
    "method=dml", "peers={a: resnet8}", "epochs=1", "batch_size=256", "precision=float32",
    "probe.knn=[1,20]", "log_every=1",
]  # fmt: skip


def batch(words: list[str]) -> dict:
    config = compose([*QUICK, *words])
    feed, _ = build_batches(config, read_data(config), torch.device("cpu"))
    return next(feed(0))


def test_a_teacher_and_its_student_see_the_same_wrong_labels():
    seen = {}
    for seed in (0, 1):
        found = batch(["labels.noise=0.4", f"seed={seed}"])
        for index, label in zip(found["index"].tolist(), found["label"].tolist(), strict=True):
            assert seen.setdefault(index, label) == label
    assert len(seen) > 256  # other orders, of the same images
    clean = digits().train.labels
    assert 0.3 < np.mean([clean[index] != label for index, label in seen.items()]) < 0.5


def test_training_sees_the_wrong_labels_and_every_score_is_of_the_right_ones(own_folder):
    said = {}
    for name, noise in (("clean", 0.0), ("noisy", 0.9)):
        assert main([*QUICK, f"labels.noise={noise}", "hold_out=0.2", f"run={name}"]) == 0
        losses = [json.loads(line) for line in Path(name, "metrics.jsonl").read_text().splitlines()]
        summary = json.loads(Path(name, "summary.json").read_text())
        said[name] = (losses[0]["loss"], summary["baselines"], summary["peers"]["a"]["linear"])
    assert said["clean"][0] != said["noisy"][0]
    assert said["clean"][1] == said["noisy"][1]
    assert said["noisy"][2] > 0.5  # a linear probe of a tenth of right labels would not get there


@pytest.mark.parametrize(
    ("words", "sentence"),
    [
        (["labels.noise=1.5"], "labels.noise is a share of the labels, from 0 to less than 1, not 1.5"),
        (["labels.nois=0.5"], 'did you mean "labels.noise"?'),
        (["labels={nois: 0.5}"], 'did you mean "labels.noise"?'),
        (["labels=0.5"], 'labels must be a group of options, and "0.5" is not'),
        (["labels.file=nowhere.npy"], "labels.file: there is no file /"),
    ],
)
def test_a_run_with_labels_that_cannot_be_had_is_refused_in_one_sentence(words, sentence, own_folder, capsys):
    assert main([*QUICK, *words, "dry_run=true"]) == 2
    said = capsys.readouterr().err
    assert sentence in said and said.count("\n") == 1
