"""What is computed in float32 whatever the precision, how far bfloat16 is from it, what is not finite."""

import math
from pathlib import Path

import pytest
import torch
from accelerate import Accelerator
from accelerate.state import AcceleratorState, GradientState, PartialState
from torch import Tensor, nn

import ssl_kd.finite
from ssl_kd import Cohort, Each, Edge, Mutual, fit, step
from ssl_kd.config import compose
from ssl_kd.data.parts import join
from ssl_kd.encoder import Encoder
from ssl_kd.engine import NonFinite, Result
from ssl_kd.errors import InputError
from ssl_kd.finite import check_finite
from ssl_kd.groups import choices
from ssl_kd.heads import mlp
from ssl_kd.losses import (
    attention_distance,
    barlow_twins,
    cross_entropy,
    dcl,
    dino,
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
    sup_con,
    vicreg,
    which_view,
)
from ssl_kd.losses.rows import unit
from ssl_kd.machine import full_convolutions
from ssl_kd.methods.ffsd import Consensus
from ssl_kd.probes.health import agreement
from tests.conftest import det
from tests.test_methods import ONE, PARTS, build_cohort, built, read_data, small

LABELS = torch.tensor([1, 3, 0, 2, -1, 4])
NEGATIVES = det((9, 8), 0.77, 0.3).bfloat16()  # the same numbers in every precision
LOSSES = {
    "nt_xent": lambda s, t: nt_xent(s, 0.2),
    "dcl": lambda s, t: dcl(s, 0.2),
    "sup_con": lambda s, t: sup_con(s, LABELS, 0.2),
    "barlow_twins": lambda s, t: barlow_twins(s),
    "vicreg": lambda s, t: vicreg(s),
    "dino": dino,
    "which_view": lambda s, t: which_view(s[..., :2]),
    "info_nce": lambda s, t: info_nce(s, t, NEGATIVES.to(s.dtype), 0.2),
    "negative_cosine": negative_cosine,
    "similarity_kl": similarity_kl,
    "similarity_kl, both directions": lambda s, t: similarity_kl(s, t, symmetric=True),
    "cross_entropy": lambda s, t: cross_entropy(s, LABELS),
    "kl": kl,
    "kl, smoothed": lambda s, t: kl(s, t, 4.0, epsilon=1e-8),
    "kl at infinite temperature": lambda s, t: kl(s, t, float("inf"), squared=True),
    "mse": mse,
    "not_true_kl": lambda s, t: not_true_kl(s, t, LABELS),
    "feature_distance": lambda s, t: feature_distance(maps(s), maps(t)),
    "attention_distance": lambda s, t: attention_distance(maps(s), maps(t)),
    "diversity": lambda s, t: diversity(maps(s), maps(t)),
    "shifted": lambda s, t: (shifted(maps(s)) * maps(t)).mean(),
}


def maps(x: Tensor) -> Tensor:
    """(V, B, 8) -> (V, B, 2, 2, 2)."""
    return x.unflatten(-1, (2, 2, 2))


def both(dtype: torch.dtype, scale: float = 1.0) -> tuple[Tensor, Tensor]:
    """A student and a teacher, (2, 6, 8)."""
    student, teacher = (scale * det((2, 6, 8), a, b) for a, b in ((0.37, 0.2), (0.53, 0.9)))
    return student.to(dtype).requires_grad_(), teacher.to(dtype)


# Losses


@pytest.mark.parametrize("name", LOSSES)
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.float16, torch.float64])
def test_a_loss_is_computed_in_full_precision_also_under_autocast(name, dtype):
    student, teacher = both(dtype)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        found = LOSSES[name](student, teacher)
    full = torch.float64 if dtype == torch.float64 else torch.float32
    wide = student.detach().to(full).requires_grad_()
    expected = LOSSES[name](wide, teacher.to(full))
    assert found.dtype == full
    assert torch.allclose(found, expected, rtol=1e-6, atol=0)
    gradient, same = (torch.autograd.grad(v, x)[0] for v, x in ((found, student), (expected, wide)))
    assert torch.allclose(gradient, same.to(dtype), rtol=1e-6 if dtype == full else 0.01, atol=1e-6)


@pytest.mark.parametrize("name", LOSSES)
@pytest.mark.parametrize("scale", [0.0, 1e-6, 1e4])
def test_a_loss_of_zeros_of_tiny_and_of_huge_numbers_is_finite_and_so_is_its_gradient(name, scale):
    student, teacher = both(torch.float32)
    for s, t in ((scale, 1.0), (1.0, scale), (scale, scale)):
        value = LOSSES[name](s * student, t * teacher)
        assert torch.isfinite(value) and torch.isfinite(torch.autograd.grad(value, student)[0]).all()


