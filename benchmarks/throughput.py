"""Images per second of a training step: ours, the lightly recipe, and the bare step, on the same images.

    python benchmarks/throughput.py backbone=resnet18 batch_size=128 [method=dogo] [peers=[1,2,4]] [rounds=5]

ours: what a run does between two checkpoints: loader, recipe, `step` through Accelerate, the Logger.
bare: forward, terms, backward, update on views that are ready, in our precision and layout: the limit.
lightly: the SimCLR example of its documentation for CIFAR-10: SimCLRTransform(32, gaussian_blur=0.0) on PIL
    images in worker processes, NTXentLoss, SGD with rate 0.06, float32; on our backbone, which normalises by
    itself. Left out for other methods and for more than one peer: it has neither.

Each round runs one side after the other and writes a JSON line. The last lines have the medians;
`ratio_lightly` and `ratio_bare`, medians of the rounds' ratios of images per second; `ratio_peers_N`, of the
seconds per step of N peers and of the first number asked for; each with its range; and what monitoring and a
queue's write take of a step.
"""

import json
import platform
import statistics
import sys
import tempfile
import time
from collections.abc import Iterator
from importlib.metadata import version
from pathlib import Path
from typing import Any

import numpy as np
import torch
from accelerate import Accelerator
from PIL import Image
from torch import nn

from ssl_kd.build import build_batches, build_cohort, build_optimizers, build_terms, read_data
from ssl_kd.config import compose
from ssl_kd.console import Meter
from ssl_kd.engine import Result, step
from ssl_kd.machine import compile_networks, keep_freed_memory, pick_device, pick_precision, set_threads
from ssl_kd.memory import Queue
from ssl_kd.monitor import Monitor, Watch
from ssl_kd.run import Run
from ssl_kd.trackers import Trackers
from ssl_kd.watchers import Logger
from ssl_kd.words import options

DEFAULTS: dict[str, Any] = {
    "method": "simclr",
    "backbone": "resnet18",
    "peers": [1],
    "batch_size": 128,
    "size": 32,
    "steps": 2,
    "rounds": 5,
    "workers": 2,
    "precision": "auto",
    "compile": False,
    "lightly": True,
}
BATCHES = 8  # distinct batches of images
QUEUES = (4096, 65536)  # rows


class Cohorts:
    """What both of our sides train: the cohort of a config, its terms, its optimiser."""

    def __init__(self, asked: dict[str, Any], peers: int, images: Path, accelerator: Accelerator) -> None:
        names = ",".join([str(asked["backbone"])] * peers)
        words = [f"method={asked['method']}", f"peers=[{names}]", f"batch_size={asked['batch_size']}"]
        config = compose(
            [*words, "data=arrays", f"data.path={images}", f"data.size={asked['size']}", "epochs=100"]
        )
        data = read_data(config)
        self.config, self.accelerator = config, accelerator
        self.terms = build_terms(config)
        cohort = build_cohort(config, data.train.shape, self.terms).train()
        if asked["compile"]:
            compile_networks(cohort)
        self.plain_optimizers, _ = build_optimizers(config, cohort)
        self.cohort, *self.optimizers = accelerator.prepare(cohort, *self.plain_optimizers)
        batches, self.per_epoch = build_batches(config, data, accelerator.device)
        self.stream = batches(0)
        self.index = 0


