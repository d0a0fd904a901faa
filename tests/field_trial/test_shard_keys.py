"""Tar files whose members are called as people call them: dots in keys, columns, no partner."""

import json
import tarfile
from io import BytesIO
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from ssl_kd.data import shards
from ssl_kd.errors import InputError

from .case import Case, check
from .folders import SMALL


def tar(path: str, *members: str | tuple[str, bytes]) -> None:
    """A tar file; an image's pixels are its number among the members, a label without content is that too."""
    Path(path).parent.mkdir(parents=True, exist_ok=True)
    with tarfile.open(path, "w") as archive:
        for i, member in enumerate(members):
            name, content = member if isinstance(member, tuple) else (member, b"%d" % i)
            if name.lower().endswith((".png", ".jpg", ".jpeg")) and not isinstance(member, tuple):
                Image.new("L", (8, 8), i).save(file := BytesIO(), "PNG")
                content = file.getvalue()
            info = tarfile.TarInfo(name)
            info.size = len(content)
            archive.addfile(info, BytesIO(content))


def cls(name: str, label: object) -> tuple[str, bytes]:
    return name, str(label).encode()


# members -> (place of the image, its label) of each sample, and what the lines say
READ = {
    "plain": (
        ["a.png", cls("a.cls", 0), "b.png", cls("b.cls", 1)],
        [(0, 0), (2, 1)],
        "2 images, 2 of them with",
    ),
    "dots": (
        ["slide_3.5x.png", cls("slide_3.5x.cls", 0), "slide_3.7x.png", cls("slide_3.7x.cls", 1)],
        [(0, 0), (2, 1)],
        "",
    ),
    "dots-and-words": (
        ["v1.final.png", "v1.draft.png", cls("v1.final.cls", 0), cls("v1.draft.cls", 1)],
        [(0, 0), (1, 1)],
        "",
    ),
    "versions": (["0.1.2.png", cls("0.1.2.cls", 0), "0.1.3.png", cls("0.1.3.cls", 1)], [(0, 0), (2, 1)], ""),
    "two-suffixes": (
        ["a.image.png", cls("a.target.cls", 0), "b.image.png", cls("b.target.cls", 1)],
        [(0, 0), (2, 1)],
        "",
    ),
    "image-alone-has-two": (
        ["a.image.png", cls("a.cls", 0), cls("b.cls", 1), "b.image.png"],
        [(0, 0), (3, 1)],
        "",
    ),
    "label-alone-has-two": (
        ["a.png", cls("a.target.cls", 0), "b.png", cls("b.target.cls", 1)],
        [(0, 0), (2, 1)],
        "",
    ),
    "dots-and-two": (
        ["s_3.5.image.png", cls("s_3.5.label.cls", 0), "s_3.6.image.png", cls("s_3.6.label.cls", 1)],
        [(0, 0), (2, 1)],
        "",
    ),
    "other-columns": (
        ["a.png", "a.depth.png", cls("a.cls", 0), "b.png", cls("b.cls", 1)],
        [(0, 0), (3, 1)],
        "1 members are passed over, .png (1), as x.tar:a.depth.png",
    ),
    "folders": (["p/a.png", "q/a.png", cls("q/a.cls", 1), cls("p/a.cls", 0)], [(0, 0), (1, 1)], ""),
    "folders-with-dots": (
        ["v1.0/a.png", cls("v1.0/a.cls", 0), "v1.1/a.png", cls("v1.1/a.cls", 1)],
        [(0, 0), (2, 1)],
        "",
    ),
    "json": (
        ["a.png", ("a.json", b'{"label": 0}'), "b.png", ("b.json", b'{"label": "1"}')],
        [(0, 0), (2, 1)],
        "",
    ),
    "json-in-two": (
        ["a.img.png", ("a.meta.json", b'{"label": 0}'), "b.img.png", ("b.meta.json", b'{"label": 1}')],
        [(0, 0), (2, 1)],
        "",
    ),
    "cls-before-json": (
        ["a.png", ("a.json", b'{"label": 1}'), cls("a.cls", 0), "b.png", cls("b.cls", 1)],
        [(0, 0), (3, 1)],
        "",
    ),
    "column-of-labels": (
        ["a.png", cls("a.coarse.cls", 1), cls("a.label.cls", 0), "b.png", cls("b.label.cls", 1)],
        [(0, 0), (3, 1)],
        "",
    ),
    "no-label": (
        ["a.png", cls("a.cls", 0), "b.png", cls("b.cls", 1), "c.png"],
        [(0, 0), (2, 1), (4, -1)],
        "1 images have no label, as x.tar:c.png",
    ),
    "no-image": (
        ["a.png", cls("a.cls", 0), "b.png", cls("b.cls", 1), cls("c.cls", 1)],
        [(0, 0), (2, 1)],
        "1 labels have no image, as x.tar:c.cls",
    ),
    "others": (
        ["a.png", cls("a.cls", 0), "b.png", cls("b.cls", 1), ("a.heic", b""), ("a.txt", b"")],
        [(0, 0), (2, 1)],
        "2 members are passed over, .heic (1), .txt (1), as x.tar:a.heic",
    ),
    "another-field": (
        ["a.png", ("a.json", b'{"kind": 0, "width": 3}'), "b.png"],
        [(0, None), (2, None)],
        'no .json has the field "label"; data.label names one of kind, width',
    ),
    "hidden": (
        ["a.png", cls("a.cls", 0), "b.png", cls("b.cls", 1), ("._a.png", b"x"), ("__MACOSX/._b.png", b"x")],
        [(0, 0), (2, 1)],
        "2 images",
    ),
}


