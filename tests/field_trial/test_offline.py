"""What reads a run goes online nowhere, and reads and makes nothing outside it that the user did not name."""

import json
import os
import shutil
import socket
import sys
import urllib.request
from collections.abc import Callable
from contextlib import nullcontext
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
import timm
import torch
import yaml

import ssl_kd
from ssl_kd import InputError, export
from ssl_kd.cli import main
from ssl_kd.config import compose
from ssl_kd.evaluate import Evaluator
from ssl_kd.own import record
from ssl_kd.own.words import starting
from ssl_kd.system import network
from tests.field_trial.case import Case, check, check_refusal, snapshot

QUICK = [
    *("batch_size=8", "epochs=1", "probe.linear=false", "probe.knn=[1]", "probe.baselines=false"),
    *("health.every=0", "method=simclr", "tracker=none", "precision=float32", "threads=1"),
]
PEERS = (
    "peers={a: {backbone: {name: timm/test_resnet}}, f: {backbone: {name: test_resnet}, frozen: true}, "
    "t: {backbone: {_target_: torchvision.models.shufflenet_v2_x0_5}}}"
)
FENCED = network.fenced
KNN = ["knn", "run=runs/b"]
Edit = Callable[[dict], None]


@pytest.fixture(scope="module")
def mine(tmp_path_factory):
    """What the user has trained on photos.npz: runs/a, and runs/n of libraries' networks."""
    folder = tmp_path_factory.mktemp("mine")
    drawn = np.random.default_rng(0)
    images = {part: drawn.integers(0, 256, (16, 16, 16, 3), np.uint8) for part in ("train", "test")}
    labels = {f"{part}_labels": np.arange(16) % 2 for part in images}
    words = ["train", *QUICK, "data=arrays", "data.path=photos.npz", "data.size=16"]
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(folder)
        patch.setenv("XDG_STATE_HOME", str(folder / "state"))
        np.savez("photos.npz", **{f"{part}_images": array for part, array in images.items()}, **labels)
        assert main([*words, "peers={a: {backbone: {name: resnet8, base: 4}}}", "run=runs/a"]) == 0
        assert main([*words, PEERS, "run=runs/n"]) == 0
    return folder


@pytest.fixture(autouse=True)
def _run(mine):
    """runs/a, and runs/b, somebody's copy of it; the record of what the user has trained on."""
    for name in ("a", "b"):
        shutil.copytree(mine / "runs/a", f"runs/{name}")
    shutil.copytree(mine / "state", "home/.local/state")
    shutil.copy(mine / "photos.npz", "photos.npz")


@pytest.fixture
def nets(mine):
    """runs/b is a copy of runs/n that says of all its networks that they begin with weights of a library."""
    shutil.rmtree("runs/b")
    shutil.copytree(mine / "runs/n", "runs/b")
    edit(pretrained)


@pytest.fixture(autouse=True)
def cut(monkeypatch):
    """The network is cut, and who tries it is noted; no fence of ours stands before that."""
    asked: list[object] = []

    def refuse(*words, **options):
        asked.append(words[:2])
        raise OSError(101, "Network is unreachable")

    connect = socket.socket.connect
    monkeypatch.setattr(
        socket.socket,
        "connect",
        lambda self, to: connect(self, to) if self.family == socket.AF_UNIX else refuse(to),
    )
    for place, name in ((socket, "getaddrinfo"), (socket, "gethostbyname"), (socket, "create_connection")):
        monkeypatch.setattr(place, name, refuse)
    monkeypatch.setattr(urllib.request, "urlopen", refuse)
    monkeypatch.setattr("huggingface_hub.utils._http.get_session", refuse)
    monkeypatch.setattr(network, "fenced", nullcontext)
    return asked


def edit(change: Edit, run: str = "b") -> None:
    path = Path(f"runs/{run}/config.yaml")
    config = yaml.safe_load(path.read_text())
    change(config)
    path.write_text(yaml.safe_dump(config))


def edited(change: Edit) -> Callable[[], None]:
    return lambda: edit(change)


def data(name: str, probed: bool = False, **options: object) -> Callable[[], None]:
    """The run says that these are its data, or those that are scored."""
    node = {"name": name, "_target_": f"ssl_kd.data.{name}", **options}
    node |= {} if name in ("cifar10", "cifar100", "fashion_mnist", "arrays") else {"size": 16}

    def change(config: dict) -> None:
        if probed:
            config["probe"]["data"] = node
        else:
            config["data"] = {**node, "size": 16, "mean": 0.5, "std": 0.25}

    return edited(change)


