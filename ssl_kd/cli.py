"""The command `ssl-kd`. Nothing heavy is imported before it is known to be needed."""

import sys
from collections.abc import Sequence
from contextlib import nullcontext

from ssl_kd.commands.catalogue import COMMANDS as _COMMANDS
from ssl_kd.commands.catalogue import PROBES as _PROBES
from ssl_kd.errors import guarded
from ssl_kd.system.safe_path import leave_current_folder
from ssl_kd.system.text import guard_streams, print_line, print_lines

COMMANDS, PROBES = tuple(_COMMANDS), tuple(_PROBES)
OFFLINE = (*PROBES, "eval", "report", "export", "show", "doctor")  # but with online=true
ALWAYS_OFFLINE = ("compare", "runs")


def main(argv: Sequence[str] | None = None) -> int:
    """`ssl-kd COMMAND key=value ...`; returns the exit code."""
    return script() if argv is None else guarded(_main, list(argv))


def script(*first: str) -> int:
    """The command of this process: `first`, and what stands on the command line; returns the exit code."""
    leave_current_folder()
    guard_streams()
    return guarded(_main, [*first, *sys.argv[1:]])


def _main(words: list[str]) -> int:
    asked = [word for word in words if word in ("--help", "-h")]
    rest = [word for word in words if word not in asked]
    if rest[:1] == ["help"]:
        asked, rest = ["help"], rest[1:]
    if asked or not rest:
        return _help(rest)
    return _online(rest[0], rest[1:])


def _online(command: str, words: list[str]) -> int:
    """Runs a command, which goes online only where its own words, and no run, say where to."""
    if command not in (*OFFLINE, *ALWAYS_OFFLINE):
        return _run(command, words)
    from ssl_kd.system import network

    rest, allow = network.taken(words) if command in OFFLINE else (words, None)
    with network.online(bool(allow)), nullcontext() if allow else network.fenced():
        return _run(command, rest)


def _run(command: str, rest: list[str]) -> int:
    from ssl_kd.errors import InputError, nearest

    if command == "train":
        from ssl_kd.train import _main as train

        return train(rest)
    if command == "show":
        from ssl_kd.config import compose
        from ssl_kd.console import console
        from ssl_kd.show import method_page

        console().print(method_page(compose(rest)), soft_wrap=True)
        return 0
    if command == "timing":
        from ssl_kd.own.words import starting

        with starting(rest) as words:
            return timing(words)
    if command == "doctor":
        from ssl_kd.commands.doctor import main as doctor

        return doctor(rest)
    if command == "init":
        from ssl_kd.commands.init import main as init

        return init(rest)
    if command == "runs":
        from ssl_kd.commands.runs import main as runs

        return runs(rest)
    if command == "eval":
        return several(rest)
    if command == "study":
        from ssl_kd.study import main as study

        return study(rest)
    if command == "compare":
        from ssl_kd.compare import main as compare

        return compare(rest)
    if command == "report":
        from ssl_kd.report import main as report

        return report(rest)
    if command == "trust":
        from ssl_kd.commands.trust import main as trust

        return trust(rest)
    if command == "export":
        from ssl_kd.export import main as export
        from ssl_kd.words import options

        return export(options(rest))
    if command in PROBES:
        return probe(command, rest)
    if command in ("completion", "__complete"):
        from ssl_kd.commands import completion

        print_lines(completion.script(rest) if command == "completion" else completion.answer(rest))
        return 0
    if command == "--version":
        from ssl_kd import __version__

        print_line(__version__)
        return 0
    raise InputError(f'there is no command "{command}"; {nearest(command, [*COMMANDS, *PROBES])}')


def _help(words: list[str]) -> int:
    """The page of a command, or of all."""
    from ssl_kd.commands.pages import overview, page

    known = [word for word in words if word in (*COMMANDS, *PROBES)]
    print_lines(page(known[0], words) if known else overview())
    return 0


def probe(name: str, words: list[str]) -> int:
    """One probe of a run: `run=FOLDER`, `device`, `checkpoint`, and the options of the probe."""
    from ssl_kd.errors import InputError
    from ssl_kd.words import options

    # What names a data set is kept as a word, which `transfer` composes.
    data = [word for word in words if word.startswith("data=")]
    given = options([word for word in words if word not in data]) | dict(word.split("=", 1) for word in data)
    folder, device = given.pop("run", None), given.pop("device", "auto")
    if folder in (None, ""):
        raise InputError("run is needed; give it as run=runs/NAME")
    from ssl_kd.console import console
    from ssl_kd.machine import pick_device, set_threads
    from ssl_kd.probing import probe as run_probe
    from ssl_kd.tables import probe_table

    set_threads(None)
    result = run_probe(str(folder), name, given, pick_device(device))
    for note in result.get("notes", ()):
        console().print(note, soft_wrap=True, markup=False)
    console().print(probe_table(name, result))
    print_line(f"{folder}/eval/{name}.json")
    return 0


def several(words: list[str]) -> int:
    """Several probes of a run in one table: `run=FOLDER probes=[knn,linear]`, and `PROBE.option=value`."""
    from ssl_kd.commands.evaluate import read

    asked = read(words)
    from ssl_kd.commands.evaluate import evaluate

    return evaluate(asked)


def timing(words: list[str]) -> int:
    """Where a step's time goes: any option of `train`, and `measure`, the number of steps."""
    from ssl_kd.config import compose
    from ssl_kd.errors import InputError
    from ssl_kd.launch import launched
    from ssl_kd.words import options

    own = [word for word in words if word.lstrip("+").startswith("measure=")]
    count = options(own).get("measure", 20)
    if not isinstance(count, int) or isinstance(count, bool) or count < 1:
        raise InputError(f'measure must be a whole number of steps, at least 1, and "{count}" is not')
    steps = [word.partition("=")[2] for word in words if word.lstrip("+").startswith("steps=")]
    if steps:
        raise InputError(f"steps is filled in by the data; measure={steps[-1]} says how many to measure")
    config = compose([word for word in words if word not in own])
    if config.processes and config.processes > 1 and not launched():
        raise InputError(
            "timing starts no processes of its own; start them with accelerate launch or torchrun, "
            "or leave processes= out"
        )
    from ssl_kd.timing import report

    return report(config, count)
