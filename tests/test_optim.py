"""Parameter groups, and LARS against the golden values."""

import pytest
import torch
from torch import nn

from ssl_kd.build import build_cohort, build_optimizers
from ssl_kd.cohort import Cohort
from ssl_kd.config import compose
from ssl_kd.optim import LARS, layer_normed, param_groups
from tests.conftest import det

GOLDEN = {
    1: ([0.19852512, 0.47897142, 0.71693414, 0.89113462], [-0.18248783, 0.14390701, 0.39848247, 0.51264977]),
    2: (
        [0.19796115, 0.47819701, 0.71653247, 0.89140546],
        [-0.93636376, -0.68940359, -0.38270149, -0.09307572],
    ),
}


def test_lars_equals_the_golden_values():
    w, b = nn.Parameter(det((3, 4), 0.3, 0.2)), nn.Parameter(det((4,), 0.5, 0.1))
    optimizer = LARS(
        [{"params": [w]}, {"params": [b], "adapt": False}], lr=0.5, momentum=0.9, weight_decay=0.01
    )
    for t in (1, 2):
        w.grad, b.grad = det((3, 4), 0.9, 0.3 + t - 1), det((4,), 0.4, 0.6 + t - 1)
        optimizer.step()
        for found, golden in ((w.flatten()[:4], GOLDEN[t][0]), (b, GOLDEN[t][1])):
            assert torch.allclose(found, torch.tensor(golden, dtype=torch.float64), rtol=0, atol=1e-6)


def test_lars_leaves_a_layer_without_gradient_where_it_is_and_trusts_a_zero_one():
    still, zero = nn.Parameter(torch.ones(2, 2)), nn.Parameter(torch.zeros(2, 2))
    zero.grad = torch.ones(2, 2)
    LARS([still, zero], lr=0.1, weight_decay=0.0).step()
    assert torch.equal(still, torch.ones(2, 2)) and torch.allclose(zero, torch.full((2, 2), -0.1))


def test_groups_are_by_peer_with_decay_on_weights_alone():
    def net():
        return nn.Sequential(nn.Linear(3, 4), nn.BatchNorm1d(4))

    cohort = Cohort({"a": net(), "b": net(), "teacher": net()}, frozen=["teacher"])
    groups = param_groups(cohort, 0.1, {"b": 0.5})
    assert [(g["peer"], g["weight_decay"], g["adapt"], g["lr_scale"], len(g["params"])) for g in groups] == [
        ("a", 0.1, True, 1.0, 1),
        ("a", 0.0, False, 1.0, 3),
        ("b", 0.1, True, 0.5, 1),
        ("b", 0.0, False, 0.5, 3),
    ]


@pytest.mark.parametrize(
    ("words", "scale"),
    [
        (["peers=[resnet8]"], 1.0),
        (["peers=[mobilenetv3_small_100]"], 1.0),
        (["peers=[vit_tiny_patch16_224]"], 0.25),
        (["peers={a: convnext_atto}"], 0.25),
        (["peers={a: convnext_atto}", "optim.layer_norm=0.5"], 0.5),
        (["peers={a: convnext_atto}", "optim=sgd"], 1.0),
        (["peers={a: convnext_atto}", "peers.a.lr_scale=1"], 1.0),
        (["peers={a: convnext_atto}", "peers.a.optim.rate=0.001"], 1.0),
        (["peers=[vit_tiny_patch16_224]", "preset=reference"], 1.0),  # the authors' own rate
    ],
)
def test_a_network_normalised_by_layers_has_a_share_of_the_rate(words, scale):
    config = compose(["method=simclr", *words])
    config.steps = 10
    (optimizer,), _ = build_optimizers(config, build_cohort(config, (3, 32, 32)))
    assert {group["lr_scale"] for group in optimizer.param_groups} == {scale}


def test_a_frozen_layer_norm_does_not_count():
    net = nn.Sequential(nn.Linear(3, 4), nn.LayerNorm(4), nn.Linear(4, 2))
    assert layer_normed(net)
    net[1].requires_grad_(False)
    assert not layer_normed(net)


@pytest.mark.parametrize(
    "words, fused",
    [
        ([], True),
        (["optim=sgd"], True),
        (["optim.optimizer.fused=false"], False),
        (["optim.optimizer.foreach=true"], None),
    ],
)
def test_optimisers_that_can_are_fused_unless_told_otherwise(words, fused):
    config = compose(["method=simclr", "peers=[resnet8]", *words])
    config.steps = 10
    (optimizer,), _ = build_optimizers(config, build_cohort(config, (1, 8, 8)))
    assert optimizer.defaults["fused"] is fused
    if words == ["optim.optimizer.foreach=true"]:
        assert optimizer.defaults["foreach"] is True


def test_lars_has_no_fused_form_and_is_built_without():
    config = compose(["method=simclr", "peers=[resnet8]", "optim=lars"])
    config.steps = 10
    assert isinstance(build_optimizers(config, build_cohort(config, (1, 8, 8)))[0][0], LARS)
