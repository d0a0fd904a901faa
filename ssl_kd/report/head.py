"""What a run is: its options, its method in the words of its file, and who teaches whom."""

import os
import re
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from markupsafe import Markup, escape
from omegaconf import DictConfig

from ssl_kd import headers
from ssl_kd.groups import config_folder
from ssl_kd.report import blocks
from ssl_kd.report.graph import arrows, drawing
from ssl_kd.report.page import Section
from ssl_kd.report.reported import Reported
from ssl_kd.saved import changes, command
from ssl_kd.show import links, read
from ssl_kd.system.text import printable

COUNTS = ("No", "One", "Two", "Three", "Four", "Five", "Six", "Seven", "Eight", "Nine", "Ten")
RULES = {
    "last": "the last one",
    "rank": "the best by effective rank, which needs no labels",
    "held_out": "the best by a linear probe on a held-out tenth of the train split",
}


def sections(run: Reported) -> list[Section]:
    config = run.config
    said = command(run.run.folder)
    about = Section(
        "Run",
        "What was trained, on what, for how long, and with which versions; enough to do it again.",
        [blocks.facts(_facts(run)), *([blocks.verbatim(said)] if said else [])],
    )
    pairs = arrows(config)
    reading = (
        "An arrow goes from the peer that shows to the peer that learns from it, and names the term."
        + (" A grey one goes to a peer that reads what the other says." if any(read(config).values()) else "")
        if pairs
        else "No peer of this run teaches another; each has its own task."
    )
    parts = [blocks.drawing(drawing(config)), edges(config)]
    header = method_header(str(config.method))
    method = [blocks.heading(f"The method, in the words of {config.method}.yaml"), *_method(header)]
    cohort = Section("Cohort", f"Who teaches whom, by which loss, at which weight. {reading}", parts)
    return [about, cohort if not header else Section(cohort.title, cohort.lead, [*parts, *method])]


def title(run: Reported) -> str:
    """The method by its name and the data, as in "DoGo on digits"."""
    first = method_header(str(run.config.method)).split("\n")[0]
    name = first.split(":")[0] if 0 < first.find(":") <= 24 else str(run.config.method)
    return f"{name} on {data_name(run.config)}"


def data_name(config: DictConfig) -> str:
    """What people call the data: its name, or that of the file or folder that it is read from."""
    place = str(config.data.get("path") or config.data.get("root") or "")
    if config.data.name not in ("arrays", "folder", "shards", "hub") or not place:
        return str(config.data.name)
    return Path(place).name.split(".")[0] or str(config.data.name)


def lead(run: Reported) -> str:
    """The run in one sentence."""
    config, test = run.config, run.data.scored.test
    weighty = [name for name, peer in run.cohort.peers.items() if any(True for _ in peer.parameters())]
    reading = read(config)  # what reads others is no network that could be had alone
    networks = [name for name in weighty if not reading[name]]
    parts = [name for name in weighty if reading[name]]
    learning = sum(name in run.cohort.trainable for name in networks)
    others = len(networks) - learning
    who = (
        f"{_count(learning)} network learned"
        if learning == 1
        else f"{_count(learning)} networks learned together"
    )
    listed = " and ".join(filter(None, [", ".join(parts[:-1]), *parts[-1:]]))
    among = f", and {listed} from what these say" if parts else ""
    beside = f", beside {_count(others).lower()} that did not learn by gradient" if others else ""
    tested = f"; {len(test):,} images test them" if test is not None else ""
    short = "" if run.summary else f" It is not finished: step {run.step:,} of {config.steps:,}."
    return (
        f"{who}{among}{beside}, on {len(run.data.train):,} images for {config.epochs} "
        f"{_plural('epoch', config.epochs)}{tested}.{short}"
    )


def method_header(method: str) -> str:
    """The comment at the top of the method's file, or nothing where the file is gone."""
    for folder in (Path.cwd() / "configs", config_folder()):
        path = folder / "method" / f"{method}.yaml"
        if path.is_file():
            return headers.header(path.read_text(encoding="utf-8"))
    return ""


