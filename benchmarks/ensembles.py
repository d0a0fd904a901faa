"""What two networks that never met reach together: the control for the ensemble of a cohort's peers.

    python benchmarks/ensembles.py runs/solo-*

Takes finished runs that saw the same data, and for every seed's run and the next one the mean of their
predictions, as `Evaluator` does it for the peers of one run. Prints a JSON line per pair, and one with the
means of the pairs and of the networks alone.
"""

import json
import statistics
import sys
from typing import Any

from ssl_kd.finished import load
from ssl_kd.machine import set_threads
from ssl_kd.probes import linear
from ssl_kd.probes.ensemble import ensemble, ensemble_knn


def main(folders: list[str]) -> None:
    set_threads(None)
    found: list[tuple[Any, Any]] = []
    for folder in folders:
        finished = load(folder)
        peer = next(iter(finished.encoders.values()))
        features = finished.evaluator.features(peer.embed)
        found.append((features, linear(features)))
    alone, together = [], []
    for number, (features, fitted) in enumerate(found):
        other, its = found[(number + 1) % len(found)]
        knn = ensemble_knn([features, other], (20,))[20]
        both = ensemble([fitted, its], [features.test, other.test], features.test_labels)
        alone.append((ensemble_knn([features], (20,))[20], fitted.accuracy))
        together.append((knn, both))
        names = [folders[number], folders[(number + 1) % len(found)]]
        print(json.dumps({"runs": names, "knn20": round(knn, 4), "linear": round(both, 4)}), flush=True)
    for name, scores in (("alone", alone), ("together", together)):
        means = [round(statistics.mean(column), 4) for column in zip(*scores, strict=True)]
        print(json.dumps({name: dict(zip(("knn20", "linear"), means, strict=True))}))


if __name__ == "__main__":
    main(sys.argv[1:])
