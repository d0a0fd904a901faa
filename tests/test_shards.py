"""Shards: what tar files hold, how it is labelled, and that an index of them serves as a folder does."""

import io
import json
import os
import pickle
import re
import tarfile
from concurrent.futures import ThreadPoolExecutor
from itertools import islice
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from ssl_kd.cli import main
from ssl_kd.data import Batches, folder, in_order, resident, shards
from ssl_kd.data.shards import MOST_OPEN, members, shard_files
from ssl_kd.errors import InputError

# Python 3.12 and 3.13 warn of any fork beside torch's threads; a worker uses none of them.
forking = pytest.mark.filterwarnings("ignore:.*multi-threaded.*fork:DeprecationWarning")


def refuses(sentence: str):
    return pytest.raises(InputError, match=f"^[^\n]*{sentence}[^\n]*$")


def picture(i: int, kind: str = "PNG") -> bytes:
    file = io.BytesIO()
    Image.fromarray(np.random.default_rng(i).integers(0, 256, (12, 10, 3), np.uint8)).save(file, kind)
    return file.getvalue()


def tar(path: Path, content: dict[str, bytes], mode: str = "w", **options) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    with tarfile.open(path, mode, **options) as archive:
        for name, data in content.items():
            member = tarfile.TarInfo(name)
            member.size, member.mtime = len(data), 1e9 + 0.5  # a fraction of a second makes a pax header
            archive.addfile(member, io.BytesIO(data))
    return path


def samples(first: int, last: int) -> dict[str, bytes]:
    """Images first..last-1, the label i % 3 in a .cls beside each."""
    pairs = (((f"{i:04d}.png", picture(i)), (f"{i:04d}.cls", b"%d" % (i % 3))) for i in range(first, last))
    return dict(pair for both in pairs for pair in both)


@pytest.fixture
def four(tmp_path) -> Path:
    """train-000 to train-002 with 8 images each, val-000 with 5."""
    for k in range(3):
        tar(tmp_path / f"train-{k:03d}.tar", samples(8 * k, 8 * k + 8))
    tar(tmp_path / "val-000.tar", samples(24, 29))
    return tmp_path


# The index


LONG = "a folder/" * 20 + "with a long name"


@pytest.mark.parametrize("form", [tarfile.USTAR_FORMAT, tarfile.GNU_FORMAT, tarfile.PAX_FORMAT])
def test_members_are_files_of_any_form_and_name_and_nothing_else(tmp_path, form):
    with tarfile.open(tmp_path / "x.tar", "w", format=form) as archive:
        names = ["1.png", "a/b/2.png", "d" * 90 + "/" + "e" * 90 + ".png", "empty.cls"]
        names += [] if form == tarfile.USTAR_FORMAT else [LONG + ".png", "ümlaut.png", LONG + "/" + "f" * 300]
        for i, name in enumerate(names):
            data = b"" if name == "empty.cls" else os.urandom(300 * i + 1)
            member = tarfile.TarInfo(name)
            member.size, member.mtime = len(data), 1e9 + (0.5 if form == tarfile.PAX_FORMAT else 0)
            archive.addfile(member, io.BytesIO(data))
            for kind in (tarfile.DIRTYPE, tarfile.SYMTYPE, tarfile.LNKTYPE):
                link = tarfile.TarInfo(f"{kind!r}{i}")
                link.type, link.linkname = kind, LONG if form != tarfile.USTAR_FORMAT else "1.png"
                archive.addfile(link)
    with tarfile.open(tmp_path / "x.tar") as archive:
        expected = [(m.name, m.offset_data, m.size) for m in archive if m.isfile()]
    assert len(expected) == len(names) and list(members(tmp_path / "x.tar")) == expected


def test_sizes_that_octal_digits_cannot_hold_are_read(tmp_path):
    for form in (tarfile.GNU_FORMAT, tarfile.PAX_FORMAT):
        member = tarfile.TarInfo("huge.png")
        member.size = 9 << 30
        with (tmp_path / "x.tar").open("wb") as file:
            file.write(member.tobuf(form))
            begin = file.tell()
            file.truncate(begin + (9 << 30) + 1024)  # a hole: it takes no room
        assert list(members(tmp_path / "x.tar")) == [("huge.png", begin, 9 << 30)]


