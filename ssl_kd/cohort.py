"""The cohort: named networks that run in order on one batch and learn together."""

import re
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Literal, Protocol

import torch
from torch import Tensor, nn

from ssl_kd.distributed import rank
from ssl_kd.errors import InputError
from ssl_kd.schedules import Weight, at
from ssl_kd.streams import seed_of

Batch = Mapping[str, Any]  # "image", "views", "label", ..., and "step" (0-d int64 tensor)
Outputs = dict[str, Any]  # tensors, where a term of the three shapes reads them


class Peer(Protocol):
    """One network: a plain dict of named tensors from the batch and from what the peers before it said."""

    def __call__(self, batch: Batch, seen: Mapping[str, Outputs]) -> Outputs: ...


@dataclass(frozen=True)
class Follow:
    """A peer that is a moving average of another: `own = m * own + (1 - m) * leader` after every step.

    momentum: m, a number or a function of the optimiser step.
    mode: of the follower's forward pass: train (batch statistics of its own, as in BYOL) or eval.
    buffers: copy the leader's; average the floating ones and copy the integers; or own, which change by its
        own forward passes alone.
    """

    leader: str
    momentum: Weight = 0.99
    mode: Literal["train", "eval"] = "train"
    buffers: Literal["copy", "average", "own"] = "copy"

    def __post_init__(self) -> None:
        for option, value, allowed in (
            ("mode", self.mode, ("train", "eval")),
            ("buffers", self.buffers, ("copy", "average", "own")),
        ):
            if value not in allowed:
                raise InputError(f'follow.{option} is "{value}", but can be: {", ".join(allowed)}')


class Cohort(nn.Module):
    """Peers that run in their order; frozen ones and followers run without gradient.

    peers: name -> network; a later one may read what the earlier ones said.
    frozen: names of peers that never learn and stay in eval mode.
    follow: names of peers that start as a copy of another and then follow it.
    returns: per peer the outputs that somebody outside reads; None returns all of them.
    seed: of what the peers draw while running (dropout): a function of seed, step, rank and the peer's name.
    """

    def __init__(
        self,
        peers: Mapping[str, nn.Module],
        *,
        frozen: Collection[str] = (),
        follow: Mapping[str, Follow] | None = None,
        returns: Mapping[str, Collection[str]] | None = None,
        seed: int = 0,
    ) -> None:
        super().__init__()
        self.peers = nn.ModuleDict()
        for name, peer in peers.items():
            if not re.fullmatch(r"[A-Za-z0-9_-]+", name) or name == "batch" or hasattr(nn.ModuleDict, name):
                raise InputError(
                    f'"{name}" cannot name a peer: use letters, digits, "-" and "_", and no reserved word'
                )
            self.peers[name] = peer
        self.frozen = frozenset(frozen)
        self.follow = dict(follow or {})
        self.returns = (
            None if returns is None else {name: frozenset(names) for name, names in returns.items()}
        )
        self.seed = seed
        self._moment: tuple[int, int] | None = None
        for name in [*self.frozen, *self.follow, *(f.leader for f in self.follow.values())]:
            if name not in self.peers:
                raise InputError(f'there is no peer "{name}"; there are: {", ".join(self.peers)}')
        for name in [*self.frozen, *self.follow]:
            self.peers[name].requires_grad_(False)
        for name, follow_ in self.follow.items():
            self._start(name, follow_)
        self.train()

    @property
    def trainable(self) -> list[str]:
        """The peers that learn by gradient, in order."""
        return [name for name in self.peers if name not in self.frozen and name not in self.follow]

    def train(self, mode: bool = True) -> "Cohort":
        """Train mode for all but the frozen peers and the followers that ask for eval."""
        super().train(mode)
        for name in self.frozen:
            self.peers[name].eval()
        for name, follow in self.follow.items():
            self.peers[name].train(mode and follow.mode == "train")
        return self

    def begin(self, index: int, part: int = 0) -> None:
        """Says which optimiser step (and which of its accumulated batches) the next forward belongs to."""
        self._moment = (index, part)

    def forward(self, batch: Batch, known: Mapping[str, Outputs] | None = None) -> dict[str, Outputs]:
        """Outputs by peer. known: outputs computed before; those peers are not run."""
        seen: dict[str, Outputs] = {}
        for name, peer in self.peers.items():
            if known is not None and name in known:
                seen[name] = dict(known[name])
                continue
            if self.training and self._moment is not None:
                torch.manual_seed(seed_of(self.seed, "forward", name, rank(), *self._moment))
            with torch.set_grad_enabled(
                torch.is_grad_enabled() and name not in self.frozen | self.follow.keys()
            ):
                seen[name] = peer(batch, seen)
        if self.returns is None:
            return seen
        return {
            name: {key: value for key, value in outputs.items() if key in self.returns.get(name, ())}
            for name, outputs in seen.items()
        }

    @torch.no_grad()
    def advance(self, outputs: Sequence[Mapping[str, Outputs]], index: int) -> None:
        """After the optimisers of step `index`: followers move, peers with an `advance` method take outputs.

        outputs: one entry per accumulated batch of the step. What a peer keeps of them it must gather first.
        """
        for name, follow in self.follow.items():
            self._move(name, follow, at(follow.momentum, index))
        for name, peer in self.peers.items():
            advance = getattr(peer, "advance", None)
            if advance is not None and name not in self.frozen:
                for part in outputs:
                    advance(part[name])

    def _start(self, name: str, follow: Follow) -> None:
        own, leader = self.peers[name].state_dict(), self.peers[follow.leader].state_dict()
        odd = [key for key, value in own.items() if key not in leader or leader[key].shape != value.shape]
        if odd:
            raise InputError(f'"{name}" cannot follow "{follow.leader}": its "{odd[0]}" has no equal there')
        self.peers[name].load_state_dict({key: leader[key] for key in own})

    def _move(self, name: str, follow: Follow, momentum: float) -> None:
        leader = self.peers[follow.leader]
        weights = dict(leader.named_parameters())
        pairs: list[tuple[Tensor, Tensor]] = [
            (own, weights[key]) for key, own in self.peers[name].named_parameters()
        ]
        self._average(pairs, momentum)
        if follow.buffers == "own":
            return
        theirs = dict(leader.named_buffers())
        pairs = [(own, theirs[key]) for key, own in self.peers[name].named_buffers()]
        averaged = [pair for pair in pairs if pair[0].is_floating_point() and follow.buffers == "average"]
        self._average(averaged, momentum)
        for own, leading in pairs:
            if follow.buffers == "copy" or not own.is_floating_point():
                own.copy_(leading)

    @staticmethod
    def _average(pairs: Sequence[tuple[Tensor, Tensor]], momentum: float) -> None:
        if pairs:
            torch._foreach_lerp_([own for own, _ in pairs], [leading for _, leading in pairs], 1 - momentum)
