"""Seconds from the command to the end of the first step of the default run; of `import`, `--help`, `show`.

    python benchmarks/startup.py [rounds=5]

One run first, uncounted, so that the files are in the machine's cache; a run is stopped after its first step.
Prints a JSON line per round and the medians. Run it in a checkout.
"""

import json
import os
import shutil
import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path

from ssl_kd.words import options

ROOT = Path(__file__).parent.parent
ANSWERS = {
    "import": [sys.executable, "-c", "import ssl_kd"],
    "help": [sys.executable, "-m", "ssl_kd", "--help"],
    "show": [sys.executable, "-m", "ssl_kd", "show"],
}
RUNS = {
    "ssl-kd train": [sys.executable, "-m", "ssl_kd", "train"],
    "accelerate launch": [
        *[sys.executable, "-m", "accelerate.commands.accelerate_cli", "launch"],
        str(ROOT / "ssl_kd" / "train.py"),
    ],
}


def first_step(command: list[str]) -> float:
    """Until the first line of metrics, which is written after the first step."""
    folder = Path(tempfile.mkdtemp())
    metrics = folder / "run" / "metrics.jsonl"
    environment = {**os.environ, "PYTHONPATH": str(ROOT)}
    began = time.perf_counter()
    child = subprocess.Popen(
        [*command, f"run={folder / 'run'}"],
        stdout=subprocess.DEVNULL,
        stderr=subprocess.PIPE,
        env=environment,
        cwd=folder,
        start_new_session=True,
    )
    while not (metrics.exists() and metrics.stat().st_size):
        if child.poll() is not None:
            assert child.stderr is not None
            sys.exit(
                f"startup.py: {' '.join(command)} ended without a step: {child.stderr.read().decode()[-500:]}"
            )
        time.sleep(0.01)
    seconds = time.perf_counter() - began
    os.killpg(child.pid, 9)
    child.wait()
    shutil.rmtree(folder)
    return seconds


def answer(command: list[str]) -> float:
    began = time.perf_counter()
    subprocess.run(command, check=True, capture_output=True, env={**os.environ, "PYTHONPATH": str(ROOT)})
    return time.perf_counter() - began


def main(words: list[str]) -> None:
    rounds = int(options(words).get("rounds", 5))
    found: dict[str, list[float]] = {name: [] for name in [*ANSWERS, *RUNS]}
    for number in range(rounds + 1):
        now = {name: answer(command) for name, command in ANSWERS.items()}
        now |= {name: first_step(command) for name, command in RUNS.items()}
        if number:
            for name, seconds in now.items():
                found[name].append(seconds)
            print(json.dumps({"round": number, **{k: round(v, 2) for k, v in now.items()}}), flush=True)
    print(json.dumps({"seconds": {name: round(statistics.median(all_), 2) for name, all_ in found.items()}}))


if __name__ == "__main__":
    main(sys.argv[1:])