def test_an_image_finds_its_label_wherever_it_stands_and_other_members_are_left_alone(tmp_path):
    content = {
        "a/1.jpg": picture(1, "JPEG"),
        "b/1.jpg": picture(2, "JPEG"),  # the same name in another folder is another sample
        "b/1.cls": b" 2\n",
        "a/1.cls": b"1",
        "x.json": json.dumps({"label": 0, "text": "of the next one"}).encode(),
        "x.webp": picture(3, "WEBP"),
        "both.cls": b"2",
        "both.json": b'{"label": [1]}',
        "both.PNG": picture(4),
        "none.png": picture(5),
        "null.png": picture(6),
        "null.json": b'{"label": null}',
        "other.png": picture(7),
        "other.json": b'{"width": 10}',
        "minus.png": picture(8),
        "minus.cls": b"-1",
        "0.depth.png": picture(9),
        "notes.txt": b"no image",
        "._a/._hidden.png": b"no image",
    }
    train = shards(tar(tmp_path / "x.tar", content), 8).train
    assert train.labels.tolist() == [1, 2, 0, 2, -1, -1, -1, -1, -1] and train.labels.dtype == np.int64
    assert train.classes == ("0", "1", "2") and train.shape == (3, 8, 8)
    for name in ("a/1.jpg", "b/1.jpg", "x.webp", "both.PNG"):
        (tmp_path / name).parent.mkdir(exist_ok=True)
        (tmp_path / name).write_bytes(content[name])
    files = folder(tmp_path, 8, labels="none").train  # sorted: a/1.jpg, b/1.jpg, both.PNG, x.webp
    assert all(np.array_equal(train[i], files[j]) for i, j in enumerate([0, 1, 3, 2]))


def test_names_as_labels_are_numbered_in_their_order(tmp_path):
    for name, words in {"train": ["dog", "cat", "dog"], "test": ["cat", "dog"]}.items():
        content = {f"{i}.png": picture(i) for i in range(len(words))}
        content |= {f"{i}.json": json.dumps({"kind": word}).encode() for i, word in enumerate(words)}
        tar(tmp_path / f"{name}.tar", content)
    data = shards(tmp_path / "train.tar", 8, test="test.tar", label="kind")
    assert data.train.classes == data.test.classes == ("cat", "dog")
    assert data.train.labels.tolist() == [1, 0, 1] and data.test.labels.tolist() == [0, 1]


def test_numbers_are_named_by_the_lines_of_classes_txt(four):
    assert shards(four / "train-*.tar", 8).train.classes == ("0", "1", "2")
    (four / "classes.txt").write_text("apple\npear tree\nplum\nquince\n")
    data = shards(four / "train-*.tar", 8, test="val-*.tar")
    assert data.train.classes == data.test.classes == ("apple", "pear tree", "plum")
    assert "is of the class quince: the classes are the 3 that occur" in " ".join(data.notes)
    (four / "classes.txt").write_text("apple\npear\n")
    with refuses("holds the label 2, which is none of the 2 classes"):
        shards(four / "train-*.tar", 8)


def test_images_without_labels_have_none(tmp_path):
    train = shards(tar(tmp_path / "x.tar", {f"{i}.png": picture(i) for i in range(3)}), 8).train
    assert train.labels is None and train.classes == () and len(train) == 3


# Which files


def test_a_folder_a_range_a_list_and_a_star_name_files(four, monkeypatch):
    def names(pattern):
        return [file.name for file in shard_files(pattern)]

    train = [f"train-00{k}.tar" for k in range(3)]
    assert names(four) == [*train, "val-000.tar"]
    assert names(f"{four}/train-{{000..002}}.tar") == names(f"{four}/train-*.tar") == train
    assert names(f"{four}/train-{{001..002}}.tar") == train[1:]
    assert names(f"{four}/{{val,train}}-{{000..000}}.tar") == ["val-000.tar", "train-000.tar"]
    monkeypatch.chdir(four)
    assert names("train-{000..002}.tar") == train
    tar(four / "odd [1]{a}.tar", samples(0, 1))
    assert names("odd [1]{a}.tar") == ["odd [1]{a}.tar"]


def test_test_files_are_found_beside_the_training_files_or_from_here(four, monkeypatch):
    monkeypatch.chdir(four.parent)
    for test in ("val-*.tar", "val-{000..000}.tar", four / "val-000.tar", f"{four.name}/val-000.tar"):
        data = shards(four / "train-*.tar", 8, test=test)
        assert len(data.train) == 24 and len(data.test) == 5
        assert data.test.labels.tolist() == [0, 1, 2, 0, 1]
    assert shards(four / "train-*.tar", 8).test is None


# As a source


