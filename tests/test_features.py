"""Losses between feature maps against the values of FFSD's own code, slow loops, and at their edges."""

import math

import pytest
import torch
from torch import Tensor

from ssl_kd.errors import InputError
from ssl_kd.losses import attention, attention_distance, diversity, feature_distance, shifted
from ssl_kd.losses.fused import mean_square, unit_distance
from ssl_kd.losses.rows import unit
from tests.conftest import det

F1, F2 = det((2, 8, 4, 4), 0.31, 0.1), det((2, 8, 4, 4), 0.53, 0.7)
SMALL = det((2, 3, 2, 2), 0.4, 0.2)  # fewer channels, a smaller grid
LOSSES = [feature_distance, attention_distance, diversity]


def close(found: Tensor | float, expected: Tensor | float, rtol: float = 1e-6) -> bool:
    return math.isclose(float(found), float(expected), rel_tol=rtol)


def of_length(values: list[float]) -> tuple[float, list[float]]:
    length = math.sqrt(sum(value**2 for value in values))
    return length, [value / length for value in values]


def slow_attention(sample: Tensor) -> list[float]:
    """One sample (C, H, W) as H * W numbers."""
    channels, height, width = sample.shape
    return [
        sum(float(sample[c, y, x]) ** 2 for c in range(channels)) / channels
        for y in range(height)
        for x in range(width)
    ]


