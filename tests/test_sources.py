"""Sources: what is read, how it is split and labelled, and the one sentence that says what is wrong."""

import os
import pickle
import re
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from ssl_kd.data.files import data_root
from ssl_kd.data.folders import folder
from ssl_kd.data.loaders import Batches, resident
from ssl_kd.data.sources import Arrays, arrays, cifar10, cifar100, digits, fashion_mnist
from ssl_kd.errors import InputError

DATA = data_root(None)


def pixels(*shape, seed=0):
    return np.random.default_rng(seed).integers(0, 256, shape, dtype=np.uint8)


def save(path: Path, image=None, **options):
    path.parent.mkdir(parents=True, exist_ok=True)
    (image or Image.fromarray(pixels(12, 10, 3))).save(path, **options)
    return path


def refuses(sentence: str):
    return pytest.raises(InputError, match=f"^[^\n]*{sentence}[^\n]*$")


# Digits and arrays


def test_digits_are_split_in_a_fixed_stratified_way():
    data = digits()
    assert len(data.train) == 1437 and len(data.test) == 360
    assert data.train.shape == (1, 8, 8) and data.train[0].dtype == np.uint8
    assert data.train.images.max() == 255 and data.train.classes == tuple("0123456789")
    parts = [np.bincount(source.labels, minlength=10) / len(source) for source in (data.train, data.test)]
    assert np.abs(parts[0] - parts[1]).max() < 0.003
    assert np.array_equal(digits().train.images, data.train.images)


def test_limit_keeps_a_fixed_part_and_a_smaller_limit_a_part_of_that():
    few, more = digits(limit=100).train, digits(limit=200).train
    rows = [{image.tobytes() for image in source.images} for source in (few, more)]
    assert len(few) == 100 and len(more) == 200 and rows[0] <= rows[1]
    assert len(np.unique(few.labels)) == 10
    assert len(digits(limit=5000).train) == 1437
    with refuses("limit must be at least 1, not 0"):
        digits(limit=0)


GOOD = dict(
    train_images=pixels(6, 5, 4, 3),
    train_labels=np.array([0, 1, 2, 0, 1, -1]),
    test_images=pixels(3, 5, 4, 3, seed=1),
    test_labels=np.array([[0], [1], [2]], dtype=np.uint8),
    class_names=np.array(["a", "b", "c"]),
)


def npz(path, **changes):
    """GOOD with changes; None leaves a key out."""
    np.savez(path / "x.npz", **{k: v for k, v in {**GOOD, **changes}.items() if v is not None})
    return path / "x.npz"


def test_arrays_reads_images_labels_and_names(tmp_path):
    data = arrays(npz(tmp_path))
    assert data.train.shape == (3, 5, 4) and data.train.classes == ("a", "b", "c")
    assert np.array_equal(data.train[1], GOOD["train_images"][1].transpose(2, 0, 1))
    assert data.train.labels.tolist() == [0, 1, 2, 0, 1, -1] and data.train.labels.dtype == np.int64
    assert data.test.labels.tolist() == [0, 1, 2]


def test_arrays_needs_no_more_than_train_images(tmp_path):
    data = arrays(npz(tmp_path, **{**dict.fromkeys(GOOD), "train_images": pixels(6, 5, 4)}))
    assert data.train.shape == (1, 5, 4) and data.test is None
    assert data.train.labels is None and data.train.classes == ()
    data = arrays(npz(tmp_path, class_names=None))
    assert data.train.classes == data.test.classes == ("0", "1", "2")


@pytest.mark.parametrize(
    "changes, sentence",
    [
        (dict(train_images=None), "x.npz has no train_images; it holds train_labels, test_images"),
        (dict(train_images=pixels(6, 5, 4, 3) / 255), "train_images must be uint8, not float64"),
        (dict(test_images=pixels(3, 5, 4, 3).astype(int)), "test_images must be uint8, not int64"),
        (dict(train_images=pixels(6, 20)), r"\(N, H, W\) or \(N, H, W, 1 or 3\), not \(6, 20\)"),
        (dict(train_images=pixels(6, 3, 5, 4)), r"or \(N, H, W, 1 or 3\), not \(6, 3, 5, 4\)"),
        (dict(train_images=pixels(0, 5, 4, 3)), r"not \(0, 5, 4, 3\)"),
        (dict(train_labels=np.arange(5) % 3), r"6 train_images need as many train_labels, not \(5,\)"),
        (dict(test_labels=np.zeros((3, 2), int)), r"3 test_images need as many test_labels, not \(3, 2\)"),
        (dict(train_labels=np.zeros(6)), "train_labels must be integers, not float64"),
        (dict(train_labels=np.arange(6)), "train_labels holds the label 5, which is none of the 3 classes"),
        (dict(test_labels=np.full(3, -2)), "test_labels holds the label -2, which is none of the 3 classes"),
        (
            dict(test_labels=np.full(3, 9), class_names=None),
            r"test_labels has classes that .*train_labels lacks: 9 \(3 images\)",
        ),
        (dict(test_images=pixels(3, 4, 4, 3)), r"test_images are \(3, 4, 4\) but train_images are \(3, 5"),
        (dict(class_names=np.arange(3)), r"class_names must be \(K,\) strings, not int64 \(3,\)"),
    ],
)
def test_arrays_names_the_file_and_the_key_that_is_wrong(tmp_path, changes, sentence):
    with refuses(sentence):
        arrays(npz(tmp_path, **changes))