@pytest.mark.parametrize(
    "loss",
    [
        lambda s, t, tau: nt_xent(s, tau),
        lambda s, t, tau: dcl(s, tau),
        lambda s, t, tau: sup_con(s, LABELS, tau),
        lambda s, t, tau: dino(s, t, tau, tau),
        lambda s, t, tau: info_nce(s, t, NEGATIVES.float(), tau),
        lambda s, t, tau: similarity_kl(s, t, tau),
        lambda s, t, tau: kl(1e4 * s, 1e4 * t, tau, squared=True),
        lambda s, t, tau: not_true_kl(1e4 * s, 1e4 * t, LABELS, tau),
    ],
)
@pytest.mark.parametrize("temperature", [0.05, 1e-3, 1e-6])
def test_a_small_temperature_gives_finite_values_and_gradients(loss, temperature):
    student, teacher = both(torch.float32)
    value = loss(student, teacher, temperature)
    assert torch.isfinite(value) and torch.isfinite(torch.autograd.grad(value, student)[0]).all()


def test_a_zero_row_stays_zero_and_gets_no_gradient():
    rows = torch.tensor([[3.0, 4.0], [0.0, 0.0]], requires_grad=True)
    assert unit(rows).tolist() == [[pytest.approx(0.6), pytest.approx(0.8)], [0, 0]]
    (gradient,) = torch.autograd.grad(unit(rows).square().sum() + unit(rows).sum(), rows)
    assert (gradient[1] == 0).all() and gradient[0].abs().sum() > 0
    z = torch.cat([torch.zeros(2, 1, 8), det((2, 5, 8), 0.37, 0.2).float()], 1).requires_grad_()
    (gradient,) = torch.autograd.grad(nt_xent(z) + similarity_kl(z, z.detach().flip(0)), z)
    assert (gradient[:, 0] == 0).all() and 0 < gradient.abs().max() < 10


@pytest.mark.parametrize("loss", [nt_xent, dcl, lambda z: similarity_kl(z, z.detach().flip(0))])
def test_a_batch_of_one_has_nothing_to_compare_and_is_refused(loss):
    with pytest.raises(InputError, match="compares images and needs 2 of them at once; it got 1"):
        loss(det((2, 1, 8), 0.37, 0.2).float())


@pytest.mark.parametrize(
    "loss", [lambda s: cross_entropy(s, LABELS), lambda s: not_true_kl(s, s.detach() + 1, LABELS)]
)
def test_rows_without_a_label_have_no_part_and_none_at_all_gives_zero(loss):
    student, _ = both(torch.float32)
    (gradient,) = torch.autograd.grad(loss(student), student)
    assert (gradient[:, 4] == 0).all()


def test_without_any_label_losses_and_gradients_are_zero():
    student, teacher = both(torch.float32)
    none = torch.full((6,), -1)
    value = cross_entropy(student, none) + not_true_kl(student, teacher, none)
    assert float(value.detach()) == 0 and (torch.autograd.grad(value, student)[0] == 0).all()


@pytest.mark.parametrize("temperature", [0, -1.0, float("inf"), float("nan")])
@pytest.mark.parametrize(
    "loss",
    [
        lambda z, tau: nt_xent(z, tau),
        lambda z, tau: info_nce(z, z, z[0], tau),
        lambda z, tau: similarity_kl(z, z, tau),
    ],
)
def test_a_temperature_without_meaning_is_refused(loss, temperature):
    with pytest.raises(InputError, match=f"needs a finite temperature above 0, not {temperature}"):
        loss(both(torch.float32)[0], temperature)


@pytest.mark.parametrize(
    ("loss", "says"),
    [
        (lambda z: negative_cosine(z, z[:, :1]), "the negative cosine compares equal shapes"),
        (lambda z: info_nce(z, z[..., :4], z[0]), "InfoNCE compares equal shapes"),
        (lambda z: similarity_kl(z, z[:, :1]), "the same images; the student gave 6, the teacher 1"),
        (lambda z: not_true_kl(z, z[:1], LABELS), "KL compares equal shapes"),
    ],
)
def test_what_would_be_broadcast_in_silence_is_refused(loss, says):
    with pytest.raises(InputError, match=says):
        loss(both(torch.float32)[0])


