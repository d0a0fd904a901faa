"""Which figure without labels tells how good a network is? Rank correlation with kNN over many checkpoints.

    python benchmarks/health.py runs/solo-* runs/pair-* runs/collapsed-*

Takes every probe made during the runs (probe.every), and for each peer the look without labels just before it
(health.every). Prints a JSON line per figure: Spearman's correlation over all checkpoints of all runs and its
95 % interval (bootstrap over whole runs, since checkpoints of one run are not independent); the same without
the runs that collapsed; and the mean of the correlations inside each run, which is what helps to
choose a checkpoint. Figures are signed as they are: for alignment and uniformity lower is meant to be better.
The peers' own losses, of one batch, stand beside them.
"""

import json
import sys
from collections import defaultdict

import numpy as np
from scipy.stats import spearmanr

from ssl_kd.system.paths import expand

SCORE = "20"  # neighbours
DRAWS = 2000

Points = dict[str, dict[str, list[tuple[float, float]]]]  # figure -> run -> (figure, accuracy)


def points(folders: list[str]) -> tuple[Points, set[str]]:
    """Every (figure, kNN accuracy), and the runs that raised an alarm."""
    found: Points = defaultdict(lambda: defaultdict(list))
    alarmed = set()
    for folder in folders:
        look: dict[str, float] = {}  # the last of each
        for text in (expand(folder) / "metrics.jsonl").read_text().splitlines():
            line = json.loads(text)
            look = look | line.get("health", {})
            look |= {
                f"loss {name}": value for name, value in line.get("terms", {}).items() if "<-" not in name
            }
            if any("collapsed" in alarm for alarm in line.get("alarms", [])):
                alarmed.add(folder)
            for peer, scores in line.get("peers", {}).items():
                for name, value in look.items():
                    kind, _, of = name.partition("/")
                    owner, _, output = of.partition(".")
                    if owner == peer:
                        loss = kind.startswith("loss ")
                        figure = kind if loss else f"{kind} of the {output or 'embedding'}"
                        found[figure][folder].append((value, scores["knn"][SCORE]))
    return found, alarmed


def correlation(pairs: list[tuple[float, float]]) -> float:
    """Spearman's; NaN where nothing varies."""
    figures, accuracies = zip(*pairs, strict=True)
    if len(set(figures)) < 2 or len(set(accuracies)) < 2:
        return float("nan")
    return float(spearmanr(figures, accuracies).statistic)


def over(runs: dict[str, list[tuple[float, float]]]) -> dict:
    """The correlation over all runs together, with its interval."""
    lists = list(runs.values())
    draw = np.random.default_rng(0)
    drawn = [
        correlation([pair for i in draw.integers(len(lists), size=len(lists)) for pair in lists[i]])
        for _ in range(DRAWS)
    ]
    low, high = np.nanpercentile(drawn, [2.5, 97.5])
    whole = correlation([pair for each in lists for pair in each])
    return {
        "correlation": round(whole, 3),
        "interval": [round(float(low), 3), round(float(high), 3)],
        "runs": len(lists),
        "checkpoints": sum(map(len, lists)),
    }


def main(folders: list[str]) -> None:
    found, alarmed = points(folders)
    for figure, runs in found.items():
        healthy = {run: pairs for run, pairs in runs.items() if run not in alarmed}
        inside = [value for pairs in runs.values() if np.isfinite(value := correlation(pairs))]
        line = {"figure": figure, **over(runs), "inside_a_run": round(float(np.mean(inside)), 3)}
        if alarmed:
            line["without_collapsed"] = over(healthy)
        print(json.dumps(line))


if __name__ == "__main__":
    main(sys.argv[1:])
