"""What a network costs where it is deployed: multiply-adds, bytes, and milliseconds on a CPU."""

import copy
import statistics
import time
from collections.abc import Iterator
from contextlib import contextmanager

import torch
from torch import Tensor, nn
from torch.nn.attention import SDPBackend, sdpa_kernel
from torch.utils.flop_counter import FlopCounterMode

from ssl_kd.cohort import Cohort, Outputs
from ssl_kd.errors import InputError
from ssl_kd.probes.features import evaluating

WARM_UP = 3  # calls before the measured ones
FEWEST = 5  # measured calls, however long they take


def macs(network: nn.Module, shape: tuple[int, int, int]) -> int:
    """Multiply-adds of the forward pass of one image.

    shape: (C, H, W). Counted by torch: convolutions, matrix products and attention; what is done element by
    element (normalising, activations, pooling) is not. In eval mode and without gradients; afterwards every
    submodule is back in its own mode. Where the parameters are, and in their precision.
    """
    image = _images(network, 1, shape)
    with evaluating(network), torch.no_grad(), _counted() as counter:
        network(image)
    return counter.get_total_flops() // 2


def training_macs(cohort: Cohort, shape: tuple[int, int, int]) -> dict[str, int]:
    """Per peer the multiply-adds of its forward pass in training, heads included, for one view of one image.

    shape: (C, H, W). Counted as `macs` counts; what a peer does with what others said counts as its own.
    """
    entries = {view for peer in cohort.peers.values() for view in getattr(peer, "views", ())}
    seen: dict[str, Outputs] = {}
    counts = {}
    for name, peer in cohort.peers.items():
        device = next((p.device for p in cohort.parameters()), torch.device("cpu"))
        batch = dict.fromkeys(entries, torch.zeros(1, 1, *shape, device=device))
        with evaluating(peer), torch.no_grad(), _counted() as counter:
            seen[name] = peer(batch, seen)
        counts[name] = counter.get_total_flops() // 2
    return counts


@contextmanager
def _counted() -> Iterator[FlopCounterMode]:
    """Attention as the matrix products that it is: not every torch counts all of its fused kernels."""
    with sdpa_kernel(SDPBackend.MATH), FlopCounterMode(display=False) as counter:
        yield counter


def size(network: nn.Module) -> int:
    """Bytes of the parameters and buffers with every floating-point number in float32, shared ones once."""
    tensors = [*network.parameters(), *network.buffers()]
    return sum(t.numel() * (4 if t.is_floating_point() else t.element_size()) for t in tensors)


def latency(
    network: nn.Module, shape: tuple[int, int, int], batch: int = 1, threads: int = 1, seconds: float = 1.0
) -> float:
    """Median seconds of a forward pass of `batch` images (C, H, W) on the CPU, in eval and inference mode.

    threads: of torch during the measurement; the number before is restored. seconds: how long to measure, in
    any case FEWEST passes. A copy on the CPU is measured, so `network` stays as and where it is: what a
    network caches at its first call in inference mode could not be trained with any more.
    Raises InputError for a batch or a number of threads below 1.
    """
    if batch < 1 or threads < 1:
        raise InputError(f"latency needs batch and threads of at least 1, not {batch} and {threads}")
    own = copy.deepcopy(network).cpu().eval()
    images = _images(own, batch, shape)
    before = torch.get_num_threads()
    torch.set_num_threads(threads)
    try:
        with torch.inference_mode():
            for _ in range(WARM_UP):
                own(images)
            return statistics.median(_timed(own, images, seconds))
    finally:
        torch.set_num_threads(before)


def _timed(network: nn.Module, images: Tensor, seconds: float) -> list[float]:
    took: list[float] = []
    until = time.perf_counter() + seconds
    while len(took) < FEWEST or time.perf_counter() < until:
        began = time.perf_counter()
        network(images)
        took.append(time.perf_counter() - began)
    return took


def _images(network: nn.Module, batch: int, shape: tuple[int, int, int]) -> Tensor:
    """Mid-grey images (batch, C, H, W) of the device, precision and layout of the network's parameters."""
    first = next((p for p in network.parameters() if p.is_floating_point()), torch.empty(0))
    kernels = [p for p in network.parameters() if p.dim() == 4 and not p.is_contiguous()]
    layout = torch.channels_last if kernels else torch.contiguous_format
    images = torch.full((batch, *shape), 0.5, dtype=first.dtype, device=first.device)
    return images.contiguous(memory_format=layout)
