"""What several networks say, side by side: the ensemble of teachers in class-balanced distillation.

Iscen, Araujo, Gong, Schmid, "Class-balanced distillation for long-tailed visual recognition", BMVC 2021.
"""

from collections.abc import Mapping, Sequence

import torch
from torch import Tensor, nn

from ssl_kd.errors import InputError
from ssl_kd.losses.rows import unit

Shapes = Mapping[str, tuple[int, ...]]


class Concatenated(nn.Module):
    """Backbone of a peer that sees embeddings (N, D_i) of others: (N, sum of D_i), without gradient to them.

    sees: their addresses; shapes: of what they say, (D,). Each is brought to length 1, so that none of them
    counts for more. Raises InputError for what is not one row for each image.
    """

    def __init__(self, sees: Sequence[str], shapes: Shapes) -> None:
        super().__init__()
        for address in sees:
            if len(shapes.get(address, (0,))) != 1:
                raise InputError(
                    f'"{address}" says maps, and only rows, as an embedding, can stand side by side'
                )
        missing = [address for address in sees if address not in shapes]
        if missing:
            raise InputError(f'nothing before says "{missing[0]}"; there are: {", ".join(shapes)}')
        self.stage_channels: dict[str, int] = {}
        self.width = sum(shapes[address][0] for address in sees)

    def forward(self, rows: Sequence[Tensor]) -> Tensor:
        return torch.cat([unit(row.detach()) for row in rows], dim=1)


class Feature(nn.Sequential):
    """Head (N, in_features) -> (N, sum of D_i), which learns from the rows of several networks side by side.

    like: addresses of the rows; shapes: of what they say, (D,). out: the sum in their place, 0 for none. A
    Linear layer and ReLU; nothing at all where there is one row to learn from, as wide as the embedding.
    """

    def __init__(
        self, in_features: int, like: Sequence[str] = (), shapes: Shapes | None = None, out: int = 0
    ) -> None:
        shapes = shapes or {}
        missing = [address for address in like if address not in shapes]
        if missing:
            raise InputError(f'nothing before says "{missing[0]}"; there are: {", ".join(shapes)}')
        width = sum(shapes[address][0] for address in like) or out
        if not width or (len(like) == 1 and width == in_features):
            width = 0
        super().__init__(*([nn.Linear(in_features, width), nn.ReLU()] if width else []))
        self.alone = {"out": width}  # its options where what it learned from is not there
