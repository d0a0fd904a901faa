"""Class-balanced distillation: its loss, its heads, its stages; accuracy by how many images a class has."""

import json
from pathlib import Path

import numpy as np
import pytest
import torch
from torch import nn

import ssl_kd
from ssl_kd.build import build_cohort, read_data
from ssl_kd.config import compose
from ssl_kd.data import Arrays
from ssl_kd.errors import InputError
from ssl_kd.evaluate import class_groups
from ssl_kd.export import export, read
from ssl_kd.heads import CosineClassifier
from ssl_kd.losses import cosine_distance
from ssl_kd.methods.cbd import Concatenated, Feature
from ssl_kd.train import main as train
from tests.conftest import unit
from tests.test_train import refused

TINY = "{backbone: {name: resnet8, base: 4}}"
QUICK = [
    "data.limit=600", "long_tail=10", "batch_size=32", "epochs=1", "precision=float32", "probe.linear=false",
    "probe.baselines=false", "probe.knn=[1]", "probe.groups=[20,50]", "threads=1", "tracker=none",
]  # fmt: skip


def rows(*shape: int) -> torch.Tensor:
    return torch.randn(shape, generator=torch.Generator().manual_seed(sum(shape)), dtype=torch.float64)


# Formulas


def test_the_distance_to_one_teacher_has_the_value_of_the_authors_formula():
    i, d = torch.arange(4, dtype=torch.float64)[:, None], torch.arange(6, dtype=torch.float64)
    x1, x2 = (0.3 + 0.9 * i + 0.5 * d).sin(), (0.35 + 0.9 * i + 0.55 * d).sin()
    assert cosine_distance(x1, x2).item() == pytest.approx(0.018073378256, abs=1e-9)
    assert cosine_distance(7 * x1, x2 / 3).item() == pytest.approx(0.018073378256, abs=1e-9)


def test_the_distance_to_several_teachers_is_the_mean_of_slices_of_the_unit_feature():
    student, teachers = rows(5, 12), [unit(rows(5, 4) + k) for k in range(3)]
    shapes = {f"t{k}.embedding": (4,) for k in range(3)}
    together = Concatenated(list(shapes), shapes)([3 * teacher for teacher in teachers])
    slices = zip(unit(student).split(4, 1), teachers, strict=True)
    wanted = 1 - sum((s * t).sum(1) for s, t in slices).mean() / 3**0.5
    assert cosine_distance(student, together).item() == pytest.approx(wanted.item())


def test_what_is_concatenated_gets_no_gradient():
    x, y = rows(3, 2).requires_grad_(), rows(3, 5).requires_grad_()
    module = Concatenated(["a.z", "b.z"], {"a.z": (2,), "b.z": (5,)})
    said = module([x, y])
    assert said.shape == (3, 7) == (3, module.width) and not said.requires_grad
    assert torch.allclose(said[:, :2].norm(dim=1), torch.ones(3, dtype=said.dtype))


def test_the_cosine_classifier_knows_directions_alone():
    torch.manual_seed(0)
    head, x = CosineClassifier(6, 4), rows(8, 6).float()
    with torch.no_grad():
        scores = head(x)
        head.weight.mul_(torch.tensor([1.0, 2.0, 3.0, 0.1])[:, None])
        assert torch.allclose(head(5 * x), scores, atol=1e-5)
        wanted = 20 * torch.nn.functional.cosine_similarity(x[:, None], head.weight[None], dim=2)
    assert torch.allclose(scores, wanted, atol=1e-5) and scores.abs().max() <= 20
    assert [name for name, _ in head.named_parameters()] == ["weight"]


def test_a_feature_is_as_wide_as_what_it_learns_from():
    one, wide = {"t.embedding": (16,)}, {"t.embedding": (16,), "u.embedding": (8,)}
    assert list(Feature(16, ["t.embedding"], one)) == []
    assert [type(part) for part in Feature(12, ["t.embedding"], one)] == [nn.Linear, nn.ReLU]
    assert Feature(16, list(wide), wide)(rows(2, 16).float()).shape == (2, 24)
    for make in (lambda: Feature(16, ["x.embedding"], one), lambda: Concatenated(["x.embedding"], one)):
        with pytest.raises(InputError, match='nothing before says "x.embedding"; there are: t.embedding'):
            make()
    with pytest.raises(InputError, match="says maps"):
        Concatenated(["t.map"], {"t.map": (16, 2, 2)})


# Groups of classes


def test_classes_are_many_medium_and_few_by_their_train_images():
    labels = np.repeat(np.arange(5), [150, 100, 20, 19, 1])
    data = Arrays(np.zeros((len(labels), 1, 1, 1), np.uint8), labels, tuple("abcde"))
    assert class_groups(data, (20, 100)) == {"many": [0], "medium": [1, 2], "few": [3, 4]}
    assert class_groups(data, (1, 1000)) == {}


# Stages


