"""What each peer costs where it is deployed, and what that buys."""

from typing import Any

from markupsafe import Markup
from torch import nn

from ssl_kd.cost import latency, macs, size
from ssl_kd.evaluate import parameters
from ssl_kd.report import blocks
from ssl_kd.report.charts import pareto
from ssl_kd.report.figures import short
from ssl_kd.report.page import Section
from ssl_kd.report.reported import Reported


def section(run: Reported) -> Section:
    shape = (run.data.train.shape[0], run.config.data.size, run.config.data.size)
    shown: list[blocks.Card] = []
    points: list[dict[str, Any]] = []
    for name, peer in run.encoders.items():
        network: nn.Module = peer.backbone
        cost, scored = macs(network, shape), run.accuracy(name)
        facts = [
            ("parameters", f"{parameters(peer):,}"),
            ("multiply-adds", short(cost)),
            ("size, float32", f"{size(network) / 1e6:.2f} MB"),
            ("latency", f"{1e3 * latency(network, shape, seconds=0.3):.2f} ms"),
        ]
        if scored:
            facts.append((scored[0], f"{100 * scored[1]:.1f} %"))
            points.append(
                {"name": name, "cost": cost, "score": 100 * scored[1], "series": run.names.index(name)}
            )
        shown.append(blocks.Card(name, _network(run, name), facts))
    parts: list[Markup] = [
        blocks.cards(shown) if shown else blocks.note("No peer of this run embeds images.")
    ]
    scored = next((run.accuracy(point["name"]) for point in points), None)
    if scored and len(points) > 1:
        parts.append(blocks.charts([_pareto(run, points, scored[0])]))
    lead = (
        "What each peer needs once it is trained: its backbone alone, without heads, for one image. Latency "
        "is the median on one thread of this machine's processor."
    )
    return Section("Deployment", lead, parts)


def _network(run: Reported, name: str) -> str:
    node = run.config.peers[name].get("backbone", {})
    what = str(node.get("name") or str(node.get("_target_", "")).rsplit(".", 1)[-1])
    role = "frozen" if name in run.cohort.frozen else ""
    if name in run.cohort.follow:
        role = f"moving average of {run.cohort.follow[name].leader}"
    return ", ".join(filter(None, [what if what != name else "backbone", role]))


def _pareto(run: Reported, points: list[dict[str, Any]], score: str) -> blocks.Chart:
    base = (run.summary.get("baselines") or {}).get("pixels") or {}
    level = base.get("linear") if score.startswith("linear") else (base.get("knn") or {}).get(score[4:])
    floor = ("raw pixels", 100 * level) if level is not None else None
    alt = "; ".join(f"{p['name']}: {p['score']:.1f} % at {short(p['cost'])} multiply-adds" for p in points)
    note = "Up and to the left is better. A peer on the dashed steps is the best for its cost."
    spec = pareto(points, "multiply-adds per image", score, floor)
    return blocks.Chart("Accuracy against cost.", spec, alt, note)
