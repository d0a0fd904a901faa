"""The kernel knows nothing about images: a closed form, a knowledge graph, a federated step, a list."""

import math
from collections.abc import Iterator
from pathlib import Path

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from ssl_kd import Cohort, Each, Edge, Follow, Mutual, fit, step
from ssl_kd.engine import NonFinite
from ssl_kd.losses import cross_entropy, kl, negative_cosine, not_true_kl
from ssl_kd.optim import param_groups


class Number(nn.Module):
    """A peer of one parameter that says it."""

    def __init__(self, start: float) -> None:
        super().__init__()
        self.value = nn.Parameter(torch.tensor(start, dtype=torch.float64))

    def forward(self, batch, seen):
        return {"value": self.value * batch["one"]}


def number(cohort: Cohort, name: str) -> float:
    return float(cohort.peers[name].value.detach())


def squared(a: Tensor, b: Tensor) -> Tensor:
    return (a - b).square().mean()


ONE = {"one": torch.ones(4, dtype=torch.float64), "3": torch.tensor(3.0), "7": torch.tensor(7.0)}


def endless(batch) -> "callable":
    def batches(start: int) -> Iterator:
        while True:
            yield batch

    return batches


def pull(strength: float) -> list:
    """Each peer wants its own number and, by `strength`, the other's."""
    return [
        Each("own3", squared, ["a"], ["value", "batch.3"]),
        Each("own7", squared, ["b"], ["value", "batch.7"]),
        Mutual("pull", squared, ["a", "b"], "value", weight=strength),
    ]


def test_a_cohort_of_two_parameters_finds_the_answer_known_in_closed_form(accelerator):
    cohort = Cohort({"a": Number(0.0), "b": Number(0.0)})
    prepared, optimizer = accelerator.prepare(cohort, torch.optim.SGD(cohort.parameters()))
    fit(prepared, pull(2.0), endless(ONE), [optimizer], [0.1], accelerator, steps=400)
    # stationary where (a - 3) + 2 (a - b) = 0 and (b - 7) + 2 (b - a) = 0
    found = [number(cohort, name) for name in "ab"]
    assert found == pytest.approx([(3 * 3 + 2 * 7) / 5, (3 * 7 + 2 * 3) / 5], abs=1e-9)


def test_one_step_is_gradient_descent_on_the_weighted_sum_with_targets_held_fixed(accelerator):
    cohort = Cohort({"a": Number(1.0), "b": Number(2.0)})
    prepared, optimizer = accelerator.prepare(cohort, torch.optim.SGD(cohort.parameters(), lr=0.1))
    result = step(prepared, pull(0.5), ONE, [optimizer], accelerator, 0)
    assert float(result.loss) == pytest.approx((1 - 3) ** 2 + (2 - 7) ** 2 + 0.5 * (1 + 1))
    assert {name: (float(raw), weight) for name, (raw, weight) in result.terms.items()} == {
        "own3/a": (4.0, 1.0),
        "own7/b": (25.0, 1.0),
        "pull/a<-b": (1.0, 0.5),
        "pull/b<-a": (1.0, 0.5),
    }
    assert number(cohort, "a") == pytest.approx(1 - 0.1 * (2 * (1 - 3) + 0.5 * 2 * (1 - 2)))
    assert number(cohort, "b") == pytest.approx(2 - 0.1 * (2 * (2 - 7) + 0.5 * 2 * (2 - 1)))


def test_accumulating_two_halves_is_one_step_on_the_whole(accelerator):
    found = []
    whole = {"one": torch.tensor([1.0, 2.0, 3.0, 4.0], dtype=torch.float64), "3": ONE["3"], "7": ONE["7"]}
    halves = [{**whole, "one": whole["one"][:2]}, {**whole, "one": whole["one"][2:]}]
    for batch in (whole, halves):
        cohort = Cohort({"a": Number(1.0), "b": Number(2.0)})
        optimizer = torch.optim.SGD(cohort.parameters(), lr=0.01)
        result = step(cohort, pull(0.5), batch, [optimizer], accelerator, 0)
        found.append([number(cohort, "a"), number(cohort, "b"), float(result.loss)])
    assert found[0] == pytest.approx(found[1], rel=1e-12)


