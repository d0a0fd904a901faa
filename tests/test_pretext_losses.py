"""The losses of the pretext tasks against slow loops, against lightly's, and at their edges."""

import math

import pytest
import torch
from torch import Tensor

from ssl_kd.errors import InputError
from ssl_kd.losses import (
    barlow_twins,
    dcl,
    dino,
    negative_cosine,
    nt_xent,
    sup_con,
    vicreg,
    which_view,
)
from tests.conftest import det, unit

Z = torch.stack([det((8, 16), 0.7, 0.1), det((8, 16), 1.3, 0.4)])
THREE = det((3, 5, 7), 0.7, 0.1)
LABELS = torch.tensor([0, 1, 0, -1, 2, 1, -1, 0])


def close(found: Tensor, expected: float, rtol: float = 1e-10) -> bool:
    return math.isclose(float(found), float(expected), rel_tol=rtol)


# DCL


def test_dcl_equals_a_slow_loop_for_any_number_of_views():
    rows, total = unit(THREE).reshape(15, 7), 0.0
    for i in range(15):
        others = sum(math.exp(float(rows[i] @ rows[k]) / 0.3) for k in range(15) if k % 5 != i % 5)
        partners = [j for j in range(15) if j % 5 == i % 5 and j != i]
        total += math.log(others) - sum(float(rows[i] @ rows[j]) for j in partners) / 0.3 / 2
    assert close(dcl(THREE, 0.3), total / 15)


def test_dcl_of_two_views_equals_that_of_lightly():
    from lightly.loss import DCLLoss

    assert close(dcl(Z.float(), 0.2), DCLLoss(0.2)(*Z.float()), 1e-5)


def test_dcl_is_nt_xent_without_the_positives_in_the_denominator():
    rows = unit(Z).flatten(0, 1)
    logits = rows @ rows.T / 0.5
    positive = logits.diagonal(8).repeat(2)
    own = torch.eye(8, dtype=torch.bool).repeat(2, 2)
    negatives = logits.masked_fill(own, -math.inf).logsumexp(1)
    assert close(nt_xent(Z, 0.5), (torch.logaddexp(positive, negatives) - positive).mean())
    assert close(dcl(Z, 0.5), (negatives - positive).mean())


def test_dcl_of_one_image_has_nothing_to_tell_apart():
    with pytest.raises(InputError, match="needs 2 of them at once"):
        dcl(Z[:, :1])


# SupCon


def slow_sup_con(views: Tensor, labels: list[int], temperature: float) -> float:
    count, size = views.shape[:2]
    rows, losses = unit(views).flatten(0, 1), []
    for i in range(count * size):
        mine = labels[i % size]
        total = sum(math.exp(float(rows[i] @ rows[k]) / temperature) for k in range(count * size) if k != i)
        alike = [
            p
            for p in range(count * size)
            if p != i and (p % size == i % size or (mine >= 0 and labels[p % size] == mine))
        ]
        if alike:
            terms = [math.log(total) - float(rows[i] @ rows[p]) / temperature for p in alike]
            losses.append(sum(terms) / len(terms))
    return sum(losses) / len(losses) if losses else 0.0


@pytest.mark.parametrize("views", [Z, Z[:1], torch.cat([Z, Z.flip(1)])])
def test_sup_con_equals_a_slow_loop(views):
    assert close(sup_con(views, LABELS, 0.3), slow_sup_con(views, LABELS.tolist(), 0.3))


def test_sup_con_without_a_label_is_nt_xent_and_with_one_view_nothing():
    none = torch.full((8,), -1)
    assert close(sup_con(Z, none, 0.3), nt_xent(Z, 0.3))
    assert close(sup_con(Z, torch.arange(8), 0.3), nt_xent(Z, 0.3))  # every image a class of its own
    with pytest.raises(InputError, match="nothing to learn from"):
        sup_con(Z[:1], none)


def test_sup_con_pulls_a_class_together_and_leaves_those_without_a_label_alone():
    z = Z.clone().requires_grad_()
    for _ in range(200):
        (gradient,) = torch.autograd.grad(sup_con(z, LABELS, 0.5), z)
        z = (z - gradient).detach().requires_grad_()
    rows = unit(z.detach()).flatten(0, 1)
    cosines, labels = rows @ rows.T, LABELS.repeat(2)
    alike = (labels[:, None] == labels) & (labels >= 0) & ~torch.eye(16, dtype=torch.bool)
    assert cosines[alike].min() > 0.8 > cosines[(labels[:, None] != labels)].max()


# Barlow Twins and VICReg


def test_barlow_twins_equals_a_slow_loop():
    a, b = Z[:, :, :5]
    total = 0.0
    for i in range(5):
        for j in range(5):
            x, y = a[:, i] - a[:, i].mean(), b[:, j] - b[:, j].mean()
            c = float((x * y).mean() / ((x.square().mean() + 1e-5) * (y.square().mean() + 1e-5)).sqrt())
            total += (1 - c) ** 2 if i == j else 0.01 * c**2
    assert close(barlow_twins(Z[:, :, :5], redundancy=0.01), total)


def test_vicreg_equals_a_slow_loop():
    a, b = 0.3 * Z[:, :, :5]
    s = sum(float((a[i, j] - b[i, j]) ** 2) for i in range(8) for j in range(5)) / 40
    v = c = 0.0
    for z in (a, b):
        cov = [[float(((z[:, i] - z[:, i].mean()) * (z[:, j] - z[:, j].mean())).sum() / 7) for j in range(5)]
               for i in range(5)]  # fmt: skip
        v += sum(max(0.0, 1 - math.sqrt(cov[i][i] + 1e-4)) for i in range(5)) / 5
        c += sum(cov[i][j] ** 2 for i in range(5) for j in range(5) if i != j) / 5
    assert close(vicreg(0.3 * Z[:, :, :5], 3.0, 7.0, 2.0), 3 * s + 7 * v / 2 + 2 * c)


