"""Parameter groups, and LARS against the golden values."""

import pytest
import torch
from torch import nn

from ssl_kd.backbones import create
from ssl_kd.build import build_cohort, build_optimizers, build_terms
from ssl_kd.cohort import Cohort
from ssl_kd.config import compose
from ssl_kd.encoder import Encoder
from ssl_kd.optim import LARS, param_groups, unnormalised
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
        (["peers=[shufflenet_v2_x0_5]"], 1.0),
        (["peers=[vit_tiny_patch16_224]"], 0.25),
        (["peers=[mobilenetv3_small_100]"], 0.25),
        (["peers={a: convnext_atto}"], 0.25),
        (["peers={a: convnext_atto}", "optim.unnormalised=0.5"], 0.5),
        (["peers={a: convnext_atto}", "optim=sgd"], 1.0),
        (["peers={a: convnext_atto}", "peers.a.lr_scale=1"], 1.0),
        (["peers={a: convnext_atto}", "peers.a.optim.rate=0.001"], 1.0),
        (["peers={a: convnext_atto}", "peers.a.optim.decay=all"], 0.25),
        (["peers=[vit_tiny_patch16_224]", "preset=reference"], 1.0),  # the authors' own rate
    ],
)
def test_a_network_normalised_by_layers_has_a_share_of_the_rate(words, scale):
    config = compose(["method=simclr", *words])
    config.steps = 10
    (optimizer,), _ = build_optimizers(config, build_cohort(config, (3, 32, 32)))
    assert {group["lr_scale"] for group in optimizer.param_groups} == {scale}


@pytest.mark.parametrize(
    ("name", "found"),
    [
        ("resnet8", False), ("wrn-10-1", False), ("mobilenet_v1", False),
        ("torchvision/shufflenet_v2_x1_0", False),
        ("torchvision/vgg11_bn", False), ("torchvision/vgg11", True), ("mobilenetv3_small_100", True),
        ("efficientnet_b0", True), ("convnext_atto", True), ("vit_tiny_patch16_224", True),
    ],
)  # fmt: skip
def test_which_networks_have_layers_that_no_batch_norm_follows(name, found):
    encoder = Encoder(create(name), {})
    assert unnormalised(encoder) is found
    assert not unnormalised(encoder.requires_grad_(False))


@pytest.mark.parametrize(
    "method", ["dogo", "exits", "fusion", "ssl_kd", "dogo_mixed", "moco", "byol", "dino"]
)
def test_all_that_learns_in_the_methods_of_resnets_does_so_at_the_whole_rate(method):
    config = compose([f"method={method}"])
    config.steps = 10
    optimizers, _ = build_optimizers(config, build_cohort(config, (3, 32, 32), build_terms(config)))
    assert {group["lr_scale"] for each in optimizers for group in each.param_groups} == {1.0}


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