def pretrained(config: dict) -> None:
    """All ways by which the networks of the run would get weights."""
    peers = config["peers"]
    peers["a"]["backbone"]["pretrained"] = peers["f"]["backbone"]["pretrained"] = True
    peers["t"]["backbone"]["weights"] = "DEFAULT"


def options(text: str) -> None:
    Path("runs/b/my.yaml").write_text(text)


def elsewhere() -> None:
    """A folder of the user's that they have never trained on."""
    for name in "xy":
        Path(f"home/private/{name}").mkdir(parents=True)
    shutil.copy(Path(record.state_file()), "home/private/labels.csv")


HERE = r"{}.*ssl-kd trust .*runs/b lets it"
ALLOWS = "online=true on the command line.*allows it"
CIFAR = rf"would be fetched from https://www.cs.toronto.edu/.*{ALLOWS}"
PRIVATE = str(Path("home/private"))

CASES = [
    Case("cifar10", "data sets download by themselves", KNN, f"CIFAR10.*{CIFAR}", data("cifar10")),
    Case("cifar10-root", "cifar10 root: /ANY/PATH is made", KNN, f"CIFAR10.*{CIFAR}",
         data("cifar10", root="/tmp/any/path")),
    Case("cifar100-root", "the same", ["report", "run=runs/b"], f"CIFAR100.*{CIFAR}",
         data("cifar100", root="any")),
    Case("fashion", "the same, in the user's home", ["linear", "run=runs/b"],
         f"FashionMNIST.*fetched from http.*{ALLOWS}", data("fashion_mnist", root="~/any")),
    Case("called-otherwise", "the data's name is no more than a word", KNN, f"CIFAR10.*{CIFAR}",
         edited(lambda c: c["data"].update(_target_="ssl_kd.data.sources.cifar10", root="any", path=None)
                or c["data"].pop("path"))),
    Case("probed", "probe.data is data too", KNN, f"CIFAR10.*{CIFAR}",
         data("cifar10", probed=True, root="any", limit=8)),
    Case("transfer", "nor does the other data set download by itself",
         ["transfer", "run=runs/a", "data=cifar100"], f"CIFAR100.*{CIFAR}"),
    Case("eval", "several probes", ["eval", "run=runs/b", "probes=[knn,health]"], f"CIFAR10.*{CIFAR}",
         data("cifar10")),
    Case("online-in-the-run", "a run folder allows nothing", KNN, f"CIFAR10.*{CIFAR}",
         lambda: (data("cifar10")(), edit(lambda c: c.update(online=True)))),
    Case("hub", "data: hub", KNN,
         rf"the data set somebody/photos would be fetched from https://huggingface.co/datasets/.*{ALLOWS}",
         data("hub", path="somebody/photos")),
    Case("hub-probed", "probe.data: hub", ["health", "run=runs/b"], rf"https://huggingface.co/.*{ALLOWS}",
         data("hub", probed=True, path="photos_of_theirs")),
    Case("hf", "hf/NAME without what it is made of", ["export", "run=runs/b", "peer=a"],
         rf"config.json of hf/some/net would be fetched from https://huggingface.co/some/net.*{ALLOWS}",
         edited(lambda c: c["peers"]["a"].update(backbone={"_target_": "ssl_kd.backbones.create",
                                                           "name": "hf/some/net"}))),
    Case("folder", "a run says whose images are shown", ["report", "run=runs/b"],
         HERE.format(r"home/private \(data.root\)"),
         lambda: (elsewhere(), data("folder", root="home/private")())),
    Case("folder-tilde", "the same, in a home", KNN, HERE.format(r"home/private \(data.root\)"),
         lambda: (elsewhere(), data("folder", root="~/private")())),
    Case("folder-above", "what is around a trained place is not that place", KNN, HERE.format("data.root"),
         data("folder", root="..")),
    Case("npz", "a file", ["health", "run=runs/b"], HERE.format(r"labels.csv \(data.path\)"),
         lambda: (elsewhere(), data("arrays", path="home/private/labels.csv")())),
    Case("mounts", "a path that is an address", KNN, HERE.format(r"/net/evil.example/x \(data.root\)"),
         data("folder", root="/net/evil.example/x")),
    Case("shards", "a pattern of files", KNN, HERE.format("data.path"),
         data("shards", path="home/private/{000..002}.tar")),
    Case("test", "the test part alone", KNN, HERE.format("data.test"),
         lambda: (elsewhere(), data("folder", root="runs/b", test="../../home/private")())),
    Case("hub-folder", "a folder in the Hub's format", KNN, HERE.format("data.path"),
         lambda: (elsewhere(), data("hub", path="./home/private")())),
    Case("probed-folder", "probe.data is read too", KNN, HERE.format("probe.data.root"),
         lambda: (elsewhere(), data("folder", probed=True, root="home/private")())),
    Case("labels", "labels.file elsewhere", KNN, HERE.format("labels.file"),
         lambda: (elsewhere(), edit(lambda c: c["labels"].update(file="home/private/labels.csv")))),
    Case("groups", "the table of hold_out_group elsewhere", KNN, HERE.format("hold_out_group.file"),
         lambda: (elsewhere(), edit(lambda c: c.update(
             hold_out=0.2, hold_out_group={"file": "home/private/labels.csv", "column": "x"})))),
    Case("teacher", "the teacher's path, of a run that lacks what its peers began with", KNN,
         HERE.format(r"/net/evil.example/run \(peers.a.weights\)"),
         edited(lambda c: c["peers"]["a"].update(weights="/net/evil.example/run"))),
    Case("teacher-run", "the same of a mapping", ["export", "run=runs/b", "peer=a"],
         HERE.format(r"/net/x \(peers.a.weights\)"),
         edited(lambda c: c["peers"]["a"].update(weights={"run": "/net/x", "peer": "b"}))),
    Case("hf-folder", "hf/FOLDER", KNN, HERE.format("peers.a.backbone.name"), edited(
         lambda c: c["peers"]["a"].update(backbone={"_target_": "ssl_kd.backbones.create",
                                                    "name": "hf//net/evil.example/x"}))),
    Case("train-by-its-file", "a file of options in a run folder is no word of the user's",
         ["train", "config=runs/b/my.yaml", "run=runs/c"], f"CIFAR10.*{CIFAR}",
         lambda: options("data: cifar10\ndata.root: any\n")),
    Case("train-by-its-folder", "the same of a folder", ["train", "config=runs/b/my.yaml", "run=runs/c"],
         HERE.format("data.root"), lambda: (elsewhere(), options("data: folder\ndata.root: home/private\n"))),
    Case("timing-by-its-file", "the same with timing", ["timing", "config=runs/b/my.yaml"],
         f"CIFAR10.*{CIFAR}", lambda: options("data: cifar10\ndata.root: any\n")),
    Case("train-teacher", "a peer takes its network from a run, which names the Hub",
         ["train", *QUICK, "data=digits", "peers={s: {weights: runs/b}}", "run=runs/c"],
         r"peers.s.*runs/b.*hf/some/net",
         edited(lambda c: c["peers"]["a"].update(backbone={"_target_": "ssl_kd.backbones.create",
                                                           "name": "hf/some/net"}))),
    Case("show-hub", "show goes online", ["show", "method=simclr", "peers=[hf/some/net]"], ALLOWS),
    Case("doctor-hub", "doctor goes online", ["doctor", "method=simclr", "peers=[hf/some/net]"], ALLOWS),
]  # fmt: skip