def test_shards_give_what_a_folder_of_the_same_files_gives(four):
    for i in range(24):
        place = four / "files" / str(i % 3) / f"{i:04d}.png"
        place.parent.mkdir(parents=True, exist_ok=True)
        place.write_bytes(picture(i))
    files, train = folder(four / "files", 8).train, shards(four / "train-*.tar", 8).train
    order = sorted(range(24), key=lambda i: (i % 3, i))
    assert torch.equal(resident(files), resident(train)[order])
    assert files.labels.tolist() == train.labels[order].tolist()


def test_limit_takes_the_images_and_labels_that_it_takes_of_a_folder(four):
    whole, few = (shards(four / "train-*.tar", 8, limit=limit).train for limit in (None, 7))
    assert len(few) == 7 and few.classes == whole.classes
    at = [next(j for j in range(24) if np.array_equal(few[i], whole[j])) for i in range(7)]
    assert at == sorted(at) and few.labels.tolist() == whole.labels[at].tolist()
    assert few.name(0) == whole.name(at[0])


def stream(path, n, start=0, **options):
    return list(islice(Batches(shards(path / "train-*.tar", 8).train, 6, **options)(start), n))


def same(ours, theirs):
    keys = ("image", "label", "index", "row")
    return len(ours) == len(theirs) and all(
        torch.equal(a[key], b[key]) for a, b in zip(ours, theirs, strict=True) for key in keys
    )


@forking
@pytest.mark.parametrize("workers", [0, 2])
def test_streamed_batches_are_the_resident_ones_from_any_step_and_for_any_process(four, workers):
    whole = stream(four, 9)
    assert same(stream(four, 9, resident_bytes=0, workers=workers), whole)
    assert same(stream(four, 4, start=5, resident_bytes=0, workers=workers), whole[5:])
    halves = [stream(four, 3, rank=r, world=2, resident_bytes=0, workers=workers) for r in (0, 1)]
    for k, batch in enumerate(whole[:3]):
        assert torch.equal(torch.cat([half[k]["image"] for half in halves]), batch["image"])


def test_starting_at_a_step_reads_none_of_the_images_before_it(four):
    source = shards(four / "train-*.tar", 8).train
    read = []
    source.stored.read = lambda i, whole=source.stored.read: read.append(i) or whole(i)
    (batch,) = islice(Batches(source, 6, resident_bytes=0, workers=0)(3), 1)
    assert read == batch["index"].tolist()


@forking
def test_probes_read_what_does_not_fit_in_order(four):
    source = shards(four / "train-*.tar", 8, resident_bytes=0).train
    images = torch.cat([images for images, _ in in_order(source, 5)])
    assert source._resident is None and torch.equal(images, resident(source))


def test_threads_and_another_process_read_the_same(four):
    source = shards(four / "train-*.tar", 8).train
    images = np.stack([source[i] for i in range(24)])
    assert source.stored.open
    copy = pickle.loads(pickle.dumps(source))
    assert not copy.stored.open
    with ThreadPoolExecutor(8) as pool:
        assert np.array_equal(
            np.stack(list(pool.map(copy.__getitem__, list(range(24)) * 20))), np.tile(images, (20, 1, 1, 1))
        )


@pytest.mark.skipif(not Path("/proc/self/fd").is_dir(), reason="open files cannot be counted here")
def test_no_more_than_so_many_files_stay_open_and_none_when_the_source_is_gone(tmp_path):
    count = MOST_OPEN + 10
    for i in range(count):
        tar(tmp_path / f"{i:03d}.tar", {"1.png": picture(0)})
    before = len(os.listdir("/proc/self/fd"))
    source = shards(tmp_path, 8).train
    assert len(os.listdir("/proc/self/fd")) == before
    for i in range(count):
        source[i]
    assert len(os.listdir("/proc/self/fd")) == before + MOST_OPEN
    del source
    assert len(os.listdir("/proc/self/fd")) == before


def test_a_broken_image_is_named_or_left_out_and_counted(tmp_path):
    content = samples(0, 6) | {"0002.png": picture(2)[:-50], "0004.png": b"no image"}
    path = tar(tmp_path / "x.tar", content)
    with refuses(rf"{path}:0002.png cannot be decoded \(.*\)"):
        resident(shards(path, 8).train)
    with refuses(rf"{path}:0004.png cannot be decoded \(it is no image of a known kind\)"):
        shards(path, 8).train[4]
    for resident_bytes in (0, 1 << 20):
        train = shards(path, 8, skip_broken=True, resident_bytes=resident_bytes).train
        assert train.skipped == [f"{path}:0002.png", f"{path}:0004.png"]
        assert train.labels.tolist() == [0, 1, 0, 2] and (train._resident is None) == (resident_bytes == 0)
        assert np.array_equal(resident(train).numpy(), np.stack([train[i] for i in range(4)]))


