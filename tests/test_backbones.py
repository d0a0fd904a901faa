"""Shapes, sizes and gradients of every family, at 32 pixels and without pretrained weights."""

import subprocess
import sys

import pytest
import timm
import torch
from torch import nn

from ssl_kd import backbones
from ssl_kd.backbones import Backbone, cifar, create, mobile
from ssl_kd.backbones.timm_models import TimmNet
from ssl_kd.errors import InputError

OWN = [name for name in backbones.names() if name not in ("resnet44", "resnet110", "resnet34")]
TIMM = [
    "timm/resnet18", "mobilenetv3_small_100", "mobilenetv4_conv_small", "efficientnet_b0", "convnext_atto",
    "regnety_002", "ghostnet_100", "densenet121", "repvgg_a0", "mobilevit_xxs", "pvt_v2_b0",
    "swin_tiny_patch4_window7_224", "vit_tiny_patch16_224", "deit_tiny_distilled_patch16_224",
]  # fmt: skip

# With a linear layer of 100 classes. The CIFAR ResNets: the FFSD authors' code (Li et al. 2022); WRN-16-2 and
# 28-4: the sequential distillation authors' code; WRN-28-10 and MobileNetV1: the main networks of the DCM
# authors' code.
PARAMETERS = {
    "resnet20": 278_324,
    "resnet32": 472_756,
    "resnet56": 861_620,
    "wrn-16-2": 703_284,
    "wrn-28-4": 5_872_180,
    "wrn-28-10": 36_536_884,
    "mobilenet_v1": 3_309_476,
}

_made: dict[str, Backbone] = {}


def made(name: str) -> Backbone:
    """One of each for the tests that only look, in eval mode."""
    if name not in _made:
        torch.manual_seed(0)
        _made[name] = create(name)
    return _made[name].eval()


def images(count: int = 2, channels: int = 3, size: int = 32) -> torch.Tensor:
    return torch.rand(count, channels, size, size, generator=torch.Generator().manual_seed(1))


def count(module: nn.Module) -> int:
    return sum(p.numel() for p in module.parameters())


def staged(name: str) -> backbones.Backbone:
    """Older versions of timm read stages from fewer families."""
    backbone = made(name)
    if not backbone.stage_channels:
        assert not hasattr(backbone.net.model, "forward_intermediates")
        pytest.skip("this version of timm has no stages of it")
    return backbone


def sides(name: str) -> list[int]:
    maps = made(name).forward_stages(images(), made(name).stage_channels)[1]
    return [m.shape[-1] for m in maps.values()]


@pytest.mark.parametrize("name", PARAMETERS)
def test_parameter_counts_are_those_of_the_papers_own_code(name):
    backbone = create(name)
    classifier = nn.Linear(backbone.width, 100)
    assert count(backbone) + count(classifier) == PARAMETERS[name]


@pytest.mark.parametrize(("build", "stage", "width", "parameters"), [
    (lambda: cifar.wide_resnet(28, 10), "stage1", 640, 20_145_060),
    (lambda: cifar.wide_resnet(28, 10), "stage2", 1280, 107_464_420),
    (mobile.mobilenet, "stage1", 1024, 2_637_668),
    (mobile.mobilenet, "stage2", 2048, 5_484_132),
])  # fmt: skip
def test_remaining_blocks_have_the_parameters_of_dcms_exits(build, stage, width, parameters):
    with torch.device("meta"):  # the largest needs 430 MB
        rest, given = build().remainder(stage)
    assert given == width
    assert count(rest) + count(nn.Linear(width, 100)) == parameters


@pytest.mark.parametrize("name", OWN + TIMM)
def test_embedding_and_stages_have_the_announced_shapes_in_forward_order(name):
    backbone = made(name)
    with torch.no_grad():
        embedding, maps = backbone.forward_stages(images(), list(reversed(backbone.stage_channels)))
    assert embedding.shape == (2, backbone.width)
    assert list(maps) == list(backbone.stage_channels) == [f"stage{i + 1}" for i in range(len(maps))]
    assert [m.shape[:2] for m in maps.values()] == [(2, c) for c in backbone.stage_channels.values()]
    assert all(m.shape[2] == m.shape[3] for m in maps.values())


