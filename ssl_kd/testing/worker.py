"""One process of a comparison: each case is trained or called, and what came of it is written down."""

from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from typing import Any

import torch
import torch.distributed as dist
from accelerate import PartialState
from omegaconf import OmegaConf
from torch import Tensor
from torch.optim import Optimizer

from ssl_kd import training
from ssl_kd.build import build_terms, check_options
from ssl_kd.distributed import rank, whole, world
from ssl_kd.engine import Result, Scalars, fit
from ssl_kd.errors import InputError, guarded
from ssl_kd.own.loading import restore
from ssl_kd.registry import located


def train(config: Mapping[str, Any], steps: int) -> dict[str, Any]:
    """The first `steps` steps of a training, in torch's default precision."""
    parts = training.build(OmegaConf.create(dict(config)))
    names = {parameter: name for name, parameter in parts.own.named_parameters()}
    rows: list[Tensor] = []
    losses: list[dict[str, Tensor]] = []
    gradients: dict[str, Tensor] = {}

    def recipe(raw: Mapping[str, Any], index: int) -> dict[str, Any]:
        rows.append(raw["index"])
        with _default(torch.float32):  # as it is made for; an image's pixels are the same on any process
            views = parts.batches.recipe(dict(raw), index)
        return _cast(views)

    def look(optimizer: Optimizer, args: Any, kwargs: Any) -> None:
        for parameter in (p for group in optimizer.param_groups for p in group["params"]):
            if parameter.grad is not None:
                gradients[f"{len(losses)}/{names[parameter]}"] = whole(parameter.grad).clone()

    def weigh(index: int, scalars: Scalars) -> Scalars:
        return {name: (raw, 1.0) for name, (raw, _) in scalars.items()}

    def watch(step: int, result: Result) -> None:
        losses.append({name: raw for name, (raw, _) in result.terms.items()})

    for optimizer in parts.own_optimizers:
        optimizer.register_step_pre_hook(look)
    feed = replace(parts.batches, recipe=recipe)
    if parts.cache is not None:
        parts.cache.fill(feed.once())
        rows.clear()
    fit(
        parts.cohort, parts.terms, feed, parts.optimizers, parts.rates, parts.accelerator, steps=steps,
        watchers=[watch], clip=parts.config.clip, join=parts.join, weigh=weigh, known=parts.cache,
    )  # fmt: skip
    weights = {name: whole(value) for name, value in parts.own.state_dict().items()}
    own = {f"{step}/{name}": raw for step, said in enumerate(losses) for name, raw in said.items()}
    return {
        "losses": _mean(own),
        "gradients": gradients,
        "weights": weights,
        "spread": _spread(weights),
        "rows": torch.stack(_every(torch.cat(rows).unflatten(0, (steps, -1))), 1),
    }


def call(node: Mapping[str, Any], inputs: Sequence[Any]) -> dict[str, Any]:
    """A loss or a term on this process's share of the inputs; the gradients are those of all inputs."""
    config = OmegaConf.create({"terms": {"term": node}})
    check_options(config)
    (function,) = build_terms(config)
    shapes: list[torch.Size] = []
    _mapped(inputs, lambda _, x: shapes.append(x.shape))
    size = next((shape[1] for shape in shapes if len(shape) > 1), 0)
    if not size or size % world():
        raise InputError(f"a batch of {size} rows cannot be shared equally by {world()} processes")
    leaves: dict[str, tuple[Tensor, int | None]] = {}  # this process's share, and the axis of its rows

    def share(path: str, x: Tensor) -> Tensor:
        axis = next((a for a in (1, 0) if x.shape[a : a + 1] == (size,)), None)
        local = x.detach().clone() if axis is None else x.chunk(world(), axis)[rank()].clone()
        if local.is_floating_point():
            leaves[f"input.{path}"] = local.requires_grad_(), axis
        return local

    said = function(*_mapped(_cast(inputs), share))
    scalars = {"loss": (said, 1.0)} if isinstance(said, Tensor) else said
    torch.stack([raw for raw, _ in scalars.values()]).sum().backward()
    gradients = {}
    for path, (leaf, axis) in leaves.items():
        if leaf.grad is not None:
            shares = _every(leaf.grad / world())  # the loss of all is the mean over the processes
            gradients[path] = torch.stack(shares).sum(0) if axis is None else torch.cat(shares, axis)
    return {
        "losses": _mean({name: raw.detach() for name, (raw, _) in scalars.items()}),
        "gradients": gradients,
        "weights": {},
        "spread": 0.0,
        "rows": torch.arange(size).reshape(1, world(), -1),
    }


@contextmanager
def _default(dtype: torch.dtype) -> Iterator[None]:
    before = torch.get_default_dtype()
    torch.set_default_dtype(dtype)
    yield
    torch.set_default_dtype(before)


def _mapped(value: Any, change: Callable[[str, Tensor], Any], path: str = "") -> Any:
    """The same mappings, lists and plain values, with change(path, tensor) for each tensor in them."""
    if isinstance(value, Tensor):
        return change(path, value)
    if isinstance(value, Mapping):
        return {key: _mapped(each, change, f"{path}/{key}") for key, each in value.items()}
    if isinstance(value, list | tuple):
        return [_mapped(each, change, f"{path}/{i}") for i, each in enumerate(value)]
    return value


def _cast(value: Any) -> Any:
    """With floats in torch's default precision."""
    wanted = torch.get_default_dtype()
    return _mapped(value, lambda _, x: x.to(wanted) if x.is_floating_point() else x)


def _every(value: Tensor) -> list[Tensor]:
    """The value of each process, by rank; not by `gather`, which is what is tested."""
    found = [torch.empty_like(value) for _ in range(world())]
    if world() > 1:
        dist.all_gather(found, value.contiguous())
        return found
    return [value]


def _mean(values: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """Of scalars, over the processes."""
    means = torch.stack(_every(torch.stack(list(values.values())))).mean(0)
    return dict(zip(values, means, strict=True))


def _spread(state: Mapping[str, Tensor]) -> float:
    """Largest difference between two processes."""
    every = torch.stack(_every(torch.cat([value.double().flatten() for value in state.values()])))
    return float((every.amax(0) - every.amin(0)).max())


def read(folder: Path) -> dict[str, Any]:
    """What is to be done."""
    return torch.load(folder / "job.pt", weights_only=True)


def main(folder: Path, number: int, count: int) -> int:
    """Does the job in `folder` as process `number` of `count`; returns the exit code."""

    def work(words: list[str]) -> int:
        if count > 1:
            meet = f"file://{folder}/{count}.group"
            dist.init_process_group("gloo", init_method=meet, rank=number, world_size=count)
        PartialState(cpu=True)
        torch.set_num_threads(1)
        _work(folder, read(folder))
        return 0

    return guarded(work, [])


def _work(folder: Path, job: Mapping[str, Any]) -> None:
    restore(job["own"])
    if job["prepare"]:
        located(job["prepare"].replace(":", "."))()
    for dtype in job["dtypes"]:
        for number, case in enumerate(job["cases"]):
            try:
                with _default(getattr(torch, dtype)):
                    if "config" in case:
                        found = train(case["config"], job["steps"] if dtype == "float64" else 1)
                    else:
                        found = call(case["node"], case["inputs"])
            except InputError as error:
                raise InputError(f"{case['name']}: {error}") from error
            if rank() == 0:
                torch.save(found, folder / f"{number}-{dtype}-{world()}.pt")