def _method(text: str) -> list[Markup]:
    found: list[Markup] = []
    for paragraph in headers.paragraphs(text):
        if paragraph.kind == "commands":
            found.append(blocks.verbatim("\n".join(headers.commands(paragraph.lines))))
        elif paragraph.kind == "objective":
            found.append(blocks.verbatim("\n".join(text for _, text in headers.blocks(paragraph.lines))))
        else:
            found.append(blocks.paragraph(paragraph.text))
    return found


def edges(config: DictConfig) -> Markup:
    """The table of all edges; those that differ in the teacher's output alone share a row."""
    found: dict[tuple[str, ...], list[str]] = {}
    for term, loss, link in links(config):
        share = "" if link.share == 1 else f" / {round(1 / link.share)}"
        teacher, _, output = link.teacher.partition(".")
        row = term, link.student, teacher or "itself", loss, f"{link.weight}{share}"
        found.setdefault(row, []).append(output)
    rows = []
    for (term, student, teacher, *rest), outputs in found.items():
        shows = f"{teacher}.{', '.join(outputs)}" if any(outputs) else teacher
        rows.append([term, *(_breakable(text) for text in (student, shows, *rest))])
    head = ["term", "student", "teacher", "loss", "weight"]
    return blocks.table(head, rows, "The edges of the cohort", words=(1, 2, 3, 4))


def _breakable(text: str) -> Markup:
    """May go on in the next line after a dot, a bracket or an underscore."""
    return Markup(re.sub(r"([(_]|[.](?=[a-zA-Z]))", r"\1<wbr>", str(escape(printable(text)))))


def _facts(run: Reported) -> list[tuple[str, str]]:
    config, data, summary, made = run.config, run.data, run.summary, run.environment
    c, h, w = data.train.shape
    sizes = f"{len(data.train):,} train, {len(data.test) if data.test else 0:,} test"
    if data.labelled is not None:
        beside = data.labelled
        sizes += f"; labelled, for the probes: {len(beside.train):,} and {len(beside.test or ()):,}"
    rule = summary.get("checkpoint", "last")
    packages = made.get("packages", {})
    speed, seconds = summary.get("images_per_second"), summary.get("seconds")
    return [
        ("Method", str(config.method)),
        ("Data", data_name(config)),
        ("Images", f"{sizes}, {c} x {h} x {w}"),
        ("Classes", f"{len(run.classes)}" if run.classes else "none: no labels"),
        ("Peers", ", ".join(run.names)),
        ("Seed", str(config.seed)),
        ("Epochs", str(config.epochs)),
        ("Steps", f"{config.steps:,}"),
        ("Batch", f"{config.batch_size} images"),
        ("Checkpoint reported", f"{RULES.get(str(rule), str(rule))}, of step {run.step:,}"),
        ("Speed", f"{speed:,.0f} images/s" if speed else ""),
        ("Training time", _duration(seconds) if seconds else ""),
        ("Finished", _date(run)),
        (
            "Versions",
            ", ".join(f"{name} {packages[name]}" for name in ("ssl-kd", "torch") if name in packages),
        ),
        ("Python", made.get("python", "")),
        ("Machine", _machine(made)),
        ("Commit", (made.get("git") or "")[:12]),
        ("Changed between its starts", changes(run.starts)),
    ]


def _machine(made: dict[str, Any]) -> str:
    if not made:
        return ""
    device = made.get("accelerator") or f"CPU, {made.get('threads')} of {made.get('cores')} cores"
    return f"{device}; {str(made.get('machine', '')).split('-')[0]}"


def _date(run: Reported) -> str:
    """When the last file of the training was written."""
    place = run.run.folder / "summary.json"
    if not place.is_file():
        return ""
    return datetime.fromtimestamp(os.path.getmtime(place), UTC).strftime("%d %B %Y, %H:%M UTC")


def _duration(seconds: float) -> str:
    minutes, hours = round(seconds / 60), seconds / 3600
    if seconds < 120:
        return f"{seconds:.0f} s"
    return f"{minutes} minutes" if minutes < 120 else f"{hours:.1f} hours"


def _count(number: int) -> str:
    return COUNTS[number] if number < len(COUNTS) else str(number)


def _plural(word: str, count: int) -> str:
    return word if count == 1 else f"{word}s"
