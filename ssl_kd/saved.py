"""What the files of a run folder say, read with care: the folder may be damaged, or anybody's."""

import os
import shlex
import stat
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

from omegaconf import DictConfig, OmegaConf

from ssl_kd.errors import InputError
from ssl_kd.system.documents import as_config, json_of, lines_of, mapping_of, yaml_of
from ssl_kd.values import VALUES, check, check_whole

NEEDED = ("seed", "epochs", "batch_size", "peers", "terms", "recipe", "data", "probe")
LINKLESS = ("metrics.jsonl", "lock", "checkpoints")  # are opened where they lie: no link, wherever to


def read_config(folder: str | Path) -> DictConfig:
    """The config of a run, resolved as it was written.

    Raises InputError where there is none, where it is no config, and where it has what none of ours has: tags
    of YAML, aliases, of which a few lines can fill any memory, and interpolations, which may read the
    environment.
    """
    path = Path(folder) / "config.yaml"
    if not path.is_file():
        raise InputError(f"{folder} is not a run folder: it has no config.yaml")
    found = yaml_of(path, plain=True)
    if not isinstance(found, dict):
        raise InputError(f"{path} has no lines of key: value; it is not the config of a run")
    lacking = [key for key in NEEDED if key not in found]
    if lacking:
        raise InputError(f'{path} has no "{lacking[0]}"; it is not the config of a run')
    if "${" in str(found):
        raise InputError(f"{path} refers to something else by ${{...}}, which the config of a run never does")
    try:
        check_whole(found)
    except InputError as error:
        raise InputError(f"{path}: {error}") from error
    config = as_config(found, path)
    assert isinstance(config, DictConfig)
    return config


def environments(folder: Path) -> list[dict[str, Any]]:
    """What environment.json says of each start of a run, in their order; [] where there is no file.

    A run of an older version has a single one, and not in a list. Raises InputError.
    """
    path = folder / "environment.json"
    found = json_of(path) if os.path.lexists(path) else []
    found = [found] if isinstance(found, dict) else found
    if not isinstance(found, list) or not all(isinstance(one, dict) for one in found):
        raise InputError(f"{path} holds no list of starts")
    return found


def environment(folder: Path) -> dict[str, Any]:
    """That of the newest start; {} where nothing is known."""
    return next(reversed(environments(folder)), {})


_CHANGES = ("processes", "threads", "accelerator", "machine", "python", "git")


def changes(starts: Sequence[Mapping[str, Any]]) -> str:
    """What was not the same in all starts of a run: "processes: 1, after step 40: 2"; "" for nothing.

    Starts of which no step is left do not count.
    """
    steps = [one.get("step", 0) if isinstance(one.get("step", 0), int) else 0 for one in starts]
    at_work = [i for i in range(len(starts)) if all(steps[i] < later for later in steps[i + 1 :])]
    kept = [(steps[i], _told(starts[i])) for i in at_work]
    said = []
    for key in dict.fromkeys(key for _, told in kept for key in told):
        values = [(step, told.get(key)) for step, told in kept]
        new = [pair for i, pair in enumerate(values) if i == 0 or pair[1] != values[i - 1][1]]
        if len(new) > 1:
            after = (f", after step {step:,}: {value}" for step, value in new[1:])
            said.append(f"{key}: {new[0][1]}{''.join(after)}")
    return "; ".join(said)


def _told(start: Mapping[str, Any]) -> dict[str, str]:
    packages = start.get("packages")
    known = {key: start[key] for key in _CHANGES if key in start}
    known |= packages if isinstance(packages, dict) else {}
    return {str(key): "none" if value is None else str(value) for key, value in known.items()}


def command(folder: Path) -> str:
    """The command that started a run; "" where nobody wrote it down, or where it was no command of ours."""
    words = environment(folder).get("command")
    if not isinstance(words, list) or not words or not all(isinstance(word, str) for word in words):
        return ""
    program = Path(words[0])
    if program.name not in ("ssl-kd", "ssl-kd.exe", "train.py") and program.parent.name != "ssl_kd":
        return ""  # a program that called ours with words that it had itself
    return shlex.join(["ssl-kd", "train", *(w for w in words[1:] if w != "train")])


