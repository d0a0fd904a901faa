"""`ssl-kd eval`: several probes of a finished run, loaded once, in one table."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from ssl_kd.commands.catalogue import PROBES, probe_options, refuse_unknown
from ssl_kd.errors import InputError, nearest
from ssl_kd.system.text import print_line
from ssl_kd.words import options

OPTIONS = ("run", "probes", "checkpoint", "device", "data_changed")
USUAL = ("knn", "linear")
_ELSEWHERE = ("transfer",)  # needs to be told another data set


@dataclass(frozen=True)
class Asked:
    """probes: name -> the options that were said for it."""

    run: str
    probes: dict[str, dict[str, Any]]
    checkpoint: str | None
    device: str
    data_changed: str | None


def read(words: Sequence[str]) -> Asked:
    """What the words ask for; the run is not looked at. Raises InputError."""
    kept = [word for word in words if word.startswith(("transfer.data=", "transfer.data."))]
    given = options([word for word in words if word not in kept])
    given |= dict(word.split("=", 1) for word in kept)
    own = {f"{name}.{option.key}" for name in PROBES for option in probe_options(name)}
    general = {key: value for key, value in given.items() if key.partition(".")[0] not in PROBES}
    refuse_unknown("eval", general, OPTIONS)
    probes = given.get("probes") or list(USUAL)
    probes = [probes] if isinstance(probes, str) else probes
    if probes == ["all"]:
        probes = [name for name in PROBES if name not in _ELSEWHERE]
    for name in probes if isinstance(probes, list) else ["?"]:
        if name not in PROBES:
            raise InputError(f'there is no probe "{name}"; {nearest(str(name), [*PROBES, "all"])}')
    if given.get("run") in (None, ""):
        raise InputError("run is needed; give it as run=runs/NAME")
    found: dict[str, dict[str, Any]] = {name: {} for name in probes}
    for key, value in given.items():
        name, dot, option = key.partition(".")
        if not dot:
            continue
        if key not in own and not key.startswith("transfer.data."):
            raise InputError(f'"{key}" is not an option of eval; {nearest(key, sorted(own))}')
        if name not in found:
            raise InputError(f'"{key}" is for a probe that is not asked for; say probes=[...,{name}]')
        found[name][option] = value
    device, changed = str(given.get("device") or "auto"), given.get("data_changed")
    return Asked(str(given["run"]), found, given.get("checkpoint"), device, changed)


def evaluate(asked: Asked) -> int:
    """Prints the table; returns the exit code. What cannot be made hinders no other; InputError last."""
    from ssl_kd.console import console
    from ssl_kd.finished import load
    from ssl_kd.machine import pick_device, set_threads
    from ssl_kd.probing import checked, score
    from ssl_kd.tables import probe_table, scores_table

    probes = {name: checked(name, given) for name, given in asked.probes.items()}
    set_threads(None)
    finished = load(asked.run, pick_device(asked.device), asked.checkpoint, asked.data_changed)
    results: dict[str, Any] = {}
    failed: dict[str, InputError] = {}
    for name, given in probes.items():
        try:
            results[name] = score(finished, name, given)
        except InputError as error:
            failed[name] = error
    out = console()
    for note in (note for result in results.values() for note in result.get("notes", ())):
        out.print(note, soft_wrap=True, markup=False)
    scored = {name: result for name, result in results.items() if "peers" in result}
    if scored:
        out.print(scores_table(scored))
    for name, result in results.items():
        if name not in scored:
            out.print(probe_table(name, result))
    for name in results:
        print_line(f"{asked.run}/eval/{name}.json")
    if failed:
        reasons = dict.fromkeys(str(error) for error in failed.values())
        made = f"; the others are made: {', '.join(results)}" if results else ""
        raise InputError(f"not made: {', '.join(failed)} ({'; '.join(reasons)}){made}")
    return 0
