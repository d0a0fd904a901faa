"""Methods x seeds from one YAML file: each a run of its own, what is done is skipped, then all are compared.

groups: {solo: method=simclr, pair: method=dogo}     options of `ssl-kd train`, a text or a list
common: data=cifar10 epochs=100                      of every group, before its own
seeds: 5                                             0 to 4, or a list
base: solo                                           what the others are compared with, or several of them
base: {solo: [pair], small: large}                   or for each what is compared with it

`@NAME` in a group's options is the run folder of the group NAME with the same seed. It is trained first, and
left out of the comparison unless base names it. So a chain of teachers is one study:

groups: {large: "method=dml peers={large: resnet56}", small: "... peers.teacher.weights=@large"}
"""

import re
import shlex
import subprocess
import time
import unicodedata
from collections.abc import Iterator, Mapping, Sequence
from concurrent.futures import FIRST_COMPLETED, Future, ThreadPoolExecutor, wait
from dataclasses import dataclass
from pathlib import Path
from typing import IO, Any

from omegaconf import DictConfig, OmegaConf

from ssl_kd.config import compose
from ssl_kd.console import console
from ssl_kd.errors import InputError, nearest
from ssl_kd.identity import differences
from ssl_kd.launch import cores, said_threads
from ssl_kd.saved import read_config
from ssl_kd.signals import REQUEUE, passed_on
from ssl_kd.system.documents import yaml_of
from ssl_kd.system.paths import expand
from ssl_kd.system.safe_path import environment, python
from ssl_kd.system.text import print_line
from ssl_kd.system.writing import appending, check_inside, make_folder
from ssl_kd.values import whole
from ssl_kd.words import options

KEYS = ("groups", "common", "seeds", "base")
MOST_SEEDS = 1000
MOST_NAME = 100  # bytes of a group's name
OWN = ("run", "seed", "threads", "dry_run")  # what the study says itself
# `@NAME` where a value begins: the whole of it, an entry of a list, what a key of a mapping is.
_REFERENCE = re.compile(r"""((?:^|[:,\[{])\s*["']?)@([^\s,:/\]}"']*)""")


@dataclass(frozen=True)
class Planned:
    """One run of a study. after: the folders of the runs that it refers to."""

    folder: Path
    words: tuple[str, ...]
    group: str
    after: tuple[Path, ...]

    @property
    def done(self) -> bool:
        return (self.folder / "summary.json").is_file()


@dataclass(frozen=True)
class Study:
    """runs: seed by seed, all groups of a seed after each other, so that what is there is always paired.

    In a seed, each comes after those that it refers to. comparisons: each base, with the groups beside it.
    """

    runs: tuple[Planned, ...]
    comparisons: tuple[tuple[str | None, tuple[str, ...]], ...]


