"""Data sets in the format of the Hugging Face Hub: written by its library, read back as any other source."""

import io
import pickle
import sys
from itertools import islice
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from ssl_kd.cli import main
from ssl_kd.data import Batches, hub, in_order, resident
from ssl_kd.errors import InputError

# Python 3.12 and 3.13 warn of any fork beside torch's threads; a worker uses none of them.
forking = pytest.mark.filterwarnings("ignore:.*multi-threaded.*fork:DeprecationWarning")


def refuses(sentence: str):
    return pytest.raises(InputError, match=f"^[^\n]*{sentence}[^\n]*$")


def test_without_the_package_the_sentence_names_the_extra(monkeypatch):
    monkeypatch.setitem(sys.modules, "datasets", None)
    with refuses(r'data=hub needs the package "datasets": pip install "ssl-kd\[hub\]"'):
        hub("anything", 8)


datasets = pytest.importorskip("datasets")


@pytest.fixture(autouse=True)
def _quiet_and_offline(tmp_path_factory, monkeypatch):
    monkeypatch.setattr(datasets.config, "HF_DATASETS_CACHE", tmp_path_factory.mktemp("cache"))
    monkeypatch.setattr(datasets.config, "HF_HUB_OFFLINE", True)
    datasets.disable_progress_bars()


def pixels(i: int) -> np.ndarray:
    return np.random.default_rng(i).integers(0, 256, (8, 8, 3), np.uint8)


def picture(i: int) -> bytes:
    file = io.BytesIO()
    Image.fromarray(pixels(i)).save(file, "PNG")
    return file.getvalue()


def rows(images):
    return [{"bytes": image, "path": None} if image else None for image in images]


def columns(**contents):
    """A data set of columns, each given as (what is in it, of which kind)."""
    data = {name: values for name, (values, _) in contents.items()}
    features = datasets.Features({name: kind for name, (_, kind) in contents.items()})
    return datasets.Dataset.from_dict(data, features)


def table(first: int, last: int):
    """Images first..last-1 with the class i % 3."""
    images = rows(picture(i) for i in range(first, last))
    labels = [i % 3 for i in range(first, last)]
    return columns(
        image=(images, datasets.Image()), label=(labels, datasets.ClassLabel(names=["a", "b", "c"]))
    )


def expected(at) -> np.ndarray:
    return np.stack([pixels(i).transpose(2, 0, 1) for i in at])


@pytest.fixture
def saved(tmp_path) -> Path:
    """20 training and 7 test images, as `save_to_disk` writes them."""
    datasets.DatasetDict(train=table(0, 20), test=table(20, 27)).save_to_disk(tmp_path / "saved")
    return tmp_path / "saved"


def check(data, train=range(20), test=range(20, 27)):
    assert data.train.shape == (3, 8, 8) and data.train.classes == data.test.classes == ("a", "b", "c")
    for source, at in ((data.train, train), (data.test, test)):
        assert np.array_equal(resident(source).numpy(), expected(at))
        assert source.labels.dtype == np.int64 and source.labels.tolist() == [i % 3 for i in at]


def test_what_save_to_disk_wrote_is_read_in_another_process_too(saved):
    data = hub(str(saved), 8)
    check(data)
    check(pickle.loads(pickle.dumps(hub(str(saved), 8))))


def test_a_folder_of_parquet_files_is_read(tmp_path):
    table(0, 10).to_parquet(tmp_path / "train-00000-of-00002.parquet")
    table(10, 20).to_parquet(tmp_path / "train-00001-of-00002.parquet")
    table(20, 27).to_parquet(tmp_path / "validation-00000-of-00001.parquet")
    check(hub(str(tmp_path), 8))


def test_a_folder_of_image_files_is_read(tmp_path):
    for i in range(27):
        file = tmp_path / ("train" if i < 20 else "test") / "abc"[i % 3] / f"{i:02d}.png"
        file.parent.mkdir(parents=True, exist_ok=True)
        file.write_bytes(picture(i))
    by_class = [sorted(part, key=lambda i: (i % 3, i)) for part in (range(20), range(20, 27))]
    check(hub(str(tmp_path), 8), *by_class)


def test_a_single_split_is_the_training_part(tmp_path):
    table(0, 5).save_to_disk(tmp_path / "one")
    data = hub(str(tmp_path / "one"), 8)
    assert len(data.train) == 5 and data.test is None


def test_rows_chosen_or_shuffled_before_saving_keep_their_labels(tmp_path):
    shuffled = table(0, 20).shuffle(seed=0).select(range(10))
    shuffled.save_to_disk(tmp_path / "x")
    train = hub(str(tmp_path / "x"), 8).train
    at = [int(i) for i in np.random.default_rng(0).permutation(20)[:10]]
    assert np.array_equal(resident(train).numpy(), expected(at))
    assert train.labels.tolist() == [i % 3 for i in at]


