"""Where a network's step stands between what this machine computes and what its memory carries.

    python benchmarks/roofline.py backbone=resnet18 batch_size=128 [size=32] [precision=auto]

Measured on the spot: matrix products and copies as fast as they get here; and forward, NT-Xent and backward
of two views per image. Counted: the floating-point operations of convolutions and matrix products (an
addition and a multiplication are two), and the bytes that all operations read and write, as if no cache held
anything between two. One JSON line: `least_seconds` is operations / peak and bytes / bandwidth, `of_the_roof`
the larger of the two over the measured seconds.
"""

import json
import statistics
import sys
import time
from collections.abc import Callable
from typing import Any

import torch
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves
from torch.utils.flop_counter import FlopCounterMode

from ssl_kd.backbones import create
from ssl_kd.losses import nt_xent
from ssl_kd.machine import keep_freed_memory, pick_device, pick_precision, set_threads
from ssl_kd.words import options

DEFAULTS: dict[str, Any] = {
    "backbone": "resnet18",
    "batch_size": 128,
    "size": 32,
    "precision": "auto",
    "rounds": 5,
}
EDGE = 4096  # of the matrices, whose product takes long against what surrounds it
COPIED = 1 << 28  # bytes, more than any cache holds
VIEWS = {
    "aten.view.default",
    "aten.t.default",
    "aten.detach.default",
    "aten.expand.default",
    "aten.alias.default",
}


class Bytes(TorchDispatchMode):
    """What every operation reads and writes."""

    total = 0

    def __torch_dispatch__(self, operation: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        result = operation(*args, **(kwargs or {}))
        if str(operation) not in VIEWS:
            touched = [t for t in tree_leaves((args, kwargs, result)) if isinstance(t, torch.Tensor)]
            self.total += sum(t.numel() * t.element_size() for t in touched)
        return result


def seconds(work: Callable[[], Any], rounds: int, device: str) -> float:
    """Median over `rounds`, after one that is not counted."""
    found = []
    for _ in range(rounds + 1):
        began = time.perf_counter()
        work()
        if device == "cuda":
            torch.cuda.synchronize()
        found.append(time.perf_counter() - began)
    return statistics.median(found[1:])


def main(words: list[str]) -> None:
    given = options(words)
    unknown = set(given) - set(DEFAULTS)
    if unknown:
        sys.exit(f"roofline.py: no option {', '.join(sorted(unknown))}; there are: {', '.join(DEFAULTS)}")
    asked = {**DEFAULTS, **given}
    device, rounds = pick_device("auto"), asked["rounds"]
    asked["precision"] = pick_precision(asked["precision"], device)
    half = asked["precision"] == "bfloat16"
    kind, threads = torch.bfloat16 if half else torch.float32, set_threads(None)
    keep_freed_memory()

    a = torch.rand(EDGE, EDGE, device=device).to(kind)
    source = torch.empty(COPIED, dtype=torch.uint8, device=device)
    target = torch.empty_like(source)
    peak = 2 * EDGE**3 / seconds(lambda: a @ a, rounds, device)
    bandwidth = 2 * COPIED / seconds(lambda: target.copy_(source), rounds, device)

    net = create(asked["backbone"], size=asked["size"]).to(device, memory_format=torch.channels_last)
    images = torch.rand(2 * asked["batch_size"], 3, asked["size"], asked["size"], device=device)

    def step() -> None:
        with torch.autocast(device, torch.bfloat16, enabled=half):
            embedding = net(images)
        nt_xent(embedding.unflatten(0, (2, -1))).backward()
        net.zero_grad()

    took = seconds(step, rounds, device)
    with FlopCounterMode(display=False) as operations:
        step()
    with Bytes() as bytes_:
        step()
    flops, moved = operations.get_total_flops(), bytes_.total
    line = {
        **asked,
        "threads": threads,
        "peak_gflops": round(peak / 1e9, 1),
        "bandwidth_gb": round(bandwidth / 1e9, 1),
        "seconds": round(took, 4),
        "gflop": round(flops / 1e9, 2),
        "gbytes": round(moved / 1e9, 2),
        "flop_per_byte": round(flops / moved, 1),
        "ridge": round(peak / bandwidth, 1),
        "least_seconds": {"compute": round(flops / peak, 4), "memory": round(moved / bandwidth, 4)},
        "of_the_roof": round(max(flops / peak, moved / bandwidth) / took, 2),
    }
    print(json.dumps(line))


if __name__ == "__main__":
    main(sys.argv[1:])
