"""Losses against the values of the papers' own implementations, against slow loops, and at their edges."""

import math

import pytest
import torch
from torch import Tensor

from ssl_kd.errors import InputError
from ssl_kd.losses import cross_entropy, kl, mse, negative_cosine, not_true_kl, nt_xent, similarity_kl
from tests.conftest import det, unit

Z1 = torch.stack([unit(det((8, 16), 0.7, 0.1)), unit(det((8, 16), 1.3, 0.4))])
Z2 = torch.stack([unit(det((8, 24), 0.9, 0.2)), unit(det((8, 24), 1.1, 0.8))])
P = torch.stack([unit(det((8, 16), 0.5, 0.3)), unit(det((8, 16), 0.6, 0.9))])
ROWS, COLUMNS = torch.arange(4.0, dtype=torch.float64)[:, None], torch.arange(5.0, dtype=torch.float64)
ZS, ZT = 3 * torch.sin(1 + 0.7 * ROWS + 1.3 * COLUMNS), 4 * torch.cos(0.4 + 0.5 * ROWS + 0.9 * COLUMNS)
LABELS = torch.tensor([1, 3, 0, 2])
HEADS = [3 * det((4, 10), 0.37 + 0.11 * i, 0.2 * i) for i in range(6)]  # two networks with three heads each
HEAD_LABELS = torch.tensor([1, 7, 3, 9])
INFINITE = float("inf")


def close(found: Tensor, golden: float, rtol: float = 1e-6) -> bool:
    return math.isclose(float(found.detach()), golden, rel_tol=rtol)


def test_nt_xent_equals_the_golden_value():
    assert close(nt_xent(Z1, 0.5), 2.973070603332516)


def test_nt_xent_at_scale_two_equals_the_simclr_authors_code():
    raw = torch.stack([det((8, 16), 0.7, 0.1), det((8, 16), 1.3, 0.4)]).float()
    assert close(nt_xent(raw, 0.5, scale=2), 5.9461412, 1e-5)


def test_similarity_kl_equals_the_golden_value_of_either_reduction():
    assert close(similarity_kl(Z1, Z2), 1.7641692838411474)
    assert close(similarity_kl(Z1, Z2, reduction="element"), 0.22052116048014342)


def test_negative_cosine_equals_simsiams_golden_value():
    assert close(negative_cosine(P, Z1), -0.01750146056108956)


@pytest.mark.parametrize(
    ("temperature", "value", "gradient"),
    [
        (1, 0.205015988422, -0.095925181534),
        (4, 0.448497469552, -0.15130444747),
        (20, 0.375449151945, -0.115674063869),
    ],
)
def test_kl_equals_the_golden_values_and_gradients(temperature, value, gradient):
    student = ZS.clone().requires_grad_()
    loss = kl(student, ZT, temperature, squared=True)
    loss.backward()
    assert close(loss, value)
    assert close(student.grad[0, 0], gradient)


def test_mixed_kd_equals_the_golden_value():
    assert close(0.9 * cross_entropy(ZS, LABELS) + 0.1 * kl(ZS, ZT, 4, squared=True), 2.783336332091)


def test_ffsd_kd_equals_the_golden_value():
    assert close(kl(HEADS[0], HEADS[3], 2, squared=True), 2.6994217213026177)


def test_kl_at_infinite_temperature_equals_the_golden_value_and_gradient():
    student = ZS.clone().requires_grad_()
    loss = kl(student, ZT, INFINITE, squared=True)
    loss.backward()
    assert close(loss, 0.346966362461)
    row = [-0.102473765857, 0.013873801324, 0.006839942179, 0.007976923383, 0.073783098972]
    assert student.grad[0].tolist() == pytest.approx(row, rel=1e-6)


def test_infinite_temperature_is_the_closed_form_of_the_paper():
    difference = ZS - ZT
    squares, sums = difference.square().sum(-1), difference.sum(-1)
    expected = (squares / (2 * 5) - sums.square() / (2 * 5**2)).mean()
    assert close(kl(ZS, ZT, INFINITE, squared=True), float(expected), 1e-12)


@pytest.mark.parametrize("epsilon", [0.0, 0.05])
def test_infinite_temperature_is_the_limit_of_a_large_one(epsilon):
    found = []
    for temperature in (1e4, INFINITE):
        student, teacher = ZS.clone().requires_grad_(), ZT.clone().requires_grad_()
        loss = kl(student, teacher, temperature, squared=True, epsilon=epsilon)
        loss.backward()
        found.append((loss.detach(), student.grad, teacher.grad))
    for large, infinite in zip(*found, strict=True):
        assert torch.allclose(large, infinite, rtol=2e-3, atol=1e-5)


