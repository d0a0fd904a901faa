"""Labels: the classes are those that occur, by one numbering; what is not among them is named or refused."""

import json
import re
from pathlib import Path

import numpy as np
import pytest
import torch
from safetensors.torch import load_file

import ssl_kd
from ssl_kd.cli import main
from ssl_kd.data import arrays, hub, shards
from ssl_kd.data.datasets import dataset
from ssl_kd.data.draws import draw
from ssl_kd.data.labels import number
from ssl_kd.data.relabel import names_of
from ssl_kd.data.sampling import class_balanced, long_tailed
from ssl_kd.errors import InputError
from ssl_kd.evaluate import class_groups
from ssl_kd.lineage import check_classes
from tests.field_trial.case import Case, check

TRAIN = ["train", "data=arrays", "data.path=a.npz", "data.size=8", "batch_size=16", "epochs=1", "run=runs/a"]
TRAIN += ["peers={a: {backbone: {name: resnet8, base: 4}}}", "tracker=none", "probe.linear=false"]
TRAIN += ["probe.knn=[1]", "probe.baselines=false", "device=cpu"]
HOLES = np.array([0, 2, 5])


def npz(train=None, test=None, images: int = 48, **others: object) -> None:
    """Images of which each class is of one grey, so that all of them can be told apart."""
    train = HOLES[np.arange(images) % 3] if train is None else np.asarray(train)
    test = HOLES[np.arange(24) % 3] if test is None else np.asarray(test)
    random = np.random.default_rng(0)

    def pictures(labels: np.ndarray) -> np.ndarray:
        return (labels[:, None, None] * 40 + random.integers(0, 20, (len(labels), 8, 8))).astype(np.uint8)

    given = {"train_labels": train, "test_labels": test} | others
    kept = {key: value for key, value in given.items() if value is not None}
    np.savez("a.npz", train_images=pictures(abs(train)), test_images=pictures(abs(test)), **kept)


def says(part: str):
    def holds(printed: str) -> None:
        assert re.search(part, " ".join(printed.split())), printed

    return holds


def scored(expected: float):
    def holds(_: str) -> None:
        summary = json.loads(Path("runs/a/summary.json").read_text())
        assert summary["peers"]["a"]["knn"]["1"] >= expected
        found = ssl_kd.load("runs/a")
        assert found.config.classes == len(found.classes)

    return holds


ARRAYS = [
    Case(
        "labels with holes",
        "labels {0, 2, 5}",
        [*TRAIN, "method=simclr"],
        prepare=npz,
        holds=says("no image of .*a.npz: train_labels has the label 1, 3, 4: .* 3 that occur"),
    ),
    Case(
        "labels with holes, supervised",
        "labels {0, 2, 5}",
        [*TRAIN, "method=supervised"],
        prepare=npz,
        holds=scored(0.9),
    ),
    *(
        Case(
            f"labels with holes, {option}",
            "labels {0, 2, 5}",
            [*TRAIN, "method=supervised", option],
            prepare=npz,
        )
        for option in (
            "labels.amount=2",
            "labels.amount=0.5",
            "long_tail=4",
            "sampler=class_balanced",
            "labels.noise=0.2",
        )
    ),
    Case(
        "names of which some do not occur",
        "class_names of ten, images of three",
        [*TRAIN, "method=supervised"],
        prepare=lambda: npz(class_names=np.array(list("abcdef"))),
        holds=says("no image of .*a.npz: train_labels is of the class b, d, e: .* the 3 that occur"),
    ),
    Case(
        "labels that begin at 1",
        "labels 1 to 3",
        [*TRAIN, "method=supervised"],
        prepare=lambda: npz(np.arange(48) % 3 + 1, np.arange(24) % 3 + 1),
        holds=says("has the label 0: the classes are the 3"),
    ),
    Case(
        "a test label between those of train",
        "a test label that train lacks is scored",
        [*TRAIN, "method=simclr"],
        says=r"test_labels has classes that .* lacks: 3 \(6 images\); .* has 0, 2, 5; name them",
        prepare=lambda: npz(test=np.array([0, 2, 5, 3])[np.arange(24) % 4]),
    ),
    Case(
        "a named test class that train lacks",
        "a test label that train lacks is scored",
        [*TRAIN, "method=simclr"],
        says=r"lacks: d \(1 image\); .* has a, c, f",
        prepare=lambda: npz(test=[*HOLES, 3], class_names=np.array(list("abcdef"))),
    ),
    Case(
        "labels under another name",
        '"has none" although there are labels',
        [*TRAIN, "method=supervised"],
        says="needs labels, and none are taken from .*a.npz has no train_labels, and holds y_train",
        prepare=lambda: npz(train_labels=None, test_labels=None, y_train=np.arange(48)),
    ),
    Case(
        "a held-out part with a class that is in no other",
        "a test label that train lacks is scored",
        [*TRAIN, "method=simclr", "hold_out=0.5"],
        prepare=lambda: npz(np.arange(48) % 24),
        holds=says(r"\d+ of 24 test images are not scored, since no train image has their class: \d+ \(\d\)"),
    ),
]


