"""Folders that are splits of a data set, in the spellings that people use, and folders that are classes."""

from functools import partial
from pathlib import Path

import pytest
from PIL import Image
from yaml import safe_load

from ssl_kd.cli import main
from ssl_kd.data import folder, hub
from ssl_kd.data.splits import role
from ssl_kd.errors import InputError
from ssl_kd.probes.features import pixels

from .case import Case, check
from .folders import SMALL, images, train

NAMES = {
    "train": "train Train TRAIN training trainset train_set train-images images_train "
    "trainImages 01_train TrainSet train2017 train_2024-01-31 seg_train trainval labeled",
    "test": "test Test TESTING testing test_images testset images-test test2 test_split testData",
    "validation": "val valid validation Validation dev devel eval EVAL evaluation holdout hold_out "
    "held-out val2017 valset images_val",
    "unlabelled": "unsup unlabeled unlabelled Unlabeled un-labelled unsupervised extra no_label extra_images",
    "train ": "entrenamiento 训练集",
    "test ": "Prueba 测试",
    "": "cat bullet_train test_tube trains pretrain evaluator images data station validated value "
    "extraordinary devil latest contest 1 0001 __ trainA",
}


@pytest.mark.parametrize(
    ("name", "part"), [(n, part.strip()) for part, names in NAMES.items() for n in names.split()]
)
def test_a_spelling_stands_for_one_split_or_for_none(name, part):
    assert role(name) == part


TWO = {"cat": 2, "dog": 2}


def below(*names: str, classes: dict[str, int] = TWO) -> dict[str, int]:
    return {f"{name}/{cls}": count for name in names for cls, count in classes.items()}


# counts of images -> images and labels of train, images of test, and what the line says
READ = {
    "capitals": (
        below("Train", "Test"),
        "0011",
        4,
        "x/Train -> train (4 images, 2 classes), x/Test -> test (4",
    ),
    "shouted": (below("TRAIN", "VAL"), "0011", 4, "x/VAL -> test"),
    "long": (below("training", "testing"), "0011", 4, ""),
    "validation": (below("train", "validation"), "0011", 4, "x/validation -> test"),
    "dev": (below("train", "dev"), "0011", 4, ""),
    "eval": (below("train", "eval"), "0011", 4, ""),
    "hold-out": (below("train", "hold_out"), "0011", 4, ""),
    "images-behind": (below("train_images", "test_images"), "0011", 4, ""),
    "images-before": (below("images_train", "images_val"), "0011", 4, ""),
    "years": (below("train2017", "val2017"), "0011", 4, ""),
    "dates": (below("train_2024-01-31", "test_2024-02-28"), "0011", 4, ""),
    "wrapped": (below("data/train", "data/test"), "0011", 4, "x/data/train -> train"),
    "wrapped-twice": (below("archive/photos/Train", "archive/photos/Test"), "0011", 4, ""),
    "wrapped-inside": (
        below("seg_train/seg_train", "seg_test/seg_test"),
        "0011",
        4,
        "x/seg_train/seg_train ->",
    ),
    "images-inside": (below("train/images", "val/images"), "0011", 4, "x/val/images -> test"),
    "below-the-class": (
        {"cat/train": 2, "dog/train": 2, "cat/test": 1, "dog/test": 1},
        "0011",
        2,
        "x/*/train ->",
    ),
    "below-wrapped": (
        {"d/cat/Train": 2, "d/dog/Train": 2, "d/dog/Test": 1},
        "0011",
        1,
        "x/d/*/Test -> test (1",
    ),
    "all-three": (below("train", "val", "test"), "0011", 4, "not read: x/val (4 images)"),
    "another-beside": (below("train", "test") | {"masks": 3}, "0011", 4, "not read: x/masks (3 images)"),
    "flat-beside": (below("train", "test") | {".": 1}, "0011", 4, "not read: x (1 images)"),
    "alone": (below("train"), "0011", None, "x/train -> train (4 images, 2 classes)"),
    "unsup": (below("train", "test") | {"unsup": 3}, "0011---", 4, "x/train and x/unsup -> train (7 images"),
    "unlabelled-alone": (below("train") | {"unlabeled": 1}, "0011-", None, "1 of them without a label"),
    "beside-classes": (
        TWO | {"extra": 3},
        "0011---",
        None,
        "x and x/extra -> train (7 images, 2 classes, 3 of",
    ),
    "within-train": (
        below("train", "test") | {"train/Unlabeled": 2},
        "--0011",
        4,
        "2 of them without a label",
    ),
    "no-labels": ({"train": 3, "test": 2}, None, 2, "x/train -> train (3 images), x/test -> test (2 images)"),
    "vehicles": ({"bus": 1, "car": 1, "train": 1}, "012", None, "x -> train (3 images, 3 classes)"),
    "vehicles-of-1000": ({"bullet_train": 1, "test_tube": 1, "a": 1, "b": 1, "c": 1}, "01234", None, ""),
    "scenes": ({"art_gallery": 1, "beach": 1, "train_station": 1}, "012", None, ""),
    "classes": (TWO, "0011", None, "data: x -> train (4 images, 2 classes)"),
    "one-folder": (
        below("photos"),
        None,
        None,
        "no labels, as all images lie in x/photos; data.root=x/photos",
    ),
}


