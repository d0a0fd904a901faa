"""Augmentations that others wrote, inside a recipe."""

import pytest
import torch
from torch import nn
from torchvision.transforms.v2 import functional as TV

from ssl_kd.config import compose
from ssl_kd.data.recipes import Plain, Recipe
from ssl_kd.errors import InputError
from ssl_kd.registry import make
from ssl_kd.train import main

ROWS = 160  # two whole blocks and a half
PLAIN = dict(scale=(1.0, 1.0), ratio=(1.0, 1.0), flip=0.0)


def raw(first=0, last=None, rows=ROWS):
    images = torch.randint(
        0, 256, (rows, 3, 16, 16), dtype=torch.uint8, generator=torch.Generator().manual_seed(7)
    )
    row = torch.arange(rows)[first:last]
    return {"image": images[row], "row": row, "rows": rows}


def kornias(name, **options):
    augmentations = pytest.importorskip("kornia.augmentation")
    return getattr(augmentations, name)(**options)


def modules():
    yield "dropout", lambda: nn.Dropout(0.3)  # as many numbers as there are pixels
    yield "stack", lambda: nn.Sequential(nn.Dropout(0.3), nn.AlphaDropout(0.2))
    for name, options in {
        "RandomErasing": {"p": 0.5},
        "RandomGaussianNoise": {"std": 0.1, "p": 0.5},
        "RandomSolarize": {"p": 0.5},
        "RandomPosterize": {"p": 0.5},
        "RandomAffine": {"degrees": 20.0, "p": 0.5},
        "RandomSaltAndPepperNoise": {"p": 0.5},
        "ColorJiggle": {"hue": 0.1, "p": 0.5},
    }.items():
        yield name, lambda name=name, options=options: kornias(name, **options)


@pytest.mark.parametrize("build", [build for _, build in modules()], ids=[name for name, _ in modules()])
def test_what_a_row_gets_depends_on_seed_step_stream_and_row_alone(build):
    recipe = Recipe(16, views=2, extra=[build()])
    state, whole = torch.get_rng_state(), recipe(raw(), 3)["views"]
    assert torch.equal(torch.get_rng_state(), state)
    assert not torch.equal(whole, Recipe(16)(raw(), 3)["views"])
    torch.rand(10)
    fresh = Recipe(16, extra=[build()])
    fresh(raw(), 2)  # what a module remembers of a call changes nothing
    assert torch.equal(fresh(raw(), 3)["views"], whole)
    for first, last in ((0, 80), (80, 160), (0, 40), (120, 160), (63, 65)):
        assert torch.equal(recipe(raw(first, last), 3)["views"], whole[:, first:last])
    last = recipe(raw(), 4)["views"] - Recipe(16)(raw(), 4)["views"]
    assert not torch.equal(last, whole - Recipe(16)(raw(), 3)["views"])


def test_blocks_views_streams_and_modules_draw_numbers_of_their_own():
    grey = raw()
    grey["image"].fill_(128)
    views = Recipe(16, **PLAIN, extra=[nn.Dropout(0.5)], streams=["a", "b"])(grey, 0)
    flat = torch.cat([views["views_a"], views["views_b"]]).flatten(0, 1).flatten(1)  # (4 * ROWS, pixels)
    assert len(flat.unique(dim=0)) == len(flat)
    two = Recipe(16, **PLAIN, extra=[nn.Dropout(0.5), nn.Dropout(0.5)])(grey, 0)["views"]
    assert abs((two > 0).float().mean().item() - 0.25) < 0.01  # equal numbers would leave a half
    one = Recipe(16, **PLAIN, extra=[nn.Dropout(0.5)])(grey, 0)["views"]
    assert ((two > 0) <= (one > 0)).all()


def test_they_come_after_ours_in_their_order_and_stay_between_0_and_1():
    class Half(nn.Module):
        def forward(self, x):
            return x / 2

    class Brighter(nn.Module):
        def forward(self, x):
            return x + 0.7

    whole = Plain(16)(raw()["image"])
    for extra, wanted in (
        ([Half(), Brighter()], (whole / 2 + 0.7).clamp(max=1)),
        ([Brighter(), Half()], (whole + 0.7).clamp(max=1) / 2),
    ):
        views = Recipe(16, **PLAIN, views=1, extra=extra)(raw(), 0)["views"][0]
        torch.testing.assert_close(views, wanted, atol=1e-6, rtol=0)


def test_kornias_probability_is_of_each_image_and_its_operation_is_torchvisions():
    solarize = kornias("RandomSolarize", thresholds=(0.5, 0.5), additions=(0.0, 0.0), p=0.3)
    batch = raw(rows=2000)
    views = Recipe(16, **PLAIN, views=1, extra=[solarize])(batch, 0)["views"][0]
    whole = Plain(16)(batch["image"])
    done = ((views - TV.solarize(whole, 0.5)).abs() < 1e-5).flatten(1).all(1)
    left = ((views - whole).abs() < 1e-5).flatten(1).all(1)
    assert (done ^ left).all() and abs(done.float().mean().item() - 0.3) < 0.04


def test_local_views_get_them_too():
    views = Recipe(16, scale=(0.5, 1.0), local_views=2, extra=[nn.Dropout(0.9)])(raw(), 0)
    assert all((views[entry] == 0).float().mean() > 0.8 for entry in ("views", "views_local"))


def test_a_module_that_changes_the_shape_is_refused():
    with pytest.raises(
        InputError, match=r"recipe.extra\[1\] changes the shape of the views, \(64, 3, 16, 16\)"
    ):
        Recipe(16, extra=[nn.Identity(), nn.MaxPool2d(2)])(raw(), 0)


def test_kornia_is_added_from_the_command_line(capsys):
    pytest.importorskip("kornia")
    word = "recipe.extra=[{_target_: kornia.augmentation.RandomErasing, p: 1.0}]"
    (module,) = make(compose([word]).recipe).extra
    assert type(module).__name__ == "RandomErasing" and module.p == 1.0
    words = ["method=simclr", "peers=[resnet8]", "batch_size=16", "device=cpu", "dry_run=true", word]
    assert main(words) == 0
    assert main([*words[:-1], word.replace("p:", "chance:")]) == 2
    assert '"recipe.extra[0].chance" is not an option' in capsys.readouterr().err
