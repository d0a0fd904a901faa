"""A source seen through another: what the kinds of it have in common."""

from dataclasses import dataclass

import numpy as np

from ssl_kd.data.sources import RESIDENT_BYTES, Source
from ssl_kd.data.workers import name_of


@dataclass(eq=False)
class Wrapper:
    """All as in the source, unless a kind of it says otherwise."""

    source: Source

    @property
    def shape(self) -> tuple[int, int, int]:
        return self.source.shape

    @property
    def classes(self) -> tuple[str, ...]:
        return self.source.classes

    @property
    def numbers(self) -> tuple[int, ...]:
        return getattr(self.source, "numbers", ())

    @property
    def resident_bytes(self) -> int:
        return getattr(self.source, "resident_bytes", RESIDENT_BYTES)

    @property
    def skipped(self) -> list[str]:
        return getattr(self.source, "skipped", [])

    def __len__(self) -> int:
        return len(self.source)

    def __getitem__(self, i: int) -> np.ndarray:
        return self.source[i]

    def name(self, i: int) -> str:
        return name_of(self.source)(i)
