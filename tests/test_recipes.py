"""Recipes: the operations against torchvision's, the random numbers against their promises."""

from itertools import permutations

import pytest
import torch
from omegaconf import OmegaConf
from scipy.stats import binomtest, chi2_contingency, kstest
from torchvision.transforms import ColorJitter, GaussianBlur, RandomResizedCrop, RandomRotation
from torchvision.transforms.v2 import functional as TV

from ssl_kd.config import compose
from ssl_kd.data import augment
from ssl_kd.data.recipes import Plain, Recipe, Supervised
from ssl_kd.data.views import Parameters
from ssl_kd.errors import InputError
from ssl_kd.groups import choices
from ssl_kd.registry import make
from ssl_kd.train import main

EVERYTHING = dict(
    rotate=15.0, brightness=0.4, contrast=0.4, saturation=0.4, hue=0.1, gray=0.2, blur=0.5, noise=0.05
)
ADJUST = (TV.adjust_brightness, TV.adjust_contrast, TV.adjust_saturation, TV.adjust_hue)
N = 20_000
PINNED = [[0.39984, 0.737439, 0.361421, 0.275096], [0.219107, 0.57907, 0.34444, 0.65626]]


@pytest.fixture(autouse=True)
def fixed_seed():
    torch.manual_seed(0)


def raw(rows=16, channels=3, height=32, width=32, first=0, last=None):
    """Rows first..last of a global batch whose images are always the same."""
    images = torch.randint(
        0, 256, (rows, channels, height, width), dtype=torch.uint8, generator=torch.Generator().manual_seed(7)
    )
    row = torch.arange(rows)[first:last]
    return {"image": images[row], "label": row, "row": row, "rows": rows}


def close(ours, theirs, tolerance=1e-5):
    torch.testing.assert_close(ours, theirs, atol=tolerance, rtol=0)


# The operations


@pytest.mark.parametrize("box", [(0, 0, 40, 48), (3, 5, 11, 17), (10, 20, 30, 9), (39, 47, 1, 1)])
@pytest.mark.parametrize("size", [8, 32, 56])
@pytest.mark.parametrize("flip", [False, True])
def test_cropping_by_matrices_is_torchvisions_resized_crop(box, size, flip):
    images = raw(3, height=40, width=48)["image"]
    top, left, height, width = torch.tensor(box)[:, None].expand(4, 3)
    rows = augment.resize_matrix(*augment.resize_points(top, height, size, 40))
    columns = augment.resize_matrix(*augment.resize_points(left, width, size, 48, torch.full((3,), flip)))
    ours = augment.resample(images, rows, columns)
    theirs = TV.resized_crop(images, *box, [size, size], antialias=True)
    exact = TV.resized_crop(images.float(), *box, [size, size], antialias=True)
    if flip:
        theirs, exact = theirs.flip(-1), exact.flip(-1)
    assert (ours - theirs.float()).abs().max() <= 1.01  # theirs is rounded to integers, in two passes
    close(ours, exact, 1e-3)


def test_each_image_has_its_own_crop():
    images = raw(12)["image"]
    start, length = torch.randint(0, 12, (12,)), torch.randint(4, 20, (12,))
    matrix = augment.resize_matrix(*augment.resize_points(start, length, 16, 32))
    views = augment.resample(images, matrix, matrix)
    assert views.shape == (12, 3, 16, 16)
    for view, image, s, n in zip(views, images.float(), start.tolist(), length.tolist(), strict=True):
        close(view, TV.resized_crop(image, s, s, n, n, [16, 16], antialias=True), 1e-3)


def test_rotation_is_torchvisions():
    x, degrees = torch.rand(4, 3, 24, 24), torch.tensor([0.0, 7.0, -33.0, 120.0])
    theirs = [TV.rotate(x[i], degrees[i].item(), TV.InterpolationMode.BILINEAR) for i in range(4)]
    close(augment.rotate(x, degrees), torch.stack(theirs), 1e-4)