@pytest.mark.parametrize("case", CASES, ids=[case.name for case in CASES])
def test_what_a_run_names_is_neither_fetched_nor_read(case, capsys, cut, monkeypatch):
    if "hub" in case.name:
        pytest.importorskip("datasets")
    monkeypatch.setitem(sys.modules, "transformers", SimpleNamespace(AutoConfig=None, AutoModel=None))
    check(case, capsys)
    assert not cut and not Path("any").exists() and not Path("home/any").exists()


COMMANDS = {
    "knn": ["knn", "run=runs/b"],
    "linear": ["linear", "run=runs/b"],
    "few_labels": ["few_labels", "run=runs/b", "shares=[]", "per_class=[2]", "draws=2"],
    "linear_sgd": ["linear_sgd", "run=runs/b", "epochs=1"],
    "finetune": ["finetune", "run=runs/b", "epochs=1"],
    "robustness": ["robustness", "run=runs/b", "kinds=[contrast]", "severities=[1]"],
    "transfer": ["transfer", "run=runs/b", "data=arrays", "data.path=photos.npz"],
    "health": ["health", "run=runs/b", "images=8"],
    "report": ["report", "run=runs/b"],
    "runs": ["runs"],
}
NETWORKS = {
    "knn": COMMANDS["knn"],
    "export": ["export", "run=runs/b", "peer=a"],
    "hub-folder": ["export", "run=runs/b", "peer=a", "format=hub-folder"],
    "torchvision": ["export", "run=runs/b", "peer=t"],
}