def test_barlow_twins_and_vicreg_equal_those_of_lightly():
    from lightly.loss import BarlowTwinsLoss, VICRegLoss

    assert close(barlow_twins(Z.float()), BarlowTwinsLoss()(*Z.float()), 1e-5)
    assert close(vicreg(0.3 * Z.float()), VICRegLoss()(*(0.3 * Z.float())), 1e-5)


@pytest.mark.parametrize("loss", [barlow_twins, vicreg])
def test_of_three_views_it_is_the_mean_over_their_pairs(loss):
    pairs = [loss(THREE[[a, b]]) for a, b in ((0, 1), (0, 2), (1, 2))]
    assert close(loss(THREE), sum(pairs) / 3)


def test_a_perfect_embedding_costs_barlow_twins_nothing_and_vicreg_nothing():
    columns = torch.linalg.qr(torch.cat([torch.ones(9, 1), det((9, 4), 0.7, 0.1).float()], 1))[0][:, 1:]
    z = columns.expand(2, 9, 4)  # equal views, of mean 0, uncorrelated
    assert float(barlow_twins(100 * z)) < 1e-6 and float(vicreg(100 * z)) < 1e-5
    assert float(vicreg(0 * z)) == pytest.approx(25 * 0.99) and float(barlow_twins(0 * z)) == 4


# SimSiam, BYOL, DINO


def test_negative_cosine_equals_simsiam_and_byol_as_lightly_writes_them():
    from lightly.loss import NegativeCosineSimilarity

    p, z = 2 * Z.float().flip(1), Z.float()
    theirs = NegativeCosineSimilarity()
    assert close(negative_cosine(p, z), 0.5 * (theirs(p[0], z[1]) + theirs(p[1], z[0])), 1e-5)
    squared = (unit(p) - unit(z).flip(0)).square().sum(-1).mean(-1).sum()
    assert close(4 + 4 * negative_cosine(p, z), squared, 1e-5)


def test_dino_equals_a_slow_loop_for_a_teacher_that_sees_only_the_first_views():
    student, teacher = det((4, 3, 6), 0.7, 0.1), det((2, 3, 6), 1.1, 0.3)
    losses = []
    for b in range(2):
        for a in range(4):
            if a != b:
                q, p = (teacher[b] / 0.3).softmax(1), (student[a] / 0.5).softmax(1)
                losses += [-float((q[i] * p[i].log()).sum()) for i in range(3)]
    assert close(dino(student, teacher, 0.5, 0.3), sum(losses) / len(losses))


def test_dino_equals_that_of_lightly():
    from lightly.loss import DINOLoss

    student, teacher, centre = Z.float(), Z.float().flip(1), det((16,), 0.2, 0.5).float()
    theirs = DINOLoss(16, student_temp=0.1, teacher_temp=0.07)
    theirs.center.copy_(centre)
    expected = theirs([*teacher], [*student])
    assert close(dino(student, teacher - centre, 0.1, 0.07), expected, 1e-5)


# Rotation


def test_which_view_is_the_cross_entropy_of_a_views_number():
    logits = det((4, 5, 4), 0.7, 0.1)
    slow = [-float(logits[v, i].log_softmax(0)[v]) for v in range(4) for i in range(5)]
    assert close(which_view(logits), sum(slow) / 20)


# All of them


CALLS = {
    "dcl": lambda z: dcl(z, 0.3),
    "sup_con": lambda z: sup_con(z, LABELS, 0.3),
    "barlow_twins": barlow_twins,
    "vicreg": vicreg,
    "dino": lambda z: dino(z, Z.flip(0)),
    "which_view": lambda z: which_view(torch.cat([z, z.flip(1)])[..., :4]),
}


@pytest.mark.parametrize("name", CALLS)
def test_gradients_are_those_of_the_values(name):
    assert torch.autograd.gradcheck(CALLS[name], Z.clone().requires_grad_())


@pytest.mark.parametrize(
    ("loss", "says"),
    [
        (lambda: dcl(Z[:1]), "DCL compares at least two views"),
        (lambda: dcl(Z, 0), "DCL needs a finite temperature above 0, not 0"),
        (lambda: sup_con(Z[0], LABELS), r"SupCon compares views, \(V, B, D\)"),
        (lambda: sup_con(Z, LABELS, -1), "SupCon needs a finite temperature"),
        (lambda: barlow_twins(Z[0]), "Barlow Twins compares at least two views"),
        (lambda: vicreg(Z[:1]), "VICReg compares at least two views"),
        (lambda: dino(Z, Z[:, :4]), "DINO compares views of the same images"),
        (lambda: dino(Z[:1], Z[:1]), "DINO needs two views or more"),
        (lambda: dino(Z, torch.cat([Z, Z])), "the student gave 2, the teacher 4"),
        (lambda: dino(Z, Z, 0.1, 0), "DINO needs a finite temperature above 0"),
        (lambda: which_view(Z), r"one class for each view, \(V, B, V\), is needed"),
    ],
)
def test_what_does_not_fit_is_refused_in_a_sentence(loss, says):
    with pytest.raises(InputError, match=says):
        loss()
