"""Peers that remember what others said."""

from collections.abc import Mapping

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from ssl_kd.cohort import Batch, Outputs
from ssl_kd.distributed import gather
from ssl_kd.errors import InputError
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