class Ours(Cohorts):
    def __init__(self, *args: Any) -> None:
        super().__init__(*args)
        meter = Meter(10**9, 0, False)
        config = self.config
        run = Run(tempfile.mkdtemp())
        self.logger = Logger(
            run,
            meter,
            self.plain_optimizers,
            self.per_epoch,
            config.batch_size,
            config.log_every,
            Trackers(config, ["tensorboard"], run.folder, 0, print),
        )
        self.result: Result | None = None

    def steps(self, count: int) -> None:
        for _ in range(count):
            batch = next(self.stream)
            self.result = step(self.cohort, self.terms, batch, self.optimizers, self.accelerator, self.index)
            self.index += 1
            self.logger(self.index, self.result)

    def monitoring(self, calls: int = 200) -> float:
        """Seconds that the Logger takes per step, written lines and TensorBoard included."""
        assert self.result is not None
        began = time.perf_counter()
        for _ in range(calls):
            self.index += 1
            self.logger(self.index, self.result)
        return (time.perf_counter() - began) / calls

    def looks(self) -> float:
        """Seconds per step that the Monitor takes for its looks at embeddings and edges."""
        cohort = self.accelerator.unwrap_model(self.cohort)
        links = [link for term in self.terms for link in getattr(term, "links", list)()]
        monitor = Monitor(cohort, links, Watch(every=1), lambda line: None, lambda text: None)
        took = []
        for _ in range(3):  # the first warms up
            batch = next(self.stream)
            outputs = self.cohort(batch)
            scalars = {key: value for term in self.terms for key, value in term(outputs, batch, 0).items()}
            detached = {name: {key: x.detach() for key, x in said.items()} for name, said in outputs.items()}
            began = time.perf_counter()
            monitor.weigh(0, scalars)
            monitor(1, Result(torch.zeros(()), {}, [detached]))
            took.append(time.perf_counter() - began)
        return min(took[1:]) / self.config.health.every


class Bare(Cohorts):
    def __init__(self, *args: Any) -> None:
        super().__init__(*args)
        self.module = self.accelerator.unwrap_model(self.cohort, keep_fp32_wrapper=False)
        self.batch = next(self.stream)

    def steps(self, count: int) -> None:
        half = self.accelerator.mixed_precision == "bf16"
        for _ in range(count):
            with torch.autocast(self.accelerator.device.type, torch.bfloat16, enabled=half):
                outputs = self.module(self.batch)
            scalars = [
                value for term in self.terms for value in term(outputs, self.batch, self.index).values()
            ]
            torch.stack([raw * weight for raw, weight in scalars]).sum().backward()
            for optimizer in self.plain_optimizers:
                optimizer.step()
                optimizer.zero_grad()
            self.index += 1


