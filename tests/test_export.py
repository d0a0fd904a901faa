"""What is deployed: the backbone and its classifier, and nothing that only training needed."""

import json

import pytest
import torch
from safetensors import safe_open
from safetensors.torch import load_file

from ssl_kd.cli import main
from ssl_kd.finished import load
from ssl_kd.train import main as train

pytestmark = pytest.mark.usefixtures("own_folder")

QUICK = [
    "data=digits",
    "epochs=1",
    "batch_size=512",
    "probe.linear=false",
    "probe.baselines=false",
    "run=runs/a",
]
SMALL = "{backbone: {name: resnet8, base: 8}}"


def test_dcm_is_deployed_without_its_exits_and_the_file_starts_another_peer(capsys):
    assert train(["method=dcm", f"peers={{a: {SMALL}, b: {SMALL}}}", *QUICK]) == 0
    capsys.readouterr()
    assert main(["export", "run=runs/a", "peer=a"]) == 0
    assert "19,810 parameters; left out: exit1, exit2, logits1, logits2" in capsys.readouterr().out
    saved = load_file("runs/a/export/a.safetensors")
    assert {key.split(".")[0] for key in saved} == {"backbone", "heads"}
    assert {key.split(".")[1] for key in saved if key.startswith("heads")} == {"logits"}
    with safe_open("runs/a/export/a.safetensors", "pt") as file:
        about = json.loads(file.metadata()["ssl_kd"])
    assert about["backbone"]["name"] == "resnet8" and len(about["classes"]) == 10
    again = [*QUICK[:-1], "run=runs/b", "epochs=1", "dry_run=true"]
    assert (
        train(
            [
                "method=supervised",
                f"peers={{c: {SMALL}}}",
                f"peers.c.weights={'runs/a/export/a.safetensors'}",
                *again,
            ]
        )
        == 0
    )


def test_ffsds_leader_is_deployed_without_what_it_was_compared_by(capsys):
    assert train(["method=ffsd", f"peers={{a: {SMALL}, b: {SMALL}}}", *QUICK]) == 0
    assert main(["export", "run=runs/a", "peer=leader", "to=leader.safetensors"]) == 0
    assert "left out: trans" in capsys.readouterr().out
    saved, leader = load_file("leader.safetensors"), load("runs/a").encoders["leader"]
    image = torch.rand(2, 1, 16, 16)
    before = leader.eval().embed(image)
    leader.load_state_dict({key: value * 0 for key, value in leader.state_dict().items()})
    leader.load_state_dict(saved, strict=False)
    assert torch.equal(leader.embed(image), before)


def test_export_says_what_it_needs(capsys):
    assert train(["method=dogo", f"peers={{a: {SMALL}, b: {SMALL}}}", *QUICK]) == 0
    capsys.readouterr()
    for words, said in (
        (["run=runs/a"], "peer is needed; runs/a has: a, b"),
        (["run=runs/a", "peer=bb"], 'no peer "bb"'),
        (["peer=a"], "run is needed"),
        (["run=runs/a", "peer=a", "too=x"], 'did you mean "to"'),
    ):
        assert main(["export", *words]) == 2
        printed = capsys.readouterr().err
        assert said in printed and len(printed.splitlines()) == 1
