"""The three shapes of terms: which edges they make, what they detach, what they refuse."""

import pytest
import torch

from ssl_kd.errors import InputError
from ssl_kd.losses import kl, similarity_kl
from ssl_kd.terms import Each, Edge, Mutual
from tests.conftest import det


def difference(student, teacher):
    return (student - teacher).square().mean()


def names(term) -> list[str]:
    return [link.name for link in term.links()]


def outputs(*peers: str, heads=("z",)) -> dict:
    return {
        p: {h: torch.full((2, 3, 4), float(i + 1), requires_grad=True) for h in heads}
        for i, p in enumerate(peers)
    }


def test_each_reads_outputs_of_the_peer_and_entries_of_the_batch():
    term = Each(
        "ce", lambda z, y: z.mean() + y.sum(), ["a", "b"], ["z", "batch.label"], weight=lambda i: i / 10
    )
    scalars = term(outputs("a", "b"), {"label": torch.tensor([1, 2])}, 5)
    assert {name: (float(raw.detach()), weight) for name, (raw, weight) in scalars.items()} == {
        "ce/a": (4, 0.5),
        "ce/b": (5, 0.5),
    }


def test_each_spreads_views_for_losses_that_want_them_apart():
    from lightly.loss import NTXentLoss

    torch.manual_seed(0)
    said = {"a": {"z": torch.randn(2, 6, 8)}}
    term = Each("nt_xent", NTXentLoss(0.5), ["a"], "z", spread=True)
    assert torch.isfinite(term(said, {}, 0)["nt_xent/a"][0])


def test_edge_detaches_its_teacher_unless_told_not_to():
    for detach in (True, False):
        said = outputs("student", "teacher")
        loss, _ = Edge("kd", difference, "student.z", "teacher.z", detach=detach)(said, {}, 0)["kd"]
        loss.backward()
        assert said["student"]["z"].grad is not None
        assert (said["teacher"]["z"].grad is None) == detach


def test_an_edge_from_a_peer_to_itself_is_allowed():
    said = outputs("a", heads=("prediction", "projection"))
    scalars = Edge("simsiam", difference, "a.prediction", "a.projection")(said, {}, 0)
    scalars["simsiam"][0].backward()
    assert said["a"]["projection"].grad is None and said["a"]["prediction"].grad is not None


def test_dogos_gradient_into_the_teacher_is_exactly_zero():
    torch.manual_seed(0)
    said = {name: {"z": torch.randn(2, 6, 8, dtype=torch.float64, requires_grad=True)} for name in ("a", "b")}
    scalars = Mutual("kl", similarity_kl, ["a", "b"], "z")(said, {}, 0)
    grads = torch.autograd.grad(scalars["kl/a<-b"][0], [said["a"]["z"], said["b"]["z"]], allow_unused=True)
    assert grads[0].abs().sum() > 0 and grads[1] is None


def test_mutual_joins_every_ordered_pair_and_takes_the_mean_per_student():
    term = Mutual("kl", difference, ["a", "b", "c"], "z", weight=2.0)
    assert names(term) == ["kl/a<-b", "kl/a<-c", "kl/b<-a", "kl/b<-c", "kl/c<-a", "kl/c<-b"]
    scalars = term(outputs("a", "b", "c"), {}, 0)
    assert float(scalars["kl/a<-c"][0].detach()) == 4 and scalars["kl/a<-c"][1] == 1.0
    assert (
        Mutual("kl", difference, ["a", "b", "c"], "z", reduce="sum")(outputs("a", "b", "c"), {}, 0)[
            "kl/a<-c"
        ][1]
        == 1.0
    )


def test_mutual_can_be_a_ring_or_have_a_leader():
    assert names(Mutual("kl", difference, ["a", "b", "c"], "z", between="ring")) == [
        "kl/a<-c",
        "kl/b<-a",
        "kl/c<-b",
    ]
    assert names(Mutual("kl", difference, ["a", "b", "c"], "z", between="leader")) == ["kl/b<-a", "kl/c<-a"]


