"""A torch Dataset of one's own: what it may give, that nothing is lost on the way, and whole runs with it."""

import hashlib
import sys
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image
from torch.utils.data import IterableDataset, Subset

from ssl_kd import watchers
from ssl_kd.cli import main as cli
from ssl_kd.data import Batches, dataset, resident
from ssl_kd.data.adapt import hold_out
from ssl_kd.data.relabel import positions
from ssl_kd.errors import InputError
from ssl_kd.train import main

PIXELS = np.random.default_rng(0).integers(0, 256, (40, 8, 8, 3), dtype=np.uint8)
LABELS = [i % 3 for i in range(40)]
AS = {
    "pillow": Image.fromarray,
    "array": lambda pixels: pixels,
    "tensor": lambda pixels: torch.from_numpy(pixels).permute(2, 0, 1),
    "floats": lambda pixels: torch.from_numpy(pixels).permute(2, 0, 1).float() / 255,
    "channels first": lambda pixels: pixels.transpose(2, 0, 1),
}
# What stands in the user's own folder.
MODULE = """
import numpy as np
from PIL import Image
from sklearn.datasets import load_digits


class Digits:
    def __init__(self, first, last, labelled=True):
        digits = load_digits()
        self.pixels = np.round(digits.images[first:last] * (255 / 16)).astype(np.uint8)
        self.numbers = digits.target[first:last]
        self.labelled = labelled

    def __len__(self):
        return len(self.pixels)

    def __getitem__(self, i):
        image = Image.fromarray(self.pixels[i])
        return (image, self.numbers[i]) if self.labelled else image
"""


class Own:
    """A data set of images by the way of AS; labels: None for images alone."""

    def __init__(self, way=AS["pillow"], labels=None, pixels=PIXELS, **more):
        self.way, self.given, self.pixels, self.asked = way, labels, pixels, []
        self.__dict__.update(more)

    def __len__(self):
        return len(self.pixels)

    def __getitem__(self, i):
        self.asked.append(i)
        image = self.way(self.pixels[i])
        return image if self.given is None else (image, self.given[i])


def bytes_of(source) -> str:
    return hashlib.sha256(resident(source).numpy().tobytes()).hexdigest()


@pytest.mark.parametrize("way", AS)
def test_images_arrive_bit_for_bit_whatever_they_are_given_as(way):
    source = dataset(Own(AS[way]), 8).train
    assert np.array_equal(resident(source).numpy(), PIXELS.transpose(0, 3, 1, 2))
    assert source.shape == (3, 8, 8) and source.labels is None and source.classes == ()


def test_grey_images_are_one_channel_or_three():
    grey = PIXELS[..., 0]
    ways = (Image.fromarray, lambda p: p, lambda p: torch.from_numpy(p)[None], lambda p: p[..., None])
    for way in ways:
        assert np.array_equal(
            resident(dataset(Own(way, pixels=grey), 8, channels=1).train).numpy(), grey[:, None]
        )
    assert np.array_equal(dataset(Own(pixels=grey), 8).train[3], np.repeat(grey[3][None], 3, 0))


def test_another_size_is_the_central_square_resized_as_of_files(tmp_path):
    Image.fromarray(PIXELS[0]).crop((0, 0, 8, 6)).save(path := tmp_path / "one.png")
    from ssl_kd.data.files import decode

    wide = Own(lambda pixels: Image.open(path))  # which is closed when it has been read
    assert np.array_equal(dataset(wide, 4).train[0], decode(path.read_bytes(), 4))


@pytest.mark.parametrize("given", [
    LABELS, np.array(LABELS), torch.tensor(LABELS), [str(k) for k in LABELS], [np.int64(k) for k in LABELS],
])  # fmt: skip
def test_labels_are_numbers_or_names(given):
    source = dataset(Own(labels=given), 8).train
    assert source.labels.tolist() == LABELS and source.classes == ("0", "1", "2")


def test_labels_that_a_data_set_lists_are_taken_where_they_are_those_of_its_items():
    listed = Own(labels=LABELS, targets=LABELS, classes=["a", "b", "c"])
    source = dataset(listed, 8, resident_bytes=0).train
    assert source.labels.tolist() == LABELS and source.classes == ("a", "b", "c")
    assert len(set(listed.asked)) < 10  # not all of them are read
    part = dataset(Subset(listed, range(20, 40)), 8, resident_bytes=0).train
    assert part.labels.tolist() == LABELS[20:] and part.classes == ("a", "b", "c")
    others = Own(labels=LABELS, targets=[0] * 40)
    assert dataset(others, 8, resident_bytes=0).train.labels.tolist() == LABELS
    assert len(set(others.asked)) == 40


def test_images_without_a_label_are_minus_one():
    some = [label if i < 10 else None for i, label in enumerate(LABELS)]
    source = dataset(Own(labels=some), 8).train
    assert source.labels.tolist() == LABELS[:10] + [-1] * 30
    assert dataset(Own(labels=[-1] * 40), 8).train.labels is None
    assert dataset(Own(labels=LABELS), 8, labels="none").train.labels is None


def test_batches_are_those_of_any_source_held_in_memory_or_read_by_processes():
    held = Batches(dataset(Own(labels=LABELS), 8).train, 8, seed=3)
    for workers in (0, 2):
        read = Batches(dataset(Own(labels=LABELS), 8, resident_bytes=0).train, 8, seed=3, workers=workers)
        assert read.images is None
        for ours, theirs, _ in zip(held(4), read(4), range(7), strict=False):
            assert all(torch.equal(ours[key], theirs[key]) for key in ("image", "label", "index"))


