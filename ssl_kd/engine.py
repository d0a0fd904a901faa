"""One step of a cohort, and the loop that calls it. Nothing here knows what the peers look at."""

from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass, replace
from typing import Any

import torch
from accelerate import Accelerator
from torch import Tensor, nn
from torch.optim import Optimizer

from ssl_kd.cohort import Batch, Cohort, Outputs
from ssl_kd.distributed import averaged, world
from ssl_kd.errors import InputError
from ssl_kd.finite import NonFinite as NonFinite
from ssl_kd.finite import check_finite, lengths
from ssl_kd.schedules import Weight, at

Scalars = dict[str, tuple[Tensor, float]]
Term = Callable[[Mapping[str, Outputs], Batch, int], Scalars]
Watcher = Callable[[int, "Result"], None]
Weigh = Callable[[int, Scalars], Scalars]
# The parts of a batch and what was said on each -> the whole batch and what was said on it.
Join = Callable[[Sequence[Batch], Sequence[Mapping[str, Outputs]]], tuple[Batch, Mapping[str, Outputs]]]

NON_FINITE_CHECK = 20  # steps between two looks for what is not finite on an accelerator, where each waits


@dataclass(frozen=True)
class Result:
    """What a step did.

    terms: name -> (raw scalar, weight), means over the accumulated batches; outputs: one per batch, detached.
    gradients: the parameters that got one, and the length of each (P,), before clipping; None where a scaler
        (float16) leaves out steps whose gradients overflow.
    """

    loss: Tensor
    terms: dict[str, tuple[Tensor, float]]
    outputs: list[dict[str, Outputs]]
    gradients: tuple[list[Tensor], Tensor] | None = None

    def averaged(self) -> "Result":
        """With the loss and the raw terms of all processes, which is to be called on each of them.

        What `step` gives is of this process's rows. The mean is what is learned from, since gradients are
        averaged too; all else stays.
        """
        if world() == 1:
            return self
        raw = averaged(torch.stack([self.loss, *(raw.to(self.loss) for raw, _ in self.terms.values())]))
        weights = [weight for _, weight in self.terms.values()]
        terms = dict(zip(self.terms, zip(raw[1:], weights, strict=True), strict=True))
        return replace(self, loss=raw[0], terms=terms)


def step(
    cohort: nn.Module,
    terms: Sequence[Term],
    batch: Batch | list[Batch],
    optimizers: Sequence[Optimizer],
    accelerator: Accelerator,
    index: int,
    known: Mapping[str, Outputs] | list[Mapping[str, Outputs]] | None = None,
    clip: float | None = None,
    join: Join | None = None,
    weigh: Weigh | None = None,
) -> Result:
    """One optimiser step: forward, terms, backward over all peers, update, followers.

    batch: one, or a list whose gradients are averaged into the one step (accumulation).
    known: outputs of peers that need not run; a list where `batch` is one.
    clip: largest gradient norm of each peer.
    join: with it, the terms see the parts of a list as one batch (gradient caching, at the price of a second
        forward pass); without it, each part by itself.
    Raises InputError for a batch too small for batch norm and, on a CPU, NonFinite for a term or a gradient
    that is not finite, before any weight moves.
    """
    module: Cohort = accelerator.unwrap_model(cohort, keep_fp32_wrapper=True)
    parts = batch if isinstance(batch, list) else [batch]
    knowns = known if isinstance(known, list) else [known] * len(parts)

    def forward(number: int) -> dict[str, Outputs]:
        module.begin(index, number)
        try:
            return cohort({**parts[number], "step": torch.tensor(index)}, knowns[number])
        except ValueError as error:
            if not str(error).startswith("Expected more than 1 value per channel"):
                raise
            shape = str(error).partition("[")[2].partition("]")[0]
            raise InputError(
                f"step {index + 1}: batch norm needs more than one value per channel, and a layer got "
                f"({shape}); take a larger batch, or fewer parts of it"
            ) from error

    def scalars(said: Mapping[str, Outputs], part: Batch) -> Scalars:
        own = _scalars(terms, said, part, index)
        return own if weigh is None else weigh(index, own)

    def apart(number: int) -> AbstractContextManager:
        """Processes exchange gradients once, with the last part; it holds a forward and its backward."""
        return nullcontext() if number == len(parts) - 1 else accelerator.no_sync(cohort)

    if join is None or len(parts) == 1:
        result = _accumulate(parts, scalars, forward, apart, accelerator.backward)
    else:
        result = _cache(module, parts, scalars, forward, apart, accelerator.backward, join)
    if accelerator.scaler is None:
        result = replace(result, gradients=lengths(optimizers))
    if accelerator.device.type == "cpu":  # where a look costs nothing
        check_finite([(index, result)], terms, module, parts)
    if clip is not None:
        for name in module.trainable:
            accelerator.clip_grad_norm_(module.peers[name].parameters(), clip)
    for optimizer in optimizers:
        optimizer.step()
        optimizer.zero_grad(set_to_none=True)
    module.advance(result.outputs, index)
    return result


def _accumulate(
    parts: Sequence[Batch],
    terms: Callable[[Mapping[str, Outputs], Batch], Scalars],
    forward: Callable[[int], dict[str, Outputs]],
    apart: Callable[[int], AbstractContextManager],
    backward: Callable[[Tensor], None],
) -> Result:
    """Each part by itself; gradients, losses and terms are means over the parts."""
    scalars: dict[str, list[tuple[Tensor, float]]] = {}
    outputs, losses = [], []
    for number, part in enumerate(parts):
        with apart(number):
            said = forward(number)
            own = terms(said, part)
            loss = _weighted(own) / len(parts)
            backward(loss)
        for key, (raw, weight) in own.items():
            scalars.setdefault(key, []).append((raw.detach(), weight))
        losses.append(loss.detach())
        outputs.append({name: _detached(values) for name, values in said.items()})
    means = {key: (torch.stack([raw for raw, _ in all_]).mean(), all_[0][1]) for key, all_ in scalars.items()}
    return Result(torch.stack(losses).sum(), means, outputs)


