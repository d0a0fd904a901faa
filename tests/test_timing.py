"""Where a step's time goes: what is slow shows in its row, the steps are a run's, nothing stays."""

import re
import time
from pathlib import Path

import numpy as np
import pytest
import torch
from torch import nn

from ssl_kd.cli import main
from ssl_kd.config import compose
from ssl_kd.data import Data
from ssl_kd.engine import fit
from ssl_kd.timing import PARTS, WARM_UP, Stopwatch, measure
from ssl_kd.training import Parts, build

NAP = 0.04
SLOW: set[str] = set()  # what takes a nap
SMALL = ["epochs=1", "batch_size=32", "precision=float32", "threads=1", "peers={a: resnet8, b: resnet8}"]
EDGE = "{_target_: ssl_kd.Edge, loss: {_target_: ssl_kd.losses.similarity_kl}, student: a.projection, "
TWO_MORE = [
    "peers={a: resnet8, b: resnet8, late: {backbone: resnet8, follow: {leader: a}}, "
    "old: {backbone: resnet8, frozen: true}}",
    f"terms.late={EDGE}teacher: late.projection}}",
    f"terms.old={EDGE}teacher: old.projection}}",
]


@pytest.fixture(autouse=True)
def _own_folder(tmp_path, monkeypatch):
    threads = torch.get_num_threads()
    monkeypatch.chdir(tmp_path)
    SLOW.clear()
    yield
    torch.set_num_threads(threads)


def nap(name: str) -> None:
    if name in SLOW:
        time.sleep(NAP)


class Images:
    """A source of one batch."""

    shape, labels, classes = (1, 4, 4), None, ()

    def __len__(self) -> int:
        return 32

    def __getitem__(self, i: int) -> np.ndarray:
        nap("data" if i == 0 else "")
        return np.zeros(self.shape, np.uint8)


def images() -> Data:
    return Data(Images())


def recipe(batch: dict, index: int) -> dict:
    nap("views")
    if "start" in SLOW and index < WARM_UP:
        time.sleep(10 * NAP)
    return {**batch, "views": batch["image"].float().expand(2, -1, -1, -1, -1)}


class SlowGradient(torch.autograd.Function):
    @staticmethod
    def forward(ctx, x, name):
        ctx.name = name
        return x.clone()

    @staticmethod
    def backward(ctx, grad):
        nap("backward" if ctx.name == "a" else "")
        return grad, None


class Peer(nn.Module):
    def __init__(self, name: str):
        super().__init__()
        self.name, self.layer = name, nn.Linear(16, 4)

    def forward(self, batch, seen):
        nap(self.name)
        return {"z": SlowGradient.apply(self.layer(batch["views"].flatten(2)), self.name)}

    def advance(self, outputs):
        nap("followers" if self.name == "a" else "")


def quick(z):
    return z.square().mean()


def slow(z):
    nap("terms")
    return quick(z)


class SlowSGD(torch.optim.SGD):
    def step(self, closure=None):
        nap("optimiser")
        return super().step(closure)


def words() -> list[str]:
    """A cohort whose own work takes next to no time."""
    here = __name__
    terms = [
        f"{loss}: {{_target_: ssl_kd.Each, loss: {{_target_: {here}.{loss}}}, peers: {peers}, reads: z}}"
        for loss, peers in (("quick", "[a, b]"), ("slow", "[a]"))
    ]
    return [
        "method=simclr",
        f"data={{_target_: {here}.images, name: none, size: 4, resident_bytes: 0, workers: 0}}",
        "recipe=own",
        f"recipe={{_target_: {here}.recipe}}",
        f"peers={{a: {{_target_: {here}.Peer, name: a}}, b: {{_target_: {here}.Peer, name: b}}}}",
        f"terms={{{', '.join(terms)}}}",
        f"optim.optimizer={{_target_: {here}.SlowSGD}}",
        "batch_size=32",
        "clip=1.0",
        "device=cpu",
        "threads=1",  # threads that wait for each other are late wherever something else runs
    ]


def built(given: list[str]) -> Parts:
    return build(compose(given))


