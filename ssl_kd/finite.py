"""What became infinite or not a number, said by step, peer and term."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING

import torch
from torch import Tensor, nn
from torch.optim import Optimizer

from ssl_kd.distributed import whole, world
from ssl_kd.errors import InputError
from ssl_kd.terms import Link

if TYPE_CHECKING:
    from ssl_kd.cohort import Batch
    from ssl_kd.engine import Result, Term


class NonFinite(InputError):
    """A term, a gradient or a weight became infinite or not a number; the message says when and whose."""


def check_weights(weights: Mapping[str, object], where: str) -> None:
    """Raises InputError for the first tensor with a value that is infinite or not a number."""
    for name, value in weights.items():
        if isinstance(value, Tensor) and value.is_floating_point() and not bool(torch.isfinite(value).all()):
            count = int((~torch.isfinite(value)).sum())
            raise InputError(
                f'{where} holds {count:,} values that are infinite or not a number, the first in "{name}": '
                "no network; take an earlier checkpoint, or another file"
            )


def lengths(optimizers: Sequence[Optimizer]) -> tuple[list[Tensor], Tensor] | None:
    """The parameters whose gradients the optimisers are about to take, and how long each of those is (P,).

    None where there are none. Nothing here waits for a device.
    """
    every = (p for optimizer in optimizers for group in optimizer.param_groups for p in group["params"])
    parameters = [p for p in every if p.grad is not None]
    if not parameters:
        return None
    return parameters, whole(torch.stack(torch._foreach_norm([p.grad for p in parameters])))


def check_finite(
    pending: Sequence[tuple[int, Result]],
    terms: Sequence[Term],
    module: nn.Module,
    parts: Sequence[Batch] = (),
) -> None:
    """Raises NonFinite for the first of these steps with a term or a gradient that is not finite.

    module: whose parameters have the names. parts: the batches of the step that is looked at, where it is the
    only one and its outputs are still there.
    """
    counts = torch.stack([_odd(result) for _, result in pending])  # (steps, 2)
    if world() > 1:  # all processes stop together, whoever met it
        torch.distributed.all_reduce(counts)
    for (index, result), (losses, gradients) in zip(pending, counts.tolist(), strict=True):
        if losses or gradients:
            elsewhere = "a term is not finite on another process" if losses else ""
            what = _bad_term(result, terms) or elsewhere or _bad_gradient(result, module)
            raise NonFinite(f"step {index + 1}: {what}{_before(parts, result)}")


def _odd(result: Result) -> Tensor:
    """How many of the losses and of the gradients are not finite, (2,)."""
    seen = (result.loss, result.loss.new_zeros(()) if result.gradients is None else result.gradients[1])
    return torch.stack([(~torch.isfinite(x)).sum() for x in seen])


def _bad_term(result: Result, terms: Sequence[Term]) -> str:
    """The first term that is not finite, and between whom; empty where all of them are."""
    links: dict[str, Link] = {link.name: link for term in terms for link in getattr(term, "links", list)()}
    for key, (raw, weight) in result.terms.items():
        if torch.isfinite(raw * weight):
            continue
        text = f'the term "{key}" is {float(raw)}' + (f" times {weight}" if torch.isfinite(raw) else "")
        if key not in links:
            return text
        student, teacher = (address.partition(".")[0] for address in (links[key].student, links[key].teacher))
        return (
            f'{text}, where "{student}" learns from "{teacher}"' if teacher else f'{text} at peer "{student}"'
        )
    return "" if torch.isfinite(result.loss) else f"the sum of the terms is {float(result.loss)}"


def _bad_gradient(result: Result, module: nn.Module) -> str:
    """Whose gradient it is, and the parameter nearest to the loss, from which the others have it."""
    assert result.gradients is not None
    length = dict(zip(*result.gradients, strict=True))
    bad = [
        (*name.split(".", 2)[1:], float(length[parameter]))  # "peers.PEER.NAME"
        for name, parameter in module.named_parameters()
        if parameter in length and not torch.isfinite(length[parameter])
    ]
    if not bad:
        return "the gradient of a parameter that is no peer's is not finite, though every term is"
    peer, name, value = [found for found in bad if found[0] == bad[0][0]][-1]
    more = f" and that of {len(bad) - 1} others" if len(bad) > 1 else ""
    return f'the gradient of peer "{peer}" at "{name}"{more} is {value}, though every term is finite'


def _before(parts: Sequence[Batch], result: Result) -> str:
    """What was not finite before any term: of the batch, and of what the peers said."""
    owners = [{"batch": part, **said} for part, said in zip(parts, result.outputs, strict=False)]
    odd = {
        f"{owner}.{key}": None
        for place in owners
        for owner, values in place.items()
        for key, value in values.items()
        if isinstance(value, Tensor) and value.is_floating_point() and not torch.isfinite(value).all()
    }
    more = f" and {len(odd) - 5} more" if len(odd) > 5 else ""
    return f"; before it, this is not finite: {', '.join(list(odd)[:5])}{more}" if odd else ""