@pytest.mark.parametrize("case", ARRAYS, ids=lambda case: case.name)
def test_labels_of_arrays(case, capsys):
    check(case, capsys)


PROBES = [
    "few_labels per_class=[1] shares=[] draws=2 baselines=false",
    "finetune labels=2 epochs=1 scratch=false",
]


def test_every_probe_and_page_of_a_run_with_holes(capsys):
    npz()
    assert main([*TRAIN, "method=supervised", "probe.groups=[10,12]"]) == 0
    for words in PROBES:
        name, *options = words.split()
        assert main([name, "run=runs/a", *options]) == 0, capsys.readouterr().err
    assert main(["export", "run=runs/a", "to=x.safetensors"]) == 0
    assert "| 3 classes | 0, 2, 5 |" in Path("x.safetensors.md").read_text()
    found = ssl_kd.load("runs/a")
    images = np.load("a.npz")["test_images"]
    assert found.classes == ("0", "2", "5") and set(found.predict(images)) <= {0, 1, 2}


def test_what_counts_classes_counts_those_that_occur():
    labels = torch.tensor([0, 2, 5] * 8)
    assert labels[draw(labels, 6, 2)].bincount().tolist() == [2, 0, 2, 0, 0, 2]
    assert labels[draw(labels, 6, 0.25)].bincount().tolist() == [2, 0, 2, 0, 0, 2]
    assert labels[class_balanced(labels, 0, 0)].bincount(minlength=6)[[1, 3, 4]].sum() == 0
    source = ssl_kd.data.Arrays(np.zeros((24, 1, 4, 4), np.uint8), labels.numpy(), tuple("abcdef"))
    assert np.bincount(long_tailed(source, 4).labels).tolist() == [8, 0, 4, 0, 0, 2]
    assert class_groups(source, (8, 8)) == {}


def test_a_limit_leaves_the_classes_of_the_whole_split_and_scores_those_it_has():
    npz(np.arange(48) % 24, np.arange(24))
    data = arrays("a.npz", limit=12)
    assert len(data.train.classes) == 24


class Own:
    """A torch-like data set; classes: what it calls them, in its order."""

    def __init__(self, labels, **called):
        self.labels = list(labels)
        self.__dict__.update(called)

    def __len__(self):
        return len(self.labels)

    def __getitem__(self, i):
        return np.full((8, 8), i, np.uint8), self.labels[i]


CAT = ("cat", "dog", "horse")


def test_data_sets_are_matched_by_the_names_of_their_classes():
    train, test = Own([0, 1, 2, 0], classes=list(CAT)), Own([0, 1], classes=["dog", "horse"])
    data = dataset(train, 8, test)
    assert data.train.classes == data.test.classes == CAT and data.test.labels.tolist() == [1, 2]
    assert "matched by their names" in data.notes[0]
    places = Own([0, 1], class_to_idx={"horse": 0, "dog": 1}, classes=["wrong", "names"])
    assert dataset(train, 8, places).test.labels.tolist() == [2, 1]
    same = dataset(train, 8, Own([0, 1], classes=list(CAT)))
    assert same.test.labels.tolist() == [0, 1] and not same.notes


def test_data_sets_of_which_only_one_names_its_classes_say_so():
    train = Own([0, 1, 2], classes=list(CAT))
    assert "only data.train names its classes" in dataset(train, 8, Own([0, 1])).notes[-1]


def test_data_sets_whose_classes_cannot_be_matched_are_refused_with_both_lists():
    train = Own([0, 1, 2], classes=list(CAT))
    with pytest.raises(
        InputError,
        match="data.test .* lacks: bird; .*cat, dog, horse, and data.test bird, dog",
    ):
        dataset(train, 8, Own([0, 1], classes=["bird", "dog"]))
    assert dataset(train, 8, Own([1, 1], classes=["bird", "dog"])).test.labels.tolist() == [1, 1]  # no bird


def saved(train, test=None, names=CAT, test_names=None, column="label", **others) -> str:
    """A data set of Hugging Face on the disk. names: of ClassLabel, or the kind of the column."""
    datasets = pytest.importorskip("datasets")
    from PIL import Image

    def split(labels, names):
        pictures = [Image.new("L", (8, 8), 40 * i) for i in range(len(labels))]
        if isinstance(names, tuple):
            kind = datasets.ClassLabel(names=list(names))
        else:
            kind = datasets.Value(names)
        features = datasets.Features({"image": datasets.Image(), column: kind})
        return datasets.Dataset.from_dict({"image": pictures, column: list(labels)}, features)

    parts = {"train": split(train, names)}
    if test is not None:
        parts["test"] = split(test, test_names or names)
    for name, labels in others.items():
        parts[name] = split(labels, names)
    datasets.DatasetDict(parts).save_to_disk("saved")
    return "saved"