@pytest.mark.parametrize("name", READ)
def test_a_layout_is_read_as_it_is_meant_and_the_line_says_so(name):
    counts, labels, test, says = READ[name]
    images(counts)
    data = folder("x", 8)
    found = (
        None if data.train.labels is None else "".join("-" if k < 0 else str(k) for k in data.train.labels)
    )
    assert found == labels
    assert (None if data.test is None else len(data.test)) == test
    assert says in " ".join(data.notes), data.notes
    if labels and test:  # an image of the test part is of the class that its folder says
        name = data.test.name(0)
        assert data.train.classes[data.test.labels[0]] in Path(name).parts


CASES = [
    Case(
        name,
        "splits taken for classes",
        train(*words),
        says,
        lambda counts=counts: images(counts),
    )
    for name, counts, words, says in [
        (
            "two spellings",
            below("train", "training"),
            [],
            r"train and training are both train; say .*\[x?.*training",
        ),
        (
            "two cases",
            below("train", "Train", "test"),
            [],
            "Train and train are both train; say which is which",
        ),
        ("dev and eval", below("train", "dev", "eval"), [], "dev and eval are both validation"),
        (
            "two years",
            below("train_2019", "train_2020", "test"),
            [],
            r"train: \[train_2019, train_2020\], test: test",
        ),
        (
            "letters",
            below("trainA", "trainB", "testA", "testB"),
            [],
            r"train: \[trainA, trainB\], test: \[testA",
        ),
        (
            "unknown",
            below("train_x", "test_x"),
            [],
            r"may be splits or classes.*data.splits=\{train: train_x, test: ",
        ),
        (
            "retrieval",
            {"bounding_box_train": 2, "gallery": 2, "query": 2},
            [],
            r"gallery and query may be splits .*\{train: bounding_box_train, test: \[gallery, query\]",
        ),
        (
            "retrieval beside train",
            {"train": 2, "gallery": 2, "query": 2},
            [],
            r"train beside gallery and query may .*\{train: train, test: \[gallery, query\]",
        ),
        ("few images a class", below("support", "query"), [], r"\{train: support, test: query\}"),
        (
            "folds above splits",
            below(*(f"fold{i}/{part}" for i in (1, 2) for part in ("train", "test"))),
            [],
            r"hold splits and are no classes.*\{train: fold1/train, test: fold1/test\}",
        ),
        (
            "kinds of picture above splits",
            below(*(f"{kind}/{part}" for kind in ("left8bit", "gtFine") for part in ("train", "val"))),
            [],
            r"hold splits and are no classes.*\{train: gtFine/train, test: gtFine/val\}",
        ),
        (
            "folds",
            below(*(f"fold_{i}" for i in range(1, 6))),
            [],
            r"look like parts.*fold_4\], test: fold_5\}",
        ),
        ("parts", {"part1": 2, "part2": 2}, [], "part1 and part2 look like parts of one set"),
        (
            "train or class",
            {"train": 4, "car": 4},
            [],
            "train beside car may be a split or a class; .*splits=none",
        ),
        ("train and classes", below("train") | TWO, [], "train beside cat and dog may be a split or a class"),
        (
            "test beside classes",
            TWO | {"test": 2},
            [],
            r"without a train split; .*\{train: \., test: test\}.*splits=none",
        ),
        ("no train", below("val", "test"), [], "test and val look like splits without a train split"),
        (
            "some classes",
            {"cat/train": 2, "cat/test": 2, "dog": 2},
            [],
            "some of cat and dog hold splits and some",
        ),
        (
            "masks",
            {f"{a}/{b}": 2 for a in ("images", "masks") for b in ("train", "val")},
            [],
            "are no classes",
        ),
        (
            "masks inside",
            {f"train/{a}": 4 for a in ("images", "labels")},
            [],
            r"look like masks.*train: train/images",
        ),
        ("masks alone", {"images": 4, "gt": 4}, [], r"gt beside images look like masks.*train: images"),
        ("wrapped", {"d/train": 4, "d/car": 4}, [], r"x/d: train beside car.*train: d/train"),
        (
            "lacking",
            below("train") | {"a": 1},
            ["data.splits={train: Trian}"],
            'no folder .*x/Trian; .*"train"',
        ),
        ("outside", below("train"), ["data.splits={train: ../x}"], "is a folder below data.root, not ../x"),
        ("key", below("train"), ["data.splits={training_x: train}"], 'no split "training_x"; its keys are'),
        ("no train said", below("a", "b"), ["data.splits={test: b}"], "data.splits names no train split"),
        ("word", below("a", "b"), ["data.splits=a"], r'splits says which folders.*or "none"; not "a"'),
        ("both said", below("a", "b"), ["data.splits={train: a}", "data.test=b"], "say one of them"),
        ("twice", below("a", "b"), ["data.splits={train: a, test: a}"], "names the folder a twice"),
        (
            "empty",
            below("a"),
            ["data.splits={train: a, test: b}"],
            "data.splits.test: there is no folder .*x/b",
        ),
    ]
]


