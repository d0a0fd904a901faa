"""What the peers score, beside their baselines, and what else the probes of the run have found."""

from collections.abc import Mapping
from typing import Any

from markupsafe import Markup

from ssl_kd.console import deploy
from ssl_kd.report import blocks
from ssl_kd.report.figures import called, cell, leaves
from ssl_kd.report.page import Section
from ssl_kd.report.reported import Reported
from ssl_kd.saved import read_scores
from ssl_kd.selection import candidates

NO_SCORES = {"parameters", "macs", "linear_penalty", "linear_held_out"}
TITLES = {
    "knn": "Nearest neighbours",
    "linear": "Linear probe",
    "linear_sgd": "Linear probe by SGD",
    "few_labels": "Few labels",
    "finetune": "Fine-tuning",
    "robustness": "Robustness to corruptions",
    "transfer": "Transfer to other data",
}
MANY = 8  # columns, from which on scores are rows and networks columns

Rows = dict[str, dict[str, Any]]  # network -> path -> value


def section(run: Reported) -> Section:
    lead = f"Accuracy on {run.scored_on}, in per cent."
    if run.summary.get("baselines"):
        lead += " Raw pixels and the same networks untrained are what each peer has to beat."
    parts: list[Markup] = []
    if run.unscored:
        parts.append(blocks.callout(f"There are no scores: {run.unscored}."))
    rows, loud = networks({**run.summary, "peers": run.scores})
    rows = {name: {k: v for k, v in own.items() if k not in NO_SCORES} for name, own in rows.items()}
    if any(rows.values()):
        parts.append(table(rows, loud, f"Accuracy on {run.scored_on}, %"))
    learn = {name: own for name, own in run.scores.items() if name in candidates(run.cohort)}
    if learn and all("parameters" in own for own in learn.values()):
        _, text = deploy(learn)
        parts.append(blocks.callout(f"{text[0].upper()}{text[1:]}."))
    for name, content in probed(run).items():
        parts += _file(name, content) if name != "health" else []
    return Section("Scores", lead, parts or [blocks.note("This run has no scores yet.")])


def probed(run: Reported) -> dict[str, dict[str, Any]]:
    """What the files in eval/ say, by the names of the probes."""
    return {path.stem: read_scores(path) for path in sorted((run.run.folder / "eval").glob("*.json"))}


def networks(found: Mapping[str, Any]) -> tuple[Rows, int]:
    """The scores of every network in summary.json or in a file of eval/, and how many are no baselines."""
    rows: Rows = {name: dict(leaves(own)) for name, own in (found.get("peers") or {}).items()}
    if found.get("ensemble"):
        rows["all together"] = dict(leaves(found["ensemble"]))
    loud = len(rows)
    baselines = found.get("baselines") or {}
    for name, own in (baselines.get("untrained") or {}).items():
        rows[f"{name}, untrained"] = dict(leaves(own))
    if baselines.get("pixels"):
        rows["raw pixels"] = dict(leaves(baselines["pixels"]))
    return rows, loud


def table(rows: Rows, loud: int, caption: str) -> Markup:
    """A row for each network; or a column, where there are many scores."""
    cells = {name: {path: cell(path, v) for path, v in own.items()} for name, own in rows.items()}
    paths = list(dict.fromkeys(path for own in cells.values() for path, text in own.items() if text))
    paths = [path for path in paths if path.rpartition("/")[2] != "history"]
    roots = {path.partition("/")[0] for path in paths}
    alone = len(roots) == 1 and len(paths) > 1 and roots.isdisjoint({"knn"})
    heads = [called(path.partition("/")[2] if alone else path) for path in paths]
    if len(paths) <= MANY:
        body = [[name, *(own.get(path, "") for path in paths)] for name, own in cells.items()]
        return blocks.table(["network", *heads], body, caption, range(loud, len(rows)))
    body = [
        [head, *(own.get(path, "") for own in cells.values())]
        for head, path in zip(heads, paths, strict=True)
    ]
    return blocks.table(["score", *cells], body, caption)


def _file(name: str, content: Mapping[str, Any]) -> list[Markup]:
    """A file of eval/: how it was made, what it says of each network, and what else it says."""
    title = TITLES.get(name, name.replace("_", " "))
    parts = [blocks.heading(title)]
    made = {**dict(leaves(content.get("protocol") or {})), **_plain(content)}
    said = [f"{called(key)} {text}" for key, value in made.items() if (text := cell(key, value, False))]
    if said:
        parts.append(blocks.note(f"eval/{name}.json: {'; '.join(said)}."))
    rows, loud = networks(content)
    if any(rows.values()):
        parts.append(table(rows, loud, f"{title}: shares of the images in per cent"))
    known = ("protocol", "peers", "ensemble", "baselines", *_plain(content))
    rest = {key: value for key, value in content.items() if key not in known}
    for key, node in rest.items():
        body = [[path, cell(path, value, shares=False)] for path, value in leaves(node)]
        parts.append(blocks.table([key, "value"], body, f"What {name} says of {key.replace('_', ' ')}"))
    return parts


def _plain(content: Mapping[str, Any]) -> dict[str, Any]:
    """The entries that are one value each."""
    return {key: value for key, value in content.items() if not isinstance(value, Mapping | list)}
