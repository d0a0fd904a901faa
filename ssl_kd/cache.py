"""What frozen peers say of each image, computed once, for views that are a function of the image alone."""

from collections.abc import Callable, Collection, Iterable, Mapping
from contextlib import AbstractContextManager, nullcontext

import torch
from torch import Tensor

from ssl_kd.cohort import Batch, Cohort, Outputs
from ssl_kd.data.sources import RESIDENT_BYTES
from ssl_kd.distributed import gather
from ssl_kd.errors import InputError


class Cache:
    """Frozen peers' outputs by image: the `known` of `fit`. First `fill` it, then call it with a batch.

    wanted: peer -> the outputs to keep, those that somebody reads; None keeps all.
    count: images. "index" of a batch (B,) says which of them are in it.
    context: what the peers run in, as `accelerator.autocast`.

    All images are gone through at the start, in their order, and not when a step first meets them: then a
    continued run knows the same numbers bit for bit, processes share the work, and no step waits.
    Up to RESIDENT_BYTES lie on the device of the outputs, more of them in the memory of the CPU.
    """

    def __init__(
        self,
        cohort: Cohort,
        wanted: Mapping[str, Collection[str] | None],
        count: int,
        context: Callable[[], AbstractContextManager] = nullcontext,
    ) -> None:
        self.cohort, self.wanted, self.count, self.context = cohort, dict(wanted), count, context
        self.tables: dict[str, dict[str, Tensor]] = {}  # each (N, V, ...)

    @property
    def bytes(self) -> int:
        return sum(table.nbytes for tables in self.tables.values() for table in tables.values())

    @torch.no_grad()
    def fill(self, batches: Iterable[Batch]) -> None:
        """Keeps what the peers say of these batches, each process of its own share.

        An image may be in several of them. Raises InputError where there is no memory for it.
        """
        for batch in batches:
            said = {name: self._said(name, batch) for name in self.wanted}
            if not self.tables:
                self.tables = self._room(said)
            index = gather(batch["index"])
            for name, tables in self.tables.items():
                for key, table in tables.items():
                    rows = gather(said[name][key], 1).transpose(0, 1)
                    table[index.to(table.device)] = rows.to(table.device)

    def __call__(self, batch: Batch) -> dict[str, Outputs]:
        """Peer -> its outputs (V, B, ...) on the device of the batch."""
        index = batch["index"]
        return {
            name: {
                key: table[index.to(table.device)].to(index.device).transpose(0, 1)
                for key, table in tables.items()
            }
            for name, tables in self.tables.items()
        }

    def _said(self, name: str, batch: Batch) -> Outputs:
        with self.context():
            said = self.cohort.peers[name](batch, {})
        wanted = self.wanted[name]
        kept = {key: value for key, value in said.items() if wanted is None or key in wanted}
        for key, value in kept.items():
            if not isinstance(value, Tensor) or value.shape[1:2] != batch["index"].shape:
                raise InputError(
                    f'"{name}" cannot be cached: its "{key}" has no row for each image; leave out '
                    f"peers.{name}.cache"
                )
        return kept

    def _room(self, said: Mapping[str, Outputs]) -> dict[str, dict[str, Tensor]]:
        values = [value for outputs in said.values() for value in outputs.values()]
        total = self.count * sum(value.nbytes // value.shape[1] for value in values)
        try:
            return {
                name: {
                    key: value.new_empty(
                        (self.count, len(value), *value.shape[2:]),
                        device=value.device if total <= RESIDENT_BYTES else "cpu",
                    )
                    for key, value in outputs.items()
                }
                for name, outputs in said.items()
            }
        except RuntimeError as error:  # torch's class for a memory that is too small
            what = f"{', '.join(said)} for {self.count:,} images"
            raise InputError(
                f"the outputs of {what} take {total / 2**30:.1f} GiB, and there is no room for them; leave "
                "cache out"
            ) from error
