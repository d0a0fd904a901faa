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
    logits = [3 * det((4, 10), 0.37 + 0.11 * i, 0.2 * i) for i in range(4)]
    assert close(kl(logits[0], logits[3], 2, squared=True), 2.6994217213026177)


def test_logit_mse_equals_the_golden_value():
    assert close(mse(ZS, ZT), 2.367574522439)


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


def test_zero_and_identical_embeddings_give_finite_losses_and_gradients():
    for views in (torch.zeros(2, 4, 8), torch.ones(2, 4, 8)):
        views.requires_grad_()
        (nt_xent(views) + similarity_kl(views, Z2[:, :4].float())).backward()
        assert torch.isfinite(views.grad).all()


@pytest.mark.parametrize(
    "loss", [lambda: nt_xent(Z1[:1]), lambda: similarity_kl(Z1[0], Z2), lambda: kl(ZS, ZT[:, :4])]
)
def test_a_shape_that_does_not_fit_is_refused(loss):
    with pytest.raises(InputError):
        loss()
