"""The usual peer: a backbone that sees views or what earlier peers said, and heads that read what it said."""

from collections.abc import Callable, Collection, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from torch import Tensor, cat, nn, stack

from ssl_kd.cohort import Batch, Cohort, Outputs
from ssl_kd.errors import InputError
from ssl_kd.terms import fetch


@dataclass(frozen=True)
class Head:
    """A head and what it reads: "embedding", a stage of the backbone, or an earlier head.

    views: what it sees in place of the peer's views: a function of these, (V, B, C, H, W), that may change
        their number and size. That is a forward pass of its own. A head that reads another sees what it sees.
    """

    module: nn.Module
    reads: str = "embedding"
    views: Callable[[Tensor], Tensor] | None = None


class Encoder(nn.Module):
    """Backbone and heads over the views of a batch, or over what earlier peers said of them.

    backbone: images (N, C, H, W) -> embedding (N, D). Where stages are read it also has
        `forward_stages(images, names)`, which returns the embedding and a dict of maps (N, C', H', W').
    views: the batch entries to see, each (V, B, C, H, W) and one forward; joined along the views.
    sees: addresses "peer.output" to see in place of views, each (V, B, ...): the backbone is then called with
        the list of them, each (N, ...). It detaches what is not to learn from this peer.
    stages: hidden stages to give out beside those that a head reads; a mapping names them anew.
    per_view: every view is a forward with batch statistics of its own, instead of one over all V * B rows.
    frozen_backbone: the heads alone learn; the backbone stays as it is and in eval mode.

    A head with views of its own sees those of the first entry of `views`, changed.

    Outputs: "embedding" (V, B, D), each stage (V, B, C', H', W'), each head (V, B, ...). A map of views of
    different sizes is given to heads only.
    """

    def __init__(
        self,
        backbone: nn.Module,
        heads: Mapping[str, nn.Module | Head],
        *,
        views: str | Sequence[str] = "views",
        sees: Sequence[str] = (),
        stages: Sequence[str] | Mapping[str, str] = (),
        per_view: bool = False,
        frozen_backbone: bool = False,
    ) -> None:
        super().__init__()
        self.backbone = backbone
        plain = {name: head if isinstance(head, Head) else Head(head) for name, head in heads.items()}
        self.heads = nn.ModuleDict({name: head.module for name, head in plain.items()})
        self.reads = {name: head.reads for name, head in plain.items()}
        self.apart = _apart(plain)
        self.views = (views,) if isinstance(views, str) else tuple(views)
        self.sees = tuple(sees)
        self.stages = dict(stages) if isinstance(stages, Mapping) else {stage: stage for stage in stages}
        for reads in self.reads.values():
            if reads != "embedding" and reads not in self.heads and reads not in self.stages:
                self.stages[reads] = reads
        self.per_view = per_view
        self.frozen_backbone = frozen_backbone
        if frozen_backbone:
            self.backbone.requires_grad_(False).eval()
        self.tap: list[Tensor] | None = None  # gets the embeddings (N, D) with their graph

    @property
    def outputs(self) -> tuple[str, ...]:
        """Names of what `forward` returns."""
        return ("embedding", *self.stages, *self.heads)

    def train(self, mode: bool = True) -> "Encoder":
        super().train(mode)
        if self.frozen_backbone:
            self.backbone.eval()
        return self

    def embed(self, images: Tensor) -> Tensor:
        """Images (N, C, H, W) -> embedding (N, D): what the probes and a deployed network use."""
        return self.backbone(images)

    def forward(self, batch: Batch, seen: Mapping[str, Outputs] | None = None) -> Outputs:
        if self.sees:
            return self._views([fetch(address, seen or {}, batch) for address in self.sees], self._shared)
        missing = [key for key in self.views if key not in batch]
        if missing:
            raise InputError(
                f'a peer sees "{missing[0]}", which no recipe makes; there are: {", ".join(batch)}'
            )
        parts = [self._views([batch[key]], self._shared) for key in self.views]
        said = parts[0]
        if len(parts) > 1:
            alike = [name for name in parts[0] if len({part[name].shape[2:] for part in parts}) == 1]
            said = {name: cat([part[name] for part in parts]) for name in alike}
        for change, names in self.apart:
            own = self._views([change(batch[self.views[0]])], names)
            said |= {name: own[name] for name in names}
        return said

    @property
    def _shared(self) -> list[str]:
        """The heads that see the peer's views."""
        return [name for name in self.heads if not any(name in names for _, names in self.apart)]

    def _views(self, seen: Sequence[Tensor], heads: Collection[str]) -> Outputs:  # each (V, B, ...)
        if self.per_view:
            each = [self._rows(view, heads) for view in zip(*seen, strict=True)]
            return {name: stack([part[name] for part in each]) for name in each[0]}
        rows = self._rows([x.flatten(0, 1) for x in seen], heads)
        return {name: value.unflatten(0, seen[0].shape[:2]) for name, value in rows.items()}

    def _rows(self, seen: Sequence[Tensor], heads: Collection[str]) -> Outputs:  # each (N, ...)
        said = self._backbone(list(seen) if self.sees else seen[0])
        if self.tap is not None:
            self.tap.append(said["embedding"])
        for name in heads:
            said[name] = self.heads[name](said[self.reads[name]])
        return said

    def _backbone(self, seen: Tensor | list[Tensor]) -> Outputs:
        if not self.stages:
            return {"embedding": self.backbone(seen)}
        asked = tuple(dict.fromkeys(self.stages.values()))
        embedding, maps = self.backbone.forward_stages(seen, asked)  # type: ignore[operator]
        return {"embedding": embedding, **{name: maps[stage] for name, stage in self.stages.items()}}


def _apart(heads: Mapping[str, Head]) -> list[tuple[Callable[[Tensor], Tensor], list[str]]]:
    """Each change of the views, and in order the heads that see the peer's views so."""
    found: list[tuple[Callable[[Tensor], Tensor], list[str]]] = []
    for name, head in heads.items():
        above = next((names for _, names in found if head.reads in names), None)
        if above is not None and head.views is None:
            above.append(name)
        elif head.views is not None:
            if head.reads in heads:
                raise InputError(
                    f'the head "{name}" reads the head "{head.reads}" and sees what that one sees'
                )
            found.append((head.views, [name]))
    return found


def encoders(cohort: Cohort) -> dict[str, Encoder]:
    """The peers that embed images by themselves; a queue, say, does not, nor does what reads other peers."""
    return {name: peer for name, peer in cohort.peers.items() if isinstance(peer, Encoder) and not peer.sees}


def reads_of(peer: nn.Module) -> list[str]:
    """The addresses of what a peer reads of other peers."""
    reads: Any = peer.sees if isinstance(peer, Encoder) else getattr(peer, "reads", ())
    return [reads] if isinstance(reads, str) else [str(address) for address in reads]
