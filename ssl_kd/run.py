"""The run folder: config, metrics, checkpoints, as text and safetensors. Nothing in it is executed."""

import json
import math
import os
import platform
import shutil
import subprocess
import sys
import time
from collections.abc import Callable, Collection, Iterator, Mapping, Sequence
from contextlib import contextmanager
from importlib.metadata import version
from pathlib import Path
from tempfile import TemporaryFile
from typing import Any

import torch
from omegaconf import DictConfig, OmegaConf
from safetensors import SafetensorError, safe_open
from safetensors.torch import load_file, save_file
from torch import Tensor
from torch.optim import Optimizer

from ssl_kd.cohort import Cohort
from ssl_kd.data.files import first_line
from ssl_kd.engine import NonFinite
from ssl_kd.errors import InputError
from ssl_kd.finite import check_weights
from ssl_kd.identity import differences
from ssl_kd.layout import half_written
from ssl_kd.saved import check_links, environments, read_config, read_lines
from ssl_kd.system.documents import json_of, mapping_of
from ssl_kd.system.lines import Lines
from ssl_kd.system.paths import expand
from ssl_kd.system.room import check_tensor_file
from ssl_kd.system.writing import damage, fingerprint, fresh, make_folder, sync, write_whole

MOST_STARTS = 1000  # that are noted, besides the first
_PACKAGES = ("ssl-kd", "torch", "torchvision", "accelerate", "timm", "faiss-cpu", "hydra-core", "numpy")


