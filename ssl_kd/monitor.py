"""Watching without labels: is a network collapsing, and is an edge helping its student or hurting it?

Nothing here is hidden state: what is decided follows from the lines that are already in metrics.jsonl, so a
continued run decides as the uninterrupted one would have.
"""

import itertools
import math
from collections import deque
from collections.abc import Callable, Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Literal

import torch
from torch import Tensor

from ssl_kd import distributed
from ssl_kd.cohort import Cohort, Outputs
from ssl_kd.encoder import reads_of
from ssl_kd.engine import Result, Scalars
from ssl_kd.errors import InputError
from ssl_kd.probes import health
from ssl_kd.schedules import at
from ssl_kd.terms import Link

LOWEST = {"rank": 1.5, "spread": 0.05}  # of an output; below, it says the same of every image
ROWS = 512  # of a batch that are looked at: the cost of some figures grows with the square


class Collapsed(Exception):
    """A network has collapsed, and the run was asked to stop there."""

    state = "stopped"


@dataclass(frozen=True)
class Watch:
    """How often to look, and what to do about what is seen.

    every: steps between two looks; 0 for none. patience: looks in a row that make an alarm.
    on_collapse, on_hurt: what an alarm does; `gate` gives an edge the weight 0 from the alarm on, until the
        mean of its last `patience` cosines is above 0.
    """

    every: int = 50
    patience: int = 5
    on_collapse: Literal["ignore", "warn", "stop"] = "warn"
    on_hurt: Literal["ignore", "warn", "gate"] = "warn"

    def __post_init__(self) -> None:
        for option, value, allowed in (
            ("on_collapse", self.on_collapse, ("ignore", "warn", "stop")),
            ("on_hurt", self.on_hurt, ("ignore", "warn", "gate")),
        ):
            if value not in allowed:
                raise InputError(f'health.{option} is "{value}", but can be: {", ".join(allowed)}')
        if self.every < 0 or self.patience < 1:
            raise InputError("health.every must be at least 0 steps and health.patience at least 1 look")
        if self.on_hurt == "gate" and not self.every:
            raise InputError("health.on_hurt=gate needs looks at the edges; say how often by health.every=50")


class Monitor:
    """Looks at the embeddings of every `watch.every`th step; a watcher of `fit`, and its `weigh`.

    links: the edges of all terms. write: takes a line for metrics.jsonl. say: takes an alarm.
    A peer is looked at if it gives out "embedding" (V, B, D); an edge if its student has a task of its own
    and a `tap` (see Encoder).
    """

    def __init__(
        self,
        cohort: Cohort,
        links: Sequence[Link],
        watch: Watch,
        write: Callable[[dict[str, Any]], None],
        say: Callable[[str], None],
        start: int = 0,
    ) -> None:
        self.cohort, self.links, self.watch, self.write, self.say = cohort, links, watch, write, say
        self.looks: dict[str, deque[float]] = {}  # the last `patience` values of each column
        self.alarmed: set[str] = set()  # "cosine/EDGE" and "collapse/PEER"
        self._cosines: dict[str, float] = {}
        self._prepare(start)

    def recall(self, lines: Iterable[Mapping[str, Any]]) -> None:
        """Takes up what metrics.jsonl says of the steps before."""
        for line in lines:
            if "health" in line:
                self._remember(line["health"])
                self._alarms(line["step"], line["health"])

    @property
    def gated(self) -> frozenset[str]:
        """Names of the edges whose weight is 0 for now."""
        if self.watch.on_hurt != "gate":
            return frozenset()
        return frozenset(name.removeprefix("cosine/") for name in self.alarmed if name.startswith("cosine/"))

    def mean(self, kind: str, peers: Collection[str]) -> float:
        """Of one figure over the last looks at the heads of these peers; inf where there was no look."""
        found = [
            sum(last) / len(last)
            for column, last in self.looks.items()
            if column.startswith(f"{kind}/")
            and column.partition("/")[2].partition(".")[0] in peers
            and "." in column
        ]
        return sum(found) / len(found) if found else math.inf

    def weigh(self, index: int, scalars: Scalars) -> Scalars:
        """The terms with the weights they are to have; at a look, measures the edges on the way."""
        if self._due(index + 1) and not self._cosines:
            self._cosines = self._measure(scalars)
        gated = self.gated
        return {name: (raw, 0.0 if name in gated else weight) for name, (raw, weight) in scalars.items()}

    def __call__(self, step: int, result: Result) -> None:
        if self._due(step):
            columns = {**figures(result.outputs[0]), **self._cosines}
            self._cosines = {}
            self._remember(columns)
            alarms = [f"step {step}: {text}" for text in self._alarms(step, columns)]
            self.write({"step": step, "health": columns, **({"alarms": alarms} if alarms else {})})
            for alarm in alarms:
                self.say(alarm)
            collapsed = any(name.startswith("collapse/") for name in self.alarmed)
            if collapsed and self.watch.on_collapse == "stop":
                raise Collapsed
        self._prepare(step)

    def _due(self, step: int) -> bool:
        return self.watch.every > 0 and step % self.watch.every == 0

    def _prepare(self, done: int) -> None:
        """Has the peers keep their embeddings' graph in the step after `done`, if that one is looked at."""
        for peer in self.cohort.peers.values():
            if hasattr(peer, "tap"):
                peer.tap = [] if self._due(done + 1) else None  # type: ignore[assignment]

    def _measure(self, scalars: Scalars) -> dict[str, float]:
        """Per edge the cosine of its gradient with that of the student's own terms, at the embedding."""
        cosines = {}
        for student in self.cohort.trainable:
            peer = self.cohort.peers[student]
            taps = [tap for tap in getattr(peer, "tap", None) or () if tap.requires_grad]
            links = [
                link for link in self.links if link.student.split(".")[0] == student and link.name in scalars
            ]
            tasks = [link.name for link in links if not link.teacher]
            if not taps or not links:
                continue
            task = self._task(tasks, scalars, taps)
            if not task:  # SimSiam, BYOL, DINO: what a network learns from itself is its task
                tasks = [link.name for link in links if self._from_itself(link)]
                task = self._task(tasks, scalars, taps)
            edges = [link.name for link in links if link.teacher and link.name not in tasks]
            for name in edges if task else ():
                edge = _gradient(scalars[name][0], taps)
                if edge:  # an edge to a hidden layer has none at the embedding
                    cosines[f"cosine/{name}"] = _cosine(edge, task)
        return cosines

    def _task(self, names: Sequence[str], scalars: Scalars, taps: Sequence[Tensor]) -> list[Tensor]:
        """The gradient of these terms together; empty where they have none."""
        weighted = [scalars[name][0] * scalars[name][1] for name in names]
        return _gradient(torch.stack(weighted).sum(), taps) if weighted else []

    def _from_itself(self, link: Link) -> bool:
        """Whether the teacher is the student, its moving average, or what reads one of these alone."""
        student, teacher = (address.split(".")[0] for address in (link.student, link.teacher))
        read = {address.split(".")[0] for address in reads_of(self.cohort.peers[teacher])} or {teacher}
        follow = self.cohort.follow
        return all(name == student or (name in follow and follow[name].leader == student) for name in read)

    def _remember(self, columns: Mapping[str, float]) -> None:
        for name, value in columns.items():
            self.looks.setdefault(name, deque(maxlen=self.watch.patience)).append(value)

    def _alarms(self, step: int, columns: Mapping[str, float]) -> list[str]:
        """What is to be said for the first time; forgets what is over."""
        texts = []
        for column in columns:
            kind, _, of = column.partition("/")
            last = self.looks[column]
            full = len(last) == self.watch.patience
            if kind == "cosine" and self.watch.on_hurt != "ignore":
                if column in self.alarmed and sum(last) > 0:
                    self.alarmed.discard(column)
                elif full and column not in self.alarmed and max(last) < 0 and self._weight(of, step) > 0:
                    self.alarmed.add(column)
                    texts.append(self._hurts(of, last))
            elif kind in LOWEST and self.watch.on_collapse != "ignore":
                if full and f"collapse/{of}" not in self.alarmed and max(last) < LOWEST[kind]:
                    self.alarmed.add(f"collapse/{of}")
                    texts.append(
                        f"{of} has collapsed and says the same of every image: effective rank "
                        f"{columns[f'rank/{of}']:.1f}, spread {columns[f'spread/{of}']:.3f}"
                    )
        return texts

    def _weight(self, edge: str, step: int) -> float:
        """That an edge is meant to have: one that is still to be ramped in cannot hurt."""
        return next(at(link.weight, step - 1) for link in self.links if link.name == edge)

    def _hurts(self, edge: str, last: Sequence[float]) -> str:
        text = (
            f"{edge} has pulled against its student's own task at {len(last)} looks in a row "
            f"(cosine {sum(last) / len(last):.2f})"
        )
        return f"{text}; its weight is 0 until that changes" if self.watch.on_hurt == "gate" else text