def main(words: Sequence[str]) -> int:
    """`ssl-kd study FILE.yaml [out=FOLDER] [jobs=N] [dry_run=true]`; returns the exit code.

    0 when every run is done, 1 when one has failed, 75 when it was stopped.
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
    path = expand(files[0])
    out = expand(str(given.get("out") or Path("runs") / path.stem))
    study = read(path, out)
    for place in (out / "logs", *(run.folder for run in study.runs)):
        check_inside(place, out)
    if given.get("dry_run"):
        for run in study.runs:
            print_line(f"{'done' if run.done else 'to do':<6} ssl-kd train {shlex.join(run.words)}")
        return 0
    ended = carry_out(study, jobs, out / "logs")
    if ended is None:
        return REQUEUE
    failed, unstarted = (", ".join(run.folder.name for run in runs) for runs in ended)
    if failed:
        more = f"; not started because of that: {unstarted}" if unstarted else ""
        print_line(
            f"failed: {failed}{more}; what they said is in {out / 'logs'}; the same command tries again"
        )
    for number, (base, groups) in enumerate(study.comparisons):
        results = [run for run in study.runs if run.done and run.group in groups]
        if len({run.group for run in results}) > 1:
            from ssl_kd.compare import main as compare

            place = out if number == 0 else out / f"against-{base}"
            words = [*(str(run.folder) for run in results), f"out={place}"]
            compare([*words, *([f"base={base}"] if base else [])])
    return 1 if failed else 0


def read(path: Path, out: Path) -> Study:
    """The runs that a file asks for. Every config is composed, so that a typing error costs no run."""
    if not path.is_file():
        raise InputError(f"there is no file {path}")
    content = yaml_of(path)
    if not isinstance(content, dict) or not isinstance(content.get("groups"), dict) or not content["groups"]:
        raise InputError(f"{path} needs groups, as in groups: {{solo: method=simclr, pair: method=dogo}}")
    odd = [key for key in content if key not in KEYS]
    if odd:
        raise InputError(f'{path}: "{odd[0]}" is not an option; {nearest(str(odd[0]), list(KEYS))}')
    seeds = content.get("seeds", 1)
    if whole(1, MOST_SEEDS).holds(seeds):
        seeds = list(range(seeds))
    if not isinstance(seeds, list) or not seeds or not all(map(whole().holds, seeds)):
        raise InputError(
            f"{path}: seeds is a number of seeds, at most {MOST_SEEDS}, or a list of them, not {seeds}"
        )
    if len(set(seeds)) < len(seeds):
        raise InputError(f"{path}: seeds names one twice: {seeds}")
    for name in content["groups"]:
        _check_name(path, str(name))
    groups = {str(name): _words(path, name, text) for name, text in content["groups"].items()}
    common = _words(path, "common", content.get("common") or [])
    groups = {name: [*common, *own] for name, own in groups.items()}
    after = _referred(path, groups)
    comparisons = _comparisons(path, content.get("base"), after)
    return Study(tuple(_plan(path, out, seeds, groups, after)), comparisons)


def _check_name(path: Path, name: str) -> None:
    """Refuses a group whose runs could not be folders in `out` under its name."""
    odd = next(
        (c for c in name if c in "/\\$" or unicodedata.category(c).startswith(("C", "Z")) and c != " "), ""
    )
    if odd or not name.strip() or name[0] in ".~- " or len(name.encode()) > MOST_NAME:
        what = (
            f"{odd!a} in it" if odd else "nothing in it" if not name.strip() else "such a beginning or length"
        )
        raise InputError(
            f"{path}: a group's name is that of a folder in out=, and {name!a} has {what}; name it by "
            f"letters, digits, dots, - and _, at most {MOST_NAME} bytes"
        )


def _comparisons(
    path: Path, base: Any, after: Mapping[str, Sequence[str]]
) -> tuple[tuple[str | None, tuple[str, ...]], ...]:
    """Each base and the groups of its comparison: those that it names, or those that nothing goes on from."""
    named = {str(name): _listed(others) for name, others in base.items()} if isinstance(base, dict) else {}
    bases = list(named) if isinstance(base, dict) else _listed(base)
    for name in [*bases, *(other for others in named.values() for other in others)]:
        if name not in after:
            raise InputError(f'{path}: base names "{name}", and {nearest(name, list(after))}')
    ends = [name for name in after if name in bases or not any(name in own for own in after.values())]
    if not bases:
        return ((None, tuple(ends)),)
    return tuple((name, (name, *(named.get(name) or ends))) for name in bases)


def _listed(names: Any) -> list[str]:
    """One name, several or none, as a list."""
    return [] if names is None else [str(name) for name in (names if isinstance(names, list) else [names])]


def _referred(path: Path, groups: Mapping[str, Sequence[str]]) -> dict[str, list[str]]:
    """The groups that each refers to; every group after those. Refuses unknown names and circles."""
    names: dict[str, list[str]] = {}
    for group, words in groups.items():
        values = [word.partition("=")[2] for word in words]
        names[group] = [name for value in values for _, name in _REFERENCE.findall(value)]
        for name in names[group]:
            if name not in groups:
                raise InputError(
                    f'{path}, group {group}: "@{name}" is no group; {nearest(name, list(groups))}'
                )
    ordered: dict[str, list[str]] = {}

    def visit(group: str, above: tuple[str, ...]) -> None:
        if group in above:
            circle = " -> ".join([*above[above.index(group) :], group])
            raise InputError(f"{path}: groups refer to each other in a circle: {circle}")
        for name in names[group]:
            visit(name, (*above, group))
        ordered[group] = names[group]

    for group in groups:
        visit(group, ())
    return ordered


def _plan(
    path: Path,
    out: Path,
    seeds: Sequence[int],
    groups: Mapping[str, Sequence[str]],
    after: Mapping[str, Sequence[str]],
) -> Iterator[Planned]:
    for seed in seeds:
        for name, others in after.items():
            words = [_resolved(word, out, seed) for word in groups[name]]
            run = Planned(
                out / f"{name}-{seed}",
                (*words, f"seed={seed}", f"run={out}/{name}-{seed}"),
                name,
                tuple(out / f"{other}-{seed}" for other in others),
            )
            try:
                config = compose(run.words)
            except InputError as error:
                raise InputError(f"{path}, group {name}: {error}") from error
            if run.done:
                _same(run.folder, config)
            yield run


def _same(folder: Path, config: DictConfig) -> None:
    """Refuses a finished run of another configuration."""
    there = read_config(folder)
    config.steps, config.classes = there.steps, there.classes  # which only the data tell
    odd = differences(there, OmegaConf.create(OmegaConf.to_container(config, resolve=True)))
    if odd:
        raise InputError(f"{folder} belongs to another configuration ({odd[0]}); give the study another out=")


def _resolved(word: str, out: Path, seed: int) -> str:
    """The word with run folders in place of `@NAME`."""
    key, equals, value = word.partition("=")
    return key + equals + _REFERENCE.sub(lambda found: f"{found[1]}{out}/{found[2]}-{seed}", value)


def _words(path: Path, name: str, text: Any) -> list[str]:
    words = _bracketed(shlex.split(text)) if isinstance(text, str) else text
    if not isinstance(words, list) or not all(isinstance(word, str) for word in words):
        raise InputError(
            f'{path}, {name}: options are a text or a list of texts, as in "method=dogo epochs=20"'
        )
    for word in words:
        if word.partition("=")[0] in OWN:
            raise InputError(f"{path}, {name}: {word.partition('=')[0]} is filled in by the study")
    return words


def _bracketed(words: list[str]) -> list[str]:
    """The words, those between an opening bracket and its closing one put together, since no shell does."""
    joined: list[str] = []
    depth = 0
    for word in words:
        if depth > 0:
            joined[-1] += f" {word}"
        else:
            joined.append(word)
        depth = sum(joined[-1].count(c) for c in "[{") - sum(joined[-1].count(c) for c in "]}")
    return joined


def carry_out(study: Study, jobs: int, logs: Path) -> tuple[list[Planned], list[Planned]] | None:
    """Trains what is not done, `jobs` runs at once, each after those it refers to, and tells how far it is.

    Each has its share of the cores, and no more threads than the user's OMP_NUM_THREADS.

    Returns what failed, and what was not started because of that; None if stopped.
    """
    todo = [run for run in study.runs if not run.done]
    out = console(lasting=True)
    out.print(f"{len(study.runs)} runs, {len(study.runs) - len(todo)} done before", soft_wrap=True)
    make_folder(logs)
    share = max(1, cores() // jobs)
    threads = min(said_threads() or share, share)
    began, ended = time.monotonic(), 0
    failed: list[Planned] = []
    unstarted: list[Planned] = []
    pending: dict[Future[int], Planned] = {}
    children = _Children()
    with passed_on(children.send), ThreadPoolExecutor(jobs) as pool:
        try:
            while todo or pending:
                for run in _ready(todo, list(pending.values()))[: jobs - len(pending)]:
                    todo.remove(run)
                    pending[pool.submit(_train, run, threads, logs, children)] = run
                # A signal that comes just before the wait begins is not handled until it ends.
                for future in wait(pending, timeout=1.0, return_when=FIRST_COMPLETED).done:
                    run, code = pending.pop(future), future.result()
                    if children.asked or code in (REQUEUE, 130):
                        raise KeyboardInterrupt
                    ended += 1
                    lost = _depending(todo, run) if code else []
                    failed += [run] if code else []
                    unstarted += lost
                    todo = [other for other in todo if other not in lost]
                    left = len(todo) + len(pending)
                    minutes = (time.monotonic() - began) / ended * left / 60
                    state = f"failed, exit code {code}" if code else "done"
                    out.print(f"{run.folder.name}: {state}; {left} left, about {minutes:.0f} minutes")
                    for other in lost:
                        out.print(f"{other.folder.name}: not started, since {run.folder.name} failed")
        except KeyboardInterrupt:
            out.print("stopped; the same command continues")
            return None
    return failed, unstarted


def _ready(todo: Sequence[Planned], running: Sequence[Planned]) -> list[Planned]:
    """The runs that refer to nothing that is still to be trained."""
    awaited = {run.folder for run in [*todo, *running]}
    return [run for run in todo if awaited.isdisjoint(run.after)]


def _depending(todo: Sequence[Planned], run: Planned) -> list[Planned]:
    """The runs that refer to `run`, or to one that does; `todo` has every run after those it refers to."""
    found = [run]
    for other in todo:
        if any(one.folder in other.after for one in found):
            found.append(other)
    return found[1:]


class _Children:
    """The processes that train now. A signal reaches each of them, also one that is only starting.

    One that has no handler yet dies of it, and nothing is lost; `asked` tells that from a failure.
    """

    def __init__(self) -> None:
        self.running: set[subprocess.Popen] = set()
        self.asked: int | None = None

    def send(self, number: int) -> None:
        self.asked = number
        if not self.running:
            raise KeyboardInterrupt
        for child in list(self.running):
            child.send_signal(number)

    def carry_out(self, command: list[str], log: IO[str], environment: Mapping[str, str]) -> int:
        child = subprocess.Popen(command, stdout=log, stderr=subprocess.STDOUT, env=environment)
        self.running.add(child)
        if self.asked:
            child.send_signal(self.asked)
        try:
            return child.wait()
        finally:
            self.running.discard(child)


def _train(run: Planned, threads: int, logs: Path, children: _Children) -> int:
    command = python("ssl_kd", ["train", *run.words, f"threads={threads}"])
    with appending(logs / f"{run.folder.name}.log", inside=logs) as log:
        return children.carry_out(command, log, environment())
