"""The probes against slow loops and scikit-learn, and against a network that they must not change."""

import dataclasses
import math

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from sklearn.linear_model import LogisticRegression
from sklearn.neighbors import KNeighborsClassifier
from torch import Tensor, nn

from ssl_kd.errors import InputError
from ssl_kd.probes import Features, embed, knn, linear, pixels
from ssl_kd.probes.knn import votes


@pytest.fixture(autouse=True)
def one_thread():
    """Data this small gains nothing from a second, and on a busy machine waits for it."""
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(threads)


def clusters(train=600, test=400, width=24, classes=5, spread=1.5, seed=0) -> Features:
    """Gaussian classes that overlap."""
    generator = torch.Generator().manual_seed(seed)
    centres = torch.randn(classes, width, generator=generator)
    labels = torch.randint(classes, (train + test,), generator=generator)
    rows = centres[labels] + spread * torch.randn(train + test, width, generator=generator)
    return Features(rows[:train], labels[:train], rows[train:], labels[train:], classes)


def collinear(width=64) -> Features:
    """A random ReLU network over the same classes: most directions hold next to nothing."""
    plain = clusters(width=6, spread=1.0)
    weight = torch.randn(6, width, generator=torch.Generator().manual_seed(1))
    return dataclasses.replace(plain, train=(plain.train @ weight).relu(), test=(plain.test @ weight).relu())


def network() -> nn.Sequential:
    """Batch norm with statistics to spoil, dropout, and a part that somebody froze in eval mode."""
    torch.manual_seed(0)
    frozen = nn.Sequential(nn.Conv2d(8, 8, 3, bias=False), nn.BatchNorm2d(8)).eval()
    return nn.Sequential(
        nn.Conv2d(3, 8, 3),
        nn.BatchNorm2d(8),
        nn.ReLU(),
        frozen,
        nn.AdaptiveAvgPool2d(1),
        nn.Flatten(),
        nn.Dropout(0.5),
    )


def images(batches=3, size=12) -> list[tuple[Tensor, Tensor]]:
    generator = torch.Generator().manual_seed(0)
    return [
        (
            torch.randint(256, (4, 3, size, size), generator=generator, dtype=torch.uint8),
            torch.randint(-1, 5, (4,), generator=generator),
        )
        for _ in range(batches)
    ]


def unit(batch: Tensor) -> Tensor:
    return batch / 255


# --- features ---


def test_embedding_changes_no_parameter_and_no_buffer():
    model = network()
    before = {name: value.clone() for name, value in model.state_dict().items()}
    random = torch.get_rng_state()
    embed(model, images(), unit, "cpu")
    assert all(torch.equal(before[name], value) for name, value in model.state_dict().items())
    assert "1.num_batches_tracked" in before and before["1.num_batches_tracked"] == 0
    assert all(parameter.grad is None for parameter in model.parameters())
    assert torch.equal(random, torch.get_rng_state())


@pytest.mark.parametrize("fails", [False, True])
def test_every_submodule_is_back_in_its_own_mode_even_when_the_network_fails(fails):
    model = network()
    modes = [part.training for part in model.modules()]
    assert True in modes and False in modes
    if fails:
        with pytest.raises(RuntimeError):
            embed(model, [(torch.zeros(2, 7, 12, 12, dtype=torch.uint8), torch.zeros(2))], unit, "cpu")
    else:
        embed(model, images(), unit, "cpu")
    assert [part.training for part in model.modules()] == modes


def test_embedding_is_the_eval_mode_output_in_float32_also_under_autocast():
    model = network()
    with torch.autocast("cpu", dtype=torch.bfloat16):
        rows, labels = embed(model, images(), unit, "cpu")
    model.eval()
    expected = torch.cat([model(unit(batch)) for batch, _ in images()]).detach()
    assert rows.dtype == torch.float32 and not rows.requires_grad
    torch.testing.assert_close(rows, expected)
    assert torch.equal(labels, torch.cat([label for _, label in images()]))


