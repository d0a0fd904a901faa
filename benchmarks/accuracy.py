"""Does the fast path cost accuracy? Paired runs of it and of the plain one, seed by seed.

    python benchmarks/accuracy.py out=runs/accuracy seeds=5 data=digits [any option of ssl-kd train]

fast: the defaults: bfloat16 where the processor has it, channels-last memory, batched views, fused optimiser.
plain: float32, contiguous memory, torchvision's transforms on one PIL image after the other, unfused.

Both start from the same weights and see the same images in the same order; the views are drawn anew. Every
run is a run folder: started again, the script goes on where it was. Prints a JSON line per pair, and one per
score with the mean difference fast - plain in points and its 95 % interval (Student's t over the pairs).
"""

import json
import os
import statistics
import subprocess
import sys
from pathlib import Path
from typing import Any

from scipy.stats import t

from ssl_kd.system.paths import expand

SIDES = {
    "fast": [],
    "plain": [
        "precision=float32",
        "channels_last=false",
        "optim.optimizer.fused=false",
        "recipe._target_=torchvision_recipe.Torchvision",
    ],
}


def scores(side: str, seed: int, out: Path, words: list[str]) -> dict[str, float]:
    """Trains, unless that has been done, and reads what came out: means over the peers, in percent."""
    run = out / f"{side}-{seed}"
    if not (run / "summary.json").exists():
        here = str(Path(__file__).parent)
        paths = os.pathsep.join([here, *filter(None, [os.environ.get("PYTHONPATH")])])
        command = [sys.executable, "-m", "ssl_kd", "train", f"run={run}", f"seed={seed}"]
        asked = [*words, *SIDES[side], "probe.baselines=false"]
        subprocess.run([*command, *asked], check=True, env={**os.environ, "PYTHONPATH": paths})
    peers: list[dict[str, Any]] = list(json.loads((run / "summary.json").read_text())["peers"].values())
    found = {f"knn{k}": [peer["knn"][k] for peer in peers] for k in peers[0]["knn"]}
    found["linear"] = [peer["linear"] for peer in peers]
    return {name: 100 * statistics.mean(values) for name, values in found.items()}


def main(words: list[str]) -> None:
    given = dict(word.split("=", 1) for word in words if word.startswith(("out=", "seeds=")))
    rest = [word for word in words if not word.startswith(("out=", "seeds="))]
    out, count = expand(given.get("out", "runs/accuracy")), int(given.get("seeds", 5))
    pairs = []
    for seed in range(count):
        pair = {side: scores(side, seed, out, rest) for side in SIDES}
        pairs.append(pair)
        print(json.dumps({"seed": seed, **pair}), flush=True)
    for name in pairs[0]["fast"]:
        gaps = [pair["fast"][name] - pair["plain"][name] for pair in pairs]
        half = t.ppf(0.975, count - 1) * statistics.stdev(gaps) / count**0.5 if count > 1 else float("nan")
        mean = statistics.mean(gaps)
        line = {
            "score": name,
            "difference": round(mean, 2),
            "interval": [round(mean - half, 2), round(mean + half, 2)],
        }
        line |= {side: round(statistics.mean(pair[side][name] for pair in pairs), 2) for side in SIDES}
        print(json.dumps(line))


if __name__ == "__main__":
    main(sys.argv[1:])