def test_columns_and_splits_can_be_named(tmp_path):
    one = columns(
        image=(rows(picture(i) for i in range(12)), datasets.Image()),
        picture=(rows(picture(100 + i) for i in range(12)), datasets.Image()),
        fine=(["x", None, "z"] * 4, datasets.Value("string")),
        coarse=([0, 1, -1] * 4, datasets.Value("int32")),
    )
    datasets.DatasetDict(first=one, second=one).save_to_disk(tmp_path / "x")
    options = dict(train="first", test="second", image="picture")
    data = hub(str(tmp_path / "x"), 8, label="fine", **options)
    assert data.train.classes == ("x", "z") and data.train.labels.tolist() == [0, -1, 1] * 4
    assert np.array_equal(resident(data.test).numpy(), expected(range(100, 112)))
    data = hub(str(tmp_path / "x"), 8, label="coarse", **options)
    assert data.train.classes == ("0", "1") and data.train.labels.tolist() == [0, 1, -1] * 4
    assert hub(str(tmp_path / "x"), 8, **options).train.labels is None  # none of them is a column of classes


def test_limit_takes_images_with_their_labels(saved):
    few = hub(str(saved), 8, limit=6).train
    at = [next(i for i in range(20) if np.array_equal(image, expected([i])[0])) for image in resident(few)]
    assert len(few) == 6 and at == sorted(set(at)) and few.labels.tolist() == [i % 3 for i in at]


@forking
@pytest.mark.parametrize("workers", [0, 2])
def test_streamed_batches_are_the_resident_ones_from_any_step_and_for_any_process(saved, workers):
    def stream(n, start=0, **options):
        return list(islice(Batches(hub(str(saved), 8).train, 6, **options)(start), n))

    whole = stream(7)
    for n, start in ((7, 0), (3, 4)):
        streamed = stream(n, start, resident_bytes=0, workers=workers)
        for ours, theirs in zip(streamed, whole[start:], strict=True):
            assert all(torch.equal(ours[key], theirs[key]) for key in ("image", "label", "index", "row"))
    halves = [stream(2, rank=r, world=2, resident_bytes=0, workers=workers) for r in (0, 1)]
    for k in range(2):
        assert torch.equal(torch.cat([half[k]["image"] for half in halves]), whole[k]["image"])


@forking
def test_probes_read_what_does_not_fit_in_order(saved):
    test = hub(str(saved), 8, resident_bytes=0).test
    images, labels = (torch.cat(part) for part in zip(*in_order(test, 3), strict=True))
    assert np.array_equal(images.numpy(), expected(range(20, 27))) and labels.tolist() == test.labels.tolist()


def test_a_broken_image_is_named_or_left_out_and_counted(tmp_path):
    images = rows([picture(0), picture(1)[:-40], b"no image", picture(3), None])
    columns(image=(images, datasets.Image())).save_to_disk(tmp_path / "x")
    path = str(tmp_path / "x")
    with refuses(rf"{path}, train, row 1 cannot be decoded"):
        resident(hub(path, 8).train)
    with refuses(r"row 4 cannot be decoded \(the row has none\)"):
        hub(path, 8).train[4]
    train = hub(path, 8, skip_broken=True).train
    assert train.skipped == [f"{path}, train, row {i}" for i in (1, 2, 4)]
    assert np.array_equal(resident(train).numpy(), expected([0, 3]))


def test_what_cannot_be_used_is_refused(saved, tmp_path):
    path = str(saved)
    with refuses("the data set nobody/nothing cannot be read"):
        hub("nobody/nothing", 8)
    (tmp_path / "empty").mkdir()
    with refuses("the data set .*empty cannot be read"):
        hub(str(tmp_path / "empty"), 8)
    with refuses('saved has no split "trian"; did you mean "train"'):
        hub(path, 8, train="trian")
    with refuses('saved has no split "val"; there are: test, train'):
        hub(path, 8, test="val")
    with refuses('saved has no column "labels"; did you mean "label"'):
        hub(path, 8, label="labels")
    with refuses('saved has no column "photo"; there are: image, label'):
        hub(path, 8, image="photo")
    with refuses('saved, train: "label" is no column of images'):
        hub(path, 8, image="label")
    with refuses('the column "image" holds .*, neither whole numbers nor names'):
        hub(path, 8, label="image")
    with refuses("size must be at least 1 pixel, not 0"):
        hub(path, 0)
    columns(text=(["a"], datasets.Value("string"))).save_to_disk(tmp_path / "text")
    with refuses("text has no column of images; its columns are text"):
        hub(str(tmp_path / "text"), 8)
    image, label = (rows([picture(0)]), datasets.Image()), ([0], datasets.ClassLabel(names=["a"]))
    columns(image=image, fine=label, coarse=label).save_to_disk(tmp_path / "labels")
    with refuses("labels has the label columns fine, coarse; choose by data.label=fine"):
        hub(str(tmp_path / "labels"), 8)
    columns(left=image, right=image).save_to_disk(tmp_path / "images")
    with refuses("images has the image columns left, right; choose by data.image=left"):
        hub(str(tmp_path / "images"), 8)


def test_a_run_of_the_command_on_a_saved_data_set(saved, monkeypatch, capsys):
    monkeypatch.chdir(saved.parent)
    words = ["data=hub", "data.path=saved", "data.size=16", "batch_size=6", "epochs=1", "method=simclr"]
    assert main(["train", *words, "peers=[resnet8]", "run=a", "probe.knn=[1]", "probe.linear=false"]) == 0
    assert "simclr on hub" in capsys.readouterr().out
