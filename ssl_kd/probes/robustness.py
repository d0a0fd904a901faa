"""What is left of a probe's accuracy when the test images get worse."""

from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
import torch
from torch import Tensor

from ssl_kd.data import Source, in_order
from ssl_kd.data.adapt import subset
from ssl_kd.data.corruptions import KINDS, SEVERITIES, corrupt, strength
from ssl_kd.errors import InputError
from ssl_kd.probes.features import embed
from ssl_kd.probes.linear import Linear
from ssl_kd.streams import generator


def robustness(
    network: Callable[[Tensor], Tensor],
    probe: Linear,
    test: Source,
    plain: Callable[[Tensor], Tensor],
    device: torch.device | str,
    *,
    kinds: Sequence[str] = KINDS,
    severities: Sequence[int] = SEVERITIES,
    seed: int = 0,
    limit: int | None = None,
    batch_size: int = 500,
) -> dict[str, Any]:
    """The accuracy on clean and on corrupted test images of a probe that was fitted to clean ones.

    Returns {"clean": accuracy, kind: {"1": accuracy, ..., "5": accuracy}, ..., "mean": of all the corrupted}.

    network, plain, device: as for `embed`; the probe is the one fitted to this network's rows.
    test: its labelled images are scored. limit: only so many of them, a random part that belongs to the seed.
    Each image is read once, and corrupted as `data.corruptions` says, under the seed and its position among
    those scored. Raises InputError for images without labels, unknown kinds or severities and a limit < 1.
    """
    pairs = [(kind, severity) for kind in kinds for severity in severities]
    if not pairs:
        raise InputError("robustness needs at least one kind of corruption and one severity.")
    for pair in pairs:
        strength(*pair)  # a typing error is better known now than after half of the images
    scored = _scored(test, limit, seed)

    def hits(images: Tensor, labels: Tensor) -> int:
        rows, _ = embed(network, [(images, labels)], plain, device)
        return int((probe.logits(rows).argmax(1) == labels).sum())

    clean, corrupted, start = 0, dict.fromkeys(pairs, 0), 0
    for images, labels in in_order(scored, batch_size):
        clean += hits(images, labels)
        for kind, severity in corrupted:
            corrupted[kind, severity] += hits(corrupt(images, kind, severity, seed, start), labels)
        start += len(labels)
    found: dict[str, Any] = {"clean": clean / start}
    for (kind, severity), count in corrupted.items():
        found.setdefault(kind, {})[str(severity)] = count / start
    return found | {"mean": sum(corrupted.values()) / len(corrupted) / start}


def _scored(test: Source, limit: int | None, seed: int) -> Source:
    """The labelled images; if there is a limit, a random part of them in their old order."""
    if limit is not None and limit < 1:
        raise InputError(f"limit must be at least 1, not {limit}")
    known = np.flatnonzero(test.labels >= 0) if test.labels is not None else np.empty(0, np.int64)
    if len(known) == 0:
        raise InputError("robustness needs labelled test images, and the test split has no labels.")
    if limit is not None and limit < len(known):
        order = torch.randperm(len(known), generator=generator("robustness", seed))
        known = known[order[:limit].sort().values.numpy()]
    return test if len(known) == len(test) else subset(test, known)
