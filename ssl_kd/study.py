"""Methods x seeds from one YAML file: each a run of its own, what is done is skipped, then all are compared.

groups: {solo: method=simclr, pair: method=dogo}     options of `ssl-kd train`, a text or a list
common: data=cifar10 epochs=100                      of every group, before its own
seeds: 5                                             0 to 4, or a list
base: solo                                           what the others are compared with
"""

import os
import shlex
import subprocess
import sys
import time
from collections.abc import Iterator, Mapping, Sequence
from concurrent.futures import FIRST_COMPLETED, Future, ThreadPoolExecutor, wait
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import yaml
from omegaconf import DictConfig, OmegaConf

from ssl_kd.config import compose, differences, options
from ssl_kd.console import console
from ssl_kd.errors import InputError, nearest
from ssl_kd.launch import cores

KEYS = ("groups", "common", "seeds", "base")
OWN = ("run", "seed", "threads", "dry_run")  # what the study says itself


@dataclass(frozen=True)
class Planned:
    """One run of a study."""

    folder: Path
    words: tuple[str, ...]

    @property
    def done(self) -> bool:
        return (self.folder / "summary.json").is_file()


@dataclass(frozen=True)
class Study:
    """runs: seed by seed, all groups of a seed after each other, so that what is there is always paired."""

    runs: tuple[Planned, ...]
    bases: tuple[str | None, ...]


def main(words: Sequence[str]) -> int:
    """`ssl-kd study FILE.yaml [out=FOLDER] [jobs=N] [dry_run=true]`; returns the exit code.

    0 when every run is done, 1 when one has failed, 130 when it was stopped.
    """
    files = [word for word in words if "=" not in word]
    given = options([word for word in words if "=" in word])
    odd = [key for key in given if key not in ("out", "jobs", "dry_run")]
    if odd:
        raise InputError(
            f'"{odd[0]}" is not an option of study; {nearest(odd[0], ["out", "jobs", "dry_run"])}'
        )
    if len(files) != 1:
        raise InputError("study takes one YAML file, as in ssl-kd study study.yaml")
    jobs = given.get("jobs", 1)
    if not isinstance(jobs, int) or isinstance(jobs, bool) or jobs < 1:
        raise InputError(f'jobs must be a whole number of runs at once, at least 1, and "{jobs}" is not')
    path = Path(files[0])
    out = Path(str(given.get("out") or Path("runs") / path.stem))
    study = read(path, out)
    if given.get("dry_run"):
        for run in study.runs:
            print(f"{'done' if run.done else 'to do':<6} ssl-kd train {shlex.join(run.words)}")
        return 0
    failed = carry_out(study, jobs, out / "logs")
    if failed is None:
        return 130
    if failed:
        names = ", ".join(run.folder.name for run in failed)
        print(f"failed: {names}; what they said is in {out / 'logs'}; the same command tries them again")
    if len({run.folder.name.rpartition("-")[0] for run in study.runs if run.done}) > 1:
        from ssl_kd.compare import main as compare

        folders = [str(run.folder) for run in study.runs if run.done]
        for number, base in enumerate(study.bases):
            place = out if number == 0 else out / f"against-{base}"
            compare([*folders, f"out={place}", *([f"base={base}"] if base else [])])
    return 1 if failed else 0


def read(path: Path, out: Path) -> Study:
    """The runs that a file asks for. Every config is composed, so that a typing error costs no run."""
    if not path.is_file():
        raise InputError(f"there is no file {path}")
    try:
        content = yaml.safe_load(path.read_text())
    except yaml.YAMLError as error:
        raise InputError(f"{path} is not YAML: {' '.join(str(error).split())}") from error
    if not isinstance(content, dict) or not isinstance(content.get("groups"), dict) or not content["groups"]:
        raise InputError(f"{path} needs groups, as in groups: {{solo: method=simclr, pair: method=dogo}}")
    odd = [key for key in content if key not in KEYS]
    if odd:
        raise InputError(f'{path}: "{odd[0]}" is not an option; {nearest(str(odd[0]), list(KEYS))}')
    seeds = content.get("seeds", 1)
    seeds = list(range(seeds)) if isinstance(seeds, int) else seeds
    if not isinstance(seeds, list) or not seeds or not all(isinstance(seed, int) for seed in seeds):
        raise InputError(f"{path}: seeds is a number of seeds or a list of them, not {content['seeds']}")
    groups = {str(name): _words(path, name, text) for name, text in content["groups"].items()}
    base = content.get("base")
    bases: list[Any] = base if isinstance(base, list) and base else [base]
    for name in bases:
        if name is not None and name not in groups:
            raise InputError(f'{path}: base is "{name}", and {nearest(str(name), list(groups))}')
    common = _words(path, "common", content.get("common") or [])
    return Study(tuple(_plan(path, out, seeds, common, groups)), tuple(bases))


