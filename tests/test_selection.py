"""Nothing selects on test: a held-out part of the train split, and rules that choose a checkpoint."""

import json
from pathlib import Path

import numpy as np
import pytest

from ssl_kd.build import read_data
from ssl_kd.config import compose
from ssl_kd.data import digits
from ssl_kd.train import main
from tests.test_train import killed_after

QUICK = [
    "method=simclr", "peers={a: resnet8}", "epochs=3", "batch_size=64", "data.limit=320", "precision=float32",
    "probe.knn=[1,20]", "probe.baselines=false",
]  # fmt: skip


pytestmark = pytest.mark.usefixtures("own_folder")


def summary(run: str = "runs/a") -> dict:
    return json.loads(Path(run, "summary.json").read_text())


def test_what_is_held_out_is_scored_instead_of_the_test_split_and_never_trained_on():
    parts = [
        read_data(compose([*QUICK, "data.limit=null", "hold_out=0.25", f"seed={seed}"])) for seed in (0, 1)
    ]
    whole = digits()
    images = {image.tobytes() for image in whole.train.images}
    for data in parts:
        seen = {image.tobytes() for image in data.train.images}
        held = {image.tobytes() for image in data.test.images}
        assert len(data.test) == round(0.25 * len(whole.train)) and len(data.train) == 1437 - len(data.test)
        assert not seen & held and seen | held == images  # and so no test image
    assert np.array_equal(parts[0].test.images, parts[1].test.images)  # the same for every seed


def test_a_run_says_which_images_it_was_scored_on(capsys):
    main([*QUICK, "epochs=1", "hold_out=0.25", "run=runs/a"])
    assert "accuracy on a held-out 0.25 of the train split" in capsys.readouterr().out
    assert summary()["scored_on"] == "a held-out 0.25 of the train split"


def test_a_queue_has_no_say_in_which_checkpoint_is_chosen():
    peers = ["peers.query.backbone=resnet8", "peers.key.backbone=resnet8", "peers.queue.size=300"]
    words = ["method=moco", *peers, *QUICK[2:], "epochs=1", "probe.every=1", "probe.select=held_out"]
    assert main([*words, "run=runs/a"]) == 0
    state = json.loads(Path("runs/a/checkpoints/chosen/state.json").read_text())
    assert state["score"] == summary()["peers"]["query"]["linear_held_out"]


@pytest.mark.parametrize("rule", ["uniformity", "rank", "held_out"])
def test_a_rule_chooses_the_checkpoint_that_is_scored_and_the_summary_says_which(rule, capsys):
    main([*QUICK, f"probe.select={rule}", "probe.every=1", "health.every=1", "run=runs/a"])
    found = summary()
    assert found["checkpoint"] == rule
    state = json.loads(Path("runs/a/checkpoints/chosen/state.json").read_text())
    assert state["rule"] == rule and state["step"] == found["checkpoint_step"]
    lines = [json.loads(line) for line in Path("runs/a/metrics.jsonl").read_text().splitlines()]
    probes = {line["step"]: line["peers"]["a"] for line in lines if "peers" in line}
    assert len(probes) == 3
    assert found["peers"]["a"]["knn"] == probes[state["step"]]["knn"]
    if rule == "uniformity":
        looks = [line["health"]["uniformity/a.projection"] for line in lines if "health" in line]
        means = [sum(looks[:end][-5:]) / len(looks[:end][-5:]) for end in (5, 10, 15)]
        assert state["score"] == pytest.approx(-min(means))
    if rule == "held_out":
        assert state["score"] == max(scores["linear_held_out"] for scores in probes.values())


def test_the_rule_never_sees_a_test_image(monkeypatch):
    from ssl_kd.evaluate import Evaluator

    seen = []
    embed = Evaluator._embed
    monkeypatch.setattr(
        Evaluator, "_embed", lambda self, net, source: seen.append(source) or embed(self, net, source)
    )
    config = compose(QUICK)
    data = read_data(config)
    from ssl_kd.build import build_cohort

    evaluator = Evaluator(config, data)
    assert evaluator.rank(build_cohort(config, data.train.shape)) > 1
    assert seen and all(source is not data.test for source in seen)


@pytest.mark.parametrize("rule", ["uniformity", "rank"])
def test_a_chosen_checkpoint_survives_being_killed(rule, monkeypatch):
    words = [*QUICK, f"probe.select={rule}", "probe.every=1", "probe.linear=false", "health.every=2"]
    main([*words, "run=runs/whole"])
    killed_after(7, monkeypatch, [*words, "run=runs/cut"])
    main([*words, "run=runs/cut"])
    files = [
        Path(f"runs/{run}/checkpoints/chosen/cohort.safetensors").read_bytes() for run in ("whole", "cut")
    ]
    assert files[0] == files[1]
    assert summary("runs/whole")["peers"] == summary("runs/cut")["peers"]


@pytest.mark.parametrize(
    ("words", "sentence"),
    [
        (["probe.select=best"], 'probe.select is "best", but can be: last, uniformity, rank, held_out'),
        (["probe.select=rank"], "say how often by probe.every=10"),
        (["probe.select=held_out", "probe.every=1", "probe.linear=false"], "needs the linear probe"),
        (["probe.select=uniformity", "probe.every=1", "health.every=0"], "and health.every is 0"),
        (["hold_out=half"], "must lie between 0 and 1, not half"),
        (["hold_out=1.5"], "must lie between 0 and 1"),
        (["hold_out=0.0001"], "leaves no test images"),
    ],
)
def test_what_cannot_be_chosen_is_refused(words, sentence, capsys):
    assert main([*QUICK, *words, "run=runs/a"]) == 2
    assert sentence in capsys.readouterr().err and not Path("runs/a").exists()
