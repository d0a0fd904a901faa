"""The kit finds what is wrong, in methods, losses and terms of the user's own, and says what it cannot do."""

import math
from pathlib import Path

import pytest
import torch

from ssl_kd.errors import InputError, guarded
from ssl_kd.testing import Call, compare_processes, largest
from ssl_kd.testing.__main__ import _main

TUTORIAL = Path(__file__).parent.parent / "docs/tutorials/pretext"
OWN = """
import torch
import ssl_kd

def uniformity(z, gather=True):  # z: (V, B, D)
    own = z[0]
    every = ssl_kd.gather(own) if gather else own
    return (-2 * torch.cdist(own, every).square()).exp().mean(1).mean()

def labelled(logits, labels):
    return torch.nn.functional.cross_entropy(logits[0], labels, ignore_index=-1)

def term(outputs, batch, index):
    return {"spread": (uniformity(outputs["a"]["z"]), 0.0), "size": (outputs["b"]["z"].square().mean(), 1.0)}

def fail():
    raise OSError("no such device")
"""
EDGE = {"_target_": "ssl_kd.Edge", "student": "a.z", "teacher": "b.z"}


@pytest.fixture
def own(tmp_path, monkeypatch):
    (tmp_path / "own.py").write_text(OWN)
    monkeypatch.chdir(tmp_path)
    monkeypatch.syspath_prepend(tmp_path)


@pytest.mark.usefixtures("warm_processes")
def test_functions_of_the_users_own_are_compared_and_a_wrong_one_is_found(own, monkeypatch):
    monkeypatch.chdir(TUTORIAL)
    monkeypatch.setenv("SSL_KD_TRUST", str(TUTORIAL))
    torch.manual_seed(0)
    a, b = torch.randn(2, 32, 6), torch.randn(2, 32, 6)
    said = {"a": {"z": a}, "b": {"z": b}}
    few = (torch.arange(32) % 6).where(torch.arange(32) < 20, -1)  # 16 for one process, 4 for the other
    found = compare_processes(
        {
            "jigsaw": ["method=dogo", "pretext=jigsaw", "peers=[resnet8,resnet8]"],
            "loss": Call("own.uniformity", a),
            "local": Call("own.uniformity", a, gather=False),
            "some labels": Call("own.labelled", a, few),
            "term": Call("own.term", said, {}, 0),
            "edge": Call({**EDGE, "loss": {"_target_": "ssl_kd.losses.similarity_kl"}}, said, {}, 0),
        },
        processes=2,
        steps=1,
        float32=True,
    )
    for name in ("jigsaw", "loss", "term", "edge"):
        assert max(found[name][2].losses, found[name][2].gradients) <= 1e-9
        assert found[name][2].float32.gradients <= 1e-3
    assert found["local"][2].gradients > 1e-3 < found["some labels"][2].gradients
    assert found["loss"][2].rows.tolist() == [[[*range(16)], [*range(16, 32)]]]


@pytest.mark.usefixtures("warm_processes")
@pytest.mark.parametrize(
    "case, said",
    [
        (["method=simclr", "peeers=[resnet8]"], 'mine: "peeers" is not an option; did you mean "peers"?'),
        (
            Call("own.uniformity", torch.ones(2, 31, 4)),
            "mine: a batch of 31 rows cannot be shared equally by 2",
        ),
        (Call("own.uniformity", torch.ones(2, 32, 4), gathr=True), 'did you mean "terms.term.gather"'),
    ],
)
def test_bad_input_is_one_sentence_that_names_the_case(own, case, said):
    with pytest.raises(InputError) as raised:
        compare_processes({"mine": case}, 2)
    assert said in str(raised.value) and "\n" not in str(raised.value)


@pytest.mark.usefixtures("warm_processes")
def test_what_a_process_failed_with_is_shown(own):
    case = Call("own.uniformity", torch.ones(2, 32, 4))
    with pytest.raises(RuntimeError, match="OSError: no such device"):
        compare_processes({"mine": case}, 2, prepare="own:fail")
    with pytest.raises(RuntimeError, match="did not end in time"):
        compare_processes({"mine": case}, 2, timeout=0.0)


def test_the_command_prints_a_table_and_fails_where_processes_differ(own, capsys):
    words = ["method=simclr", "peers={a: {backbone: {name: resnet8, base: 4}}}", "steps=1", "processes=2"]
    assert guarded(_main, words) == 0
    said = capsys.readouterr().out
    assert "equal up to 1e-09 in float64" in said and "float32" in said
    local = "terms.nt_xent.loss={_target_: own.uniformity, gather: false}"
    assert guarded(_main, [*words, local]) == 1
    assert "not equal" in capsys.readouterr().out


@pytest.mark.parametrize("word", ["processes=1", "processes=two", "methd=simclr"])
def test_the_command_refuses_bad_input_in_one_sentence(word, capsys):
    assert guarded(_main, ["method=simclr", word]) == 2
    said = capsys.readouterr().err
    assert said.startswith("ssl-kd: ") and len(said.splitlines()) == 1


def test_differences_are_shares_of_the_largest_entry_of_their_group():
    right = {"a": torch.tensor([4.0, 0.0]), "b": torch.tensor([1.0])}
    found = {"a": torch.tensor([4.0, 1.0]), "b": torch.tensor([1.5])}
    assert largest(found, right, lambda key: "") == 0.25
    assert largest(found, right, lambda key: key) == 0.5
    assert largest(right, right, lambda key: key) == 0
    assert largest({"a": found["a"]}, right, lambda key: key) == math.inf
    assert math.isnan(largest({**found, "b": torch.tensor([math.nan])}, right, lambda key: key))
    assert largest({"a": torch.ones(1)}, {"a": torch.zeros(1)}, lambda key: key) == math.inf
