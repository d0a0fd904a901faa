"""Few labels: which rows are drawn, how the probe on them is fitted, and what may choose its penalty."""

import dataclasses

import pytest
import torch
from scipy import stats
from sklearn.linear_model import LogisticRegression
from sklearn.model_selection import StratifiedKFold, cross_val_score

from ssl_kd.data.draws import amount_name, draw
from ssl_kd.errors import InputError
from ssl_kd.probes import Features
from ssl_kd.probes.few_labels import FIXED, PENALTIES, few_labels


def clusters(train=1500, test=400, width=24, classes=5, spread=2.0, seed=0) -> Features:
    """Gaussian classes that overlap, the first columns of a much larger scale."""
    generator = torch.Generator().manual_seed(seed)
    centres = torch.randn(classes, width, generator=generator)
    labels = torch.randint(classes, (train + test,), generator=generator)
    rows = centres[labels] + spread * torch.randn(train + test, width, generator=generator)
    rows[:, :4] = 100 * rows[:, :4] + 7
    return Features(rows[:train], labels[:train], rows[train:], labels[train:], classes)


def standard(features: Features) -> tuple[torch.Tensor, torch.Tensor]:
    std, mean = torch.std_mean(features.train.double(), 0, correction=0)
    return (features.train - mean) / std, (features.test - mean) / std


# --- which rows ---


def test_a_number_per_class_is_that_many_different_rows_of_each_class():
    labels = torch.randint(3, (100,), generator=torch.Generator().manual_seed(0))
    at = draw(labels, 3, 7)
    assert len(at.unique()) == 21 and labels[at].bincount().tolist() == [7, 7, 7]


def test_a_share_is_divided_in_proportion_and_every_class_gets_at_least_one():
    labels = torch.tensor([0] * 620 + [1] * 250 + [2] * 125 + [3] * 5)
    assert labels[draw(labels, 4, 0.1)].bincount().tolist() == [62, 25, 12, 1]
    assert labels[draw(labels, 4, 0.001)].bincount().tolist() == [1, 1, 1, 1]
    assert labels[draw(labels, 4, 0.003)].bincount().tolist() == [1, 1, 1, 1]
    assert draw(labels, 4, 1.0).sort().values.tolist() == list(range(1000))


def test_a_draw_is_a_function_of_labels_seed_amount_and_number():
    labels = torch.arange(400) % 4
    same = draw(labels, 4, 5, seed=1, number=2)
    assert torch.equal(same, draw(labels.clone(), 4, 5, seed=1, number=2))
    for other in ((5, 1, 3), (5, 2, 2), (0.05, 1, 2)):
        assert not torch.equal(same, draw(labels, 4, *other))


def test_every_network_of_a_data_set_is_scored_on_the_same_rows(monkeypatch):
    drawn = []

    def noted(*given):
        drawn.append(draw(*given))
        return drawn[-1]

    monkeypatch.setattr("ssl_kd.probes.few_labels.draw", noted)
    one, other = clusters(), clusters(width=60, seed=3)
    other = dataclasses.replace(other, train_labels=one.train_labels)
    for features in (one, other):
        few_labels(features, shares=(0.05,), per_class=(2,), draws=2)
    assert len(drawn) == 8
    for first, second in zip(drawn[:4], drawn[4:], strict=True):
        assert torch.equal(first, second)
    assert len({tuple(at.tolist()) for at in drawn}) == 4


def test_rows_without_a_label_are_never_drawn_and_change_no_draw():
    labels = torch.arange(100) % 4
    mixed = torch.full((150,), -1)
    mixed[50:] = labels
    assert torch.equal(draw(mixed, 4, 3), draw(labels, 4, 3) + 50)


@pytest.mark.parametrize(
    ("amount", "message"),
    [
        (6, '"6 per class" takes 6 of class 2, which has 5 labelled images'),
    ],
)
def test_fewer_images_of_a_class_than_asked_for_are_refused_by_its_index(amount, message):
    labels = torch.tensor([0] * 40 + [1] * 40 + [2] * 5)
    with pytest.raises(InputError, match=message):
        draw(labels, 3 if amount == 6 else 4, amount)


@pytest.mark.parametrize("amount", [0, -1, 0.0, 1.5, True, float("nan"), "10%"])
def test_what_is_neither_a_share_nor_a_number_is_refused(amount):
    with pytest.raises(InputError, match="a share in"):
        amount_name(amount)


# --- the probe ---


def test_one_label_per_class_agrees_with_scikit_learn_at_the_fixed_penalty():
    features = clusters(width=40)
    found = few_labels(features, shares=(), per_class=(1, 3), draws=3)
    train, test = standard(features)
    for amount, result in zip((1, 3), found.values(), strict=True):
        assert result.labels == 5 * amount and result.penalties == (FIXED,) * 3
        for number, accuracy in enumerate(result.accuracies):
            at = draw(features.train_labels, 5, amount, 0, number)
            peer = LogisticRegression(C=1 / (len(at) * FIXED), tol=1e-8, max_iter=10000)
            peer.fit(train[at].numpy(), features.train_labels[at].numpy())
            expected = peer.score(test.numpy(), features.test_labels.numpy())
            assert accuracy == pytest.approx(expected, abs=1.01 / len(test))  # one row may lie on the border


