"""What holds for any shape, number of peers and weight: losses and terms on inputs that hypothesis draws."""

import math

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from ssl_kd.errors import InputError
from ssl_kd.losses import (
    attention_distance,
    cross_entropy,
    diversity,
    feature_distance,
    info_nce,
    kl,
    mse,
    negative_cosine,
    not_true_kl,
    nt_xent,
    shifted,
    similarity_kl,
)
from ssl_kd.terms import Each, Edge, Mutual
from tests.conftest import unit

# Examples follow from the test alone, so that a run says the same everywhere; none is stored.
thirty = settings(max_examples=30, deadline=None, derandomize=True, database=None)

SEEDS = st.integers(0, 2**32)
VIEWS, IMAGES, WIDTHS = st.integers(2, 4), st.integers(2, 6), st.integers(1, 8)
TEMPERATURES = st.sampled_from([0.05, 0.1, 0.5, 1.0, 4.0])
INFINITE = float("inf")


def drawn(seed: int, *shape: int, scale: float = 1.0) -> Tensor:
    generator = torch.Generator().manual_seed(seed)
    return scale * torch.randn(shape, generator=generator, dtype=torch.float64)


def permutation(seed: int, count: int) -> Tensor:
    return torch.randperm(count, generator=torch.Generator().manual_seed(seed))


def close(found: Tensor | float, expected: Tensor | float, tolerance: float = 1e-9) -> bool:
    return math.isclose(float(found), float(expected), rel_tol=tolerance, abs_tol=tolerance)


# Each compares images (V, B, D) of a student (and of a teacher); cosines are all that they see.
SIMILARITY = {
    "nt_xent": lambda s, t: nt_xent(s, 0.3),
    "info_nce": lambda s, t: info_nce(s, t, drawn(3, 5, s.shape[-1]), 0.3),
    "negative_cosine": negative_cosine,
    "similarity_kl": lambda s, t: similarity_kl(s[:2], t[:2]),
    "similarity_kl, both directions": lambda s, t: similarity_kl(s[:2], t[:2], symmetric=True),
    "similarity_kl, mean of elements": lambda s, t: similarity_kl(s[:2], t[:2], reduction="element"),
}
# Each compares rows of logits (V, B, K).
LOGITS = {
    "kl": kl,
    "kl, smoothed": lambda s, t: kl(s, t, 2.0, squared=True, epsilon=1e-8),
    "kl at infinite temperature": lambda s, t: kl(s, t, INFINITE, squared=True),
    "mse": mse,
    "mse, sum": lambda s, t: mse(s, t, reduction="sum"),
    "not_true_kl": lambda s, t: not_true_kl(s, t, torch.arange(s.shape[-2]) % s.shape[-1]),
}
# Each compares maps (V, B, C, H, W).
MAPS = {"feature": feature_distance, "attention": attention_distance, "diversity": diversity}
ALL = {**SIMILARITY, **LOGITS, **MAPS}


def inputs(name: str, seed: int, views: int, images: int, width: int) -> tuple[Tensor, Tensor]:
    """A student and a teacher, as the loss of that name wants them."""
    shape = (views, images, width, 2, 3) if name in MAPS else (views, images, width)
    return drawn(seed, *shape), drawn(seed + 1, *shape)


@pytest.mark.parametrize("name", ALL)
@thirty
@given(SEEDS, VIEWS, IMAGES, WIDTHS)
def test_the_order_of_the_images_changes_no_loss_and_permutes_its_gradient(name, seed, views, images, width):
    student, teacher = inputs(name, seed, views, images, width)
    order = permutation(seed, images)
    loss = ALL[name]
    if name == "not_true_kl":
        labels = drawn(seed, images).mul(99).long().abs() % width
        loss = lambda s, t: not_true_kl(s, t, labels[order] if s is moved else labels)  # noqa: E731
    moved, teacher_moved = student[:, order].requires_grad_(), teacher[:, order]
    still = student.clone().requires_grad_()
    values = loss(still, teacher), loss(moved, teacher_moved)
    assert close(values[0].detach(), values[1].detach())
    gradients = torch.autograd.grad(values[0], still)[0], torch.autograd.grad(values[1], moved)[0]
    assert torch.allclose(gradients[0][:, order], gradients[1], atol=1e-9)


