"""Who teaches whom, as a drawing: a box for each peer, an arrow from teacher to student."""

import math
from dataclasses import dataclass

from markupsafe import Markup, escape
from omegaconf import DictConfig

from ssl_kd.show import links

WIDTH, BOX, TALL = 480, 150, 64  # pixels of the drawing, and of a box


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
    places, height = _places(names)
    pairs = arrows(config)
    parts = [_arrow(places[a], places[b], ", ".join(terms)) for (a, b), terms in pairs.items()]
    parts += [_box(places[name], name, _about(config.peers[name]), tasks[name], config) for name in names]
    said = "; ".join(f"{a} teaches {b} by {', '.join(terms)}" for (a, b), terms in pairs.items())
    return Markup(
        '<svg viewBox="0 0 {} {}" role="img" aria-label="{}" font-family="inherit">'
        '<defs><marker id="head" viewBox="0 0 10 10" refX="9" refY="5" markerWidth="8" markerHeight="8" '
        'orient="auto"><path d="M0 1 L9 5 L0 9 z" fill="var(--accent)"/></marker></defs>{}</svg>'
    ).format(WIDTH, round(height), said or "no peer teaches another", Markup("").join(parts))


def _places(names: list[str]) -> tuple[dict[str, Place], float]:
    """One in the middle, two beside each other, more on a circle."""
    count = len(names)
    if count <= 2:
        xs = [WIDTH / 2] if count == 1 else [BOX / 2 + 2, WIDTH - BOX / 2 - 2]
        height = TALL + (8 if count == 1 else 56)
        return {name: Place(x, height / 2, BOX / 2) for name, x in zip(names, xs, strict=True)}, height
    half = min(BOX, 560 / count) / 2
    wide, high = WIDTH / 2 - half - 2, 100 + 16 * count
    middle = high + TALL / 2 + 2
    angles = [2 * math.pi * i / count - math.pi / 2 for i in range(count)]
    places = {
        name: Place(WIDTH / 2 + wide * math.cos(t), middle + high * math.sin(t), half)
        for name, t in zip(names, angles, strict=True)
    }
    return places, max(p.y for p in places.values()) + TALL / 2 + 2


def _about(peer: DictConfig) -> str:
    """What a peer is: its backbone, or the class of something else."""
    network = peer.get("backbone", peer)
    return str(network.get("name") or str(network.get("_target_", "")).rsplit(".", 1)[-1])


def _box(place: Place, name: str, about: str, tasks: list[str], config: DictConfig) -> Markup:
    peer = config.peers[name]
    learns = not peer.get("frozen") and not peer.get("follow") and "_target_" not in peer
    state = "frozen" if peer.get("frozen") else "moving average" if peer.get("follow") else ""
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
    text, size, weight, colour = row
    size = max(7.0, min(size, room / (0.56 * max(1, len(text)))))
    return Markup(
        '<text x="{:.1f}" y="{:.1f}" text-anchor="middle" dominant-baseline="central" font-size="{:.1f}" '
        'font-weight="{}" fill="var(--{})">{}</text>'
    ).format(x, y, size, weight, colour, escape(text))


def _arrow(a: Place, b: Place, label: str) -> Markup:
    """From the edge of one box to that of the other, bent to its left so that the way back has its own."""
    length = math.hypot(b.x - a.x, b.y - a.y)
    across = ((b.y - a.y) / length, -(b.x - a.x) / length)
    bend = 34.0
    middle = ((a.x + b.x) / 2 + across[0] * bend, (a.y + b.y) / 2 + across[1] * bend)
    start, end = _edge(a, middle, 2), _edge(b, middle, 4)
    t = 0.5 if abs(b.y - a.y) < 1 else 0.36  # of a slanting pair, the labels would lie over each other
    outwards = 8 if t == 0.5 else 0
    label_at = [
        (1 - t) ** 2 * start[i] + 2 * t * (1 - t) * middle[i] + t**2 * end[i] + across[i] * outwards
        for i in (0, 1)
    ]
    path = Markup(
        '<path d="M{:.1f} {:.1f} Q{:.1f} {:.1f} {:.1f} {:.1f}" fill="none" stroke="var(--accent)" '
        'stroke-width="1.6" marker-end="url(#head)"/>'
    ).format(*start, *middle, *end)
    halo = Markup(
        '<text x="{:.1f}" y="{:.1f}" text-anchor="middle" dominant-baseline="central" font-size="12" '
        'fill="var(--text)" stroke="var(--paper)" stroke-width="5" paint-order="stroke">{}</text>'
    ).format(*label_at, escape(label))
    return path + halo


def _edge(place: Place, towards: tuple[float, float], gap: float) -> tuple[float, float]:
    """Where the line from the middle of a box leaves it."""
    dx, dy = towards[0] - place.x, towards[1] - place.y
    scale = min((place.w + gap) / abs(dx) if dx else 1e9, (place.h + gap) / abs(dy) if dy else 1e9)
    return place.x + dx * scale, place.y + dy * scale