def test_rates_weights_and_followers_are_functions_of_the_optimiser_step(accelerator):
    cohort = Cohort(
        {"a": Number(0.0), "b": Number(0.0)},
        follow={"b": Follow("a", momentum=lambda i: 0.0 if i < 2 else 1.0)},
    )
    optimizer = torch.optim.SGD([{"params": cohort.peers["a"].parameters(), "lr_scale": 2.0}])
    seen = []
    terms = [lambda outputs, batch, i: {"gap": (-outputs["a"]["value"].mean(), float(i))}]

    def watch(done, result):
        seen.append((done, number(cohort, "a"), number(cohort, "b")))

    fit(
        cohort,
        terms,
        endless([ONE, ONE]),
        [optimizer],
        [lambda i: 0.5],
        accelerator,
        steps=4,
        start=1,
        watchers=[watch],
    )
    assert seen == [(2, 1.0, 1.0), (3, 3.0, 1.0), (4, 6.0, 1.0)]


def test_gradients_are_clipped_per_peer(accelerator):
    cohort = Cohort({"a": Number(0.0), "b": Number(6.9)})
    step(cohort, pull(0.0), ONE, [torch.optim.SGD(cohort.parameters(), lr=1.0)], accelerator, 0, clip=0.5)
    assert number(cohort, "a") == pytest.approx(0.5, abs=1e-5)
    assert number(cohort, "b") == pytest.approx(7.1, abs=1e-5)


def test_a_term_that_is_not_finite_stops_the_loop_with_step_term_and_peer(accelerator):
    cohort = Cohort({"a": Number(1.0), "b": Number(1.0)})
    bad = Each("log", lambda v, t: (v.mean() * (0 if t == 0 else 1)).log(), ["b"], ["value", "batch.tick"])
    ticks = ({**ONE, "tick": 2 - k} for k in range(9))
    optimizer = torch.optim.SGD(cohort.parameters())
    with pytest.raises(NonFinite, match='step 3: the term "log/b" is -inf'):
        fit(cohort, [*pull(1.0), bad], lambda start: ticks, [optimizer], [1e-3], accelerator, steps=9)


def test_two_terms_of_one_name_are_refused(accelerator):
    cohort = Cohort({"a": Number(1.0), "b": Number(1.0)})
    with pytest.raises(ValueError, match='two terms are called "own3/a"'):
        step(cohort, [pull(1)[0]] * 2, ONE, [torch.optim.SGD(cohort.parameters())], accelerator, 0)


# A knowledge graph: 14 nations, 55 relations.


class DistMult(nn.Module):
    """Scores every entity as the tail of (head, relation): sum of e_h * r * e_t (Yang et al. 2015)."""

    def __init__(self, width: int) -> None:
        super().__init__()
        self.entity, self.relation = nn.Embedding(14, width), nn.Embedding(55, width)

    def scores(self, head: Tensor, relation: Tensor) -> Tensor:  # (B,), (B,) -> (B, 14)
        return (self.entity(head) * self.relation(relation)) @ self.entity.weight.T

    def forward(self, batch, seen):
        return {"scores": self.scores(batch["head"], batch["relation"])}


@pytest.fixture(scope="module")
def nations(data_root: Path) -> dict[str, Tensor]:
    folder = data_root / "kg" / "nations"
    if not folder.is_dir():
        pytest.skip(f"the nations triples are not at {folder}")
    words = {
        part: [line.split("\t") for line in (folder / f"{part}.txt").read_text().splitlines()]
        for part in ("train", "valid", "test")
    }
    every = [triple for part in words.values() for triple in part]
    entities = sorted({e for h, _, t in every for e in (h, t)})
    relations = sorted({r for _, r, _ in every})
    assert (len(entities), len(relations)) == (14, 55)
    return {
        part: torch.tensor(
            [[entities.index(h), relations.index(r), entities.index(t)] for h, r, t in triples]
        )
        for part, triples in words.items()
    }