@pytest.mark.parametrize("words", COMMANDS.values(), ids=COMMANDS)
def test_a_run_that_says_pretrained_is_read_without_the_network(words, cut, monkeypatch):
    if words[0] == "report":
        pytest.importorskip("altair")
    monkeypatch.setattr(Evaluator, "pixels", lambda self: self.features(lambda x: x[:, 0, 0, :4]))  # is slow
    edit(lambda config: config["peers"]["a"]["backbone"].update(pretrained=True))
    assert main(words) == 0
    assert not cut


@pytest.mark.parametrize("words", NETWORKS.values(), ids=NETWORKS)
def test_networks_that_libraries_have_weights_for_are_built_without_them(words, nets, cut):
    assert main(words) == 0
    assert not cut


def test_weights_of_a_frozen_network_that_a_run_lacks_are_not_fetched(nets, cut, capsys):
    os.remove("runs/b/start.safetensors")
    said = rf"timm's test_resnet would be fetched from https://huggingface.co/timm/test_resnet.*{ALLOWS}"
    check_refusal(main(KNN), capsys.readouterr().err, said)
    assert not cut


def test_runs_whose_multiply_adds_are_counted_anew_are_compared_without_the_network(nets, cut, capsys):
    shutil.rmtree("runs/a")
    shutil.copytree("runs/b", "runs/a")
    edit(lambda config: config["optim"]["rate"].update(peak=0.5))
    for name in "ab":
        path = Path(f"runs/{name}/summary.json")
        summary = json.loads(path.read_text())
        path.write_text(json.dumps({key: summary[key] for key in summary if "macs" not in key}))
    assert main(["compare", "runs/a", "runs/b", "base=a"]) == 0
    counted = json.loads(Path("runs/comparison.json").read_text())["groups"][0]["compute"]
    assert counted > 0 and not cut


def test_doctor_neither_fetches_data_and_weights_nor_makes_a_place_for_them(cut, capsys, monkeypatch):
    def refuse(*words):
        raise InputError("not measured here")

    monkeypatch.setattr("ssl_kd.commands.footprint.footprint", refuse)
    monkeypatch.setattr("ssl_kd.commands.checks.launch", list)  # starts processes
    peers = "peers={a: {backbone: {name: resnet8, base: 4, pretrained: true}}}"
    assert main(["doctor", "data=cifar10", "data.root=any", "method=simclr", peers, "batch_size=8"]) == 1
    assert "train downloads it (https://www.cs.toronto.edu" in capsys.readouterr().out
    assert not cut and not Path("any").exists()


def test_it_scores_what_it_scored_and_a_baseline_that_nobody_has_is_left_out(mine, nets, cut):
    shutil.copytree(mine / "runs/n", "runs/n")
    before = ssl_kd.load("runs/n")
    there = ssl_kd.load("runs/b")
    images = np.zeros((2, 16, 16, 3), np.uint8)
    for peer in "aft":
        assert (there.embed(images, peer) == before.embed(images, peer)).all()
    assert set(before.evaluator.baselines(["knn"])["untrained"]) == {"a", "t"}
    assert not there.evaluator.baselines(["knn"])["untrained"] and not cut


def test_a_training_keeps_what_pretrained_peers_began_with(mine, monkeypatch, cut):
    """Then the baseline is theirs, and not that of networks as they are drawn."""
    create = timm.create_model
    fetched: list[bool] = []

    def of_hub(name: str, pretrained: bool = False, **options: object) -> torch.nn.Module:
        model = create(name, **options)
        fetched.append(pretrained)
        for value in model.parameters() if pretrained else ():
            value.data.fill_(0.5)
        return model

    monkeypatch.setattr(timm, "create_model", of_hub)
    words = ["data=arrays", f"data.path={mine / 'photos.npz'}", "data.size=16"]
    peers = "peers={p: {backbone: {name: timm/test_resnet, pretrained: true}}}"
    assert main(["train", *QUICK, *words, peers, "run=runs/c"]) == 0 and any(fetched)
    fetched.clear()
    evaluator = ssl_kd.load("runs/c").evaluator
    backbone = evaluator.untrained().peers["p"].backbone
    assert all((value == 0.5).all() for value in backbone.parameters())
    assert set(evaluator.baselines(["knn"])["untrained"]) == {"p"} and not any(fetched) and not cut