def test_infinite_temperature_leaves_the_mean_logit_free_and_does_not_cancel():
    expected = float(kl(ZS, ZT, INFINITE, squared=True))
    assert close(kl(ZS + 7, ZT, INFINITE, squared=True), expected, 1e-12)
    assert close(kl(ZS.float() + 1000, ZT.float(), INFINITE, squared=True), expected, 1e-3)


def test_infinite_temperature_serves_the_classes_that_are_not_the_label():
    large = not_true_kl(ZS, ZT, LABELS, 1e4)
    assert close(not_true_kl(ZS, ZT, LABELS, INFINITE), float(large), 1e-3)


def test_dcm_kl_equals_the_golden_value():
    assert close(kl(HEADS[0], HEADS[3], epsilon=1e-8), 1.7609966524301326, 1e-12)


def test_the_losses_of_dcm_equal_the_golden_sums():
    labels = sum(cross_entropy(head, HEAD_LABELS) for head in HEADS)
    pairs = [(a, b) for a in HEADS[:3] for b in HEADS[3:]]
    mutual = sum(kl(a, b, epsilon=1e-8) + kl(b, a, epsilon=1e-8) for a, b in pairs)
    assert close(labels, 19.089995880258886)
    assert close(mutual, 41.708133657834814)
    assert close(labels + mutual, 60.798129538093704)


def test_epsilon_smooths_both_distributions():
    p, q = ((z.softmax(-1) + 0.1) / (1 + 5 * 0.1) for z in (ZS, ZT))
    expected = (q * (q.log() - p.log())).sum(-1).mean()
    assert close(kl(ZS, ZT, epsilon=0.1), float(expected), 1e-12)


def test_epsilon_keeps_kl_finite_where_a_probability_is_zero():
    student = torch.tensor([[500.0, -500.0]], requires_grad=True)
    loss = kl(student, -student.detach(), epsilon=1e-8)
    loss.backward()
    assert close(loss, math.log((1 + 1e-8) / 1e-8), 1e-5)
    assert torch.isfinite(student.grad).all()


@pytest.mark.parametrize("options", [{}, {"epsilon": 0.01}, {"temperature": INFINITE, "squared": True}])
def test_gradients_of_kl_are_those_of_its_values(options):
    inputs = (ZS.clone().requires_grad_(), ZT.clone().requires_grad_())
    assert torch.autograd.gradcheck(lambda s, t: kl(s, t, **options), inputs)


def test_logit_mse_equals_the_golden_value():
    assert close(mse(ZS, ZT), 2.367574522439)


def test_logit_mse_summed_over_classes_is_the_mean_times_their_number():
    rows = [sum(float(d) ** 2 for d in row) for row in ZS - ZT]
    assert close(mse(ZS, ZT, reduction="sum"), sum(rows) / 4, 1e-12)
    assert close(mse(ZS, ZT, reduction="sum"), 5 * 2.367574522439)


@pytest.mark.parametrize(
    "loss",
    [
        lambda s, t: kl(s, t, epsilon=1e-8),
        lambda s, t: kl(s, t, INFINITE, squared=True),
        lambda s, t: mse(s, t),
        lambda s, t: mse(s, t, reduction="sum"),
    ],
)
def test_logits_with_views_in_front_give_the_mean_over_views(loss):
    students, teachers = torch.stack([ZS, 2 * ZS]), torch.stack([ZT, ZT.flip(0)])
    expected = (loss(ZS, ZT) + loss(2 * ZS, ZT.flip(0))) / 2
    assert close(loss(students, teachers), float(expected), 1e-12)


def test_nt_xent_equals_a_slow_loop_for_any_number_of_views():
    views = det((3, 5, 7), 0.7, 0.1)
    rows = unit(views).reshape(15, 7)
    total = 0.0
    for i in range(15):
        others = [float(torch.exp(rows[i] @ rows[k] / 0.3)) for k in range(15) if k != i]
        partners = [j for j in range(15) if j % 5 == i % 5 and j != i]
        total += sum(math.log(sum(others)) - float(rows[i] @ rows[j]) / 0.3 for j in partners) / 2
    assert close(nt_xent(views, 0.3), total / 15, 1e-12)


def test_nt_xent_of_two_views_equals_that_of_lightly():
    from lightly.loss import NTXentLoss

    assert close(nt_xent(Z1.float()), float(NTXentLoss(0.5)(*Z1.float())), 1e-5)