@pytest.mark.parametrize("name", [*SIMILARITY, "feature", "attention"])
@thirty
@given(SEEDS, VIEWS, IMAGES, st.integers(-6, 6))
def test_the_scale_of_a_row_changes_no_similarity(name, seed, views, images, power):
    student, teacher = inputs(name, seed, views, images, 4)
    scales = 10.0 ** (power * torch.rand(student.shape[:2], generator=torch.Generator().manual_seed(seed)))
    scales = scales.reshape(views, images, *[1] * (student.dim() - 2))
    assert close(ALL[name](scales * student, teacher / scales), ALL[name](student, teacher), 1e-7)


@pytest.mark.parametrize("name", ["nt_xent", "info_nce", "negative_cosine", *LOGITS])
@thirty
@given(SEEDS, VIEWS, IMAGES, WIDTHS)
def test_the_order_of_the_views_changes_no_loss(name, seed, views, images, width):
    student, teacher = inputs(name, seed, views, images, width)
    order = permutation(seed, views)
    assert close(ALL[name](student[order], teacher[order]), ALL[name](student, teacher))


@thirty
@given(SEEDS, VIEWS, IMAGES, WIDTHS, TEMPERATURES)
def test_nt_xent_is_its_slow_loop(seed, views, images, width, temperature):
    z = drawn(seed, views, images, width)
    rows = unit(z).reshape(views * images, width)
    total = 0.0
    for i in range(views * images):
        others = [float(torch.exp(rows[i] @ rows[k] / temperature)) for k in range(len(rows)) if k != i]
        partners = [j for j in range(len(rows)) if j % images == i % images and j != i]
        found = [math.log(sum(others)) - float(rows[i] @ rows[j]) / temperature for j in partners]
        total += sum(found) / (views - 1)
    assert close(nt_xent(z, temperature), total / len(rows))


@thirty
@given(SEEDS, VIEWS, IMAGES, WIDTHS, st.integers(1, 7), TEMPERATURES)
def test_info_nce_is_its_slow_loop(seed, views, images, width, count, temperature):
    query, key = drawn(seed, views, images, width), drawn(seed + 1, views, images, width)
    negatives = drawn(seed + 2, count, width)
    q, k, n = unit(query), unit(key), unit(negatives)
    losses = []
    for a, b in ((a, b) for a in range(views) for b in range(views) if a != b):
        for i in range(images):
            positive = float(q[a, i] @ k[b, i]) / temperature
            others = sum(math.exp(float(q[a, i] @ row) / temperature) for row in n)
            losses.append(math.log(math.exp(positive) + others) - positive)
    assert close(info_nce(query, key, negatives, temperature), sum(losses) / len(losses))


@thirty
@given(SEEDS, IMAGES, WIDTHS, WIDTHS, TEMPERATURES, st.booleans(), st.sampled_from(["row", "element"]))
def test_similarity_kl_is_its_slow_loop(seed, images, width, other, temperature, symmetric, reduction):
    student, teacher = drawn(seed, 2, images, width), drawn(seed + 1, 2, images, other)

    def distribution(z: Tensor, i: int) -> list[float]:
        raw = [math.exp(float(unit(z[0])[i] @ unit(z[1])[j]) / temperature) for j in range(images)]
        return [value / sum(raw) for value in raw]

    def slow(s: Tensor, t: Tensor) -> float:
        pairs = [
            (p, q) for i in range(images) for p, q in zip(distribution(s, i), distribution(t, i), strict=True)
        ]
        return sum(q * (math.log(q) - math.log(p)) for p, q in pairs) / images

    expected = slow(student, teacher)
    if symmetric:
        expected = (expected + slow(student.flip(0), teacher.flip(0))) / 2
    expected /= images if reduction == "element" else 1
    assert close(similarity_kl(student, teacher, temperature, symmetric, reduction=reduction), expected)


@pytest.mark.parametrize("name", [n for n in ALL if "kl" in n or "mse" in n or n in ("feature", "attention")])
@thirty
@given(SEEDS, IMAGES, st.integers(2, 8))
def test_a_distance_is_never_negative_and_zero_from_a_teacher_to_itself(name, seed, images, width):
    student, teacher = inputs(name, seed, 2, images, width)
    assert float(ALL[name](student, teacher)) >= -1e-12
    student.requires_grad_()
    same = ALL[name](student, student.detach())
    assert abs(float(same.detach())) < 1e-12
    assert torch.autograd.grad(same, student)[0].abs().max() < 1e-9


