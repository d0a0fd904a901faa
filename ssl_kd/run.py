"""The run folder: config, metrics, checkpoints, as text and safetensors. Nothing in it is executed."""

import json
import math
import os
import platform
import shutil
import subprocess
import sys
from collections.abc import Sequence
from importlib.metadata import version
from pathlib import Path
from typing import Any

import torch
from omegaconf import DictConfig, OmegaConf
from safetensors.torch import load_file, save_file
from torch import Tensor
from torch.optim import Optimizer

from ssl_kd.cohort import Cohort
from ssl_kd.config import differences
from ssl_kd.engine import NonFinite
from ssl_kd.errors import InputError

_PACKAGES = ("ssl-kd", "torch", "torchvision", "accelerate", "timm", "faiss-cpu", "hydra-core", "numpy")


class Run:
    """One run folder. `writes` is false on all processes but the first, which then only read."""

    def __init__(self, folder: str | Path, writes: bool = True) -> None:
        self.folder = Path(folder)
        self.writes = writes

    @property
    def checkpoint(self) -> Path | None:
        """The newest complete checkpoint."""
        return self._complete("last", "new", "previous")

    @property
    def chosen(self) -> Path | None:
        """The checkpoint that a rule has chosen (see `choose`)."""
        return self._complete("chosen", "chosen-new", "chosen-previous")

    @property
    def best(self) -> float:
        """The score of the chosen checkpoint; -inf where there is none."""
        place = self.chosen
        return json.loads((place / "state.json").read_text())["score"] if place else -math.inf

    def _complete(self, *names: str) -> Path | None:
        """A save that was cut short leaves one of the two names after the first."""
        for name in names:
            if (self.folder / "checkpoints" / name / "state.json").is_file():
                return self.folder / "checkpoints" / name
        return None

    def config(self) -> DictConfig:
        """The resolved config that the run was made with."""
        path = self.folder / "config.yaml"
        if not path.is_file():
            raise InputError(f"{self.folder} is not a run folder: it has no config.yaml")
        config = OmegaConf.load(path)
        assert isinstance(config, DictConfig)
        return config

    def start(self, config: DictConfig) -> None:
        """Makes the folder for `config`, or checks that it is that of the same one. Raises InputError."""
        resolved = OmegaConf.create(OmegaConf.to_container(config, resolve=True))
        if (self.folder / "config.yaml").exists():
            odd = differences(self.config(), resolved)
            if odd:
                more = f" and {len(odd) - 3} more" if len(odd) > 3 else ""
                raise InputError(
                    f"{self.folder} belongs to another configuration ({'; '.join(odd[:3])}{more}); "
                    "name another run="
                )
        elif self.folder.exists() and any(self.folder.iterdir()):
            raise InputError(f"{self.folder} exists and is not a run folder; name another run=")
        if self.writes:
            self.folder.mkdir(parents=True, exist_ok=True)
            _write(self.folder / "config.yaml", OmegaConf.to_yaml(resolved))
            self.write("environment.json", environment())

    def write(self, name: str, content: dict[str, Any]) -> None:
        """A JSON file in the folder, whole or not at all."""
        if self.writes:
            _write(self.folder / name, json.dumps(content, indent=2) + "\n")

    def read(self, name: str) -> dict[str, Any] | None:
        """A JSON file of the folder, or None."""
        path = self.folder / name
        return json.loads(path.read_text()) if path.is_file() else None

    def append(self, line: dict[str, Any]) -> None:
        """One line of metrics.jsonl."""
        if self.writes:
            with open(self.folder / "metrics.jsonl", "a") as file:
                file.write(json.dumps(line) + "\n")

    def metrics(self) -> list[dict[str, Any]]:
        """The lines of metrics.jsonl; one that was cut short is left out."""
        path = self.folder / "metrics.jsonl"
        text = path.read_text() if path.is_file() else ""
        return [json.loads(line) for line in text.splitlines() if line.endswith("}")]

    def forget_after(self, step: int) -> None:
        """Drops the lines of metrics.jsonl that a continued run will write again."""
        if self.writes and (lines := self.metrics()):
            kept = [json.dumps(line) + "\n" for line in lines if line["step"] <= step]
            _write(self.folder / "metrics.jsonl", "".join(kept))

    def save(self, cohort: Cohort, optimizers: Sequence[Optimizer], step: int) -> None:
        """Writes the state after `step` optimiser steps; the one before stays until this one is whole.

        Frozen peers are left out: the config makes them again. A state that is not finite raises NonFinite.
        """
        weights = _weights(cohort, step)
        if self.writes:
            tensors, numbers = _optimizer_state(cohort, optimizers)
            files = {"cohort": weights, "optimizers": tensors}
            self._put(files, {"step": step, "optimizers": numbers}, "last", "new", "previous")

    def choose(self, cohort: Cohort, step: int, rule: str, score: float) -> None:
        """Writes the weights as the chosen ones, in the place of those that were before."""
        state = {"step": step, "rule": rule, "score": score}
        files = {"cohort": _weights(cohort, step)}
        if self.writes:
            self._put(files, state, "chosen", "chosen-new", "chosen-previous")

    def _put(self, files: dict[str, dict[str, Tensor]], state: dict[str, Any], *names: str) -> None:
        last, new, previous = (self.folder / "checkpoints" / name for name in names)
        shutil.rmtree(new, ignore_errors=True)
        new.mkdir(parents=True)
        for name, tensors in files.items():
            save_file(tensors, new / f"{name}.safetensors")
        _write(new / "state.json", json.dumps(state))  # last: it says that all is there
        shutil.rmtree(previous, ignore_errors=True)
        if last.exists():
            last.rename(previous)
        new.rename(last)
        shutil.rmtree(previous, ignore_errors=True)

    def load(self, cohort: Cohort, optimizers: Sequence[Optimizer] = (), chosen: bool = False) -> int:
        """Puts the newest checkpoint into `cohort` and `optimizers`; returns its step. Raises InputError.

        chosen: the one that a rule has chosen instead, which has no optimisers.
        """
        place = self.chosen if chosen else self.checkpoint
        if place is None:
            raise InputError(f"{self.folder} has no {'chosen ' if chosen else ''}checkpoint")
        weights = load_file(place / "cohort.safetensors")
        wanted = {key for key in cohort.state_dict() if not _frozen(cohort, key)}
        if wanted != set(weights):
            odd = sorted(wanted ^ set(weights))[0]
            raise InputError(f'{place} does not fit its config.yaml: "{odd}" is in one of them only')
        cohort.load_state_dict(weights, strict=False)
        state = json.loads((place / "state.json").read_text())
        if optimizers:
            tensors = load_file(place / "optimizers.safetensors")
            _restore_optimizers(cohort, optimizers, tensors, state["optimizers"])
        return state["step"]