def traces(parts: Parts) -> list:
    """Everything that a wrapper could hide in."""
    owners = [parts, parts.accelerator, *parts.optimizers, *parts.own_optimizers, *parts.cohort.modules()]
    hooks = [[*m._forward_pre_hooks.values(), *m._forward_hooks.values()] for m in parts.cohort.modules()]
    return [sorted(vars(owner)) for owner in owners] + hooks + [parts.terms, parts.batches]


@pytest.mark.parametrize(
    ("slow", "rows"),
    [
        ("data", [("data", "")]),
        ("views", [("views", "")]),
        ("a", [("forward", ""), ("forward", "a")]),
        ("b", [("forward", ""), ("forward", "b")]),
        ("terms", [("terms", ""), ("terms", "slow")]),
        ("backward", [("backward", "")]),
        ("optimiser", [("optimiser", "")]),
        ("followers", [("followers", "")]),
    ],
)
def test_what_is_slow_shows_in_its_own_row_and_in_no_other(slow, rows):
    SLOW.add(slow)
    timing = measure(built(words()), 5)
    assert {part for part, _ in timing.parts} == set(PARTS) - {"cache"}
    for key, seconds in timing.parts.items():
        assert (NAP <= seconds < 1.9 * NAP) if key in rows else seconds < NAP, key
    assert timing.step >= NAP and timing.free >= NAP
    assert max(PARTS, key=timing.share) == rows[0][0]


def test_warming_up_counts_for_nothing():
    SLOW.add("start")
    timing = measure(built(words()), 1)
    assert max(timing.parts["views", ""], timing.step, timing.free) < 10 * NAP


@pytest.mark.parametrize(
    ("given", "peers", "terms", "without"),
    [
        (["method=simclr"], ["a", "b"], ["nt_xent"], {"clip", "followers"}),
        (["accumulate=2"], ["a", "b"], ["nt_xent", "kl"], {"clip", "followers"}),
        (["accumulate=2", "grad_cache=true"], ["a", "b"], ["nt_xent", "kl"], {"clip", "followers"}),
        (
            [*TWO_MORE, "accumulate=2", "clip=1.0", "separate_views=true"],
            ["a", "b", "late", "old"],
            ["nt_xent", "kl", "late", "old"],
            set(),
        ),
    ],
    ids=["simclr", "accumulated", "cached", "follower"],
)
def test_every_part_is_there_and_together_they_are_the_step(given, peers, terms, without):
    timing = measure(built([*SMALL, *given]), 5)
    rows = list(timing.parts)
    assert {part for part, inside in rows if not inside} == set(PARTS) - {"cache"} - without
    assert [inside for part, inside in rows if part == "forward" and inside] == peers
    assert [inside for part, inside in rows if part == "terms" and inside] == terms
    assert all(seconds > 0 for seconds in timing.parts.values())
    whole = {part: timing.parts[part, ""] for part, inside in rows if not inside}
    assert 0.6 * timing.step < sum(whole.values()) < 1.5 * timing.step  # medians, each of five steps
    assert timing.share("rest") < 0.4
    assert sum(timing.parts["forward", peer] for peer in peers) < 1.5 * whole["forward"]
    assert timing.free > 0


def test_the_measured_steps_are_those_of_a_run():
    given = [*SMALL, *TWO_MORE, "accumulate=2", "clip=1.0"]
    timed, plain = built(given), built(given)
    measure(timed, 2)
    for _ in range(2):  # as it is, and part by part
        fit(
            plain.cohort, plain.terms, plain.batches, plain.optimizers, plain.rates, plain.accelerator,
            steps=WARM_UP + 2, clip=1.0,
        )  # fmt: skip
    ours, theirs = timed.own.state_dict(), plain.own.state_dict()
    assert all(torch.equal(ours[key], theirs[key]) for key in theirs)


