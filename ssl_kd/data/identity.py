"""Are these the images of before? What a run notes of its data, so that it is not continued on other data."""

import hashlib
from pathlib import Path
from typing import Any

import numpy as np

from ssl_kd.data.sources import Arrays, Data, Encoded, Source

SAMPLES = 64  # images of a part that are looked at; all would have to be read from the disk


def identity(data: Data) -> dict[str, dict[str, Any]]:
    """Per part: how many images, of what shape, and hashes of all labels and of SAMPLES images.

    Stored images are hashed as they are stored: another version of a decoder does not make them others. An
    image that was exchanged between two samples is not noticed, one more or less and another order are.
    """
    parts = {"train": data.train, "test": data.test}
    if data.labelled is not None:
        parts |= {"labelled train": data.labelled.train, "labelled test": data.labelled.test}
    return {name: _part(source) for name, source in parts.items() if source is not None}


def changed(before: dict[str, Any], now: dict[str, Any]) -> str:
    """What differs, in words; "" for nothing."""
    for part in {**before, **now}:
        old, new = before.get(part), now.get(part)
        if old is None or new is None:
            return f"there {'is now' if old is None else 'was'} a {part} split"
        for key, what in (("images", "{:,} {part} images"), ("shape", "{part} images of {}")):
            if old[key] != new[key]:
                return f"{what.format(old[key], part=part)} then, {what.format(new[key], part=part)} now"
        for key in ("labels", "samples"):
            if old[key] != new[key]:
                return f"the {part} {'images' if key == 'samples' else key} are others, or in another order"
    return ""


def _part(source: Source) -> dict[str, Any]:
    labels = None if source.labels is None else _hash(np.asarray(source.labels, dtype="<i8").tobytes())
    at = np.unique(np.linspace(0, len(source) - 1, SAMPLES).round().astype(int))
    sampled = hashlib.sha256()
    for i in at.tolist():
        sampled.update(_content(source, i))
    return {
        "images": len(source),
        "shape": list(source.shape),
        "labels": labels,
        "samples": sampled.hexdigest()[:16],
    }


def _content(source: Source, i: int) -> bytes:
    if isinstance(source, Encoded):
        stored = source.stored.read(i if source.at is None else int(source.at[i]))
        return stored.read_bytes() if isinstance(stored, Path) else stored
    return np.ascontiguousarray(source.images[i] if isinstance(source, Arrays) else source[i]).tobytes()


def _hash(content: bytes) -> str:
    return hashlib.sha256(content).hexdigest()[:16]