class Run:
    """One run folder. `writes` is false on all processes but the first, which then only read.

    `checkpoints/last` is the newest state, `checkpoints/step-N` are those before it, `keep` in all. Each is
    made beside them and renamed, and its state.json has the size and hash of every file.
    """

    def __init__(self, folder: str | Path, writes: bool = True, keep: int = 2) -> None:
        self.folder = expand(folder)
        self.writes = writes
        self.keep = keep
        self._start: dict[str, Any] | None = None  # fingerprint of start.safetensors
        self._before, self._since = 0.0, time.monotonic()
        self._lines = Lines(self.folder / "metrics.jsonl", self.folder)

    def clock(self) -> None:
        """The work begins here; what leads to a checkpoint that was loaded was counted with it."""
        self._since = time.monotonic()

    @property
    def seconds(self) -> float:
        """At work until now, in all starts together, without the steps that a kill lost."""
        return self._before + time.monotonic() - self._since

    @property
    def checkpoints(self) -> list[Path]:
        """All complete ones, the newest first."""
        place = self.folder / "checkpoints"
        before = sorted(place.glob("step-*"), key=lambda path: _number(path.name), reverse=True)
        return [path for path in (place / "last", place / "new", *before) if _complete(path)]

    @property
    def checkpoint(self) -> Path | None:
        """The newest complete checkpoint."""
        return next(iter(self.checkpoints), None)

    @property
    def chosen(self) -> Path | None:
        """The checkpoint that a rule has chosen (see `choose`)."""
        names = ("chosen", "chosen-new", "chosen-before")  # a save that was cut short leaves one of these
        return next(filter(_complete, (self.folder / "checkpoints" / name for name in names)), None)

    @property
    def self_contained(self) -> bool:
        """Whether the run has all weights itself, so that what its peers started from may be gone."""
        places = self.checkpoints
        kept = (self.folder / "start.safetensors").is_file()
        return bool(places) and (
            kept or not any(peer.get("weights") for peer in self.config().peers.values())
        )

    @property
    def begins_with(self) -> set[str]:
        """The peers whose weights of before training the run has, for not all of them were drawn."""
        path = self.folder / "start.safetensors"
        if not path.is_file():
            return set()
        try:
            with safe_open(path, "pt") as opened:
                return {key.split(".")[1] for key in opened.keys() if key.startswith("peers.")}
        except (OSError, SafetensorError) as error:
            raise InputError(f"{path} cannot be read ({first_line(error)})") from error

    @property
    def best(self) -> float:
        """The score of the chosen checkpoint; -inf where there is none."""
        place = self.chosen
        return json_of(place / "state.json")["score"] if place else -math.inf

    def config(self) -> DictConfig:
        """The resolved config that the run was made with."""
        return read_config(self.folder)

    def check(self, config: DictConfig) -> None:
        """Raises InputError unless the folder can be that of `config`; changes nothing."""
        resolved = OmegaConf.create(OmegaConf.to_container(config, resolve=True))
        if (self.folder / "config.yaml").exists():
            odd = differences(self.config(), resolved)
            if odd:
                more = f" and {len(odd) - 3} more" if len(odd) > 3 else ""
                raise InputError(
                    f"{self.folder} belongs to another configuration ({'; '.join(odd[:3])}{more}); "
                    "name another run="
                )
        elif self.folder.exists() and not (self.folder.is_dir() and _barely_begun(self.folder)):
            raise InputError(f"{self.folder} exists and is not a run folder; name another run=")
        check_links(self.folder)

    def make(self) -> None:
        """The folder itself. Raises InputError where nothing can be written."""
        try:
            make_folder(self.folder)
            with TemporaryFile(dir=self.folder):
                pass
        except OSError as error:
            raise InputError(
                f"nothing can be written to {self.folder} ({error.strerror}); name another run="
            ) from error

    def start(self, config: DictConfig) -> None:
        """Writes what the run is: its config and its surroundings."""
        if self.writes:
            resolved = OmegaConf.create(OmegaConf.to_container(config, resolve=True))
            write_whole(self.folder / "config.yaml", OmegaConf.to_yaml(resolved), inside=self.folder)
            first, *others = *environments(self.folder), environment(self._step())
            self.write("environment.json", [first, *others[-MOST_STARTS:]])

    def tidy(self) -> None:
        """Takes away what a killed process left half done; a checkpoint that was only not renamed is kept."""
        place = self.folder / "checkpoints"
        for new, last in (("new", "last"), ("chosen-new", "chosen")):
            if _complete(place / new) and not _complete(place / last):
                shutil.rmtree(place / last, ignore_errors=True)
                (place / new).rename(place / last)
        for name in ("new", "chosen-new", *(["chosen-before"] if _complete(place / "chosen") else []), "old"):
            shutil.rmtree(place / name, ignore_errors=True)
        for partial in list(half_written(self.folder)):
            partial.unlink(missing_ok=True)

    def finished(self, steps: int) -> dict[str, Any] | None:
        """What summary.json says of a run whose last checkpoint is whole and of its last step; else None."""
        summary = self.read("summary.json")
        place = self.checkpoint
        if summary is None or place is None or self._step() < steps or self._damage(place):
            return None
        return summary

    def _step(self) -> int:
        """That of the newest checkpoint; 0 where there is none, or none that can be read."""
        place = self.checkpoint
        try:
            return int(json_of(place / "state.json")["step"]) if place else 0
        except (OSError, ValueError, TypeError, KeyError):
            return 0

    def write(self, name: str, content: Any) -> None:
        """A JSON file in the folder, whole or not at all."""
        if self.writes:
            write_whole(self.folder / name, json.dumps(content, indent=2) + "\n", inside=self.folder)

    def read(self, name: str) -> dict[str, Any] | None:
        """A JSON file of the folder, or None."""
        return mapping_of(self.folder / name) or None

    def append(self, line: dict[str, Any]) -> None:
        """One line of metrics.jsonl; kept and tried again where it cannot be written, which is said."""
        if self.writes:
            self._lines.add(json.dumps(line))

    def close(self) -> None:
        """The last chance of lines that could not be written."""
        self._lines.close()

    def metrics(self) -> Iterator[dict[str, Any]]:
        """The lines of metrics.jsonl, one by one; one that was cut short is left out."""
        return read_lines(self.folder / "metrics.jsonl")

    def forget_after(self, step: int) -> None:
        """Drops the lines of metrics.jsonl that a continued run will write again."""
        path = self.folder / "metrics.jsonl"
        if self.writes and path.is_file():
            kept = [json.dumps(line) + "\n" for line in self.metrics() if line["step"] <= step]
            write_whole(path, "".join(kept), inside=self.folder)

    def keep_start(self, cohort: Cohort, names: Collection[str]) -> None:
        """Writes the weights of these peers as they are at step 0; then the run needs no other folder."""
        path = self.folder / "start.safetensors"
        weights = {k: _plain(v) for k, v in cohort.state_dict().items() if k.split(".")[1] in names}
        if self.writes and weights:
            with self._room("the weights that peers start from"), fresh(path, inside=self.folder) as part:
                save_file(weights, part)
            self._start = fingerprint(path)

    def load_start(self, cohort: Cohort) -> None:
        """Puts what `keep_start` wrote, if it did, into a cohort that is as it was drawn."""
        if (self.folder / "start.safetensors").is_file():
            cohort.load_state_dict(_read(self.folder / "start.safetensors"), strict=False)

    def save(self, cohort: Cohort, optimizers: Sequence[Optimizer], step: int) -> None:
        """Writes the state after `step` optimiser steps; those before stay until this one is whole.

        Raises NonFinite for a state that is not finite, InputError where it cannot be written.
        """
        weights = _weights(cohort, step)
        if self.writes:
            tensors, numbers = _optimizer_state(cohort, optimizers)
            files = {"cohort": weights, "optimizers": tensors}
            state = {"step": step, "seconds": self.seconds, "optimizers": numbers, "start": self._start}
            with self._room(f"the checkpoint of step {step}"):
                self._put(files, state, "new")
                self._rotate()

    def choose(self, cohort: Cohort, step: int, rule: str, score: float) -> None:
        """Writes the weights as the chosen ones, in the place of those that were before."""
        files = {"cohort": _weights(cohort, step)}
        if self.writes:
            place = self.folder / "checkpoints"
            state = {"step": step, "rule": rule, "score": score, "start": self._start}
            with self._room(f"the chosen checkpoint of step {step}"):
                self._put(files, state, "chosen-new")
                if (place / "chosen").exists():
                    (place / "chosen").rename(place / "chosen-before")
                (place / "chosen-new").rename(place / "chosen")
                shutil.rmtree(place / "chosen-before", ignore_errors=True)

    def _put(self, files: Mapping[str, dict[str, Tensor]], state: dict[str, Any], name: str) -> None:
        """A checkpoint, on the disk when this returns."""
        new = self.folder / "checkpoints" / name
        shutil.rmtree(new, ignore_errors=True)
        new.mkdir(parents=True)
        prints = {}
        for file, tensors in files.items():
            path = new / f"{file}.safetensors"
            save_file(tensors, path)
            sync(path)
            prints[path.name] = fingerprint(path)
        self._lines.sync()  # a resumed run takes the lines up to here as written
        write_whole(
            new / "state.json", json.dumps({**state, "files": prints})
        )  # last: it says that all is there

    def _rotate(self) -> None:
        """Makes "new" the last one, and the last one that of its step; leaves `keep` of them."""
        place = self.folder / "checkpoints"
        if (place / "last").exists():
            step = json_of(place / "last" / "state.json")["step"]
            shutil.rmtree(place / f"step-{step}", ignore_errors=True)
            (place / "last").rename(place / f"step-{step}")
        (place / "new").rename(place / "last")
        sync(place)
        for old in [path for path in self.checkpoints if path.name != "last"][max(0, self.keep - 1) :]:
            old.rename(place / "old")  # so that what is half removed is not taken for a checkpoint
            shutil.rmtree(place / "old", ignore_errors=True)

    @contextmanager
    def _room(self, what: str) -> Iterator[None]:
        """A write that fails is one sentence that says what is left."""
        try:
            yield
        except (OSError, SafetensorError) as error:
            shutil.rmtree(self.folder / "checkpoints" / "new", ignore_errors=True)
            left = f"{self.checkpoint} is whole" if self.checkpoint else "there was none before it"
            raise InputError(
                f"{what} could not be written to {self.folder} ({first_line(error)}); {left}, and the "
                "same command continues once there is room"
            ) from error

    def load(
        self,
        cohort: Cohort,
        optimizers: Sequence[Optimizer] = (),
        chosen: bool = False,
        say: Callable[[str], None] | None = None,
    ) -> int:
        """Puts the newest checkpoint into `cohort` and `optimizers`; returns its step.

        chosen: the one that a rule has chosen instead, which has no optimisers.
        say: with it, a damaged checkpoint is named and the one before is taken. Raises InputError where there
        is none, it is damaged, or it is of other networks.
        """
        places = [self.chosen] if chosen else self.checkpoints
        wrong: list[str] = []
        wrong_places: list[Path] = []
        for place in filter(None, places):
            problem = self._damage(place)
            if not problem:
                step = self._load(place, cohort, optimizers)
                self._set_aside(wrong_places)
                return step
            wrong_places.append(place)
            wrong.append(f"{place} is damaged ({problem})")
            if say is None:
                break
            say(f"{wrong[-1]}; it is not used")
        if not wrong:
            raise InputError(f"{self.folder} has no {'chosen ' if chosen else ''}checkpoint")
        raise InputError(f"{'; '.join(wrong)}; put it back, or name another run= to start again")

    def _set_aside(self, damaged: Sequence[Path]) -> None:
        """Keeps the first of them as "damaged", so that it does not count as a checkpoint."""
        if self.writes and damaged:
            aside = self.folder / "checkpoints" / "damaged"
            shutil.rmtree(aside, ignore_errors=True)
            damaged[0].rename(aside)
            for place in damaged[1:]:
                shutil.rmtree(place, ignore_errors=True)

    def _damage(self, place: Path) -> str:
        try:
            state = json_of(place / "state.json")
            listed = [(place / name, said) for name, said in state.get("files", {}).items()]
            if state.get("start"):
                listed.append((self.folder / "start.safetensors", state["start"]))
        except (OSError, ValueError, TypeError, AttributeError):
            return "state.json cannot be read"
        return next(filter(None, (damage(path, said) for path, said in listed)), "")

    def _load(self, place: Path, cohort: Cohort, optimizers: Sequence[Optimizer]) -> int:
        state = json_of(place / "state.json")
        weights = _read(place / "cohort.safetensors")
        wanted = {key for key in cohort.state_dict() if not _frozen(cohort, key)}
        if wanted != set(weights):
            odd = sorted(wanted ^ set(weights))[0]
            raise InputError(f'{place} does not fit its config.yaml: "{odd}" is in one of them only')
        if state.get("start"):
            self._start = state["start"]
            self.load_start(cohort)
        if optimizers:
            self._before = float(state.get("seconds") or 0.0)  # older ones do not say it
        cohort.load_state_dict(weights, strict=False)
        if optimizers:
            tensors = _read(place / "optimizers.safetensors")
            _restore_optimizers(cohort, optimizers, tensors, state["optimizers"])
        return int(state["step"])


