"""Images per second of two SimCLR views each (crop, flip, colour jitter at strength 0.5, grey; no blur).

    python benchmarks/augmentation.py size=32 batch_size=256 rounds=5

ours: `Batches` and `Recipe`, as in a run.
kornia: a chain of its batched augmentations with the same options, on the same uint8 images, twice; its
    conversion to floats counted. Left out, and said so, where kornia is not installed.
lightly: its SimCLRTransform on PIL images in `workers` processes, as its examples have it, at strength 0.5
    and without normalising. Timed from when its queue has been emptied once.

Each round runs the sides one after the other and writes a JSON line; the last line has the medians, and
`ratio_kornia` and `ratio_lightly`: the median of the rounds' ratios, ours to theirs, and their range.
"""

import importlib.util
import json
import platform
import statistics
import sys
import time
from importlib.metadata import version
from typing import Any

import numpy as np
import torch
from PIL import Image
from torch import nn

from ssl_kd.data import Arrays, Batches, Recipe
from ssl_kd.machine import set_threads
from ssl_kd.words import options

DEFAULTS: dict[str, Any] = {
    "size": 32,
    "batch_size": 256,
    "steps": 32,
    "rounds": 5,
    "images": 2048,
    "workers": 2,
    "threads": None,
}
COLOURS = {"brightness": 0.4, "contrast": 0.4, "saturation": 0.4, "hue": 0.1}


class Ours:
    def __init__(self, asked: dict[str, Any], images: np.ndarray) -> None:
        source = Arrays(np.ascontiguousarray(images.transpose(0, 3, 1, 2)))
        self.stream = enumerate(Batches(source, asked["batch_size"])(0))
        self.recipe = Recipe(asked["size"], **COLOURS, gray=0.2)

    def seconds(self, count: int) -> float:
        self._steps(2)
        began = time.perf_counter()
        self._steps(count)
        return time.perf_counter() - began

    def _steps(self, count: int) -> None:
        for _ in range(count):
            index, raw = next(self.stream)
            self.recipe(raw, index)


class Kornia(Ours):
    def __init__(self, asked: dict[str, Any], images: np.ndarray) -> None:
        import kornia.augmentation as kornia

        super().__init__(asked, images)
        self.chain = nn.Sequential(
            kornia.RandomResizedCrop(
                (asked["size"], asked["size"]), scale=(0.08, 1.0), ratio=(3 / 4, 4 / 3), same_on_batch=False
            ),
            kornia.RandomHorizontalFlip(p=0.5, same_on_batch=False),
            kornia.ColorJitter(**COLOURS, p=0.8, same_on_batch=False),
            kornia.RandomGrayscale(p=0.2, same_on_batch=False),
        )

    def _steps(self, count: int) -> None:
        for _ in range(count):
            _, raw = next(self.stream)
            for _ in range(2):
                self.chain(raw["image"].float() / 255)


class Lightly:
    """Each measurement is an epoch, after which the workers stand still and leave the cores to the others."""

    def __init__(self, asked: dict[str, Any], images: np.ndarray) -> None:
        from lightly.transforms import SimCLRTransform

        transform = SimCLRTransform(asked["size"], cj_strength=0.5, gaussian_blur=0.0, normalize=None)
        self.queue = 2 * asked["workers"]  # batches that torch's workers prepare ahead
        self.loader = torch.utils.data.DataLoader(
            _Pil(images, transform, (asked["steps"] + self.queue) * asked["batch_size"]),
            batch_size=asked["batch_size"],
            num_workers=asked["workers"],
            persistent_workers=asked["workers"] > 0,
        )

    def seconds(self, count: int) -> float:
        stream = iter(self.loader)
        for _ in range(self.queue):
            next(stream)
        began = time.perf_counter()
        for _ in range(count):
            next(stream)
        spent = time.perf_counter() - began
        assert next(stream, None) is None
        return spent


class _Pil(torch.utils.data.Dataset):
    def __init__(self, images: np.ndarray, transform: Any, count: int) -> None:
        self.images, self.transform, self.count = images, transform, count

    def __len__(self) -> int:
        return self.count

    def __getitem__(self, i: int) -> list[torch.Tensor]:
        return self.transform(Image.fromarray(self.images[i % len(self.images)]))


def main(words: list[str]) -> None:
    given = options(words)
    unknown = set(given) - set(DEFAULTS)
    if unknown:
        sys.exit(f"augmentation.py: no option {', '.join(sorted(unknown))}; there are: {', '.join(DEFAULTS)}")
    asked = {**DEFAULTS, **given}
    threads = set_threads(asked["threads"])
    shape = (asked["images"], asked["size"], asked["size"], 3)
    images = np.random.default_rng(0).integers(0, 256, shape, dtype=np.uint8)
    makers = {"ours": Ours, "kornia": Kornia, "lightly": Lightly}
    missing = [name for name in ("kornia", "lightly") if importlib.util.find_spec(name) is None]
    sides = {name: make(asked, images) for name, make in makers.items() if name not in missing}
    setting = {
        **asked,
        "processor": platform.processor() or platform.machine(),
        "threads": threads,
        "versions": {name: version(name) for name in ["torch", "pillow", *sides] if name != "ours"},
        "not installed": missing,
    }
    print(json.dumps({"setting": setting}))
    rates: dict[str, list[float]] = {name: [] for name in sides}
    for number in range(asked["rounds"]):
        for name, side in sides.items():
            rates[name].append(asked["steps"] * asked["batch_size"] / side.seconds(asked["steps"]))
        now = {name: round(rate[-1], 1) for name, rate in rates.items()}
        print(json.dumps({"round": number, **now}), flush=True)
    summary: dict[str, Any] = {name: round(statistics.median(rate), 1) for name, rate in rates.items()}
    for name in [name for name in sides if name != "ours"]:
        ratios = [ours / theirs for ours, theirs in zip(rates["ours"], rates[name], strict=True)]
        summary[f"ratio_{name}"] = round(statistics.median(ratios), 3)
        summary[f"ratio_{name}_range"] = [round(min(ratios), 3), round(max(ratios), 3)]
    print(json.dumps({"images_per_second": summary}))


if __name__ == "__main__":
    main(sys.argv[1:])