def _plan(
    path: Path, out: Path, seeds: Sequence[int], common: Sequence[str], groups: Mapping[str, Sequence[str]]
) -> Iterator[Planned]:
    for seed in seeds:
        for name, own in groups.items():
            run = Planned(out / f"{name}-{seed}", (*common, *own, f"seed={seed}", f"run={out}/{name}-{seed}"))
            try:
                config = compose(run.words)
            except InputError as error:
                raise InputError(f"{path}, group {name}: {error}") from error
            if run.done:
                _same(run.folder, config)
            yield run


def _same(folder: Path, config: DictConfig) -> None:
    """Refuses a finished run of another configuration."""
    there = OmegaConf.load(folder / "config.yaml")
    config.steps, config.classes = there.steps, there.classes  # which only the data tell
    odd = differences(there, OmegaConf.create(OmegaConf.to_container(config, resolve=True)))
    if odd:
        raise InputError(f"{folder} belongs to another configuration ({odd[0]}); give the study another out=")


def _words(path: Path, name: str, text: Any) -> list[str]:
    words = shlex.split(text) if isinstance(text, str) else text
    if not isinstance(words, list) or not all(isinstance(word, str) for word in words):
        raise InputError(
            f'{path}, {name}: options are a text or a list of texts, as in "method=dogo epochs=20"'
        )
    for word in words:
        if word.partition("=")[0] in OWN:
            raise InputError(f"{path}, {name}: {word.partition('=')[0]} is filled in by the study")
    return words


def carry_out(study: Study, jobs: int, logs: Path) -> list[Planned] | None:
    """Trains what is not done, `jobs` runs at once, and tells how far it is; what failed, None if stopped."""
    todo = [run for run in study.runs if not run.done]
    out = console()
    out.print(f"{len(study.runs)} runs, {len(study.runs) - len(todo)} done before", soft_wrap=True)
    logs.mkdir(parents=True, exist_ok=True)
    threads = max(1, cores() // jobs)
    began, failed, ended = time.monotonic(), [], 0
    with ThreadPoolExecutor(jobs) as pool:
        pending: dict[Future[int], Planned] = {}
        for run in todo:
            pending[pool.submit(_train, run, threads, logs)] = run
        try:
            while pending:
                for future in wait(pending, return_when=FIRST_COMPLETED).done:
                    run, code = pending.pop(future), future.result()
                    if code == 130:
                        raise KeyboardInterrupt
                    ended += 1
                    failed += [run] if code else []
                    left = (time.monotonic() - began) / ended * (len(todo) - ended) / 60
                    state = f"failed, exit code {code}" if code else "done"
                    out.print(f"{run.folder.name}: {state}; {len(pending)} left, about {left:.0f} minutes")
        except KeyboardInterrupt:
            for future in pending:
                future.cancel()
            out.print("stopped; the same command continues")
            return None
    return failed


def _train(run: Planned, threads: int, logs: Path) -> int:
    command = [sys.executable, "-m", "ssl_kd", "train", *run.words, f"threads={threads}"]
    # The package may be a checkout that only the current folder makes importable.
    paths = os.pathsep.join(entry for entry in sys.path if entry)
    with open(logs / f"{run.folder.name}.log", "a") as log:
        child = subprocess.Popen(
            command, stdout=log, stderr=subprocess.STDOUT, env={**os.environ, "PYTHONPATH": paths}
        )
        return child.wait()