def _cache(
    module: Cohort,
    parts: Sequence[Batch],
    terms: Callable[[Mapping[str, Outputs], Batch], Scalars],
    forward: Callable[[int], dict[str, Outputs]],
    apart: Callable[[int], AbstractContextManager],
    backward: Callable[[Tensor], None],
    join: Join,
) -> Result:
    """The terms on all parts at once, and the memory of one (Gao et al. 2021, "GradCache").

    Forward without a graph; the gradient of the loss with respect to the outputs; forward again part by part,
    where that gradient is handed on. The first pass leaves no trace in buffers (batch norm's statistics).
    """
    before = [(buffer, buffer.clone()) for buffer in module.buffers()]
    with torch.no_grad():
        first = [forward(number) for number in range(len(parts))]
        for buffer, value in before:
            buffer.copy_(value)
    leaves = [
        {name: _leaves(values, name in module.trainable) for name, values in said.items()} for said in first
    ]
    whole, said = join(parts, leaves)
    own = terms(said, whole)
    loss = _weighted(own)
    backward(loss)
    outputs = []
    for number, leaf in enumerate(leaves):
        with apart(number):
            again = forward(number)
            handed_on = [
                (value * leaf[name][key].grad).sum()
                for name, values in again.items()
                for key, value in values.items()
                if isinstance(value, Tensor) and value.requires_grad and leaf[name][key].grad is not None
            ]
            backward(torch.stack(handed_on).sum())
        outputs.append({name: _detached(values) for name, values in again.items()})
    return Result(loss.detach(), {key: (raw.detach(), weight) for key, (raw, weight) in own.items()}, outputs)


def fit(
    cohort: nn.Module,
    terms: Sequence[Term],
    batches: Callable[[int], Iterator[Batch | list[Batch]]],
    optimizers: Sequence[Optimizer],
    rates: Sequence[Weight],
    accelerator: Accelerator,
    *,
    steps: int,
    start: int = 0,
    watchers: Sequence[Watcher] = (),
    clip: float | None = None,
    join: Join | None = None,
    weigh: Weigh | None = None,
    known: Callable[[Batch], Mapping[str, Outputs]] | None = None,
) -> None:
    """Optimiser steps `start` to `steps`.

    batches(k): the batches from step k on, this process's share of each.
    rates: learning rate of each optimiser; a parameter group's own "lr_scale" multiplies it.
    watchers: called as `watcher(steps done, result)` after every step; they may stop the loop by raising.
    clip, join, weigh: see `step`.
    known: called once with each batch, or each part of one: outputs of peers that need not run on it.
    Raises NonFinite when a term or a gradient is not finite: in that step on a CPU, before any weight moves;
    within NON_FINITE_CHECK steps elsewhere.
    """
    if accelerator.distributed_type == "DEEPSPEED":
        raise InputError(
            "fit does not run under DeepSpeed, whose engine takes one optimiser and steps by itself; "
            "ssl_kd.distributed.shard shares out the weights"
        )
    cohort.train()
    stream = batches(start)
    pending: list[tuple[int, Result]] = []
    for index in range(start, steps):
        for optimizer, rate in zip(optimizers, rates, strict=True):
            for group in optimizer.param_groups:
                group["lr"] = at(rate, index) * group.get("lr_scale", 1.0)
        batch = next(stream, None)
        if batch is None:
            raise ValueError(f"the batches ended after step {index} of {steps}")
        parts = batch if isinstance(batch, list) else [batch]
        result = step(
            cohort,
            terms,
            batch,
            optimizers,
            accelerator,
            index,
            known=None if known is None else [known(part) for part in parts],
            clip=clip,
            join=join,
            weigh=weigh,
        )
        if accelerator.device.type != "cpu":
            pending.append((index, replace(result, outputs=[])))
            if len(pending) == NON_FINITE_CHECK or index == steps - 1:
                check_finite(pending, terms, accelerator.unwrap_model(cohort, keep_fp32_wrapper=True))
                pending.clear()
        for watcher in watchers:
            watcher(index + 1, result)


def _scalars(terms: Sequence[Term], outputs: Mapping[str, Outputs], batch: Batch, index: int) -> Scalars:
    scalars: Scalars = {}
    for term in terms:
        for key, value in term(outputs, batch, index).items():
            if key in scalars:
                raise ValueError(f'two terms are called "{key}"')
            if value[0].dim():
                raise InputError(
                    f'the term "{key}" gives {tuple(value[0].shape)}, and a term is one number; take the mean'
                )
            scalars[key] = value
    return scalars


def _weighted(scalars: Scalars) -> Tensor:
    return torch.stack([raw * weight for raw, weight in scalars.values()]).sum()


def _leaves(values: Mapping[str, Any], learns: bool) -> Outputs:
    """What a peer said, as the start of a new graph."""
    return {
        key: value.detach().requires_grad_(learns and value.is_floating_point())
        if isinstance(value, Tensor)
        else value
        for key, value in values.items()
    }


def _detached(values: Mapping[str, Any]) -> Outputs:
    return {key: value.detach() if isinstance(value, Tensor) else value for key, value in values.items()}
