"""Which images an epoch has: their expectation, the seed, a resumed run; long tails; few labels."""

import numpy as np
import pytest
import torch

from ssl_kd import InputError
from ssl_kd.build import build_batches, read_data
from ssl_kd.config import compose
from ssl_kd.data import Arrays, Batches, digits
from ssl_kd.data.relabel import taught
from ssl_kd.data.sampling import class_balanced, long_tailed
from tests.test_train import refused


def source(*counts: int) -> Arrays:
    """As many 1-pixel images of each class."""
    labels = np.repeat(np.arange(len(counts)), counts)
    names = tuple(map(str, range(len(counts))))
    return Arrays(np.zeros((len(labels), 1, 1, 1), np.uint8), labels.astype(np.int64), names)


# The sampler


def test_in_the_mean_every_class_comes_as_often_as_it_would_in_equal_shares():
    labels = torch.tensor(source(1000, 100, 10).labels)
    epochs = [class_balanced(labels, 0, epoch) for epoch in range(200)]
    found = torch.stack([labels[epoch].bincount() for epoch in epochs]).double()
    # r is 0.37, 3.7 and 37: the number of draws varies by sqrt(n f (1 - f)), f the fraction of r.
    deviation = torch.tensor([(n * f * (1 - f)) ** 0.5 for n, f in ((1000, 0.37), (100, 0.7), (10, 0.0))])
    assert (found.mean(0) - 370).abs().le(4 * deviation / len(epochs) ** 0.5 + 1e-9).all()
    assert found.std(0) == pytest.approx(deviation, rel=0.2)
    times = torch.cat(epochs).bincount(minlength=len(labels)).view(-1)
    for part, r in zip(times.split([1000, 100, 10]), (0.37, 3.7, 37.0), strict=True):
        assert part.double().mean() / len(epochs) == pytest.approx(r, rel=0.02)
    assert set((times[-10:]).tolist()) == {37 * len(epochs)}


def test_balanced_epochs_are_functions_of_the_seed_and_the_epoch():
    labels = torch.tensor(source(50, 5).labels)
    assert torch.equal(class_balanced(labels, 1, 2), class_balanced(labels, 1, 2))
    assert not torch.equal(class_balanced(labels, 1, 2), class_balanced(labels, 1, 3))
    assert not torch.equal(class_balanced(labels, 1, 2), class_balanced(labels, 2, 2))


def test_an_image_without_a_label_and_a_class_without_images_have_no_share():
    labels = torch.tensor([0] * 30 + [-1] * 40 + [2] * 10)
    drawn = labels[torch.cat([class_balanced(labels, 0, epoch) for epoch in range(300)])]
    assert set(drawn.tolist()) == {0, 2}
    assert drawn.bincount()[[0, 2]].double() / 300 == pytest.approx(torch.tensor([20.0, 20.0]), rel=0.03)


def test_batches_of_balanced_epochs_do_not_depend_on_where_they_begin_or_on_the_processes():
    data = source(300, 30, 3)

    def positions(start, rank=0, world=1):
        batches = Batches(data, 32, seed=5, sampler=class_balanced, rank=rank, world=world)(start)
        return [next(batches)["index"] for _ in range(25)]

    whole = positions(0)  # more than two epochs of 10 steps
    assert all(torch.equal(a, b) for a, b in zip(whole[7:], positions(7), strict=False))
    halves = zip(positions(0, 0, 2), positions(0, 1, 2), strict=True)
    assert all(torch.equal(torch.cat(pair), all_) for pair, all_ in zip(halves, whole, strict=True))
    labels = torch.tensor(data.labels)[torch.cat(whole)]
    assert labels.bincount().double() / len(labels) == pytest.approx(torch.full((3,), 1 / 3), rel=0.2)


def test_an_epoch_that_gives_too_few_goes_on_with_more_of_its_kind():
    batches = Batches(source(20), 10, sampler=lambda labels, seed, *when: torch.tensor([when[-1], 7, 8]))
    first, second = (batch["index"].tolist() for batch, _ in zip(batches(0), range(2), strict=False))
    assert first + second == [0, 7, 8, 1, 7, 8, 2, 7, 8, 3, 7, 8, 4, 7, 8, 5, 7, 8, 6, 7]


def test_a_sampler_that_draws_nothing_is_refused():
    batches = Batches(source(20), 10, sampler=lambda labels, seed, *when: labels[:0])
    with pytest.raises(InputError, match="draws no image for epoch 0"):
        next(batches(0))


# The long tail