def test_a_single_image_agrees_with_nothing():
    assert math.isnan(agreement(torch.ones(1, 3), torch.ones(1, 4)))


def test_a_consensus_of_half_precision_is_made_in_float32():
    rows = [det((2, 6, 8), 0.3 + i, 0.1).bfloat16() for i in range(3)]
    seen = {name: {"z": x} for name, x in zip("abc", rows, strict=True)}
    for how in ("mean", "similarity"):
        said = Consensus(["a.z", "b.z", "c.z"], how=how)({}, seen)["said"]
        assert said.dtype == torch.float32
    assert torch.equal(Consensus(["a.z", "b.z"])({}, seen)["said"], (rows[0].float() + rows[1].float()) / 2)


# What terms are given


class Views(nn.Module):
    """A small backbone, with a convolution and a batch norm."""

    def __init__(self) -> None:
        super().__init__()
        self.net = nn.Sequential(nn.Conv2d(1, 8, 3), nn.BatchNorm2d(8), nn.ReLU(), nn.AdaptiveAvgPool2d(1))

    def forward(self, images: Tensor) -> Tensor:
        return self.net(images).flatten(1)


def encoder(per_view: bool = False) -> Encoder:
    torch.manual_seed(0)
    return Encoder(Views(), {"z": mlp(8, out=4, hidden=8)}, per_view=per_view)


def images(count: int, value: float | None = None) -> dict[str, Tensor]:
    views = det((2, count, 1, 6, 6), 0.7, 0.1).float()
    return {"views": views if value is None else torch.full_like(views, value), "row": torch.arange(count)}


def fresh(precision: str) -> Accelerator:
    """Another precision in one process, which accelerate does not foresee."""
    AcceleratorState._reset_state(reset_partial_state=True)
    GradientState._reset_state()
    PartialState._reset_state()
    return Accelerator(cpu=True, mixed_precision=precision)


@pytest.mark.parametrize("join_", [None, join])
def test_a_term_gets_float32_outside_autocast_and_networks_run_in_bfloat16(join_):
    accelerator = fresh("bf16")
    seen: list = []

    def loss(z: Tensor) -> Tensor:
        seen.append((z.dtype, torch.is_autocast_enabled("cpu")))
        return nt_xent(z)

    cohort = Cohort({"a": encoder()})
    inside: list = []
    cohort.peers["a"].heads["z"].register_forward_hook(lambda *a: inside.append(a[2].dtype))
    prepared, optimizer = accelerator.prepare(cohort, torch.optim.SGD(cohort.parameters()))
    batch = [images(4), images(4)] if join_ else images(4)
    step(prepared, [Each("own", loss, ["a"], "z")], batch, [optimizer], accelerator, 0, join=join_)
    assert set(seen) == {(torch.float32, False)} and set(inside) == {torch.bfloat16}


# bfloat16 against float32, for every method: equal weights and batches of 16 digits, small untrained networks
# (whose embeddings are nearly alike, so that what a loss sees are differences).
#
# term: of any term's value, relative to it (to 0.1 where it is below). cosine: 1 - cos of a peer's two
# gradients, the worst peer's. length: relative difference of their lengths. losses: relative difference of
# the loss in the first five steps (to 1 where it is below). Twice the largest of five seeds, rounded up;
# measured on a CPU with AMX.
TOLERANCES = {
    # method: (term, cosine, length, losses)
    "barlow_twins": (0.007, 0.06, 0.18, 0.007),
    "cbd": (0.005, 0.05, 0.13, 0.035),
    "byol": (0.02, 0.06, 0.15, 0.015),
    "dcl": (0.009, 0.035, 0.07, 0.009),
    "dcm": (0.006, 0.015, 0.03, 0.001),
    "dino": (0.002, 0.04, 0.08, 0.002),
    "dml": (0.004, 0.04, 0.13, 0.001),
    "dogo": (0.01, 0.035, 0.07, 0.006),
    "dogo_mixed": (0.016, 0.065, 0.2, 0.004),
    "exits": (0.03, 0.04, 0.12, 0.006),
    "finetune": (0.002, 0.05, 0.13, 0.004),
    "ffsd": (0.006, 0.04, 0.13, 0.02),
    "fusion": (0.026, 0.04, 0.09, 0.006),
    "kd": (0.005, 0.02, 0.03, 0.002),
    "moco": (0.006, 0.11, 0.12, 0.004),
    "retrain": (0.002, 0.05, 0.13, 0.004),
    "rotation": (0.002, 0.03, 0.1, 0.002),
    "simclr": (0.002, 0.035, 0.08, 0.003),
    "simclrv2": (0.002, 0.035, 0.08, 0.003),
    "simsiam": (0.015, 0.13, 0.17, 0.003),
    "ssl_kd": (0.06, 0.04, 0.09, 0.006),
    "supcon": (0.006, 0.04, 0.07, 0.006),
    "supervised": (0.002, 0.05, 0.13, 0.004),
    "vicreg": (0.002, 0.05, 0.16, 0.002),
    f"ssl_kd parts=[{','.join(PARTS)}]": (0.06, 0.04, 0.13, 0.009),
}