@pytest.mark.parametrize(
    "names, test_names, labels, expected",
    [
        (CAT, ("dog", "horse"), [0, 1], [1, 2]),
        (CAT, ("horse", "dog", "cat"), [0, 1], [2, 1]),
        (CAT, "string", ["horse", "cat"], [2, 0]),
        (CAT, CAT, [0, -1], [0, -1]),
    ],
)
def test_splits_are_matched_by_the_names_of_their_classes(names, test_names, labels, expected):
    data = hub(saved([0, 1, 2], labels, names, test_names), 8)
    assert data.test.labels.tolist() == expected and data.train.classes == CAT


def test_a_split_with_names_meets_one_of_texts():
    data = hub(saved(["horse", "cat"], [0, 2], "string", CAT), 8, label="label")
    assert data.train.classes == ("cat", "horse") and data.test.labels.tolist() == [0, 1]


@pytest.mark.parametrize(
    "train, test, names, test_names, message",
    [
        ([0, 1, 2], [0], CAT, ("bird",), r"lacks: bird; .*cat, dog, horse, and .*bird"),
        ([0, 1, 2], ["bird"], CAT, "string", r"lacks: bird; .*cat, dog, horse"),
        ([0, 1], [2, 0], CAT, CAT, r"lacks: horse \(1 image\); .*cat, dog"),
        (
            [0, 1, 2],
            [0],
            CAT,
            "int64",
            "cat, dog, horse, and that of .*test has numbers alone",
        ),
        (
            [0, 1, 2],
            [0],
            "int64",
            CAT,
            "cat, dog, horse, and that of .*train has numbers",
        ),
    ],
)
def test_splits_that_cannot_be_matched_are_refused_with_both_lists(train, test, names, test_names, message):
    with pytest.raises(InputError, match=message):
        hub(saved(train, test, names, test_names), 8, label="label")


def test_a_labelled_split_goes_before_one_without_labels():
    data = hub(saved([0, 1, 2], [-1, -1], validation=[0, 2], unsupervised=[-1]), 8)
    assert data.test.labels.tolist() == [0, 1] or data.test.labels.tolist() == [0, 2]
    assert "validation (2) is tested on; not read: test (2), unsupervised (1)" in data.notes[0]


@pytest.mark.parametrize("column", ["label", "target", "y", "fine_label", "Category", "kind"])
def test_columns_of_labels_under_another_name_are_listed(column):
    data = hub(saved([0, 1, 2, 0], [0, 1], "int64", column=column), 8)
    assert data.unlabelled.startswith(f"its columns are image, {column}; data.label={column} takes")


def test_columns_are_listed_at_the_start_and_where_labels_are_needed(capsys):
    saved([0, 1, 2, 0] * 4, [0, 1], "int64", column="target")
    words = [*TRAIN[:1], "data=hub", "data.path=saved", "data.size=8", *TRAIN[4:]]
    assert main([*words, "method=supervised"]) == 2
    said = capsys.readouterr().err
    assert "columns are image, target; data.label=target takes" in said and "has none" not in said
    assert main([*words, "method=simclr", "data.overlap=accept"]) == 0
    printed = " ".join(capsys.readouterr().out.split())
    assert printed.index("data.label=target") < printed.index("step 1/") and "has none" not in printed


def test_a_column_without_labels_says_which_splits_have_some():
    saved([-1, -1], None, other=[0, 1])
    assert "these splits have some: other" in hub("saved", 8).unlabelled


def test_numbers_and_names_are_numbered_alike():
    found = number([5, 0, 2, -1], [2, None], ("a", "b"))
    assert (found.classes, found.numbers) == (("0", "2", "5"), (0, 2, 5))
    assert found.train.tolist() == [2, 0, 1, -1] and found.test.tolist() == [1, -1]
    assert number([], [3], ("a", "b")).classes == ()
    assert number(["b", "a"], ["a"], ("a", "b")).train.tolist() == [1, 0]


def test_a_classifier_is_scored_on_labelled_data_by_the_names_of_their_classes():
    npz(np.arange(48) % 3, np.arange(24) % 3, class_names=np.array(CAT))
    found = np.load("a.npz")
    turned = {"train_labels": 2 - found["train_labels"], "test_labels": 2 - found["test_labels"]}
    images = {key: found[key] for key in ("train_images", "test_images")}
    np.savez("b.npz", **images, **turned, class_names=np.array(CAT[::-1]))
    words = [*TRAIN, "method=supervised"]
    assert main(words) == 0 and main([*words, "probe.data=b.npz", "run=runs/b"]) == 0
    one, two = (json.loads(Path(f"runs/{name}/summary.json").read_text())["peers"]["a"] for name in "ab")
    assert one["top1"] == two["top1"] and one["knn"] == two["knn"]