def slow_shift(values: list[float]) -> tuple[float, list[float], list[float]]:
    """The closed form of the authors' code."""
    n, h = of_length(values)
    t = sorted(h)[len(h) // 3 - 1]
    return n, h, [(n / 2 - x) * ((x > t) - (x < t)) + n / 2 for x in h]


def slow_distance(a: list[list[float]], b: list[list[float]]) -> float:
    squares = [(x - y) ** 2 for p, q in zip(a, b, strict=True) for x, y in zip(p, q, strict=True)]
    return sum(squares) / len(squares)


def test_feature_distance_equals_the_golden_value():
    assert close(feature_distance(F1, F2), 0.015723480642796134)


def test_attention_distance_equals_the_golden_value():
    assert close(attention_distance(F1, F2), 0.0010241521805440046)


def test_diversity_equals_the_golden_value():
    assert close(diversity(F2, F1), 1.5427193734579823)


def test_shifted_features_equal_the_golden_values():
    found = shifted(F1)
    golden = [0.09983341664682814, 0.792397257862294, 1.0445019334910397, 1.2339198760643413]
    assert found.shape == F1.shape
    assert close(found.sum(), 73.2059381248847)
    assert found[0, 0, 0].tolist() == pytest.approx(golden, rel=1e-6)


def test_feature_distance_equals_a_slow_loop():
    samples = [[of_length(sample.flatten().tolist())[1] for sample in maps] for maps in (F1, F2)]
    assert close(feature_distance(F1, F2), slow_distance(*samples), 1e-12)


def test_attention_distance_equals_a_slow_loop_though_channels_differ():
    teacher = det((2, 5, 4, 4), 0.53, 0.7)
    samples = [[of_length(slow_attention(sample))[1] for sample in maps] for maps in (F1, teacher)]
    assert close(attention_distance(F1, teacher), slow_distance(*samples), 1e-12)


def test_diversity_equals_a_slow_loop_though_channels_differ():
    previous = det((2, 5, 4, 4), 0.53, 0.7)
    own = [of_length(slow_attention(sample))[1] for sample in F1]
    target = [slow_shift(slow_attention(sample))[2] for sample in previous]
    assert close(diversity(F1, previous), slow_distance(own, target), 1e-12)


def test_shifted_features_equal_a_slow_loop():
    found = shifted(F1)
    for sample, result in zip(F1, found, strict=True):
        n, h, s = slow_shift(slow_attention(sample))
        added = [n * (b - a) / 8 for a, b in zip(h, s, strict=True)]
        for channel in range(8):
            assert (result - sample)[channel].flatten().tolist() == pytest.approx(added, abs=1e-12)


def test_the_lower_third_is_kept_the_boundary_halved_and_the_rest_turned_over():
    maps = torch.tensor([3.0, 1.0, 5.0, 2.0, 4.0, 6.0]).double().sqrt().reshape(1, 1, 2, 3)
    n = math.sqrt(1 + 4 + 9 + 16 + 25 + 36)
    target = [n - 3 / n, 1 / n, n - 5 / n, n / 2, n - 4 / n, n - 6 / n]
    own = [3 / n, 1 / n, 5 / n, 2 / n, 4 / n, 6 / n]
    assert close(diversity(maps, maps), slow_distance([own], [target]), 1e-12)
    added = (shifted(maps) - maps).flatten()
    assert added[1] == 0 and float(added[3]) == pytest.approx(n * (n / 2 - 2 / n), rel=1e-12)


def test_the_boundary_element_is_exactly_half_the_length():
    from ssl_kd.losses.features import _shift

    for rows in (attention(F1).flatten(-2), torch.ones(2, 7), torch.tensor([[1.0, 2, 2, 2, 3, 4]])):
        n, h, s = _shift(rows)
        boundary = h == h.sort(-1).values[..., rows.shape[-1] // 3 - 1, None]
        assert boundary.any(-1).all()
        assert (s[boundary] == (n / 2).expand_as(s)[boundary]).all()


def test_the_larger_grid_is_averaged_down_to_the_smaller():
    pooled = torch.stack(
        [attention(F1)[:, y : y + 2, x : x + 2].mean((1, 2)) for y in (0, 2) for x in (0, 2)], 1
    )
    as_maps = pooled.sqrt().reshape(2, 1, 2, 2)  # one channel whose attention is the pooled one
    assert close(attention_distance(F1, SMALL), attention_distance(as_maps, SMALL), 1e-12)
    assert close(attention_distance(SMALL, F1), attention_distance(SMALL, as_maps), 1e-12)
    assert close(diversity(F1, SMALL), diversity(as_maps, SMALL), 1e-12)
    assert close(diversity(SMALL, F1), diversity(SMALL, as_maps), 1e-12)


def test_grids_that_do_not_divide_each_other_meet_on_the_smaller_along_each_axis():
    assert torch.isfinite(attention_distance(det((2, 3, 5, 3), 0.4, 0.2), F1))
    assert torch.isfinite(diversity(det((3, 2, 3, 7, 7), 0.4, 0.2), det((3, 2, 8, 4, 4), 0.3, 0.1)))


@pytest.mark.parametrize("loss", LOSSES)
def test_maps_with_views_in_front_give_the_mean_over_views(loss):
    students, teachers = torch.stack([F1, F2, 2 * F1]), torch.stack([F2, F1.flip(0), F2.flip(1)])
    expected = sum(float(loss(s, t)) for s, t in zip(students, teachers, strict=True)) / 3
    assert close(loss(students, teachers), expected, 1e-12)


def test_views_in_front_are_pooled_as_without_them():
    students, teachers = torch.stack([F1, F2]), torch.stack([SMALL, SMALL.flip(0)])
    for loss in (attention_distance, diversity):
        expected = float(loss(F1, SMALL) + loss(F2, SMALL.flip(0))) / 2
        assert close(loss(students, teachers), expected, 1e-12)
        assert close(loss(F1[0], SMALL[0]), loss(F1[:1], SMALL[:1]), 1e-12)


def test_attention_and_shifted_features_serve_any_leading_axes():
    views = torch.stack([F1, F2])
    assert torch.equal(attention(views), torch.stack([attention(F1), attention(F2)]))
    assert torch.equal(shifted(views), torch.stack([shifted(F1), shifted(F2)]))
    assert torch.equal(shifted(F1[0]), shifted(F1)[0])


def test_distances_ignore_the_scale_of_a_sample():
    assert close(feature_distance(3 * F1, 0.1 * F2), feature_distance(F1, F2), 1e-12)
    assert close(attention_distance(3 * F1, 0.1 * F2), attention_distance(F1, F2), 1e-12)
    assert close(diversity(3 * F1, F2), diversity(F1, F2), 1e-12)


@pytest.mark.parametrize("loss", LOSSES)
def test_gradients_are_those_of_the_values_on_both_sides(loss):
    maps = [det((2, 3, 2, 3), a, b).requires_grad_() for a, b in ((0.31, 0.1), (0.53, 0.7))]
    assert torch.autograd.gradcheck(loss, maps)
    loss(*maps).backward()
    assert all(side.grad.abs().sum() > 0 for side in maps)


@pytest.mark.parametrize("loss", [attention_distance, diversity])
def test_gradients_are_those_of_the_values_across_grids(loss):
    large, small = (
        det((2, 2, 4, 5), 0.31, 0.1).requires_grad_(),
        det((2, 3, 2, 3), 0.53, 0.7).requires_grad_(),
    )
    assert torch.autograd.gradcheck(loss, (large, small))
    assert torch.autograd.gradcheck(loss, (small, large))


def test_gradients_of_shifted_features_are_those_of_their_values():
    maps = det((2, 3, 2, 3), 0.31, 0.1).requires_grad_()
    assert torch.autograd.gradcheck(shifted, (maps,))


def test_half_precision_is_computed_in_float32():
    a, b = F1.bfloat16(), F2.bfloat16()
    for half in (lambda x, y: attention(x), lambda x, y: shifted(x), *LOSSES):
        assert half(a, b).dtype == torch.float32
        assert torch.equal(half(a, b), half(a.float(), b.float()))


def test_maps_of_zeros_give_finite_losses_and_gradients():
    maps = torch.zeros(2, 8, 4, 4, requires_grad=True)
    total = sum(loss(maps, F1.float()) + loss(F1.float(), maps) for loss in LOSSES) + shifted(maps).sum()
    total.backward()
    assert torch.isfinite(total) and torch.isfinite(maps.grad).all()


@pytest.mark.parametrize(
    ("loss", "says"),
    [
        (lambda: feature_distance(F1, F2[:, :4]), "compares equal shapes"),
        (lambda: feature_distance(F1, F2[:1]), "compares equal shapes"),
        (lambda: attention_distance(F1, F2[:1]), "sample by sample"),
        (lambda: diversity(F1.expand(3, *F1.shape), F2), "sample by sample"),
        (lambda: diversity(F1, F2[..., :1, :1]), "2 x 2 or more"),
        (lambda: diversity(F1[..., :2, :1], F2), "2 x 2 or more"),
        (lambda: shifted(F1[..., :1, :1]), "2 x 2 or more"),
    ],
)
def test_maps_that_do_not_fit_are_refused_in_a_sentence(loss, says):
    with pytest.raises(InputError, match=says):
        loss()


@pytest.mark.parametrize("zero", [None, 0, 1])
def test_the_passes_written_by_hand_are_those_of_the_plain_formula(zero):
    sides = [det((3, 4, 2, 5), a, b) for a, b in ((0.31, 0.1), (0.53, 0.7))]
    if zero is not None:
        sides[zero][1] = 0  # a sample without direction
    found, wanted = ([side.clone().requires_grad_() for side in sides] for _ in range(2))
    ours = unit_distance(*found, (-3, -2, -1)).flatten() @ det((3,), 0.9, 0.2)
    plain = (unit(wanted[0].flatten(1)) - unit(wanted[1].flatten(1))).square().sum(1) @ det((3,), 0.9, 0.2)
    assert close(ours.detach(), plain.detach(), 1e-12)
    ours.backward(), plain.backward()
    for a, b in zip(found, wanted, strict=True):
        assert torch.allclose(a.grad, b.grad, atol=1e-12)


def test_half_precision_is_reduced_in_float32_and_its_gradient_is_half():
    x = det((2, 3, 4, 4), 0.31, 0.1).bfloat16().requires_grad_()
    said = mean_square(x, -3)
    assert said.dtype == torch.float32
    torch.testing.assert_close(said, x.detach().float().square().mean(-3))
    (said * 3).sum().backward()
    assert x.grad.dtype == torch.bfloat16
    torch.testing.assert_close(x.grad, (2 * x.detach().float()).bfloat16())