@pytest.fixture(scope="module")
def runs(tmp_path_factory) -> Path:
    """Two teachers, a student of one and one of both, a classifier trained anew."""
    place, threads = tmp_path_factory.mktemp("tails"), torch.get_num_threads()
    for seed in (0, 1):
        words = ["method=supervised", "preset=cosine", f"peers={{t: {TINY}}}", f"seed={seed}"]
        assert train([*words, *QUICK, f"run={place}/t{seed}"]) == 0
    student = ["method=cbd", f"peers.teacher.weights={place}/t0", f"peers.student={TINY}"]
    assert train([*student, *QUICK, f"run={place}/one"]) == 0
    teachers = ", ".join(f"t{seed}: {{frozen: true, weights: {place}/t{seed}}}" for seed in (0, 1))
    both = [
        "method=cbd",
        f"peers={{{teachers}, s: {TINY}}}",
        "others.ensemble.sees=[t0.embedding,t1.embedding]",
    ]
    assert train([*both, *QUICK, f"run={place}/both"]) == 0
    assert train(["method=retrain", f"peers.network.weights={place}/t0", *QUICK, f"run={place}/new"]) == 0
    torch.set_num_threads(threads)
    return place


def summary(run: Path) -> dict:
    return json.loads((run / "summary.json").read_text())["peers"]


def test_each_stage_says_how_it_does_on_frequent_and_rare_classes(runs):
    for run, name in (("t0", "t"), ("one", "student"), ("both", "s"), ("new", "network")):
        scores = summary(runs / run)[name]
        groups = [scores[f"top1_{group}"] for group in ("many", "medium", "few")]
        assert min(groups) <= scores["top1"] <= max(groups), run
    assert "top1" not in summary(runs / "one")["teacher"]


def test_a_student_of_two_learns_from_both_and_its_feature_stays(runs):
    both = ssl_kd.load(runs / "both")
    student = both.cohort.peers["s"]
    assert (
        student.heads["feature"][0].weight.shape == (32, 16) and student.heads["logits"].weight.shape[1] == 32
    )
    assert both.classifiers == {"s": "logits"}
    assert list(ssl_kd.load(runs / "one").cohort.peers["student"].heads["feature"]) == []


def test_a_classifier_that_is_trained_anew_leaves_the_network_as_it_was(runs):
    before, after = (ssl_kd.load(runs / run).cohort.peers for run in ("t0", "new"))
    for key, value in before["t"].backbone.state_dict().items():
        assert torch.equal(after["network"].backbone.state_dict()[key], value)
    learned = [name for name, value in after["network"].named_parameters() if value.requires_grad]
    assert learned == ["heads.classifier.weight", "heads.classifier.bias"]


def test_the_classifier_that_is_trained_anew_is_what_is_exported(runs, tmp_path):
    export(str(runs / "new"), "network", str(tmp_path / "new.safetensors"), format="safetensors")
    network = ssl_kd.load(runs / "new").cohort.peers["network"].eval()
    images = torch.rand(4, 1, 8, 8)
    with torch.no_grad():
        said = network.heads["classifier"](network.embed(images))
        assert torch.allclose(read(tmp_path / "new.safetensors")(images), said, atol=1e-5)


@pytest.mark.parametrize(
    ("words", "why"),
    [
        (["method=simclr", "peers={a: resnet8}", "peers.a.frozen=body"], "true or false or backbone"),
        (
            [
                "method=dogo",
                "peers={a: {backbone: resnet8, frozen: backbone, heads: {projection: null}}, b: resnet8}",
            ],
            "it has none",
        ),
    ],
)
def test_what_a_frozen_backbone_cannot_be(words, why):
    with pytest.raises(InputError, match=why):
        compose(words)


def test_a_frozen_network_has_the_heads_that_it_learned_and_are_asked_for(runs):
    words = ["method=kd", "preset=full", f"peers.teacher.weights={runs}/t0", f"peers.student={TINY}", *QUICK]
    config = compose(words)
    data = read_data(config)
    teacher = build_cohort(config, data.train.shape).peers["teacher"]
    assert isinstance(teacher.heads["logits"], CosineClassifier)


@pytest.mark.parametrize(
    ("words", "says"),
    [
        (["others.ensemble.sees=[t.embedding]"], 'nothing before says "t.embedding"; there are: teacher.'),
        (["probe.groups=[100,20]"], "probe.groups must be two whole numbers, the smaller first"),
        (["probe.groups=20"], "probe.groups must be two whole numbers"),
    ],
)
def test_bad_options_are_refused_in_a_sentence(words, says, runs, capsys):
    student = ["method=cbd", f"peers.teacher.weights={runs}/t0", "peers.student=resnet8"]
    assert says in refused([*student, *QUICK, *words], capsys)


@pytest.mark.parametrize(("run", "peer"), [("one", "student"), ("both", "s"), ("cut", "a")])
def test_a_stages_network_is_exported_whole_and_read_again(run, peer, runs, tmp_path):
    if run == "cut":
        assert train(["method=simclrv2", f"peers={{a: {TINY}}}", *QUICK, f"run={tmp_path}/pre"]) == 0
        words = ["method=finetune", f"peers={{a: {{weights: {tmp_path}/pre, cut: 1}}}}"]
        assert train([*words, *QUICK, f"run={runs}/cut"]) == 0
    finished = ssl_kd.load(runs / run)
    export(str(runs / run), peer, str(tmp_path / "network.safetensors"))
    network = read(tmp_path / "network.safetensors")
    image = torch.rand(3, 1, 16, 16)
    with torch.no_grad():
        wanted = finished.encoders[peer].eval().embed(image)
        assert torch.allclose(network.embed(image), wanted, atol=1e-5) and network(image).shape == (3, 10)