def test_nothing_of_the_clock_stays_even_where_a_peer_fails(monkeypatch):
    parts = built([*SMALL, *TWO_MORE, "clip=1.0"])
    before = traces(parts)
    measure(parts, 1)
    assert traces(parts) == before
    calls = 0

    def fail(self, outputs, index):
        nonlocal calls
        calls += 1
        if calls > WARM_UP + 2:  # among the steps that are timed part by part
            assert traces(parts) != before
            raise RuntimeError("a peer fails")

    monkeypatch.setattr(type(parts.own), "advance", fail)
    with pytest.raises(RuntimeError, match="a peer fails"):
        measure(parts, 1)
    assert traces(parts) == before


def test_a_part_is_charged_for_what_its_device_does_later():
    queue: list[float] = []

    def wait() -> None:
        while queue:
            time.sleep(queue.pop())

    clock = Stopwatch(wait)
    first, second = (clock.timed(lambda: queue.append(NAP), (name, "")) for name in ("first", "second"))
    queue.append(NAP)  # what was begun before belongs to no part
    first()
    second()
    queue.append(NAP)
    clock(1, None)
    ((step, parts),) = clock.steps
    assert all(NAP <= seconds < 1.9 * NAP for seconds in parts.values()) and set(parts) == {
        ("first", ""),
        ("second", ""),
    }
    assert 4 * NAP <= step < 8 * NAP


def test_the_command_prints_the_parts_and_the_speed_and_writes_nothing(capsys, tmp_path):
    assert main(["timing", *words(), "batch_size=16", "measure=2", "epochs=100"]) == 0
    said = capsys.readouterr().out
    shown = [line.strip("│ ").split()[0] for line in said.splitlines() if line.startswith("│")]
    assert shown == [
        "data", "views", "forward", "a", "b", "terms", "quick", "slow",
        "backward", "clip", "optimiser", "followers", "rest", "step",
    ]  # fmt: skip
    assert "median of 2" in said and "\x1b" not in said
    ms, speed = re.search(r"takes ([\d.]+) ms on average: ([\d,]+) images/s", said).groups()
    assert int(speed.replace(",", "")) == pytest.approx(16 / float(ms) * 1000, rel=0.02)
    assert "100 epochs of 2 steps about" in said
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize(
    ("slow", "advice"),
    [
        ("data", "keep them in memory with data.resident_bytes=512 "),
        ("views", "the views take longer than the forward passes"),
        ("optimiser", "with a larger batch_size it weighs less"),
        ("terms", None),
    ],
)
def test_advice_follows_the_numbers(slow, advice, capsys, monkeypatch):
    monkeypatch.setattr(f"{__name__}.NAP", 0.2)  # on a busy machine too, nothing else is a share of a step
    SLOW.add(slow)
    assert main(["timing", *words(), "measure=2"]) == 0
    after = capsys.readouterr().out.split("steps about ")[1].splitlines()[1:]
    assert len(after) == (advice is not None) and (advice is None or advice in after[0])


def test_the_advice_on_slow_data_helps(capsys):
    SLOW.add("data")
    assert main(["timing", *words(), "measure=2", "data.resident_bytes=512"]) == 0
    assert "waiting for images" not in capsys.readouterr().out


@pytest.mark.parametrize(
    ("given", "reason"),
    [
        (["measure=0"], 'measure must be a whole number of steps, at least 1, and "0" is not'),
        (["measure=1.5"], "measure must be a whole number"),
        (["measure=true"], "measure must be a whole number"),
        (["steps=5"], "measure=5 says how many"),
        (["measur=5"], '"measur" is not an option'),
        (["epohs=5"], 'did you mean "epochs"?'),
        (["method=dog"], 'did you mean "dogo"?'),
        (["processes=2"], "timing starts no processes of its own"),
        (["batch_size=128", "accumulate=3"], "cannot be split"),
        (
            ["optim.rate=1.0e30", *SMALL, "optim.optimizer={_target_: torch.optim.SGD}"],
            "a lower learning rate",
        ),
    ],
)
def test_what_cannot_be_measured_is_refused_in_a_sentence(given, reason, capsys, tmp_path):
    assert main(["timing", "measure=1", *given]) == 2
    said = capsys.readouterr().err
    assert said.startswith("ssl-kd: ") and reason in said and said.count("\n") == 1
    assert not Path(tmp_path, "runs").exists()