def filtered_mrr(model: DistMult, triples: dict[str, Tensor]) -> float:
    """Mean reciprocal rank of test tails among those that complete no known triple; ties count against."""
    known = {tuple(row) for part in triples.values() for row in part.tolist()}
    total = 0.0
    with torch.no_grad():
        scores = model.scores(triples["test"][:, 0], triples["test"][:, 1])
    for (h, r, t), row in zip(triples["test"].tolist(), scores, strict=True):
        rivals = [e for e in range(14) if e != t and (h, r, e) not in known]
        total += 1 / (1 + sum(bool(row[e] >= row[t]) for e in rivals))
    return total / len(triples["test"])


def triple_batches(train: Tensor):
    def batches(start: int):
        for k in range(start, 10**9):
            rows = train[torch.randint(len(train), (256,), generator=torch.Generator().manual_seed(k))]
            yield {"head": rows[:, 0], "relation": rows[:, 1], "label": rows[:, 2]}

    return batches


def test_a_frozen_teacher_distils_a_knowledge_graph_into_a_smaller_student(nations, accelerator):
    assert [len(nations[part]) for part in ("train", "valid", "test")] == [1592, 199, 201]
    torch.manual_seed(0)
    teacher, student = DistMult(32), DistMult(8)
    alone = Cohort({"teacher": teacher})
    hard = Each("ce", cross_entropy, ["teacher"], ["scores", "batch.label"])
    fit(
        alone,
        [hard],
        triple_batches(nations["train"]),
        [torch.optim.Adam(alone.parameters())],
        [0.01],
        accelerator,
        steps=300,
    )
    untrained, taught = filtered_mrr(student, nations), filtered_mrr(teacher, nations)
    before = [p.clone() for p in teacher.parameters()]
    cohort = Cohort({"teacher": teacher, "student": student}, frozen=["teacher"])
    edge = Edge("kd", kl, "student.scores", "teacher.scores")
    optimizer = torch.optim.Adam(param_groups(cohort, 0.0))
    fit(cohort, [edge], triple_batches(nations["train"]), [optimizer], [0.01], accelerator, steps=300)
    assert filtered_mrr(student, nations) > untrained + 0.1
    assert taught > untrained + 0.1
    assert all(torch.equal(a, b) for a, b in zip(before, teacher.parameters(), strict=True))


# FedNTD's local step.


def small_net() -> nn.Module:
    return nn.Sequential(nn.Linear(6, 16), nn.ReLU(), nn.Linear(16, 5)).double()


class Logits(nn.Module):
    def __init__(self, net: nn.Module) -> None:
        super().__init__()
        self.net = net

    def forward(self, batch, seen):
        return {"logits": self.net(batch["x"])}


def test_fedntds_local_step_equals_a_hand_written_loop(accelerator):
    torch.manual_seed(0)
    start = small_net().state_dict()
    x, y = torch.randn(5, 10, 6, dtype=torch.float64), torch.randint(5, (5, 10))
    local, server = small_net(), small_net()
    local.load_state_dict(start), server.load_state_dict(start)
    cohort = Cohort({"global": Logits(server), "local": Logits(local)}, frozen=["global"])
    terms = [
        Each("ce", cross_entropy, ["local"], ["logits", "batch.label"]),
        Edge(
            "ntd",
            lambda *of: not_true_kl(*of, temperature=3.0),
            "local.logits",
            "global.logits",
            ["batch.label"],
            weight=0.7,
        ),
    ]
    optimizer = torch.optim.SGD(cohort.peers["local"].parameters(), momentum=0.9, weight_decay=1e-5)
    batches = [{"x": x[i], "label": y[i]} for i in range(5)]
    fit(cohort, terms, lambda k: iter(batches[k:]), [optimizer], [0.1], accelerator, steps=5)

    by_hand, fixed = small_net(), small_net()
    by_hand.load_state_dict(start), fixed.load_state_dict(start)
    hand_optimizer = torch.optim.SGD(by_hand.parameters(), lr=0.1, momentum=0.9, weight_decay=1e-5)
    for i in range(5):
        own, target = by_hand(x[i]), fixed(x[i]).detach()
        loss = F.cross_entropy(own, y[i])
        for b in range(10):
            others = [c for c in range(5) if c != y[i, b]]
            q, p = (target[b, others] / 3).softmax(0), (own[b, others] / 3).softmax(0)
            loss = loss + 0.7 * 9 * (q * (q.log() - p.log())).sum() / 10
        hand_optimizer.zero_grad()
        loss.backward()
        hand_optimizer.step()
    gaps = [
        float((a - b).detach().abs().max())
        for a, b in zip(local.parameters(), by_hand.parameters(), strict=True)
    ]
    assert max(gaps) <= 1e-12 and not torch.equal(local[0].weight, start["0.weight"])


