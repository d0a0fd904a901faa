"""A peer that goes on from an earlier run, with the network of that, and with layers of its head."""

import json
import shutil
from pathlib import Path

import pytest
import torch
import yaml

import ssl_kd
from ssl_kd.build import build_cohort, read_data
from ssl_kd.cli import main
from ssl_kd.config import compose
from ssl_kd.data import digits
from ssl_kd.train import main as train
from tests.test_train import curve, killed_after, refused, weights

TINY = "{backbone: {name: resnet8, base: 4}}"
QUICK = [
    "data.limit=320", "batch_size=64", "epochs=1", "precision=float32", "probe.linear=false",
    "probe.baselines=false", "probe.knn=[1]", "threads=1", "tracker=none",
]  # fmt: skip
THREE = "peer.heads.projection.layers=3"
FEW = ["labels.amount=10", "labels.only=true", "batch_size=25"]


@pytest.fixture(scope="module")
def runs(tmp_path_factory) -> Path:
    """pair: two networks with a head of three layers. fine: from a's first one. taught: by that."""
    place, threads = tmp_path_factory.mktemp("stages"), torch.get_num_threads()
    pair = ["method=dogo", f"peers={{a: {TINY}, b: resnet8}}", THREE]
    assert train([*pair, *QUICK, f"run={place}/pair"]) == 0
    fine = ["method=supervised", f"peers={{a: {{weights: {place}/pair, cut: 1}}}}"]
    assert train([*fine, *QUICK, *FEW, f"run={place}/fine"]) == 0
    taught = ["method=kd", "preset=full", f"peers.teacher.weights={place}/fine", "peers.student=resnet8"]
    assert train([*taught, *QUICK, f"run={place}/taught"]) == 0
    torch.set_num_threads(threads)
    return place


def built(*words: str):
    config = compose([*words, *QUICK])
    data = read_data(config)
    return build_cohort(config, data.train.shape)


def images() -> torch.Tensor:
    return torch.from_numpy(digits().test.images[:8]).float() / 255


def embedded(peer, layers: int) -> torch.Tensor:
    """What the first linear layers of the projection, with norm and ReLU, make of the embedding."""
    head = peer.heads["projection"]
    with torch.no_grad():
        return head[: 3 * layers].eval()(peer.eval().embed(images()))


@pytest.mark.parametrize("layers", [1, 2])
def test_a_cut_network_begins_where_the_layers_of_the_head_ended(layers, runs):
    peer = built("method=supervised", f"peers={{a: {{weights: {runs}/pair, cut: {layers}}}}}").peers["a"]
    wanted = embedded(ssl_kd.load(runs / "pair").cohort.peers["a"], layers)
    assert torch.equal(peer.eval().embed(images()), wanted)
    assert peer.backbone.width == wanted.shape[1] == 512 and (wanted == 0).any()
    assert all(p.requires_grad for p in peer.parameters())


def test_a_peer_without_a_backbone_has_the_network_of_its_run(runs):
    cohort = built("method=simclr", f"peers={{x: {{weights: {{run: {runs}/pair, peer: b}}}}}}", THREE)
    theirs = ssl_kd.load(runs / "pair").cohort.peers["b"]
    for key, value in theirs.backbone.state_dict().items():
        assert torch.equal(cohort.peers["x"].backbone.state_dict()[key], value)


def test_every_stage_has_its_network_in_its_own_config(runs, tmp_path):
    for name in ("fine", "taught"):
        shutil.copytree(runs / name, tmp_path / name)
        config = tmp_path / name / "config.yaml"
        config.write_text(config.read_text().replace(str(runs), "/gone"))
    fine, taught = (ssl_kd.load(tmp_path / name) for name in ("fine", "taught"))
    assert fine.config.peers.a.cut.layers == 1 and taught.config.peers.teacher.cut.of == "projection"
    x = digits().test.images[:20]
    assert (fine.embed(x) == taught.embed(x, "teacher")).all()
    assert (fine.predict(x) == taught.predict(x, "teacher")).all()


def test_a_run_that_goes_on_from_another_is_continued_and_not_begun_anew(runs, capsys):
    words = ["method=supervised", f"peers={{a: {{weights: {runs}/pair, cut: 1}}}}", *QUICK, *FEW]
    assert train([*words, f"run={runs}/fine"]) == 0
    assert "finished before" in capsys.readouterr().out