def _weights(cohort: Cohort, step: int) -> dict[str, Tensor]:
    """What a checkpoint holds of the cohort."""
    weights = {key: value for key, value in cohort.state_dict().items() if not _frozen(cohort, key)}
    for key, value in weights.items():
        if value.is_floating_point() and not bool(torch.isfinite(value).all()):
            raise NonFinite(f'after step {step}: "{key}" is not finite')
    return {key: _plain(value) for key, value in weights.items()}


def environment() -> dict[str, Any]:
    """What a result depends on besides the config."""
    checkout = Path(__file__).parent.parent
    git = (
        ["git", "rev-parse", "HEAD"] if (checkout / ".git").exists() else ["true"]
    )  # not that of a user's project
    commit = subprocess.run(git, cwd=checkout, capture_output=True, text=True, check=False).stdout.strip()
    return {
        "command": sys.argv,
        "python": platform.python_version(),
        "packages": {name: version(name) for name in _PACKAGES},
        "git": commit or None,
        "machine": platform.platform(),
        "cores": os.cpu_count(),
        "threads": torch.get_num_threads(),
        "accelerator": torch.cuda.get_device_name() if torch.cuda.is_available() else None,
    }


def _write(path: Path, text: str) -> None:
    partial = path.with_name(path.name + ".part")
    path.parent.mkdir(parents=True, exist_ok=True)
    with open(partial, "w") as file:
        file.write(text)
        file.flush()
        os.fsync(file.fileno())
    partial.replace(path)


def _frozen(cohort: Cohort, key: str) -> bool:
    return key.split(".")[1] in cohort.frozen  # "peers.NAME..."


def _plain(value: Tensor) -> Tensor:
    """A copy of its own memory, in the usual layout: safetensors refuses shared and strided ones."""
    return value.detach().cpu().clone(memory_format=torch.contiguous_format)


def _optimizer_state(
    cohort: Cohort, optimizers: Sequence[Optimizer]
) -> tuple[dict[str, Tensor], dict[str, Any]]:
    """Tensors and numbers of the state, keyed "optimiser/parameter/entry"."""
    names: dict[Tensor, str] = {parameter: name for name, parameter in cohort.named_parameters()}
    tensors: dict[str, Tensor] = {}
    numbers: dict[str, Any] = {}
    for i, optimizer in enumerate(optimizers):
        for parameter, entries in optimizer.state.items():
            for entry, value in entries.items():
                key = f"{i}/{names[parameter]}/{entry}"
                if isinstance(value, Tensor):
                    tensors[key] = _plain(value)
                else:
                    numbers[key] = value
    return tensors, numbers


def _restore_optimizers(
    cohort: Cohort, optimizers: Sequence[Optimizer], tensors: dict[str, Tensor], numbers: dict[str, Any]
) -> None:
    parameters = dict(cohort.named_parameters())
    for key, value in {**tensors, **numbers}.items():
        number, name, entry = key.split("/")
        parameter, optimizer = parameters[name], optimizers[int(number)]
        if isinstance(value, Tensor) and value.shape == parameter.shape:
            value = torch.empty_like(parameter).copy_(value)  # the layout of its parameter
        elif isinstance(value, Tensor) and optimizer.defaults.get("fused"):
            value = value.to(parameter.device)  # fused optimisers count their steps on the device
        optimizer.state[parameter][entry] = value
