"""A peer that starts with what another run has learned."""

import os
from pathlib import Path

import pytest
import timm
import torch
from safetensors.torch import save_file

from ssl_kd.backbones import create
from ssl_kd.build import build_cohort, read_data
from ssl_kd.config import compose
from ssl_kd.encoder import Encoder
from ssl_kd.errors import InputError
from ssl_kd.run import Run
from ssl_kd.train import main
from ssl_kd.weights import start_from

QUICK = [
    "epochs=1", "batch_size=64", "data.limit=320", "precision=float32", "probe.linear=false",
    "probe.baselines=false",
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


# Files


def encoder(name: str, seed: int = 0, size: int = 32) -> Encoder:
    torch.manual_seed(seed)
    return Encoder(create(name, size=size), {"projection": torch.nn.Linear(4, 2)})


def equal(a, b) -> bool:
    a, b = a.state_dict(), b.state_dict()
    return a.keys() == b.keys() and all(torch.equal(a[key], b[key]) for key in a)


@pytest.mark.parametrize("suffix", ["safetensors", "pt", "pth"])
@pytest.mark.parametrize("part", ["net", "backbone", "peer"])
def test_a_file_holds_the_network_its_backbone_or_the_whole_peer(part, suffix, tmp_path):
    trained, peer, path = encoder("resnet8", 1), encoder("resnet8"), str(tmp_path / f"w.{suffix}")
    owner = {"net": trained.backbone.net, "backbone": trained.backbone, "peer": trained}[part]
    save_file(owner.state_dict(), path) if suffix == "safetensors" else torch.save(owner.state_dict(), path)
    start_from(peer, "a", path)
    assert equal(peer.backbone, trained.backbone)
    assert equal(peer.heads, trained.heads if part == "peer" else encoder("resnet8").heads)


@pytest.mark.parametrize("name", ["resnet18", "convnext_atto", "mobilenetv3_small_050"])
def test_a_model_of_timm_with_its_classifier_starts_a_peer_without_one(name, tmp_path):
    torch.manual_seed(1)
    theirs = timm.create_model(name, num_classes=7)
    torch.save({"state_dict": theirs.state_dict(), "epoch": 3}, tmp_path / "w.pt")
    peer = encoder(f"timm/{name}")
    start_from(peer, "a", str(tmp_path / "w.pt"))
    own = peer.backbone.net.model.state_dict()
    assert own and all(torch.equal(theirs.state_dict()[key], value) for key, value in own.items())


def test_a_peer_takes_a_file_where_it_takes_a_run(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    words = ["method=simclr", "peers={a: resnet8}"]
    fresh = cohort(words).peers["a"]
    state = {key: torch.ones_like(value) for key, value in fresh.backbone.net.state_dict().items()}
    torch.save(state, "w.pt")
    started = cohort([*words, "peers.a.weights=w.pt"]).peers["a"]
    assert all(bool((value == 1).all()) for value in started.backbone.net.state_dict().values())
    assert equal(started.heads, fresh.heads)


class Harm:
    """What a pickle can do."""

    def __reduce__(self):
        return os.mkdir, ("harmed",)


@pytest.mark.parametrize(
    ("content", "sentence"),
    [
        (lambda net: {**net, "conv": Harm()}, "is damaged, or holds more than tensors"),
        (lambda net: Harm(), "is damaged, or holds more than tensors"),
        (lambda net: [1, 2], "holds no state dict"),
        (lambda net: {"epoch": 3}, "holds no state dict"),
        (lambda net: {}, 'they differ in "stem.0.weight", absent there and (16, 3, 3, 3) here'),
        (lambda net: dict(list(net.items())[1:]), '"stem.0.weight", absent there and (16, 3, 3, 3) here'),
        (
            lambda net: net | {"stem.0.weight": torch.zeros(16, 1, 3, 3)},
            '"stem.0.weight", (16, 1, 3, 3) there and (16, 3, 3, 3) here',
        ),
        (
            lambda net: encoder("resnet20").backbone.net.state_dict(),  # it has all that resnet8 has
            '"stages.stage1.1.conv1.weight", (16, 16, 3, 3) there and absent here',
        ),
        (None, "there is no file w.pt"),
    ],
)
def test_a_file_that_does_not_fit_is_refused_in_one_sentence_and_not_executed(
    content, sentence, tmp_path, monkeypatch
):
    monkeypatch.chdir(tmp_path)
    peer = encoder("resnet8")
    if content is not None:
        torch.save(content(peer.backbone.net.state_dict()), "w.pt")
    with pytest.raises(InputError) as refused:
        start_from(peer, "a", "w.pt")
    assert str(refused.value).startswith("peers.a.weights: ") and sentence in str(refused.value)
    assert "\n" not in str(refused.value) and not Path("harmed").exists()
    assert equal(peer, encoder("resnet8"))


@pytest.mark.parametrize("suffix", ["safetensors", "pt"])
def test_a_damaged_file_is_refused_in_one_sentence(suffix, tmp_path):
    path = tmp_path / f"w.{suffix}"
    path.write_bytes(b"nothing of the kind")
    with pytest.raises(InputError, match="^peers.a.weights: .* cannot be read .*$"):
        start_from(encoder("resnet8"), "a", str(path))
