"""For tests: do several processes compute what one process computes on the whole batch?

    from ssl_kd.testing import Call, compare_processes

    found = compare_processes(
        {
            "mine": ["method=mine", "peers=[resnet8,resnet8]"],        # the words of ssl-kd train
            "loss": Call("my.loss", torch.randn(2, 32, 64)),           # a loss or a term by itself
        },
        processes=[2, 4],
    )
    assert found["mine"][2].gradients <= 1e-9

The same for one method, as a table: `python -P -m ssl_kd.testing method=mine peers=[resnet8,resnet8]`.
"""

import os
import subprocess
import sys
import tempfile
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from omegaconf import OmegaConf
from torch import Tensor

from ssl_kd.config import compose
from ssl_kd.errors import InputError
from ssl_kd.own.found import allow_address
from ssl_kd.own.loading import carried
from ssl_kd.own.nodes import named
from ssl_kd.system.safe_path import environment, python

__all__ = ["Call", "Difference", "compare_processes"]

# channels_last: torch's batch norm rounds it ten times as coarsely in float32, on one process alone.
_FIRST = ["batch_size=32", "channels_last=false"]
_LAST = ["device=cpu", "precision=float32", "threads=1"]


class Call:
    """A loss or a term by itself, on given inputs.

    function: import address of a loss or of a term, as "my.loss"; or a node as in YAML, as
        {"_target_": "ssl_kd.Mutual", "loss": {"_target_": "my.loss"}, "peers": [...], "outputs": "z"}.
    inputs: its arguments, for a term (outputs, batch, index): tensors, and mappings, lists and plain values
        around them. The batch size B is the second axis of the first tensor that has one, (V, B, ...). A
        tensor is shared out by its second axis if that is B long, else by its first, as labels (B,); one
        without B rows, as negatives (N, D), is given to every process whole.
    options: further arguments by name, as temperature=0.1.
    """

    def __init__(self, function: str | Mapping[str, Any], *inputs: Any, **options: Any) -> None:
        node = {"_target_": function} if isinstance(function, str) else dict(function)
        self.node, self.inputs = {**node, **options}, inputs


@dataclass(frozen=True)
class Difference:
    """How far several processes are from one; 0 is equal, infinite where one has what the other has not.

    losses: of the mean over the processes of a term's values, over the largest value of any term.
    gradients: of a gradient that an optimiser gets, over the largest entry of that peer in that step; of a
        `Call`, of the gradient at an input, over its largest entry.
    weights: of a weight or buffer after the last step, over the largest of that peer; 0 for a `Call`.
    spread: between the processes themselves, of a weight or buffer after the last step; not divided.
    rows: int64 (steps, processes, b), the images that each process saw, by their position in the data set.
    float32: the same in float32, where it was asked for, after one step: an adaptive optimiser makes steps of
        rounding, and a ReLU that rounding switches changes a gradient by 1e-3. A wrong gradient is larger.
    """

    losses: float
    gradients: float
    weights: float
    spread: float
    rows: Tensor
    float32: "Difference | None" = None