# A BYOL-like pair, and a peer whose input is a list.


class Projector(nn.Module):
    def __init__(self, predicts: bool) -> None:
        super().__init__()
        self.net = nn.Sequential(nn.Linear(6, 16), nn.BatchNorm1d(16), nn.ReLU(), nn.Linear(16, 8))
        self.predictor = nn.Linear(8, 8) if predicts else None

    def forward(self, batch, seen):
        z = self.net(batch["views"].flatten(0, 1)).unflatten(0, (2, -1))
        return {"projection": z} | ({"prediction": self.predictor(z)} if self.predictor else {})


def test_a_byol_like_pair_learns_from_a_follower_in_train_mode(accelerator):
    torch.manual_seed(0)
    cohort = Cohort(
        {"target": Projector(False), "online": Projector(True)}, follow={"target": Follow("online", 0.9)}
    )
    terms = [Edge("byol", negative_cosine, "online.prediction", "target.projection")]
    base = torch.randn(32, 6)
    batch = {"views": torch.stack([base, base + 0.1 * torch.randn(32, 6)])}
    losses = []
    optimizer = torch.optim.Adam(param_groups(cohort, 0.0))
    watch = lambda done, result: losses.append(float(result.loss))  # noqa: E731
    fit(cohort, terms, endless(batch), [optimizer], [0.01], accelerator, steps=60, watchers=[watch])
    assert losses[-1] < losses[0] - 0.3 and losses[-1] >= -1
    online, target = cohort.peers["online"], cohort.peers["target"]
    assert target.training and not torch.equal(online.net[0].weight, target.net[0].weight)
    assert torch.equal(target.net[1].running_mean, online.net[1].running_mean)  # buffers: copy


class Detector(nn.Module):
    """Images of several sizes in a list -> scores of its proposals, or of those that a student made."""

    def __init__(self) -> None:
        super().__init__()
        self.score = nn.Linear(4, 3)

    def forward(self, batch, seen):
        said = {}
        if "proposals" not in batch and "student" not in seen:
            said["proposals"] = [
                torch.stack([i.mean((1, 2)), i.amax((1, 2))]).reshape(-1, 2) for i in batch["images"]
            ]
        boxes = said.get("proposals") or seen["student"]["proposals"]
        rows = torch.cat([F.pad(b, (0, 2), value=1.0) for b in boxes])
        return said | {"scores": self.score(rows)}


def test_a_detector_like_peer_takes_a_list_of_images_and_a_later_teacher_scores_its_proposals(accelerator):
    torch.manual_seed(0)
    images = [torch.randn(3, 8, 6), torch.randn(3, 5, 9)]
    cohort = Cohort({"student": Detector(), "teacher": Detector()}, frozen=["teacher"])
    optimizer = torch.optim.SGD(cohort.peers["student"].parameters())
    losses = []
    prepared, optimizer = accelerator.prepare(cohort, optimizer)
    edge = Edge("kd", kl, "student.scores", "teacher.scores")
    watch = lambda done, result: losses.append(float(result.loss))  # noqa: E731
    fit(
        prepared,
        [edge],
        endless({"images": images}),
        [optimizer],
        [0.5],
        accelerator,
        steps=50,
        watchers=[watch],
    )
    assert losses[-1] < 0.2 * losses[0] and math.isfinite(losses[-1])