@pytest.fixture(scope="module")
def weights(tmp_path_factory) -> Path:
    """Of a network with a classifier and a projection, for teachers."""
    head = "peer.heads.projection={_target_: ssl_kd.heads.mlp, out: 128, hidden: 512}"
    config = compose(["method=supervised", ONE, head, "data=digits", "seed=7"])
    path = tmp_path_factory.mktemp("teacher") / "teacher.pt"
    torch.save(build_cohort(config, read_data(config).train.shape).peers["a"].state_dict(), path)
    return path


def words_of(method: str, weights: Path) -> list[str]:
    return small([f"method={method.split()[0]}", *method.split()[1:]], weights)


def trained(words: list[str], precision: str) -> tuple[dict[str, float], dict[str, Tensor], list[float]]:
    """Terms and gradients by peer of a step where every weight has risen; the losses of the first five."""
    accelerator = fresh(precision)
    made = built(*words, batches=5)
    if precision == "bf16":
        full_convolutions(made.cohort)
    prepared, *optimizers = accelerator.prepare(made.cohort, *made.optimizers)
    result = step(prepared, made.terms, made.batches[0], [], accelerator, made.config.steps - 1)
    gradients = {
        name: torch.cat([p.grad.flatten() for p in made.cohort.peers[name].parameters() if p.requires_grad])
        for name in made.cohort.trainable
        if any(p.grad is not None for p in made.cohort.peers[name].parameters())
    }
    made.cohort.zero_grad()
    losses: list[float] = []
    fit(
        prepared, made.terms, lambda k: iter(made.batches), optimizers, made.rates, accelerator, steps=5,
        watchers=[lambda done, result: losses.append(float(result.loss))],
    )  # fmt: skip
    return {name: float(raw) for name, (raw, _) in result.terms.items()}, gradients, losses


def test_every_method_has_a_tolerance():
    assert {name.split()[0] for name in TOLERANCES} == set(choices("method"))


@pytest.mark.parametrize("method", TOLERANCES)
def test_bfloat16_is_near_float32(method, weights):
    term, cosine, length, losses = TOLERANCES[method]
    (ours, gradients, few), (theirs, others, many) = (
        trained(words_of(method, weights), precision) for precision in ("bf16", "no")
    )
    for name, value in theirs.items():
        assert abs(ours[name] - value) <= term * max(abs(value), 0.1), name
    for peer, expected in others.items():
        found = gradients[peer]
        assert 1 - torch.cosine_similarity(found, expected, 0) <= cosine, peer
        assert abs(found.norm() / expected.norm() - 1) <= length, peer
    assert few == pytest.approx(many, rel=losses, abs=losses)


# Batches that nature avoids

# Gradients of a sum over 512 columns, and of weights of 25; those of the others stay below 100.
LARGEST = {"barlow_twins": 2000.0, "vicreg": 500.0}


@pytest.mark.parametrize("method", TOLERANCES)
def test_a_batch_of_equal_images_of_none_with_a_label_and_of_zero_embeddings_is_finite(
    method, weights, accelerator
):
    made = built(*words_of(method, weights))
    batch = made.batches[0]

    def views(change) -> dict:
        return {k: change(v) if k.startswith("views") else v for k, v in batch.items()}

    def check(batch: dict) -> None:
        result = step(made.cohort, made.terms, batch, [], accelerator, made.config.steps - 1)
        assert torch.isfinite(result.loss)
        grads = [p.grad for p in made.cohort.parameters() if p.grad is not None]
        most = LARGEST.get(method, 100.0)
        assert grads and all(torch.isfinite(grad).all() and grad.abs().max() < most for grad in grads)
        made.cohort.zero_grad()

    check(views(lambda v: v[:, :1].expand_as(v)))
    check(views(torch.zeros_like))
    check({**batch, "label": torch.full_like(batch["label"], -1)})
    check({**batch, "label": torch.full_like(batch["label"], 3)})
    with torch.no_grad():
        for name, p in made.cohort.named_parameters():
            if ".heads." in name:
                p.zero_()
    check(batch)
    with torch.no_grad():
        for p in made.cohort.parameters():
            p.zero_()
    check(batch)