def test_a_teacher_that_knows_the_classes_in_another_order_is_refused_with_both_lists(tmp_path):
    (tmp_path / "data.json").write_text(json.dumps({"train": {"classes": ["a", "b", "c", "d", "f", "e"]}}))
    with pytest.raises(
        InputError, match=r"6 classes \(\.\.\., f, e\), .* \(\.\.\., e, f\), in another order"
    ):
        check_classes("teacher", str(tmp_path), list("abcdef"))


def test_what_goes_on_from_a_run_whose_labels_have_holes_keeps_its_classes_and_the_page_names_them():
    npz()
    words = [word for word in TRAIN if not word.startswith(("peers=", "run="))]
    tiny = "backbone: {name: resnet8, base: 4}"
    assert main([*words, "method=supervised", f"peers={{a: {{{tiny}}}}}", "run=runs/a"]) == 0
    for method, peers in {
        "cbd": [f"peers.student={{{tiny}}}", "peers.teacher.weights=runs/a"],
        "retrain": ["peers={a: {weights: runs/a}}"],
        "finetune": ["peers={a: {weights: runs/a}}"],
    }.items():
        assert main([*words, f"method={method}", *peers, f"run=runs/{method}"]) == 0, method
        found = ssl_kd.load(f"runs/{method}")
        (name, *_) = found.classifiers
        assert found.classes == ("0", "2", "5") and found.config.classes == 3
        assert set(found.predict(np.load("a.npz")["test_images"], name).tolist()) <= {0, 1, 2}
    for probe in (["finetune", "epochs=1"], ["linear_sgd", "epochs=1"]):
        assert main([*probe, "run=runs/a"]) == 0
    assert main(["report", "run=runs/a"]) == 0
    named = set(re.findall(r'"class":"([^"]*)"', Path("runs/a/report.html").read_text()))
    assert named == {"0", "2", "5"}


@pytest.mark.parametrize(
    ("classes", "expected"),
    [
        (CAT[::-1], "its logits begin anew, since .* in another order"),
        ([*CAT, "eel"], "its logits begin anew, since .* knows 3 classes .* and the data has 4"),
        (CAT, None),
    ],
    ids=["another order", "more classes", "the same"],
)
def test_a_classifier_of_other_classes_is_not_taken_over(classes, expected, capsys):
    npz(np.arange(48) % 3, np.arange(24) % 3, class_names=np.array(CAT))
    words = [*TRAIN, "method=supervised"]
    assert main(words) == 0
    capsys.readouterr()
    npz(np.arange(48) % len(classes), np.arange(24) % len(classes), class_names=np.array(classes))
    peer = "peers={a: {weights: runs/a, backbone: {name: resnet8, base: 4}}}"
    assert main([*words, peer, "run=runs/b"]) == 0
    said = " ".join(capsys.readouterr().out.split())
    assert bool(re.search(expected or "begin anew", said)) == (expected is not None), said
    start = load_file("runs/b/start.safetensors")
    before = load_file("runs/a/checkpoints/last/cohort.safetensors")
    stem = next(key for key in before if key.startswith("peers.a.backbone."))
    assert torch.equal(start[stem], before[stem])
    head = "peers.a.heads.logits.weight"
    assert (start[head].shape == before[head].shape and torch.equal(start[head], before[head])) == (
        not expected
    )


def test_names_of_the_images_of_tars_and_of_the_hub_are_those_of_their_files(own_folder):
    import io
    import tarfile

    from PIL import Image

    picture = io.BytesIO()
    Image.new("L", (8, 8)).save(picture, "PNG")
    with tarfile.open("x.tar", "w") as archive:
        for name, content in {
            "d/7.png": picture.getvalue(),
            "d/7.cls": b"1",
            "8.png": picture.getvalue(),
        }.items():
            member = tarfile.TarInfo(name)
            member.size = len(content)
            archive.addfile(member, io.BytesIO(content))
    assert names_of(shards("x.tar", 8).train) == ["d/7.png", "8.png"]
    datasets = pytest.importorskip("datasets")
    rows = [{"path": f"{i}.png", "bytes": picture.getvalue()} for i in range(3)]
    features = datasets.Features({"image": datasets.Image()})
    datasets.Dataset.from_dict({"image": rows}, features).save_to_disk("saved")
    assert names_of(hub("saved", 8).train) == ["0.png", "1.png", "2.png"]
