"""The probes of a finished run, from its folder: what they write, what they refuse, and that they repeat."""

import json
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from ssl_kd.cli import PROBES as COMMANDS
from ssl_kd.cli import main
from ssl_kd.probing import PROBES

PAIR = [
    "peers={a: resnet8, b: resnet8}", "epochs=1", "batch_size=64", "data.limit=320", "precision=float32",
    "probe.knn=[1,20]", "probe.baselines=false",
]  # fmt: skip


@pytest.fixture(scope="module")
def trained(tmp_path_factory) -> str:
    """One finished pair; probes only add files to its folder."""
    folder = str(tmp_path_factory.mktemp("runs") / "a")
    threads = torch.get_num_threads()
    assert main(["train", *PAIR, f"run={folder}"]) == 0
    torch.set_num_threads(threads)
    return folder


@pytest.fixture(autouse=True)
def _threads():
    threads = torch.get_num_threads()
    yield
    torch.set_num_threads(threads)


def written(folder: str, probe: str) -> dict:
    return json.loads(Path(folder, "eval", f"{probe}.json").read_text())


def test_the_command_knows_every_probe():
    assert tuple(PROBES) == COMMANDS


OPTIONS = {
    "knn": ["knn=[1,20]"],
    "few_labels": ["draws=2"],
    "linear_sgd": ["epochs=2"],
    "finetune": ["labels=5", "epochs=2"],
    "robustness": ["limit=50"],
    "transfer": ["data=digits", "data.limit=null"],
    "health": ["images=64"],
}


@pytest.mark.parametrize("probe", [name for name in COMMANDS if name != "transfer"])
def test_a_probe_prints_its_scores_and_writes_the_same_twice(probe, trained, capsys):
    for _ in range(2):
        assert main([probe, f"run={trained}", *OPTIONS.get(probe, [])]) == 0
        printed, found = capsys.readouterr().out, written(trained, probe)
        assert f"eval/{probe}.json" in printed and " a " in printed
        if _ == 0:
            first = found
    assert found == first
    assert found["checkpoint"] == "last" and found["step"] == 5
    if probe != "health":
        assert list(found["peers"]) == ["a", "b"] and "the test split" in printed


def test_probes_leave_the_checkpoint_as_it_was(trained):
    before = Path(trained, "checkpoints/last/cohort.safetensors").read_bytes()
    main(["finetune", f"run={trained}", "labels=2", "epochs=1", "scratch=false"])
    assert Path(trained, "checkpoints/last/cohort.safetensors").read_bytes() == before


def test_knn_and_linear_are_those_of_the_end_of_the_run(trained, capsys):
    summary = json.loads(Path(trained, "summary.json").read_text())
    for probe in ("knn", "linear"):
        main([probe, f"run={trained}"])
        for peer in ("a", "b"):
            assert written(trained, probe)["peers"][peer][probe] == summary["peers"][peer][probe]
        assert written(trained, probe)["ensemble"][probe] == summary["ensemble"][probe]


def test_random_weights_give_the_same_numbers_twice_bit_for_bit(trained):
    found = []
    for _ in range(2):
        main(["knn", f"run={trained}"])
        main(["linear", f"run={trained}"])
        found.append([written(trained, probe)["baselines"]["untrained"] for probe in ("knn", "linear")])
    assert found[0] == found[1]


def test_transfer_turns_grey_and_colour_into_each_other(trained, tmp_path, capsys):
    generator = np.random.default_rng(0)
    labels = np.arange(200) % 2
    images = generator.integers(0, 100, (200, 20, 20, 3)).astype(np.uint8)
    images[labels == 1, :10] += 100
    np.savez(
        tmp_path / "x.npz",
        train_images=images[:150], train_labels=labels[:150],
        test_images=images[150:], test_labels=labels[150:],
    )  # fmt: skip
    assert main(["transfer", f"run={trained}", "data=arrays", f"data.path={tmp_path}/x.npz"]) == 0
    found = written(trained, "transfer")
    assert found["peers"]["a"]["linear"] > 0.9 and "pixels" in found["baselines"]
    assert found["protocol"] == {"data": "arrays", "size": 16}


