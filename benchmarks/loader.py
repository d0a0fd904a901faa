"""Images per second into ready batches of two SimCLR views, from a folder of JPEGs: ours and torchvision's.

    python benchmarks/loader.py root=tiny-imagenet-50/train size=64 batch_size=128 workers=2 rounds=5

resident: `Batches` that decoded everything at the start, and the recipe. What that costs is said beside it.
streamed: `Batches` that decode in `workers` processes all the time, and the recipe.
torchvision: ImageFolder and SimCLR's transforms (crop, flip, colour, grey) twice, image by image, in a
    DataLoader of `workers` processes.

The views are float32 on the device that a run would use. Each round takes `steps` batches of each side and
writes a JSON line; the last line has the medians, and `ratio_resident` and `ratio_streamed`, to torchvision:
the median of the rounds' ratios, and their range. Without root, JPEGs are made and thrown away.
"""

import json
import platform
import statistics
import sys
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import PIL
import torch
import torchvision
from PIL import Image
from torch import Tensor
from torch.utils.data import DataLoader
from torchvision import transforms
from torchvision.datasets import ImageFolder

from ssl_kd.data import Batches, Recipe, folder, resident
from ssl_kd.data.workers import decoding_threads
from ssl_kd.machine import pick_device, set_threads
from ssl_kd.system.paths import expand
from ssl_kd.words import options

DEFAULTS: dict[str, Any] = {
    "root": None,
    "size": 64,
    "batch_size": 128,
    "workers": 2,
    "steps": 16,
    "rounds": 5,
    "images": 4096,  # to make, without root
    "edge": 64,  # pixels of those
}
COLOUR = (0.4, 0.4, 0.4, 0.1)  # brightness, contrast, saturation, hue


def ours(root: Path, asked: dict[str, Any], device: str, resident_bytes: int) -> Iterator[Tensor]:
    brightness, contrast, saturation, hue = COLOUR
    recipe = Recipe(
        asked["size"], brightness=brightness, contrast=contrast, saturation=saturation, hue=hue, gray=0.2
    )
    source = folder(root, asked["size"]).train
    batches = Batches(
        source,
        asked["batch_size"],
        device=device,
        workers=asked["workers"],
        resident_bytes=resident_bytes,
    )
    for step, raw in enumerate(batches(0)):
        yield recipe(raw, step)["views"]


def theirs(root: Path, asked: dict[str, Any], device: str) -> Iterator[Tensor]:
    transform = transforms.Compose(
        [
            transforms.RandomResizedCrop(asked["size"]),
            transforms.RandomHorizontalFlip(),
            transforms.RandomApply([transforms.ColorJitter(*COLOUR)], 0.8),
            transforms.RandomGrayscale(0.2),
            transforms.ToTensor(),
        ]
    )
    loader = DataLoader(
        ImageFolder(root, lambda image: torch.stack([transform(image), transform(image)])),
        asked["batch_size"],
        shuffle=True,
        drop_last=True,
        num_workers=asked["workers"],
        persistent_workers=asked["workers"] > 0,
        pin_memory=device == "cuda",
    )
    while True:
        for views, _ in loader:
            yield views.to(device, non_blocking=True).transpose(0, 1)


def take(side: Iterator[Tensor], count: int, device: str) -> float:
    """Seconds of `count` batches."""
    began = time.perf_counter()
    for _ in range(count):
        next(side)
    if device == "cuda":
        torch.cuda.synchronize()
    return time.perf_counter() - began


def make(place: Path, count: int, edge: int) -> Path:
    """`count` JPEGs in two class folders: smooth colours with noise, so that they weigh what photos do."""
    random = np.random.default_rng(0)
    for i in range(count):
        coarse = Image.fromarray(random.integers(0, 256, (8, 8, 3), np.uint8))
        smooth = np.asarray(coarse.resize((edge, edge), Image.Resampling.BICUBIC), np.int16)
        noisy = np.clip(smooth + random.integers(-20, 21, smooth.shape), 0, 255).astype(np.uint8)
        file = place / "ab"[i % 2] / f"{i:06d}.jpg"
        file.parent.mkdir(exist_ok=True)
        Image.fromarray(noisy).save(file, quality=90)
    return place


def measure(root: Path, asked: dict[str, Any]) -> None:
    device = pick_device("auto")
    setting = {
        **asked,
        "device": torch.cuda.get_device_name() if device == "cuda" else platform.machine(),
        "threads": set_threads(None),
        "torch": torch.__version__,
        "torchvision": torchvision.__version__,
        "pillow": PIL.__version__,
    }
    print(json.dumps({"setting": setting}))
    source = folder(root, asked["size"]).train
    began = time.perf_counter()
    resident(source)
    seconds = time.perf_counter() - began
    each = round(1e6 * seconds / len(source), 1)
    decode = {"images": len(source), "threads": decoding_threads(), "seconds": round(seconds, 2)}
    print(json.dumps({"decoding_all": {**decode, "microseconds_each": each}}), flush=True)
    del source

    sides = {
        "resident": ours(root, asked, device, 1 << 40),
        "streamed": ours(root, asked, device, 0),
        "torchvision": theirs(root, asked, device),
    }
    rates: dict[str, list[float]] = {name: [] for name in sides}
    for number in range(asked["rounds"]):
        for name, side in sides.items():
            take(side, 3 * asked["workers"] + 1, device)  # what was prefetched while the other sides ran
            rates[name].append(asked["steps"] * asked["batch_size"] / take(side, asked["steps"], device))
        line = {name: round(rate[-1], 1) for name, rate in rates.items()}
        print(json.dumps({"round": number, **line}), flush=True)
    summary: dict[str, Any] = {name: round(statistics.median(rate), 1) for name, rate in rates.items()}
    for name in ("resident", "streamed"):
        ratios = [a / b for a, b in zip(rates[name], rates["torchvision"], strict=True)]
        summary[f"ratio_{name}"] = round(statistics.median(ratios), 3)
        summary[f"ratio_{name}_range"] = [round(min(ratios), 3), round(max(ratios), 3)]
    print(json.dumps({"images_per_second": summary}))


def main(words: list[str]) -> None:
    given = options(words)
    unknown = set(given) - set(DEFAULTS)
    if unknown:
        sys.exit(f"loader.py: no option {', '.join(sorted(unknown))}; there are: {', '.join(DEFAULTS)}")
    asked = {**DEFAULTS, **given}
    if asked["root"]:
        measure(expand(asked["root"]), asked)
    else:
        with tempfile.TemporaryDirectory() as place:
            measure(make(Path(place), asked["images"], asked["edge"]), asked)


if __name__ == "__main__":
    main(sys.argv[1:])