@pytest.mark.parametrize("views", [1, 3, 4])
@pytest.mark.parametrize("side", [0, 1])
def test_similarity_kl_is_of_two_views_and_refuses_other_numbers(views, side):
    both = [drawn(0, 2, 4, 3), drawn(1, 2, 4, 3)]
    both[side] = drawn(2, views, 4, 3)
    with pytest.raises(InputError, match=rf"two views, .2, B, D.; the (student|teacher) gave .{views}, 4, 3"):
        similarity_kl(*both)


@pytest.mark.parametrize("name", ["nt_xent", "info_nce", "negative_cosine"])
@pytest.mark.parametrize("shape", [(1, 4, 3), (4, 3), (0, 4, 3)])
def test_one_view_is_nothing_to_compare_and_refused(name, shape):
    with pytest.raises(InputError, match="compares at least two views"):
        SIMILARITY[name](torch.ones(shape), torch.ones(shape))


@thirty
@given(SEEDS, st.integers(1, 3), IMAGES, st.integers(2, 6), st.lists(st.booleans(), min_size=6, max_size=6))
def test_an_image_without_a_label_counts_for_nothing(seed, views, images, classes, labelled):
    student, teacher = (
        drawn(seed, views, images, classes).requires_grad_(),
        drawn(seed + 1, views, images, classes),
    )
    known = torch.tensor(labelled[:images])
    labels = torch.where(known, torch.arange(images) % classes, -1)
    for loss in (lambda s, t, y: cross_entropy(s, y), not_true_kl):
        found = loss(student, teacher, labels)
        gradient = torch.autograd.grad(found, student)[0]
        assert (gradient[:, ~known] == 0).all() and torch.isfinite(gradient).all()
        expected = (
            loss(student[:, known], teacher[:, known], labels[known]) if known.any() else torch.zeros(())
        )
        assert close(found.detach(), expected.detach())


# Rows that nature avoids: zeros, twins, rows of one number, of 1e4 and of 1e-6.
KINDS = {
    "plain": lambda x: x,
    "zero": lambda x: 0 * x,
    "one number": lambda x: torch.ones_like(x),
    "huge": lambda x: 1e4 * x,
    "tiny": lambda x: 1e-6 * x,
}


@pytest.mark.parametrize("name", [*ALL, "cross_entropy", "shifted"])
@thirty
@given(
    SEEDS,
    VIEWS,
    IMAGES,
    WIDTHS,
    st.lists(st.sampled_from(list(KINDS)), min_size=12, max_size=12),
    st.booleans(),
)
def test_values_and_gradients_are_finite_for_any_rows(name, seed, views, images, width, kinds, bfloat16):
    both = inputs("feature" if name == "shifted" else name, seed, views, images, width)
    made = []
    for side, x in enumerate(both):
        flat = x.float().reshape(views * images, -1)
        rows = [KINDS[kinds[(i + 7 * side) % 12]](row) for i, row in enumerate(flat)]
        made.append(torch.stack(rows).reshape(x.shape))
    student, teacher = [x.bfloat16() if bfloat16 else x for x in made]
    student.requires_grad_(), teacher.requires_grad_()
    labels = torch.arange(images) % width
    other = {
        "cross_entropy": lambda s, t: cross_entropy(s, labels),
        "shifted": lambda s, t: shifted(s).mean(),
    }
    loss = {**ALL, **other}[name]
    if name == "info_nce":
        loss = lambda s, t: info_nce(s, t, t.flatten(0, 1), 0.05)  # noqa: E731
    value = loss(student, teacher)
    assert torch.isfinite(value) and value.dtype == torch.float32
    gradients = torch.autograd.grad(value, (student, teacher), allow_unused=True)
    assert all(gradient is None or torch.isfinite(gradient).all() for gradient in gradients)


# Terms


def said(peers: list[str], heads: list[str], seed: int = 0) -> dict[str, dict[str, Tensor]]:
    names = [(peer, head) for peer in peers for head in heads]
    values = {name: drawn(seed + i, 2, 3, 4).requires_grad_() for i, name in enumerate(names)}
    return {peer: {head: values[peer, head] for head in heads} for peer in peers}


def expected_pairs(peers: list[str], between: str) -> set[tuple[str, str]]:
    count = len(peers)
    apart = {
        "all": lambda i, j: True,
        "ring": lambda i, j: j == (i - 1) % count,
        "chain": lambda i, j: j == i - 1,
        "leader": lambda i, j: j == 0,
    }[between]
    return {(peers[i], peers[j]) for i in range(count) for j in range(count) if i != j and apart(i, j)}