def test_a_method_of_a_network_is_run_in_eval_mode_too():
    model = network()
    assert torch.equal(embed(model.forward, images(), unit, "cpu")[0], embed(model, images(), unit, "cpu")[0])
    assert model.training


@pytest.mark.parametrize("memory_format", [torch.contiguous_format, torch.channels_last])
def test_images_come_in_the_memory_format_of_the_weights(memory_format):
    seen = []
    model = network().to(memory_format=memory_format)
    model.register_forward_pre_hook(
        lambda _, args: seen.append(args[0].is_contiguous(memory_format=memory_format))
    )
    embed(model, images(), unit, "cpu")
    assert seen == [True] * 3


def test_a_cpu_embeds_many_images_in_parts_and_says_the_same():
    model, batch = network().eval(), torch.randint(0, 256, (300, 3, 32, 32), dtype=torch.uint8)
    seen = []
    model.register_forward_pre_hook(lambda _, args: seen.append(len(args[0])))
    rows, _ = embed(model, [(batch, torch.zeros(300))], unit, "cpu")
    assert seen == [128, 128, 44]
    with torch.no_grad():
        torch.testing.assert_close(rows, model(unit(batch)))


def test_pixels_are_flat_floats_in_the_unit_interval_at_the_size_asked_for():
    batches = images(size=32)
    rows, labels = pixels(batches)
    assert torch.equal(rows, torch.cat([batch for batch, _ in batches]).float().div(255).flatten(1))
    assert torch.equal(labels, torch.cat([label for _, label in batches]))
    white = [(torch.full((2, 1, 50, 50), 255, dtype=torch.uint8), torch.zeros(2))]
    torch.testing.assert_close(pixels(white, 8)[0], torch.ones(2, 64))


def test_a_network_that_gives_maps_and_an_empty_data_set_are_refused():
    with pytest.raises(InputError, match=r"\(b, D\), and the network gave \(4, 3, 3, 3\)"):
        embed(nn.Conv2d(3, 3, 10), images(), unit, "cpu")
    with pytest.raises(InputError, match="gave dict"):
        embed(lambda batch: {"embedding": batch}, images(), unit, "cpu")
    with pytest.raises(InputError, match="no"):
        embed(network(), [], unit, "cpu")
    with pytest.raises(InputError, match="no"):
        pixels([])


# --- nearest neighbours ---


def test_knn_equals_a_slow_loop():
    features = clusters(test=100, spread=3.0)
    train, test = (F.normalize(rows).double().numpy() for rows in (features.train, features.test))
    found = knn(features, k=(1, 7, 50))
    for k, accuracy in found.items():
        correct = 0
        for row, label in zip(test, features.test_labels.tolist(), strict=True):
            cosine = train @ row
            votes = np.zeros(features.classes)
            for neighbour in np.argsort(-cosine)[:k]:
                votes[int(features.train_labels[neighbour])] += math.exp(cosine[neighbour] / 0.07)
            correct += int(np.argmax(votes) == label)
        assert accuracy == correct / 100
    assert len(set(found.values())) == 3


@pytest.mark.parametrize("k", [1, 20])
def test_knn_equals_scikit_learn(k):
    features = clusters(spread=3.0)
    model = KNeighborsClassifier(k, weights=lambda distance: np.exp((1 - distance) / 0.07), metric="cosine")
    model.fit(features.train.numpy(), features.train_labels.numpy())
    expected = model.score(features.test.numpy(), features.test_labels.numpy())
    assert knn(features, k=(k,))[k] == pytest.approx(expected, abs=1e-9)


