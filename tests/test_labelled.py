"""A few labels beside many images: `probe.data`, and images without a label among those that have one."""

import json
import re
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image
from sklearn.datasets import load_digits

from ssl_kd import training
from ssl_kd.cli import main as cli
from ssl_kd.config import compose
from ssl_kd.data import folder
from ssl_kd.engine import step
from ssl_kd.errors import InputError
from ssl_kd.train import main

pytestmark = pytest.mark.usefixtures("own_folder")

PIXELS = np.round(load_digits().images * (255 / 16)).astype(np.uint8)
LABELS = load_digits().target
QUICK = [
    "peers={a: {backbone: {name: resnet8, base: 8}}}",
    "batch_size=64",
    "precision=float32",
    "probe.knn=[20]",
    "health.every=0",
    "run=runs/a",
]
FLAT = ["method=simclr", "data=folder", "data.root=flat", "data.size=8", "epochs=1", *QUICK]


def put(place: str, numbers) -> None:
    Path(place).mkdir(parents=True, exist_ok=True)
    for i in numbers:
        Image.fromarray(PIXELS[i]).save(Path(place, f"{i}.png"))


@pytest.fixture
def folders(own_folder):
    """flat/ without labels; small/ with train and test, ten classes."""
    put("flat", range(200))
    for i in range(200, 300):
        put(f"small/{'train' if i < 260 else 'test'}/{LABELS[i]}", [i])


def scores(name: str = "summary.json") -> dict:
    return json.loads(Path("runs/a", name).read_text())


def npz(known: int = 200, images: int = 1400) -> None:
    """So many digits to train, the first `known` of them with labels, and the last 397 to test."""
    labels = np.where(np.arange(images) < known, LABELS[:images], -1)
    train = {"train_images": PIXELS[:images], "train_labels": labels}
    np.savez("partly.npz", **train, test_images=PIXELS[1400:], test_labels=LABELS[1400:])


# A labelled data set beside


@pytest.mark.usefixtures("folders")
def test_a_flat_folder_trains_and_a_small_labelled_one_scores(capsys):
    assert main([*FLAT, "probe.data=small"]) == 0
    assert "accuracy on the test split of small" in capsys.readouterr().out
    said = scores()
    assert said["scored_on"] == "the test split of small"
    assert {"knn", "linear"} <= said["peers"]["a"].keys() and said["baselines"]["pixels"]["knn"]["20"] > 0.5
    alone = compose(["method=simclr", "data=folder", "data.root=small", "data.size=8"])
    assert said["baselines"]["pixels"]["linear"] == pytest.approx(_pixels(alone), abs=1e-9)


def _pixels(config) -> float:
    from ssl_kd.build import read_data
    from ssl_kd.evaluate import Evaluator

    evaluator = Evaluator(config, read_data(config))
    return evaluator.score(evaluator.pixels(), ["linear"])[0]["linear"]


@pytest.mark.usefixtures("folders")
def test_every_probe_of_the_finished_run_takes_the_labelled_folder(capsys):
    assert main([*FLAT, "probe.data=small", "probe.baselines=false"]) == 0
    for command in (
        ["knn"], ["linear"], ["few_labels", "per_class=[2]", "shares=[]", "draws=2"],
        ["linear_sgd", "epochs=1"], ["finetune", "epochs=1", "scratch=false"],
        ["robustness", "severities=[1]", "kinds=[noise]"], ["health", "images=64"],
    ):  # fmt: skip
        assert cli([*command, "run=runs/a"]) == 0, command
        assert scores(f"eval/{command[0]}.json")["scored_on"] == "the test split of small"
    assert scores("eval/knn.json")["peers"] == {"a": {"knn": scores()["peers"]["a"]["knn"]}}
    assert cli(["transfer", "run=runs/a", "data=digits"]) == 0
    assert scores("eval/transfer.json")["scored_on"] == "the test split of digits"
    pytest.importorskip("altair")
    assert cli(["report", "run=runs/a"]) == 0
    assert "labelled, for the probes: 60 and 40" in Path("runs/a/report.html").read_text()