def test_arrays_refuses_files_that_are_missing_damaged_or_something_else(tmp_path):
    with refuses(f"there is no file {tmp_path}/none.npz"):
        arrays(tmp_path / "none.npz")
    whole = npz(tmp_path).read_bytes()
    for length in (0, 10, len(whole) // 2, len(whole) - 30):
        (tmp_path / "cut.npz").write_bytes(whole[:length])
        with refuses("cut.npz is not a readable .npz file"):
            arrays(tmp_path / "cut.npz")
    flipped = bytearray(whole)
    flipped[300] ^= 255  # inside the first array
    (tmp_path / "bits.npz").write_bytes(flipped)
    with refuses("bits.npz: train_images cannot be read"):
        arrays(tmp_path / "bits.npz")
    np.save(tmp_path / "single.npy", pixels(2, 2))
    with refuses("single.npy is a single array, not an .npz file"):
        arrays(tmp_path / "single.npy")


class Trap:
    """Unpickling it makes a folder."""

    def __init__(self, path):
        self.path = path

    def __reduce__(self):
        return os.mkdir, (str(self.path),)


def test_arrays_never_unpickles(tmp_path):
    sprung = tmp_path / "sprung"
    trap = np.empty(6, dtype=object)
    trap[:] = [Trap(sprung)] * 6
    for key in ("train_images", "train_labels", "class_names"):
        with refuses(f"x.npz: {key} cannot be read"):
            arrays(npz(tmp_path, **{key: trap}))
    (tmp_path / "pickle.npz").write_bytes(pickle.dumps(Trap(sprung)))
    with refuses("pickle.npz is not a readable .npz file"):
        arrays(tmp_path / "pickle.npz")
    assert not sprung.exists()


def test_arrays_in_memory_are_checked_too():
    with refuses(r"images must be uint8 \(N, C, H, W\), not float64 \(2, 3, 4, 4\)"):
        Arrays(np.zeros((2, 3, 4, 4)))
    with refuses(r"2 images need 2 integer labels, not int64 \(3,\)"):
        Arrays(pixels(2, 3, 4, 4), np.arange(3))


@pytest.mark.parametrize(
    "load, files",
    [(cifar10, "cifar-10-python.tar.gz"), (cifar100, "cifar-100-python.tar.gz"), (fashion_mnist, "ubyte.gz")],
)
def test_without_a_network_the_sentence_says_which_files_go_where(tmp_path, monkeypatch, load, files):
    def offline(*args, **kwargs):
        raise OSError("no route to host")

    monkeypatch.setattr("urllib.request.urlopen", offline)
    with refuses(rf"could be neither read nor downloaded \(.*\); put .*{re.escape(files)}.* into {tmp_path}"):
        load(tmp_path)


def test_cifar_is_read_where_it_lies_and_downloaded_only_when_it_does_not(tmp_path, monkeypatch):
    asked = []

    class Fake:
        url = "https://example.org/cifar.tar.gz"

        def __init__(self, root, train, download):
            asked.append((train, download))
            if train and not download:
                raise RuntimeError("Dataset not found or corrupted.")
            self.data, self.targets, self.classes = pixels(4, 32, 32, 3), [0, 1, 0, 1], ["a", "b"]

    monkeypatch.setattr("torchvision.datasets.CIFAR10", Fake)
    data = cifar10(tmp_path, limit=2)
    assert asked == [(True, False), (True, True), (False, False)]
    assert len(data.train) == 2 and data.test.shape == (3, 32, 32) and data.test.classes == ("a", "b")
    assert np.array_equal(data.test[3], pixels(4, 32, 32, 3)[3].transpose(2, 0, 1))


# Folders


def test_class_folders_make_labels_and_train_and_val_are_told_apart(tmp_path):
    for i, name in enumerate(["train/dog/1.png", "train/cat/deep/2.JPG", "train/cat/3.png", "val/dog/4.png"]):
        save(tmp_path / name, Image.fromarray(pixels(12, 10, 3, seed=i)))
    save(tmp_path / "train/cat/._3.png").with_name("notes.txt").write_text("not an image")
    data = folder(tmp_path, 8)
    assert data.train.classes == data.test.classes == ("cat", "dog")
    assert data.train.labels.tolist() == [0, 0, 1] and data.test.labels.tolist() == [1]
    assert data.train.shape == (3, 8, 8) and data.train[0].shape == (3, 8, 8)
    assert folder(tmp_path, 8, labels="none").train.labels is None
    assert len(folder(tmp_path / "train", 8, test=tmp_path / "val").test) == 1
    assert len(folder(tmp_path, 8, test="val").train) == 3
    assert len(folder(tmp_path, 8, limit=2).train) == len(folder(tmp_path, 8, limit=2).train.labels) == 2


def test_lists_say_which_images_of_a_folder_there_are_and_their_labels(tmp_path):
    for name in ("a/1 x.png", "a/2.png", "b/3.png"):
        save(tmp_path / name)
    train, test = tmp_path / "train.txt", tmp_path / "test.txt"
    train.write_text("a/1 x.png 1\nb/3.png 0\n\nb/3.png 2\n"), test.write_text("a/2.png 1\n")
    data = folder(tmp_path, 8, train_list=train, test_list=test)
    assert data.train.labels.tolist() == [1, 0, 2] and data.test.labels.tolist() == [1]
    assert data.train.classes == ("0", "1", "2") and (data.train[1] == data.train[2]).all()
    assert (data.train[0] == folder(tmp_path, 8, labels="none").train[0]).all()
    train.write_text("a/2.png dog\nb/3.png cat\n")
    assert folder(tmp_path, 8, train_list=train).train.classes == ("cat", "dog")


@pytest.mark.parametrize(
    ("text", "says"),
    [
        ("a/2.png 1\na/9.png 0\n", "line 2 of .*: there is no image a/9.png in"),
        ("a/2.png\n", 'line 1 of .* is "a/2.png", not a path and a label, as in a/b.jpg 3'),
        ("../2.png 0\n", r"\.\./2.png is not below"),
        ("/etc/passwd 0\n", "/etc/passwd is not below"),
        ("\n", "names no image"),
        ("a/2.png 1\na/2.png cat\n", "some labels are numbers and some are names"),
        (None, "there is no list"),
    ],
)
def test_a_list_that_cannot_be_followed_is_refused(text, says, tmp_path):
    save(tmp_path / "a/2.png")
    if text is not None:
        (tmp_path / "list.txt").write_text(text)
    with pytest.raises(InputError, match=says) as error:
        folder(tmp_path, 8, train_list=tmp_path / "list.txt")
    assert "\n" not in str(error.value)


def test_flat_images_have_no_labels_and_one_folder_is_no_class(tmp_path):
    save(tmp_path / "flat/1.png"), save(tmp_path / "flat/2.png"), save(tmp_path / "one/images/1.png")
    for name, n in (("flat", 2), ("one", 1)):
        data = folder(tmp_path / name, 8)
        assert len(data.train) == n and data.train.labels is None and data.train.classes == ()
        assert data.test is None


def test_linked_folders_are_followed_and_a_circle_ends(tmp_path):
    save(tmp_path / "a/1.png"), save(tmp_path / "elsewhere/2.png")
    (tmp_path / "a/link").symlink_to(tmp_path / "elsewhere")
    (tmp_path / "a/circle").symlink_to(tmp_path / "a")
    assert len(folder(tmp_path / "a", 8, labels="none").train) == 2


def test_files_come_folder_by_folder_whatever_their_names(tmp_path):
    names = ["a/b.png", "a-c.png", "a/c/d.png", "é/ü.png", os.fsdecode(b"\xff.png"), "a b.png"]
    for i, name in enumerate(names):
        save(tmp_path / name, Image.new("L", (8, 8), i))
    train = folder(tmp_path, 8, labels="none").train
    assert [train.name(i) for i in range(6)] == [str(path) for path in sorted(tmp_path / n for n in names)]
    assert all(names[train[i][0, 0, 0]] == str(Path(train.name(i)).relative_to(tmp_path)) for i in range(6))


def test_decoding_takes_the_central_square_and_resizes_it(tmp_path):
    image = Image.fromarray(pixels(20, 32, 3))
    save(tmp_path / "wide.png", image)
    square = image.crop((6, 0, 26, 20))
    for size in (20, 8):
        resized = np.asarray(square.resize((size, size), Image.Resampling.BILINEAR)).transpose(2, 0, 1)
        assert np.array_equal(folder(tmp_path, size).train[0], resized)


def photograph(width: int, height: int) -> Image.Image:
    from sklearn.datasets import load_sample_image

    return Image.fromarray(load_sample_image("china.jpg")).resize((width, height), Image.Resampling.BICUBIC)


@pytest.mark.parametrize("kind", ["JPEG", "MPO"])  # telephones write the second
@pytest.mark.parametrize("width, height", [(1283, 961), (600, 1200), (643, 640), (448, 448)])
def test_a_large_jpeg_is_decoded_smaller_and_looks_the_same(tmp_path, width, height, kind):
    jpeg = save(tmp_path / "a/x.jpg", photograph(width, height), format=kind, quality=95)
    save(tmp_path / "b/x.png", Image.open(jpeg).convert("RGB"))  # is never decoded smaller
    ours, whole = (folder(tmp_path / name, 64).train[0].astype(int) for name in "ab")
    difference = np.abs(ours - whole).mean()
    moved = np.abs(ours[..., 1:] - whole[..., :-1]).mean()
    assert 0 < difference < 4 and difference < moved / 3


def test_a_jpeg_below_twice_the_size_is_decoded_whole(tmp_path):
    save(tmp_path / "x.jpg", photograph(159, 127))
    square = Image.open(tmp_path / "x.jpg").crop((16, 0, 143, 127))
    expected = np.asarray(square.resize((64, 64), Image.Resampling.BILINEAR)).transpose(2, 0, 1)
    assert np.array_equal(folder(tmp_path, 64).train[0], expected)


@pytest.mark.parametrize("size", [1, 2, 3, 5])
def test_small_jpegs_of_any_shape_keep_their_colour(tmp_path, size):
    for width, height in [(3, 3), (7, 5), (15, 9), (9, 100), (33, 17)]:
        save(tmp_path / "x.jpg", Image.new("RGB", (width, height), (200, 100, 50)), quality=95)
        image = folder(tmp_path, size).train[0]
        assert image.shape == (3, size, size)
        assert np.abs(image.reshape(3, -1).T.astype(int) - (200, 100, 50)).max() <= 3


@pytest.mark.parametrize("mode", ["1", "L", "LA", "P", "RGBA", "CMYK", "I;16", "I"])
def test_images_of_every_mode_become_rgb(tmp_path, mode):
    if mode.startswith("I"):
        values = np.linspace(0, 65535, 64).reshape(8, 8).astype(np.uint16 if mode == "I;16" else np.int32)
        image, expected = Image.fromarray(values), np.round(values / 257)
    else:
        image = Image.fromarray(pixels(8, 8)).convert("RGB").convert(mode)
        expected = np.asarray(image.convert("RGB"))[..., 0]
    save(tmp_path / "x.tif", image)
    decoded = folder(tmp_path, 8).train[0]
    assert decoded.shape == (3, 8, 8) and np.array_equal(decoded[0], expected)


def test_a_palette_with_transparency_is_read(tmp_path):
    image = Image.fromarray(pixels(8, 8)).convert("P")
    save(tmp_path / "x.png", image, transparency=bytes(range(200)))
    assert np.array_equal(folder(tmp_path, 8).train[0][0], np.asarray(image.convert("RGB"))[..., 0])


def test_a_broken_file_is_named_or_left_out_and_counted(tmp_path):
    for name in "abcd":
        save(tmp_path / f"{name}/1.jpg", Image.fromarray(pixels(40, 40, 3)))
    (tmp_path / "b/1.jpg").write_bytes((tmp_path / "b/1.jpg").read_bytes()[:-500])
    (tmp_path / "c/1.jpg").write_text("no image at all")
    with refuses(rf"{tmp_path}/b/1.jpg cannot be decoded \(.*truncated.*\)"):
        resident(folder(tmp_path, 8).train)
    with refuses(rf"{tmp_path}/c/1.jpg cannot be decoded \(it is no image of a known kind\)"):
        folder(tmp_path, 8).train[2]
    data = folder(tmp_path, 8, skip_broken=True)
    assert data.train.skipped == [f"{tmp_path}/b/1.jpg", f"{tmp_path}/c/1.jpg"]
    assert data.train.labels.tolist() == [0, 3] and len(data.train.classes) == 4
    assert np.array_equal(resident(data.train).numpy(), np.stack([data.train[0], data.train[1]]))
    with refuses("none of the 1 images can be decoded, the first is .*c/1.jpg"):
        folder(tmp_path / "c", 8, skip_broken=True)


@pytest.mark.parametrize("most", [50, 99])  # Pillow raises above twice its limit and only warns below
def test_an_image_with_too_many_pixels_is_refused(tmp_path, monkeypatch, most):
    save(tmp_path / "big.png", Image.fromarray(pixels(12, 12)))
    monkeypatch.setattr(Image, "MAX_IMAGE_PIXELS", most)
    with refuses(r"big.png cannot be decoded \(.*pixels"):
        folder(tmp_path, 8).train[0]


def test_a_long_thin_image_does_not_become_huge(tmp_path):
    save(tmp_path / "thin.png", Image.new("L", (100_000, 1), 9))
    assert (folder(tmp_path, 64).train[0] == 9).all()


def test_floating_point_images_are_refused(tmp_path):
    save(tmp_path / "x.tif", Image.fromarray(np.zeros((8, 8), np.float32)))
    with refuses(r"x.tif cannot be decoded \(it holds floating-point pixels; convert it to 8 or 16 bits\)"):
        folder(tmp_path, 8).train[0]


def test_folders_that_cannot_be_used_are_refused(tmp_path):
    with refuses(f"there is no folder {tmp_path}/none"):
        folder(tmp_path / "none", 8)
    (tmp_path / "empty").mkdir()
    with refuses("there is no image in .*empty; accepted are .jpg .jpeg .png"):
        folder(tmp_path / "empty", 8)
    for name in ("data/train/a/1.png", "data/train/b/1.png", "data/test/a/1.png", "data/test/c/1.png"):
        save(tmp_path / name)
    with refuses("test has classes that .*train lacks: c"):
        folder(tmp_path / "data", 8)
    with refuses("the test folder .*train/b lies inside the training folder .*train"):
        folder(tmp_path / "data/train", 8, test="b")
    with refuses(f"there is no folder {tmp_path}/none"):
        folder(tmp_path / "data", 8, test=tmp_path / "none")
    with refuses("size must be at least 1 pixel, not 0"):
        folder(tmp_path / "data/train", 0)
    save(tmp_path / "data/train/1.png")
    with refuses('holds images both beside its sub-folders and in them; labels="none" takes them all'):
        folder(tmp_path / "data", 8)
    with refuses('labels must be "auto" or "none", not "yes"'):
        folder(tmp_path / "data", 8, labels="yes")


# Real data


def one_batch(source):
    batch = next(Batches(source, 16, resident_bytes=0, workers=0)(0))
    assert batch["image"].shape == (16, *source.shape) and (batch["label"] >= 0).all()
    return batch


@pytest.mark.skipif(not (DATA / "cifar10.npz").exists(), reason="no cifar10.npz in the data folder")
def test_cifar10_in_an_npz_has_its_counts():
    data = arrays(DATA / "cifar10.npz", limit=20_000)
    assert len(data.train) == 20_000 and len(data.test) == 10_000 and data.train.shape == (3, 32, 32)
    assert len(arrays(DATA / "cifar10.npz").train) == 40_000
    assert data.train.classes[:2] == ("airplane", "automobile")
    assert one_batch(data.train)["image"].float().std() > 40


@pytest.mark.skipif(not (DATA / "fashion-mnist").is_dir(), reason="no fashion-mnist in the data folder")
def test_fashion_mnist_has_its_counts():
    data = fashion_mnist()
    assert len(data.train) == 60_000 and len(data.test) == 10_000 and data.train.shape == (1, 28, 28)
    assert np.bincount(data.train.labels).tolist() == [6000] * 10 and data.train.classes[9] == "Ankle boot"
    one_batch(data.train)


@pytest.mark.skipif(not (DATA / "tiny-imagenet-50").is_dir(), reason="no tiny-imagenet-50 in the data folder")
def test_tiny_imagenet_50_has_its_counts_and_decodes():
    data = folder(DATA / "tiny-imagenet-50", 64)
    assert len(data.train) == 25_000 and len(data.test) == 2_500 and len(data.train.classes) == 50
    assert np.bincount(data.test.labels).tolist() == [50] * 50
    original = np.asarray(Image.open(data.train.name(7)).convert("RGB")).transpose(2, 0, 1)
    assert np.array_equal(data.train[7], original)
    assert torch.is_tensor(one_batch(data.train)["image"])