def test_similarity_kl_equals_a_slow_loop():
    def distribution(views: Tensor, i: int) -> list[float]:
        raw = [math.exp(float(unit(views[0])[i] @ unit(views[1])[j]) / 0.2) for j in range(8)]
        return [value / sum(raw) for value in raw]

    total = 0.0
    for i in range(8):
        p, q = distribution(Z1, i), distribution(Z2, i)
        total += sum(b * (math.log(b) - math.log(a)) for a, b in zip(p, q, strict=True))
    assert close(similarity_kl(Z1, Z2, 0.2), total / 8, 1e-12)


def test_symmetric_similarity_kl_is_the_mean_of_the_two_directions():
    both = similarity_kl(Z1, Z2, symmetric=True)
    assert close(both, float(similarity_kl(Z1, Z2) + similarity_kl(Z1.flip(0), Z2.flip(0))) / 2, 1e-12)


def test_losses_ignore_the_scale_of_their_rows():
    assert close(nt_xent(7 * Z1), float(nt_xent(Z1)), 1e-12)
    assert close(similarity_kl(3 * Z1, 0.1 * Z2), float(similarity_kl(Z1, Z2)), 1e-12)


def test_not_true_kl_has_exactly_zero_gradient_at_the_true_class():
    student = ZS.clone().requires_grad_()
    not_true_kl(student, ZT, LABELS, 2.0).backward()
    assert (student.grad.gather(1, LABELS[:, None]) == 0).all()
    assert (student.grad != 0).sum() == 4 * 4


def test_not_true_kl_serves_logits_with_views_in_front():
    views = torch.stack([ZS, ZS])
    assert close(not_true_kl(views, torch.stack([ZT, ZT]), LABELS), float(not_true_kl(ZS, ZT, LABELS)), 1e-12)


def test_cross_entropy_repeats_labels_over_views_and_skips_missing_ones():
    labels = torch.tensor([1, -1, 0, 2])
    kept = torch.tensor([0, 2, 3])
    expected = torch.nn.functional.cross_entropy(ZS[kept], labels[kept])
    assert close(cross_entropy(torch.stack([ZS, ZS]), labels), float(expected), 1e-12)
    assert float(cross_entropy(ZS, torch.full((4,), -1))) == 0


def test_half_precision_is_computed_in_float32():
    assert similarity_kl(Z1.bfloat16(), Z2.bfloat16()).dtype == torch.float32
    assert nt_xent(Z1.bfloat16()).dtype == torch.float32
    assert kl(ZS.bfloat16(), ZT.bfloat16()).dtype == torch.float32
    assert kl(ZS.bfloat16(), ZT.bfloat16(), epsilon=1e-8).dtype == torch.float32
    assert kl(ZS.bfloat16(), ZT.bfloat16(), INFINITE, squared=True).dtype == torch.float32
    assert mse(ZS.bfloat16(), ZT.bfloat16(), reduction="sum").dtype == torch.float32


def test_zero_and_identical_embeddings_give_finite_losses_and_gradients():
    for views in (torch.zeros(2, 4, 8), torch.ones(2, 4, 8)):
        views.requires_grad_()
        (nt_xent(views) + similarity_kl(views, Z2[:, :4].float())).backward()
        assert torch.isfinite(views.grad).all()


@pytest.mark.parametrize(
    "loss",
    [
        lambda: nt_xent(Z1[:1]),
        lambda: similarity_kl(Z1[0], Z2),
        lambda: kl(ZS, ZT[:, :4]),
        lambda: kl(ZS, ZT[:1], INFINITE, squared=True),
        lambda: mse(ZS, ZT[:1]),
        lambda: mse(ZS, ZT[:1], reduction="sum"),
    ],
)
def test_a_shape_that_does_not_fit_is_refused(loss):
    with pytest.raises(InputError):
        loss()


@pytest.mark.parametrize(
    ("loss", "says"),
    [
        (lambda: kl(ZS, ZT, 0), "a temperature above 0, not 0"),
        (lambda: kl(ZS, ZT, -1.0, squared=True), "a temperature above 0, not -1.0"),
        (lambda: kl(ZS, ZT, float("nan")), "a temperature above 0, not nan"),
        (lambda: kl(ZS, ZT, -INFINITE, squared=True), "a temperature above 0, not -inf"),
        (lambda: kl(ZS, ZT, INFINITE), "needs squared: true"),
        (lambda: kl(ZS, ZT, epsilon=-1e-8), "an epsilon of 0 or more"),
        (lambda: mse(ZS, ZT, reduction="row"), 'reduction is "row", but can be: mean, sum'),
    ],
)
def test_an_option_without_meaning_is_refused_in_a_sentence(loss, says):
    with pytest.raises(InputError, match=says):
        loss()
