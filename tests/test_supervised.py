"""The probes that train on augmented images: what may not change, what may choose, and what they reach."""

import copy

import numpy as np
import pytest
import torch
from torch import Tensor, nn

from ssl_kd.backbones.cut import through_head
from ssl_kd.data import Arrays, Plain, Supervised, digits
from ssl_kd.data.draws import draw
from ssl_kd.errors import InputError
from ssl_kd.heads import mlp
from ssl_kd.probes import Features, linear
from ssl_kd.probes.supervised import finetune, sgd_linear
from ssl_kd.streams import generator

PLAIN = Plain(8)


@pytest.fixture(autouse=True)
def one_thread():
    """Networks this small gain nothing from a second."""
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(threads)


def network() -> nn.Sequential:
    """With batch norm, dropout, and a part that somebody froze."""
    with torch.random.fork_rng():
        torch.manual_seed(0)
        model = nn.Sequential(
            nn.Conv2d(1, 12, 3, stride=2, padding=1, bias=False),
            nn.BatchNorm2d(12),
            nn.ReLU(inplace=True),
            nn.Sequential(nn.Conv2d(12, 12, 3, padding=1), nn.BatchNorm2d(12)).eval().requires_grad_(False),
            nn.ReLU(inplace=True),
            nn.Flatten(),
            nn.Dropout(0.1),
        )
    return model


def part(of: Arrays, count: int) -> Arrays:
    return Arrays(of.images[:count], of.labels[:count], of.classes)


def splits(train=300, test=200) -> dict:
    data = digits()
    return {
        "train": part(data.train, train),
        "test": part(data.test, test),
        "classes": 10,
        "recipe": Supervised(8, pad=1, flip=0.0),
        "plain": PLAIN,
        "batch_size": 64,
    }


def state(model: nn.Module) -> dict[str, Tensor]:
    return {name: value.clone() for name, value in model.state_dict().items()}


def assert_untouched(model: nn.Module, before: dict[str, Tensor], modes: list[bool]) -> None:
    assert all(torch.equal(before[name], value) for name, value in model.state_dict().items())
    assert [one.training for one in model.modules()] == modes
    assert all(parameter.grad is None for parameter in model.parameters())


# --- linear evaluation ---


def test_linear_evaluation_changes_no_parameter_and_no_buffer_of_the_network():
    model = network()
    before, modes, stream = state(model), [one.training for one in model.modules()], torch.get_rng_state()
    sgd_linear(model, **splits(), epochs=2)
    assert_untouched(model, before, modes)
    assert torch.equal(stream, torch.get_rng_state())


def test_linear_evaluation_sees_the_network_in_eval_mode_and_without_a_graph():
    model, seen = network(), []
    model.register_forward_hook(lambda one, _, out: seen.append((one.training, out.requires_grad)))
    sgd_linear(model, **splits(100, 50), epochs=1)
    assert set(seen) == {(False, False)}


def test_without_augmentation_linear_evaluation_comes_to_the_accuracy_of_logistic_regression():
    given = splits(1437, 360)
    given["recipe"] = Supervised(8, pad=0, flip=0.0)
    flat = nn.Flatten()
    rows = [
        (PLAIN(torch.from_numpy(given[split].images)).flatten(1), torch.from_numpy(given[split].labels))
        for split in ("train", "test")
    ]
    expected = linear(Features(*rows[0], *rows[1], classes=10)).accuracy
    found = sgd_linear(flat, **given, epochs=30)
    assert found.accuracy == pytest.approx(expected, abs=0.02) and expected > 0.9


@pytest.mark.parametrize("factor", [1e-3, 1e3])
def test_the_scale_of_a_network_does_not_matter(factor):
    class Scaled(nn.Module):
        def forward(self, images: Tensor) -> Tensor:
            return images.flatten(1) * factor

    given = splits()
    plain, scaled = (sgd_linear(one, **given, epochs=3) for one in (nn.Flatten(), Scaled()))
    assert scaled.rate == plain.rate and scaled.accuracy == pytest.approx(plain.accuracy, abs=0.011)