def _barely_begun(folder: Path) -> bool:
    """Whether a run was killed before it could write its config."""
    half = set(half_written(folder))
    return all(path.name in ("lock", "status.json") or path in half for path in folder.iterdir())


def _complete(place: Path) -> bool:
    return (place / "state.json").is_file()  # written last


def _number(name: str) -> int:
    text = name.rpartition("-")[2]
    return int(text) if text.isdecimal() else -1


def _read(path: Path) -> dict[str, Tensor]:
    try:
        check_tensor_file(path)  # what is no file is not waited for
        found = load_file(path)
    except (OSError, SafetensorError) as error:
        raise InputError(f"{path} cannot be read ({first_line(error)})") from error
    check_weights(found, str(path))
    return found


def _weights(cohort: Cohort, step: int) -> dict[str, Tensor]:
    """What a checkpoint holds of the cohort."""
    weights = {key: value for key, value in cohort.state_dict().items() if not _frozen(cohort, key)}
    for key, value in weights.items():
        if value.is_floating_point() and not bool(torch.isfinite(value).all()):
            raise NonFinite(f'after step {step}: "{key}" is not finite')
    return {key: _plain(value) for key, value in weights.items()}


def environment(step: int = 0) -> dict[str, Any]:
    """What a result depends on besides the config: of one start of a run, which goes on after `step`."""
    checkout = Path(__file__).parent.parent
    git = (
        ["git", "rev-parse", "HEAD"] if (checkout / ".git").exists() else ["true"]
    )  # not that of a user's project
    commit = subprocess.run(git, cwd=checkout, capture_output=True, text=True, check=False).stdout.strip()
    return {
        "step": step,
        "command": sys.argv,
        "python": platform.python_version(),
        "packages": {name: version(name) for name in _PACKAGES},
        "git": commit or None,
        "machine": platform.platform(),
        "cores": os.cpu_count(),
        "processes": int(os.environ.get("WORLD_SIZE", "1")),
        "threads": torch.get_num_threads(),
        "accelerator": torch.cuda.get_device_name() if torch.cuda.is_available() else None,
    }


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