@pytest.mark.parametrize("name", OWN + TIMM)
def test_last_map_is_at_least_two_by_two_at_32_pixels(name):
    staged(name)
    assert sides(name)[-1] >= 2


@pytest.mark.parametrize("name", OWN + TIMM)
def test_asking_for_stages_leaves_every_bit_of_the_embedding(name):
    backbone = staged(name)
    with torch.no_grad():
        plain = backbone(images())
        for stages in ([], ["stage1"], list(backbone.stage_channels)):
            assert torch.equal(backbone.forward_stages(images(), stages)[0], plain)


@pytest.mark.parametrize("name", OWN + TIMM)
def test_every_parameter_gets_a_gradient_from_the_embedding(name):
    backbone = made(name).train()
    backbone.zero_grad()
    backbone(images()).square().sum().backward()
    idle = [key for key, p in backbone.named_parameters() if p.grad is None or not p.requires_grad]
    assert not idle


def test_the_last_map_of_a_small_network_averages_to_the_embedding():
    for name in ("resnet20", "wrn-16-2", "resnet18"):
        embedding, maps = made(name).forward_stages(images(), made(name).stage_channels)
        torch.testing.assert_close(list(maps.values())[-1].mean((2, 3)), embedding)


def test_small_networks_keep_the_size_in_the_stem():
    assert sides("resnet20") == sides("wrn-16-2") == sides("mobilenet_v1") == [32, 16, 8]
    assert sides("resnet18") == [32, 16, 8, 4]
    assert sides("timm/resnet18") == [32, 32, 16, 8, 4]  # timm counts the stem
    assert sides("swin_tiny_patch4_window7_224") == [32, 16, 8, 4]
    assert sides("mobilenetv3_small_100") == [32, 32, 16, 8, 4]
    assert sides("vit_tiny_patch16_224") == [8] * 12