def test_the_rate_is_chosen_on_the_held_out_tenth_and_not_on_test():
    given = splits()
    peaks = (1e-6, 0.1, 1e4)  # nothing learned, right, and far too much
    found = sgd_linear(network(), **given, epochs=4, peak=peaks)
    assert found.rate == 0.1 and found.held_out > 0.5
    order = np.random.default_rng(0).permutation(200)
    given["test"] = Arrays(given["test"].images, given["test"].labels[order])
    shuffled = sgd_linear(network(), **given, epochs=4, peak=peaks)
    assert (shuffled.rate, shuffled.held_out, shuffled.history) == (found.rate, found.held_out, found.history)
    assert shuffled.accuracy < 0.3 < found.accuracy


def test_a_rate_alone_gives_what_it_gives_among_others():
    given = splits()
    among = sgd_linear(network(), **given, epochs=3)
    assert sgd_linear(network(), **given, epochs=3, peak=among.rate) == among


def test_the_labels_of_the_held_out_tenth_teach_the_classifier_that_is_tested_but_not_the_choosing():
    given = splits(100)
    held = torch.randperm(100, generator=generator("held-out", 0))[-10:].numpy()
    labels = given["train"].labels.copy()
    labels[held] = (labels[held] + 1) % 10
    wrong = {**given, "train": Arrays(given["train"].images, labels)}
    right, spoiled = (sgd_linear(nn.Flatten(), **one, epochs=20, peak=0.1) for one in (given, wrong))
    assert right.held_out - spoiled.held_out > 0.5  # what learned from the nine tenths is as good as before
    assert spoiled.history[-1] > right.history[-1]


def test_the_last_epoch_is_tested_and_each_epoch_has_a_loss():
    found = sgd_linear(network(), **splits(), epochs=5)
    assert len(found.history) == 5 and found.history[-1] < found.history[0] < 2.31


# --- fine-tuning ---


def test_finetuning_leaves_the_callers_network_and_random_stream_as_they_were():
    model = network()
    before, modes, stream = state(model), [one.training for one in model.modules()], torch.get_rng_state()
    frozen = [one.requires_grad for one in model.parameters()]
    finetune(model, **splits(), epochs=2, peak=0.1)
    assert_untouched(model, before, modes)
    assert [one.requires_grad for one in model.parameters()] == frozen and False in frozen
    assert torch.equal(stream, torch.get_rng_state())


def test_finetuning_trains_every_parameter_in_train_mode_from_a_classifier_of_zeros(monkeypatch):
    models = []
    deepcopy = copy.deepcopy

    def noted(model: nn.Module, memo: dict | None = None) -> nn.Module:
        made = deepcopy(model, memo)
        if memo is None and isinstance(model, nn.Sequential):  # torch's own copies come here, too
            models.append(made)
            made.register_forward_hook(lambda one, _, out: seen.append(one.training))
        return made

    seen: list[bool] = []
    monkeypatch.setattr("ssl_kd.probes.supervised.copy.deepcopy", noted)
    model = network()
    found = finetune(model, **splits(128, 50), epochs=3, peak=0.1)
    assert found.history[0] < 2.4  # ln 10 = 2.303 at the first step
    assert seen == [False] + [True] * 6 + [False]  # the width, 2 steps in 3 epochs, test
    for name, value in models[0].state_dict().items():
        assert not torch.equal(value, model.state_dict()[name]), name


def test_finetuning_on_more_labels_is_worth_more_and_beats_the_frozen_network():
    given = splits(600, 360)
    frozen = sgd_linear(network(), **given, epochs=8)
    few = finetune(network(), **given, labels=2, epochs=20, peak=0.1)
    every = finetune(network(), **given, epochs=8, peak=0.1)
    assert few.accuracy + 0.1 < every.accuracy and frozen.accuracy < every.accuracy
    assert every.held_out is None and every.rate == 0.1 and len(every.history) == 8