def compare_processes(
    cases: Mapping[str, Sequence[str] | Call],
    processes: int | Sequence[int] = (2, 4),
    *,
    steps: int = 3,
    float32: bool = False,
    prepare: str | None = None,
    timeout: float = 600.0,
) -> dict[str, dict[int, Difference]]:
    """Name of a case -> number of processes -> difference from one process, in float64.

    cases: what to train, as the words of `ssl-kd train` (it trains for `steps` steps as that would, on a
        batch of 32 unless a word says otherwise, each term with weight 1, so that no small or rising one
        hides a wrong gradient); or a `Call`. Functions and `configs` of yours are found as by `ssl-kd train`.
    processes: how many; each number is started once for all cases, on the CPU, with gloo.
    float32: compare one step in float32 too.
    prepare: "module:function", called without arguments in each process before anything else.
    timeout: seconds for all of it.
    Raises InputError for what `ssl-kd train` refuses, and RuntimeError with the traceback of a process that
    failed or did not end.
    """
    worlds = [processes] if isinstance(processes, int) else list(processes)
    if not worlds or any(not isinstance(world, int) or world < 2 for world in worlds):
        raise InputError(f"processes must be numbers from 2 on, not {processes}")
    if steps < 1:
        raise InputError(f"steps must be at least 1, not {steps}")
    dtypes = ["float64", "float32"] if float32 else ["float64"]
    with tempfile.TemporaryDirectory() as place:
        folder = Path(place)
        if prepare:
            allow_address(prepare.replace(":", "."))
        jobs = [_job(name, case, folder) for name, case in cases.items()]
        job = {"cases": jobs, "worlds": [1, *worlds], "dtypes": dtypes, "steps": steps}
        job |= {"prepare": prepare, "timeout": timeout, "own": carried()}
        torch.save(job, folder / "job.pt")
        _run(folder)

        return {
            name: {world: _difference(folder, i, world, dtypes) for world in worlds}
            for i, name in enumerate(cases)
        }


def _difference(folder: Path, case: int, world: int, dtypes: Sequence[str]) -> Difference:
    paths = [folder / f"{case}-{dtypes[0]}-{count}.pt" for count in (1, world)]
    one, many = (torch.load(path, weights_only=True) for path in paths)
    return Difference(
        largest(many["losses"], one["losses"], lambda key: ""),
        largest(many["gradients"], one["gradients"], _peer),
        largest(many["weights"], one["weights"], _peer),
        many["spread"],
        many["rows"],
        _difference(folder, case, world, dtypes[1:]) if dtypes[1:] else None,
    )


def _job(name: str, case: Sequence[str] | Call, folder: Path) -> dict[str, Any]:
    """What a worker reads. A run that exists would give its peers other weights, hence one that does not."""
    if isinstance(case, Call):
        for each in named(case.node):
            allow_address(each.name)
        return {"name": name, "node": case.node, "inputs": case.inputs}
    try:
        config = compose([*_FIRST, *case, *_LAST, f"run={folder}/run"])
    except InputError as error:
        raise InputError(f"{name}: {error}") from error
    return {"name": name, "config": OmegaConf.to_container(config, resolve=False)}


def _run(folder: Path) -> None:
    path = os.pathsep.join(filter(os.path.isabs, sys.path))  # what is imported here, is there
    done = subprocess.run(
        python("ssl_kd.testing.processes", [str(folder)]),
        env=environment(PYTHONPATH=path, OMP_NUM_THREADS="1"),
        capture_output=True, text=True, check=False,
    )  # fmt: skip
    if done.returncode == 2:
        raise InputError(done.stderr.strip().splitlines()[-1].removeprefix("ssl-kd: "))
    if done.returncode:
        raise RuntimeError(f"a process failed or did not end in time; {done.stderr}")


def largest(found: Mapping[str, Tensor], right: Mapping[str, Tensor], group: Callable[[str], str]) -> float:
    """Largest difference, each over the largest right entry of its group; not a number where one is."""
    if found.keys() != right.keys():
        return float("inf")
    groups: dict[str, list[str]] = {}
    for key, value in right.items():
        if value.numel():
            groups.setdefault(group(key), []).append(key)
    ratios = [torch.zeros((), dtype=torch.float64)]
    for keys in groups.values():
        gap = torch.stack([(found[key].double() - right[key].double()).abs().max() for key in keys]).max()
        scale = torch.stack([right[key].double().abs().max() for key in keys]).max()
        ratios.append(gap / scale if gap != 0 else gap)
    return float(torch.stack(ratios).max())


def _peer(key: str) -> str:
    """ "STEP/peers.NAME.weight" -> "STEP/peers.NAME"."""
    return ".".join(key.split(".")[:2])
