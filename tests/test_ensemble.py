"""Ensembles of peers: the mean of what their probes say, and of how their neighbours vote."""

import dataclasses
import math

import numpy as np
import pytest
import torch
import torch.nn.functional as F

from ssl_kd.errors import InputError
from ssl_kd.probes import Features, knn, linear
from ssl_kd.probes.ensemble import ensemble, ensemble_knn
from ssl_kd.probes.knn import QUERIES, votes


def peers(widths=(24, 10, 16), train=300, test=200, classes=5, spread=3.0, seed=0) -> list[Features]:
    """What networks of several widths give to the same images: Gaussian classes that overlap."""
    generator = torch.Generator().manual_seed(seed)
    labels = torch.randint(classes, (train + test,), generator=generator)
    found = []
    for width in widths:
        centres = torch.randn(classes, width, generator=generator)
        rows = centres[labels] + spread * torch.randn(train + test, width, generator=generator)
        found.append(Features(rows[:train], labels[:train], rows[train:], labels[train:], classes))
    return found


@pytest.fixture(scope="module")
def fitted():
    features = peers()
    return features, [linear(peer, penalties=(1e-2,)) for peer in features]


# The probe applied


def test_the_logits_of_a_probe_give_its_accuracy_on_the_test_rows(fitted):
    for features, probe in zip(*fitted, strict=True):
        logits = probe.logits(features.test)
        assert logits.shape == (200, 5) and logits.dtype == torch.float32
        assert (logits.argmax(1) == features.test_labels).double().mean() == probe.accuracy


def test_the_mean_and_std_of_a_probe_are_those_of_the_train_rows(fitted):
    for features, probe in zip(*fitted, strict=True):
        std, mean = torch.std_mean(features.train, 0, correction=0)
        torch.testing.assert_close(probe.mean, mean)
        torch.testing.assert_close(probe.std, std)


def test_a_column_that_was_constant_changes_no_logit():
    features = peers()[0]
    constant = [torch.cat([rows, torch.ones(len(rows), 1)], 1) for rows in (features.train, features.test)]
    probe = linear(dataclasses.replace(features, train=constant[0], test=constant[1]), penalties=(1e-2,))
    assert probe.std[-1] == torch.inf
    moved = constant[1].clone()
    moved[:, -1] = 1e6
    assert torch.equal(probe.logits(moved), probe.logits(constant[1]))


def test_rows_of_another_width_are_refused(fitted):
    with pytest.raises(InputError, match=r"rows of 24 numbers, and was given \(3, 10\)"):
        fitted[1][0].logits(torch.zeros(3, 10))


# Of linear probes


def test_an_ensemble_is_the_accuracy_of_the_mean_probability(fitted):
    features, probes = fitted
    labels = features[0].test_labels
    correct = 0
    for i, label in enumerate(labels.tolist()):
        mean = np.zeros(5)
        for peer, probe in zip(features, probes, strict=True):
            row = ((peer.test[i] - probe.mean) / probe.std).double().numpy()
            logits = probe.weight.double().numpy() @ row + probe.bias.double().numpy()
            mean += np.exp(logits) / np.exp(logits).sum() / len(probes)
        correct += int(mean.argmax() == label)
    assert ensemble(probes, [peer.test for peer in features], labels) == correct / len(labels)


def test_peers_with_independent_errors_are_better_together(fitted):
    features, probes = fitted
    together = ensemble(probes, [peer.test for peer in features], features[0].test_labels)
    assert together > max(probe.accuracy for probe in probes)


def test_an_ensemble_of_one_peer_or_of_its_copies_is_the_peer(fitted):
    (features, *_), (probe, *_) = fitted
    for copies in (1, 3):
        assert ensemble([probe] * copies, [features.test] * copies, features.test_labels) == probe.accuracy