@pytest.mark.parametrize(("labels", "rows"), [(None, 300), (3, 30), (0.1, 30)])
def test_finetuning_takes_the_rows_of_the_first_draw(labels, rows):
    given, seen = splits(300, 50), set()
    recipe = given["recipe"]
    given["recipe"] = lambda raw, step: seen.update(map(bytes, raw["image"].numpy())) or recipe(raw, step)
    finetune(network(), **given, labels=labels, epochs=2, seed=4)
    labels_of = torch.from_numpy(given["train"].labels)
    at = torch.arange(300) if labels is None else draw(labels_of, 10, labels, 4)
    assert len(at) == rows
    expected = {bytes(image) for image in given["train"].images[at.numpy()]}
    assert seen <= expected and len(seen) >= min(rows, 256)


# --- both ---


@pytest.mark.parametrize("probe", [sgd_linear, finetune])
def test_the_result_is_a_function_of_seed_and_inputs(probe):
    first = probe(network(), **splits(), epochs=2, seed=1)
    torch.rand(3)
    assert probe(network(), **splits(), epochs=2, seed=1) == first
    assert probe(network(), **splits(), epochs=2, seed=2).history != first.history


@pytest.mark.parametrize("probe", [sgd_linear, finetune])
def test_images_without_a_label_are_left_out(probe):
    given = splits()
    mixed = dict(given)
    for split in ("train", "test"):
        images, labels = given[split].images, given[split].labels
        noise = np.random.default_rng(0).integers(0, 256, (40, *images.shape[1:]), dtype=np.uint8)
        mixed[split] = Arrays(np.concatenate([noise, images]), np.concatenate([np.full(40, -1), labels]))
    assert probe(network(), **mixed, epochs=2) == probe(network(), **given, epochs=2)


@pytest.mark.parametrize("probe", [sgd_linear, finetune])
def test_images_that_are_not_in_memory_give_the_same(probe):
    class Slow:
        """A source that is no array."""

        def __init__(self, of: Arrays) -> None:
            self.of, self.shape, self.classes = of, of.shape, of.classes
            self.labels = np.where(np.arange(len(of)) % 10 == 0, -1, of.labels)

        def __len__(self) -> int:
            return len(self.of)

        def __getitem__(self, i: int) -> np.ndarray:
            return self.of[i]

    given = splits(200, 50)
    slow = {**given, "train": Slow(given["train"]), "test": Slow(given["test"])}
    fast = {**given, **{s: Arrays(slow[s].of.images, slow[s].labels) for s in ("train", "test")}}
    assert probe(network(), **slow, epochs=2) == probe(network(), **fast, epochs=2)


def test_every_view_of_a_recipe_is_an_image_of_its_label():
    given = splits()
    recipe = given["recipe"]

    def twice(raw: dict, step: int) -> dict:
        made = recipe(raw, step)
        return {**made, "views": made["views"].expand(2, -1, -1, -1, -1)}

    once = sgd_linear(network(), **given, epochs=2)
    assert sgd_linear(network(), **{**given, "recipe": twice}, epochs=2).history == pytest.approx(
        once.history
    )


@pytest.mark.parametrize("probe", [sgd_linear, finetune])
@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"epochs": 0}, "epochs and a batch_size from 1 on and a peak above 0, not epochs=0"),
        ({"batch_size": 0}, "batch_size=0"),
        ({"peak": 0.0}, "peak=0.0"),
        ({"classes": 5}, "was told of 5 classes, and the train split has the label 9"),
        ({"train": None}, "the train split has no images"),
        ({"test": None}, "the test split has no images"),
        ({"test": Arrays(np.zeros((3, 1, 8, 8), np.uint8))}, "the test split has no labels"),
        (
            {"train": Arrays(np.zeros((3, 1, 8, 8), np.uint8), np.ones(3, np.int64))},
            "needs two classes or more",
        ),
        (
            {"recipe": lambda raw, step: {**raw, "views_a": 0}},
            'trains on "views", and its recipe makes: image',
        ),
    ],
)
def test_what_cannot_be_trained_on_is_refused(probe, change, message):
    with pytest.raises(InputError, match=message):
        probe(network(), **{**splits(100, 50), "epochs": 1, **change})


