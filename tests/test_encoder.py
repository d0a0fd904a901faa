"""The usual peer: views in front, heads that read each other, one forward or one per view."""

import pytest
import torch
from torch import nn

from ssl_kd.backbones import create
from ssl_kd.data.augment import quarter_turns
from ssl_kd.encoder import Encoder, Head
from ssl_kd.errors import InputError
from ssl_kd.exits import light


class Backbone(nn.Module):
    """Images (N, 1, 4, 4) -> (N, 8), with two stages."""

    def __init__(self):
        super().__init__()
        self.conv, self.norm = nn.Conv2d(1, 8, 3, padding=1), nn.BatchNorm2d(8)

    def forward_stages(self, images, stages):
        maps = {"stage1": self.conv(images)}
        maps["stage2"] = self.norm(maps["stage1"]).relu()
        return maps["stage2"].mean((2, 3)), {name: maps[name] for name in stages}

    def forward(self, images):
        return self.forward_stages(images, ())[0]


VIEWS = torch.linspace(0, 1, 2 * 3 * 16).reshape(2, 3, 1, 4, 4)


def test_outputs_carry_the_views_in_front():
    heads = {"z": nn.Linear(8, 5), "exit": Head(nn.Conv2d(8, 2, 1), "stage1")}
    said = Encoder(Backbone(), heads, stages=["stage2"])({"views": VIEWS}, {})
    shapes = {name: tuple(value.shape) for name, value in said.items()}
    assert shapes == {
        "embedding": (2, 3, 8),
        "stage2": (2, 3, 8, 4, 4),
        "stage1": (2, 3, 8, 4, 4),
        "z": (2, 3, 5),
        "exit": (2, 3, 2, 4, 4),
    }


def test_a_head_may_read_an_earlier_head():
    encoder = Encoder(Backbone(), {"z": nn.Linear(8, 5), "p": Head(nn.Linear(5, 5), "z")})
    assert encoder.outputs == ("embedding", "z", "p")
    said = encoder({"views": VIEWS})
    assert torch.allclose(said["p"], encoder.heads["p"](said["z"]))


def test_per_view_runs_each_view_with_its_own_batch_statistics():
    encoder = Encoder(Backbone(), {}, per_view=True)
    apart = encoder({"views": VIEWS})["embedding"]
    alone = torch.stack([encoder.backbone(view) for view in VIEWS])
    encoder.per_view = False
    assert torch.equal(apart, alone) and not torch.allclose(apart, encoder({"views": VIEWS})["embedding"])


def test_several_entries_are_forwards_of_their_own_joined_along_the_views():
    encoder = Encoder(Backbone(), {}, views=["large", "small"]).eval()
    said = encoder({"large": VIEWS, "small": VIEWS[:1, :, :, :2, :2]})
    assert said["embedding"].shape == (3, 3, 8)


def test_exits_work_on_views_of_different_sizes_whose_maps_cannot_be_joined():
    backbone = create("resnet8", base=4)
    exit_ = Head(light(8, backbone=backbone, stage="stage2", image=torch.zeros(1, 3, 32, 32)), "stage2")
    encoder = Encoder(backbone, {"exit": exit_}, views=("views", "small"), stages=["stage1"])
    said = encoder({"views": torch.rand(2, 3, 3, 32, 32), "small": torch.rand(4, 3, 3, 16, 16)})
    assert said["exit"].shape == (6, 3, 16) and set(said) == {"embedding", "exit"}


def test_a_head_may_see_other_views_than_its_peer_and_what_reads_it_sees_these_too():
    heads = {
        "z": nn.Linear(8, 5),
        "turn": Head(nn.Linear(8, 4), views=quarter_turns),
        "more": Head(nn.Linear(4, 3), "turn"),
    }
    encoder = Encoder(Backbone(), heads).eval()
    said = encoder({"views": VIEWS})
    assert {name: tuple(value.shape) for name, value in said.items()} == {
        "embedding": (2, 3, 8),
        "z": (2, 3, 5),
        "turn": (4, 3, 4),
        "more": (4, 3, 3),
    }
    plain = Encoder(encoder.backbone, {"z": encoder.heads["z"]}).eval()({"views": VIEWS})
    assert all(torch.equal(said[name], plain[name]) for name in plain)  # and nothing else is changed
    for k in range(4):
        turned = encoder.backbone(VIEWS[0].rot90(k, (2, 3)))
        assert torch.allclose(said["turn"][k], encoder.heads["turn"](turned), atol=1e-6)


def test_a_head_with_views_of_its_own_on_top_of_another_head_is_refused():
    heads = {"z": nn.Linear(8, 5), "turn": Head(nn.Linear(5, 4), "z", quarter_turns)}
    with pytest.raises(InputError, match='the head "turn" reads the head "z" and sees what that one sees'):
        Encoder(Backbone(), heads)


def test_of_a_frozen_backbone_the_heads_alone_learn_and_its_statistics_stay():
    encoder = Encoder(
        Backbone(), {"z": nn.Sequential(nn.Linear(8, 5), nn.BatchNorm1d(5))}, frozen_backbone=True
    )
    before = {key: value.clone() for key, value in encoder.state_dict().items()}
    encoder.train()
    encoder({"views": VIEWS}, {})["z"].square().sum().backward()
    learn = {name for name, value in encoder.named_parameters() if value.grad is not None}
    assert learn == {name for name, _ in encoder.named_parameters() if name.startswith("heads.")}
    changed = {key for key, value in encoder.state_dict().items() if not torch.equal(value, before[key])}
    assert changed == {f"heads.z.1.{name}" for name in ("running_mean", "running_var", "num_batches_tracked")}
