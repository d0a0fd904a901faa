"""What each method costs over the plain pair: seconds per step, peak memory, and where the time goes.

    python benchmarks/methods.py [backbone=resnet20] [batch_size=256] [steps=8] [rounds=3] ['only=[fusion]']

Each method is a process of its own in each round, all methods one after the other, so that a slow spell of
the machine hits all alike; the first of them, a DoGo pair, is the measure for those without labels, and `dml`
for those with. One JSON line per process; at the end, per method, the median of the rounds' ratios of seconds
per step with its range, the ratio of peak memory (resident, of the whole process), and the parts of a step.
"""

import json
import platform
import resource
import statistics
import subprocess
import sys
import tempfile
from importlib.metadata import version
from pathlib import Path
from typing import Any

import numpy as np

DEFAULTS: dict[str, Any] = {"backbone": "resnet20", "batch_size": 256, "steps": 8, "rounds": 3, "only": []}
SSL, LABELS = "dogo", "dml"
METHODS = {
    SSL: "method=dogo separate_views=false",
    "own views": "method=dogo",
    "exits, light": "method=ssl_kd parts=[peers,exits] separate_views=false",
    "exits, own": "method=ssl_kd parts=[peers,exits] separate_views=false "
    "peer.heads.exit1._target_=ssl_kd.exits.own peer.heads.exit2._target_=ssl_kd.exits.own",
    "fusion": "method=ssl_kd parts=[peers,fusion]",
    "fusion, shift": "method=ssl_kd parts=[peers,fusion,shift]",
    "all": "method=ssl_kd parts=[peers,exits,fusion]",
    "ema": "method=ssl_kd parts=[peers,ema] separate_views=false",
    LABELS: "method=dml",
    "dcm": "method=dcm",
    "ffsd": "method=ffsd",
}


def one(words: list[str], steps: int) -> dict[str, Any]:
    """Measures one method in this process."""
    from ssl_kd.config import compose
    from ssl_kd.timing import measure
    from ssl_kd.training import build

    timing = measure(build(compose(words)), steps)
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * (1 if sys.platform == "darwin" else 1024)
    parts = {part: seconds for (part, inside), seconds in timing.parts.items() if not inside}
    inside = {f"{part} {name}": seconds for (part, name), seconds in timing.parts.items() if name}
    return {"seconds": timing.free, "peak_bytes": peak, "parts": parts, "inside": inside}


def main(asked: dict[str, Any]) -> None:
    import torch

    place = Path(tempfile.mkdtemp()) / "images.npz"
    rng = np.random.default_rng(0)
    count = 4 * asked["batch_size"]
    np.savez(
        place,
        train_images=rng.integers(0, 256, (count, 32, 32, 3), dtype=np.uint8),
        train_labels=np.arange(count) % 10,
    )
    names = f"{asked['backbone']},{asked['backbone']}"
    common = [f"peers=[{names}]", f"batch_size={asked['batch_size']}", "epochs=100"]
    common += ["data=arrays", f"data.path={place}"]
    wanted = {name: [] for name in METHODS if name in (SSL, LABELS) or name in (asked["only"] or METHODS)}
    found: dict[str, list[dict[str, Any]]] = wanted
    machine = {"cpu": platform.processor() or platform.machine(), "threads": torch.get_num_threads()}
    for number in range(asked["rounds"]):
        for name in found:
            words = METHODS[name].split()
            command = [sys.executable, __file__, "--one", str(asked["steps"]), *words, *common]
            said = subprocess.run(command, capture_output=True, text=True, check=True).stdout
            result = json.loads(said.splitlines()[-1])
            found[name].append(result)
            print(
                json.dumps({"method": name, "round": number, **result, **machine, "torch": version("torch")})
            )
            sys.stdout.flush()
    for name, results in found.items():
        base = found[LABELS] if list(METHODS).index(name) >= list(METHODS).index(LABELS) else found[SSL]
        ratios = [a["seconds"] / b["seconds"] for a, b in zip(results, base, strict=True)]
        memory = statistics.median(a["peak_bytes"] for a in results) / statistics.median(
            b["peak_bytes"] for b in base
        )
        whole = statistics.median(a["seconds"] for a in results)
        middle = sorted(results, key=lambda a: a["seconds"])[len(results) // 2]
        parts = {
            part: round(seconds / sum(middle["parts"].values()), 3)
            for part, seconds in middle["parts"].items()
        }
        print(
            json.dumps(
                {
                    "method": name,
                    "seconds": round(whole, 3),
                    "ratio": round(statistics.median(ratios), 2),
                    "range": [round(min(ratios), 2), round(max(ratios), 2)],
                    "peak_gib": round(statistics.median(a["peak_bytes"] for a in results) / 2**30, 2),
                    "memory": round(memory, 2),
                    "parts": parts,
                }
            )
        )


if __name__ == "__main__":
    if sys.argv[1:2] == ["--one"]:
        print(json.dumps(one(sys.argv[3:], int(sys.argv[2]))))
    else:
        from ssl_kd.words import options

        main({**DEFAULTS, **options(sys.argv[1:])})