def test_an_exported_file_is_read_without_the_network(cut):
    assert main(["export", "run=runs/b", "peer=a", "to=net.safetensors"]) == 0
    from safetensors import safe_open
    from safetensors.torch import load_file, save_file

    with safe_open("net.safetensors", "pt") as opened:
        about = opened.metadata()["ssl_kd"]
    about = about.replace('"name": "resnet8"', '"name": "resnet8", "pretrained": true')
    save_file(load_file("net.safetensors"), "net.safetensors", {"ssl_kd": about})
    assert "pretrained" in about and export.read("net.safetensors") is not None and not cut


def test_a_peer_that_starts_from_a_run_takes_its_network_and_no_weights_from_elsewhere(nets, cut):
    config = compose(["method=simclr", "data=digits", "peers={s: {weights: {run: runs/b, peer: t}}}"])
    assert config.peers.s.backbone.weights is None and not cut


def test_what_the_user_has_trained_on_is_read_wherever_the_run_lies(capsys, cut):
    """The record is of places: a run may be moved, and other runs on the same data be read."""
    shutil.move("runs/b", "moved")
    assert main(["knn", "run=moved"]) == 0
    os.remove(record.state_file())
    before = snapshot()
    capsys.readouterr()
    check_refusal(main(["knn", "run=moved"]), capsys.readouterr().err, "photos.npz .data.path.*trust moved")
    assert snapshot() == before


def test_trust_shows_what_will_be_read_and_allows_it(capsys):
    os.remove(record.state_file())
    assert main(["trust", "runs/b"]) == 0
    assert "photos.npz (data.path)" in capsys.readouterr().out
    assert main(KNN) == 0


@pytest.mark.parametrize("variable", ["SSL_KD_TRUST", "SSL_KD_DATA"])
def test_places_that_the_environment_names_are_the_users(mine, variable, monkeypatch):
    os.remove(record.state_file())
    monkeypatch.setenv(variable, str(mine))
    assert main(KNN) == 0


def test_data_inside_the_run_folder_came_with_it(mine):
    os.remove(record.state_file())
    shutil.copy(mine / "photos.npz", "runs/b")
    edit(lambda config: config["data"].update(path=str(Path("runs/b/photos.npz").absolute())))
    assert main(KNN) == 0


def test_online_of_the_users_lets_it_fetch_into_their_own_place(cut, capsys):
    data("cifar10", root="any")()
    assert main([*KNN, "online=true"]) == 2
    assert cut and "neither read nor downloaded" in capsys.readouterr().err and not Path("any").exists()


def test_what_the_user_types_is_fetched_and_not_with_online_false(cut, capsys):
    words = ["data=cifar10", "data.root=any", "method=simclr", "peers=[resnet8]", "run=runs/c"]
    assert main(["train", *words, "online=false"]) == 2 and not cut
    assert main(["train", *words]) == 2 and cut
    assert main(["train", *words, "online=maybe"]) == 2


def test_a_file_of_options_in_a_run_folder_may_fetch_when_the_user_says_so(cut):
    for words, allowed in (([], False), (["online=true"], True), (["online=false"], False)):
        with starting(["config=runs/b/config.yaml", *words]) as rest:
            assert network.allowed() is allowed and rest == ["config=runs/b/config.yaml"]


def test_the_fence_holds_what_a_library_does_of_its_own_accord(cut, monkeypatch):
    """The card of a folder of data may name an address, which `datasets` asks even offline."""
    pytest.importorskip("datasets")
    monkeypatch.setattr(network, "fenced", FENCED)
    Path("runs/b/photos").mkdir()
    card = "---\nconfigs:\n- config_name: default\n  data_files: https://evil.example/x.parquet\n---\n"
    Path("runs/b/photos/README.md").write_text(card)
    data("hub", path=str(Path("runs/b/photos").absolute()))()
    with pytest.raises(InputError, match="cannot be read"):
        assert ssl_kd.load("runs/b").data
    assert not cut