@pytest.mark.parametrize("name", READ)
def test_the_last_suffix_decides_what_a_member_is_and_what_is_left_is_counted(name):
    members, expected, says = READ[name]
    tar("x.tar", *members)
    data = shards("x.tar", 8)
    labels = [None] * len(data.train) if data.train.labels is None else data.train.labels.tolist()
    assert [(int(data.train[i].max()), labels[i]) for i in range(len(data.train))] == expected
    assert says in " ".join(data.notes), data.notes


def test_96_slides_of_three_magnifications_keep_their_images_and_labels():
    members = []
    for i in range(32):
        for k, power in enumerate(("2.5x", "3.5x", "10x")):
            members += [f"slide_{i}_{power}.png", cls(f"slide_{i}_{power}.cls", k)]
    tar("x.tar", *members)
    train = shards("x.tar", 8).train
    assert len(train) == 96 and np.bincount(train.labels).tolist() == [32, 32, 32]


def test_of_several_images_the_option_takes_one_or_each():
    tar("x.tar", "a.left.png", "a.right.png", cls("a.cls", 0), "b.left.png", "b.right.png", cls("b.cls", 1))
    left, right, each = (shards("x.tar", 8, image=image).train for image in ("left", "right", "all"))
    assert [int(left[i].max()) for i in range(2)] == [0, 3] and left.labels.tolist() == [0, 1]
    assert [int(right[i].max()) for i in range(2)] == [1, 4] and right.labels.tolist() == [0, 1]
    assert each.labels.tolist() == [0, 0, 1, 1]


def test_keys_that_begin_again_in_each_file_are_other_images_and_are_counted():
    for name in ("1", "2"):
        tar(f"s/{name}.tar", "0.png", cls("0.cls", 0), "1.png", cls("1.cls", 1))
    data = shards("s", 8)
    assert len(data.train) == 4
    assert "2 keys are in several files, whose images are taken as different" in " ".join(data.notes)


WORDS = ["train", "data=shards", "data.path=x.tar", *SMALL, "run=r"]
CASES = [
    Case(
        name,
        "shards lose images or labels",
        [*WORDS, *words],
        says,
        lambda members=members: tar("x.tar", *members),
    )
    for name, members, words, says in [
        (
            "two images",
            ["a.left.png", "a.right.png", cls("a.cls", 0)],
            [],
            "several images of the sample a, left, right; data.image=left takes these, data.image=all each",
        ),
        (
            "two images without labels",
            ["a.left.png", "a.right.png"],
            [],
            "several images of the sample a, left, right",
        ),
        (
            "no such image",
            ["a.left.png", "a.right.png"],
            ["data.image=top"],
            'and none called "top"; data.image=left',
        ),
        (
            "two labels",
            ["a.png", cls("a.coarse.cls", 0), cls("a.fine.cls", 1)],
            [],
            "several labels of the sample a, coarse, fine; data.label=coarse takes these",
        ),
        ("twice", ["a.png", "a.png"], [], "two images called a"),
        ("two kinds", ["a.png", "a.jpg"], [], "two images called a"),
        ("a label twice", ["a.png", cls("a.cls", 0), cls("a.cls", 1)], [], "two labels called a.cls"),
        (
            "half lost",
            ["a.png", ("b.heic", b""), ("c.heic", b"")],
            [],
            r"2 files that cannot be read as images here, .heic \(2\), and 1 that can; .*skip_broken=true",
        ),
        ("all lost", [("b.dcm", b"")], [], r"no image in .*x.tar; .*\.dcm \(1\) cannot be read here"),
    ]
]


@pytest.mark.parametrize("case", CASES, ids=lambda case: case.name)
def test_what_is_not_clear_is_refused_with_the_way_out(case, capsys):
    check(case, capsys)


def test_json_that_is_none_is_named():
    tar("x.tar", "a.png", ("a.json", json.dumps([1]).encode()))
    with pytest.raises(InputError, match=r"x.tar:a.json cannot be read"):
        shards("x.tar", 8)
