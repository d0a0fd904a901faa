"""Several processes on this machine, for `ssl-kd train processes=N`.

torch's own launchers report a child's exit code as 1 and print its traceback twice; here the child's one
sentence and its exit code are the command's.
"""

import os
import socket
import subprocess
import time
from collections.abc import Callable, Sequence

from ssl_kd.signals import passed_on
from ssl_kd.system.safe_path import environment, python


def cores() -> int:
    """Cores that this process may use."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


def launched() -> bool:
    """Whether some launcher (accelerate, torchrun, this one) started this process."""
    return any(name in os.environ for name in ("WORLD_SIZE", "LOCAL_RANK", "ACCELERATE_MIXED_PRECISION"))


def said_threads() -> int | None:
    """The user's OMP_NUM_THREADS, if there is one.

    Launchers set it to 1 on their own, which would leave all cores but one idle; so under them a 1 is not the
    user's word.
    """
    said = os.environ.get("OMP_NUM_THREADS", "")
    return int(said) if said.isdigit() and int(said) > 0 and not (said == "1" and launched()) else None


def free_port() -> int:
    """A port of this machine that nobody listens on now."""
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        return free.getsockname()[1]


def spawn(words: Sequence[str], processes: int, device: str = "auto") -> int:
    """Runs `ssl-kd train words...` in `processes` processes; returns the exit code of one that failed, or 0.

    Ctrl-C reaches all of them from the terminal, other signals are passed on. When one ends with a code, the
    others are asked to.
    """
    shared = {"WORLD_SIZE": str(processes), "MASTER_ADDR": "127.0.0.1", "MASTER_PORT": str(free_port())}
    shared |= {"LOCAL_WORLD_SIZE": str(processes)}
    shared |= {"OMP_NUM_THREADS": os.environ.get("OMP_NUM_THREADS", str(max(1, cores() // processes)))}
    if device == "cpu" or not os.path.exists("/dev/nvidia0"):
        shared["ACCELERATE_USE_CPU"] = "1"  # or accelerate asks for an accelerator's process group
    children: list[subprocess.Popen] = []
    with passed_on(_to(children)):
        for rank in range(processes):
            own = environment(**shared, RANK=str(rank), LOCAL_RANK=str(rank))
            children.append(subprocess.Popen(python("ssl_kd.train", list(words)), env=own))
        while True:
            try:
                return _wait(children)
            except KeyboardInterrupt:
                continue  # the children have it too; they save and end by themselves


def _to(children: Sequence[subprocess.Popen]) -> Callable[[int], None]:
    def send(number: int) -> None:
        for child in children:
            child.send_signal(number)

    return send


def _wait(children: Sequence[subprocess.Popen]) -> int:
    while None in (codes := [child.poll() for child in children]):
        if any(codes):
            time.sleep(1.0)  # the others may be about to say why, too
            for child in children:
                child.terminate()
        time.sleep(0.05)
    failed = [child.returncode for child in children if child.returncode > 0]
    ended = [128 - child.returncode for child in children if child.returncode < 0]  # by a signal
    return min(failed or ended or [0])
