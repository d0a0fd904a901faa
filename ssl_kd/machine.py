"""What this machine offers: device, threads, memory, precision, a compiler."""

import os
import shutil
from collections.abc import Callable
from functools import partial
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from ssl_kd.cohort import Cohort
from ssl_kd.errors import InputError
from ssl_kd.launch import cores, said_threads

NARROW = 8  # channels: what is narrower is slower, or worse, in channels last
MOST_TOKENS = 512  # of attention that is faster in float32 than in bfloat16, on a CPU


def set_threads(wanted: int | None) -> int:
    """Sets torch's threads: `wanted`, else the user's OMP_NUM_THREADS, else cores / local processes."""
    if wanted is None and said_threads() is not None:
        return torch.get_num_threads()
    local = int(os.environ.get("LOCAL_WORLD_SIZE", "1"))
    torch.set_num_threads(wanted or max(1, cores() // local))
    return torch.get_num_threads()


def lacks_memory(error: BaseException) -> str:
    """What to do about an error that is a want of memory, in a sentence; "" for any other error."""
    said = str(error)
    # oneDNN says of what it could not allocate only that it could not be made
    on_cpu = isinstance(error, MemoryError) or any(
        text in said for text in ("can't allocate memory", "could not create a primitive", "bad_alloc")
    )
    if not on_cpu and not isinstance(error, torch.OutOfMemoryError) and "out of memory" not in said:
        return ""
    place = "the machine" if on_cpu else "the accelerator"
    return (
        f"{place} has not enough memory: lower batch_size=, take each batch in parts by accumulate=, hold no "
        "decoded images by data.resident_bytes=0, or take fewer or smaller peers"
    )


def pick_device(wanted: str) -> str:
    """cpu, cuda or mps. Raises InputError for one that is not here."""
    present = {"cpu": True, "cuda": torch.cuda.is_available(), "mps": torch.backends.mps.is_available()}
    if wanted == "auto":
        return "cuda" if present["cuda"] else "mps" if present["mps"] else "cpu"
    if wanted not in present:
        raise InputError(f'device is "{wanted}", but can be: auto, {", ".join(present)}')
    if not present[wanted]:
        raise InputError(f"device is {wanted}, but this machine has none that torch can use")
    return wanted


def pick_precision(wanted: str, device: str) -> str:
    """float32 or bfloat16; auto takes bfloat16 where the processor multiplies in it."""
    if wanted not in ("auto", "float32", "bfloat16"):
        raise InputError(f'precision is "{wanted}", but can be: auto, float32, bfloat16')
    if wanted != "auto":
        return wanted
    if device == "cuda":
        return "bfloat16" if torch.cuda.is_bf16_supported(including_emulation=False) else "float32"
    fast = (
        getattr(torch.cpu, "_is_avx512_bf16_supported", lambda: False)()
        or getattr(torch.cpu, "_is_amx_tile_supported", lambda: False)()
    )
    return "bfloat16" if device == "cpu" and fast else "float32"


class _FullConvolution(nn.Conv2d):
    """A convolution in float32 under autocast, with the result in the precision of its input."""

    def forward(self, input: Tensor) -> Tensor:
        with torch.autocast(input.device.type, enabled=False):
            return super().forward(input.float()).to(input.dtype)


class _StridedConvolution(_FullConvolution):
    """The same where the map is smaller than the stride, and else as it would have been."""

    def forward(self, input: Tensor) -> Tensor:
        if any(edge < stride for edge, stride in zip(input.shape[-2:], self.stride, strict=True)):
            return super().forward(input)
        return nn.Conv2d.forward(self, input)


def channels_last(module: nn.Module) -> None:
    """Lays out what has four axes, in place. `Module.to` refuses a module that also has five, as of timm.

    Narrow convolutions stay contiguous, and their inputs are made so: of a strided 1 x 1 one with fewer
    than 8 input channels in channels last, oneDNN's AVX2 kernels write past the gradient's memory, which ends
    the process (torch 2.14 and 2.15, `ONEDNN_MAX_CPU_ISA=AVX2` on other processors).
    """
    kept = set()
    for part in module.modules():
        if isinstance(part, nn.Conv2d) and _narrow(part):
            kept.add(part.weight)
            part.register_forward_pre_hook(_contiguous_input)
    for tensor in (*module.parameters(), *module.buffers()):
        if tensor.dim() == 4 and tensor not in kept:
            tensor.data = tensor.data.to(memory_format=torch.channels_last)


def _narrow(part: nn.Conv2d) -> bool:
    strided = part.kernel_size == (1, 1) and max(part.stride) > 1
    return part.in_channels < NARROW and (part.out_channels < NARROW or strided)


def _contiguous_input(module: nn.Module, args: tuple[Tensor, ...]) -> tuple[Tensor, ...]:
    """On a CPU, with the strides of that layout, also where one channel makes both layouts the same."""
    image = args[0]
    if image.device.type != "cpu":
        return args
    return (image.clone(memory_format=torch.contiguous_format), *args[1:]) if not _plain(image) else args


def _plain(image: Tensor) -> bool:
    *_, channels, height, width = image.shape
    return image.stride()[-3:] == (height * width, width, 1)


def full_convolutions(module: nn.Module) -> None:
    """Has convolutions in `module` that torch's CPU kernels do badly in bfloat16 use float32, in place.

    Depthwise ones: the gradient of a strided one takes ten to twenty times as long. Those on a map that is
    smaller than their stride: the gradient of the weights that meet only padding is memory nobody has written
    (torch 2.15, AVX-512).
    """
    for part in module.modules():
        if type(part) is nn.Conv2d and part.groups == part.in_channels > 1:
            part.__class__ = _FullConvolution
        elif type(part) is nn.Conv2d and max(part.stride) > 1:
            part.__class__ = _StridedConvolution


def full_attention(module: nn.Module) -> None:
    """Has attention in `module` that torch's CPU kernels do badly in bfloat16 use float32, in place.

    That is attention that learns, of up to 512 tokens: in bfloat16 its gradient takes twice as long for the
    64 to 256 tokens of small images, seven times for 16, and only from 1,024 on less (torch 2.15, AVX-512).
    While `module` runs, torch's function is another one, which libraries reach in many ways.
    """
    theirs: list[Callable] = []

    def enter(module: nn.Module, args: tuple) -> None:
        theirs.append(F.scaled_dot_product_attention)
        F.scaled_dot_product_attention = partial(_attention, theirs[-1])

    def leave(module: nn.Module, args: tuple, output: Any) -> None:
        F.scaled_dot_product_attention = theirs.pop()

    module.register_forward_pre_hook(enter)
    module.register_forward_hook(leave, always_call=True)


def _attention(function: Callable, query: Tensor, *args: Any, **kwargs: Any) -> Tensor:
    """`function` in float32 under autocast where that is faster, the result in the precision of autocast."""
    device = query.device.type
    learns = torch.is_grad_enabled() and torch.is_autocast_enabled(device)
    if not learns or query.shape[-2] > MOST_TOKENS:
        return function(query, *args, **kwargs)
    with torch.autocast(device, enabled=False):
        full = function(
            query.float(), *map(_full, args), **{key: _full(value) for key, value in kwargs.items()}
        )
    return full.to(torch.get_autocast_dtype(device))


def _full(value: Any) -> Any:
    return value.float() if isinstance(value, Tensor) and value.is_floating_point() else value


def compile_networks(cohort: Cohort) -> None:
    """torch.compile for every peer's network, in place: names in a checkpoint stay. It happens at first use.

    Raises InputError without a C++ compiler, which torch needs on a CPU.
    """
    if shutil.which(os.environ.get("CXX", "g++")) is None and shutil.which("clang++") is None:
        raise InputError("compile=true needs a C++ compiler, and there is neither g++ nor clang++")
    for peer in cohort.peers.values():
        network = getattr(peer, "backbone", peer)
        getattr(network, "net", network).compile()
