"""Recipes: the operations against torchvision's, the random numbers against their promises."""

from itertools import permutations

import pytest
import torch
from scipy.stats import kstest
from torchvision.transforms import RandomResizedCrop
from torchvision.transforms.v2 import functional as TV

from ssl_kd.data import augment
from ssl_kd.data.recipes import Plain, Recipe, Supervised
from ssl_kd.errors import InputError

EVERYTHING = dict(
    rotate=15.0, brightness=0.4, contrast=0.4, saturation=0.4, hue=0.1, gray=0.2, blur=0.5, noise=0.05
)


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
    rows = augment.resize_matrix(top, height, size, 40)[:, None]
    columns = augment.resize_matrix(left, width, size, 48, torch.full((3,), flip))[:, None]
    ours = augment.resample(images, rows, columns)[0]
    theirs = TV.resized_crop(images, *box, [size, size], antialias=True)
    exact = TV.resized_crop(images.float(), *box, [size, size], antialias=True)
    if flip:
        theirs, exact = theirs.flip(-1), exact.flip(-1)
    assert (ours - theirs.float()).abs().max() <= 1.01  # theirs is rounded to integers, in two passes
    close(ours, exact, 1e-3)


def test_each_view_of_each_image_has_its_own_crop():
    images = raw(4)["image"]
    start, length = torch.randint(0, 12, (4, 3)), torch.randint(4, 20, (4, 3))
    matrix = augment.resize_matrix(start.flatten(), length.flatten(), 16, 32).view(4, 3, 16, 32)
    views = augment.resample(images, matrix, matrix)
    assert views.shape == (3, 4, 3, 16, 16)
    for b in range(4):
        for v in range(3):
            s, n = start[b, v].item(), length[b, v].item()
            close(views[v, b], TV.resized_crop(images[b].float(), s, s, n, n, [16, 16], antialias=True), 1e-3)


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
    operations = (TV.adjust_brightness, TV.adjust_contrast, TV.adjust_saturation, TV.adjust_hue)
    theirs = []
    for image, sequence, f in zip(x.clone(), order.tolist(), factor, strict=True):
        for k in sequence:
            image = operations[k](image, f[k].item())
        theirs.append(image)
    close(augment.jitter(x, order, factor), torch.stack(theirs))


def test_jitter_of_factors_one_and_hue_zero_changes_nothing():
    x = torch.rand(8, 3, 8, 8)
    same = augment.jitter(x.clone(), torch.rand(8, 4).argsort(1), torch.tensor([1.0, 1, 1, 0]).expand(8, 4))
    assert torch.equal(same, x)


def test_grey_and_blur_are_torchvisions():
    x, sigma = torch.rand(5, 3, 32, 32), torch.tensor([0.1, 0.5, 1.0, 1.5, 2.0])
    close(augment.gray(x), TV.rgb_to_grayscale(x))
    for kernel in (3, 7, 23):
        theirs = [TV.gaussian_blur(x[i], [kernel, kernel], [sigma[i].item()] * 2) for i in range(5)]
        close(augment.blur(x, sigma, kernel), torch.stack(theirs))


@pytest.mark.parametrize("size", [16, 32, 48])
def test_plain_is_torchvisions_antialiased_resize(size):
    images = raw(4)["image"]
    close(Plain(size)(images), TV.resize(images.float() / 255, [size, size], antialias=True))


# The distributions


@pytest.mark.parametrize(
    "height, width, scale",
    [(32, 32, (0.08, 1.0)), (48, 20, (0.2, 1.0)), (16, 64, (0.9, 1.0))],  # the last one often falls back
)
def test_crop_boxes_are_distributed_as_torchvisions(height, width, scale):
    ratio, n = (3 / 4, 4 / 3), 2500
    image = torch.empty(1, height, width)
    theirs = torch.tensor([RandomResizedCrop.get_params(image, scale, ratio) for _ in range(n)])
    numbers = (torch.rand(20 * n, k, dtype=torch.float64) for k in (10, 10, 2))
    ours = augment.crop_boxes(*numbers, height, width, scale, ratio)
    for k in range(4):
        assert kstest(theirs[:, k].numpy(), ours[:, k].numpy()).pvalue > 0.001
    area = [(boxes[:, 2] * boxes[:, 3]).numpy() for boxes in (theirs, ours)]
    assert kstest(*area).pvalue > 0.001
    assert (ours[:, 2:] >= 1).all() and (ours[:, :2] >= 0).all()
    assert (ours[:, 0] + ours[:, 2] <= height).all() and (ours[:, 1] + ours[:, 3] <= width).all()


def test_probabilities_are_what_they_say():
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


def test_a_streams_views_do_not_depend_on_which_other_streams_there_are():
    both = Recipe(32, streams=["large", "small"], **EVERYTHING)(raw(), 0)
    alone = Recipe(32, streams=["small"], **EVERYTHING)(raw(), 0)
    assert set(both) == {"label", "row", "rows", "views_large", "views_small"}
    assert torch.equal(both["views_small"], alone["views_small"])
    assert not torch.equal(both["views_small"], both["views_large"])


def test_switching_on_one_operation_leaves_the_numbers_of_the_others():
    plain, blurred = Recipe(32)(raw(), 0)["views"], Recipe(32, blur=0.5)(raw(), 0)["views"]
    same = (plain == blurred).flatten(2).all(2)
    assert 0 < same.sum() < same.numel()


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
