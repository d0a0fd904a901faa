"""Folders of images for the cases: made by names and counts."""

import zlib
from pathlib import Path

import numpy as np
from PIL import Image

SMALL = ["peers={a: {backbone: {name: resnet8, base: 4}}}", "data.size=8", "batch_size=4", "epochs=1"]
SMALL += ["probe.linear=false", "probe.knn=[1]", "probe.baselines=false", "method=simclr", "log_every=1"]


def images(counts: dict[str, int], root: str = "x", suffix: str = ".png") -> None:
    """Noise, another in each folder: {"train/cat": 3}. A suffix that Pillow lacks holds a PNG."""
    for name, count in counts.items():
        noise = np.random.default_rng(zlib.crc32(name.encode()))
        Path(root, name).mkdir(parents=True, exist_ok=True)
        for i in range(count):
            pixels = noise.integers(0, 256, (8, 8, 3), np.uint8)
            path = Path(root, name, f"{i}{suffix}")
            Image.fromarray(pixels).save(path, Image.registered_extensions().get(suffix, "PNG"))


def train(*words: str) -> list[str]:
    """The words of a small training on the folder x."""
    return ["train", "data=folder", "data.root=x", *SMALL, "run=r", *words]