@pytest.mark.usefixtures("folders")
def test_scores_of_labelled_data_leave_the_training_as_it_is():
    states = []
    for words in ([], ["probe.data=small"]):
        assert main([*FLAT, *words, f"run=runs/{len(words)}"]) == 0
        states.append(Path(f"runs/{len(words)}/checkpoints/last/cohort.safetensors").read_bytes())
    assert states[0] == states[1]


@pytest.mark.usefixtures("folders")
def test_labelled_data_that_changed_is_noticed(capsys):
    assert main([*FLAT, "probe.data=small"]) == 0
    put("small/train/0", [1])
    assert main([*FLAT, "probe.data=small"]) == 2
    assert "60 labelled train images then, 61 labelled train images now" in capsys.readouterr().err
    before = Path("runs/a/summary.json").read_bytes()
    assert main(FLAT) == 0  # the run is finished: nothing of it changes
    assert Path("runs/a/summary.json").read_bytes() == before


@pytest.mark.usefixtures("folders")
def test_holding_out_takes_a_part_of_the_labelled_train_split():
    assert main([*FLAT, "probe.data=small", "hold_out=0.5"]) == 0
    assert scores()["scored_on"] == "a held-out 0.5 of the train split of small"
    noted = scores("data.json")
    assert noted["train"]["images"] == 200
    assert [noted[f"labelled {part}"]["images"] for part in ("train", "test")] == [30, 30]


@pytest.mark.usefixtures("folders")
def test_labelled_data_is_said_in_three_ways_and_stands_whole_in_the_config():
    npz()
    folder_node = compose([*FLAT, "probe.data=small"]).probe.data
    assert folder_node == compose([*FLAT, "probe.data={name: folder, root: small}"]).probe.data
    assert (
        folder_node._target_ == "ssl_kd.data.folder" and folder_node.size == 8 and "mean" not in folder_node
    )
    assert compose([*FLAT, "probe.data=partly.npz"]).probe.data.path == str(Path("partly.npz").absolute())
    assert compose([*FLAT, "probe.data=digits"]).probe.data._target_ == "ssl_kd.data.digits"


@pytest.mark.usefixtures("folders")
@pytest.mark.parametrize(("words", "sentence"), [
    (["probe.data=cifar1"], 'neither a folder, nor an .npz file, nor data; did you mean "cifar10"?'),
    (["probe.data={name: foldr, root: small}"], 'there is no data "foldr"; did you mean "folder"?'),
    (["probe.data={name: folder, rot: small}"], 'is not an option of folder; did you mean "root"?'),
    (["probe.data={name: folder}"], "probe.data.root is needed"),
    (["probe.data={root: small}"], "probe.data as a mapping names its data"),
    (["probe.data=7"], "probe.data must be a name, a group of options or null"),
    (["probe.data=flat"], 'be scored: the probes need labels, and the data "flat" has none'),
    (["probe.data=small/train"], "probe.data cannot be scored: the probes need a labelled test split"),
    (["probe.data={name: folder, root: small, test: nowhere}"], "probe.data: there is no folder nowhere"),
])  # fmt: skip
def test_labelled_data_that_cannot_be_had_is_refused_before_training(words, sentence, capsys):
    assert main([*FLAT, *words]) == 2
    assert sentence in capsys.readouterr().err
    assert not Path("runs/a").exists()


def test_a_classifier_of_other_classes_is_not_tested_on_the_labelled_data():
    for i in range(40):
        put(f"small/{'train' if i < 30 else 'test'}/{'even' if LABELS[i] % 2 == 0 else 'odd'}", [i])
    words = ["method=supervised", "data=digits", "data.size=8", "epochs=1", *QUICK, "probe.data=small"]
    assert main(words) == 0
    assert "top1" not in scores()["peers"]["a"] and scores()["peers"]["a"]["linear"] > 0


# Images without a label among others


