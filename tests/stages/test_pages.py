"""What the README and the documentation tell a reader to type works, every block of every page."""

from pathlib import Path

import numpy as np
import pytest
import torch

from ssl_kd import cli
from tests.pages import MORE, SHORT, pages, run

# Runs that a page speaks of as already there: page -> name -> words of the training.
PAIR = "peers={small: resnet8, other: resnet8}"
PHOTOS = ["data=folder", "data.root=photos", "data.size=64"]
THERE = {
    "README.md": {
        "a": ["method=dogo", *MORE["docs/tutorials/few-labels.md"]],
        "pair": ["method=dogo", PAIR],
        "resnet56": ["method=simclr", "peers=[resnet56]"],
        "photos": ["method=dogo", "peers={mobile: mobilenetv3_small_100, resnet18: resnet18}", *PHOTOS],
        **{f"solo-{seed}": ["method=simclr", "peers={small: resnet8}", f"seed={seed}"] for seed in (0, 1)},
        **{f"pair-{seed}": ["method=dogo", PAIR, f"seed={seed}"] for seed in (0, 1)},
    },
    "docs/runs.md": {"a": []},
    "docs/protocol.md": {"a": []},
}


class Noise:
    """In the shape of a data set of torchvision, which is not downloaded here."""

    def __init__(self, root, train, download=False):
        rng = np.random.default_rng(train)
        self.targets = np.arange(600 if train else 60) % 10
        self.data = rng.integers(0, 255, (len(self.targets), 32, 32, 3), dtype=np.uint8)
        self.classes = [f"class {number}" for number in range(10)]


class GreyNoise(Noise):
    def __init__(self, root, train, download=False):
        super().__init__(root, train)
        self.data = self.data[..., 0]


@pytest.mark.parametrize("page", pages())
def test_what_a_page_says_to_type_works(page, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    _photographs(Path("photos"))
    for name, made in (("CIFAR10", Noise), ("CIFAR100", Noise), ("FashionMNIST", GreyNoise)):
        monkeypatch.setattr(f"torchvision.datasets.{name}", made)
    for name, words in THERE.get(page, {}).items():
        assert cli.main(["train", *SHORT, *words, f"run=runs/{name}"]) == 0
    threads = torch.get_num_threads()
    wrong = list(run(page))
    torch.set_num_threads(threads)
    assert not wrong, "\n".join(wrong)


def _photographs(folder):
    from PIL import Image

    for i in range(64):
        pixels = np.random.default_rng(i).integers(0, 255, (40, 40, 3), dtype=np.uint8)
        place = folder / ("train" if i % 4 else "test") / ("cat" if i % 2 else "dog")
        place.mkdir(parents=True, exist_ok=True)
        Image.fromarray(pixels).save(place / f"{i}.png")
