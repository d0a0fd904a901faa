"""A finished run as Python has it: `ssl_kd.load(run).embed(images)`, and the same inside scikit-learn."""

import json
import pickle
import shutil
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image
from sklearn.base import clone
from sklearn.linear_model import LogisticRegression
from sklearn.pipeline import make_pipeline
from sklearn.utils import estimator_checks

import ssl_kd
from ssl_kd import Embedder, InputError
from ssl_kd.data import digits, folder
from ssl_kd.train import main as train

SMALL = "{backbone: {name: resnet8, base: 8}}"
QUICK = [
    "batch_size=64", "epochs=2", "probe.linear=false", "probe.baselines=false", "health.every=0",
    "precision=float32",
]  # fmt: skip


@pytest.fixture(scope="module")
def runs(tmp_path_factory) -> Path:
    """pair: a DoGo pair on digits. labels: with a classifier. colour: on RGB files."""
    place, threads = tmp_path_factory.mktemp("runs"), torch.get_num_threads()
    generator = np.random.default_rng(0)
    for i in range(64):
        pixels = generator.integers(0, 256, (24 + i % 5, 31, 3), dtype=np.uint8)
        (place / "photos").mkdir(exist_ok=True)
        Image.fromarray(pixels).save(place / "photos" / f"{i:02}.png")
    pair = ["method=dogo", f"peers={{small: {SMALL}, large: resnet8}}", "data=digits", "data.limit=256"]
    labels = ["method=supervised", f"peers={{a: {SMALL}}}", "data=digits", "data.limit=256"]
    colour = ["method=simclr", f"peers={{a: {SMALL}}}", "data=folder", f"data.root={place}/photos"]
    assert train([*pair, *QUICK, f"run={place}/pair"]) == 0
    assert train([*labels, *QUICK, f"run={place}/labels"]) == 0
    assert train([*colour, *QUICK, "data.size=16", f"run={place}/colour"]) == 0
    teacher = f"{{backbone: {SMALL[11:-1]}, frozen: true, weights: {place}/labels}}"
    taught = ["method=kd", "preset=full", f"peers={{teacher: {teacher}, student: {SMALL}}}"]
    assert train([*taught, "data=digits", "data.limit=256", *QUICK, f"run={place}/taught"]) == 0
    torch.set_num_threads(threads)
    return place


@pytest.fixture(scope="module")
def pair(runs) -> ssl_kd.Finished:
    return ssl_kd.load(runs / "pair")


def test_the_runs_own_images_get_the_features_of_the_probes_to_the_bit(pair):
    assert pair.peers == ("small", "large") and pair.classes == tuple(map(str, range(10)))
    for name in pair.peers:
        features = pair.evaluator.features(pair.encoders[name].embed)
        assert np.array_equal(pair.embed(pair.data.train.images, name), features.train.numpy())
        assert np.array_equal(pair.embed(pair.data.test, name), features.test.numpy())  # image by image
    assert pair.embed(digits().test.images[:5], "large").shape == (5, 64)


def test_files_get_the_features_of_the_probes_to_the_bit(runs):
    run = ssl_kd.load(runs / "colour")
    files = sorted((runs / "photos").iterdir())
    source = folder(runs / "photos", size=16).train
    wanted = run.embed(np.stack([source[i] for i in range(len(source))]))
    assert np.array_equal(run.embed(files), wanted)
    assert np.array_equal(run.embed([Image.open(path) for path in files]), wanted)
    # One image alone: on some processors the kernels of another number of rows add up in another order.
    np.testing.assert_allclose(run.embed(str(files[3])), wanted[3:4], rtol=0, atol=1e-5 * wanted.max())


def test_every_form_of_the_same_images_gives_the_same_embeddings(pair):
    grey = digits().test.images[:7]  # (N, 1, 8, 8)
    wanted = pair.embed(grey, "small")
    rgb = grey.repeat(3, 1)
    forms = {
        "grey": grey[:, 0], "channels last": grey.transpose(0, 2, 3, 1), "tensor": torch.from_numpy(grey),
        "rgb": rgb, "rgb, channels last": rgb.transpose(0, 2, 3, 1),
        "with transparency": np.concatenate([rgb, rgb[:, :1]], 1).transpose(0, 2, 3, 1),
        "list": list(grey), "list of grey": [image[0] for image in grey],
    }  # fmt: skip
    for form, images in forms.items():
        assert np.array_equal(pair.embed(images, "small"), wanted), form
    floats = pair.embed(grey / 255, "small"), pair.embed(torch.from_numpy(grey) / 255, "small")
    for said in floats:
        assert np.allclose(said, wanted, atol=1e-5)
    assert np.allclose(pair.embed(grey, "small", batch_size=2), wanted, atol=1e-5)
    assert pair.embed(np.zeros((2, 50, 40, 3), np.uint8), "small").shape == wanted[:2].shape


def test_an_array_is_cropped_around_its_centre(pair):
    wide = np.random.default_rng(0).integers(0, 256, (3, 20, 30), dtype=np.uint8)[:, None]
    assert np.array_equal(pair.embed(wide, "small"), pair.embed(wide[..., 5:25], "small"))


