"""How many images a loss needs at once, and how wide: said by the loss, read before training."""

import inspect
from collections.abc import Callable
from functools import partial, wraps
from typing import Any, TypeVar

from torch import Tensor

from ssl_kd.distributed import world
from ssl_kd.errors import InputError

Loss = TypeVar("Loss", bound=Callable[..., Tensor])

# lightly's losses whose value, of one image, is a constant or nothing at all; they do not say so themselves.
LIGHTLY = (
    "BarlowTwinsLoss",
    "DCLLoss",
    "DCLWLoss",
    "DirectCLRLoss",
    "FroSSLLoss",
    "KoLeoLoss",
    "MACLLoss",
    "NTXentLoss",
    "TiCoLoss",
    "VICRegLoss",
)


def needs_rows(least: int) -> Callable[[Loss], Loss]:
    """Declares that a loss compares images, and needs `least` of them at once: `@needs_rows(2)` above it.

    The images are the last axis but one of its first argument, (V, B, D) or with `spread` (B, D). Where it
    has an argument `gather` that is true, those of all processes count. A training whose batches have fewer
    is refused before it begins, and so is a call, by InputError.
    A class of losses says the same by an attribute `least_rows = 2`, and for all processes
    `gather_distributed = True`.
    """

    def declare(loss: Loss) -> Loss:
        signature = inspect.signature(loss)

        @wraps(loss)
        def checked(*args: Any, **options: Any) -> Tensor:
            given = signature.bind(*args, **options)
            given.apply_defaults()
            first = next(iter(given.arguments.values()), None)
            if isinstance(first, Tensor) and first.dim() > 1:
                count = first.shape[-2] * (world() if given.arguments.get("gather", False) else 1)
                if count < least:
                    raise InputError(
                        f"{loss.__name__} compares images and needs {least} of them at once; it got {count}; "
                        "take a larger batch"
                    )
            return loss(*args, **options)

        checked.least_rows = least  # type: ignore[attr-defined]
        return checked  # type: ignore[return-value]

    return declare


def needs_width(least: int) -> Callable[[Loss], Loss]:
    """Declares that a loss of outputs narrower than `least` has no gradient: `@needs_width(2)` above it.

    As a softmax over one class is 1, and a unit row of one value is 1 or -1. A training with a narrower head
    is refused before it begins. A class of losses says the same by an attribute `least_width = 2`.
    """

    def declare(loss: Loss) -> Loss:
        loss.least_width = least  # type: ignore[attr-defined]
        return loss

    return declare


def needs_views(least: int) -> Callable[[Loss], Loss]:
    """Declares that a loss compares `least` views of each image, and has no meaning with fewer."""

    def declare(loss: Loss) -> Loss:
        loss.least_views = least  # type: ignore[attr-defined]
        return loss

    return declare


def views_needed(loss: Callable[..., Any]) -> int:
    """How many views of an image a loss needs, 1 where it says nothing; `loss` as of `rows_needed`."""
    while isinstance(loss, partial):
        loss = loss.func
    return int(getattr(loss, "least_views", 1))


def width_needed(loss: Callable[..., Any]) -> int:
    """How wide the outputs are that a loss needs, 1 where it says nothing; `loss` as of `rows_needed`."""
    while isinstance(loss, partial):
        loss = loss.func
    return int(getattr(loss, "least_width", 1))


def rows_needed(loss: Callable[..., Any]) -> tuple[int, bool]:
    """How many images a loss needs at once, 1 where it says nothing; whether those of all processes count.

    loss: a function, one with its options bound, or an object.
    """
    bound: dict[str, Any] = {}
    while isinstance(loss, partial):
        bound, loss = {**loss.keywords, **bound}, loss.func
    least = getattr(loss, "least_rows", None)
    if least is None:
        theirs = type(loss).__module__.partition(".")[0] == "lightly" and type(loss).__name__ in LIGHTLY
        queue = getattr(getattr(loss, "memory_bank", None), "size", 0) or 0  # negatives of earlier batches
        least = 2 if theirs and not any(queue if isinstance(queue, list | tuple) else [queue]) else 1
    if not inspect.isfunction(loss):
        return int(least), bool(getattr(loss, "gather_distributed", False))
    takes = inspect.signature(loss).parameters
    default = takes["gather"].default if "gather" in takes else False
    return int(least), bool(bound.get("gather", default is not inspect.Parameter.empty and default))
