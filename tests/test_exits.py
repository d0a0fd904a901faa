"""Exits of every kind on every family, at 32 pixels: shapes, gradients, what they share and leave."""

import copy
import pickle

import pytest
import torch
from torch import nn

from ssl_kd import exits
from ssl_kd.backbones import Backbone, create
from ssl_kd.backbones.cifar import Staged
from ssl_kd.errors import InputError

FAMILIES = {
    "resnet8": {},
    "resnet20": {},
    "wrn-16-2": {},
    "mobilenet_v1": {"widen": 0.125},
    "resnet18": {},
    "shufflenet_v2_x0_5": {},
    "mobilenet_v2": {},
    "vit_tiny_patch16_224": {"depth": 3},
}
IMAGE = torch.zeros(1, 3, 32, 32)

_made: dict[str, Backbone] = {}


def made(name: str) -> Backbone:
    """One of each for the tests that only look."""
    if name not in _made:
        torch.manual_seed(0)
        _made[name] = create(name, **FAMILIES[name])
    return _made[name]


def maps(backbone: nn.Module) -> dict[str, torch.Tensor]:
    """Every stage's map of two images, in eval mode."""
    images = torch.rand(2, 3, 32, 32, generator=torch.Generator().manual_seed(1))
    with torch.no_grad():
        return copy.deepcopy(backbone).eval().forward_stages(images, backbone.stage_channels)[1]


def built(kind: str, backbone: nn.Module, stage: str) -> exits.Exit:
    channels = backbone.stage_channels[stage]
    if kind == "own":
        return exits.own(channels, backbone=backbone, stage=stage)
    if kind == "light":
        return exits.light(channels, backbone=backbone, stage=stage, image=IMAGE)
    return exits.pool(channels)


def count(module: nn.Module) -> int:
    return sum(p.numel() for p in module.parameters())


@pytest.mark.parametrize("name", FAMILIES)
@pytest.mark.parametrize("kind", ["own", "light", "pool"])
def test_an_exit_gives_rows_of_its_width_and_every_parameter_gets_a_gradient(kind, name):
    backbone = made(name)
    found = maps(backbone)
    for stage in list(found)[:-1]:
        head = built(kind, backbone, stage)
        rows = head(found[stage])
        assert type(head.width) is int and rows.shape == (2, head.width)
        if kind != "pool":
            rows.square().sum().backward()
        assert all(p.grad is not None for p in head.parameters())


@pytest.mark.parametrize("name", FAMILIES)
def test_own_blocks_share_no_parameter_and_no_number_with_the_backbone(name):
    backbone = made(name)
    head = built("own", backbone, "stage2")
    tensors = {t.data_ptr() for t in [*backbone.parameters(), *backbone.buffers()]}
    assert all(t.data_ptr() not in tensors for t in [*head.parameters(), *head.buffers()])
    drawn = [p for p in head.parameters() if p.ndim > 1]
    assert drawn
    for p in drawn:
        assert not any(p.shape == q.shape and torch.equal(p, q) for q in backbone.parameters())


@pytest.mark.parametrize(("name", "options"), [
    ("resnet8", {}), ("wrn-10-2", {}), ("resnet18", {}), ("shufflenet_v2_x0_5", {}), ("mobilenet_v2", {}),
    ("vit_tiny_patch16_224", {"depth": 3, "class_token": False, "global_pool": "avg"}),
])  # fmt: skip
def test_own_blocks_with_the_weights_of_the_backbone_give_its_embedding(name, options):
    """So they are those blocks, in that order: where DCM's rule leaves as many as there are."""
    backbone = create(name, **options)
    with torch.no_grad():
        for p in backbone.parameters():  # the defaults are equal in too many places
            p.add_(0.02 * torch.randn_like(p))
    head = exits.own(0, backbone=backbone, stage="stage1").eval()
    values = list(backbone.state_dict().values())
    state = head.state_dict()
    head.load_state_dict(dict(zip(state, values[-len(state) :], strict=True)))
    images = torch.rand(2, 3, 32, 32)
    embedding, found = backbone.eval().forward_stages(images, ["stage1"])
    torch.testing.assert_close(head(found["stage1"]), embedding)


def test_dcm_halves_the_last_stage_of_the_first_exit_and_doubles_the_width_of_the_second():
    first, second = (built("own", made("wrn-16-2"), stage) for stage in ("stage1", "stage2"))
    assert (first.width, second.width) == (128, 256)
    channels = [
        [m.out_channels for m in head.modules() if isinstance(m, nn.Conv2d) and m.kernel_size == (3, 3)]
        for head in (first, second)
    ]
    assert channels == [[64] * 4 + [128] * 2, [256] * 4]


def test_own_blocks_of_a_frozen_backbone_in_eval_mode_learn():
    backbone = create("resnet18").eval().requires_grad_(False)
    backbone.net.stages["stage4"][0].bn1.running_mean.fill_(3)
    head = built("own", backbone, "stage3")
    assert all(m.training for m in head.modules()) and all(p.requires_grad for p in head.parameters())
    assert not any(m.running_mean.any() for m in head.modules() if isinstance(m, nn.BatchNorm2d))


def test_own_blocks_of_a_vit_start_as_timm_starts_them():
    head = built("own", made("vit_tiny_patch16_224"), "stage1")
    drawn = [m.weight.std() for m in head.modules() if isinstance(m, nn.Linear)]
    assert drawn and all(0.015 < std < 0.025 for std in drawn)  # PyTorch's own would be 0.042 and 0.021