def test_one_value_per_channel_is_refused_in_a_sentence(accelerator):
    cohort = Cohort({"a": encoder(per_view=True)})
    with pytest.raises(InputError) as error:
        step(cohort, [Each("own", nt_xent, ["a"], "z")], images(1), [], accelerator, 6)
    assert str(error.value) == (
        "step 7: batch norm needs more than one value per channel, and a layer got (1, 8); take a larger "
        "batch, or fewer parts of it"
    )
    step(cohort, [Each("own", nt_xent, ["a"], "z")], images(2), [], accelerator, 6)


# What is not finite


def pair(loss=similarity_kl) -> tuple[Cohort, list]:
    cohort = Cohort({"a": encoder(), "b": encoder()})
    return cohort, [Each("own", nt_xent, ["a", "b"], "z"), Mutual("kl", loss, ["a", "b"], "z")]


def refusal(cohort: Cohort, terms: list, batch: dict, accelerator: Accelerator, **options) -> str:
    """What the third step says; no weight may have moved by then."""
    before = [p.clone() for p in cohort.parameters()]
    prepared, optimizer = accelerator.prepare(cohort, torch.optim.SGD(cohort.parameters(), lr=0.1))
    with pytest.raises(NonFinite) as error:
        step(prepared, terms, batch, [optimizer], accelerator, 2, **options)
    assert all(torch.equal(a, b) for a, b in zip(before, cohort.parameters(), strict=True))
    assert "\n" not in str(error.value) and isinstance(error.value, InputError)
    return str(error.value)


def test_pixels_that_are_not_finite_are_named_with_all_that_follows(accelerator):
    batch = images(4)
    batch["views"][0, 2, 0, 0, 0] = float("nan")
    said = refusal(*pair(), batch, accelerator)
    assert said.startswith('step 3: the term "own/a" is nan at peer "a"; before it, this is not finite: ')
    assert said.endswith("batch.views, a.embedding, a.z, b.embedding, b.z")


@pytest.mark.parametrize(
    "edge", [Edge("kd", similarity_kl, "a.z", "b.z"), Mutual("kl", similarity_kl, ["a", "b"], "z")]
)
def test_a_teacher_that_is_not_finite_is_named_by_the_edge_and_by_what_it_says(edge, accelerator):
    cohort = Cohort({"a": encoder(), "b": encoder()}, returns={"a": ["z"], "b": ["z"]})
    with torch.no_grad():
        cohort.peers["b"].heads["z"][-1].bias.fill_(float("inf"))
    said = refusal(cohort, [Each("own", nt_xent, ["a"], "z"), edge], images(4), accelerator)
    name = edge.links()[0].name
    assert (
        said
        == f'step 3: the term "{name}" is nan, where "a" learns from "b"; before it, this is not finite: b.z'
    )


def root_of_zero(z: Tensor) -> Tensor:
    """0, and its gradient infinite."""
    return (z - z.detach()).sum().square().sqrt()


def test_a_gradient_that_is_not_finite_is_named_by_peer_and_parameter_before_it_enters_a_weight(accelerator):
    cohort, terms = pair()
    said = refusal(cohort, [*terms, Each("root", root_of_zero, ["b"], "z")], images(4), accelerator)
    count = len(list(cohort.peers["b"].parameters()))
    assert said == (
        f'step 3: the gradient of peer "b" at "heads.z.3.bias" and that of {count - 1} others is nan, though '
        "every term is finite"
    )


@pytest.mark.parametrize("options", [{"clip": 1.0}, {"join": join}])
def test_clipping_and_gradient_caching_hide_no_such_gradient(options, accelerator):
    cohort, terms = pair()
    batch = [images(2), images(2)] if "join" in options else images(4)
    terms = [*terms, Each("root", root_of_zero, ["b"], "z")]
    assert 'the gradient of peer "b"' in refusal(cohort, terms, batch, accelerator, **options)


def test_a_weight_and_a_sum_that_are_not_finite_are_told_from_the_term(accelerator):
    cohort = Cohort({"a": encoder()})
    for weight, says in (
        (float("inf"), 'step 3: the term "own/a" is '),
        (3e38, "step 3: the sum of the terms is inf"),
    ):
        terms = [
            Each(name, lambda z: z.sum() * 0 + 1.0, ["a"], "z", weight=weight) for name in ("own", "other")
        ]
        said = refusal(cohort, terms, images(4), accelerator)
        assert said.startswith(says) and ("1.0 times inf" in said) == (weight == float("inf"))


