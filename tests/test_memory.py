"""The queue: the newest rows, in the order of arrival, at a batch's price. The centre: a running mean."""

import time
from collections import deque

import pytest
import torch
import torch.nn.functional as F

from ssl_kd import Cohort
from ssl_kd.errors import InputError
from ssl_kd.losses import info_nce
from ssl_kd.memory import Centre, Queue


def rows(*shape: int) -> dict:
    return {"key": {"z": torch.randn(*shape)}}


@pytest.mark.parametrize("size", [1, 7, 8, 20])
@pytest.mark.parametrize("shape", [(2, 4, 3), (1, 3, 3), (5, 3)])
def test_the_queue_holds_the_newest_unit_rows(size, shape):
    torch.manual_seed(0)
    queue, slow = Queue("key.z", size, 3), deque(maxlen=size)
    slow.extend(queue.rows.clone())
    for _ in range(6):
        seen = rows(*shape)
        said = queue({}, seen)
        assert torch.equal(said["rows"], queue.rows) and torch.equal(said["new"], seen["key"]["z"])
        queue.advance(said)
        slow.extend(F.normalize(seen["key"]["z"].flatten(0, -2), dim=1))
    position = int(queue.written) % size
    assert torch.allclose(torch.cat([queue.rows[position:], queue.rows[:position]]), torch.stack(list(slow)))
    assert torch.allclose(queue.rows.norm(dim=1), torch.ones(size))


def test_a_cohort_fills_it_after_the_step_and_its_checkpoint_has_it():
    class Says(torch.nn.Module):
        def forward(self, batch, seen):
            return {"z": batch["x"]}

    cohort = Cohort({"key": Says(), "queue": Queue("key.z", 8, 3)}, returns={"queue": ["rows", "new"]})
    x = torch.randn(2, 2, 3)
    before = cohort.peers["queue"].rows.clone()
    said = cohort({"x": x})
    assert torch.equal(said["queue"]["rows"], before)
    cohort.advance([said], 0)
    assert torch.allclose(cohort.state_dict()["peers.queue.rows"][:4], F.normalize(x.flatten(0, 1), dim=1))
    assert int(cohort.state_dict()["peers.queue.written"]) == 4


def test_writing_costs_what_the_batch_costs():
    """A write that touched all of a thousand times as many rows would take a thousand times as long."""

    def seconds(size: int) -> float:
        queue, new = Queue("key.z", size, 32), {"new": torch.randn(64, 32)}
        found = []
        for _ in range(30):
            began = time.perf_counter()
            queue.advance(new)
            found.append(time.perf_counter() - began)
        return min(found)

    assert seconds(300_000) < 20 * seconds(300)


def test_the_centre_is_the_running_mean_of_what_was_said_and_moves_after_the_step():
    torch.manual_seed(0)
    centre, slow = Centre("key.z", {"key.z": (3,)}, momentum=0.7), torch.zeros(3)
    for _ in range(4):
        seen = rows(2, 5, 3)
        said = centre({}, seen)
        assert torch.allclose(said["centred"], seen["key"]["z"] - slow)
        centre.advance(said)
        slow = 0.7 * slow + 0.3 * seen["key"]["z"].mean((0, 1))
    assert torch.allclose(centre.state_dict()["centre"], slow)


def test_info_nce_is_the_cross_entropy_of_the_right_key():
    torch.manual_seed(0)
    q, k, negatives = torch.randn(2, 5, 4), torch.randn(2, 5, 4), torch.randn(9, 4)
    losses = []
    for a, b in ((0, 1), (1, 0)):
        for i in range(5):
            against = torch.cat([k[b, i][None], negatives])
            logits = F.cosine_similarity(q[a, i][None], against) / 0.2
            losses.append(F.cross_entropy(logits[None], torch.tensor([0])))
    torch.testing.assert_close(info_nce(q, k, negatives, 0.2), torch.stack(losses).mean())


def test_what_makes_no_sense_is_refused():
    with pytest.raises(InputError, match="a queue has at least 1 row and 1 column, not 0 and 3"):
        Queue("key.z", 0, 3)
    with pytest.raises(InputError, match="key.z has width 4, and the queue 3"):
        Queue("key.z", 8, 3)({}, rows(2, 5, 4))
    with pytest.raises(InputError, match='the centre reads "key.y", and nothing before says that'):
        Centre("key.y", {"key.z": (3,)})
    with pytest.raises(InputError, match="the momentum of a centre must be from 0 to 1, not 2"):
        Centre("key.z", {"key.z": (3,)}, momentum=2)
    with pytest.raises(InputError, match=r"InfoNCE compares at least two views, \(V, B, D\)"):
        info_nce(torch.randn(1, 5, 4), torch.randn(1, 5, 4), torch.randn(9, 4))