@pytest.mark.parametrize("bank", [2, 19, 20, 21, 65, 257, 1024])
def test_of_equal_rows_in_the_bank_the_first_is_the_nearest_at_every_k(bank):
    """A slow loop over the bank in order: with labels as they come, only the first k of equal rows vote."""
    torch.manual_seed(bank)
    different = torch.randn(max(1, bank // 7), 24)
    copies = torch.randint(len(different), (bank,))
    labels = torch.randint(5, (bank,))
    test = torch.cat([different[:20], torch.randn(20, 24)])
    features = Features(different[copies], labels, test, torch.zeros(len(test), dtype=torch.int64), 5)
    ks = [k for k in (1, 2, 3, 20, bank // 2, bank) if 1 <= k <= bank]
    _, ballots = next(votes(features, ks, 0.07))
    unique, rows = (F.normalize(x).double() for x in (different, test))
    for query, row in enumerate(rows):
        cosine = [float(unique[copy] @ row) for copy in copies]
        order = sorted(range(bank), key=lambda place: (-cosine[place], place))
        for k in ks:
            by_hand = torch.zeros(5, dtype=torch.float64)
            for place in order[:k]:
                by_hand[labels[place]] += math.exp((cosine[place] - cosine[order[0]]) / 0.07)
            torch.testing.assert_close(ballots[k][query], by_hand, rtol=1e-4, atol=1e-5)


def test_a_k_beyond_the_bank_is_the_whole_bank():
    features = clusters(train=50)
    found = knn(features, k=(50, 200))
    assert found[50] == found[200]


def test_equal_votes_go_to_the_lowest_class():
    features = Features(torch.eye(2), torch.tensor([1, 0]), torch.ones(1, 2), torch.tensor([0]), 2)
    assert knn(features, k=(2,)) == {2: 1.0}


def test_a_small_temperature_does_not_overflow():
    features = clusters(test=100)
    assert knn(features, k=(20,), temperature=1e-6)[20] == knn(features, k=(1,))[1]


# --- logistic regression ---


def objective(rows: Tensor, labels: Tensor, weight: Tensor, bias: Tensor, penalty: float) -> float:
    loss = F.cross_entropy(rows @ weight.double().T + bias.double(), labels)
    return float(loss + penalty / 2 * weight.double().square().sum())


@pytest.mark.parametrize(
    "features",
    [clusters(), clusters(train=60, width=200), collinear()],
    ids=["overlapping", "more columns than rows", "nearly collinear"],
)
@pytest.mark.parametrize("penalty", [1e-1, 1e-3, 1e-4])
def test_linear_reaches_the_minimum_and_the_accuracy_of_scikit_learn(features, penalty):
    fitted = linear(features, penalties=(penalty,))
    train, test = features.train.double(), features.test.double()
    std, mean = torch.std_mean(train, 0, correction=0)
    train, test = (train - mean) / std, (test - mean) / std
    peer = LogisticRegression(C=1 / (len(train) * penalty), tol=1e-7, max_iter=20000)
    peer.fit(train.numpy(), features.train_labels.numpy())
    weight, bias = torch.from_numpy(peer.coef_), torch.from_numpy(peer.intercept_)
    ours = objective(train, features.train_labels, fitted.weight, fitted.bias, penalty)
    theirs = objective(train, features.train_labels, weight, bias, penalty)
    assert ours == pytest.approx(theirs, abs=1e-6)
    expected = peer.score(test.numpy(), features.test_labels.numpy())
    assert fitted.accuracy == pytest.approx(expected, abs=1 / len(test))  # one row may lie on the border


def test_the_weights_and_the_bias_reproduce_the_accuracy():
    features = clusters()
    fitted = linear(features, seed=3)
    std, mean = torch.std_mean(features.train, 0, correction=0)
    logits = (features.test - mean) / std @ fitted.weight.T + fitted.bias
    assert fitted.weight.shape == (5, 24) and fitted.bias.shape == (5,)
    assert (logits.argmax(1) == features.test_labels).double().mean() == pytest.approx(
        fitted.accuracy, abs=0.003
    )


def test_the_penalty_is_chosen_without_the_test_split():
    features = clusters()
    fitted = linear(features)
    order = torch.randperm(400, generator=torch.Generator().manual_seed(1))
    other = linear(dataclasses.replace(features, test_labels=features.test_labels[order]))
    assert other.penalty == fitted.penalty and other.held_out == fitted.held_out
    assert torch.equal(other.weight, fitted.weight) and torch.equal(other.bias, fitted.bias)
    assert other.accuracy < fitted.accuracy


def test_of_equally_good_penalties_the_strongest_wins_in_whatever_order_they_come():
    features = clusters(spread=0.05)  # any penalty separates these
    assert linear(features, penalties=(1e-4, 1e-2, 1e-3)).penalty == 1e-2


def test_a_strong_penalty_is_chosen_where_a_weak_one_overfits():
    features = clusters(train=300, width=150, spread=3.0)
    fitted = linear(features)
    assert fitted.penalty >= 1e-2
    assert fitted.accuracy > linear(features, penalties=(1e-6,)).accuracy


def test_constant_columns_and_a_class_without_train_rows_do_no_harm():
    features = clusters()
    constant = torch.full((600, 1), 0.1), torch.full((400, 1), 0.1)
    wider = dataclasses.replace(
        features,
        train=torch.cat([features.train, constant[0]], 1),
        test=torch.cat([features.test, constant[1]], 1),
        classes=6,
    )
    fitted = linear(wider)
    assert fitted.weight.isfinite().all() and fitted.bias.isfinite().all()
    assert fitted.weight[:, -1].abs().max() == 0
    assert fitted.accuracy == pytest.approx(linear(features).accuracy, abs=0.005)


def test_a_collapsed_representation_scores_like_a_guess():
    features = clusters()
    collapsed = dataclasses.replace(features, train=torch.ones(600, 24), test=torch.ones(400, 24))
    guess = float((features.test_labels == features.train_labels.mode().values).double().mean())
    assert linear(collapsed).accuracy == guess
    assert knn(collapsed, k=(600,))[600] == guess


# --- both ---


@pytest.mark.parametrize("threads", [1, 2])
def test_two_calls_give_the_same_bits(threads):
    torch.set_num_threads(threads)
    features = clusters()
    assert knn(features) == knn(features)
    first, second = linear(features), linear(features)
    assert torch.equal(first.weight, second.weight) and torch.equal(first.bias, second.bias)
    assert (first.accuracy, first.penalty, first.held_out) == (
        second.accuracy,
        second.penalty,
        second.held_out,
    )


def test_unlabelled_rows_are_ignored():
    features = clusters()
    mixed = Features(
        torch.cat([torch.full((9, 24), torch.nan), features.train]),
        torch.cat([torch.full((9,), -1), features.train_labels]),
        torch.cat([features.test, torch.zeros(9, 24)]),
        torch.cat([features.test_labels, torch.full((9,), -1)]),
        features.classes,
    )
    assert knn(mixed) == knn(features) and linear(mixed).accuracy == linear(features).accuracy


@pytest.mark.parametrize("probe", [knn, linear])
@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"train_labels": torch.full((600,), -1)}, "the train split has no labels"),
        ({"test_labels": torch.full((400,), -1)}, "the test split has no labels"),
        ({"test": torch.zeros(0, 24), "test_labels": torch.zeros(0).long()}, "the test split has no images"),
        ({"train_labels": torch.ones(600).long()}, "needs two classes or more"),
        ({"classes": 3}, "3 classes, and the train split has the label 4"),
    ],
)
def test_features_that_cannot_be_scored_are_refused(probe, change, message):
    with pytest.raises(InputError, match=message):
        probe(dataclasses.replace(clusters(), **change))


@pytest.mark.parametrize("probe", [knn, linear])
def test_rows_that_are_not_finite_are_counted(probe):
    features = clusters()
    features.train[3, 5], features.train[7] = torch.nan, torch.inf
    with pytest.raises(InputError, match="2 of the 600 train rows are not finite"):
        probe(features)


def test_settings_that_mean_nothing_are_refused():
    features = clusters()
    for settings in ({"k": ()}, {"k": (0, 1)}, {"temperature": 0.0}):
        with pytest.raises(InputError, match="k >= 1 and a temperature > 0"):
            knn(features, **settings)
    for penalties in ((), (0.0, 1.0)):
        with pytest.raises(InputError, match="penalties > 0"):
            linear(features, penalties)
