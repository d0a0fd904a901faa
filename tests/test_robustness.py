"""Robustness: a probe fitted to clean images, unchanged, on corrupted ones."""

import numpy as np
import pytest
import torch

from ssl_kd.data import Arrays, Plain, in_order
from ssl_kd.data.adapt import subset
from ssl_kd.data.corruptions import KINDS, SEVERITIES, corrupt
from ssl_kd.data.sources import digits
from ssl_kd.errors import InputError
from ssl_kd.probes import Features, linear
from ssl_kd.probes.linear import Linear
from ssl_kd.probes.robustness import robustness

TEST = digits().test
PLAIN = Plain(8)


def network(images: torch.Tensor) -> torch.Tensor:
    return images.flatten(1)


@pytest.fixture(scope="module")
def probe() -> Linear:
    """Fitted to the clean digits, on pixels."""
    train, test = ([*in_order(part, 500)] for part in (digits().train, TEST))
    rows = [
        (torch.cat([PLAIN(x).flatten(1) for x, _ in part]), torch.cat([y for _, y in part]))
        for part in (train, test)
    ]
    return linear(Features(*rows[0], *rows[1], classes=10), penalties=(1e-2,))


def score(probe: Linear, images: torch.Tensor, labels: np.ndarray) -> float:
    return float((probe.logits(network(PLAIN(images))).argmax(1) == torch.from_numpy(labels)).double().mean())


def test_every_number_is_the_accuracy_of_the_unchanged_probe_on_the_corrupted_test_split(probe):
    found = robustness(network, probe, TEST, PLAIN, "cpu", seed=3)
    assert list(found) == ["clean", *KINDS, "mean"]
    images = torch.from_numpy(TEST.images)
    assert found["clean"] == score(probe, images, TEST.labels) == probe.accuracy
    for kind in KINDS:
        assert list(found[kind]) == [str(severity) for severity in SEVERITIES]
        for severity in SEVERITIES:
            expected = score(probe, corrupt(images, kind, severity, seed=3), TEST.labels)
            assert found[kind][str(severity)] == expected
    assert found["mean"] == pytest.approx(np.mean([list(found[kind].values()) for kind in KINDS]))
    assert 0.1 < found["mean"] < found["clean"]


def test_the_batch_size_changes_nothing(probe):
    one, other = (
        robustness(network, probe, TEST, PLAIN, "cpu", severities=(1, 4), batch_size=size)
        for size in (7, 360)
    )
    assert one == other


def test_the_kinds_and_severities_asked_for_come_alone_and_those_asked_for_twice_count_once(probe):
    found = robustness(network, probe, TEST, PLAIN, "cpu", kinds=("blur", "blur"), severities=(2, 5, 2))
    assert list(found) == ["clean", "blur", "mean"] and list(found["blur"]) == ["2", "5"]
    assert found["mean"] == pytest.approx(sum(found["blur"].values()) / 2)


def test_a_limit_takes_a_random_part_that_belongs_to_the_seed(probe):
    seen: list[torch.Tensor] = []

    def watching(images: torch.Tensor) -> torch.Tensor:
        seen.append(images)
        return network(images)

    settings = dict(kinds=("contrast",), severities=(1,), limit=20)
    chosen = []
    for seed in (0, 0, 1):
        seen.clear()
        robustness(watching, probe, TEST, PLAIN, "cpu", seed=seed, **settings)
        assert [len(images) for images in seen] == [20, 20]
        chosen.append(seen[0])
    assert torch.equal(chosen[0], chosen[1]) and not torch.equal(chosen[0], chosen[2])
    whole = robustness(network, probe, TEST, PLAIN, "cpu", **{**settings, "limit": 5000})
    assert whole["clean"] == probe.accuracy


def test_images_without_a_label_are_left_out(probe):
    labels = TEST.labels.copy()
    labels[::3] = -1
    mixed = Arrays(TEST.images, labels, TEST.classes)
    known = subset(TEST, np.flatnonzero(labels >= 0))
    settings = dict(kinds=("noise",), severities=(3,))
    assert robustness(network, probe, mixed, PLAIN, "cpu", **settings) == robustness(
        network, probe, known, PLAIN, "cpu", **settings
    )


def test_a_network_is_scored_in_eval_mode_and_left_as_it_was(probe):
    module = torch.nn.Sequential(
        torch.nn.Flatten(), torch.nn.BatchNorm1d(64, affine=False), torch.nn.Dropout(0.5)
    )
    robustness(module, probe, TEST, PLAIN, "cpu", kinds=("blur",), severities=(1,))
    assert module.training and module[1].num_batches_tracked == 0


@pytest.mark.parametrize(
    ("change", "sentence"),
    [
        ({"kinds": ("blurr",)}, 'no corruption "blurr"; did you mean "blur"'),
        ({"severities": (1, 7)}, "severity .* not 7"),
        ({"kinds": ()}, "at least one kind"),
        ({"severities": ()}, "one severity"),
        ({"limit": 0}, "limit must be at least 1, not 0"),
    ],
)
def test_settings_that_mean_nothing_are_refused_before_any_image_is_seen(probe, change, sentence):
    def fails(images):
        raise AssertionError("the network was called")

    with pytest.raises(InputError, match=sentence):
        robustness(fails, probe, TEST, PLAIN, "cpu", **change)


@pytest.mark.parametrize("labels", [None, np.full(360, -1)])
def test_a_test_split_without_labels_is_refused(probe, labels):
    with pytest.raises(InputError, match="has no labels"):
        robustness(network, probe, Arrays(TEST.images, labels), PLAIN, "cpu")


def test_a_probe_of_another_network_is_refused(probe):
    with pytest.raises(InputError, match=r"fitted to rows of 64 numbers, and was given \(360, 16\)"):
        robustness(lambda images: images.flatten(1)[:, :16], probe, TEST, PLAIN, "cpu")
