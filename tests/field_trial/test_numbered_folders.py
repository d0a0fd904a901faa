"""Folders whose names are numbers: their numbers are the labels wherever other sources say numbers."""

from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from ssl_kd.data import folder
from ssl_kd.data.relabel import taught
from ssl_kd.errors import InputError


def classes(root: str, names: list[str], each: int = 2) -> None:
    """Images whose red is the place of their class in `names`."""
    for place, name in enumerate(names):
        for i in range(each):
            path = Path(root, name, f"{i}.png")
            path.parent.mkdir(parents=True, exist_ok=True)
            Image.new("RGB", (8, 8), (place, i, 0)).save(path)


ORDERED = {
    "from-0": [str(i) for i in range(12)],
    "from-1": [str(i) for i in range(1, 11)],
    "padded": [f"{i:02}" for i in range(12)],
    "unevenly-padded": ["008", "9", "010"],
    "gaps": ["0", "2", "5", "10"],
    "large": ["9", "10", "20240131123456789"],
    "words": ["1a", "10", "2"],  # not all are numbers: as text
    "versions": ["1.10", "1.9"],
}


@pytest.mark.parametrize("names", ORDERED.values(), ids=ORDERED)
def test_folders_that_are_numbers_come_in_the_order_of_their_numbers_and_keep_their_names(names):
    classes("x", names)
    train = folder("x", 8).train
    expected = sorted(names) if not all(name.isdecimal() for name in names) else names
    assert train.classes == tuple(expected)
    for i in range(len(train)):
        assert names[train[i][0, 0, 0]] == train.classes[train.labels[i]]


def test_the_test_part_is_matched_by_number():
    classes("x/train", ["01", "02", "10"])
    classes("x/test", ["1", "10", "2"])
    data = folder("x", 8)
    assert data.train.classes == ("01", "02", "10") == data.test.classes
    assert [data.test.classes[k] for k in data.test.labels] == ["01", "01", "10", "10", "02", "02"]
    classes("x/test", ["3"])
    with pytest.raises(InputError, match="x/test has classes that .*x/train lacks: 3"):
        folder("x", 8)


@pytest.mark.parametrize(
    "names", [v for k, v in ORDERED.items() if k not in ("words", "versions")], ids=lambda names: names[0]
)
def test_a_file_of_numbers_means_the_folders_of_these_numbers(names):
    classes("x", names)
    train = folder("x", 8).train
    said = np.array([int(Path(train.name(i)).parent.name) for i in range(len(train))])
    np.save("labels.npy", said)
    assert taught(train, file="labels.npy").labels.tolist() == train.labels.tolist()


@pytest.mark.parametrize(
    ("names", "said", "says"),
    [
        (ORDERED["from-1"], 0, "label 0, which is none of the 10 classes: .* number .* called by, 1 to 10"),
        (ORDERED["from-0"], 12, "label 12, which is none of the 12 classes$"),
        (ORDERED["gaps"], 1, "label 1, which is none of the 4 classes: a label is the number .*, 0 to 10"),
        (["cat", "dog"], 2, "label 2, which is none of the 2 classes$"),
    ],
)
def test_a_number_that_no_folder_has_is_refused_with_what_the_numbers_are(names, said, says):
    classes("x", names)
    np.save("labels.npy", np.array([said] * 2 * len(names)))
    with pytest.raises(InputError, match=says):
        taught(folder("x", 8).train, file="labels.npy")


def test_two_names_of_one_number_are_refused():
    classes("x", ["1", "01", "2"])
    with pytest.raises(InputError, match="has the classes 01 and 1, which are one number; rename one"):
        folder("x", 8)
