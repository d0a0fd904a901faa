"""Whether the batches of a training hold enough images for what compares them, and whether its heads are wide
enough to differ in anything, before its first step."""

from collections.abc import Iterator, Sequence
from contextlib import AbstractContextManager, contextmanager, nullcontext
from typing import Any

import torch
from omegaconf import DictConfig
from torch import Tensor, nn
from torch.nn.modules.batchnorm import _BatchNorm

from ssl_kd.cohort import Batch, Cohort
from ssl_kd.distributed import GlobalBatchNorm, world
from ssl_kd.encoder import Encoder
from ssl_kd.errors import InputError
from ssl_kd.losses.needs import rows_needed, views_needed, width_needed

LEAST_VALUES = 3  # per channel, of a batch norm: of two it leaves their order alone, and no gradient


def check_rows(config: DictConfig, terms: Sequence[Any], cohort: Cohort, processes: int) -> None:
    """Refuses micro-batches with fewer images than a loss needs at once, by InputError with the ways out."""
    parts = 1 if config.grad_cache else config.accumulate
    local = config.batch_size // (parts * processes)
    for term in terms:
        loss = getattr(term, "loss", term)
        least, everywhere = rows_needed(loss)
        rows = local * (processes if everywhere else 1)
        if rows >= least:
            continue
        ways = ["a larger batch_size"]
        if parts > 1:
            ways.append("fewer parts by accumulate")
            # A part of so few images is too small for batch norm too, whatever the loss is shown.
            if not _norms(cohort) and config.batch_size // (1 if everywhere else processes) >= least:
                ways.append("grad_cache=true, which shows the loss all parts at once")
        if not everywhere and processes > 1:
            ways.append("the rows of all processes by the loss's gather, where it has one")
        name = getattr(term, "name", getattr(loss, "__name__", "a term"))
        raise InputError(
            f'the term "{name}" compares images and needs {least} of them at once, and gets {rows} '
            f"(batch_size {config.batch_size}, accumulate {config.accumulate}, processes {processes}); take "
            f"{' or '.join(ways)}"
        )


def check_views(config: DictConfig, terms: Sequence[Any]) -> None:
    """Refuses a recipe of fewer views of an image than a loss compares, by InputError with the way out."""
    views = config.recipe.get("views")
    local = config.recipe.get("local_views") or 0  # small ones, which a peer may see beside them
    for term in terms if isinstance(views, int) and not local else ():
        least = views_needed(getattr(term, "loss", term))
        if views < least:
            raise InputError(
                f'the term "{term.name}" compares {least} views of each image, and recipe.views is {views}; '
                f"take recipe.views={least}"
            )


def check_widths(config: DictConfig, terms: Sequence[Any], cohort: Cohort) -> None:
    """Refuses outputs that are too narrow for a loss to have a gradient, by InputError with the way out."""
    for term in terms:
        least = width_needed(getattr(term, "loss", term))
        for link in term.links() if least > 1 else ():
            peer, _, output = link.student.partition(".")
            width = _width(cohort.peers[peer], output)
            if width is None or width >= least:
                continue
            classes = config.get("classes") == width and "batch.label" in set(term.addresses())
            way = (
                f"take data of {least} classes or more, or a method that learns without labels"
                if classes
                else f"say a wider one, as peers.{peer}.heads.{output}.out=128"
            )
            what = f"class{'es' if width > 1 else ''}" if classes else f"value{'s' if width > 1 else ''}"
            raise InputError(
                f'the term "{term.name}" learns nothing from the {output} of "{peer}", which have {width} '
                f"{what} and need {least}; {way}"
            )


def _width(peer: nn.Module, output: str) -> int | None:
    """How wide an output of a peer is that comes of its embedding, by a row of zeros; None of another one."""
    if not isinstance(peer, Encoder):
        return None
    if output == "embedding":
        return getattr(peer.backbone, "width", None)
    inside = _width(peer, peer.reads[output]) if output in peer.heads else None
    if inside is None:
        return None
    head = peer.heads[output]
    modes = {module: module.training for module in head.modules()}
    try:
        with torch.no_grad(), torch.random.fork_rng(devices=[]):
            found = head.eval()(torch.zeros(1, inside))
    finally:
        for module, mode in modes.items():
            module.training = mode
    return found.shape[-1] if isinstance(found, Tensor) else None


def check_batch_norm(
    config: DictConfig,
    cohort: Cohort,
    batch: Batch | list[Batch],
    context: AbstractContextManager | None = None,
) -> None:
    """Refuses a batch of which a batch norm that learns gets fewer than LEAST_VALUES values per channel.

    batch: the first one; it is run through the cohort, and leaves no trace. context: what peers run in.
    Raises InputError.
    """
    part = batch[0] if isinstance(batch, list) else batch
    names = {module: name for name, module in cohort.named_modules()}

    def look(module: nn.Module, args: tuple[Any, ...]) -> None:
        values = args[0].numel() // args[0].shape[1] * (world() if isinstance(module, GlobalBatchNorm) else 1)
        if module.training and values < LEAST_VALUES:
            _, peer, layer = names[module].split(".", 2)
            gets = f"{values} value{'s' if values > 1 else ''} per channel"
            fewer = ", or fewer parts of it by accumulate" if config.accumulate > 1 else ""
            raise InputError(
                f'"{peer}" has a batch norm, {layer}, that gets {gets}, of which it leaves nothing to learn '
                f"from; take a larger batch_size{fewer}"
            )

    hooks = [module.register_forward_pre_hook(look) for module in names if isinstance(module, _BatchNorm)]
    try:
        with _untouched(cohort), torch.no_grad(), context or nullcontext():
            cohort.begin(0, 0)
            cohort({**part, "step": torch.tensor(0)})
    finally:
        for hook in hooks:
            hook.remove()


def small(config: DictConfig, processes: int) -> bool:
    """Whether a micro-batch has so few images that a batch norm might get too few values."""
    return config.batch_size // (config.accumulate * processes) < LEAST_VALUES


def _norms(cohort: Cohort) -> bool:
    """Whether a head of a learning peer has a batch norm over rows."""
    heads = [getattr(cohort.peers[name], "heads", None) for name in cohort.trainable]
    return any(isinstance(part, _BatchNorm) for head in heads if head is not None for part in head.modules())


@contextmanager
def _untouched(cohort: Cohort) -> Iterator[None]:
    """In training mode inside; modes and buffers are as they were afterwards."""
    before: list[tuple[Tensor, Tensor]] = [(buffer, buffer.clone()) for buffer in cohort.buffers()]
    modes = {module: module.training for module in cohort.modules()}
    cohort.train()
    try:
        yield
    finally:
        for module, mode in modes.items():
            module.training = mode
        for buffer, value in before:
            buffer.copy_(value)
