"""`ssl-kd init`: a starter config for a folder of a user's own, each line with its reason."""

import json
import re
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from ssl_kd.commands.catalogue import refuse_unknown
from ssl_kd.commands.looking import Seen, look
from ssl_kd.errors import InputError
from ssl_kd.options_file import FILE
from ssl_kd.system.documents import from_yaml
from ssl_kd.system.paths import expand
from ssl_kd.system.text import print_line, typed
from ssl_kd.system.writing import write_whole

STEPS = {"cpu": 2_000, "cuda": 40_000, "mps": 10_000}  # of a first training
EDGES = {"cpu": (32, 64), "cuda": (32, 64, 96, 128, 160, 224), "mps": (32, 64, 96, 128)}
BATCH = {"cpu": 128, "cuda": 256, "mps": 256}
PEERS = {"cpu": ["resnet20"] * 2, "cuda": ["resnet18"] * 2, "mps": ["resnet18"] * 2}
FEWEST = 4  # images that can be told apart
FEW, MANY = 200, 100_000  # images; below, and above on a CPU, there is advice
HELD_OUT = 0.2
OF_FOLDERS = ("splits", "skip_broken")  # options of data=folder that a look at it may need


@dataclass(frozen=True)
class Line:
    key: str
    value: Any
    why: str


def main(words: Sequence[str]) -> int:
    """`ssl-kd init [FOLDER] [to=my.yaml] [overwrite=true] [data.splits=...]`; returns the exit code."""
    places = [word for word in words if not re.match(r"[a-z][\w.]*=", word)]
    given = {key: value for key, _, value in (word.partition("=") for word in words if word not in places)}
    refuse_unknown("init", given, ("to", "overwrite", *(f"data.{key}" for key in OF_FOLDERS)))
    if len(places) > 1:
        raise InputError(f"init looks at one folder, not at {len(places)}; quote a pattern of tar files")
    if given.get("overwrite", "false") not in ("true", "false"):
        raise InputError(f'overwrite must be true or false, and "{given["overwrite"]}" is not')
    to = expand(given.get("to") or "my.yaml")
    if to.suffix not in (".yaml", ".yml"):
        raise InputError(f"to={to} names no YAML file; say to={to.name}.yaml")
    if to.exists() and given.get("overwrite") != "true":
        raise InputError(f"{to} is there already; overwrite=true replaces it, to= names another")
    options = {key: _read(key, given[f"data.{key}"]) for key in OF_FOLDERS if f"data.{key}" in given}
    seen = look(places[0] if places else None, options)
    from ssl_kd.machine import pick_device

    device = pick_device("auto")
    lines = starter(seen, device)
    try:
        write_whole(to, _text(to, seen, device, lines))
    except OSError as error:
        raise InputError(f"{to} cannot be written ({error.strerror}); name another by to=") from error
    for text in (described(seen), *seen.notes, f"{to} is written; look it over, then:", ""):
        print_line(text)
    said = typed(f"{FILE}={to}")
    for command, what in (
        (f"ssl-kd train {said} dry_run=true", "is all as it should be? one step, nothing written"),
        (f"ssl-kd doctor {said}", "does it fit into memory?"),
        (f"ssl-kd timing {said}", "how long will it take?"),
        (f"ssl-kd train {said}", "train; the same command continues"),
        ("ssl-kd runs", "what came of it"),
    ):
        print_line(f"  {command:<44}  {what}")
    return 0


def described(seen: Seen) -> str:
    """What was seen, in sentences."""
    if not seen.train:
        return f"the data set {seen.kind}"
    parts = [f"{seen.train:,} training images" + (f" and {seen.test:,} to test on" if seen.test else "")]
    if seen.classes:
        least, most = min(seen.classes.values()), max(seen.classes.values())
        each = f"{least:,}" if least == most else f"{least:,} to {most:,}"
        parts.append(f"{len(seen.classes)} classes of {each}")
    else:
        parts.append("no labels")
    which = "all" if seen.looked == seen.train else f"{seen.looked} were opened:"
    colour = "grey" if seen.grey else "in colour"
    parts.append(f"{which} {colour}, their shorter sides {seen.edge} pixels in the median")
    if seen.broken:
        parts.append(f"{len(seen.broken)} cannot be decoded, as {seen.broken[0]}")
    return f"{seen.kind}: {'; '.join(parts)}"


