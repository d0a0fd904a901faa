"""Corruptions: the same for an image whatever is around it, and harder with every severity."""

import numpy as np
import pytest
import torch
from scipy.fft import dctn, idctn
from torch import Tensor
from torchvision.transforms.v2.functional import gaussian_blur

from ssl_kd.data.corruptions import KINDS, SEVERITIES, STRENGTHS, corrupt
from ssl_kd.data.sources import digits
from ssl_kd.errors import InputError


def photos(n: int = 12, edge: int = 32, channels: int = 3, seed: int = 0) -> Tensor:
    """Smooth random images with edges in them."""
    coarse = torch.rand(n, channels, 4, 4, generator=torch.Generator().manual_seed(seed))
    smooth = torch.nn.functional.interpolate(coarse, (edge, edge), mode="bicubic").clamp(0, 1)
    smooth[:, :, edge // 4 : edge // 2, edge // 4 : edge // 2] *= 0.5
    return smooth.mul(255).round().to(torch.uint8)


def distance(a: Tensor, b: Tensor) -> float:
    return float((a.float() - b.float()).square().mean())


@pytest.mark.parametrize("kind", KINDS)
def test_what_becomes_of_an_image_does_not_depend_on_the_batch_it_is_in(kind):
    images = photos(9)
    whole = corrupt(images, kind, 3, seed=1)
    for size in (1, 2, 4):
        parts = images.split(size)
        pieces = [corrupt(part, kind, 3, seed=1, start=i * size) for i, part in enumerate(parts)]
        assert torch.equal(torch.cat(pieces), whole)


@pytest.mark.parametrize("kind", KINDS)
def test_two_calls_give_the_same_bytes_and_leave_the_images_and_the_random_state_alone(kind):
    images = photos()
    before, state = images.clone(), torch.get_rng_state()
    first, second = (corrupt(images, kind, 5, seed=0) for _ in range(2))
    assert torch.equal(first, second) and first.dtype == torch.uint8 and first.shape == images.shape
    assert torch.equal(images, before) and torch.equal(torch.get_rng_state(), state)


def test_noise_belongs_to_the_seed_and_to_the_position_of_the_image():
    images = photos(1).repeat(2, 1, 1, 1)
    worse = corrupt(images, "noise", 2, seed=0)
    assert not torch.equal(worse[0], worse[1])
    assert not torch.equal(worse, corrupt(images, "noise", 2, seed=1))
    assert torch.equal(worse[1:], corrupt(images[1:], "noise", 2, seed=0, start=1))


@pytest.mark.parametrize("images", [torch.from_numpy(digits().test.images), photos()], ids=["digits", "rgb"])
@pytest.mark.parametrize("kind", KINDS)
def test_each_severity_is_strictly_harder_than_the_one_before(kind, images):
    errors = [0.0] + [distance(corrupt(images, kind, severity, seed=0), images) for severity in SEVERITIES]
    assert errors == sorted(set(errors))


def test_cifar_images_lose_more_with_every_severity(data_root):
    path = data_root / "cifar10.npz"
    if not path.is_file():
        pytest.skip(f"needs {path}")
    with np.load(path) as archive:
        images = torch.from_numpy(archive["test_images"][:200].transpose(0, 3, 1, 2).copy())
    for kind in KINDS:
        errors = [distance(corrupt(images, kind, severity, seed=0), images) for severity in SEVERITIES]
        assert errors == sorted(set(errors)) and 20 < errors[0] < errors[4] < 3000


@pytest.mark.parametrize("kind", KINDS)
def test_grey_images_stay_grey_and_sizes_need_not_be_square(kind):
    for images in (photos(2, 8, 1), photos(2, 33)[:, :, :20], photos(1, 8)[:, :, :1, :2]):
        assert corrupt(images, kind, 5, seed=0).shape == images.shape


def test_an_empty_batch_stays_empty():
    assert corrupt(photos()[:0], "blur", 1, seed=0).shape == (0, 3, 32, 32)


def test_noise_has_the_standard_deviation_of_the_table():
    grey = torch.full((40, 3, 32, 32), 128, dtype=torch.uint8)
    for severity, std in zip(SEVERITIES[:3], STRENGTHS["noise"], strict=False):
        found = (corrupt(grey, "noise", severity, seed=0).float() / 255 - 128 / 255).std()
        assert float(found) == pytest.approx(std, rel=0.02)


@pytest.mark.parametrize("severity", SEVERITIES)
def test_blur_is_a_gaussian_as_torchvision_blurs(severity):
    images, sigma = photos(), STRENGTHS["blur"][severity - 1]
    expected = gaussian_blur(images, 2 * int(4 * sigma + 0.5) + 1, sigma)
    difference = (corrupt(images, "blur", severity, seed=0).int() - expected.int()).abs()
    assert difference.max() <= 1 and difference.float().mean() < 0.001


# The luminance table of the JPEG standard (ITU-T T.81, K.1), for quality 50.
TABLE = """
    16 11 10 16 24 40 51 61    12 12 14 19 26 58 60 55    14 13 16 24 40 57 69 56    14 17 22 29 51 87 80 62
    18 22 37 56 68 109 103 77    24 35 55 64 81 104 113 92    49 64 78 87 103 121 120 101
    72 92 95 98 112 100 103 99"""


@pytest.mark.parametrize("severity", SEVERITIES)
def test_jpeg_rounds_the_cosine_coefficients_of_a_block_as_the_standard_says(severity):
    images, quality = photos(8, 8, 1), STRENGTHS["jpeg"][severity - 1]
    scale = 5000 / quality if quality < 50 else 200 - 2 * quality
    steps = np.floor((np.array(TABLE.split(), float).reshape(8, 8) * scale + 50) / 100).clip(1, 255)
    coefficients = dctn(images[:, 0].numpy() - 128.0, axes=(1, 2), norm="ortho")
    expected = idctn(np.round(coefficients / steps) * steps, axes=(1, 2), norm="ortho") + 128
    difference = corrupt(images, "jpeg", severity, seed=0)[:, 0].numpy() - expected.clip(0, 255)
    assert np.abs(difference).mean() < 0.4  # of which 0.25 is rounding to bytes


def test_contrast_keeps_the_mean_of_each_channel_and_a_part_of_the_spread():
    images = photos()
    worse = corrupt(images, "contrast", 2, seed=0).float()
    torch.testing.assert_close(worse.mean((2, 3)), images.float().mean((2, 3)), atol=0.3, rtol=0)
    torch.testing.assert_close(worse.std((2, 3)), images.float().std((2, 3)) * 0.5, atol=0.3, rtol=0)


def test_an_unknown_kind_is_refused_with_the_nearest_name():
    with pytest.raises(InputError, match='no corruption "nois"; did you mean "noise"?'):
        corrupt(photos(), "nois", 1, seed=0)
    with pytest.raises(InputError, match='no corruption "fog"; there are: blur, contrast, jpeg, noise'):
        corrupt(photos(), "fog", 1, seed=0)


@pytest.mark.parametrize("severity", [0, 6, -1, 1.5])
def test_an_unknown_severity_is_refused(severity):
    with pytest.raises(InputError, match=f"must be 1, 2, 3, 4 or 5, not {severity}"):
        corrupt(photos(), "noise", severity, seed=0)


@pytest.mark.parametrize(
    ("images", "found"),
    [
        (photos().float(), r"float32 \(12, 3, 32, 32\)"),
        (photos()[0], r"uint8 \(3, 32, 32\)"),
        (photos(channels=2), r"uint8 \(12, 2, 32, 32\)"),
    ],
)
def test_other_images_are_refused(images, found):
    with pytest.raises(InputError, match=f"must be uint8 .*, not {found}"):
        corrupt(images, "noise", 1, seed=0)