@pytest.mark.parametrize("width", [24, 300], ids=["more rows than columns", "more columns than rows"])
def test_the_penalty_is_that_of_scikit_learns_cross_validation(width):
    features = clusters(width=width)
    result = few_labels(features, shares=(), per_class=(20,), draws=2)["20 per class"]
    train, test = standard(features)
    for number in range(2):
        at = draw(features.train_labels, 5, 20, 0, number)
        rows, labels = train[at].numpy(), features.train_labels[at].numpy()
        scores = {}
        for penalty in PENALTIES:
            model = LogisticRegression(C=1 / (80 * penalty), tol=1e-6, max_iter=10000)  # a fold fits 80 rows
            scores[penalty] = cross_val_score(
                model, rows, labels, cv=StratifiedKFold(5), scoring="neg_log_loss"
            ).mean()
        chosen = max(scores, key=scores.__getitem__)
        assert result.penalties[number] == chosen
        model = LogisticRegression(C=1 / (100 * chosen), tol=1e-8, max_iter=10000).fit(rows, labels)
        expected = model.score(test.numpy(), features.test_labels.numpy())
        assert result.accuracies[number] == pytest.approx(expected, abs=1.01 / len(test))


def test_amounts_are_named_and_counted_and_more_labels_are_worth_more():
    found = few_labels(clusters())
    assert list(found) == ["1%", "10%", "1 per class", "5 per class", "10 per class"]
    assert [result.labels for result in found.values()] == [15, 150, 5, 25, 50]
    means = [found[name].mean for name in ("1 per class", "5 per class", "10 per class", "10%")]
    assert means == sorted(means) and means[0] < means[-1] - 0.1


def test_the_interval_is_students():
    result = few_labels(clusters(), shares=(), per_class=(2,), draws=4)["2 per class"]
    spread = stats.sem(result.accuracies)
    low, high = stats.t.interval(0.95, 3, loc=sum(result.accuracies) / 4, scale=spread)
    assert (result.low, result.high) == pytest.approx((low, high))
    assert result.mean == pytest.approx((low + high) / 2) and result.low < result.mean


def test_draws_that_agree_have_an_interval_of_one_point():
    result = few_labels(clusters(spread=0.01), shares=(), per_class=(2,), draws=3)["2 per class"]
    assert result.accuracies == (1.0,) * 3 and (result.low, result.mean, result.high) == (1.0, 1.0, 1.0)


def test_no_test_label_chooses_anything():
    features = clusters()
    order = torch.randperm(400, generator=torch.Generator().manual_seed(1))
    shuffled = dataclasses.replace(features, test_labels=features.test_labels[order])
    before, after = few_labels(features), few_labels(shuffled)
    for name, result in before.items():
        assert after[name].penalties == result.penalties and after[name].labels == result.labels
        assert after[name].accuracies != result.accuracies


def test_two_calls_give_the_same_bits_and_another_seed_other_draws():
    features = clusters(train=600, test=200)
    assert few_labels(features, draws=2) == few_labels(features, draws=2)
    assert few_labels(features, draws=2, seed=1) != few_labels(features, draws=2)


def test_constant_columns_and_a_collapsed_representation_do_no_harm():
    features = clusters(train=600)
    constant = torch.full((600, 1), 0.1), torch.full((400, 1), 0.1)
    wider = dataclasses.replace(
        features,
        train=torch.cat([features.train, constant[0]], 1),
        test=torch.cat([features.test, constant[1]], 1),
    )
    plain, wide = (few_labels(one, shares=(), per_class=(1, 6), draws=2) for one in (features, wider))
    for name in plain:
        assert wide[name].mean == pytest.approx(plain[name].mean, abs=0.005)
    collapsed = dataclasses.replace(features, train=torch.ones(600, 24), test=torch.ones(400, 24))
    for result in few_labels(collapsed, draws=2).values():
        assert 0.1 < result.mean < 0.3  # a guess among five classes


def test_features_that_cannot_be_scored_and_a_single_draw_are_refused():
    features = clusters()
    with pytest.raises(InputError, match="two draws or more to say how far to trust it, not 1"):
        few_labels(features, draws=1)
    unlabelled = dataclasses.replace(features, train_labels=torch.full((1500,), -1))
    with pytest.raises(InputError, match="the few-label probe needs labelled .* train split has no labels"):
        few_labels(unlabelled)
    with pytest.raises(InputError, match='"400 per class" takes 400 of class'):
        few_labels(features, per_class=(400,))