def test_a_limit_reads_no_other_image_and_parts_know_their_places():
    own = Own(labels=LABELS)
    source = dataset(own, 8, limit=6).train
    at, count = positions(source)
    assert len(source) == 6 and count == 40 and source.labels.tolist() == [LABELS[i] for i in at]
    assert np.array_equal(resident(source).numpy(), PIXELS[at].transpose(0, 3, 1, 2))
    assert set(own.asked) <= {*at.tolist(), 0, 13, 26, 39}
    halves = hold_out(dataset(Own(labels=LABELS), 8), 0.25, seed=0)
    assert len(halves.train) == 30 and len(halves.test) == 10
    assert np.array_equal(halves.test[0], PIXELS[positions(halves.test)[0][0]].transpose(2, 0, 1))


class Endless(IterableDataset):
    def __iter__(self):
        yield PIXELS[0]


@pytest.mark.parametrize(("given", "sentence"), [
    (lambda: Own(lambda p: AS["floats"](p) * 2 - 1), "item 0 of data.train has floats that are not"),
    (lambda: Own(lambda p: p.astype(np.float64)), "floats that are not whole 255ths"),
    (lambda: Own(lambda p: p.astype(np.int64)), r"array of int64 \(8, 8, 3\) for an image"),
    (lambda: Own(lambda p: p[..., :2]), "neither grey nor RGB"),
    (lambda: Own(lambda p: "x.png"), "a str for an image"),
    (lambda: Own(lambda p: {"image": p}), "is a dict; it has to be an image"),
    (lambda: Own(lambda p: (p, 1, 2)), "is 3 things; it has to be an image"),
    (lambda: Own(lambda p: np.random.randint(0, 255, p.shape, np.uint8)), "gives another image each time"),
    (lambda: Own(labels=[0.5] * 40), "label of item 0 of data.train is a float"),
    (lambda: Own(labels=[torch.zeros(3)] * 40), r"is a tensor of float32 \(3,\), neither a whole number nor"),
    (lambda: Own(pixels=PIXELS[:0]), "data.train is empty"),
    (Endless, "a Endless without an index"),
    (lambda: "my_module.MyDataset", "data.train must name a data set"),
    (lambda: None, "data.train must name a data set"),
])  # fmt: skip
def test_what_cannot_be_taken_exactly_is_refused_in_a_sentence(given, sentence):
    with pytest.raises(InputError, match=sentence) as refusal:
        dataset(given(), 8)
    assert "\n" not in str(refusal.value)


def test_a_fault_of_the_users_own_shows_itself():
    def broken(pixels):
        raise KeyError("mine")

    with pytest.raises(KeyError, match="mine"):
        dataset(Own(broken), 8)


# Whole runs

DATA = ["data=dataset", "data.size=8", "data.channels=1", "data.mean=0.31", "data.std=0.38"]
QUICK = [
    "peers={a: resnet8}",
    "batch_size=64",
    "precision=float32",
    "recipe.flip=0",
    "probe.knn=[20]",
    "health.every=0",
]
TRAIN = "data.train={_target_: my_digits.Digits, first: 0, last: 300}"
TEST = "data.test={_target_: my_digits.Digits, first: 300, last: 400}"


@pytest.fixture
def my_digits(own_folder, monkeypatch):
    Path("my_digits.py").write_text(MODULE)
    monkeypatch.syspath_prepend(Path.cwd())
    monkeypatch.delitem(sys.modules, "my_digits", raising=False)


def weights(folder: str) -> str:
    return hashlib.sha256(Path(folder, "checkpoints/last/cohort.safetensors").read_bytes()).hexdigest()


@pytest.mark.usefixtures("my_digits")
def test_a_run_on_ones_own_data_set_is_scored_continues_to_the_bit_and_is_scored_again(capsys):
    words = ["method=simclr", *DATA, TRAIN, TEST, *QUICK]
    assert main([*words, "epochs=2", "run=runs/whole"]) == 0
    saves = watchers.Saver.__call__

    def ends(self, step, result):
        saves(self, step, result)
        if step == 4:  # after the first epoch's checkpoint
            raise KeyboardInterrupt

    with pytest.MonkeyPatch.context() as patched:
        patched.setattr(watchers.Saver, "__call__", ends)
        assert main([*words, "epochs=2", "run=runs/cut"]) == 130
    assert main([*words, "epochs=2", "run=runs/cut", "data.resident_bytes=0", "data.workers=1"]) == 0
    assert weights("runs/cut") == weights("runs/whole")
    assert cli(["knn", "run=runs/whole"]) == 0 and "kNN 20" in capsys.readouterr().out


@pytest.mark.usefixtures("my_digits")
@pytest.mark.parametrize(("word", "sentence"), [
    ("data.train={_target_: my_digits.Digts, first: 0, last: 9}", "cannot be imported"),
    ("data.train={_target_: my_digits.Digits, frist: 0, last: 9}", 'did you mean "data.train.first"'),
    ("data.train=my_digits.Digits", "data.train must name a data set"),
    ("data.channels=1", "data.train is needed"),
])  # fmt: skip
def test_a_data_set_that_is_not_there_is_refused(word, sentence, capsys):
    assert main(["method=simclr", *DATA, word, *QUICK, "epochs=1"]) == 2
    assert sentence in capsys.readouterr().err


@pytest.mark.usefixtures("my_digits")
def test_images_alone_are_trained_on_and_not_scored(capsys):
    alone = TRAIN.replace("}", ", labelled: false}")
    assert main(["method=simclr", *DATA, alone, *QUICK, "epochs=1", "run=runs/a"]) == 0
    assert 'the probes need labels, and the data "dataset" has none' in capsys.readouterr().out
