"""The accuracies in a run's summary.json, flat and by name."""

from collections.abc import Mapping
from typing import Any

from ssl_kd.compare.runs import Entry
from ssl_kd.saved import SINGLES

ENSEMBLE = "ensemble"  # the name under which a cohort's joint prediction is compared


def scores(peer: Mapping[str, Any]) -> dict[str, float]:
    """The accuracies of one peer's (or the ensemble's) entry of summary.json, flat: "knn20", "linear", ..."""
    found = {f"knn{k}": value for k, value in (peer.get("knn") or {}).items()}
    found |= {name: peer[name] for name in SINGLES if name in peer}
    for amount, value in (peer.get("few_labels") or {}).items():
        found[f"few_labels {amount}"] = value.get("mean") if isinstance(value, Mapping) else value
    found["robustness"] = (peer.get("robustness") or {}).get("mean")
    found |= {name: (peer.get(name) or {}).get("accuracy") for name in ("linear_sgd", "finetune")}
    if "transfer" in peer:
        found |= {f"transfer {name}": value for name, value in scores(peer["transfer"]).items()}
    return {name: float(value) for name, value in found.items() if isinstance(value, int | float)}


def scored(entry: Entry) -> dict[str, dict[str, float]]:
    """The scores of every peer of a run, and of ENSEMBLE where it has one."""
    peers = {name: scores(peer) for name, peer in entry.summary["peers"].items()}
    joint = scores(entry.summary.get("ensemble") or {})
    return peers | ({ENSEMBLE: joint} if joint else {})