def test_a_study_whose_first_stage_is_not_there_yet_is_understood(runs, tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    quick = " ".join(word for word in QUICK if word != "threads=1")
    study = {
        "groups": {
            "first": "method=simclr peers=[resnet8] " + quick,
            "second": "method=supervised peers={a:{weights:@first,cut:1}} " + quick,
        }
    }
    Path("study.yaml").write_text(yaml.safe_dump(study))
    assert main(["study", "study.yaml", "dry_run=true"]) == 0
    said = capsys.readouterr()
    assert "second-0" in said.out, said.err


@pytest.mark.parametrize(
    ("peer", "says"),
    [
        ("{weights: RUNS/nothing, cut: 1}", "RUNS/nothing is not there yet"),
        ("{weights: RUNS/nothing}", "RUNS/nothing is not there yet"),
        (
            "{weights: RUNS/pair, cut: 4}",
            "peers.a.cut: the head has 3 linear layers, so the layer to take is 0 to 3",
        ),
        ("{weights: RUNS/pair, cut: -1}", "is 0 to 3, not -1"),
        ("{weights: RUNS/pair, cut: {layers: 1, of: projecton}}", 'did you mean "projection"?'),
        ("{weights: RUNS/pair, cut: {of: projection}}", "peers.a.cut is a number of layers, or {layers: 1"),
        ("{weights: RUNS/pair, cut: {layers: 1, head: projection}}", "peers.a.cut is a number of layers, or"),
        ("{weights: '???', cut: 1}", "peers.a.weights is needed"),
        ("{weights: {run: RUNS/pair, peer: c}}", 'has no peer "c"'),
        ("{weights: RUNS/fine, cut: 1}", 'peers.a.cut: "a" of RUNS/fine is cut already'),
        ("{backbone: resnet8, cut: 1}", "peers.a.cut takes layers of the head of a"),
        ("{backbone: resnet8, weights: RUNS/pair, cut: 1}", "leave out peers.a.backbone"),
        ("{cut: 1}", "peers.a.cut takes layers of the head of a"),
    ],
)
def test_what_cannot_be_taken_over_is_refused_in_a_sentence(peer, says, runs, capsys):
    words = ["method=supervised", f"peers={{a: {peer.replace('RUNS', str(runs))}}}", *QUICK]
    assert says.replace("RUNS", str(runs)) in refused(words, capsys)


def test_a_run_may_not_name_what_would_be_executed(runs, tmp_path, capsys):
    shutil.copytree(runs / "pair", tmp_path / "pair")
    config = tmp_path / "pair" / "config.yaml"
    config.write_text(config.read_text().replace("ssl_kd.heads.mlp", "os.system"))
    words = ["method=supervised", f"peers={{a: {{weights: {tmp_path}/pair, cut: 1}}}}", *QUICK]
    assert 'names "os.system"' in refused(words, capsys)


def test_a_stage_that_has_not_ended_is_refused_unless_it_is_taken_as_it_is(runs, tmp_path, capsys):
    shutil.copytree(runs / "pair", tmp_path / "pair")
    status = json.loads((tmp_path / "pair/status.json").read_text())
    (tmp_path / "pair/status.json").write_text(json.dumps({**status, "state": "interrupted"}))
    words = ["method=supervised", *QUICK, "dry_run=true"]
    said = refused([*words, f"peers={{a: {{weights: {tmp_path}/pair, cut: 1}}}}"], capsys)
    assert f"{tmp_path}/pair is not finished (it is interrupted); its own command continues it" in said
    taken = f"peers={{a: {{weights: {{run: {tmp_path}/pair, unfinished: true}}, cut: 1}}}}"
    assert train([*words, taken]) == 0


def test_a_teacher_that_knows_other_classes_is_refused(runs, tmp_path, capsys):
    shutil.copytree(runs / "fine", tmp_path / "fine")
    noted = json.loads((tmp_path / "fine/data.json").read_text())
    noted["train"]["classes"] = ["cat", "dog", *noted["train"]["classes"][2:]]
    (tmp_path / "fine/data.json").write_text(json.dumps(noted))
    words = [
        "method=kd",
        "preset=full",
        f"peers.teacher.weights={tmp_path}/fine",
        "peers.student=resnet8",
        *QUICK,
    ]
    said = refused(words, capsys)
    assert "knows 10 classes (cat, dog, 2, ...), and the data has 10 (0, 1, 2, ...)" in said


STAGES = {
    "simclrv2": [f"peers={{a: {TINY}}}"],
    "finetune": ["peers.network.weights={run: RUNS/pair, peer: a}", *FEW],
    "kd": ["preset=simclrv2", "peers.teacher.weights=RUNS/fine", "peers.student=resnet8"],
    "cbd": ["peers.teacher.weights=RUNS/fine", "peers.student=resnet8", "long_tail=2"],
    "retrain": ["peers.network.weights=RUNS/fine"],
}


@pytest.mark.parametrize("method", STAGES)
def test_a_stage_that_was_killed_ends_as_the_one_that_was_not(method, runs, tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    own = [word.replace("RUNS", str(runs)) for word in STAGES[method]]
    words = [f"method={method}", *QUICK, *own, "epochs=3", "log_every=1"]
    assert train([*words, "run=runs/whole"]) == 0
    killed_after(7, monkeypatch, [*words, "run=runs/cut"])
    capsys.readouterr()
    assert train([*words, "run=runs/cut"]) == 0
    assert "continues after step" in capsys.readouterr().out
    assert curve("runs/cut") == curve("runs/whole") and weights("runs/cut") == weights("runs/whole")