def test_nothing_but_the_run_folder_is_needed_and_the_network_is_left_as_it_was(runs, tmp_path):
    shutil.copytree(runs / "colour", tmp_path / "moved")
    config = tmp_path / "moved" / "config.yaml"
    config.write_text(config.read_text().replace(str(runs / "photos"), "/gone"))
    run = ssl_kd.load(tmp_path / "moved")
    before = {key: value.clone() for key, value in run.cohort.state_dict().items()}
    file = next((runs / "photos").iterdir())
    assert np.array_equal(run.embed(file), ssl_kd.load(runs / "colour").embed(file))
    assert run.cohort.training and all(torch.equal(before[k], v) for k, v in run.cohort.state_dict().items())
    with pytest.raises(InputError, match="/gone"):
        _ = run.data


def test_a_peer_with_a_classifier_predicts(runs):
    run, test = ssl_kd.load(runs / "labels"), digits().test
    assert run.classifiers == {"a": "logits"}
    accuracy = (run.predict(test.images) == test.labels).mean()
    assert accuracy == pytest.approx(run.evaluator.cohort(run.cohort, ["top1"])["peers"]["a"]["top1"])


def test_a_student_of_logits_alone_predicts_and_so_does_its_teacher(runs):
    run, test = ssl_kd.load(runs / "taught"), digits().test
    assert run.classifiers == {"student": "logits", "teacher": "logits"}
    predicted = run.predict(test.images, "student")
    assert json.loads((runs / "taught" / "summary.json").read_text())["peers"]["student"][
        "top1"
    ] == pytest.approx((predicted == test.labels).mean())
    alone = ssl_kd.load(runs / "labels").predict(test.images)
    assert np.array_equal(run.predict(test.images, "teacher"), alone)


@pytest.mark.parametrize(
    ("images", "said"),
    [
        (np.zeros((2, 8, 8), np.int64), "uint8, or floats in"),
        (np.full((2, 1, 8, 8), 16.0), "lie in .0, 1., and these between 16 and 16"),
        (np.full((2, 1, 8, 8), np.nan), "between nan"),
        (np.zeros((8, 8, 3), np.uint8), "one image alone is images.None."),
        (torch.zeros(3, 8, 8), "one image alone is images.None."),
        (np.zeros((2, 5, 8, 8), np.uint8), "with 1, 3 or 4 channels"),
        (np.zeros((0, 1, 8, 8), np.uint8), "there are no images"),
        ([], "there are no images"),
        (3, "not int"),
        ([np.zeros((2, 1, 8, 8), np.uint8)], "image 0 of the list is"),
        (["nowhere.png"], "nowhere.png cannot be decoded .No such file"),
        ([b"x"], "image 0 of the list is bytes"),
    ],
)
def test_what_is_no_image_is_refused_in_one_sentence(pair, images, said):
    with pytest.raises(InputError, match=said) as refused:
        pair.embed(images, "small")
    assert "\n" not in str(refused.value)


def test_another_peer_or_no_classifier_is_refused(pair):
    with pytest.raises(InputError, match="peer is needed, as peer=small; .* has: small, large"):
        pair.embed(np.zeros((1, 8, 8), np.uint8))
    with pytest.raises(InputError, match='did you mean "small"'):
        pair.embed(np.zeros((1, 8, 8), np.uint8), "smal")
    with pytest.raises(InputError, match='"small" of .* learned without labels'):
        pair.predict(np.zeros((1, 8, 8), np.uint8), "small")


def test_a_device_that_is_not_there_is_refused(runs):
    assert ssl_kd.load(runs / "pair", device="auto").device.type in ("cpu", "cuda", "mps")
    for device in ("gpu", "gpu:0"):
        with pytest.raises(InputError, match="gpu"):
            ssl_kd.load(runs / "pair", device=device)


# scikit-learn


def test_an_embedder_is_a_step_of_a_pipeline(runs):
    data = digits()
    steps = make_pipeline(Embedder(runs / "pair", peer="large"), LogisticRegression(max_iter=1000))
    steps.fit(data.train.images[:400], data.train.labels[:400])
    assert steps.score(data.test.images, data.test.labels) > 0.5
    again = pickle.loads(pickle.dumps(steps))
    assert len(pickle.dumps(steps)) < 20_000  # the network is not in it
    assert np.array_equal(again.predict(data.test.images), steps.predict(data.test.images))


def test_an_embedder_does_what_scikit_learn_expects(runs):
    embedder, images = Embedder(runs / "pair", peer="small"), digits().test.images[:4]
    assert clone(embedder).get_params() == embedder.get_params()
    rows = embedder.transform(images)  # without fit
    assert np.array_equal(embedder.fit_transform(images), rows) and rows.dtype == np.float32
    assert list(embedder.get_feature_names_out()[[0, -1]]) == ["embedder0", "embedder31"]
    assert embedder.peer_ == "small" and list(embedder.classes_) == list("0123456789")
    assert not hasattr(embedder, "predict") and not hasattr(Embedder(), "predict")
    embedder.set_params(run=runs / "labels", peer=None)
    assert embedder.predict(images).shape == (4,)
    with pytest.raises(InputError, match="needs the folder of a finished run"):
        Embedder().fit(images)


@pytest.mark.parametrize(
    "check",
    [
        "check_no_attributes_set_in_init", "check_get_params_invariance", "check_set_params",
        "check_parameters_default_constructible", "check_estimator_cloneable", "check_estimator_repr",
        "check_mixin_order", "check_estimator_tags_renamed", "check_valid_tag_types",
    ],
)  # fmt: skip
def test_scikit_learns_own_checks_pass(check):
    function = getattr(estimator_checks, check, None)
    if function is None:
        pytest.skip("this version of scikit-learn has no such check")
    function("Embedder", Embedder())