@pytest.mark.parametrize(("size", "last"), [(16, 2), (24, 3), (28, 4), (32, 4), (48, 6), (64, 4)])
def test_the_last_map_is_a_quarter_of_that_many_or_more_pixels_whatever_the_size(size, last):
    for name in ("mobilenetv3_small_100", "torchvision/efficientnet_b0", "torchvision/vgg11"):
        backbone = create(name, size=size).eval()
        stage = list(backbone.stage_channels)[-1]
        edge = backbone.forward_stages(images(1, 3, size), [stage])[1][stage].shape[-1]
        assert edge in (last, size // 8), (name, edge)


def test_large_images_get_the_original_stem():
    for name, last in (("resnet18", "stage4"), ("shufflenet_v2_x0_5", "stage3"), ("mobilenet_v2", "stage5"),
                       ("timm/resnet18", "stage5"), ("mobilenetv3_small_100", "stage5")):  # fmt: skip
        maps = create(name, size=128).eval().forward_stages(images(1, 3, 128), [last])[1]
        assert maps[last].shape[2:] == (4, 4)  # 128 / 32
    stem = create("resnet18", size=128).net.stem
    assert stem[0].kernel_size == (7, 7) and isinstance(stem[-1], nn.MaxPool2d)


@pytest.mark.parametrize("size", [8, 28, 48])
@pytest.mark.parametrize("name", ["mobilenetv3_small_100", "vit_tiny_patch16_224", "convnext_atto"])
def test_timm_models_take_other_small_sizes(name, size):
    backbone = create(name, size=size).eval()
    embedding, maps = backbone.forward_stages(images(1, 3, size), backbone.stage_channels)
    assert embedding.shape == (1, backbone.width)
    assert min(list(maps.values())[-1].shape[2:]) >= 2


@pytest.mark.parametrize("name", ["resnet20", "wrn-16-1", "mobilenet_v1", "resnet18", "shufflenet_v2_x0_5",
                                  "mobilenet_v2", "mobilenetv3_small_100",
                                  "vit_tiny_patch16_224"])  # fmt: skip
def test_one_channel_is_enough(name):
    backbone = create(name, channels=1, size=28, mean=0.13, std=0.31).eval()
    assert backbone(images(2, 1, 28)).shape == (2, backbone.width)


def test_normalising_comes_first_with_one_number_or_one_per_channel():
    backbone = create("resnet8", mean=[0.1, 0.2, 0.3], std=0.5).eval()
    assert backbone.mean.shape == backbone.std.shape == (3, 1, 1)
    mean = torch.tensor([0.1, 0.2, 0.3]).view(3, 1, 1)
    assert torch.equal(backbone(images()), backbone.net((images() - mean) / 0.5)[0])


def test_mean_and_std_are_in_the_checkpoint_and_are_no_parameters():
    backbone = create("resnet8")
    assert {"mean", "std"} <= set(backbone.state_dict())
    assert not {"mean", "std"} & {key for key, _ in backbone.named_parameters()}


@pytest.mark.parametrize("wrong", [{"mean": [0.5] * 2}, {"std": 0.0}, {"std": [1, 1, -1]}, {"channels": 0}])
def test_a_wrong_mean_std_or_number_of_channels_is_refused(wrong):
    with pytest.raises(InputError):
        create("resnet8", **wrong)


def test_images_that_would_pass_silently_are_refused():
    for wrong in (images(channels=1), images()[0], (images() * 255).byte()):
        with pytest.raises(InputError, match=r"takes float images \(N, 3, H, W\) in \[0, 1\]"):
            made("resnet8")(wrong)


@pytest.mark.parametrize(("name", "advice"), [
    ("resnt20", 'did you mean "resnet20"?'),
    ("mobilenetv3_smal_100", 'did you mean "mobilenetv3_small_100"?'),
    ("timm/resnt18", 'did you mean "timm/resnet18"?'),
    ("??", "there are: mobilenet_v1, "),
])  # fmt: skip
def test_an_unknown_name_is_answered_with_the_nearest(name, advice):
    with pytest.raises(InputError) as refusal:
        create(name)
    assert str(refusal.value).startswith(f'there is no backbone "{name}"; {advice}')


def test_an_unknown_stage_is_answered_with_those_there_are():
    with pytest.raises(InputError, match='no stage "stage4"; its stages: stage1, stage2, stage3'):
        made("resnet20").forward_stages(images(), ["stage1", "stage4"])


@pytest.mark.parametrize("name", ["resnet8", "mobilenet_v1", "resnet18", "mobilenetv3_small_100",
                                  "vit_tiny_patch16_224"])  # fmt: skip
def test_an_unknown_option_is_refused_by_name(name):
    with pytest.raises(InputError, match=f'{name} takes no option "colour"'):
        create(name, colour=3)


def test_options_that_the_interface_sets_are_refused():
    with pytest.raises(InputError, match='takes no option "num_classes": it has no classifier'):
        create("mobilenetv3_small_100", num_classes=10)


@pytest.mark.parametrize("name", ["wrn-17-2", "wrn-4-2", "wrn-16-0"])
def test_a_wide_resnet_of_another_depth_or_width_is_refused(name):
    with pytest.raises(InputError, match="wrn"):
        create(name)


def test_a_model_that_cannot_take_the_size_says_so():
    with pytest.raises(InputError, match="efficientformer_l1 cannot take images of 32 pixels"):
        create("efficientformer_l1")


def test_options_reach_the_constructor():
    assert create("vit_tiny_patch16_224", patch_size=8, depth=2).net.model.patch_embed.patch_size == (8, 8)
    assert sum(p.sum() for n, p in create("resnet18", zero_init_residual=True).named_parameters()
               if "bn2.weight" in n) == 0  # fmt: skip


def test_swin_has_integer_buffers():
    """So that whoever copies or averages buffers is tested on them."""
    integers = [b for b in made("swin_tiny_patch4_window7_224").buffers() if b.dtype == torch.int64]
    assert integers and all(b.numel() > 1 for b in integers)


@pytest.mark.parametrize("name", ["resnet20", "resnet18", "mobilenetv3_small_100", "vit_tiny_patch16_224"])
def test_equal_seeds_give_equal_weights(name):
    states = []
    for seed in (3, 3, 4):
        torch.manual_seed(seed)
        states.append(create(name).state_dict())
    same = [torch.equal(a, b) for a, b in zip(states[0].values(), states[1].values(), strict=True)]
    other = [torch.equal(a, b) for a, b in zip(states[0].values(), states[2].values(), strict=True)]
    assert all(same) and not all(other)


def test_lowering_a_stem_leaves_the_weights_and_the_statistics_of_one_construction():
    torch.manual_seed(5)
    expected = timm.create_model("efficientnet_b0", num_classes=0).state_dict()
    torch.manual_seed(5)
    got = create("efficientnet_b0").net.model.state_dict()
    assert list(got) == list(expected)
    assert all(torch.equal(got[key], expected[key]) for key in expected)


class Idle(nn.Module):
    """Like a timm model: one layer that never runs, one parameter that nothing reads."""

    def __init__(self) -> None:
        super().__init__()
        self.conv = nn.Conv2d(3, 4, 3)
        self.unused = nn.Linear(4, 4)
        self.token = nn.Parameter(torch.zeros(4))

    def forward_features(self, x):
        return self.conv(x)

    def forward_head(self, x, pre_logits):
        return x.mean((2, 3))


def test_what_the_embedding_does_not_use_is_dropped_or_frozen():
    net = TimmNet(Idle(), torch.zeros(1, 3, 8, 8))
    trainable = {name for name, p in net.named_parameters() if p.requires_grad}
    assert trainable == {"model.conv.weight", "model.conv.bias"}
    assert isinstance(net.model.unused, nn.Identity)
    assert net.width == 4 and net.stage_channels == {}  # no forward_intermediates, no stages


def test_a_fresh_backbone_is_in_training_mode():
    assert all(m.training for name in ("resnet8", "mobilenetv3_small_100") for m in create(name).modules())


def test_wide_resnet_convolutions_have_no_bias():
    convolutions = [m for m in made("wrn-16-2").modules() if isinstance(m, nn.Conv2d)]
    assert convolutions and all(m.bias is None for m in convolutions)


def test_importing_the_package_imports_neither_timm_nor_torchvision():
    code = (
        "import sys, ssl_kd.backbones; ssl_kd.backbones.create('resnet8'); "
        "print({'timm', 'torchvision'} & set(sys.modules))"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "set()"


def test_a_resnet_can_be_narrower_than_the_papers():
    backbone = create("resnet8", base=8)
    assert backbone.width == 32 and backbone.stage_channels == {"stage1": 8, "stage2": 16, "stage3": 32}
    embedding, maps = backbone.forward_stages(images(), ["stage2"])
    assert embedding.shape == (2, 32) and maps["stage2"].shape == (2, 16, 16, 16)
    convolutions = 27 * 8 + 2 * 72 * 8 + 72 * 16 + 144 * 16 + 8 * 16 + 144 * 32 + 288 * 32 + 16 * 32
    norms = 2 * (3 * 8 + 3 * 16 + 3 * 32)
    assert count(backbone) == convolutions + norms
    with pytest.raises(InputError, match="at least 1 channel in its first stage, not 0"):
        create("resnet8", base=0)


def test_a_mobilenet_is_widened_in_every_layer():
    backbone = create("mobilenet_v1", widen=0.25)
    assert backbone.width == 256
    assert backbone.stage_channels == {"stage1": 64, "stage2": 128, "stage3": 256}
    assert [m.out_channels for m in backbone.modules() if isinstance(m, nn.Conv2d) and m.groups == 1] == [
        8, 16, 32, 32, 64, 64, *[128] * 6, *[256] * 2,
    ]  # fmt: skip
    assert backbone.remainder("stage2")[1] == 512
    assert create("mobilenet_v1", widen=0.001).width == 1
    for widen in (0, -1, float("inf"), float("nan")):
        with pytest.raises(InputError, match="mobilenet_v1 widens by a number above 0, not"):
            create("mobilenet_v1", widen=widen)


def test_a_mobilenet_starts_with_pytorchs_initialisation():
    torch.manual_seed(2)
    backbone = create("mobilenet_v1", widen=0.25)
    torch.manual_seed(2)
    assert torch.equal(backbone.net.stem[0].weight, nn.Conv2d(3, 8, 3, bias=False).weight)