def test_in_a_chain_each_learns_from_the_one_before_it_and_the_first_from_nobody():
    term = Mutual("kl", difference, ["a", "b", "c"], "z", between="chain", weight=2.0)
    assert names(term) == ["kl/b<-a", "kl/c<-b"]
    said = outputs("a", "b", "c")
    scalars = term(said, {}, 0)
    assert [(float(raw.detach()), weight) for raw, weight in scalars.values()] == [(1, 2), (1, 2)]
    scalars["kl/b<-a"][0].backward()
    assert said["a"]["z"].grad is None and said["b"]["z"].grad is not None
    assert names(Mutual("kl", difference, ["a", "b"], "z", between="chain")) == ["kl/b<-a"]
    assert Mutual("kl", difference, ["a"], "z", between="chain").links() == []


def test_mutual_joins_heads_same_cross_or_dense():
    def edges(heads):
        return names(Mutual("kl", difference, ["a", "b"], ["x", "y"], heads=heads))

    assert edges("same") == ["kl/a.x<-b.x", "kl/a.y<-b.y", "kl/b.x<-a.x", "kl/b.y<-a.y"]
    assert edges("cross") == ["kl/a.x<-b.y", "kl/a.y<-b.x", "kl/b.x<-a.y", "kl/b.y<-a.x"]
    assert len(edges("dense")) == 8


def test_dense_heads_summed_equal_dcms_golden_value():
    def smoothed(student, teacher):
        return kl(student, teacher, epsilon=1e-8)

    logits = [3 * det((4, 10), 0.37 + 0.11 * i, 0.2 * i) for i in range(6)]
    heads = ["low", "middle", "last"]
    said = {
        "a": dict(zip(heads, logits[:3], strict=True)),
        "b": dict(zip(heads, logits[3:], strict=True)),
    }
    term = Mutual("kl", smoothed, ["a", "b"], heads, heads="dense", reduce="sum")
    scalars = term(said, {}, 0)
    total = sum(float(raw) * weight for raw, weight in scalars.values())
    assert len(scalars) == 18 and total == pytest.approx(41.708133657834814, rel=1e-6)


def test_mutual_may_learn_with_one_output_and_show_another_per_peer():
    term = Mutual(
        "kl", difference, ["clr", "siam"], {"clr": "z", "siam": "p"}, targets={"clr": "z", "siam": "z"}
    )
    assert [(link.student, link.teacher) for link in term.links()] == [
        ("clr.z", "siam.z"),
        ("siam.p", "clr.z"),
    ]


def test_mutual_takes_a_weight_per_direction_and_leaves_out_an_edge_without_one():
    term = Mutual("kl", difference, ["a", "b"], "z", weight={"a<-b": 3.0, "b<-a": None})
    assert {name: weight for name, (_, weight) in term(outputs("a", "b"), {}, 0).items()} == {"kl/a<-b": 3.0}


def test_mutual_of_one_peer_has_no_edge():
    assert Mutual("kl", difference, ["a"], "z").links() == []


@pytest.mark.parametrize(
    ("make", "says"),
    [
        (
            lambda: Mutual("kl", difference, ["a", "b"], "z", weight={"a<-c": 1.0}),
            "the edges are: a<-b, b<-a",
        ),
        (
            lambda: Mutual("kl", difference, ["a", "b"], "z", between="star"),
            "can be: all, ring, chain, leader",
        ),
        (lambda: Mutual("kl", difference, ["a", "b"], {"a": "z"}), 'no output is named for peer "b"'),
        (lambda: Mutual("kl", difference, ["a", "b"], {"a": ["x", "y"], "b": "x"}), "only heads: dense"),
        (lambda: Each("x", difference, ["ghost"], "z")(outputs("a", "b"), {}, 0), "there are: a, b"),
        (lambda: Each("x", difference, ["a"], "y")(outputs("a"), {}, 0), 'a has no "y"; it has: z'),
        (lambda: Each("x", difference, ["a"], "batch.label")(outputs("a"), {"image": 1}, 0), "it has: image"),
    ],
)
def test_a_wrong_name_is_refused_with_the_right_ones(make, says):
    with pytest.raises(InputError, match=says.replace("(", r"\(")):
        make()
