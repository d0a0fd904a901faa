"""Somebody else's network made to fit: a stem with less stride for small images, and no part that is idle.

Both are found by watching a forward pass, so they know no architecture. `run` is that pass: it takes images
(1, C, H, W) up to the last features, before any classifier.
"""

import copy
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from functools import partial
from typing import Any

import torch
from torch import Tensor, nn

SMALL = 64  # pixels; above, a network keeps its own stem

UNFIT = (RuntimeError, AssertionError, ValueError, TypeError, IndexError)  # what a wrong size raises

Run = Callable[[Tensor], Any]
Reduction = tuple[nn.Module, int, int]  # a strided module, the size that it takes, the size that it gives


def side_of(size: int) -> int:
    """Pixels that the last map of a lowered network should have: 4 from 32 pixels on, a total stride of 8.

    As in the ResNets for small images. MobileNetV3-small learns more in the same epochs than from a 2x2 map,
    which takes under half the time: docs/results/backbones.
    """
    return max(2, min(4, size // 8))


def lower(model: nn.Module, image: Tensor, run: Run) -> bool:
    """Halve the first reduction of the size, in place; False where there is none.

    The first strided convolutions that run (several where branches share the input) get half their stride;
    a first pooling goes, and so does a max-pool that is the next reduction by itself (ResNet).
    """
    first, second = reductions(model, image, run)
    for module, taken, given in first:
        if not isinstance(module, nn.Conv2d):
            _replace(model, module)
            continue
        kernel, stride, padding = module.kernel_size[0], module.stride[0], module.padding
        plain = isinstance(padding, tuple) and (taken + 2 * padding[0] - kernel) // stride + 1 == given
        stride //= 2
        module.stride = (stride, stride)
        if plain:  # else it pads by itself; an even kernel of stride 1 adds a pixel
            module.padding = ((kernel - stride + 1) // 2,) * 2
    pools = not any(list(module.parameters()) for module, _, _ in second)
    if pools and any(isinstance(module, nn.Conv2d) for module, _, _ in first):
        for module, _, _ in second:
            _replace(model, module)
    return bool(first)


def lowered(
    model: Any, image: Tensor, run: Callable[[Any, Tensor], Any], side: Callable[[Any, Tensor], int]
) -> Any:
    """The model, or a copy with a stem of less stride, up to a last map of `side_of` the image.

    run: the forward pass of a model. side: pixels of its last map, 0 where it does not run or has no map.
    """
    best, ran = model, side(model, image) > 0
    candidate = model
    for _ in range(3):  # strides alone change: the weights are those of one construction
        candidate = copy.deepcopy(candidate)
        if not lower(candidate, image, partial(run, candidate)):
            break
        pixels = side(candidate, image)
        if pixels == 0 and ran:
            break
        if pixels > 0:
            best, ran = candidate, True
        if pixels >= side_of(image.shape[-1]):
            break
    return best


def reductions(model: nn.Module, image: Tensor, run: Run) -> tuple[list[Reduction], list[Reduction]]:
    """The strided modules of the first and the second reduction; those of one take maps of the same size."""
    seen: dict[nn.Module, tuple[int, int]] = {}

    def before(module: nn.Module, args: tuple) -> None:
        stride = getattr(module, "stride", 1)
        largest = max(stride) if isinstance(stride, tuple) else stride
        leaf = not list(module.children())
        if leaf and isinstance(largest, int) and largest > 1 and args and args[0].ndim == 4:
            seen.setdefault(module, (args[0].shape[-1], 0))  # stays 0 if its kernel does not fit in

    def after(module: nn.Module, args: tuple, output: Any) -> None:
        if module in seen:
            seen[module] = (seen[module][0], output.shape[-1])

    hooks = [module.register_forward_pre_hook(before) for module in model.modules()]
    hooks += [module.register_forward_hook(after) for module in model.modules()]
    with suppress(*UNFIT), dry(model):  # may be too small for later layers: only the first ones matter
        run(image)
    for hook in hooks:
        hook.remove()
    sizes = list(dict.fromkeys(taken for taken, _ in seen.values()))[:2]
    groups = [[(m, t, given) for m, (t, given) in seen.items() if t == taken] for taken in sizes] + [[], []]
    return groups[0], groups[1]


def drop_unused(net: Any, image: Tensor) -> None:
    """Remove modules that never run; freeze what else the embedding does not depend on.

    net: a network as `Backbone` takes it, with `stage_channels`.
    """
    called: set[nn.Module] = set()
    hooks = [m.register_forward_pre_hook(lambda module, _: called.add(module)) for m in net.modules()]
    with dry(net), torch.enable_grad():
        net(image, tuple(net.stage_channels))
        loss = net(image)[0].square().sum()
        trainable = [p for p in net.parameters() if p.requires_grad]
        reached = torch.autograd.grad(loss, trainable, allow_unused=True)  # None where no path leads
    for hook in hooks:
        hook.remove()
    idle = {p for p, gradient in zip(trainable, reached, strict=True) if gradient is None}
    for parent in list(net.modules()):
        for name, child in list(parent.named_children()):
            own = set(child.parameters())
            if own and own <= idle and called.isdisjoint(child.modules()):
                setattr(parent, name, nn.Identity())
    for parameter in idle:
        parameter.requires_grad_(False)


@contextmanager
def dry(module: nn.Module) -> Iterator[None]:
    """Eval mode and no gradient: no batch statistics and no random number; the mode is given back."""
    training = module.training
    module.eval()
    try:
        with torch.no_grad():
            yield
    finally:
        module.train(training)


def probe_image(channels: int, size: int) -> Tensor:
    """(1, channels, size, size), of all grey levels: zeros would hide a difference."""
    return torch.linspace(-1, 1, channels * size * size).view(1, channels, size, size)


def _replace(model: nn.Module, old: nn.Module) -> None:
    for parent in model.modules():
        for name, child in parent.named_children():
            if child is old:
                setattr(parent, name, nn.Identity())
                return
