"""Starts the processes that are compared, and says what one of them met.

It is one itself, `python -P -m ssl_kd.testing.processes FOLDER`: what all of them import, it imports once.
"""

import multiprocessing
import os
import sys
import time
from collections.abc import Callable, Mapping
from importlib import import_module
from multiprocessing.process import BaseProcess
from pathlib import Path

from ssl_kd.system.text import print_line
from ssl_kd.testing import worker

_LATE = ("torch._dynamo", "sklearn.datasets")  # what torch's optimisers and the digits would import in each
_LAUNCHERS = ("ACCELERATE_", "RANK", "LOCAL_", "WORLD_SIZE", "MASTER_", "GROUP_", "TORCHELASTIC_")


def main(folder: Path) -> int:
    """Runs `worker` on each number of processes that the job names, all at once; returns the exit code."""
    job = worker.read(folder)
    for module in _LATE:
        import_module(module)
    context = multiprocessing.get_context("fork" if sys.platform == "linux" else "spawn")
    children: dict[Path, BaseProcess] = {}
    for world in job["worlds"]:
        for rank in range(world):
            said = folder / f"{world}-{rank}.txt"
            children[said] = context.Process(target=_child, args=(folder, said, rank, world))  # type: ignore[attr-defined]
    for child in children.values():
        child.start()
    try:
        return _wait(children, time.monotonic() + job["timeout"])
    finally:
        for child in children.values():
            child.kill()


def _child(folder: Path, said: Path, rank: int, world: int) -> None:
    with open(said, "w") as file:
        os.dup2(file.fileno(), 1)
        os.dup2(file.fileno(), 2)
    for key in [key for key in os.environ if key.startswith(_LAUNCHERS)]:
        del os.environ[key]
    if world > 1:  # what a launcher would say
        own = {"RANK": rank, "LOCAL_RANK": rank, "WORLD_SIZE": world, "LOCAL_WORLD_SIZE": world}
        os.environ.update({"ACCELERATE_USE_CPU": "1"} | {key: str(value) for key, value in own.items()})
    code = worker.main(folder, rank, world)
    sys.stdout.flush()
    sys.stderr.flush()
    os._exit(code)  # at once: to leave gloo's group, torch 2.6 may wait for ever for a process that has ended


def _wait(children: Mapping[Path, BaseProcess], end: float) -> int:
    """0 when all have done their work; otherwise what they said is printed."""

    def where(met: Callable[[int | None], bool]) -> list[Path]:
        return [said for said, child in children.items() if met(child.exitcode)]

    while (running := where(lambda code: code is None)) and time.monotonic() < end:
        if where(lambda code: bool(code)):
            time.sleep(1.0)  # the others may be about to say why, too
            break
        time.sleep(0.05)
    refused, failed = where(lambda code: code == 2), where(lambda code: bool(code))
    for said in refused[:1] or failed or running:
        for line in (f"{said.stem.replace('-', ' processes, number ')}:", *said.read_text().splitlines()):
            print_line(line, sys.stderr)
    return 2 if refused else 1 if failed or running else 0


if __name__ == "__main__":
    sys.exit(main(Path(sys.argv[1])))