def test_a_network_that_gives_maps_and_more_labels_than_there_are_are_refused():
    with pytest.raises(InputError, match=r"one row per image, \(b, D\)"):
        finetune(nn.Conv2d(1, 3, 3), **splits(100, 50), epochs=1)
    with pytest.raises(InputError, match='"60 per class" takes 60 of class 0, which has'):
        finetune(network(), **splits(100, 50), labels=60, epochs=1)


def test_a_training_that_diverges_is_refused_and_not_scored():
    with pytest.raises(InputError, match=r"diverged in epoch \d at a peak of 1e\+30; take a lower one"):
        finetune(network(), **splits(100, 50), epochs=3, peak=1e30)


def test_features_that_are_not_finite_are_refused():
    broken = nn.Sequential(nn.Flatten(), nn.Linear(64, 3))
    nn.init.constant_(broken[1].bias, torch.nan)
    with pytest.raises(InputError, match="finite features, and 3 of the 3 columns are not"):
        sgd_linear(broken, **splits(100, 50), epochs=1)


def test_a_constant_column_and_a_pixel_that_only_a_shift_lights_do_no_harm():
    given = splits(600, 300)
    images = {split: given[split].images.copy() for split in ("train", "test")}
    for split, pixels in images.items():
        pixels[:, :, 0], pixels[:, :, -1] = 0, 0  # the border, which a shift by a pixel fills
        given[split] = Arrays(pixels, given[split].labels)
    found = sgd_linear(nn.Flatten(), **given, epochs=10)
    assert found.accuracy > 0.6 and found.history[-1] < found.history[0]
    given["recipe"] = Supervised(8, pad=0, flip=0.0)  # without shifts the border is constant
    assert sgd_linear(nn.Flatten(), **given, epochs=10).accuracy > 0.8


# --- layers of the head ---


def test_layers_of_a_head_are_linear_layers_with_what_follows_them():
    backbone, head = nn.Flatten(), mlp(64, out=16, hidden=32, layers=3)
    one = through_head(backbone, head, 1)
    assert [type(part) for part in one.head] == [nn.Linear, nn.BatchNorm1d, nn.ReLU]
    assert one.backbone is backbone and one.head[0] is head[0] and one.width == 32
    images = torch.rand(5, 1, 8, 8)
    for layers, width in ((0, 64), (1, 32), (2, 32), (3, 16)):
        assert through_head(backbone, head, layers).eval()(images).shape == (5, width)
    assert through_head(backbone, head, 0) is backbone
    torch.testing.assert_close(through_head(backbone, head, 3)(images), head(backbone(images)))


def test_a_norm_after_the_last_layer_belongs_to_it():
    head = mlp(64, layers=2, last_norm=True)
    assert isinstance(through_head(nn.Flatten(), head, 2).head[-1], nn.BatchNorm1d)


@pytest.mark.parametrize("layers", [-1, 4])
def test_more_layers_than_the_head_has_are_refused(layers):
    with pytest.raises(InputError, match=f"has 3 linear layers, so .* 0 to 3, not {layers}"):
        through_head(nn.Flatten(), mlp(64, layers=3), layers)


def test_finetuning_from_a_layer_of_the_head_trains_a_copy_of_it_too():
    torch.manual_seed(0)
    backbone, head = network(), mlp(192, out=16, hidden=64)
    before = state(head)
    found = finetune(through_head(backbone, head, 1), **splits(), epochs=12, peak=0.1)
    assert found.accuracy > 0.6
    assert all(torch.equal(before[name], value) for name, value in head.state_dict().items())