@pytest.mark.parametrize("case", CASES, ids=lambda case: case.name)
def test_what_may_be_a_split_or_a_class_is_refused_with_both_ways_out(case, capsys):
    check(case, capsys)


def test_each_way_out_is_one(capsys):
    """What a refusal advises is accepted."""
    for case in CASES[:19]:
        images(dict_of(case), root := f"x-{case.name}".replace(" ", "-"))
        with pytest.raises(InputError) as refused:
            folder(root, 8)
        said = str(refused.value).partition("data.splits=")[2].partition('"')[0]
        if "FOLDER" not in said:
            assert len(folder(root, 8, splits=safe_load(said)).train) > 0, (case.name, said)
        if case.name != "wrapped":  # a single folder is no class
            assert len(folder(root, 8, splits="none").train.classes) > 1, case.name
    words = train("data.root=x-letters", "data.splits={train: [trainA, trainB], test: [testA, testB]}")
    assert main([*words, "dry_run=true"]) == 0, capsys.readouterr()


def dict_of(case: Case) -> dict[str, int]:
    return case.prepare.__defaults__[0]


def test_the_mapping_may_take_folders_out_of_the_root_and_stand_above_the_splits():
    images(TWO | {"test/cat": 1, "test/dog": 1})
    data = folder("x", 8, splits={"train": ".", "test": "test"})
    assert (data.train.labels.tolist(), data.test.labels.tolist()) == ([0, 0, 1, 1], [0, 1])
    images({"cat/a": 1, "cat/b": 2, "dog/a": 1, "dog/b": 1, "more": 1}, "y")
    data = folder("y", 8, splits={"train": "*/b", "val": ["*/a"], "unlabelled": "more"})
    assert data.train.labels.tolist() == [0, 0, 1, -1] and data.test.labels.tolist() == [0, 1]
    whole = folder("y", 8, splits="none").train
    assert whole.classes == ("cat", "dog", "more") and len(whole) == 6


def test_a_name_for_the_unlabelled_folder_or_none_makes_the_others_classes():
    images(TWO | {"extra": 1})
    assert folder("x", 8, unlabelled="cat", splits="none").train.labels.tolist() == [-1, -1, 0, 0, 1]
    assert folder("x", 8, unlabelled=None, splits="none").train.labels.tolist() == [0, 0, 1, 1, 2]