class Lightly:
    def __init__(self, asked: dict[str, Any], images: np.ndarray, device: torch.device) -> None:
        from lightly.loss import NTXentLoss
        from lightly.models.modules import SimCLRProjectionHead
        from lightly.transforms import SimCLRTransform

        from ssl_kd.backbones import create

        backbone = create(asked["backbone"], size=asked["size"])  # the same network, in its default layout
        self.model = nn.Sequential(backbone, SimCLRProjectionHead(backbone.width, 512, 128)).to(device)
        self.loss, self.device = NTXentLoss(), device
        self.optimizer = torch.optim.SGD(self.model.parameters(), lr=0.06)
        transform = SimCLRTransform(input_size=asked["size"], gaussian_blur=0.0, normalize=None)
        self.loader = torch.utils.data.DataLoader(
            _Pil(images, transform),
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


def queue_write(rows: int, new: int, device: torch.device) -> float:
    """Seconds to put `new` rows of 128 into a queue, median of 50."""
    queue, said = Queue("", rows).to(device), {"new": torch.randn(new, 128, device=device)}
    found = []
    for _ in range(50):
        began = time.perf_counter()
        queue.advance(said)
        _wait(device)
        found.append(time.perf_counter() - began)
    return statistics.median(found)


def _wait(device: torch.device) -> None:
    if device.type == "cuda":
        torch.cuda.synchronize()


def _seconds(side: Any, count: int, device: torch.device) -> float:
    """Per step, after one that warms the caches and empties a queue of prefetched batches."""
    side.steps(1)
    _wait(device)
    began = time.perf_counter()
    side.steps(count)
    _wait(device)
    return (time.perf_counter() - began) / count


def _ratio(above: list[float], below: list[float]) -> dict[str, Any]:
    ratios = [a / b for a, b in zip(above, below, strict=True)]
    return {
        "median": round(statistics.median(ratios), 3),
        "range": [round(min(ratios), 3), round(max(ratios), 3)],
    }


def _cpu() -> str:
    info = Path("/proc/cpuinfo")
    lines = info.read_text().splitlines() if info.exists() else []
    return next(
        (line.split(":")[1].strip() for line in lines if line.startswith("model name")), platform.machine()
    )


def main(words: list[str]) -> None:
    methods = [word.partition("=")[2] for word in words if word.startswith("method=")]
    given = {**options(words), **({"method": methods[-1]} if methods else {})}  # a group is no option
    unknown = set(given) - set(DEFAULTS)
    if unknown:
        sys.exit(f"throughput.py: no option {', '.join(sorted(unknown))}; there are: {', '.join(DEFAULTS)}")
    asked = {**DEFAULTS, **given}
    counts = asked["peers"] if isinstance(asked["peers"], list) else [asked["peers"]]
    device = pick_device("auto")
    precision = pick_precision(asked["precision"], device)
    threads = set_threads(None)
    keep_freed_memory()  # for all sides: they share the process
    accelerator = Accelerator(
        cpu=device == "cpu", mixed_precision="bf16" if precision == "bfloat16" else "no"
    )
    shape = (BATCHES * asked["batch_size"], asked["size"], asked["size"], 3)
    images = np.random.default_rng(0).integers(0, 256, shape, dtype=np.uint8)
    path = Path(tempfile.mkdtemp()) / "images.npz"
    np.savez(path, train_images=images, train_labels=np.arange(len(images)) % 10)

    sides: dict[str, Any] = {f"ours_{count}": Ours(asked, count, path, accelerator) for count in counts}
    first = next(iter(sides))
    sides["bare"] = Bare(asked, counts[0], path, accelerator)
    if asked["lightly"] and counts[0] == 1 and asked["method"] == "simclr":
        sides["lightly"] = Lightly(asked, images, accelerator.device)
    setting = {
        **asked,
        "device": torch.cuda.get_device_name() if device == "cuda" else _cpu(),
        "threads": threads,
        "ours": {"precision": precision, "workers": 0, "layout": "channels_last"},
        "their": {"precision": "float32", "workers": asked["workers"], "layout": "contiguous"},
        "versions": {name: version(name) for name in ("torch", "torchvision", "lightly", "accelerate")},
    }
    print(json.dumps({"setting": setting}), flush=True)
    took: dict[str, list[float]] = {name: [] for name in sides}
    for number in range(asked["rounds"]):
        for name, side in sides.items():
            took[name].append(_seconds(side, asked["steps"], accelerator.device))
        rates = {name: round(asked["batch_size"] / found[-1], 1) for name, found in took.items()}
        print(json.dumps({"round": number, **rates}), flush=True)

    medians = {name: statistics.median(found) for name, found in took.items()}
    rates = {name: round(asked["batch_size"] / found, 1) for name, found in medians.items()}
    print(
        json.dumps(
            {"images_per_second": rates, "seconds_per_step": {k: round(v, 4) for k, v in medians.items()}}
        )
    )
    ratios = {
        f"ratio_{name}": _ratio(took[name], took[first]) for name in ("bare", "lightly") if name in took
    }
    ratios |= {
        f"ratio_peers_{count}": _ratio(took[f"ours_{count}"], took[first])
        for count in counts
        if f"ours_{count}" != first
    }
    print(json.dumps(ratios))
    rows = 2 * asked["batch_size"]
    parts = {"monitoring": sides[first].monitoring(), "looks": sides[first].looks()}
    parts |= {f"queue_write_{size}": queue_write(size, rows, accelerator.device) for size in QUEUES}
    print(
        json.dumps({"percent_of_a_step": {k: round(100 * v / medians[first], 3) for k, v in parts.items()}})
    )


if __name__ == "__main__":
    main(sys.argv[1:])
