"""What makes several processes equal one: a gather with gradient, and batch norm over all of them.

And weights that are shared out over the processes (FSDP2).
"""

import os
from typing import Any

import torch
import torch.distributed as dist
import torch.nn.functional as F
from torch import Tensor, nn
from torch.nn.modules.batchnorm import _BatchNorm

from ssl_kd.errors import InputError


def world() -> int:
    """Number of processes; 1 without a process group."""
    return dist.get_world_size() if dist.is_available() and dist.is_initialized() else 1


def rank() -> int:
    """Number of this process, from 0."""
    return dist.get_rank() if dist.is_available() and dist.is_initialized() else 0


class _Gather(torch.autograd.Function):
    """Concatenation over processes. Every loss reads every row, so a row's gradient is the sum of all."""

    @staticmethod
    def forward(ctx: Any, local: Tensor, dim: int) -> Tensor:
        ctx.dim, ctx.size = dim, local.shape[dim]
        local = local.contiguous()
        parts = [torch.empty_like(local) for _ in range(world())]
        dist.all_gather(parts, local)
        return torch.cat(parts, dim)

    @staticmethod
    def backward(ctx: Any, *grads: Tensor) -> tuple[Tensor, None]:
        total = grads[0].contiguous().clone()
        dist.all_reduce(total)
        return total.narrow(ctx.dim, rank() * ctx.size, ctx.size), None


class _Sum(torch.autograd.Function):
    """Sum over processes, with gradient: every process's loss reads the sum."""

    @staticmethod
    def forward(ctx: Any, local: Tensor) -> Tensor:
        total = local.contiguous().clone()
        dist.all_reduce(total)
        return total

    @staticmethod
    def backward(ctx: Any, *grads: Tensor) -> Tensor:
        total = grads[0].contiguous().clone()
        dist.all_reduce(total)
        return total


def gather(local: Tensor, dim: int = 0) -> Tensor:
    """The rows of all processes along `dim`, by rank, with gradient. Shapes are equal everywhere."""
    return local if world() == 1 else _Gather.apply(local, dim)


def all_sum(local: Tensor) -> Tensor:
    """The sum over processes, with gradient."""
    return local if world() == 1 else _Sum.apply(local)


def averaged(local: Tensor) -> Tensor:
    """The mean over processes, without gradient, for all of them to call."""
    if world() == 1:
        return local
    total = local.detach().contiguous().clone()
    dist.all_reduce(total)
    return total / world()


class GlobalBatchNorm(_BatchNorm):
    """Batch norm over the rows of all processes, on any device (torch's SyncBatchNorm refuses the CPU).

    Parameters, buffers and their names are those of the layer it replaces: checkpoints fit any number of
    processes.
    drop, act: what timm's fused BatchNormAct layers do after normalising.
    """

    drop: nn.Module
    act: nn.Module

    @classmethod
    def of(cls, layer: _BatchNorm) -> "GlobalBatchNorm":
        """The same layer, over processes: it shares the parameters and buffers of `layer`."""
        new = cls(layer.num_features, layer.eps, layer.momentum, affine=False, track_running_stats=False)
        new.affine, new.track_running_stats = layer.affine, layer.track_running_stats
        new._parameters.update(layer._parameters)
        new._buffers.update(layer._buffers)
        new.drop, new.act = getattr(layer, "drop", nn.Identity()), getattr(layer, "act", nn.Identity())
        return new.train(layer.training)

    def _check_input_dim(self, input: Tensor) -> None:
        if input.dim() < 2:
            raise ValueError(f"expected at least 2 dimensions, got {input.dim()}")

    def forward(self, input: Tensor) -> Tensor:
        if not self.training and self.running_mean is not None:
            out = F.batch_norm(
                input, self.running_mean, self.running_var, self.weight, self.bias, False, 0.0, self.eps
            )
            return self.act(self.drop(out))
        x = input.float() if input.dtype in (torch.bfloat16, torch.float16) else input
        dims = [d for d in range(x.dim()) if d != 1]
        shape = [1, -1] + [1] * (x.dim() - 2)
        count = x.numel() // x.shape[1] * world()  # equal shapes on every process
        mean = all_sum(x.sum(dims)) / count
        centred = x - mean.view(shape)
        variance = all_sum(centred.square().sum(dims)) / count
        out = centred * (variance + self.eps).rsqrt().view(shape)
        if self.weight is not None:
            out = out * self.weight.view(shape)
        if self.bias is not None:
            out = out + self.bias.view(shape)
        if self.track_running_stats:
            self._track(mean.detach(), variance.detach() * count / max(1, count - 1))
        return self.act(self.drop(out.to(input.dtype)))

    @torch.no_grad()
    def _track(self, mean: Tensor, variance: Tensor) -> None:
        assert (
            self.running_mean is not None
            and self.running_var is not None
            and self.num_batches_tracked is not None
        )
        self.num_batches_tracked.add_(1)
        share = 1 / float(self.num_batches_tracked) if self.momentum is None else self.momentum
        self.running_mean.lerp_(mean.to(self.running_mean.dtype), share)
        self.running_var.lerp_(variance.to(self.running_var.dtype), share)


def global_batch_norm(module: nn.Module) -> nn.Module:
    """Replaces every batch norm in `module`, in place, by one over all processes; returns the module."""
    if isinstance(module, _BatchNorm) and not isinstance(module, nn.SyncBatchNorm | GlobalBatchNorm):
        return GlobalBatchNorm.of(module)
    for name, child in module.named_children():
        new = global_batch_norm(child)
        if new is not child:
            setattr(module, name, new)
    return module


def shard(cohort: nn.Module) -> nn.Module:
    """Shares out each peer's weights, gradients and optimiser state over the processes, in place (FSDP2).

    cohort: a `Cohort` after `global_batch_norm`; the optimisers are made afterwards, and the cohort goes to
        `fit` without `Accelerator.prepare`. It is for `fit`: runs and probes want whole networks.
    Raises InputError where torch cannot, as torch 2.6 on a CPU.
    """
    from torch.distributed.fsdp import fully_shard

    on_cpu = all(parameter.device.type == "cpu" for parameter in cohort.parameters())
    if on_cpu and not hasattr(torch.cpu.Stream, "record_event"):
        raise InputError(f"torch {torch.__version__} cannot share out weights on a CPU; a newer one can")
    for peer in cohort.get_submodule("peers").children():
        if next(peer.parameters(), None) is not None:
            # Shares again after the forward pass: a follower, which has no backward, is averaged in shares.
            fully_shard(peer, reshard_after_forward=True)
    return cohort


def whole(value: Tensor) -> Tensor:
    """The tensor of which each process has a share, for all of them to call; any other as it is."""
    if type(value) in (Tensor, nn.Parameter):
        return value
    from torch.distributed.tensor import DTensor  # half a second, for those who need it

    return value.full_tensor() if isinstance(value, DTensor) else value


def check_launcher() -> None:
    """Refuses what shares out weights behind `ssl-kd train`, which saves and scores whole networks."""
    for key, name in (("FSDP", "FSDP"), ("DEEPSPEED", "DeepSpeed"), ("MEGATRON_LM", "Megatron-LM")):
        if os.environ.get(f"ACCELERATE_USE_{key}", "").lower() == "true":
            raise InputError(
                f"ssl-kd train does not run under {name}, since it saves and scores whole networks; leave "
                f"{name} out of the launcher's config, or train from Python under ssl_kd.distributed.shard"
            )
