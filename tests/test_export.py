"""What is deployed: the backbone and its classifier, in every format equal to the trained network."""

import json
import re
import shutil
import sys
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
import timm
import torch
import torchvision
from omegaconf import OmegaConf
from PIL import Image
from safetensors import safe_open
from safetensors.torch import load_file, save_file

from ssl_kd import InputError
from ssl_kd.backbones import create
from ssl_kd.cli import main
from ssl_kd.data import digits
from ssl_kd.export import export, onnx_graph, read, rebuilt, timm_model, torchvision_model
from ssl_kd.export.deployed import Deployed, Network
from ssl_kd.finished import load
from ssl_kd.train import main as train
from tests.conftest import OLD_TORCH

SMALL = "{backbone: {name: resnet8, base: 8}}"
QUICK = ["epochs=2", "batch_size=24", "health.every=0", "precision=float32", "probe.linear=false"]
VIT = "{backbone: {name: vit_tiny_patch16_224, depth: 2}}"
RUNS = {
    # without labels: a ResNet of ours, one of timm's whose stem was lowered, one that has smaller patches
    "dogo": ["method=dogo", f"peers={{res: resnet18, mobile: mobilenetv3_small_050, vit: {VIT}}}",
             "data=arrays", "data.size=16", "recipe.flip=0"],
    "labels": ["method=dml", f"peers={{small: {SMALL}, res: resnet18, mobile: timm/mobilenetv3_small_050}}",
               "data=digits", "data.limit=60", "hold_out=0.2"],
}  # fmt: skip


@pytest.fixture(scope="module")
def runs(tmp_path_factory) -> Path:
    place, threads = tmp_path_factory.mktemp("runs"), torch.get_num_threads()
    np.savez(place / "digits.npz", train_images=digits(limit=48).train.images[:, 0])
    with pytest.MonkeyPatch.context() as patch:
        for name, words in RUNS.items():
            given = [*QUICK, *words, f"run={place}/{name}"]
            given += [f"data.path={place}/digits.npz"] if name == "dogo" else []
            patch.setattr(sys, "argv", ["ssl-kd", "train", *given])  # what the run notes as its command
            assert train(given) == 0
    torch.set_num_threads(threads)
    return place


@pytest.fixture(scope="module")
def graph(runs) -> Path:
    """The small peer with its classifier as ONNX."""
    pytest.importorskip("onnxruntime")
    if OLD_TORCH:
        pytest.skip("the ONNX packages do not write the batch norm of torch 2.6")
    export(str(runs / "labels"), "small", str(runs / "small.onnx"), format="onnx")
    return runs / "small.onnx"


def trained(folder: Path, peer: str):
    """The peer as the run has it: images (N, 1, 16, 16) in [0, 1] -> its logits, or its embedding."""
    finished = load(folder)
    encoder = finished.encoders[peer].eval()

    def said(images):
        with torch.no_grad():
            embedding = encoder.embed(images)
            return encoder.heads["logits"](embedding) if peer in finished.classifiers else embedding

    return said


def run_card(card: Path, monkeypatch) -> dict:
    """Executes the lines of a card in its folder; what they define."""
    (code,) = re.findall(r"```python\n(.*?)```", card.read_text(), re.S)
    assert len(code.splitlines()) <= 14
    monkeypatch.chdir(card.parent)
    names: dict = {}
    with torch.no_grad():
        exec(compile(code, str(card), "exec"), names)
    return names


def assert_equal(said, wanted, tolerance=1e-5):
    assert said.shape == wanted.shape
    assert float((torch.as_tensor(said) - wanted).abs().max()) <= tolerance * max(
        1.0, float(wanted.abs().max())
    )


# Round trips: the lines of the card, run in the folder of the card, against the network of the run.


