"""Large folders, long runs, many runs: seconds and memory of a command, as one JSON line for each case.

python benchmarks/load.py [CASE ...] [at=FOLDER]     all cases, or these; what they need is made in FOLDER

Each command is a process of its own. wall, cpu: seconds; cpu is of all its threads and children. peak: MiB of
memory of the largest process. A case that has several commands gives their sum and their largest peak.
"""

import json
import resource
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from io import BytesIO
from pathlib import Path
from typing import Any

import numpy as np
import yaml
from PIL import Image

SMALL = "{backbone: {name: resnet8, base: 4}}"
TRAIN = ["train", "method=dogo", "tracker=none", "epochs=1", f"peers={{a: {SMALL}, b: {SMALL}}}"]
DIGITS = [*TRAIN, "data=digits", "data.limit=64", "batch_size=32", "probe.baselines=false", "log_every=1"]

Commands = list[list[str]]
FIRST_STEP = "first step"  # in place of ssl-kd: the command is ended when it has taken a step


def report200k(at: Path) -> Commands:
    """The report of a run of 200,000 lines, with health every 50 steps and probes every 10,000."""
    run = at / "long"
    if not run.is_dir():
        command(["ssl-kd", *DIGITS, "health.every=1", "probe.every=1", f"run={run}"])
        written = [json.loads(line) for line in (run / "metrics.jsonl").read_text().splitlines()]
        first = {key: next(line for line in written if key in line) for key in ("terms", "health", "peers")}
        noise = np.random.default_rng(0).normal(1, 0.05, 200_000)
        with open(run / "metrics.jsonl", "w", encoding="utf-8") as file:
            for step in range(1, 200_001):
                kinds = [
                    "terms",
                    *(["health"] if step % 50 == 0 else []),
                    *(["peers"] if step % 10_000 == 0 else []),
                ]
                for kind in kinds:
                    line = first[kind] | {"step": step, "epoch": step / 100}
                    if kind == "terms":
                        line["terms"] = {
                            name: value * noise[step - 1] for name, value in line["terms"].items()
                        }
                    file.write(json.dumps(line) + "\n")
    return [["ssl-kd", "report", f"run={run}"]]


def compare100(at: Path) -> Commands:
    """The comparison of 100 runs: 20 groups of 5 seeds, two peers each."""
    source, runs = at / "short", at / "hundred"
    if not runs.is_dir():
        command(["ssl-kd", *DIGITS, "probe.every=1", f"run={source}"])
        for group in range(20):
            for seed in range(5):
                place = runs / f"g{group}-{seed}"
                place.mkdir(parents=True)
                for name in ("summary.json", "metrics.jsonl", "data.json", "environment.json"):
                    (place / name).write_text((source / name).read_text())
                config = yaml.safe_load((source / "config.yaml").read_text()) | {"seed": seed}
                config["batch_size"] += group
                (place / "config.yaml").write_text(yaml.safe_dump(config, sort_keys=False))
    return [["ssl-kd", "compare", *map(str, sorted(runs.iterdir())), "base=g0", f"out={at / 'compared'}"]]


def classes1000(at: Path) -> Commands:
    """1,000 classes of 5 images: a training with its probes, and its report."""
    images, run = at / "classes", at / f"classes-{time.time_ns()}"
    pngs(images, 1_000, 5_000, 1_000)
    words = ["data=folder", f"data.root={images}", "data.size=32", "batch_size=128", f"run={run}"]
    return [["ssl-kd", *TRAIN, *words], ["ssl-kd", "report", f"run={run}"]]


def png100k(at: Path) -> Commands:
    """A folder of 90,000 PNGs to train on and 10,000 to test on, from the command to the first step."""
    images, run = at / "many", at / f"many-{time.time_ns()}"
    pngs(images, 10, 90_000, 10_000)
    words = ["data=folder", f"data.root={images}", "data.size=32", "batch_size=128", "data.resident_bytes=0"]
    return [[FIRST_STEP, *TRAIN, *words, "probe.baselines=false", "log_every=1", f"run={run}"]]


CASES: dict[str, Callable[[Path], Commands]] = {
    function.__name__: function for function in (report200k, compare100, classes1000, png100k)
}


def pngs(folder: Path, classes: int, train: int, test: int) -> None:
    """Images of noise, 32 pixels a side, all different."""
    if folder.is_dir():
        return
    rng = np.random.default_rng(0)
    for split, size in (("train", train), ("test", test)):
        for i in range(size):
            place = folder / split / f"c{i % classes:04}"
            if i < classes:
                place.mkdir(parents=True)
            picture = BytesIO()
            Image.fromarray(rng.integers(0, 256, (32, 32, 3), np.uint8)).save(
                picture, "PNG", compress_level=1
            )
            (place / f"{i:06}.png").write_bytes(picture.getvalue())


def command(words: list[str]) -> None:
    """Runs one command of ours; of one that begins with FIRST_STEP, until it has logged a step."""
    python = [sys.executable, "-P", "-m", "ssl_kd", *words[1:]]
    if words[0] != FIRST_STEP:
        subprocess.run(python, check=True, stdout=subprocess.DEVNULL)
        return
    run = next(Path(word.removeprefix("run=")) for word in words if word.startswith("run="))
    child = subprocess.Popen(python, stdout=subprocess.DEVNULL)
    while child.poll() is None and not (run / "metrics.jsonl").exists():
        time.sleep(0.1)
    child.kill()
    child.wait()


def measure(name: str, at: Path) -> dict[str, Any]:
    """Wall and CPU seconds and the peak of the commands of a case."""
    found: dict[str, Any] = {"case": name, "wall": 0.0, "cpu": 0.0, "peak": 0.0}
    for words in CASES[name](at):
        # A process in between, whose only children are those of this command.
        between = [sys.executable, __file__, "--one", *words]
        one = json.loads(subprocess.run(between, check=True, capture_output=True, text=True).stdout)
        found |= {key: round(found[key] + one[key], 1) for key in ("wall", "cpu")}
        found["peak"] = max(found["peak"], round(one["peak"]))
    return found


def one(words: list[str]) -> None:
    began = time.monotonic()
    command(words)
    used = resource.getrusage(resource.RUSAGE_CHILDREN)
    seconds = {"wall": time.monotonic() - began, "cpu": used.ru_utime + used.ru_stime}
    print(json.dumps({**seconds, "peak": used.ru_maxrss / 1024}))


def main(words: list[str]) -> None:
    if words[:1] == ["--one"]:
        return one(words[1:])
    at = next((word.removeprefix("at=") for word in words if word.startswith("at=")), None)
    names = [word for word in words if not word.startswith("at=")] or list(CASES)
    with tempfile.TemporaryDirectory() as folder:
        for name in names:
            print(json.dumps(measure(name, Path(at or folder).absolute())), flush=True)
    return None


if __name__ == "__main__":
    main(sys.argv[1:])
