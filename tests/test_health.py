"""The figures of an embedding's health, against closed forms and slow loops."""

import math

import pytest
import torch
import torch.nn.functional as F

from ssl_kd.probes import health


@pytest.fixture
def rows() -> torch.Tensor:
    return torch.randn(40, 6, generator=torch.Generator().manual_seed(0))


def test_the_effective_rank_counts_equally_strong_directions():
    basis = torch.linalg.qr(torch.randn(64, 5, generator=torch.Generator().manual_seed(1)))[0]
    assert health.effective_rank(basis) == pytest.approx(5)
    assert health.effective_rank(basis.T) == pytest.approx(5)


def test_the_effective_rank_is_the_entropy_of_the_singular_values(rows):
    share = torch.linalg.svdvals(rows.double())
    share = share / share.sum()
    assert health.effective_rank(rows) == pytest.approx(float((-share * share.log()).sum().exp()))
    assert health.effective_rank(3 * rows) == pytest.approx(health.effective_rank(rows))


def test_one_answer_for_every_image_is_rank_one_without_spread():
    same = torch.ones(50, 8)
    assert health.effective_rank(same) == pytest.approx(1, abs=1e-5)
    assert health.spread(same) == pytest.approx(0, abs=1e-6)
    assert health.uniformity(same) == pytest.approx(0, abs=1e-9)
    assert health.effective_rank(torch.zeros(50, 8)) == 1


def test_alignment_is_the_mean_over_all_pairs_of_views(rows):
    views = torch.stack([rows, rows.roll(1, 0), rows.flip(0)])
    unit = F.normalize(views, dim=-1)
    pairs = [(unit[a] - unit[b]).square().sum(-1).mean() for a, b in ((0, 1), (0, 2), (1, 2))]
    assert health.alignment(views) == pytest.approx(float(torch.stack(pairs).mean()), rel=1e-5)
    assert health.alignment(torch.stack([rows, 2 * rows])) == pytest.approx(0, abs=1e-9)
    assert health.alignment(torch.stack([rows, -rows])) == pytest.approx(4)


def test_uniformity_is_the_mean_over_different_pairs(rows):
    unit = F.normalize(rows.double(), dim=-1)
    gaps = [
        math.exp(-2 * float((unit[i] - unit[j]).square().sum())) for i in range(len(unit)) for j in range(i)
    ]
    assert health.uniformity(rows) == pytest.approx(math.log(sum(gaps) / len(gaps)))


def test_rows_all_over_the_sphere_have_spread_one():
    assert health.spread(torch.randn(20_000, 16)) == pytest.approx(1, abs=0.01)


def test_the_spread_is_the_mean_of_the_columns_own_deviations(rows):
    unit = [[x / math.sqrt(sum(y * y for y in row)) for x in row] for row in rows.tolist()]
    deviations = []
    for column in zip(*unit, strict=True):
        mean = sum(column) / len(column)
        deviations.append(math.sqrt(sum((x - mean) ** 2 for x in column) / (len(column) - 1)))
    expected = sum(deviations) / len(deviations) * math.sqrt(len(deviations))
    assert health.spread(rows) == pytest.approx(expected, rel=1e-6)
    uneven = rows * torch.tensor([8.0, 4, 2, 1, 0.5, 0.25])  # where a root mean square is another number
    unit = F.normalize(uneven.double(), dim=-1)
    assert health.spread(uneven) < 0.95 * float(unit.var(0).mean().sqrt()) * math.sqrt(6)


def test_of_images_that_are_equally_near_the_first_is_the_nearest(rows):
    twice = rows[:20].repeat(2, 1)  # each image has one that equals it, as near in any rotation
    rotation = torch.linalg.qr(torch.randn(6, 6, generator=torch.Generator().manual_seed(2)))[0]
    assert health.agreement(twice, twice @ rotation) == 1
    thrice = rows[:10].repeat(4, 1)
    assert health.agreement(thrice, thrice @ rotation) == 1
    same = torch.ones(40, 6)
    assert health.agreement(same, same @ rotation) == 1
    assert health.agreement(torch.eye(6), torch.eye(6) @ rotation) == 1


def test_agreement_is_that_of_nearest_images(rows):
    rotation = torch.linalg.qr(torch.randn(6, 6, generator=torch.Generator().manual_seed(2)))[0]
    assert health.agreement(rows, rows @ rotation) == 1
    other = rows.clone()
    other[:20] = torch.randn(20, 6, generator=torch.Generator().manual_seed(3))
    nearest = [
        max((j for j in range(40) if j != i), key=lambda j: float(F.cosine_similarity(x[i], x[j], dim=0)))
        for x in (rows, other)
        for i in range(40)
    ]
    expected = sum(a == b for a, b in zip(nearest[:40], nearest[40:], strict=True)) / 40
    assert health.agreement(rows, other) == pytest.approx(expected) and 0 < expected < 1


def test_cka_knows_rotations_and_is_not_fooled_by_many_columns(rows):
    rotation = torch.linalg.qr(torch.randn(6, 6))[0]
    assert health.cka(rows, 5 * rows @ rotation) == pytest.approx(1)
    many = [torch.randn(50, 400, generator=torch.Generator().manual_seed(seed)) for seed in (4, 5)]
    assert abs(health.cka(*many)) < 0.1


def test_cka_is_the_unbiased_estimate_of_song_and_others(rows):
    other = rows[:, :3].exp()

    def hsic(k, m):
        n = len(k)
        k, m = k - torch.diag(k.diagonal()), m - torch.diag(m.diagonal())
        one = torch.ones(n, dtype=k.dtype)
        middle = (one @ k @ one) * (one @ m @ one) / ((n - 1) * (n - 2))
        return float(((k @ m).trace() + middle - 2 / (n - 2) * (one @ k @ m @ one)) / (n * (n - 3)))

    a, b = (x.double() @ x.double().T for x in (rows, other))
    assert health.cka(rows, other) == pytest.approx(hsic(a, b) / math.sqrt(hsic(a, a) * hsic(b, b)))
