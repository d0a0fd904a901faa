"""A file of labels: lines belong to the images that they name, whatever their order and their form."""

import csv
import io
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from ssl_kd.data import arrays, folder
from ssl_kd.data.label_files import read
from ssl_kd.data.relabel import taught
from ssl_kd.errors import InputError
from tests.field_trial.case import Case, check

NAMES = [f"{kind}/{i:03}.png" for kind in ("cat", "dog") for i in range(6)]
WANTED = [i % 2 for i in range(12)]
ORDER = [7, 2, 11, 0, 5, 9, 1, 3, 10, 4, 8, 6]


def photos(names=NAMES) -> None:
    for i, name in enumerate(names):
        path = Path("photos", name)
        path.parent.mkdir(parents=True, exist_ok=True)
        Image.new("L", (8, 8), 20 * i).save(path)


def table(heads, rows, mark=",", name="l.csv", begin="") -> None:
    text = io.StringIO()
    writer = csv.writer(text, delimiter=mark, lineterminator="\n")
    writer.writerows([*([heads] if heads else []), *rows])
    Path(name).write_text(begin + text.getvalue(), encoding="utf-8")


def shuffled(form=str, label=str) -> list[list[str]]:
    return [[form(NAMES[i]), label(WANTED[i])] for i in ORDER]


def upper(name: str) -> str:
    return name.upper().replace("PNG", "JPG")


FORMS = {
    "file names with folders": lambda: table(["filename", "label"], shuffled()),
    "without endings": lambda: table(["image_id", "label"], shuffled(lambda name: name[:-4])),
    "in capitals with another ending": lambda: table(["Image", "Label"], shuffled(upper)),
    "with backslashes": lambda: table(["path", "y"], shuffled(lambda name: name.replace("/", "\\"))),
    "with more folders": lambda: table(["filepath", "target"], shuffled(lambda name: f"/data/photos/{name}")),
    "with a dot in front": lambda: table(["file", "class"], shuffled(lambda name: f"./{name}")),
    "semicolons": lambda: table(["img", "label"], shuffled(), ";"),
    "tabs": lambda: table(["img", "label"], shuffled(), "\t", "l.tsv"),
    "a mark in front of the file": lambda: table(["file_name", "label"], shuffled(), begin="\ufeff"),
    "no header": lambda: table(None, shuffled()),
    "no header, the label first": lambda: table(None, [row[::-1] for row in shuffled()]),
    "no header, spaces": lambda: table(None, shuffled(), " ", "l.txt"),
    "names of classes": lambda: table(["name", "label"], shuffled(label=["cat", "dog"].__getitem__)),
    "names of classes, no header": lambda: table(None, shuffled(label=["cat", "dog"].__getitem__)),
    "a column called otherwise": lambda: table(["photo", "label"], shuffled()),
    "more columns": lambda: table(
        ["id", "label", "file"], [[f"{i}", label, n] for i, (n, label) in enumerate(shuffled())]
    ),
    "lines of other images": lambda: table(["path", "label"], [["test/900.png", "0"], *shuffled()]),
    "parquet": lambda: parquet(),
    "arrays beside each other": lambda: np.savez(
        "l.npz",
        filename=np.array([NAMES[i] for i in ORDER]),
        label=np.array([WANTED[i] for i in ORDER]),
    ),
    "arrays of which one is called otherwise": lambda: np.savez(
        "l.npz", fns=np.array([NAMES[i].encode() for i in ORDER]), y=np.array([[WANTED[i]] for i in ORDER])
    ),
    "a dict of a tensor and a list": lambda: torch.save(
        {"filename": [NAMES[i] for i in ORDER], "label": torch.tensor([WANTED[i] for i in ORDER])}, "l.pt"
    ),
    "a dict of arrays": lambda: torch.save(
        {"y": np.array([WANTED[i] for i in ORDER]), "images": np.array([NAMES[i] for i in ORDER])}, "l.pt"
    ),
    "a dict of lists": lambda: torch.save(
        {"y": [WANTED[i] for i in ORDER], "which": [NAMES[i] for i in ORDER]}, "l.pth"
    ),
    "a dict of objects": lambda: torch.save(
        {"y": np.array([WANTED[i] for i in ORDER]), "which": np.array([NAMES[i] for i in ORDER], object)},
        "l.pt",
    ),
    "a label of each name": lambda: torch.save({NAMES[i]: WANTED[i] for i in ORDER}, "l.pt"),
    "a tensor of each name": lambda: torch.save({NAMES[i]: torch.tensor(WANTED[i]) for i in ORDER}, "l.pt"),
}


def parquet() -> None:
    pyarrow = pytest.importorskip("pyarrow")
    import pyarrow.parquet as file

    names, labels = zip(*shuffled(label=int), strict=True)
    file.write_table(pyarrow.table({"filename": names, "label": labels}), "l.parquet")


@pytest.mark.parametrize("form", FORMS)
def test_lines_belong_to_the_images_that_they_name(form):
    photos()
    FORMS[form]()
    (file,) = Path().glob("l.*")
    key = "label" if form in ("a column called otherwise",) else None
    assert taught(folder("photos", 8).train, file=file, key=key).labels.tolist() == WANTED


def test_a_part_of_the_images_takes_its_own_lines():
    photos()
    table(["filename", "label"], shuffled())
    part = folder("photos", 8, limit=5).train
    assert taught(part, file="l.csv").labels.tolist() == [WANTED[i] for i in part.at]


