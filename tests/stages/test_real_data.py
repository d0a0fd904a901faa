"""The main job on real images: every kind of source trains, and is scored beside its baselines."""

import json
from pathlib import Path

import numpy as np
import pytest

from ssl_kd.train import main


def train(words: list[str], folder: Path) -> dict:
    assert main([*words, f"run={folder / 'run'}"]) == 0
    return json.loads((folder / "run/summary.json").read_text())


@pytest.fixture
def here(data_root: Path, request: pytest.FixtureRequest) -> Path:
    place = data_root / request.param
    if not place.exists():
        pytest.skip(f"there is no {place}")
    return place


PAIR = ["method=dogo", "peers=[resnet8,resnet8]"]


@pytest.mark.parametrize("here", ["cifar10.npz"], indirect=True)
def test_a_pair_learns_on_cifar_10_without_labels(here, tmp_path):
    with np.load(here) as whole:  # enough to learn from in half a minute
        np.savez(
            tmp_path / "part.npz",
            **{key: whole[key][:2000] for key in whole.files if key[:5] in ("train", "test_")},
        )
    words = [*PAIR, "data=arrays", f"data.path={tmp_path / 'part.npz'}", "epochs=8", "batch_size=128"]
    summary = train([*words, "probe.linear=false"], tmp_path)
    for name, scores in summary["peers"].items():
        assert scores["knn"]["20"] > summary["baselines"]["untrained"][name]["knn"]["20"] + 0.05
        assert scores["knn"]["20"] > summary["baselines"]["pixels"]["knn"]["20"]


@pytest.mark.parametrize("here", ["fashion-mnist"], indirect=True)
def test_fashion_mnist_runs(here, tmp_path):
    words = ["data=fashion_mnist", f"data.root={here}", "data.limit=2000", "epochs=3", "probe.linear=false"]
    summary = train([*PAIR, *words, "probe.baselines=false"], tmp_path)
    assert summary["steps"] == 21 and min(s["knn"]["20"] for s in summary["peers"].values()) > 0.6


@pytest.mark.parametrize("here", ["tiny-imagenet-50"], indirect=True)
def test_a_folder_of_photographs_runs(here, tmp_path):
    words = ["data=folder", f"data.root={here}", "data.limit=1000", "data.size=32", "epochs=2"]
    summary = train(
        [*PAIR, *words, "batch_size=100", "probe.linear=false", "probe.baselines=false"], tmp_path
    )
    assert summary["steps"] == 20 and min(s["knn"]["20"] for s in summary["peers"].values()) > 2 / 50


@pytest.mark.parametrize("here", ["cifar10.npz"], indirect=True)
def test_four_peers_of_three_architectures_train_together(here, capsys):
    peers = "peers=[resnet20,resnet20,wrn-16-2,mobilenetv3_small_100]"
    words = [peers, "data=arrays", f"data.path={here}", "data.limit=64", "batch_size=32"]
    assert main([*words, "dry_run=true"]) == 0
    said = capsys.readouterr().out
    assert "mobilenetv3_small_100 <── resnet20_1, resnet20_2, wrn-16-2" in said
    assert "kl/mobilenetv3_small_100<-wrn-16-2" in said
