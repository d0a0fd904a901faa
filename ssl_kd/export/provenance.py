"""Where an exported network comes from: its data, its training, and what it scored beside the baselines."""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from ssl_kd.export.deployed import Deployed
from ssl_kd.export.markdown import fence, table, text
from ssl_kd.labelled import scored_on
from ssl_kd.saved import SINGLES, changes, command, environments, probe_of, read_scores
from ssl_kd.system.documents import mapping_of

RULES = {
    "last": "the last one",
    "uniformity": "the best by the uniformity of its outputs, which needs no labels",
    "rank": "the best by effective rank, which needs no labels",
    "held_out": "the best by a linear probe on a held-out tenth of the train split",
}


def data(network: Deployed) -> str:
    """The section on the data: how many images of what shape, and their hashes."""
    noted = mapping_of(network.finished.run.folder / "data.json")
    rows = []
    for part in ("train", "test"):
        said = noted.get(part)
        if isinstance(said, dict):
            shape = " x ".join(map(str, said.get("shape") or []))
            content = said.get("contents", said.get("samples"))  # before 0.3, of some images
            rows.append((part, *(text(v) for v in (said.get("images"), shape, said.get("labels"), content))))
    if not rows:
        return f"## Data\n\n{text(data_name(network))}; the run did not note more of it."
    head = ("split", "images", "shape", "hash of the labels", "hash of the images")
    return (
        f"## Data\n\n{text(data_name(network))}. The hashes tell whether data are the same: of all labels, "
        "and of the contents of the images.\n\n" + table(head, rows)
    )


def training(network: Deployed) -> str:
    """The section on the training: the method, the others, the versions, the command."""
    finished, config = network.finished, network.finished.config
    starts = environments(finished.run.folder)
    made: dict[str, Any] = next(reversed(starts), {})
    machine = made.get("accelerator") or f"CPU, {made.get('threads')} of {made.get('cores')} cores"
    others = [f"{name} ({_backbone(config.peers[name])})" for name in config.peers if name != network.name]
    rule = str(config.probe.get("select", "last")) if finished.checkpoint == "chosen" else "last"
    rows = [
        ("method", config.method),
        ("together with", ", ".join(others) or "nobody"),
        ("epochs", config.epochs),
        ("batch", f"{config.batch_size} images"),
        ("seed", config.seed),
        ("checkpoint", f"{RULES.get(rule, rule)}, of step {finished.step:,} of {config.steps:,}"),
        ("versions", _versions(made.get("packages"))),
        ("commit", str(made.get("git") or "")[:12]),
        ("machine", machine if made else ""),
        ("changed between its starts", changes(starts)),
    ]
    if network.left_out:
        rows.append(("left out here", ", ".join(network.left_out) + ": heads that only training needed"))
    said = command(finished.run.folder)
    again = (
        fence("bash", said) if said else "The command was not noted; the run's config.yaml has all options."
    )
    shown = table(("what", "which"), [(key, text(value)) for key, value in rows if str(value)])
    lead = "The command that does it again, to the same weights on the same machine:"
    if changes(starts):
        lead = "The command of its last start; the weights come again only with what changed between them:"
    return f"## Training\n\n{shown}\n\n{lead}\n\n{again}"


def scores(network: Deployed) -> str:
    """The section on the scores: of summary.json, beside the baselines, and the protocol."""
    finished, config = network.finished, network.finished.config
    summary = read_scores(finished.run.folder / "summary.json")
    scores = (summary.get("peers") or {}).get(network.name) or {}
    base = summary.get("baselines") or {}
    before = (base.get("untrained") or {}).get(network.name) or {}
    found = [
        ("this network", _flat(scores)),
        ("the same network before training", _flat(before)),
        ("raw pixels", _flat(base.get("pixels") or {})),
    ]
    columns = list(found[0][1])
    if not columns:
        return "## Scores\n\nThe run has no scores of this network."
    rows = [
        (name, *(f"{100 * each[key]:.1f}" if key in each else "" for key in columns))
        for name, each in found
        if each
    ]
    step = summary.get("checkpoint_step", finished.step)
    other = (
        "" if step == finished.step else f" They are of step {step:,}, the weights of step {finished.step:,}."
    )
    seed = f"One run, of seed {config.seed}: the spread over seeds is not in these numbers."
    return (
        f"## Scores\n\nAccuracy in per cent on {scored_on(config)}.{other} {seed}\n\n"
        + table(("", *columns), rows)
        + "\n\n"
        + _protocol(columns, probe_of(summary, config))
    )


def data_name(network: Deployed) -> str:
    """What people call the data: its name, with that of the file or folder where the name says nothing."""
    data = network.finished.config.data
    place = str(data.get("path") or data.get("root") or "")
    plain = str(data.name)
    named = Path(place).name if plain in ("arrays", "folder", "shards", "hub") else ""
    return f"{plain} {named}".strip()


def _protocol(columns: Sequence[str], probe: Mapping[str, Any]) -> str:
    said = [
        "Embeddings of un-augmented images, the network in eval mode and float32; no score selects anything "
        "on the images that it is of."
    ]
    if any(column.startswith("kNN") for column in columns):
        said.append(
            "kNN k: by cosine, the k nearest of the labelled train split vote with exp(similarity / "
            f"{probe['temperature']:g})."
        )
    if "linear" in columns:
        said.append(
            "linear: logistic regression on standardised embeddings, its L2 penalty chosen on a held-out "
            "tenth of the train split, refitted on all of it."
        )
    if "top-1" in columns:
        said.append("top-1: the network's own classifier.")
    return " ".join(said)


def _versions(packages: Any) -> str:
    return (
        ", ".join(f"{name} {number}" for name, number in packages.items())
        if isinstance(packages, dict)
        else ""
    )


def _backbone(node: Any) -> str:
    backbone = node.get("backbone") or {}
    what = backbone.get("name") or backbone.get("_target_") or node.get("_target_") or "a network"
    return str(what) + (", frozen" if node.get("frozen") else "")


def _flat(scores: Mapping[str, Any]) -> dict[str, float]:
    found = {f"kNN {k}": value for k, value in (scores.get("knn") or {}).items()}
    found |= {name: scores[key] for key, name in SINGLES.items() if key in scores}
    return {key: value for key, value in found.items() if value is not None}