def test_numbers_name_images_whose_names_are_numbers():
    names = [f"{kind}/{i:05}.png" for i, kind in enumerate(["a", "b", "a", "b"])]
    photos(names)
    table(["id", "label"], [["3", "1"], ["0", "0"], ["2", "0"], ["1", "1"]])
    assert taught(folder("photos", 8).train, file="l.csv").labels.tolist() == [0, 0, 1, 1]


def test_images_of_one_name_are_told_apart_by_their_folders():
    photos(["cat/1.png", "cat/2.png", "dog/1.png", "dog/2.png"])
    table(["path", "label"], [["x/dog/2.png", "1"], ["x/cat/1.png", "1"], ["cat/2.png", "0"], ["dog/1", "0"]])
    assert taught(folder("photos", 8).train, file="l.csv").labels.tolist() == [1, 0, 0, 1]


def test_images_in_memory_are_named_by_their_numbers():
    rows = [[str(i), str(i % 2)] for i in ORDER]
    table(["id", "label"], rows)
    assert read("l.csv", None, 12, "ab").tolist() == WANTED
    table(["id", "label"], [[str(int(i) + 1), label] for i, label in rows])
    assert read("l.csv", None, 12, "ab").tolist() == WANTED


def test_the_numbers_of_classes_are_the_datas_own():
    images = np.zeros((6, 8, 8), np.uint8)
    np.savez("a.npz", train_images=images, train_labels=[0, 2, 5] * 2, class_names=np.array(list("abcdef")))
    source = arrays("a.npz").train
    table(None, [["5"], ["2"], ["0"], ["0"], ["-1"], ["5"]])
    assert taught(source, file="l.csv").labels.tolist() == [2, 1, 0, 0, -1, 2]
    table(["label"], [["c"], ["a"], ["f"], ["c"], ["-1"], ["a"]])
    assert taught(source, file="l.csv").labels.tolist() == [1, 0, 2, 1, -1, 0]
    table(None, [["3"]] * 6)
    with pytest.raises(InputError, match="holds the label 3, which is none of the 3 classes"):
        taught(source, file="l.csv")


REFUSED = {
    "an image that no line names": (
        lambda: table(["file", "label"], shuffled()[1:]),
        r'column "file" does not have 1 of the 12 images .*, as dog/001.png; a line with -1',
    ),
    "names of something else": (
        lambda: table(["file", "label"], [[f"x{i}.png", "0"] for i in range(12)]),
        r"does not have 12 of the 12 images .*; 12 of its 12 lines match no image, as x0.png",
    ),
    "names that may be two images": (
        lambda: table(["file", "label"], shuffled(lambda name: name.split("/")[1])),
        "001.png may be cat/001.png and dog/001.png; say the folder",
    ),
    "two lines that differ": (
        lambda: table(["file", "label"], [*shuffled(), ["cat/000.png", "1"]]),
        "lines 5 and 14 are of one image, cat/000.png, and differ",
    ),
    "a class that is none": (
        lambda: table(["file", "label"], shuffled(label=["cat", "bird"].__getitem__)),
        'line 2 of l.csv says "bird", which is not a whole number, nor one of the classes cat, dog',
    ),
    "several columns of labels": (
        lambda: table(["file", "one", "two"], [[name, "0", "1"] for name in NAMES]),
        "labels.key names one of: file, one, two",
    ),
    "numbers beside numbers": (lambda: table(None, [["0", "1"]] * 12), "a first line such as filename,label"),
}


@pytest.mark.parametrize("name", REFUSED)
def test_what_cannot_be_matched_is_refused_with_counts_and_an_example(name):
    prepare, message = REFUSED[name]
    photos()
    prepare()
    with pytest.raises(InputError, match=message):
        taught(folder("photos", 8).train, file="l.csv")


def test_names_for_images_without_names_are_refused():
    np.savez("a.npz", train_images=np.zeros((12, 8, 8), np.uint8), train_labels=WANTED)
    table(["filename", "label"], shuffled())
    with pytest.raises(InputError, match='has the column "filename", and these data have no names'):
        taught(arrays("a.npz").train, file="l.csv")


def test_a_list_of_images_may_be_a_table():
    photos()
    table(["label", "path"], [row[::-1] for row in shuffled()], ";")
    found = folder("photos", 8, train_list="l.csv").train
    assert found.labels.tolist() == [WANTED[i] for i in ORDER]
    assert found.name(0).endswith("dog/001.png")


CASES = [
    Case(
        "labels by the name of the file",
        "labels.file is taken by position",
        ["train", "method=supervised", "data=folder", "data.root=photos", "data.size=8", "labels.file=l.csv"]
        + ["batch_size=4", "epochs=1", "run=a", "peers={a: {backbone: {name: resnet8, base: 4}}}"],
        prepare=lambda: (photos(), FORMS["file names with folders"]()),
    ),
    Case(
        "labels by a name that is none",
        "labels.file is taken by position",
        ["train", "method=supervised", "data=folder", "data.root=photos", "data.size=8", "labels.file=l.csv"],
        says="does not have 12 of the 12 images",
        prepare=lambda: (photos(), REFUSED["names of something else"][0]()),
    ),
]


@pytest.mark.parametrize("case", CASES, ids=lambda case: case.name)
def test_labels_in_a_file(case, capsys):
    check(case, capsys)
