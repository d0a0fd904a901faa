"""A batch in parts, for machines whose memory holds no more; and the whole again, for losses that compare."""

from collections.abc import Mapping, Sequence
from typing import Any

import torch
from torch import Tensor

from ssl_kd.cohort import Batch, Outputs


def split(raw: Mapping[str, Any], count: int) -> list[dict[str, Any]]:
    """A raw batch in `count` parts of consecutive rows; what has no rows goes to all of them."""
    if count == 1:
        return [dict(raw)]
    rows = {key: value for key, value in raw.items() if isinstance(value, Tensor) and value.dim()}
    chunks = {key: value.chunk(count) for key, value in rows.items()}
    return [{**raw, **{key: value[i] for key, value in chunks.items()}} for i in range(count)]


def join(
    parts: Sequence[Batch], outputs: Sequence[Mapping[str, Outputs]]
) -> tuple[Batch, dict[str, Outputs]]:
    """The whole of parts that a recipe has seen, and of what each peer said on them.

    A tensor's rows are its second axis where that is as long as the part ("row" says how long), as in
    (V, B, D), and else its first, as in (B,). What has no rows is the first part's.
    """
    rows = len(parts[0]["row"])
    said = {name: _joined([part[name] for part in outputs], rows) for name in outputs[0]}
    return _joined(parts, rows), said


def _joined(parts: Sequence[Mapping[str, Any]], rows: int) -> dict[str, Any]:
    whole = {}
    for key, value in parts[0].items():
        axis = next(
            (a for a in (1, 0) if isinstance(value, Tensor) and value.shape[a : a + 1] == (rows,)), None
        )
        whole[key] = value if axis is None else torch.cat([part[key] for part in parts], axis)
    return whole
