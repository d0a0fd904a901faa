"""Who teaches whom, as a drawing: a box for each peer, an arrow from teacher to student."""

import itertools
import math
from dataclasses import dataclass

from markupsafe import Markup
from omegaconf import DictConfig

from ssl_kd.cast import is_frozen
from ssl_kd.show import links, read
from ssl_kd.system.text import printable

WIDTH, BOX, TALL = 480, 150, 64  # pixels of the drawing, and of a box
WIDE, MANY = 760, 5  # the drawing of so many peers and more
INWARDS = 0.8  # share of the way to the middle of the circle


_TEACHES = Markup('stroke="var(--accent)" stroke-width="1.6" marker-end="url(#head)"')
_READS = Markup('stroke="var(--muted)" stroke-width="1" stroke-dasharray="2 3" marker-end="url(#dim)"')
_MARKER = Markup(
    '<marker id="{}" viewBox="0 0 10 10" refX="9" refY="5" markerWidth="8" markerHeight="8" orient="auto">'
    '<path d="M0 1 L9 5 L0 9 z" fill="var(--{})"/></marker>'
)


@dataclass(frozen=True)
class Place:
    """The middle of a box, and half its width and height."""

    x: float
    y: float
    w: float
    h: float = TALL / 2


def arrows(config: DictConfig) -> dict[tuple[str, str], list[str]]:
    """(from, to) -> what goes there: terms, what a term is given besides, averages, what a queue takes."""
    found: dict[tuple[str, str], dict[str, None]] = {}
    for term, _, link in links(config):
        student = link.student.split(".")[0]
        given = config.terms[term].get("given") or ()
        for address in [link.teacher, *([given] if isinstance(given, str) else given)]:
            found.setdefault((address.split(".")[0], student), {})[term] = None
    for name, peer in config.peers.items():
        if peer.get("follow"):
            found.setdefault((str(peer.follow.leader), str(name)), {})["average"] = None
        if isinstance(peer.get("reads"), str):
            found.setdefault((peer.reads.split(".")[0], str(name)), {})["rows"] = None
    names = {str(name) for name in config.peers}
    return {pair: list(terms) for pair, terms in found.items() if {*pair} <= names and len({*pair}) == 2}


def drawing(config: DictConfig) -> Markup:
    """The graph as an SVG that takes the page's colours."""
    names = [str(name) for name in config.peers]
    tasks: dict[str, list[str]] = {name: [] for name in names}
    for term, _, link in links(config):
        student = link.student.split(".")[0]
        if not link.teacher and student in tasks and term not in tasks[student]:
            tasks[student].append(term)
    pairs = arrows(config)
    taught = {b for _, b in pairs} | {name for name in names if tasks[name]}
    shown = {(a, b) for b, owners in read(config).items() for a in owners} - pairs.keys()
    weights = dict.fromkeys(shown, 1) | dict.fromkeys(pairs, 2)
    places, width, height = _places(_ordered(names, weights))
    heart = (width / 2, height / 2) if width == WIDE else None
    parts = [_arrow(places[a], places[b], heart)[0] for a, b in sorted(shown)]
    bent = [_arrow(places[a], places[b], heart, ", ".join(terms)) for (a, b), terms in pairs.items()]
    parts += [path for path, _ in bent]
    for name in names:
        peer = config.peers[name]
        learns = name in taught and not is_frozen(peer) and not peer.get("follow")
        parts.append(_box(places[name], name, _about(peer), tasks[name], config, learns))
    parts += [label for _, label in bent]
    said = "; ".join(
        [f"{a} teaches {b} by {', '.join(terms)}" for (a, b), terms in pairs.items()]
        + [f"{b} reads {a}" for a, b in sorted(shown)]
    )
    return Markup(
        '<svg viewBox="0 0 {} {}" class="{}" role="img" aria-label="{}" font-family="inherit">'
        "<defs>{}</defs>{}</svg>"
    ).format(
        width,
        round(height),
        "wide" if width == WIDE else "",
        printable(said or "no peer teaches another"),
        _MARKER.format("head", "accent") + _MARKER.format("dim", "muted"),
        Markup("").join(parts),
    )


def _ordered(names: list[str], weights: dict[tuple[str, str], int]) -> list[str]:
    """The names around the circle, so that the arrows are short; in their own order where that is as good.

    weights: of the arrows (from, to). One name after the other is moved as long as that helps.
    """
    count = len(names)

    def length(order: list[str]) -> int:
        at = {name: i for i, name in enumerate(order)}
        return sum(w * min((at[a] - at[b]) % count, (at[b] - at[a]) % count) for (a, b), w in weights.items())

    best = list(names)
    while True:
        moved = []
        for i, j in itertools.permutations(range(1, count), 2):
            order = list(best)
            order.insert(j, order.pop(i))
            moved.append(order)
        shorter = min(moved, key=length, default=best)
        if length(shorter) >= length(best):
            return best
        best = shorter


