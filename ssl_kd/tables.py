"""What the probes of a finished run print."""

from collections.abc import Mapping
from typing import Any

from rich.table import Table

from ssl_kd.console import score_table


def probe_table(name: str, result: Mapping[str, Any]) -> Table:
    """One row per network, in per cent; the columns are the probe's."""
    if name in ("knn", "linear", "transfer"):
        return score_table(result)
    if name == "health":
        return _health(result["health"])
    columns = {"few_labels": _few_labels, "robustness": _robustness}.get(name, _trained)
    rows = {row: columns(scores[name]) for row, scores in _rows(result).items()}
    table = Table(title=f"accuracy on {result['scored_on']}, %", title_justify="left")
    table.add_column("network")
    for column in next(iter(rows.values()), {}):
        table.add_column(column, justify="right")
    for row, cells in rows.items():
        table.add_row(row, *cells.values(), style=None if row in result["peers"] else "dim")
    return table


def scores_table(results: Mapping[str, Mapping[str, Any]]) -> Table:
    """The results of several probes, name -> result: a row for each score, a column for each network."""
    rows: dict[str, dict[str, str]] = {}
    networks: dict[str, bool] = {}  # whether the run has trained it
    for probe, result in results.items():
        named = {**_rows(result), **({"all together": result["ensemble"]} if result.get("ensemble") else {})}
        for network, scores in named.items():
            networks[network] = network in result["peers"] or network == "all together"
            for score, text in _cells(probe, result, scores).items():
                rows.setdefault(score, {})[network] = text
    scored = next(iter(results.values()), {}).get("scored_on", "the test split")
    table = Table(title=f"accuracy on {scored}, %", title_justify="left")
    table.add_column("score", no_wrap=True)
    ordered = sorted(networks, key=lambda network: not networks[network])
    for network in ordered:
        table.add_column(network, justify="right", style=None if networks[network] else "dim")
    for score, cells in rows.items():
        table.add_row(score, *(cells.get(network, "") for network in ordered))
    return table


def _cells(probe: str, result: Mapping[str, Any], scores: Mapping[str, Any]) -> dict[str, str]:
    """The scores of a network by one probe."""
    if probe in ("knn", "linear", "transfer"):
        before = f"{result['protocol']['data']}: " if probe == "transfer" else ""
        cells = {f"{before}kNN {k}": _percent(value) for k, value in scores.get("knn", {}).items()}
        return {**cells, **({f"{before}linear": _percent(scores["linear"])} if "linear" in scores else {})}
    columns = {"few_labels": _few_labels, "robustness": _robustness}.get(probe, _trained)
    return {f"{probe} {name}": text for name, text in columns(scores[probe]).items()}


def _rows(result: Mapping[str, Any]) -> dict[str, Mapping[str, Any]]:
    baselines = result.get("baselines") or {}
    untrained = {f"{name}, untrained": scores for name, scores in baselines.get("untrained", {}).items()}
    pixels = {"raw pixels": baselines["pixels"]} if baselines.get("pixels") else {}
    return {**result["peers"], **untrained, **pixels}


def _few_labels(amounts: Mapping[str, Any]) -> dict[str, str]:
    return {
        f"{amount} ({found['labels']})": f"{_percent(found['mean'])} ({_percent(found['low'])} to "
        f"{_percent(found['high'])})"
        for amount, found in amounts.items()
    }


def _robustness(found: Mapping[str, Any]) -> dict[str, str]:
    kinds = {
        kind: _percent(sum(by.values()) / len(by)) for kind, by in found.items() if isinstance(by, Mapping)
    }
    return {"clean": _percent(found["clean"]), **kinds, "all corrupted": _percent(found["mean"])}


def _trained(found: Mapping[str, Any]) -> dict[str, str]:
    cells = {"test": _percent(found["accuracy"])}
    if found["held_out"] is not None:
        cells["held out"] = _percent(found["held_out"])
    return {**cells, "rate": f"{found['rate']:g}"}


def _health(figures: Mapping[str, float]) -> Table:
    """One row per output, then one per pair of peers."""
    table = Table(title="health of the embeddings, without labels", title_justify="left")
    kinds = list(dict.fromkeys(name.partition("/")[0] for name in figures))
    table.add_column("output")
    for kind in kinds:
        table.add_column(kind, justify="right")
    for of in dict.fromkeys(name.partition("/")[2] for name in figures):
        cells = [figures.get(f"{kind}/{of}") for kind in kinds]
        table.add_row(of, *("" if cell is None else f"{cell:.3g}" for cell in cells))
    return table


def _percent(share: float) -> str:
    return f"{100 * share:.1f}"
