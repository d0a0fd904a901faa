"""torchvision's networks by `torchvision/NAME`: shapes, gradients, stems, and torchvision's own features."""

import pytest
import torch
from torch import nn
from torchvision import models

from ssl_kd.backbones import create
from ssl_kd.errors import InputError

NAMES = [
    "alexnet", "convnext_tiny", "densenet121", "efficientnet_b0", "googlenet", "mnasnet0_5", "mobilenet_v2",
    "mobilenet_v3_small", "regnet_y_400mf", "resnet18", "resnext50_32x4d", "shufflenet_v2_x1_0",
    "shufflenet_v2_x1_5", "squeezenet1_1", "vgg11_bn",
]  # fmt: skip


def images(count: int = 2, channels: int = 3, size: int = 32) -> torch.Tensor:
    return torch.rand(count, channels, size, size, generator=torch.Generator().manual_seed(1))


@pytest.mark.parametrize("name", NAMES)
def test_a_network_of_torchvision_learns_at_32_pixels_with_all_its_parameters_and_stages(name):
    torch.manual_seed(0)
    backbone = create(f"torchvision/{name}")
    embedding, maps = backbone.forward_stages(images(), backbone.stage_channels)
    embedding.square().sum().backward()
    assert embedding.shape == (2, backbone.width)
    assert [m.shape[1] for m in maps.values()] == list(backbone.stage_channels.values()) and len(maps) > 1
    assert min(list(maps.values())[-1].shape[2:]) >= 2
    assert not [key for key, p in backbone.named_parameters() if p.grad is None]


@pytest.mark.parametrize(
    "name", ["densenet121", "efficientnet_b0", "mnasnet0_5", "mobilenet_v3_small", "regnet_y_400mf"]
)
def test_large_images_give_what_torchvisions_classifier_is_given(name):
    torch.manual_seed(3)
    theirs = models.get_model(name).eval()
    torch.manual_seed(3)
    ours = create(f"torchvision/{name}", size=96, mean=0.0, std=1.0).eval()
    seen = []
    classifier = getattr(theirs, "classifier", None) or theirs.fc
    classifier.register_forward_pre_hook(lambda module, given: seen.append(given[0]))
    with torch.no_grad():
        theirs(images(size=96))
        torch.testing.assert_close(ours(images(size=96)), seen[0].flatten(1))


def test_a_stem_of_small_images_keeps_the_weights_of_one_construction():
    torch.manual_seed(5)
    expected = models.mobilenet_v3_small().features.state_dict()
    torch.manual_seed(5)
    got = create("torchvision/mobilenet_v3_small").net.state_dict()
    assert len(got) == len(expected)
    assert all(torch.equal(a, b) for a, b in zip(got.values(), expected.values(), strict=True))


def test_other_channels_and_options_reach_the_network():
    assert create("torchvision/densenet121", channels=1, size=28).eval()(images(2, 1, 28)).shape == (2, 1024)
    dropped = create("torchvision/efficientnet_b0", stochastic_depth_prob=0.5)
    assert any(getattr(m, "p", 0) > 0.4 for m in dropped.modules() if "StochasticDepth" in type(m).__name__)
    with pytest.raises(InputError, match='torchvision/mnasnet0_5 takes no option "colour"'):
        create("torchvision/mnasnet0_5", colour=3)


def test_a_bare_name_of_ours_and_its_torchvision_name_are_one_network():
    torch.manual_seed(1)
    ours = create("shufflenet_v2_x1_0").state_dict()
    torch.manual_seed(1)
    theirs = create("torchvision/shufflenet_v2_x1_0").state_dict()
    assert list(ours) == list(theirs) and all(torch.equal(ours[key], theirs[key]) for key in ours)


def test_blocks_after_a_stage_can_be_built_again():
    rest, width = create("torchvision/mobilenet_v3_small").remainder("stage3")
    assert rest(torch.rand(2, 48, 4, 4)).shape == (2, width) and isinstance(rest, nn.Module)


@pytest.mark.parametrize(("name", "sentence"), [
    ("torchvision/mobilnet_v3_small", 'did you mean "torchvision/mobilenet_v3_small"?'),
    ("torchvision/vit_b_16", "timm has its family, as vit_base_patch16_224"),
])  # fmt: skip
def test_a_name_that_cannot_be_had_is_answered_with_one_that_can(name, sentence):
    with pytest.raises(InputError, match=sentence.replace("?", r"\?")):
        create(name)