def _places(names: list[str]) -> tuple[dict[str, Place], int, float]:
    """One in the middle, two beside each other, more on a circle; the width and the height of it all."""
    count = len(names)
    if count <= 2:
        xs = [WIDTH / 2] if count == 1 else [BOX / 2 + 2, WIDTH - BOX / 2 - 2]
        height = TALL + (8 if count == 1 else 56)
        return {name: Place(x, height / 2, BOX / 2) for name, x in zip(names, xs, strict=True)}, WIDTH, height
    width = WIDE if count >= MANY else WIDTH
    half = min(BOX, 1.2 * width / count) / 2
    wide, high = width / 2 - half - 2, 100 + 16 * count
    middle = high + TALL / 2 + 2
    angles = [2 * math.pi * i / count - math.pi / 2 for i in range(count)]
    places = {
        name: Place(width / 2 + wide * math.cos(t), middle + high * math.sin(t), half)
        for name, t in zip(names, angles, strict=True)
    }
    return places, width, max(p.y for p in places.values()) + TALL / 2 + 2


def _about(peer: DictConfig) -> str:
    """What a peer is: its backbone, or the class of something else."""
    network = peer.get("backbone", peer)
    return str(network.get("name") or str(network.get("_target_", "")).rsplit(".", 1)[-1])


def _box(place: Place, name: str, about: str, tasks: list[str], config: DictConfig, learns: bool) -> Markup:
    peer = config.peers[name]
    state = "frozen" if is_frozen(peer) else "moving average" if peer.get("follow") else ""
    below = ", ".join(tasks) or state
    rows = [(name, 15, 600, "text")] + ([(about, 11.5, 400, "muted")] if about != name else [])
    rows += [(below, 11.5, 400, "accent" if tasks else "muted")] if below else []
    top = place.y - 8.5 * (len(rows) - 1)
    text = [_text(place.x, top + 17 * i, row, 2 * place.w - 12) for i, row in enumerate(rows)]
    rectangle = Markup(
        '<rect x="{:.1f}" y="{:.1f}" width="{:.1f}" height="{}" rx="9" fill="var(--panel)" '
        'stroke="var(--{})" stroke-dasharray="{}"/>'
    ).format(place.x - place.w, place.y - place.h, 2 * place.w, TALL, "muted", "none" if learns else "4 3")
    return rectangle + Markup("").join(text)


def _text(x: float, y: float, row: tuple[str, float, int, str], room: float) -> Markup:
    text, size, weight, colour = printable(row[0]), *row[1:]
    size = max(7.0, min(size, room / (0.56 * max(1, len(text)))))
    return Markup(
        '<text x="{:.1f}" y="{:.1f}" text-anchor="middle" dominant-baseline="central" font-size="{:.1f}" '
        'font-weight="{}" fill="var(--{})">{}</text>'
    ).format(x, y, size, weight, colour, text)


def _arrow(a: Place, b: Place, heart: tuple[float, float] | None, label: str = "") -> tuple[Markup, Markup]:
    """From the edge of one box to that of the other, bent to its left so that the way back has its own.

    heart: the middle of a circle of many boxes; between far ones the arrow goes nearer to it.
    Second: its label, which comes on top of everything. Without one the line is thin and grey.
    """
    length = math.hypot(b.x - a.x, b.y - a.y)
    across = ((b.y - a.y) / length, -(b.x - a.x) / length)
    bend = 34.0
    middle = ((a.x + b.x) / 2 + across[0] * bend, (a.y + b.y) / 2 + across[1] * bend)
    if heart is not None:
        inwards = INWARDS * max(0.0, 1 - 2.5 * (a.w + b.w) / 2 / length)
        middle = tuple(m + inwards * (h - m) for m, h in zip(middle, heart, strict=True))  # type: ignore[assignment]
    start, end = _edge(a, middle, 2), _edge(b, middle, 4)
    t = 0.5 if abs(b.y - a.y) < 1 else 0.36  # of a slanting pair, the labels would lie over each other
    outwards = 8 if t == 0.5 else 0
    label_at = [
        (1 - t) ** 2 * start[i] + 2 * t * (1 - t) * middle[i] + t**2 * end[i] + across[i] * outwards
        for i in (0, 1)
    ]
    path = Markup('<path d="M{:.1f} {:.1f} Q{:.1f} {:.1f} {:.1f} {:.1f}" fill="none" {}/>').format(
        *start, *middle, *end, _TEACHES if label else _READS
    )
    halo = Markup(
        '<text x="{:.1f}" y="{:.1f}" text-anchor="middle" dominant-baseline="central" font-size="12" '
        'fill="var(--text)" stroke="var(--paper)" stroke-width="5" paint-order="stroke">{}</text>'
    ).format(*label_at, printable(label))
    return path, halo


def _edge(place: Place, towards: tuple[float, float], gap: float) -> tuple[float, float]:
    """Where the line from the middle of a box leaves it."""
    dx, dy = towards[0] - place.x, towards[1] - place.y
    scale = min((place.w + gap) / abs(dx) if dx else 1e9, (place.h + gap) / abs(dy) if dy else 1e9)
    return place.x + dx * scale, place.y + dy * scale