def test_a_sub_folder_of_unlabelled_images_stands_beside_the_classes():
    for i in range(30):
        put(f"partly/train/{LABELS[i] % 2 if i < 10 else 'unlabelled'}", [i])
        put(f"partly/test/{LABELS[i] % 2}", [i])
    train = folder("partly", 8).train
    assert train.classes == ("0", "1") and len(train) == 30
    assert sorted(train.labels.tolist()) == sorted([-1] * 20 + [int(k) % 2 for k in LABELS[:10]])
    assert folder("partly", 8, unlabelled=None).train.classes == ("0", "1", "unlabelled")
    Path("partly/train/unlabelled").rename("partly/train/rest")
    assert -1 in folder("partly", 8, unlabelled="rest").train.labels


def test_labels_that_teach_nothing_are_said_before_training(capsys):
    npz(known=0)
    words = ["data=arrays", "data.path=partly.npz", "data.size=8", "epochs=1", *QUICK]
    with np.load("partly.npz") as arrays:
        np.savez("partly.npz", **{key: arrays[key] for key in arrays if "test" not in key})
    assert main(["method=supervised", *words]) == 2
    assert 'the term "ce" needs labels, and the data "arrays" has none' in capsys.readouterr().err
    assert main(["method=simclr", *words]) == 0
    assert 'the probes need labels, and the data "arrays" has none' in capsys.readouterr().out


def test_deep_mutual_learning_on_partly_labelled_digits_learns_from_the_labels_and_teaches_with_the_rest():
    npz(known=200, images=700)
    words = ["data=arrays", "data.path=partly.npz", "data.size=16", "data.mean=0.31", "data.std=0.38"]
    words += ["recipe.flip=0", "epochs=16", "batch_size=64", *QUICK[2:], "probe.baselines=false"]
    assert main(["method=dml", "peers={a: resnet8, b: resnet8}", *words]) == 0
    peers = scores()["peers"]
    for name in ("a", "b"):
        assert peers[name]["top1"] > 0.7 and peers[name]["knn"]["20"] > 0.7 and peers[name]["linear"] > 0.7
    assert (
        cli(["knn", "run=runs/a"]) == 0 and cli(["few_labels", "run=runs/a", "per_class=[2]", "draws=2"]) == 0
    )


def test_images_without_a_label_are_left_to_the_teachers():
    npz(known=700)
    parts = training.build(compose([
        "method=dml", "peers={a: resnet8, b: resnet8}", "data=arrays", "data.path=partly.npz", "data.size=8",
        "batch_size=64", "precision=float32", "epochs=1",
    ]))  # fmt: skip
    batch = next(parts.batches(0))
    assert 0 < int((batch["label"] < 0).sum()) < 64

    def terms(labels) -> dict[str, float]:
        parts.own.begin(0, 0)
        said = parts.cohort({**batch, "label": labels, "step": torch.tensor(0)})
        return {
            key: float(raw.detach())
            for term in parts.terms
            for key, (raw, _) in term(said, {**batch, "label": labels}, 0).items()
        }

    given, none = terms(batch["label"]), terms(torch.full((64,), -1))
    known = batch["label"] >= 0
    parts.own.begin(0, 0)
    logits = parts.cohort({**batch, "step": torch.tensor(0)})["a"]["logits"][0].detach()
    expected = torch.nn.functional.cross_entropy(logits[known], batch["label"][known])
    ce = next(key for key in given if re.fullmatch("(ce|supervised.*)/a", key))
    assert given[ce] == pytest.approx(float(expected), rel=1e-5) and none[ce] == 0
    kl = next(key for key in given if key.startswith("kl/a"))
    assert given[kl] == pytest.approx(none[kl], rel=1e-6) and none[kl] > 0
    before = [p.clone() for p in parts.own.peers["a"].parameters()]
    batch["label"] = torch.full((64,), -1)
    step(parts.cohort, parts.terms, batch, parts.optimizers, parts.accelerator, 0)
    assert any(not torch.equal(a, b) for a, b in zip(before, parts.own.peers["a"].parameters(), strict=True))


def test_a_folder_with_a_bad_choice_says_so():
    put("flat", range(3))
    with pytest.raises(InputError, match='labels must be "auto" or "none"'):
        folder("flat", 8, labels="all")