@pytest.mark.parametrize(
    ("run", "peer", "form"),
    [
        ("dogo", "res", "timm"), ("dogo", "res", "torchvision"),
        ("dogo", "mobile", "timm"), ("dogo", "vit", "timm"), ("dogo", "vit", "hub-folder"),
        ("dogo", "mobile", "hub-folder"), ("dogo", "vit", "onnx"), ("labels", "small", "safetensors"),
        ("labels", "small", "hub-folder"), ("labels", "res", "timm"), ("labels", "res", "torchvision"),
        ("labels", "mobile", "timm"),
    ],
)  # fmt: skip
def test_the_cards_own_lines_give_the_numbers_of_the_run(run, peer, form, runs, tmp_path, monkeypatch):
    if OLD_TORCH and form == "onnx":
        pytest.skip("the graph of torch 2.6 takes as many images as it was made with")
    to = tmp_path / ("x.onnx" if form == "onnx" else "x.safetensors" if form == "safetensors" else "x")
    export(str(runs / run), peer, str(to), format=form)
    card = to / "README.md" if to.is_dir() else Path(f"{to}.md")
    found = run_card(card, monkeypatch)
    said = found.get("logits", found.get("embedding"))
    images = torch.as_tensor(found["images"])
    assert_equal(said, trained(runs / run, peer)(images), 1e-4 if form == "onnx" else 1e-5)
    assert not list(tmp_path.rglob("*.part"))


def test_timm_alone_builds_the_folder_of_a_network_that_it_builds(runs, tmp_path):
    export(str(runs / "dogo"), "vit", str(tmp_path / "x"), format="hub-folder")
    model = timm.create_model(f"local-dir:{tmp_path / 'x'}", pretrained=True).eval()
    config = timm.data.resolve_model_data_config(model)
    assert tuple(config["input_size"]) == (1, 16, 16) and config["crop_pct"] == 1.0 and model.num_classes == 0
    images = torch.rand(3, 1, 16, 16)
    mean, std = (torch.tensor(config[key]).view(-1, 1, 1) for key in ("mean", "std"))
    with torch.no_grad():
        assert_equal(model((images - mean) / std), trained(runs / "dogo", "vit")(images))


def test_timm_refuses_a_folder_whose_stem_it_would_build_otherwise(runs, tmp_path):
    said = export(str(runs / "dogo"), "mobile", str(tmp_path / "x"), format="timm")
    assert "is changed before it fits: README.md has the lines" in said
    with pytest.raises(KeyError, match="architecture"):  # rather than other numbers from the same weights
        timm.create_model(f"local-dir:{tmp_path / 'x'}", pretrained=True)
    assert "conv_stem').stride = (1, 1)" in "".join(
        json.loads((tmp_path / "x/config.json").read_text())["build"]
    )


def test_class_names_and_normalisation_are_in_every_format(runs, tmp_path):
    classes = list("0123456789")
    for form in ("timm", "torchvision"):
        export(str(runs / "labels"), "res", str(tmp_path / form), format=form)
        about = json.loads((tmp_path / form / "config.json").read_text())
        assert about["label_names"] == classes and about["num_classes"] == 10
        for key in ("mean", "std"):
            wanted = about["ssl_kd"][key]
            assert about[key] == pytest.approx(wanted if isinstance(wanted, list) else [wanted])
    export(str(runs / "labels"), "small", str(tmp_path / "x.safetensors"))
    with safe_open(tmp_path / "x.safetensors", "pt") as file:
        about = json.loads(file.metadata()["ssl_kd"])
    assert about["classes"] == classes and about["image"] == {"channels": 1, "size": 16}


def test_the_onnx_graph_takes_any_number_of_images_and_says_what_it_holds(runs, graph, monkeypatch):
    import onnxruntime

    session = onnxruntime.InferenceSession(str(graph))
    about = session.get_modelmeta().custom_metadata_map
    assert json.loads(about["classes"]) == list("0123456789") and len(json.loads(about["mean"])) == 1
    finished = load(runs / "labels")
    raw = torch.from_numpy(finished.data.test.images[:5].astype(np.float32) / 255)
    images = torch.nn.functional.interpolate(raw, (16, 16), mode="bilinear", antialias=True)
    for count in (1, 5):
        embedding, logits = session.run(None, {"images": images[:count].numpy()})
        assert np.allclose(embedding, finished.embed(images[:count], "small"), atol=1e-4)
        assert np.array_equal(logits.argmax(1), finished.predict(images[:count], "small"))
    found = run_card(Path(f"{graph}.md"), monkeypatch)
    assert_equal(found["logits"], trained(runs / "labels", "small")(torch.from_numpy(found["images"])), 1e-4)


