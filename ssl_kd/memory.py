"""Peers that remember what others said."""

from collections.abc import Mapping

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from ssl_kd.cohort import Batch, Outputs
from ssl_kd.distributed import all_sum, gather, world
from ssl_kd.errors import InputError
from ssl_kd.losses.rows import full
from ssl_kd.terms import fetch


class Queue(nn.Module):
    """The last `size` rows that another peer said, as unit rows: negatives from earlier batches.

    reads: "peer.output", (V, B, width); the peer runs before this one.
    Outputs: "rows" (size, width), as they were before this batch, in no order; "new", what joins them after
    the step. Until it has been filled, what is missing are random directions.
    Writing costs what the batch costs, whatever the size. Source: He et al. 2020 (MoCo).
    """

    outputs = ("rows", "new")
    rows: Tensor
    written: Tensor

    def __init__(self, reads: str, size: int = 4096, width: int = 128) -> None:
        super().__init__()
        if size < 1 or width < 1:
            raise InputError(f"a queue has at least 1 row and 1 column, not {size} and {width}")
        self.reads = reads
        self.register_buffer("rows", F.normalize(torch.randn(size, width), dim=1))
        self.register_buffer("written", torch.zeros((), dtype=torch.int64))

    def forward(self, batch: Batch, seen: Mapping[str, Outputs]) -> Outputs:
        new = fetch(self.reads, seen, batch)
        if new.shape[-1] != self.rows.shape[1]:
            raise InputError(f"{self.reads} has width {new.shape[-1]}, and the queue {self.rows.shape[1]}")
        return {"rows": self.rows, "new": new}

    def advance(self, outputs: Outputs) -> None:
        """The oldest rows make place for the new ones of all processes."""
        size = len(self.rows)
        new = gather(outputs["new"], dim=-2).flatten(0, -2)[-size:].to(self.rows.dtype)
        at = (self.written + torch.arange(len(new), device=new.device)) % size
        self.rows.index_copy_(0, at, F.normalize(new, dim=1))
        self.written += len(new)


class Centre(nn.Module):
    """Scores of another peer without their running mean, so that no single one can win for all images.

    reads: "peer.output", (V, B, K); the peer runs before this one.
    shapes: of what was said before, by address; filled in when a config is built.
    momentum: m of `centre = m * centre + (1 - m) * mean over the views and images of all processes`.
    Outputs: "centred" (V, B, K), by the centre as it was before this batch; "mean" (1, 1, K), this batch's,
    which moves the centre after the step. It starts at 0. Source: Caron et al. 2021 (DINO), eq. 4.
    """

    outputs = ("centred", "mean")
    centre: Tensor

    def __init__(self, reads: str, shapes: Mapping[str, tuple[int, ...]], momentum: float = 0.9) -> None:
        super().__init__()
        if reads not in shapes:
            raise InputError(f'the centre reads "{reads}", and nothing before says that')
        if not 0 <= momentum <= 1:
            raise InputError(f"the momentum of a centre must be from 0 to 1, not {momentum}")
        self.reads, self.momentum = reads, momentum
        self.register_buffer("centre", torch.zeros(shapes[reads]))

    def forward(self, batch: Batch, seen: Mapping[str, Outputs]) -> Outputs:
        scores = fetch(self.reads, seen, batch)
        scores = full(scores)
        return {"centred": scores - self.centre, "mean": scores.mean((0, 1), keepdim=True)}

    def advance(self, outputs: Outputs) -> None:
        """The centre moves towards the mean of the batch of all processes."""
        mean = all_sum(outputs["mean"]) / world()
        self.centre.lerp_(mean.flatten().to(self.centre.dtype), 1 - self.momentum)
