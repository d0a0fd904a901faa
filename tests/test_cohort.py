"""The cohort: order, freezing, followers, known outputs, random streams."""

import pytest
import torch
from torch import nn

from ssl_kd.cohort import Cohort, Follow
from ssl_kd.errors import InputError


class Probe(nn.Module):
    """Says its batch through one linear layer and whom it saw before."""

    def __init__(self, width: int = 3) -> None:
        super().__init__()
        self.layer = nn.Linear(width, width)
        self.norm = nn.BatchNorm1d(width)
        self.register_buffer("table", torch.arange(4))
        self.drop = nn.Dropout(0.5)
        self.seen: list[str] = []

    def forward(self, batch, seen):
        self.seen = list(seen)
        return {"z": self.drop(self.norm(self.layer(batch["x"]))), "hidden": batch["x"]}


BATCH = {"x": torch.arange(12.0).reshape(4, 3)}


def test_peers_run_in_order_and_see_what_was_said_before():
    cohort = Cohort({"a": Probe(), "b": Probe(), "c": Probe()})
    cohort(BATCH)
    assert [cohort.peers[name].seen for name in "abc"] == [[], ["a"], ["a", "b"]]


def test_known_outputs_are_used_and_their_peer_is_not_run():
    cohort = Cohort({"a": Probe(), "b": Probe()})
    said = cohort(BATCH, known={"a": {"z": torch.ones(2)}})
    assert cohort.peers["b"].seen == ["a"] and torch.equal(said["a"]["z"], torch.ones(2))
    assert cohort.peers["a"].norm.num_batches_tracked == 0


def test_frozen_peer_stays_in_eval_mode_when_the_cohort_trains():
    cohort = Cohort({"a": Probe(), "b": Probe()}, frozen=["a"]).train()
    assert (
        not cohort.peers["a"].training and not cohort.peers["a"].norm.training and cohort.peers["b"].training
    )
    said = cohort(BATCH)
    assert not said["a"]["z"].requires_grad and said["b"]["z"].requires_grad
    assert cohort.trainable == ["b"]


def test_only_the_outputs_that_somebody_reads_leave_the_cohort():
    cohort = Cohort({"a": Probe(), "b": Probe()}, returns={"a": ["z"]})
    assert {name: list(said) for name, said in cohort(BATCH).items()} == {"a": ["z"], "b": []}


def test_a_follower_starts_as_a_copy_of_its_leader():
    cohort = Cohort({"a": Probe(), "b": Probe()}, follow={"b": Follow("a")})
    assert all(
        torch.equal(x, y)
        for x, y in zip(cohort.peers["a"].parameters(), cohort.peers["b"].parameters(), strict=True)
    )
    assert not any(p.requires_grad for p in cohort.peers["b"].parameters())


def test_a_follower_moves_by_the_momentum_of_the_step():
    cohort = Cohort(
        {"a": Probe(), "b": Probe()}, follow={"b": Follow("a", momentum=lambda i: 0.5 if i == 7 else 1.0)}
    )
    start = cohort.peers["b"].layer.weight.clone()
    with torch.no_grad():
        cohort.peers["a"].layer.weight.add_(2.0)
    cohort.advance([{"a": {}, "b": {}}], 6)
    assert torch.equal(cohort.peers["b"].layer.weight, start)
    cohort.advance([{"a": {}, "b": {}}], 7)
    assert torch.allclose(cohort.peers["b"].layer.weight, start + 1.0)


@pytest.mark.parametrize(
    ("buffers", "mean", "table"), [("copy", 4.0, 9), ("average", 1.0, 9), ("own", 0.0, 0)]
)
def test_followers_buffers_are_copied_averaged_or_their_own(buffers, mean, table):
    cohort = Cohort({"a": Probe(), "b": Probe()}, follow={"b": Follow("a", 0.75, buffers=buffers)})
    cohort.peers["a"].norm.running_mean.fill_(4.0)
    cohort.peers["a"].table[0] = 9
    cohort.advance([{"a": {}, "b": {}}], 0)
    assert float(cohort.peers["b"].norm.running_mean[0]) == mean and int(cohort.peers["b"].table[0]) == table


def test_a_swins_index_table_survives_following():
    import timm

    def swin():
        return timm.create_model("swin_tiny_patch4_window7_224", num_classes=0, img_size=64, window_size=4)

    for buffers in ("copy", "average"):
        cohort = Cohort({"a": swin(), "b": swin()}, follow={"b": Follow("a", 0.99, buffers=buffers)})
        tables = {k: v for k, v in cohort.peers["a"].named_buffers() if not v.is_floating_point()}
        assert tables and max(int(v.max()) for v in tables.values()) == 48
        cohort.advance([{"a": {}, "b": {}}], 0)
        theirs = dict(cohort.peers["b"].named_buffers())
        assert all(torch.equal(theirs[k], v) for k, v in tables.items())


def test_a_follower_may_lack_its_leaders_last_head_but_not_have_one_more():
    class Two(Probe):
        def __init__(self):
            super().__init__()
            self.predictor = nn.Linear(3, 3)

    Cohort({"a": Two(), "b": Probe()}, follow={"b": Follow("a")})
    with pytest.raises(InputError, match='"a" cannot follow "b": its "predictor.weight"'):
        Cohort({"a": Two(), "b": Probe()}, follow={"a": Follow("b")})


def test_a_followers_mode_is_as_asked():
    cohort = Cohort(
        {"a": Probe(), "b": Probe(), "c": Probe()}, follow={"b": Follow("a"), "c": Follow("a", mode="eval")}
    )
    cohort.train()
    assert cohort.peers["b"].training and not cohort.peers["c"].training
    cohort.eval()
    assert not cohort.peers["b"].training


def test_dropout_is_a_function_of_step_and_peer_and_not_of_the_other_peers():
    torch.manual_seed(0)
    peer = Probe()

    def said(names, step):
        cohort = Cohort({name: peer if name == "b" else Probe() for name in names}, seed=3)
        cohort.begin(step)
        return cohort(BATCH)["b"]["z"]

    torch.manual_seed(5)
    first = said("ab", 4)
    assert torch.equal(first, said("b", 4)) and torch.equal(first, said("cab", 4))
    assert not torch.equal(first, said("b", 5))


def test_peers_with_state_take_the_outputs_of_every_accumulated_batch():
    class Queue(Probe):
        def advance(self, outputs):
            self.seen.append(float(outputs["z"]))

    cohort = Cohort({"a": Queue()})
    cohort.advance([{"a": {"z": torch.tensor(1.0)}}, {"a": {"z": torch.tensor(2.0)}}], 0)
    assert cohort.peers["a"].seen == [1.0, 2.0]


@pytest.mark.parametrize("name", ["a.b", "batch", "keys", "", "a b"])
def test_a_name_that_cannot_be_addressed_is_refused(name):
    with pytest.raises(InputError, match="cannot name a peer"):
        Cohort({name: Probe()})


def test_freezing_or_following_nobody_is_refused_with_the_names():
    with pytest.raises(InputError, match='no peer "c"; there are: a, b'):
        Cohort({"a": Probe(), "b": Probe()}, frozen=["c"])
    with pytest.raises(InputError, match='no peer "c"'):
        Cohort({"a": Probe(), "b": Probe()}, follow={"a": Follow("c")})