@pytest.mark.parametrize("channels", [1, 3])
def test_jitter_in_any_order_is_torchvisions_operations_in_that_order(channels):
    x = torch.rand(24, channels, 12, 12)
    x[0] = 0.5  # a grey image has no hue
    order = torch.tensor(list(permutations(range(4))))
    factor = torch.cat([torch.rand(24, 3) * 1.6 + 0.2, torch.rand(24, 1) - 0.5], 1)
    theirs = []
    for image, sequence, f in zip(x.clone(), order.tolist(), factor, strict=True):
        for k in sequence:
            image = ADJUST[k](image, f[k].item())
        theirs.append(image)
    close(augment.jitter(x, augment.mixing(order, factor, channels)), torch.stack(theirs))


def test_jitter_of_factors_one_and_hue_zero_changes_nothing():
    x = torch.rand(8, 3, 8, 8)
    how = augment.mixing(torch.rand(8, 4).argsort(1), torch.tensor([1.0, 1, 1, 0]).expand(8, 4), 3)
    same = augment.jitter(x.clone(), how)
    assert torch.equal(same, x)


def test_grey_blur_and_solarize_are_torchvisions():
    x, sigma = torch.rand(5, 3, 32, 32), torch.tensor([0.1, 0.5, 1.0, 1.5, 2.0])
    close(augment.gray(x), TV.rgb_to_grayscale(x))
    x[0, 0, 0, 0] = 0.5
    assert torch.equal(augment.solarize(x), TV.solarize(x, 0.5))
    for kernel in (3, 7, 23):
        theirs = [TV.gaussian_blur(x[i], [kernel, kernel], [sigma[i].item()] * 2) for i in range(5)]
        close(augment.blur(x, sigma, kernel), torch.stack(theirs))


@pytest.mark.parametrize("size", [16, 32, 48])
def test_plain_is_torchvisions_antialiased_resize(size):
    images = raw(4)["image"]
    close(Plain(size)(images), TV.resize(images.float() / 255, [size, size], antialias=True))


