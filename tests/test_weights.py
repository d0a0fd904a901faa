"""A peer that starts with what another run has learned."""

from pathlib import Path

import pytest
import torch

from ssl_kd.build import build_cohort, read_data
from ssl_kd.config import compose
from ssl_kd.run import Run
from ssl_kd.train import main

QUICK = [
    "epochs=1", "batch_size=256", "precision=float32", "probe.linear=false", "probe.baselines=false",
]  # fmt: skip


@pytest.fixture(scope="module")
def teacher(tmp_path_factory) -> str:
    folder = str(tmp_path_factory.mktemp("runs") / "teacher")
    threads = torch.get_num_threads()
    assert main(["method=simclr", "peers={big: resnet20}", *QUICK, f"run={folder}"]) == 0
    torch.set_num_threads(threads)
    return folder


def cohort(words: list[str]):
    config = compose(words)
    return build_cohort(config, read_data(config).train.shape)


def test_a_peer_starts_with_the_backbone_and_the_heads_of_another_run(teacher):
    trained = cohort(["method=simclr", "peers={big: resnet20}"])
    Run(teacher).load(trained)
    words = ["method=dogo", "peers={small: resnet8, helper: resnet20}"]
    started = cohort([*words, f"peers.helper.weights={{run: {teacher}, peer: big}}"])
    alone = cohort([*words, f"peers.helper.weights={teacher}"])  # the only peer there
    fresh = cohort(words)
    for key, value in trained.peers["big"].state_dict().items():
        assert torch.equal(started.peers["helper"].state_dict()[key], value)
        assert torch.equal(alone.peers["helper"].state_dict()[key], value)
    for key, value in fresh.peers["small"].state_dict().items():
        assert torch.equal(started.peers["small"].state_dict()[key], value)


def test_a_head_that_the_other_run_did_not_have_starts_afresh(teacher):
    words = ["method=dml", "peers={a: resnet20}", f"peers.a.weights={teacher}"]
    started, fresh = cohort(words), cohort(words[:2])
    for key, value in fresh.peers["a"].heads.state_dict().items():
        assert torch.equal(started.peers["a"].heads.state_dict()[key], value)
    pairs = zip(started.peers["a"].backbone.parameters(), fresh.peers["a"].backbone.parameters(), strict=True)
    assert not any(torch.equal(a, b) for a, b in pairs)


def test_a_frozen_helper_of_another_run_teaches_and_stays_as_it_is(teacher, tmp_path, monkeypatch):
    threads = torch.get_num_threads()
    monkeypatch.chdir(tmp_path)
    words = [
        "method=dogo", "peers={small: resnet8, helper: {backbone: resnet20, frozen: true}}",
        f"peers.helper.weights={teacher}", "terms.kl.peers=[small,helper]",
        'terms.kl.weight={"small<-helper": 1.0, "helper<-small": null}', *QUICK, "run=runs/a",
    ]  # fmt: skip
    assert main(words) == 0
    torch.set_num_threads(threads)
    finished = cohort(words)
    Run("runs/a").load(finished)  # a checkpoint holds no frozen peer; the config makes it again
    trained = cohort(["method=simclr", "peers={big: resnet20}"])
    Run(teacher).load(trained)
    a, b = finished.peers["helper"].state_dict(), trained.peers["big"].state_dict()
    assert all(torch.equal(a[key], b[key]) for key in a)
    assert '"kl/small<-helper"' in Path("runs/a/metrics.jsonl").read_text()


@pytest.mark.parametrize(
    ("weights", "backbone", "sentence"),
    [
        ("nowhere", "resnet20", "is not a run folder"),
        ("{run: RUN, peer: bog}", "resnet20", 'has no peer "bog"; did you mean "big"?'),
        ("RUN", "resnet8", '"big" of RUN is another network; they differ in'),
        ("{ruun: RUN}", "resnet20", "peers.a.weights is a run folder, or"),
        ("3", "resnet20", "peers.a.weights is a run folder, or"),
    ],
)
def test_weights_that_cannot_be_used_are_refused_in_one_sentence(
    weights, backbone, sentence, teacher, capsys
):
    words = [f"peers={{a: {backbone}}}", f"peers.a.weights={weights.replace('RUN', teacher)}"]
    assert main(["method=simclr", *words, "dry_run=true"]) == 2
    said = capsys.readouterr().err
    assert sentence.replace("RUN", teacher) in said and said.count("\n") == 1
