"""Images per second of a training step: ours, the lightly recipe, and the bare step, on the same images.

    python benchmarks/throughput.py backbone=resnet18 batch_size=128 rounds=5 [method=simclr] [peers=1]

ours: `Batches`, the recipe, `step`, a Logger at its defaults: all that a run does between two checkpoints.
lightly: the SimCLR example of its documentation (1.6): PIL transforms in worker processes, float32, SGD;
    left out for more than one peer, which it does not have.
bare: forward, loss, backward, update on views that are ready, in our precision and layout: the limit.

Each round runs the sides one after the other and writes a JSON line; the last line has the medians, and
`ratio_lightly` and `ratio_bare`: the median of the rounds' ratios, and their range.
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
import torch
from accelerate import Accelerator
from PIL import Image
from torch import nn

from ssl_kd.build import build_batches, build_cohort, build_optimizers, build_terms, read_data
from ssl_kd.config import compose, options
from ssl_kd.console import Meter
from ssl_kd.engine import step
from ssl_kd.machine import pick_device, pick_precision, set_threads
from ssl_kd.run import Run
from ssl_kd.watchers import Logger

DEFAULTS: dict[str, Any] = {
    "method": "simclr",
    "backbone": "resnet18",
    "peers": 1,
    "batch_size": 128,
    "size": 32,
    "steps": 4,
    "rounds": 5,
    "images": 2048,
    "workers": 2,
    "precision": "auto",
    "lightly": True,
}


class Ours:
    """Our step on `device`; with `ready` views it is the bare step."""

    def __init__(self, asked: dict[str, Any], images: Path, accelerator: Accelerator, ready: bool) -> None:
        peers = ",".join([str(asked["backbone"])] * asked["peers"])
        words = [
            f"method={asked['method']}",
            f"peers=[{peers}]",
            f"batch_size={asked['batch_size']}",
            "epochs=100",
        ]
        config = compose([*words, "data=arrays", f"data.path={images}", f"data.size={asked['size']}"])
        data = read_data(config)
        terms = build_terms(config)
        cohort = build_cohort(config, data.train.shape, terms)
        optimizers, _ = build_optimizers(config, cohort)
        batches, per_epoch = build_batches(config, data, accelerator.device)
        self.accelerator, self.terms = accelerator, terms
        self.cohort, *self.optimizers = accelerator.prepare(cohort.train(), *optimizers)
        self.stream = batches(0)
        self.batch = next(self.stream) if ready else None
        run = Run(tempfile.mkdtemp())
        self.logger = Logger(
            run, Meter(10**9, 0, False), optimizers, per_epoch, config.batch_size, config.log_every
        )
        self.index = 0

    def steps(self, count: int) -> None:
        for _ in range(count):
            batch = next(self.stream) if self.batch is None else self.batch
            result = step(self.cohort, self.terms, batch, self.optimizers, self.accelerator, self.index)
            self.index += 1
            if self.batch is None:
                self.logger(self.index, result)


class Lightly:
    """SimCLR on CIFAR-10 as lightly documents it: SimCLRTransform(32) without blur, NTXentLoss, SGD."""

    def __init__(self, asked: dict[str, Any], images: np.ndarray, device: torch.device) -> None:
        from lightly.loss import NTXentLoss
        from lightly.models.modules import SimCLRProjectionHead
        from lightly.transforms import SimCLRTransform

        from ssl_kd.backbones import create

        backbone = create(asked["backbone"], size=asked["size"])  # the same network, in its default layout
        head = SimCLRProjectionHead(backbone.width, 512, 128)
        self.model = nn.Sequential(backbone, head).to(device)
        self.loss, self.device = NTXentLoss(), device
        self.optimizer = torch.optim.SGD(self.model.parameters(), lr=0.06)
        dataset = _Pil(images, SimCLRTransform(input_size=asked["size"], gaussian_blur=0.0, normalize=None))
        self.loader = torch.utils.data.DataLoader(
            dataset,
            batch_size=asked["batch_size"],
            shuffle=True,
            drop_last=True,
            num_workers=asked["workers"],
            persistent_workers=asked["workers"] > 0,
        )
        self.stream = self._endless()

    def _endless(self) -> Iterator[list[torch.Tensor]]:
        while True:
            yield from self.loader

    def steps(self, count: int) -> None:
        for _ in range(count):
            first, second = (view.to(self.device) for view in next(self.stream))
            loss = self.loss(self.model(first), self.model(second))
            loss.backward()
            self.optimizer.step()
            self.optimizer.zero_grad()


class _Pil(torch.utils.data.Dataset):
    def __init__(self, images: np.ndarray, transform: Any) -> None:
        self.images, self.transform = images, transform

    def __len__(self) -> int:
        return len(self.images)

    def __getitem__(self, i: int) -> list[torch.Tensor]:
        return self.transform(Image.fromarray(self.images[i]))


def seconds(side: Any, count: int, device: torch.device) -> float:
    """Of `count` steps, after two that fill caches and empty prefetched queues."""
    side.steps(2)
    _wait(device)
    began = time.perf_counter()
    side.steps(count)
    _wait(device)
    return time.perf_counter() - began


def _wait(device: torch.device) -> None:
    if device.type == "cuda":
        torch.cuda.synchronize()


def main(words: list[str]) -> None:
    given = options(words)
    unknown = set(given) - set(DEFAULTS)
    if unknown:
        sys.exit(f"throughput.py: no option {', '.join(sorted(unknown))}; there are: {', '.join(DEFAULTS)}")
    asked = {**DEFAULTS, **given}
    device = pick_device("auto")
    precision = pick_precision(asked["precision"], device)
    threads = set_threads(None)
    accelerator = Accelerator(
        cpu=device == "cpu", mixed_precision="bf16" if precision == "bfloat16" else "no"
    )
    shape = (asked["images"], asked["size"], asked["size"], 3)
    images = np.random.default_rng(0).integers(0, 256, shape, dtype=np.uint8)
    path = Path(tempfile.mkdtemp()) / "images.npz"
    np.savez(path, train_images=images)
    sides: dict[str, Any] = {
        "ours": Ours(asked, path, accelerator, ready=False),
        "bare": Ours(asked, path, accelerator, ready=True),
    }
    if asked["lightly"] and asked["peers"] == 1 and asked["method"] == "simclr":
        sides["lightly"] = Lightly(asked, images, accelerator.device)
    setting = {
        **asked,
        "device": torch.cuda.get_device_name()
        if device == "cuda"
        else platform.processor() or platform.machine(),
        "threads": threads,
        "precision": {"ours": precision, "bare": precision, "lightly": "float32"},
        "torch": torch.__version__,
    }
    print(json.dumps({"setting": setting}))
    rates: dict[str, list[float]] = {name: [] for name in sides}
    for number in range(asked["rounds"]):
        for name, side in sides.items():
            rate = asked["steps"] * asked["batch_size"] / seconds(side, asked["steps"], accelerator.device)
            rates[name].append(rate)
        print(
            json.dumps({"round": number, **{name: round(rate[-1], 1) for name, rate in rates.items()}}),
            flush=True,
        )
    summary: dict[str, Any] = {name: round(statistics.median(rate), 1) for name, rate in rates.items()}
    for name in [name for name in sides if name != "ours"]:
        ratios = [ours / theirs for ours, theirs in zip(rates["ours"], rates[name], strict=True)]
        summary[f"ratio_{name}"] = round(statistics.median(ratios), 3)
        summary[f"ratio_{name}_range"] = [round(min(ratios), 3), round(max(ratios), 3)]
    print(json.dumps({"images_per_second": summary}))


if __name__ == "__main__":
    main(sys.argv[1:])