def read_scores(path: Path) -> dict[str, Any]:
    """A summary.json, or a file of eval/; {} where there is none. Raises InputError for what is no score."""
    found = mapping_of(path)
    for part in _SCORED:
        odd = next(_odd(found.get(part) or {}, part, nested=1 + (part == "peers")), None)
        if odd:
            raise InputError(f"{path}: {odd} is not what a probe writes")
    for key in _NUMBERS:
        if not _is_number(found.get(key)):
            raise InputError(f"{path}: {key} is no number")
    return found


def probe_of(summary: Mapping[str, Any], config: DictConfig) -> Mapping[str, Any]:
    """The options of `probe` by which a run was scored: those of its summary.json, or else of its config."""
    scored = summary.get("scored")
    found = scored.get("probe") if isinstance(scored, dict) else None
    if not isinstance(found, dict):
        return config.probe
    given = OmegaConf.create({"probe": {**config.probe, **found}})
    check(given, VALUES)
    return given.probe


_SCORED = ("peers", "ensemble", "baselines", "macs", "training_macs", "health")
_NUMBERS = ("steps", "step", "checkpoint_step", "seconds", "images_per_second")
_GROUPS = ("knn", "few_labels", "robustness", "linear_sgd", "finetune", "transfer", "pixels", "untrained")
# Accuracies that are one number, and what people call them; groups of classes by their train images.
SINGLES = {
    "linear": "linear",
    "top1": "top-1",
    "top1_many": "top-1, many",
    "top1_medium": "top-1, medium",
    "top1_few": "top-1, few",
}
_SINGLE = (*SINGLES, "parameters")


def _odd(node: Any, path: str, nested: int) -> Iterator[str]:
    """Paths below `node` that hold no numbers, or a number where there is more; nested: so many mappings."""
    if isinstance(node, dict):
        for key, value in node.items():
            below = f"{path}.{key}"
            if key in _SINGLE and isinstance(value, dict):
                yield below
            yield from _odd(value, below, 1 if key in _GROUPS else nested - 1)
    elif nested > 0 or not all(map(_is_number, node if isinstance(node, list) else [node])):
        yield path


def _is_number(value: Any) -> bool:
    return value is None or isinstance(value, int | float)


def read_lines(path: Path) -> Iterator[dict[str, Any]]:
    """The lines of a metrics.jsonl, one by one; one that was cut short is left out. Raises InputError."""
    if not os.path.lexists(path):
        return
    try:
        for line in lines_of(path):
            float(line["step"]), float(line["epoch"])
            yield line
    except InputError:
        raise
    except (ValueError, TypeError, KeyError, OverflowError) as error:
        raise InputError(f"{path} cannot be read ({' '.join(str(error).split())})") from error


def check_links(folder: str | Path) -> None:
    """Refuses a run folder in which what is written would lie elsewhere, by a link that leads out of it.

    And one where a pipe, a socket or a device has the place of a file.
    """
    whole = Path(os.path.realpath(folder))
    for place, folders, files in os.walk(whole):
        for name in [*folders, *files]:
            path = Path(place) / name
            mode = path.lstat().st_mode
            if stat.S_ISLNK(mode) and not Path(os.path.realpath(path)).is_relative_to(whole):
                raise InputError(
                    f"{path} is a link that leads out of the run folder, and what is written there would "
                    "overwrite something else; take it away"
                )
            if stat.S_ISLNK(mode) and path.parent == whole and name in LINKLESS:
                raise InputError(f"{path} is a link, and what is written there goes to a file; take it away")
            if not (stat.S_ISLNK(mode) or stat.S_ISREG(mode) or stat.S_ISDIR(mode)):
                raise InputError(f"{path} is a pipe, a socket or a device, and no file; take it away")