def test_fine_tuning_can_keep_a_layer_of_the_head(trained):
    main(["finetune", f"run={trained}", "labels=2", "epochs=1", "scratch=false", "layers=1"])
    found = written(trained, "finetune")
    assert found["protocol"]["layers"] == 1 and found["protocol"]["head"] == "projection"


@pytest.mark.parametrize(
    ("words", "sentence"),
    [
        (["few_labels", "draw=2"], 'did you mean "draws"?'),
        (["few_labels", "per_class=[500]"], "500"),
        (["knn", "k=5"], '"k" is not an option of knn'),
        (["transfer"], "transfer needs another data set, as in data=fashion_mnist"),
        (["transfer", "data=cifr10"], 'did you mean "cifar10"?'),
        (["finetune", "layers=1", "head=z"], 'there is no head "z"; the heads are: projection'),
        (["robustness", "kinds=[nois]"], 'did you mean "noise"?'),
        (["few_labels", "draws=many"], 'draws must be a whole number, and "many" is not'),
        (["few_labels", "per_class=few"], "per_class must be a list"),
        (["knn", "knn=x"], "knn must be a list"),
        (["finetune", "scratch=1"], "scratch must be true or false"),
        (["finetune", "labels=some"], "labels must be a number"),
        (["knn", "checkpoint=best"], 'checkpoint is "best", but can be: last, chosen'),
        (["knn", "checkpoint=chosen"], "has no chosen checkpoint"),
    ],
)
def test_what_a_probe_cannot_do_is_refused_in_one_sentence(words, sentence, trained, capsys):
    assert main([words[0], f"run={trained}", *words[1:]]) == 2
    said = capsys.readouterr().err
    assert sentence in said and said.count("\n") == 1


def test_without_labels_the_probes_say_what_they_need_and_health_works(tmp_path, capsys):
    generator = np.random.default_rng(0)
    (tmp_path / "photos").mkdir()
    for i in range(64):
        pixels = generator.integers(0, 255, (20, 20, 3)).astype(np.uint8)
        Image.fromarray(pixels).save(tmp_path / "photos" / f"{i}.png")
    run = f"run={tmp_path}/run"
    words = ["data=folder", f"data.root={tmp_path}/photos", "data.size=16", "batch_size=32", "health.every=1"]
    assert main(["train", *PAIR[:2], *words, run]) == 0
    assert '"health"' in (tmp_path / "run/metrics.jsonl").read_text()
    capsys.readouterr()
    for probe in ("knn", "linear", "few_labels", "linear_sgd", "finetune", "robustness"):
        assert main([probe, run]) == 2
        assert "the probes need labels" in capsys.readouterr().err
    assert main(["health", run]) == 0
    assert "uniformity" in capsys.readouterr().out
    assert main(["transfer", run, "data=digits"]) == 0  # whose labels are all it needs


def test_a_run_of_another_version_is_refused_in_one_sentence(trained, tmp_path, capsys):
    import shutil

    run = tmp_path / "old"
    shutil.copytree(trained, run)
    config = (run / "config.yaml").read_text()
    (run / "config.yaml").write_text(config.replace("ssl_kd.losses.nt_xent", "ssl_kd.losses.nt_x"))
    environment = json.loads((run / "environment.json").read_text())
    environment[-1]["packages"]["ssl-kd"] = "0.0.3"
    (run / "environment.json").write_text(json.dumps(environment))
    assert main(["knn", f"run={run}"]) == 2
    said = capsys.readouterr().err
    assert "was made by ssl-kd 0.0.3 and cannot be read by" in said and said.count("\n") == 1


def test_a_run_from_before_there_was_health_can_be_scored(trained, tmp_path):
    import shutil

    from omegaconf import OmegaConf

    run = tmp_path / "old"
    shutil.copytree(trained, run)
    config = OmegaConf.load(run / "config.yaml")
    for key in ("health", "hold_out"):
        config.pop(key)
    config.probe.pop("select")
    OmegaConf.save(config, run / "config.yaml")
    for probe in ("knn", "health"):
        assert main([probe, f"run={run}"]) == 0