def test_unlabelled_rows_do_not_count_in_an_ensemble(fitted):
    features, probes = fitted
    rows, labels = [peer.test for peer in features], features[0].test_labels
    mixed = torch.cat([labels, torch.full((50,), -1)])
    wider = [torch.cat([part, torch.full((50, part.shape[1]), torch.nan)]) for part in rows]
    assert ensemble(probes, wider, mixed) == ensemble(probes, rows, labels)


def test_an_ensemble_of_what_does_not_belong_together_is_refused(fitted):
    features, probes = fitted
    rows, labels = [peer.test for peer in features], features[0].test_labels
    other = linear(peers((10,), classes=4)[0], penalties=(1e-2,))
    for sentence, arguments in {
        "rows for each probe, and got 0 and 0": ([], [], labels),
        "rows for each probe, and got 3 and 2": (probes, rows[:2], labels),
        "as many images for each peer": (probes, [rows[0], rows[1][:9], rows[2]], labels),
        r"as many images for each peer, and got \[200, 200, 200, 9\]": (probes, rows, labels[:9]),
        r"as many classes for each peer, and got \[5, 4\]": ([probes[0], other], rows[:2], labels),
        "have no labels": (probes, rows, torch.full((200,), -1)),
    }.items():
        with pytest.raises(InputError, match=sentence):
            ensemble(*arguments)


# Of neighbours


def test_a_knn_ensemble_is_the_mean_of_the_class_distributions_in_a_slow_loop():
    features = peers(test=60)
    found = ensemble_knn(features, k=(1, 7, 50))
    for k, accuracy in found.items():
        correct = 0
        for i, label in enumerate(features[0].test_labels.tolist()):
            mean = np.zeros(5)
            for peer in features:
                train, row = F.normalize(peer.train).double().numpy(), F.normalize(peer.test[i], dim=0)
                cosine = train @ row.double().numpy()
                ballot = np.zeros(5)
                for neighbour in np.argsort(-cosine)[:k]:
                    ballot[int(peer.train_labels[neighbour])] += math.exp(cosine[neighbour] / 0.07)
                mean += ballot / ballot.sum()
            correct += int(mean.argmax() == label)
        assert accuracy == correct / 60


def test_a_knn_ensemble_of_one_peer_or_of_two_copies_is_knn():
    features = peers()[0]
    assert ensemble_knn([features]) == ensemble_knn([features] * 2) == knn(features)


def test_neighbours_of_independent_errors_are_better_together():
    features = peers()
    together = ensemble_knn(features, k=(50,))[50]
    assert together > max(knn(peer, k=(50,))[50] for peer in features)


def test_votes_come_in_parts_that_cover_all_labelled_rows():
    features = peers((4,), train=20, test=QUERIES + 10)[0]
    features.test_labels[:3] = -1
    parts = list(votes(features, (1, 5), 0.07))
    assert [len(labels) for labels, _ in parts] == [QUERIES, 7]
    assert torch.equal(torch.cat([labels for labels, _ in parts]), features.test_labels[3:])
    for labels, ballots in parts:
        assert list(ballots) == [1, 5] and ballots[5].shape == (len(labels), 5)
        assert torch.equal(ballots[1].sum(1), torch.ones(len(labels), dtype=torch.float64))


def test_a_knn_ensemble_of_what_does_not_belong_together_is_refused():
    one, other = peers((4, 6))
    with pytest.raises(InputError, match="at least one peer"):
        ensemble_knn([])
    for change, sentence in (
        ({"classes": 6}, r"as many classes for each peer, and got \[5, 6\]"),
        ({"test_labels": other.test_labels.flip(0)}, "the same images .* test_labels differ"),
        ({"train_labels": other.train_labels[1:], "train": other.train[1:]}, "train_labels differ"),
    ):
        with pytest.raises(InputError, match=sentence):
            ensemble_knn([one, dataclasses.replace(other, **change)])
    with pytest.raises(InputError, match="k >= 1"):
        ensemble_knn([one, other], k=(0,))