def test_a_graph_that_gives_other_numbers_is_not_kept(runs, graph, tmp_path, monkeypatch):
    monkeypatch.setattr(onnx_graph, "graph", lambda network: graph.read_bytes())
    monkeypatch.setattr(onnx_graph, "TOLERANCE", -1.0)
    with pytest.raises(InputError, match="gives other numbers than the network, and is not kept"):
        export(str(runs / "labels"), "small", str(tmp_path / "x.onnx"), format="onnx")
    assert not list(tmp_path.iterdir())


def test_a_library_model_that_gives_other_numbers_is_refused(runs, tmp_path, monkeypatch):
    monkeypatch.setattr(rebuilt, "TOLERANCE", -1.0)
    with pytest.raises(InputError, match="torchvision's resnet18 does not give what"):
        export(str(runs / "dogo"), "res", str(tmp_path / "x"), format="torchvision")
    assert not (tmp_path / "x").exists()


def bare(name: str, channels: int, size: int, classes: int) -> Deployed:
    """A backbone with other numbers than the first ones, as if it came from a run."""
    backbone = create(name, channels=channels, size=size, mean=0.4, std=0.3)
    for buffer in backbone.net.buffers():
        if buffer.is_floating_point():
            buffer.uniform_(0.5, 1.5)  # what batch norm has seen
    heads = {"logits": torch.nn.Linear(backbone.width, classes)} if classes else {}
    node = {"_target_": "ssl_kd.backbones.create", "name": name}
    config = OmegaConf.create({"data": {"size": size}, "peers": {"a": {"backbone": node}}})
    finished = SimpleNamespace(shape=(channels, size, size), config=config)
    return Deployed(finished, "a", Network(backbone, heads).eval().requires_grad_(False), [])


@pytest.mark.parametrize(
    ("library", "name"),
    [
        ("torchvision", "mobilenet_v2"), ("torchvision", "shufflenet_v2_x0_5"),
        ("torchvision", "torchvision/mobilenet_v3_small"), ("torchvision", "torchvision/convnext_tiny"),
        ("timm", "resnet34"), ("timm", "regnety_002"),
    ],
)  # fmt: skip
@pytest.mark.parametrize(("channels", "size", "classes"), [(1, 32, 0), (3, 128, 4)])
def test_a_librarys_own_model_gives_the_same_numbers(library, name, channels, size, classes):
    network = bare(name, channels, size, classes)
    found = {"timm": timm_model, "torchvision": torchvision_model}[library].rebuild(network)  # it compares
    assert found.num_classes == classes and (size == 32) <= bool(found.edits)
    scope: dict = {"timm": timm, "torch": torch, "torchvision": torchvision}
    exec("\n".join(found.code), scope)  # what the card prints
    scope["model"].load_state_dict(found.model.state_dict())
    images = network.images(2)
    with torch.no_grad():
        assert_equal(scope["model"].eval()((images - 0.4) / 0.3), network.network(images))


# The card


def test_the_card_says_how_the_network_was_made_and_what_it_scored(runs, tmp_path):
    export(str(runs / "labels"), "small", str(tmp_path / "x"), format="hub-folder")
    card = (tmp_path / "x" / "README.md").read_text()
    summary = json.loads((runs / "labels" / "summary.json").read_text())
    noted = json.loads((runs / "labels" / "data.json").read_text())
    assert card.startswith("---\nlibrary_name: ssl-kd\npipeline_tag: image-classification\n")
    for said in (
        "# small: resnet8, trained by dml on digits", "19,810 parameters and",
        f"{summary['macs']['small']:,} multiply-adds", noted["train"]["labels"], noted["test"]["contents"],
        "res (resnet18)", "| seed | 0 |", "ssl-kd train epochs=2 batch_size=24", "'peers={small:",
        f"{100 * summary['peers']['small']['top1']:.1f}", "the same network before training", "raw pixels",
        f"{100 * summary['baselines']['pixels']['knn']['20']:.1f}", "on a held-out 0.2 of the train split",
        "0, 1, 2, 3, 4, 5, 6, 7, 8, 9", "The weights are yours", "torch " + torch.__version__.split("+")[0],
    ):  # fmt: skip
        assert said in card, said


