"""Terms turn the outputs of a cohort into named scalars, in three shapes.

A term is called as `term(outputs, batch, index)` and returns `{name: (raw scalar, weight at this step)}`;
any function of that signature is one. An address is `peer.output` or `batch.entry`.
This file needs no torch, so that a method's edges are listed at once.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, Literal

from ssl_kd.errors import InputError
from ssl_kd.schedules import Weight, at

if TYPE_CHECKING:
    from torch import Tensor

    Batch = Mapping[str, Any]
    Outputs = dict[str, Any]
    Scalars = dict[str, tuple[Tensor, float]]
    Loss = Callable[..., Tensor]


@dataclass(frozen=True)
class Link:
    """One arrow of the graph: what `student` learns, and from which `teacher` ("" for itself)."""

    name: str
    student: str
    teacher: str
    weight: Weight
    share: float = 1.0


def fetch(address: str, outputs: Mapping[str, Outputs], batch: Batch) -> Any:
    """The tensor at `peer.output` or `batch.entry`."""
    owner, _, entry = address.partition(".")
    if owner != "batch" and owner not in outputs:
        raise InputError(f'"{address}" names a peer that does not exist; there are: {", ".join(outputs)}')
    place = batch if owner == "batch" else outputs[owner]
    if entry not in place:
        raise InputError(f'{owner} has no "{entry}"; it has: {", ".join(map(str, place))}')
    return place[entry]


def _names(value: str | Sequence[str]) -> tuple[str, ...]:
    return (value,) if isinstance(value, str) else tuple(value)


def check_address(name: str, option: str, value: Any, several: bool) -> None:
    """Refuses what is no address or entry, or no list of them where `several` may be. `name`: whose it is."""
    listed = value if several and isinstance(value, list | tuple) else [value]
    if not all(isinstance(entry, str) and entry for entry in listed):
        kind = "an address, or a list of them" if several else "an address, as in small.projection"
        raise InputError(f"{name}: {option} must be {kind}, and {value} is not")


@dataclass(frozen=True)
class Each:
    """`loss(*reads)` for each of the peers: a peer against itself (its views) or against the batch (labels).

    reads: outputs of the peer ("projection") and entries of the batch ("batch.label"), as the loss wants.
    spread: the views of the first read are separate arguments, for losses that want `loss(z0, z1)`.
    """

    name: str
    loss: Loss
    peers: Sequence[str]
    reads: str | Sequence[str]
    spread: bool = False
    weight: Weight = 1.0

    def __post_init__(self) -> None:
        if not self.reads:
            raise InputError(f"{self.name}: reads is empty; name what the loss is given, as in projection")
        check_address(self.name, "reads", self.reads, several=True)

    def links(self) -> list[Link]:
        output = next((read for read in _names(self.reads) if not read.startswith("batch.")), "")
        return [Link(f"{self.name}/{peer}", f"{peer}.{output}", "", self.weight) for peer in self.peers]

    def addresses(self) -> Iterator[str]:
        for peer in self.peers:
            for read in _names(self.reads):
                yield read if read.startswith("batch.") else f"{peer}.{read}"

    def __call__(self, outputs: Mapping[str, Outputs], batch: Batch, index: int) -> Scalars:
        weight = at(self.weight, index)
        scalars = {}
        for peer in self.peers:
            own = [read if read.startswith("batch.") else f"{peer}.{read}" for read in _names(self.reads)]
            values = [fetch(address, outputs, batch) for address in own]
            if self.spread:
                values = [*values[0], *values[1:]]
            scalars[f"{self.name}/{peer}"] = (self.loss(*values), weight)
        return scalars


@dataclass(frozen=True)
class Edge:
    """`loss(student, teacher, *given)`: one output learns from another, which is detached by default."""

    name: str
    loss: Loss
    student: str
    teacher: str
    given: Sequence[str] = ()
    detach: bool = True
    weight: Weight = 1.0

    def __post_init__(self) -> None:
        check_address(self.name, "student", self.student, several=False)
        check_address(self.name, "teacher", self.teacher, several=False)
        check_address(self.name, "given", self.given, several=True)

    def links(self) -> list[Link]:
        return [Link(self.name, self.student, self.teacher, self.weight)]

    def addresses(self) -> Iterator[str]:
        yield from (self.student, self.teacher, *_names(self.given))

    def __call__(self, outputs: Mapping[str, Outputs], batch: Batch, index: int) -> Scalars:
        student, teacher = fetch(self.student, outputs, batch), fetch(self.teacher, outputs, batch)
        given = [fetch(address, outputs, batch) for address in _names(self.given)]
        loss = self.loss(student, teacher.detach() if self.detach else teacher, *given)
        return {self.name: (loss, at(self.weight, index))}


@dataclass(frozen=True)
class Mutual:
    """Many edges at once: one for every ordered pair of peers (and of their heads), every target detached.

    peers: their names, in order; or a mapping student -> its teacher, which says the edges itself.
    outputs: what a student learns with: one name, several (heads), or a mapping peer -> name(s).
    targets: what a teacher shows, if not the same outputs (SimSiam: prediction <- projection).
    between: all; ring (each learns from the one before it, the first from the last); chain (the same, but the
        first learns from nobody); leader (the first teaches the others).
    heads: same (head i from head i), cross (head i from every other), dense (from every one).
    reduce: mean or sum over the edges of one student.
    weight: one for all, or a mapping "student<-teacher" -> weight that names every pair; null for no edge.
    """

    name: str
    loss: Loss
    peers: Sequence[str] | Mapping[str, str]
    outputs: str | Sequence[str] | Mapping[str, str | Sequence[str]]
    targets: str | Sequence[str] | Mapping[str, str | Sequence[str]] | None = None
    given: Sequence[str] = ()
    between: Literal["all", "ring", "chain", "leader"] = "all"
    heads: Literal["same", "cross", "dense"] = "same"
    reduce: Literal["mean", "sum"] = "mean"
    weight: Weight | Mapping[str, Weight | None] = 1.0
    _links: list[Link] = field(init=False, repr=False, compare=False)

    def __post_init__(self) -> None:
        for option, value, allowed in (
            ("between", self.between, ("all", "ring", "chain", "leader")),
            ("heads", self.heads, ("same", "cross", "dense")),
            ("reduce", self.reduce, ("mean", "sum")),
        ):
            if value not in allowed:
                raise InputError(f'{self.name}: {option} is "{value}", but can be: {", ".join(allowed)}')
        check_address(self.name, "given", self.given, several=True)
        object.__setattr__(self, "_links", self._build())

    def _build(self) -> list[Link]:
        links: list[Link] = []
        weights = self._weights()
        for student in dict.fromkeys(student for student, _ in weights):
            own = []
            for teacher in (t for s, t in weights if s == student):
                weight = weights[student, teacher]
                if weight is None:
                    continue
                learns = self._heads(self.outputs, student)
                shows = self._heads(self.targets if self.targets is not None else self.outputs, teacher)
                if self.heads != "dense" and len(learns) != len(shows):
                    raise InputError(
                        f"{self.name}: {student} has {len(learns)} heads and {teacher} {len(shows)}; "
                        "only heads: dense joins them"
                    )
                for i, a in enumerate(learns):
                    for j, b in enumerate(shows):
                        if self.heads == "dense" or (i == j) == (self.heads == "same"):
                            several = len(learns) * len(shows) > 1
                            label = f"{student}.{a}<-{teacher}.{b}" if several else f"{student}<-{teacher}"
                            own.append((f"{self.name}/{label}", f"{student}.{a}", f"{teacher}.{b}", weight))
            share = 1 / len(own) if own and self.reduce == "mean" else 1.0
            links += [Link(name, a, b, weight, share) for name, a, b, weight in own]
        return links

    def _pairs(self) -> list[tuple[str, str]]:
        peers = list(self.peers)
        if isinstance(self.peers, Mapping):
            if self.between != "all":
                raise InputError(f"{self.name}: peers says who learns from whom; leave out between")
            return list(self.peers.items())
        if self.between == "all":
            return [(s, t) for s in peers for t in peers if s != t]
        if self.between == "ring":
            return [(s, peers[i - 1]) for i, s in enumerate(peers) if s != peers[i - 1]]
        if self.between == "chain":
            return list(zip(peers[1:], peers[:-1], strict=True))
        return [(s, peers[0]) for s in peers[1:]]

    def _weights(self) -> dict[tuple[str, str], Weight | None]:
        pairs = self._pairs()
        if not isinstance(self.weight, Mapping):
            return dict.fromkeys(pairs, self.weight)
        names = {f"{s}<-{t}": (s, t) for s, t in pairs}
        if set(self.weight) != set(names):
            wrong = sorted(set(self.weight) ^ set(names))
            raise InputError(
                f"{self.name}: weight must name every edge once; {', '.join(wrong)} does not fit; "
                f"the edges are: {', '.join(names)}"
            )
        return {pair: self.weight[name] for name, pair in names.items()}

    def _heads(
        self, outputs: str | Sequence[str] | Mapping[str, str | Sequence[str]], peer: str
    ) -> tuple[str, ...]:
        if isinstance(outputs, Mapping):
            if peer not in outputs:
                raise InputError(
                    f'{self.name}: no output is named for peer "{peer}"; there are: {", ".join(outputs)}'
                )
            return _names(outputs[peer])
        return _names(outputs)

    def links(self) -> list[Link]:
        return self._links

    def addresses(self) -> Iterator[str]:
        for link in self._links:
            yield from (link.student, link.teacher)
        yield from _names(self.given)

    def __call__(self, outputs: Mapping[str, Outputs], batch: Batch, index: int) -> Scalars:
        given = [fetch(address, outputs, batch) for address in _names(self.given)]
        scalars = {}
        for link in self._links:
            student, teacher = fetch(link.student, outputs, batch), fetch(link.teacher, outputs, batch)
            scalars[link.name] = (
                self.loss(student, teacher.detach(), *given),
                at(link.weight, index) * link.share,
            )
        return scalars