@pytest.mark.parametrize("size", [32, 64])
def test_the_whole_chain_is_torchvisions_on_20_parameter_sets(size):
    images = raw(20, height=40, width=48)["image"]
    half = dict(jitter=0.7, gray=0.3, blur=0.5, solarize=0.5)
    recipe = Recipe(size, views=1, **half, brightness=0.8, contrast=0.8, saturation=0.8, hue=0.2, seed=1)
    views = recipe.entries["views"]
    p = views.parameters(views.draw(20)[0], 40, 48)
    ours = views.apply(images, p)[0]
    p = Parameters(*(field[0] for field in p))
    assert all(0 < chosen.sum() < 20 for chosen in (p.flip, p.gray, p.sigma > 0, p.solarize))
    kernel = 2 * (size // 20) + 1
    for i, x in enumerate(images.float() / 255):
        x = TV.resized_crop(x, *p.box[i].tolist(), [size, size], antialias=True)
        x = x.flip(-1) if p.flip[i] else x
        for k in p.order[i].tolist():
            x = ADJUST[k](x, p.factor[i, k].item())
        x = TV.rgb_to_grayscale(x, 3) if p.gray[i] else x
        x = TV.gaussian_blur(x, [kernel] * 2, [p.sigma[i].item()] * 2) if p.sigma[i] > 0 else x
        x = TV.solarize(x, 0.5) if p.solarize[i] else x
        close(ours[i], x, 1e-4)  # promised are 2/255


# The distributions


def drawn(height=32, width=32, entry="views", **options):
    """The parameters of N views as the recipe draws them, views of an image one after the other."""
    recipe = Recipe(32, **options)
    views = recipe.entries[entry]
    numbers, _ = views.draw(N // len(views.chance["flip"]), recipe.seed, entry, "", 0)
    return Parameters(*(p.flatten(0, 1) for p in views.parameters(numbers, height, width)))


def agree(ours, theirs):
    """Both are samples of one distribution, or seem so."""
    assert len(ours) == len(theirs) == N
    return kstest(ours.numpy(), theirs.numpy()).pvalue > 0.001


def happens(chosen, p):
    return binomtest(int(chosen.sum()), chosen.numel(), p).pvalue > 0.001


@pytest.mark.parametrize(
    "height, width, scale",
    [(32, 32, (0.08, 1.0)), (48, 20, (0.2, 1.0)), (16, 64, (0.9, 1.0))],  # the last one often falls back
)
def test_crops_are_distributed_as_torchvisions(height, width, scale):
    image = torch.empty(1, height, width)
    theirs = torch.tensor([RandomResizedCrop.get_params(image, scale, (3 / 4, 4 / 3)) for _ in range(N)])
    ours = drawn(height, width, scale=scale).box
    for k in range(4):
        assert agree(ours[:, k], theirs[:, k])
    assert agree(ours[:, 2] * ours[:, 3], theirs[:, 2] * theirs[:, 3])
    assert (ours[:, 2:] >= 1).all() and (ours[:, :2] >= 0).all()
    assert (ours[:, 0] + ours[:, 2] <= height).all() and (ours[:, 1] + ours[:, 3] <= width).all()


def test_colours_are_distributed_as_torchvisions_and_another_range_would_be_noticed():
    theirs = ColorJitter(0.4, 0.8, 1.2, 0.1)
    ranges = (theirs.brightness, theirs.contrast, theirs.saturation, theirs.hue)
    orders, *factors = zip(*(theirs.get_params(*ranges) for _ in range(N)), strict=True)
    options = dict(brightness=0.4, contrast=0.8, saturation=1.2, jitter=1.0)
    ours = drawn(**options, hue=0.1)
    for k in range(4):
        assert agree(ours.factor[:, k], torch.tensor(factors[k]))
    number = torch.tensor([64, 16, 4, 1])
    counts = [(order * number).sum(1).bincount(minlength=256) for order in (ours.order, torch.stack(orders))]
    counts = torch.stack(counts)
    assert (counts.sum(0) > 0).sum() == 24 and chi2_contingency(counts[:, counts.sum(0) > 0]).pvalue > 0.001
    for hue in (0.09, 0.12):
        assert not agree(drawn(**options, hue=hue).factor[:, 3], torch.tensor(factors[3]))


def test_rotation_and_blur_are_distributed_as_torchvisions():
    ours = drawn(rotate=15.0, blur=1.0)
    theirs = [RandomRotation.get_params([-15.0, 15.0]) for _ in range(N)]
    assert agree(ours.degrees, torch.tensor(theirs))
    theirs = [GaussianBlur.get_params(0.1, 2.0) for _ in range(N)]
    assert agree(ours.sigma, torch.tensor(theirs))


def test_what_may_happen_happens_as_often_as_asked_and_to_the_views_asked():
    colours = dict(brightness=0.4, contrast=0.4, saturation=0.4, hue=0.1)
    p = drawn(flip=0.3, jitter=0.8, gray=0.2, blur=0.5, solarize=0.1, **colours)
    jittered = (p.factor != torch.tensor([1.0, 1.0, 1.0, 0.0])).all(1)
    for chosen, chance in (
        (p.flip, 0.3),
        (jittered, 0.8),
        (p.gray, 0.2),
        (p.sigma > 0, 0.5),
        (p.solarize, 0.1),
    ):
        assert happens(chosen, chance) and not happens(chosen, chance + 0.02)
        first, second = chosen.view(2, -1)  # of the same images
        assert happens(first & second, chance**2)
    p = drawn(
        flip=[0.0, 0.5], jitter=[1.0, 0.5], gray=[0.2, 0.0], blur=[1.0, 0.1], solarize=[0.0, 0.2], **colours
    )
    jittered = (p.factor != torch.tensor([1.0, 1.0, 1.0, 0.0])).all(1)
    for chosen, chances in (
        (p.flip, (0.0, 0.5)),
        (jittered, (1.0, 0.5)),
        (p.gray, (0.2, 0.0)),
        (p.sigma > 0, (1.0, 0.1)),
        (p.solarize, (0.0, 0.2)),
    ):
        assert all(happens(view, chance) for view, chance in zip(chosen.view(2, -1), chances, strict=True))


def test_pixels_show_what_was_drawn():
    ramp = (torch.arange(16, dtype=torch.uint8) * 16).expand(2000, 3, 16, 16).contiguous()
    ramp[:, 1] //= 2
    batch = {"image": ramp, "row": torch.arange(2000), "rows": 2000}
    views = Recipe(16, flip=0.3, gray=0.2)(batch, 0)["views"].flatten(0, 1)
    flipped = (views[:, 0, :, 0] > views[:, 0, :, -1]).all(1).float().mean()
    grey = (views[:, 0] == views[:, 1]).flatten(1).all(1).float().mean()
    assert abs(flipped - 0.3) < 0.03 and abs(grey - 0.2) < 0.03
    whole = dict(scale=(1.0, 1.0), ratio=(1.0, 1.0), flip=0.0)
    jittered = Recipe(16, **whole, brightness=0.4, jitter=0.7)(batch, 0)["views"]
    changed = ((jittered - Plain(16)(ramp)).abs() > 1e-3).flatten(2).any(2).float().mean()
    assert abs(changed - 0.7) < 0.03
    ratio = jittered[..., 0, :, 8] / Plain(16)(ramp)[:, 0, :, 8]
    assert 0.6 <= ratio.min() < 0.62 and 1.38 < ratio.max() <= 1.4 + 1e-6


# The promises


def test_views_are_float32_between_0_and_1_and_replace_the_image():
    batch = raw()
    before = batch["image"].clone()
    out = Recipe(24, views=3, **EVERYTHING)(batch, 5)
    assert set(out) == {"label", "row", "rows", "views"}
    assert out["views"].shape == (3, 16, 3, 24, 24) and out["views"].dtype == torch.float32
    assert out["views"].min() >= 0 and out["views"].max() <= 1
    assert not torch.equal(out["views"][0], out["views"][1])
    assert torch.equal(batch["image"], before) and "image" in batch


def test_views_are_a_function_of_seed_and_step_and_touch_no_other_stream():
    recipe, state = Recipe(32, **EVERYTHING), torch.get_rng_state()
    first = recipe(raw(), 3)["views"]
    assert torch.equal(torch.get_rng_state(), state)
    torch.rand(10)
    assert torch.equal(recipe(raw(), 3)["views"], first)
    assert not torch.equal(recipe(raw(), 4)["views"], first)
    assert not torch.equal(Recipe(32, seed=1, **EVERYTHING)(raw(), 3)["views"], first)


@pytest.mark.parametrize("size, channels", [(32, 3), (8, 1), (37, 3)])
@pytest.mark.parametrize("world", [2, 3, 48])
def test_views_of_a_row_do_not_depend_on_the_number_of_processes(size, channels, world):
    for recipe in (Recipe(size, **EVERYTHING), Supervised(size, cutout=4)):
        whole = recipe(raw(96, channels, size, size), 11)["views"]
        for rank in range(world):
            first, last = rank * 96 // world, (rank + 1) * 96 // world
            part = recipe(raw(96, channels, size, size, first, last), 11)["views"]
            assert torch.equal(part, whole[:, first:last])


def test_views_do_not_depend_on_the_number_of_threads():
    recipe, threads = Recipe(32, **EVERYTHING), torch.get_num_threads()
    try:
        torch.set_num_threads(1)
        alone = recipe(raw(96), 3)["views"]
        torch.set_num_threads(3)
        assert torch.equal(recipe(raw(96), 3)["views"], alone)
    finally:
        torch.set_num_threads(threads)


def test_a_streams_views_do_not_depend_on_which_other_streams_there_are():
    both = Recipe(32, streams=["large", "small"], **EVERYTHING)(raw(), 0)
    alone = Recipe(32, streams=["small"], **EVERYTHING)(raw(), 0)
    assert set(both) == {"label", "row", "rows", "views_large", "views_small"}
    assert torch.equal(both["views_small"], alone["views_small"])
    assert not torch.equal(both["views_small"], both["views_large"])


@pytest.mark.parametrize("name", ["blur", "solarize", "gray", "flip"])
def test_switching_on_one_operation_leaves_the_numbers_of_the_others(name):
    without = Recipe(32, **{**EVERYTHING, name: 0.0})(raw(), 0)["views"]
    with_it = Recipe(32, **{**EVERYTHING, name: 0.5})(raw(), 0)["views"]
    same = (without == with_it).flatten(2).all(2)
    assert 0 < same.sum() < same.numel()


def test_the_views_of_a_seed_are_those_of_earlier_versions():
    images = torch.arange(12 * 32 * 32).mul(37).remainder(256).to(torch.uint8).view(4, 3, 32, 32)
    batch = {"image": images, "row": torch.arange(4), "rows": 4}
    views = Recipe(32, **EVERYTHING)(batch, 3)["views"]
    close(views[:, :, 1, 16, 16], torch.tensor(PINNED))


def test_colour_operations_mean_nothing_for_one_channel():
    grey = raw(channels=1)
    coloured = Recipe(32, saturation=0.8, hue=0.2, gray=1.0, jitter=1.0)(grey, 0)["views"]
    assert torch.equal(coloured, Recipe(32)(grey, 0)["views"])


def test_blur_and_noise_have_their_sizes():
    assert torch.equal(Recipe(16, blur=1.0)(raw(), 0)["views"], Recipe(16)(raw(), 0)["views"])  # 1 tap
    flat = {"image": torch.full((16, 3, 32, 32), 128, dtype=torch.uint8), "row": torch.arange(16), "rows": 16}
    assert abs(Recipe(32, noise=0.05)(flat, 0)["views"].std().item() - 0.05) < 0.001


def test_supervised_is_a_reflect_padded_crop_and_a_flip():
    batch = raw(40, height=12, width=12)
    views = Supervised(12, pad=2)(batch, 0)["views"]
    assert views.shape == (1, 40, 3, 12, 12)
    padded = TV.pad(batch["image"], [2, 2, 2, 2], padding_mode="reflect").float() / 255
    found = set()
    for b in range(40):
        for dy in range(5):
            for dx in range(5):
                crop = padded[b, :, dy : dy + 12, dx : dx + 12]
                for flip, candidate in ((False, crop), (True, crop.flip(-1))):
                    if torch.allclose(views[0, b], candidate, atol=1e-6):
                        found.add((b, dy, dx, flip))
    assert len({b for b, *_ in found}) == 40  # each view is such a crop
    assert {dy for _, dy, *_ in found} == {dx for *_, dx, _ in found} == set(range(5))
    assert {flip for *_, flip in found} == {False, True}


def test_supervised_resizes_what_has_another_size_and_cuts_out_a_square():
    batch = raw(64, height=20, width=28)
    still = Supervised(16, pad=0, flip=0.0)(batch, 0)["views"]
    close(still[0], Plain(16)(batch["image"]))
    cut = Supervised(16, pad=0, flip=0.0, cutout=6)(batch, 0)["views"]
    hole = (cut != still).any(2)[0].flatten(1).sum(1)
    assert hole.max() == 36 and hole.min() < 36 and (cut[cut != still] == 0.5).all()


@pytest.mark.parametrize(
    "bad, sentence",
    [
        (dict(size=0), "size must be at least 1 pixel, not 0"),
        (dict(views=0), "views must be at least 1, not 0"),
        (dict(scale=(0.5, 0.1)), r"scale must be two rising numbers in \(0, 1\], not \(0.5, 0.1\)"),
        (dict(ratio=(0, 1)), r"ratio must be two rising numbers above 0, not \(0, 1\)"),
        (dict(blur_sigma=(0, 1)), "blur_sigma must be two rising numbers above 0"),
        (dict(hue=0.6), r"hue must be in \[0, 0.5\], not 0.6"),
        (dict(flip=1.5), "flip must be a probability, not 1.5"),
        (dict(solarize=[0.0, 1.5]), "solarize must be a probability, not 1.5"),
        (dict(blur=[1.0]), r"blur must be one probability, or one for each of the 2 views, not \[1.0\]"),
        (dict(blur=[1.0, 0.5], local_views=2), "one for each of the 4 views"),
        (dict(local_views=-1), "local_views must be at least 0, not -1"),
        (dict(local_size=1.5), r"local_size must be a part of the size, in \(0, 1\], not 1.5"),
        (
            dict(local_views=6, local_scale=0.2),
            r"local_scale must be in \(0, 0.08\], up to scale\[0\], not 0.2",
        ),
        (dict(extra=[0.5]), r"extra must be modules that take images \(N, C, H, W\), not \[0.5\]"),
        (dict(brightness=-1), "brightness must be at least 0, not -1"),
        (dict(streams=["a", "a"]), "streams must be names that differ"),
    ],
)
def test_a_recipe_refuses_what_makes_no_sense(bad, sentence):
    with pytest.raises(InputError, match=sentence):
        Recipe(**{"size": 32, **bad})


def test_supervised_and_plain_refuse_what_makes_no_sense():
    with pytest.raises(InputError, match=r"pad must be in \[0, 8\), less than the size, not 8"):
        Supervised(8, pad=8)
    with pytest.raises(InputError, match="size must be at least 1 pixel, not 0"):
        Plain(0)


# Small views, and the recipes by their names


def test_local_views_are_small_views_of_small_parts():
    options = dict(local_views=6, local_size=3 / 7, scale=(0.14, 1.0), **EVERYTHING)
    both, alone = Recipe(32, **options)(raw(), 3), Recipe(32, **{**options, "local_views": 0})(raw(), 3)
    assert set(both) == {"label", "row", "rows", "views", "views_local"}
    assert torch.equal(both["views"], alone["views"])
    assert both["views_local"].shape == (6, 16, 3, 14, 14)
    share = drawn(96, 96, "views_local", local_views=5, scale=(0.3, 1.0)).box[:, 2:].prod(1) / 96**2
    assert 0.045 < share.min() < 0.06 and 0.29 < share.max() < 0.305
    flip = drawn(entry="views_local", local_views=2, flip=[0.0, 0.0, 1.0, 0.0]).flip
    assert flip.view(2, -1).float().mean(1).tolist() == [1.0, 0.0]  # the last of the list


def test_local_views_belong_to_the_streams_and_to_the_rows():
    options = dict(local_views=3, scale=(0.3, 1.0), **EVERYTHING)
    both = Recipe(32, streams=["large", "small"], **options)(raw(96), 0)
    entries = {"views_large", "views_local_large", "views_small", "views_local_small"}
    assert set(both) == {"label", "row", "rows"} | entries
    part = Recipe(32, streams=["small"], **options)(raw(96, first=32, last=64), 0)
    assert torch.equal(part["views_local_small"], both["views_local_small"][:, 32:64])
    assert not torch.equal(both["views_local_small"], both["views_local_large"])


ONE_VIEW = ("own", "plain", "supervised")


def test_the_plain_recipe_is_what_probes_see_in_every_step():
    batch = raw(channels=3)
    recipe = make(compose(["recipe=plain", "data=cifar10", "data.size=20"]).recipe)
    views = [recipe(batch, index)["views"] for index in (0, 7)]
    assert recipe.fixed and torch.equal(*views) and torch.equal(views[0][0], Plain(20)(batch["image"]))
    assert "image" not in recipe(batch, 0) and torch.equal(recipe(batch, 0)["label"], batch["label"])


@pytest.mark.parametrize("name", [name for name in choices("recipe") if name not in ONE_VIEW])
def test_every_recipe_of_views_makes_them_for_any_data(name):
    for data, channels in (("digits", 1), ("cifar10", 3)):
        config = compose(["method=simclr", f"recipe={name}", f"data={data}"])
        views = make(config.recipe)(raw(channels=channels), 0)["views"]
        assert views.shape == (2, 16, channels, config.data.size, config.data.size)


def test_byol_is_unlike_its_two_views_and_simclr_224_is_strong():
    config = OmegaConf.to_container(compose(["recipe=byol", "data=cifar10"]).recipe)
    wanted = dict(blur=[1.0, 0.1], solarize=[0.0, 0.2], jitter=0.8, gray=0.2, flip=0.5, scale=[0.08, 1.0])
    wanted |= dict(brightness=0.4, contrast=0.4, saturation=0.2, hue=0.1)  # Grill et al. 2020, table 6
    assert {key: config[key] for key in wanted} == wanted
    config = OmegaConf.to_container(compose(["recipe=simclr_224", "data=folder", "data.root=."]).recipe)
    wanted = dict(brightness=0.8, contrast=0.8, saturation=0.8, hue=0.2, jitter=0.8, gray=0.2, blur=0.5)
    assert {key: config[key] for key in wanted} == wanted


def test_multicrop_trains(capsys):
    config = compose(["method=simclr", "recipe=multicrop"])
    assert config.peers.resnet20.views == ["views", "views_local"] and config.recipe.scale == [0.5, 1.0]
    assert make(config.recipe)(raw(channels=1), 0)["views_local"].shape == (6, 16, 1, 7, 7)
    words = ["method=simclr", "recipe=multicrop", "peers=[resnet8]", "batch_size=16", "device=cpu"]
    assert main([*words, "dry_run=true"]) == 0
    assert "nt_xent/resnet8" in capsys.readouterr().out
