"""What is logged is of the whole batch, on one process and on two."""

import json
from pathlib import Path

import pytest
import torch

from ssl_kd.cli import main
from ssl_kd.engine import Result

QUICK = ["data=digits", "data.limit=64", "batch_size=32", "epochs=1", "log_every=1", "health.every=2"]
QUICK += ["probe.linear=false", "probe.knn=[1]", "probe.baselines=false", "precision=float32", "device=cpu"]
QUICK += ["threads=1", "tracker=none"]
SMALL = "{backbone: {name: resnet8, base: 4}}"
PEERS = f"peers={{a: {SMALL}, b: {SMALL}}}"
# Each against itself and against labels, several edges at once, single edges, and a micro-batch in two parts.
WORDS = [
    "method=fusion",
    "pretext=[simclr,supervised]",
    "accumulate=2",
    "labels.amount=0.5",
    "others.leader.backbone={name: resnet8, base: 4}",
]


def lines(run: str) -> list[dict]:
    return [json.loads(line) for line in Path(run, "metrics.jsonl").read_text().splitlines()]


@pytest.mark.usefixtures("warm_processes")
def test_two_processes_log_the_loss_and_the_terms_of_one():
    words = ["train", *WORDS, PEERS, *QUICK]
    assert main([*words, "run=one"]) == 0
    assert main([*words, "run=two", "processes=2"]) == 0
    one, two = lines("one"), lines("two")
    assert [line["step"] for line in one] == [line["step"] for line in two]
    steps = [(a, b) for a, b in zip(one, two, strict=True) if "loss" in a]
    assert len(steps) == 2
    for a, b in steps:
        assert a["terms"].keys() == b["terms"].keys()
        assert {"nt_xent/a", "ce/b", "kl/a<-b", "kl_leader"} <= a["terms"].keys()
        assert b["loss"] == pytest.approx(a["loss"], rel=1e-4)
        assert b["terms"] == pytest.approx(a["terms"], rel=2e-3, abs=1e-5)
        assert b["weighted"] == pytest.approx(a["weighted"], rel=2e-3, abs=1e-5)
    looks = [(a["health"], b["health"]) for a, b in zip(one, two, strict=True) if "health" in a]
    assert looks and all(b == pytest.approx(a, rel=2e-2, abs=2e-2) for a, b in looks)


def test_the_mean_is_one_exchange_of_the_loss_and_all_terms(monkeypatch):
    asked = []

    def averaged(local):
        asked.append(local.tolist())
        return local + 1

    monkeypatch.setattr("ssl_kd.engine.world", lambda: 2)
    monkeypatch.setattr("ssl_kd.engine.averaged", averaged)
    result = Result(torch.tensor(3.0), {"x": (torch.tensor(1.0), 0.5), "y": (torch.tensor(2.0), 2.0)}, [])
    whole = result.averaged()
    assert asked == [[3.0, 1.0, 2.0]] and float(whole.loss) == 4
    assert {name: (float(raw), weight) for name, (raw, weight) in whole.terms.items()} == {
        "x": (2.0, 0.5),
        "y": (3.0, 2.0),
    }
    monkeypatch.undo()
    assert result.averaged() is result


def test_only_lines_ask_for_the_mean(monkeypatch):
    asked = []
    monkeypatch.setattr(Result, "averaged", lambda self: asked.append(1) or self)
    words = [*QUICK, "method=simclr", f"peers={{a: {SMALL}}}", "epochs=6", "log_every=12", "run=run"]
    assert main(["train", *words]) == 0
    assert len(asked) == len({1, 12, *range(2, 13, 2)})  # of metrics.jsonl, and of the ten that are printed