def starter(seen: Seen, device: str) -> list[Line]:
    """The options that suit these images and this machine. Raises InputError where there are too few."""
    if seen.train and seen.train < FEWEST:
        raise InputError(f"{seen.train} images are too few to be told apart; {FEWEST} is the least")
    on = {"cpu": "this CPU", "cuda": "this GPU", "mps": "this Mac"}[device]
    edge = _edge(seen, device)
    held = seen.labelled and seen.train >= 50 and not seen.test
    left = seen.train - round(seen.train * HELD_OUT) if held else seen.train
    limited = device == "cpu" and left > MANY
    left = MANY // 2 if limited else left
    batch = _batch(left, device)
    lines = [
        Line("method", "dogo", "peers that teach each other; ssl-kd show method=dogo. Alone: simclr"),
        Line("peers", PEERS[device], f"two networks of a size that {on} trains; any model of timm"),
        Line("data", seen.kind, ""),
        *(Line(f"data.{key}", value, _WHY.get(key, "")) for key, value in seen.options.items()),
    ]
    if seen.train:
        lines.append(
            Line("data.size", edge, f"pixels of a square; your shorter sides have {seen.edge} in the median")
        )
    if seen.broken and "skip_broken" not in seen.options:
        lines.append(Line("data.skip_broken", True, "leaves out what cannot be decoded, and counts it"))
    if limited:
        why = f"a first try on {on}; without this line all {seen.train:,}"
        lines.append(Line("data.limit", left, why))
    if held:
        lines.append(
            Line("hold_out", HELD_OUT, "there is no test split: this share is kept apart and scored")
        )
    large = edge >= 96
    lines.append(
        Line(
            "recipe",
            "simclr_224" if large else "simclr",
            "how views are made; " + ("with blur, for large images" if large else "crop, flip, colour"),
        )
    )
    if seen.grey and seen.train:
        lines += [Line(f"recipe.{key}", 0.0, "the images are grey") for key in ("hue", "saturation", "gray")]
    if seen.train:
        epochs = max(10, min(400, STEPS[device] * batch // max(left, 1)))
        why = f"passes; {max(1, left // batch) * epochs:,} steps in all"
        lines += [
            Line("batch_size", batch, _batch_why(left, batch)),
            Line("epochs", epochs, why),
        ]
    if seen.labelled:
        lines.append(
            Line(
                "probe.every", 10, "epochs between scores on the way (kNN, linear probe); 0: only at the end"
            )
        )
    else:
        lines.append(
            Line(
                "health.every",
                50,
                "no labels, no scores: rank and alarms every so many steps say whether it learns",
            )
        )
    lines.append(
        Line(
            "run", f"runs/{re.sub(r'[^A-Za-z0-9_-]+', '-', seen.name).strip('-') or 'mine'}", "the run folder"
        )
    )
    return lines


_WHY = {
    "root": "where the images are",
    "path": "where the images are",
    "splits": "which folders are the splits",
    "skip_broken": "leaves out what cannot be read, and counts it",
    "labels": "images lie both in sub-folders and beside them, so folders are no classes",
}


def _read(key: str, text: str) -> Any:
    """The value of an option of folders, as YAML says it. Raises InputError."""
    try:
        return from_yaml(text, f"data.{key}")
    except InputError as error:
        raise InputError(f'data.{key} is "{text}", which cannot be read; put it in quotes') from error


def _edge(seen: Seen, device: str) -> int:
    edge = seen.edge or 32
    return max([size for size in EDGES[device] if size <= edge], default=max(8, edge))


def _batch(images: int, device: str) -> int:
    """A power of two: at least four batches of the images, where that leaves enough to compare."""
    if not images:
        return BATCH[device]
    most = images // 4 if images >= 64 else images // 2
    return max(2, min(BATCH[device], 1 << max(1, most).bit_length() - 1))


def _batch_why(images: int, batch: int) -> str:
    if images < FEW:
        return (
            "images per step; so few images are soon known by heart: begin from weights (peers.NAME.weights=)"
        )
    return "images per step; each is told apart from all others of its batch"


def _text(to: Path, seen: Seen, device: str, lines: Sequence[Line]) -> str:
    said = typed(f"{FILE}={to}")
    head = [
        f"# ssl-kd train {said}",
        "#",
        f"# {described(seen)}.",
        f"# A word on the command line goes before what stands here: ssl-kd train {said} epochs=5",
        "# All other options and their defaults: ssl-kd train --help",
        "",
    ]
    body = [f"{line.key}: {_yaml(line.value)}" for line in lines]
    width = min(44, max(map(len, body)))
    said_of = [f"  # {line.why}" if line.why else "" for line in lines]
    options = [f"{text:<{width}}{why}".rstrip() for text, why in zip(body, said_of, strict=True)]
    return "\n".join([*head, *options, ""])


def _yaml(value: Any) -> str:
    """A value as YAML writes it on one line."""
    if isinstance(value, list):
        return f"[{', '.join(map(_yaml, value))}]"
    if isinstance(value, str) and re.fullmatch(r"[A-Za-z_][\w/-]*", value):
        return value
    return json.dumps(value, ensure_ascii=False)