def test_a_light_exit_has_a_block_for_each_halving_that_is_left():
    def block(inputs: int, outputs: int) -> int:
        return 9 * inputs + 2 * inputs + inputs * outputs + 2 * outputs

    resnet, vit = made("resnet20"), made("vit_tiny_patch16_224")
    heads = [built("light", resnet, stage) for stage in resnet.stage_channels]
    assert [head.width for head in heads] == [64, 64, 64]
    # At the last stage nothing is left: one block keeps size and channels.
    assert [count(head) for head in heads] == [block(16, 32) + block(32, 64), block(32, 64), block(64, 64)]
    assert count(built("light", vit, "stage1")) == block(192, 192)
    assert heads[0].body[:-2](torch.zeros(2, 16, 32, 32)).shape == (2, 64, 8, 8)


def test_a_pooling_exit_is_the_mean_over_the_pixels():
    x = torch.rand(2, 5, 4, 3)
    head = exits.pool(5)
    assert torch.equal(head(x), x.mean((2, 3))) and head.width == 5 and not head.state_dict()


class Noisy(nn.Module):
    """A backbone of no family, which draws numbers even in eval mode."""

    stage_channels = {"early": 4, "late": 8}

    def __init__(self) -> None:
        super().__init__()
        self.early = nn.Sequential(nn.Conv2d(3, 4, 3, padding=1), nn.BatchNorm2d(4))
        self.late = nn.Sequential(nn.Conv2d(4, 8, 3, 4, 1), nn.BatchNorm2d(8))

    def forward_stages(self, images, stages):
        early = self.early(images) + torch.rand(())
        late = self.late(early)
        return late.mean((2, 3)), {"early": early, "late": late}


def test_a_look_at_the_sizes_leaves_modes_buffers_and_the_random_state():
    backbone = Noisy()
    backbone.late.eval()
    modes = [m.training for m in backbone.modules()]
    state = copy.deepcopy(backbone.state_dict())
    torch.manual_seed(3)
    head = built("light", backbone, "early")
    after = torch.rand(())
    assert [m.training for m in backbone.modules()] == modes
    assert all(torch.equal(a, b) for a, b in zip(state.values(), backbone.state_dict().values(), strict=True))
    assert head.width == 16 and not head.state_dict()["body.0.0.weight"].isnan().any()
    torch.manual_seed(3)  # the exit's weights are all that was drawn
    same = nn.Sequential(exits.separable(4, 8, 2), exits.separable(8, 16, 2))
    assert all(torch.equal(a, b) for a, b in zip(head.parameters(), same.parameters(), strict=True))
    assert torch.equal(after, torch.rand(()))


@pytest.mark.parametrize("name", ["resnet8", "mobilenet_v1", "resnet18", "vit_tiny_patch16_224"])
def test_equal_seeds_give_equal_exits_and_the_backbone_stays(name):
    backbone = made(name)
    state = copy.deepcopy(backbone.state_dict())
    heads = []
    for seed in (3, 3, 4):
        torch.manual_seed(seed)
        heads.append(built("own", backbone, "stage1").state_dict())
    same = [torch.equal(a, b) for a, b in zip(heads[0].values(), heads[1].values(), strict=True)]
    other = [torch.equal(a, b) for a, b in zip(heads[0].values(), heads[2].values(), strict=True)]
    assert all(same) and not all(other)
    assert all(torch.equal(a, b) for a, b in zip(state.values(), backbone.state_dict().values(), strict=True))


@pytest.mark.parametrize("name", ["resnet8", "wrn-16-2", "mobilenet_v1", "resnet18"])
def test_a_copied_or_pickled_backbone_still_builds_its_blocks(name):
    for other in (copy.deepcopy(made(name)), pickle.loads(pickle.dumps(made(name)))):
        assert count(built("own", other, "stage1")) == count(built("own", made(name), "stage1"))


def test_an_unknown_or_the_last_stage_has_no_own_blocks():
    backbone = made("resnet20")
    with pytest.raises(InputError, match='no stage "stage4"; its stages: stage1, stage2, stage3'):
        exits.own(64, backbone=backbone, stage="stage4")
    with pytest.raises(InputError, match='no stage "stage4"; its stages: stage1, stage2, stage3'):
        exits.light(64, backbone=backbone, stage="stage4", image=IMAGE)
    with pytest.raises(InputError, match='resnet20 has no blocks after "stage3", its last stage'):
        exits.own(64, backbone=backbone, stage="stage3")


@pytest.mark.parametrize(("name", "options"), [
    ("mobilenetv3_small_100", {}),  # its blocks are not its stages
    ("beit_base_patch16_224", {"depth": 2, "embed_dim": 24, "num_heads": 2}),  # they count the class token
    ("eva02_tiny_patch14_224", {"depth": 2, "embed_dim": 24, "num_heads": 2}),  # they are told the positions
])  # fmt: skip
def test_other_models_of_timm_advise_the_light_exit(name, options):
    backbone = create(name, **options)
    channels = backbone.stage_channels["stage1"]
    with pytest.raises(
        InputError, match=f"{name} cannot build its blocks after a stage again; take the light"
    ):
        exits.own(channels, backbone=backbone, stage="stage1")
    assert exits.light(channels, backbone=backbone, stage="stage1", image=IMAGE).width >= channels


def test_networks_without_a_remainder_advise_the_light_exit():
    with pytest.raises(InputError, match=r"Noisy has no remainder\(stage\).*take the light exit"):
        exits.own(4, backbone=Noisy(), stage="early")

    class Plain(Staged):
        remainder = None

    net = Plain(nn.Conv2d(3, 4, 1), {"a": nn.Conv2d(4, 4, 1), "b": nn.Conv2d(4, 4, 1)}, {"a": 4, "b": 4}, 4)
    with pytest.raises(InputError, match="mine cannot build its blocks"):
        exits.own(4, backbone=Backbone(net, 4, net.stage_channels, name="mine"), stage="a")