@pytest.mark.parametrize(
    ("imbalance", "counts"),
    [
        (1, [5000] * 10),
        (100, [5000, 2997, 1796, 1077, 645, 387, 232, 139, 83, 50]),
        (10, [5000, 3871, 2997, 2320, 1796, 1391, 1077, 834, 645, 500]),
    ],
)
def test_a_long_tail_has_the_numbers_of_the_literature(imbalance, counts):
    found = long_tailed(source(*[5000] * 10), imbalance)
    assert np.bincount(found.labels).tolist() == counts


def test_a_smaller_class_keeps_what_it_has_and_unlabelled_images_stay():
    given = source(100, 4, 90)
    given.labels[-5:] = -1
    found = long_tailed(given, 4)
    assert np.bincount(found.labels + 1).tolist() == [5, 100, 4, 25]
    assert (np.diff(found.at) > 0).all()


def test_a_run_has_a_long_tail_and_is_tested_on_all_classes_alike():
    config = compose(["long_tail=20", "hold_out=0.2", "batch_size=32"])
    data = read_data(config)
    counts = np.bincount(data.train.labels)
    assert counts[0] > 100 and counts[9] in (5, 6) and np.bincount(data.test.labels).min() > 15
    assert config.steps == config.epochs * (counts.sum() // 32)


# Few labels


def test_a_fraction_of_the_labels_stays_and_can_be_all_there_is():
    whole = digits().train
    few = taught(whole, amount=0.1)
    kept = few.labels >= 0
    assert kept.sum() == round(0.1 * len(whole)) and len(few) == len(whole)
    assert (few.labels[kept] == whole.labels[kept]).all()
    assert np.bincount(few.labels[kept]).min() > 10
    alone = taught(whole, amount=0.1, only=True)
    assert (alone.images == whole.images[kept]).all() and (alone.labels == few.labels[kept]).all()
    assert (taught(whole, amount=0.1, draw=1).labels != few.labels).any()
    assert np.bincount(taught(whole, amount=3, only=True).labels).tolist() == [3] * 10


def test_training_sees_the_labelled_images_alone_and_the_probes_see_all():
    words = ["method=supervised", "labels.amount=10", "labels.only=true", "batch_size=20", "epochs=3"]
    config = compose(words)
    data = read_data(config)
    assert len(data.train) == 1437 and config.steps == 3 * 5
    feed, steps = build_batches(config, data, torch.device("cpu"))
    assert steps == 5 and len(feed.loader.source) == 100


def test_each_seed_may_have_labels_of_its_own():
    kept = []
    for seed in (0, 1):
        words = [
            "method=supervised",
            "labels.amount=5",
            "labels.draw=${seed}",
            f"seed={seed}",
            "labels.only=true",
        ]
        config = compose([*words, "batch_size=20"])
        feed, _ = build_batches(config, read_data(config), torch.device("cpu"))
        kept.append(feed.loader.source.images)
    alone = taught(digits().train, amount=5, draw=1, only=True)
    assert (kept[1] == alone.images).all() and (kept[0] != kept[1]).any()


# What cannot be


@pytest.mark.parametrize(
    ("words", "says"),
    [
        (["sampler=balanced"], 'there is no sampler "balanced"; did you mean "class_balanced"?'),
        (["long_tail=0.5"], "long_tail must be a number, at least 1"),
        (["labels.amount=2.5"], "labels.amount: an amount of labels is a share in (0, 1] such as 0.1"),
        (["labels.amount=500"], 'labels.amount: "500 per class" takes 500 of class 0, which has 142'),
        (["labels.amount=0.1", "labels.draw=-1"], "labels.draw"),
        (["labels.amount=1", "labels.only=true"], "a batch of 128 images is larger than the data set of 10"),
        (["batch_size=${seed}"], "batch_size must be a whole number"),
        (["labels.only=1"], "labels.only must be true or false"),
    ],
)
def test_what_cannot_be_drawn_is_refused_in_a_sentence(words, says, capsys):
    assert says in refused(["method=supervised", "peers={a: resnet8}", "epochs=1", *words], capsys)


def test_images_without_labels_cannot_be_balanced(capsys, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    np.savez("plain.npz", train_images=np.zeros((64, 8, 8), np.uint8))
    words = [
        "data=arrays",
        "data.path=plain.npz",
        "data.mean=[0.5]",
        "data.std=[0.5]",
        "epochs=1",
        "batch_size=32",
    ]
    assert "draws by the labels" in refused([*words, "sampler=class_balanced"], capsys)
    assert "the data has no classes" in refused([*words, "long_tail=10"], capsys)
    assert "labels.amount changes the labels" in refused([*words, "labels.amount=0.1"], capsys)
    with pytest.raises(InputError, match="none has a label"):
        taught(Arrays(np.zeros((3, 1, 1, 1), np.uint8), np.full(3, -1), ("a",)), only=True)