def figures(outputs: Mapping[str, Outputs]) -> dict[str, float]:
    """The health of every embedding of a batch, and of every pair of them, over all processes."""
    columns: dict[str, float] = {}
    rows: dict[str, Tensor] = {}
    for name, said in outputs.items():
        for output, views in said.items() if "embedding" in said else ():
            if not isinstance(views, Tensor) or views.dim() != 3 or not views.is_floating_point():
                continue
            views = distributed.gather(views.detach().float(), 1)[:, :ROWS]  # (V, B, D)
            if not views.isfinite().all():  # `fit` will say so
                continue
            if views.device.type == "mps":  # which has no float64
                views = views.cpu()
            of = name if output == "embedding" else f"{name}.{output}"
            if output == "embedding":
                rows[name] = views[0]
            columns |= {
                f"rank/{of}": health.effective_rank(views.flatten(0, 1)),
                f"spread/{of}": health.spread(views.flatten(0, 1)),
                f"alignment/{of}": health.alignment(views),
                f"uniformity/{of}": health.uniformity(views[0]),
            }
    for a, b in itertools.combinations(rows, 2):
        columns[f"agreement/{a},{b}"] = health.agreement(rows[a], rows[b])
        columns[f"cka/{a},{b}"] = health.cka(rows[a], rows[b])
    return {name: value for name, value in columns.items() if math.isfinite(value)}


def _gradient(loss: Tensor, taps: Sequence[Tensor]) -> list[Tensor]:
    """Of the loss at each of the taps; empty where it depends on none of them."""
    grads = torch.autograd.grad(loss, taps, retain_graph=True, allow_unused=True)
    if all(grad is None for grad in grads):
        return []
    return [torch.zeros_like(tap) if grad is None else grad for tap, grad in zip(taps, grads, strict=True)]


def _cosine(a: Sequence[Tensor], b: Sequence[Tensor]) -> float:
    """Of two gradients, over the rows of all processes; 0 where one of them is zero."""
    pairs = [(x.flatten().float(), y.flatten().float()) for x, y in zip(a, b, strict=True)]
    sums = torch.stack(
        [
            torch.stack([x @ y for x, y in pairs]).sum(),
            torch.stack([x @ x for x, _ in pairs]).sum(),
            torch.stack([y @ y for _, y in pairs]).sum(),
        ]
    )
    if distributed.world() > 1:
        torch.distributed.all_reduce(sums)
    dot, own, other = sums.tolist()
    return dot / math.sqrt(own * other) if own * other > 0 else 0.0