# What is refused


@pytest.mark.parametrize("mode", ["w:gz", "w:bz2", "w:xz"])
def test_a_compressed_file_is_refused(tmp_path, mode):
    path = tar(tmp_path / "x.tar", samples(0, 1), mode)
    with refuses(r"x.tar is not a readable .tar file \(it is compressed; unpacked, .*\)"):
        shards(path, 8)


def test_files_that_are_no_tar_files_are_refused(tmp_path):
    whole = tar(tmp_path / "x.tar", samples(0, 3)).read_bytes()
    for length in (100, 700, 1100, 1600, 2000):
        (tmp_path / "cut.tar").write_bytes(whole[:length])
        with refuses(r"cut.tar is not a readable .tar file \(.+\)"):
            shards(tmp_path / "cut.tar", 8)
    for name, data in {"text": b"some text\n" * 200, "noise": os.urandom(4096)}.items():
        (tmp_path / f"{name}.tar").write_bytes(data)
        with refuses(rf"{name}.tar is not a readable .tar file"):
            shards(tmp_path / f"{name}.tar", 8)
    torn = bytearray(whole)
    torn[1024:1536] = b"x" * 512
    (tmp_path / "torn.tar").write_bytes(torn)
    with refuses("torn.tar is not a readable .tar file"):
        shards(tmp_path / "torn.tar", 8)


@pytest.mark.parametrize(
    "changes, sentence",
    [
        ({"0001.jpg": b""}, "x.tar has two images called 0001"),
        ({"0001.cls": b"one"}, "some labels are numbers and some are names in [^ ]*x.tar$"),
        ({"0001.cls": b"-2"}, "x.tar holds the label -2, which is none of"),
        ({"0001.cls": b"\xff"}, "x.tar:0001.cls cannot be read"),
        ({"0009.png": b"", "0009.json": b"{"}, "x.tar:0009.json cannot be read"),
        ({"0009.png": b"", "0009.json": b"[1]"}, "x.tar:0009.json cannot be read"),
        ({"0009.png": b"", "0009.json": b'{"label": 1.5}'}, "x.tar:0009.json: label is 1.5, neither a whole"),
        ({"0009.png": b"", "0009.json": b'{"label": true}'}, "label is True, neither a whole number nor a"),
    ],
)
def test_what_is_wrong_inside_is_named(tmp_path, changes, sentence):
    with refuses(sentence):
        shards(tar(tmp_path / "x.tar", samples(0, 3) | changes), 8)


def test_what_cannot_be_used_is_refused(four):
    with refuses(f"there is no file {four}/none.tar"):
        shards(four / "none.tar", 8)
    with refuses(rf"there is no file {four}/train-003.tar"):
        shards(four / "train-{000..005}.tar", 8)
    with refuses(re.escape(f"there is no file {four}/none-*.tar")):
        shards(four / "none-*.tar", 8)
    with refuses("there is no file .*none.tar"):
        shards(four / "train-*.tar", 8, test="none.tar")
    (four / "empty").mkdir()
    with refuses("there is no .tar file in .*empty"):
        shards(four / "empty", 8)
    with refuses("val-000.tar is among the training files and among the test files"):
        shards(four, 8, test="val-*.tar")
    with refuses("there is no image in .*x.tar; accepted are .jpg .jpeg .png"):
        shards(tar(four / "more/x.tar", {"1.txt": b"no image"}), 8)
    tar(four / "more/y.tar", {"1.png": picture(1), "1.cls": b"7"})
    with refuses(r"y.tar has classes that .* lacks: 7 \(1 image\)"):
        shards(four / "train-*.tar", 8, test="more/y.tar")
    with refuses("size must be at least 1 pixel, not 0"):
        shards(four, 0)


def test_a_run_of_the_command_on_shards(four, monkeypatch, capsys):
    monkeypatch.chdir(four.parent)
    words = ["data=shards", f"data.path={four.name}/train-{{000..002}}.tar", "data.test=val-000.tar"]
    words += ["data.size=16", "batch_size=6", "epochs=1", "method=simclr", "peers=[resnet8]", "run=runs/a"]
    assert main(["train", *words, "probe.knn=[1]", "probe.linear=false"]) == 0
    assert "simclr on shards" in capsys.readouterr().out