def test_a_name_in_a_run_cannot_break_out_of_the_card(runs, tmp_path, monkeypatch):
    folder = tmp_path / "run"
    shutil.copytree(runs / "labels", folder)
    made = json.loads((folder / "environment.json").read_text())
    made[-1]["command"] = ["ssl-kd", "train", "x=```\n# Owned\n$(touch harmed)"]
    made[-1]["packages"] = {"torch": "1 | <b>2</b>\n# Owned"}
    (folder / "environment.json").write_text(json.dumps(made))
    export(str(folder), "small", str(tmp_path / "x.safetensors"))
    card = (tmp_path / "x.safetensors.md").read_text()
    outside = re.sub(r"(`{3,})\w+\n.*?\n\1", "", card, flags=re.S)
    assert "\n# Owned" not in outside and "<b>" not in outside.replace("\\<b", "")
    assert "'x=```" in card


# Our own format


def test_dcm_is_deployed_without_its_exits_and_the_file_starts_another_peer(capsys, own_folder):
    words = ["data=digits", "epochs=1", "batch_size=512", "probe.linear=false", "probe.baselines=false"]
    assert train(["method=dcm", f"peers={{a: {SMALL}, b: {SMALL}}}", *words, "run=runs/a"]) == 0
    capsys.readouterr()
    assert main(["export", "run=runs/a", "peer=a"]) == 0
    assert "19,810 parameters; left out: exit1, exit2, logits1, logits2" in capsys.readouterr().out
    saved = load_file("runs/a/export/a.safetensors")
    assert {key.split(".")[0] for key in saved} == {"backbone", "heads"}
    assert {key.split(".")[1] for key in saved if key.startswith("heads")} == {"logits"}
    with safe_open("runs/a/export/a.safetensors", "pt") as file:
        about = json.loads(file.metadata()["ssl_kd"])
    assert about["backbone"]["name"] == "resnet8" and len(about["classes"]) == 10
    start = "peers.c.weights=runs/a/export/a.safetensors"
    assert (
        train(["method=supervised", f"peers={{c: {SMALL}}}", start, *words, "run=runs/b", "dry_run=true"])
        == 0
    )


def test_ffsds_leader_is_deployed_without_what_it_was_compared_by(capsys, own_folder):
    words = ["data=digits", "epochs=1", "batch_size=512", "probe.linear=false", "probe.baselines=false"]
    assert train(["method=ffsd", f"peers={{a: {SMALL}, b: {SMALL}}}", *words, "run=runs/a"]) == 0
    assert main(["export", "run=runs/a", "peer=leader", "to=leader.safetensors"]) == 0
    assert "left out: trans" in capsys.readouterr().out
    saved, leader = load_file("leader.safetensors"), load("runs/a").encoders["leader"]
    image = torch.rand(2, 1, 16, 16)
    before = leader.eval().embed(image)
    leader.load_state_dict({key: value * 0 for key, value in leader.state_dict().items()})
    leader.load_state_dict(saved, strict=False)
    assert torch.equal(leader.embed(image), before)


def test_timms_file_starts_a_peer_too(runs, tmp_path, capsys):
    export(str(runs / "dogo"), "mobile", str(tmp_path / "x"), format="timm")
    words = [
        "method=simclr",
        "peers={b: mobilenetv3_small_050}",
        f"peers.b.weights={tmp_path}/x/model.safetensors",
    ]
    assert train([*words, "data=digits", "data.limit=64", "batch_size=32", "dry_run=true"]) == 0