def test_a_term_that_is_any_function_is_named_as_it_is(accelerator):
    cohort = Cohort({"a": encoder()})
    terms = [lambda outputs, batch, index: {"mine": (outputs["a"]["z"].sum() * float("inf"), 1.0)}]
    assert refusal(cohort, terms, images(4), accelerator).startswith('step 3: the term "mine" is ')


def test_of_many_things_that_are_not_finite_the_first_are_named(accelerator):
    cohort = Cohort({name: encoder() for name in "abcd"})
    said = refusal(cohort, [Each("own", nt_xent, list("abcd"), "z")], images(4, float("nan")), accelerator)
    assert said.endswith(": batch.views, a.embedding, a.z, b.embedding, b.z and 4 more")


def test_a_term_of_many_numbers_is_refused(accelerator):
    cohort = Cohort({"a": encoder()})
    with pytest.raises(InputError, match=r'the term "own/a" gives .2, 4., and a term is one number'):
        step(cohort, [Each("own", lambda z: z.sum(-1), ["a"], "z")], images(4), [], accelerator, 0)


def looked_at(results: list[tuple[list[float], list[float]]]) -> str:
    """What is said of steps with these terms and these lengths of gradients."""
    module = nn.ModuleDict({"peers": nn.ModuleDict({"a": nn.Linear(2, 1), "b": nn.Linear(2, 1)})})
    parameters = list(module.parameters())
    pending = [
        (
            10 + i,
            Result(
                torch.tensor(values).sum(),
                {f"own/{k}": (torch.tensor(v), 1.0) for k, v in zip("ab", values, strict=True)},
                [],
                (parameters, torch.tensor(lengths)),
            ),
        )
        for i, (values, lengths) in enumerate(results)
    ]
    with pytest.raises(NonFinite) as error:
        check_finite(pending, [], module)
    return str(error.value)


NAN, GOOD = float("nan"), ([1.0, 2.0], [1.0, 2.0, 3.0, 4.0])


def test_of_many_steps_the_first_that_was_not_finite_is_named():
    assert (
        looked_at([GOOD, ([1.0, NAN], [NAN] * 4), ([NAN] * 2, [NAN] * 4)])
        == 'step 12: the term "own/b" is nan'
    )
    said = looked_at([GOOD, GOOD, ([1.0, 2.0], [1.0, 2.0, 3.0, NAN]), ([NAN] * 2, [NAN] * 4)])
    assert said == 'step 13: the gradient of peer "b" at "bias" is nan, though every term is finite'


def test_on_an_accelerator_the_losses_and_gradients_of_many_steps_are_looked_at_at_once(
    monkeypatch, accelerator
):
    cohort, terms = pair()
    terms = [*terms, Each("root", lambda z: root_of_zero(z) if now[-1] == 3 else z.sum() * 0, ["b"], "z")]
    now: list[int] = []
    looks: list[int] = []

    def batches(start: int):
        for k in range(start, 9):
            now.append(k)
            yield images(4)

    prepared, optimizer = accelerator.prepare(cohort, torch.optim.SGD(cohort.parameters(), lr=0.1))
    monkeypatch.setattr(Accelerator, "device", property(lambda self: torch.device("cuda")))
    monkeypatch.setattr("ssl_kd.engine.NON_FINITE_CHECK", 4)
    monkeypatch.setattr(
        "ssl_kd.engine.check_finite", lambda p, *a: (looks.append(len(p)), check_finite(p, *a))
    )
    with pytest.raises(NonFinite, match='step 4: the gradient of peer "b" at "heads.z.3.bias"'):
        fit(prepared, terms, batches, [optimizer], [0.1], accelerator, steps=9)
    assert looks == [4] and now == [0, 1, 2, 3]


def test_what_happens_on_another_process_stops_this_one_and_says_so(monkeypatch):
    def theirs(counts: Tensor) -> None:
        counts[1, 0] += 1  # a loss of theirs, in the second step

    monkeypatch.setattr(ssl_kd.finite, "world", lambda: 2)
    monkeypatch.setattr(torch.distributed, "all_reduce", theirs)
    assert looked_at([GOOD, ([1.0, 2.0], [NAN] * 4)]) == "step 12: a term is not finite on another process"