@thirty
@given(
    st.integers(1, 6),
    st.integers(1, 3),
    st.sampled_from(["all", "ring", "chain", "leader"]),
    st.sampled_from(["same", "cross", "dense"]),
    st.sampled_from(["mean", "sum"]),
    st.floats(0, 10),
)
def test_mutual_has_each_edge_of_its_map_once_and_weighs_each_student_alike(
    count, headed, between, joined, reduce, weight
):
    peers, heads = [f"p{i}" for i in range(count)], [f"h{i}" for i in range(headed)]
    term = Mutual("m", mse, peers, heads, between=between, heads=joined, reduce=reduce, weight=weight)
    pairs = {
        "same": [(h, h) for h in heads],
        "cross": [(h, g) for h in heads for g in heads if h != g],
        "dense": [(h, g) for h in heads for g in heads],
    }[joined]
    edges = {(f"{s}.{h}", f"{t}.{g}") for s, t in expected_pairs(peers, between) for h, g in pairs}
    links = term.links()
    assert {(link.student, link.teacher) for link in links} == edges
    assert len(links) == len(edges) == len({link.name for link in links})
    plain = headed == 1
    for link in links:
        student, teacher = (a.split(".")[0] if plain else a for a in (link.student, link.teacher))
        assert link.name == f"m/{student}<-{teacher}"
    scalars = term(said(peers, heads), {}, 0)
    assert list(scalars) == [link.name for link in links]
    for peer in peers:
        own = [
            weight_ for name, (_, weight_) in scalars.items() if name[2:].split("<-")[0].split(".")[0] == peer
        ]
        assert not own or sum(own) == pytest.approx(
            weight if reduce == "mean" else weight * len(own), abs=1e-12
        )


@thirty
@given(st.integers(2, 5), st.data())
def test_mutual_takes_any_weights_and_leaves_out_the_edges_without_one(count, data):
    peers = [f"p{i}" for i in range(count)]
    names = [f"{s}<-{t}" for s, t in sorted(expected_pairs(peers, "all"))]
    weight = {name: data.draw(st.one_of(st.none(), st.floats(0, 5))) for name in names}
    scalars = Mutual("m", mse, peers, "h0", weight=weight, reduce="sum")(said(peers, ["h0"]), {}, 0)
    kept = {f"m/{name}": value for name, value in weight.items() if value is not None}
    assert {name: value for name, (_, value) in scalars.items()} == kept


@thirty
@given(st.integers(2, 5), SEEDS, st.floats(0.1, 10), st.sampled_from(["mean", "sum"]))
def test_weights_multiply_and_teachers_learn_nothing(count, seed, factor, reduce):
    peers = [f"p{i}" for i in range(count)]
    outputs = said(peers, ["h0"], seed)

    def terms(weight: float) -> list:
        return [
            Each("own", nt_xent, peers, "h0", weight=weight),
            Edge("edge", similarity_kl, "p0.h0", "p1.h0", weight=weight),
            Mutual("all", similarity_kl, peers, "h0", weight=weight, reduce=reduce),
        ]

    found = [{k: v for term in terms(w) for k, v in term(outputs, {}, 0).items()} for w in (1.0, factor)]
    assert list(found[0]) == list(found[1])
    for name in found[0]:
        (raw, one), (again, many) = found[0][name], found[1][name]
        assert torch.equal(raw, again) and many == pytest.approx(factor * one, rel=1e-12)
    links = {link.name: link for term in terms(1.0) for link in term.links()}
    for name, (raw, _) in found[0].items():
        values = [outputs[peer]["h0"] for peer in peers]
        reached = torch.autograd.grad(raw, values, allow_unused=True)
        student = links[name].student.split(".")[0]
        assert [peer for peer, grad in zip(peers, reached, strict=True) if grad is not None] == [student]


@thirty
@given(st.dictionaries(st.sampled_from("abcd"), st.sampled_from("abcd"), min_size=1), st.integers(1, 3))
def test_pairs_say_the_edges_themselves(pairs, headed):
    heads = [f"h{i}" for i in range(headed)]
    links = Mutual("m", mse, pairs, heads).links()
    assert {(link.student, link.teacher) for link in links} == {
        (f"{s}.{h}", f"{t}.{h}") for s, t in pairs.items() for h in heads
    }