@pytest.mark.parametrize(
    ("about", "said"),
    [
        (None, "was not written by ssl-kd export"),
        ("{", "was not written by ssl-kd export"),
        ('{"backbone": {"_target_": "${oc.env:HOME}"}}', "was not written by ssl-kd export"),
        ({"backbone": {"_target_": "os.system", "command": "touch harmed"}}, "which nothing that is read"),
        ({"backbone": {"_target_": "ssl_kd.backbones.create", "name": "resnet8", "base": 4}}, "does not fit"),
        ({"image": {"channels": 0, "size": 16}}, "was not written by ssl-kd export"),
    ],
)
def test_a_file_that_is_read_is_not_trusted(about, said, runs, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    export(str(runs / "labels"), "small", "x.safetensors")
    with safe_open("x.safetensors", "pt") as file:
        whole = json.loads(file.metadata()["ssl_kd"])
    text = json.dumps(whole | about) if isinstance(about, dict) else about
    save_file(load_file("x.safetensors"), "y.safetensors", {"ssl_kd": text} if text else None)
    with pytest.raises(InputError, match=said):
        read("y.safetensors")
    assert not Path("harmed").exists()


# What is refused


def test_export_says_what_it_needs(runs, capsys):
    run = f"run={runs}/dogo"
    for words, said in (
        ([run], "peer is needed, as peer=res; "),
        ([run, "peer=vitt"], 'did you mean "vit"'),
        (["peer=a"], "run is needed"),
        ([run, "peer=vit", "too=x"], 'did you mean "to"'),
        ([run, "peer=vit", "format=onx"], 'there is no format "onx"; did you mean "onnx"'),
        (
            [run, "peer=vit", "format=torchvision"],
            "which torchvision does not build; take format=safetensors",
        ),
        (
            [f"run={runs}/labels", "peer=small", "format=timm"],
            '"small" is resnet8, which timm does not build',
        ),
        ([f"run={runs}/labels", "peer=res", "format=timm", f"to={runs}"], "holds something else"),
        ([f"run={runs}/labels", "peer=res", f"to={runs}"], "cannot be written (it is a folder)"),
    ):
        assert main(["export", *words]) == 2
        printed = capsys.readouterr().err
        assert said in printed and len(printed.splitlines()) == 1, printed


def test_onnx_without_its_packages_says_how_to_get_them(runs, capsys, monkeypatch):
    monkeypatch.setattr(onnx_graph, "PACKAGES", ("onnx", "onnx_that_is_missing"))
    assert main(["export", f"run={runs}/labels", "peer=small", "format=onnx"]) == 2
    assert "pip install 'ssl-kd[export]'" in capsys.readouterr().err


def test_weights_that_are_not_finite_are_not_exported(runs, tmp_path):
    folder = tmp_path / "run"
    shutil.copytree(runs / "labels", folder)
    path = folder / "checkpoints/last/cohort.safetensors"
    saved = load_file(path)
    odd = next(key for key, value in saved.items() if value.is_floating_point())
    saved[odd].fill_(float("nan"))
    save_file(saved, path)
    state = json.loads((path.parent / "state.json").read_text())
    (path.parent / "state.json").write_text(json.dumps(state | {"files": {}}))
    with pytest.raises(InputError, match="infinite or not a number"):
        export(str(folder), odd.split(".")[1])


def test_torchvisions_model_itself_is_exported_as_it_is(tmp_path, own_folder):
    backbone = "{_target_: torchvision.models.resnet18, num_classes: 32}"
    words = ["data=folder", "data.root=photos", "data.size=16", "batch_size=8", "epochs=1", "health.every=0"]
    Path("photos").mkdir()
    for i in range(8):  # of noise: a batch of one colour each would leave batch norm nothing to divide by
        pixels = np.random.default_rng(i).integers(0, 255, (16, 16, 3), dtype=np.uint8)
        Image.fromarray(pixels).save(f"photos/{i}.png")
    assert train(["method=simclr", f"peers={{a: {{backbone: {backbone}}}}}", *words, "run=runs/a"]) == 0
    export("runs/a", to="x", format="torchvision")
    model = torchvision.models.resnet18(num_classes=32)
    model.load_state_dict(load_file("x/model.safetensors"))
    images = torch.rand(2, 3, 16, 16)
    with torch.no_grad():
        assert_equal(model.eval()(images), load("runs/a").encoders["a"].eval().embed(images))
