"""Test images whose class a limit, a held-out part or a long tail has left without a train image."""

from collections import Counter
from dataclasses import replace

import numpy as np

from ssl_kd.data.labels import listed
from ssl_kd.data.relabel import relabelled
from ssl_kd.data.sources import Data, Encoded, Source


def without_unseen(data: Data) -> Data:
    """The data with such images taken for images without a label, which are not scored; a note names them."""
    train, test = data.train.labels, data.test.labels if data.test is not None else None
    if train is None or test is None or data.test is None:
        return data
    seen = np.unique(np.asarray(train))
    unseen = ~np.isin(test, seen) & (test >= 0)
    if not unseen.any():
        return data
    counts = Counter(np.asarray(test)[unseen].tolist())
    named = [f"{data.train.classes[label]} ({count:,})" for label, count in sorted(counts.items())]
    images = f"{int(unseen.sum()):,} of {len(test):,} test images"
    note = f"{images} are not scored, since no train image has their class: {listed(named)}"
    source = _relabelled(data.test, np.where(unseen, -1, test))
    return replace(data, test=source, notes=(*data.notes, note))


def _relabelled(source: Source, labels: np.ndarray) -> Source:
    if not isinstance(source, Encoded):
        return relabelled(source, labels)
    changed = replace(source, labels=labels)
    changed._resident = source._resident
    return changed
