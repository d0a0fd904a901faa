"""Does a long run leak? Memory, open files and threads of a training with probes and checkpoints.

    python benchmarks/soak.py [minutes=60] [every=10] data=arrays data.path=cifar10.npz [options of train]

The run is a process of its own, stopped by SIGTERM at the end. Every `every` seconds its resident memory,
open files and threads, with those of its workers, are read from /proc and printed as a JSON line. The last
line has the slope of memory over the last two thirds (least squares, MiB per hour), with its 95 % interval
from means over tenths of that time, since neighbouring samples are not independent; and the others' ranges.
"""

import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import numpy as np

PAGE = os.sysconf("SC_PAGE_SIZE")
STUDENT_T = 2.306  # 97.5 % quantile, 8 degrees of freedom: ten means and a line


def sample(pid: int) -> dict[str, int]:
    """Of a process and its children."""
    children = Path(f"/proc/{pid}/task/{pid}/children").read_text().split()
    pids = [pid, *map(int, children)]
    pages = sum(int(Path(f"/proc/{p}/statm").read_text().split()[1]) for p in pids)
    return {
        "bytes": pages * PAGE,
        "files": sum(len(os.listdir(f"/proc/{p}/fd")) for p in pids),
        "threads": sum(len(os.listdir(f"/proc/{p}/task")) for p in pids),
        "processes": len(pids),
    }


def main(minutes: float, every: float, words: list[str]) -> int:
    command = [sys.executable, "-m", "ssl_kd", "train", "epochs=100000", "probe.every=1", *words]
    child = subprocess.Popen(command, stdout=subprocess.DEVNULL)
    began, samples = time.monotonic(), []
    while time.monotonic() - began < 60 * minutes and child.poll() is None:
        time.sleep(every)
        try:
            samples.append({"seconds": round(time.monotonic() - began, 1), **sample(child.pid)})
        except (FileNotFoundError, ProcessLookupError):  # a worker ended meanwhile
            continue
        print(json.dumps(samples[-1]), flush=True)
    child.send_signal(signal.SIGTERM)
    code = child.wait(timeout=120)
    print(json.dumps({"command": words, "exit": code, "samples": len(samples), **judged(samples)}))
    return 0 if code == 75 else 1


def judged(samples: list[dict[str, Any]]) -> dict[str, Any]:
    """The slope of memory once it is warm, and what the counts did."""
    late = samples[len(samples) // 3 :]
    parts = np.array_split(np.array([(s["seconds"] / 3600, s["bytes"] / 2**20) for s in late]), 10)
    hours, memory = np.array([part.mean(0) for part in parts]).T
    slope, level = np.polyfit(hours, memory, 1)
    error = np.sqrt(((memory - slope * hours - level) ** 2).sum() / 8 / ((hours - hours.mean()) ** 2).sum())
    ranges = {key: [min(s[key] for s in late), max(s[key] for s in late)] for key in ("files", "threads")}
    return {
        "mib": round(float(memory.mean()), 1),
        "mib_per_hour": round(float(slope), 2),
        "interval": [round(float(slope + sign * STUDENT_T * error), 2) for sign in (-1, 1)],
        **ranges,
    }


if __name__ == "__main__":
    given = dict(word.split("=", 1) for word in sys.argv[1:] if word.startswith(("minutes=", "every=")))
    others = [word for word in sys.argv[1:] if not word.startswith(("minutes=", "every="))]
    sys.exit(main(float(given.get("minutes", 60)), float(given.get("every", 10)), others))