def test_the_run_says_which_folder_became_what(capsys):
    images(below("Train", "Test", "val"))
    assert main(train("dry_run=true")) == 0
    said = " ".join(capsys.readouterr().out.split())
    assert (
        "data: x/Train -> train (4 images, 2 classes), x/Test -> test (4 images); not read: x/val (4 images)"
        in said
    )


def test_an_empty_test_folder_is_no_data_without_a_test():
    images(below("train"))
    Path("x/test").mkdir()
    with pytest.raises(InputError, match=r"no image in .*data.splits=\{train: train\}. leaves it out"):
        folder("x", 8)
    assert folder("x", 8, splits={"train": "train"}).test is None


def test_a_starter_config_says_what_was_seen_and_keeps_the_mapping(capsys):
    images(below("trainA", "testA", classes={"cat": 20, "dog": 20}))
    assert main(["init", "x"]) == 2
    assert "data.splits={train: trainA, test: testA}" in capsys.readouterr().err
    assert main(["init", "x", "data.splits={train: trainA, test: testA}"]) == 0
    assert "data: x/trainA -> train (40 images, 2 classes), x/testA -> test" in capsys.readouterr().out
    assert 'data.splits: {"train": "trainA", "test": "testA"}' in Path("my.yaml").read_text()
    assert main(["train", "config=my.yaml", *SMALL, "dry_run=true"]) == 0, capsys.readouterr()
    assert main(["init", "x", "data.splits={", "to=b.yaml"]) == 2
    assert main(["init", "x", "data.split=none", "to=b.yaml"]) == 2


def test_a_mapping_in_a_recipe_file_and_of_the_scored_data():
    images(below("a", "b"))
    images(below("Train", "Test"), "y")
    Path("my.yaml").write_text(
        "data: folder\ndata.root: x\ndata.splits: {train: a, test: b}\nprobe.data: y\n"
    )
    assert main(["train", "config=my.yaml", *SMALL, "run=r"]) == 0
    assert main(["knn", "run=r"]) == 0


@pytest.mark.parametrize("words", [["transfer"], ["eval", "probes=[transfer]"]])
def test_a_transfer_says_which_folder_of_the_other_data_became_what(words, capsys, monkeypatch):
    monkeypatch.setattr("ssl_kd.evaluate.pixels", partial(pixels, size=8))  # a tenth of the time
    images(TWO)
    assert main(train()) == 0
    images(below("Train", "Test", "val"), "y")
    before = "" if words == ["transfer"] else "transfer."
    capsys.readouterr()
    assert main([*words, "run=r", f"{before}data=folder", f"{before}data.root=y"]) == 0
    said = capsys.readouterr().out
    assert "data: y/Train -> train (4 images, 2 classes), y/Test -> test (4 images); not read: y/val" in said
    images(below("train_x", "test_x"), "z")
    assert main([*words, "run=r", f"{before}data=folder", f"{before}data.root=z"]) == 2
    assert "data.splits={train: train_x, test: test_x}" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("names", "says"),
    [
        ("Training dev", ("Training", "dev")),
        ("train validation test", ("train", "test")),
        ("TRAIN eval TEST-2024", ("TRAIN", "TEST-2024")),
        ("train dev eval", r"has the splits dev, eval, all of them validation; choose by data.test=dev"),
        ("train_a train_2", ("train_2", None)),
        (
            "train-1 train-2",
            r"has the splits train-1, train-2, all of them train; choose by data.train=train-1",
        ),
    ],
)
def test_splits_of_hugging_face_are_known_by_the_same_table(names, says):
    datasets = pytest.importorskip("datasets")
    picture = {"image": [Image.new("L", (8, 8), 9)] * 2, "label": [0, 1]}
    features = datasets.Features(image=datasets.Image(), label=datasets.ClassLabel(names=["cat", "dog"]))
    parts = {name: datasets.Dataset.from_dict(picture, features=features) for name in names.split()}
    datasets.DatasetDict(parts).save_to_disk("h")
    if isinstance(says, str):
        with pytest.raises(InputError, match=says):
            hub("h", 8)
        return
    data = hub("h", 8)
    assert data.train.stored.where == f"h, {says[0]}"
    assert (None if data.test is None else data.test.stored.where) == (says[1] and f"h, {says[1]}")
