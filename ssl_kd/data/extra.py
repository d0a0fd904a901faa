"""Augmentations that others wrote (kornia's, any module that takes a batch of images), inside a recipe.

They draw from torch's global stream, as many numbers as they are given images. So each sees fixed blocks of
the global batch, under a seed of the block: what a row gets depends neither on the number of processes nor on
the other modules, and the global stream is left as it was.
"""

from collections.abc import Callable, Sequence

import torch
from torch import Tensor, nn

from ssl_kd.errors import InputError
from ssl_kd.streams import seed_of

BLOCK = 64  # rows; most shares of a batch are multiples, and then no row is computed twice


@torch.no_grad()
def extend(
    x: Tensor, modules: Sequence[Callable[[Tensor], Tensor]], row: Tensor, rows: int, *name: int | str
) -> Tensor:
    """Images (B, C, H, W) after all modules, in [0, 1]; `name` is that of their streams.

    row: int64 (B,), on the CPU, where each image is in the global batch of `rows`. The images of a block that
    are another process's are black here. InputError where a module changes the shape.
    """
    for number, module in enumerate(modules):
        if isinstance(module, nn.Module):
            module.to(x.device, x.dtype)  # told the device alone, kornia before 0.9 draws integers
        out = torch.empty_like(x)
        for first in (row // BLOCK * BLOCK).unique().tolist():
            at = ((row >= first) & (row < first + BLOCK)).nonzero()[:, 0]
            mine, place = at.to(x.device), (row[at] - first).to(x.device)
            block = x.new_zeros(min(BLOCK, rows - first), *x.shape[1:])
            block[place] = x[mine]
            with torch.random.fork_rng([x.device] if x.is_cuda else []):
                torch.manual_seed(seed_of(*name, number, first))
                done = module(block)
            if done.shape != block.shape:
                before, after = tuple(block.shape), tuple(done.shape)
                raise InputError(
                    f"recipe.extra[{number}] changes the shape of the views, {before} to {after}"
                )
            out[mine] = done[place]
        x = out.clamp_(0, 1)
    return x
