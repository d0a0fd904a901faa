"""The record attempt: wall-clock time to 90.3 % kNN (k = 10, cosine) on CIFAR-10, without labels, ResNet-18.

    python benchmarks/record.py data=cifar10 [minutes=9] [epochs=200] [target=0.903] [options of ssl-kd train]

Trains SimCLR in pieces: a piece ends after `minutes` with its state saved, and the same command goes on; so a
machine that is lent for ten minutes at a time will do. Every probe's score is printed with the seconds of
training before it (loading and probing left out); the last line has the wall-clock time of all pieces. The
labels of the training split are used by the probe alone; nothing that is learned or chosen depends on them.
"""

import json
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

from ssl_kd.system.paths import expand

SETTINGS = {
    "method": "simclr",
    "peers": "[resnet18]",
    "batch_size": "512",
    "epochs": "200",
    "run": "runs/record",
    "probe.every": "5",
    "probe.knn": "[10]",
    "probe.linear": "false",
    "probe.baselines": "false",
}


def piece(words: list[str], seconds: float) -> tuple[int, float]:
    """Trains for at most that long. The exit code (0: all epochs are done, 130: goes on) and seconds."""
    began = time.monotonic()
    child = subprocess.Popen([sys.executable, "-m", "ssl_kd", "train", *words])
    try:
        child.wait(seconds)
    except subprocess.TimeoutExpired:
        child.send_signal(signal.SIGINT)
    return child.wait(), time.monotonic() - began


def curve(run: Path, batch_size: int) -> list[dict[str, Any]]:
    """Per probe: epoch, kNN accuracy, seconds of training before it (images over images per second)."""
    found, seconds, before = [], 0.0, 0
    for line in map(json.loads, (run / "metrics.jsonl").read_text().splitlines()):
        if "peers" in line:
            accuracy = next(iter(line["peers"].values()))["knn"]["10"]
            found.append({"epoch": line["epoch"], "knn10": accuracy, "training": round(seconds, 1)})
        elif line["images_per_second"]:
            seconds += (line["step"] - before) * batch_size / line["images_per_second"]
            before = line["step"]
    return found


def main(words: list[str]) -> None:
    given = dict(word.split("=", 1) for word in words)
    minutes, target = float(given.pop("minutes", 9)), float(given.pop("target", 0.903))
    asked = {**SETTINGS, **given}
    run = expand(asked["run"])
    code, took = piece([f"{key}={value}" for key, value in asked.items()], 60 * minutes)
    if code not in (0, 130):
        sys.exit(code)
    walls = run / "wall.jsonl"
    with walls.open("a") as file:
        file.write(json.dumps({"seconds": took}) + "\n")
    wall = sum(json.loads(line)["seconds"] for line in walls.read_text().splitlines())
    scores = curve(run, int(asked["batch_size"]))
    for score in scores:
        print(json.dumps(score))
    reached = next((score for score in scores if score["knn10"] >= target), None)
    best = max((score["knn10"] for score in scores), default=None)
    print(
        json.dumps(
            {"target": target, "reached": reached, "best": best, "wall": round(wall, 1), "done": code == 0}
        )
    )


if __name__ == "__main__":
    main(sys.argv[1:])
