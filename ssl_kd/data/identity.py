"""Are these the images of before? What a run notes of its data, so that other data is not taken for it.

The identity is of contents alone: names below the root, sizes, and a hash of every image as it is stored.
Where the data lies, and when it was written, is no part of it.
"""

import hashlib
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np

from ssl_kd.data.contents import digests, names, sizes
from ssl_kd.data.label_tables import MOST_BYTES
from ssl_kd.data.sources import Arrays, Data, Encoded, Source
from ssl_kd.errors import InputError
from ssl_kd.system.documents import bytes_of
from ssl_kd.system.paths import expand
from ssl_kd.system.text import printable

HASH_BYTES = 64 << 30  # of a part: up to this size all images are hashed, of a larger one a sample
BLOCKS = 64  # of consecutive images, each with a hash of its own, so that a change has a place
FORMER_SAMPLES = 64  # images of a part that versions before 0.3 looked at
ACCEPT = "data_changed=accept takes them as they are"


def identity(
    data: Data,
    hash_bytes: int = HASH_BYTES,
    labels_file: str | Path | None = None,
    like: Mapping[str, Any] | None = None,
) -> dict[str, dict[str, Any]]:
    """Per part: how many images, of what shape, and hashes of all labels, names, sizes and contents.

    Stored images are hashed as they are stored: another version of a decoder does not make them others.
    hash_bytes: of a part that is larger, as many images as take that much are hashed, chosen by their names.
    like: a former identity, whose own rule is then followed: its sample, and what it looked at.
    """
    found = {}
    for name, source in _parts(data).items():
        before = (like or {}).get(name) or {}
        found[name] = _former(source) if "samples" in before else _part(source, hash_bytes, before)
    if labels_file is not None and not any("samples" in part for part in (like or {}).values()):
        content = hashlib.blake2b(bytes_of(expand(labels_file), MOST_BYTES), digest_size=16).hexdigest()
        found["train"]["labels_file"] = content
    return found


def of_run(data: Data, config: Any, like: Mapping[str, Any] | None = None) -> dict[str, dict[str, Any]]:
    """The identity of what a config reads, by its options `data.hash_bytes` and `labels.file`."""
    return identity(data, hash_bytes(config), (config.get("labels") or {}).get("file"), like)


def hash_bytes(config: Any) -> int:
    """`data.hash_bytes`. Raises InputError."""
    most = config.data.get("hash_bytes", HASH_BYTES)
    if isinstance(most, bool) or not isinstance(most, int) or most < 1:
        raise InputError(f"data.hash_bytes is a number of bytes, at least 1, not {most}")
    return most


def difference(noted: Mapping[str, Any] | None, data: Data, config: Any) -> str:
    """What differs from the identity that a run noted, in words; "" for nothing, and where it noted none."""
    if not noted or not all(isinstance(part, Mapping) for name, part in noted.items() if name != "accepted"):
        return ""
    return changed(noted, of_run(data, config, noted), data)


def check_accept(key: str, value: object) -> None:
    """Raises InputError unless it is "accept" or nothing."""
    if value not in (None, "accept"):
        raise InputError(f'{key} is "{value}", but can be: accept')


def changed(before: Mapping[str, Any], now: Mapping[str, Any], data: Data | None = None) -> str:
    """What differs, in words; "" for nothing. data: what `now` is of; with it the images have names."""
    for part in [name for name in {**before, **now} if name != "accepted"]:
        old, new = before.get(part), now.get(part)
        if old is None or new is None:
            return f"there {'is now' if old is None else 'was'} a {part} split"
        for key, what in (("images", "{:,} {part} images"), ("shape", "{part} images of {}")):
            if old.get(key) != new.get(key):
                return (
                    f"{what.format(old.get(key), part=part)} then, {what.format(new.get(key), part=part)} now"
                )
        if "contents" in old and old.get("classes") != new.get("classes"):
            return f"the {part} classes were {_some(old.get('classes'))}, and are {_some(new.get('classes'))}"
        if "contents" in old and old.get("labels_file") != new.get("labels_file"):
            return "labels.file holds something else"
        if old.get("labels") != new.get("labels"):
            return f"the {part} labels are others, or in another order"
        if old.get("names") != new.get("names"):
            return f"{part} images have other names, or another order"
        if old.get("sizes") != new.get("sizes") or old.get("contents") != new.get("contents"):
            return _where(part, old, new, data)
        if old.get("samples") != new.get("samples"):
            return f"the {part} images are others, or in another order"
    return ""


def sampled(noted: Mapping[str, Any]) -> str:
    """`identity: sampled, n of N`, of every part of which not all images were hashed; "" where all were."""
    parts = [(name, part) for name, part in noted.items() if isinstance(part, Mapping)]
    said = [
        f"{part['hashed']:,} of {part['images']:,} {name} images"
        for name, part in parts
        if part.get("hashed", part.get("images")) != part.get("images")
    ]
    return f"identity: sampled, {', '.join(said)} (data.hash_bytes)" if said else ""


def _parts(data: Data) -> dict[str, Source]:
    parts = {"train": data.train, "test": data.test}
    if data.labelled is not None:
        parts |= {"labelled train": data.labelled.train, "labelled test": data.labelled.test}
    return {name: source for name, source in parts.items() if source is not None}


def _part(source: Source, hash_bytes: int, before: Mapping[str, Any]) -> dict[str, Any]:
    labels = None if source.labels is None else _hash(np.asarray(source.labels, dtype="<i8").tobytes())
    called, stored = names(source), sizes(source)
    most = _wanted(before) or max(1, min(len(source), int(len(source) * hash_bytes / max(1, stored.sum()))))
    at = _sample(called, len(source), most)
    content, whole = digests(source, at), len(at if at is not None else source) == len(source)
    positions = np.arange(len(source)) if at is None else at
    blocks = [
        _hash(content[rows].tobytes() + np.ascontiguousarray(stored[positions[rows]]).tobytes())[:8]
        for rows in _blocks(len(content))
    ]
    return {
        "images": len(source),
        "shape": list(source.shape),
        "classes": list(source.classes),
        "labels": labels,
        "names": None if called is None else _hash("\0".join(called).encode(errors="surrogateescape")),
        "sizes": _hash(np.asarray(stored, "<i8").tobytes()),
        "hashed": len(source) if whole else len(content),
        "contents": _hash(content.tobytes()),
        "blocks": blocks,
    }


def _wanted(before: Mapping[str, Any]) -> int | None:
    count = before.get("hashed")
    return count if isinstance(count, int) and count > 0 else None


def _sample(called: list[str] | None, count: int, most: int) -> np.ndarray | None:
    """Positions of the `most` images that come first by the hash of their names; None for all of them."""
    if most >= count:
        return None
    keys = map(str, range(count)) if called is None else called
    order = [hashlib.blake2b(key.encode(errors="surrogateescape"), digest_size=8).digest() for key in keys]
    return np.sort(np.argsort(np.array(order, "S8"), kind="stable")[:most])


def _blocks(count: int) -> list[slice]:
    edges = np.linspace(0, count, min(BLOCKS, count) + 1).round().astype(int).tolist()
    return [slice(a, b) for a, b in zip(edges[:-1], edges[1:], strict=True)]


def _where(part: str, old: Mapping[str, Any], new: Mapping[str, Any], data: Data | None) -> str:
    """Which images changed, as far as the hashes of blocks say it."""
    before, now = old.get("blocks"), new.get("blocks")
    if not isinstance(before, list) or not isinstance(now, list) or len(before) != len(now):
        return f"the contents of {part} images are others"
    rows = _blocks(new["hashed"])
    other = [block for block, (a, b) in enumerate(zip(before, now, strict=True)) if a != b]
    if not other:
        return f"the sizes of {part} images are others"
    source = _parts(data).get(part) if data is not None else None
    most = sum(rows[block].stop - rows[block].start for block in other)
    count = f"{len(other):,}" if most == len(other) else f"from {len(other):,} to {most:,}"
    first = rows[other[0]].start
    one = rows[other[0]].stop - first == 1
    place = f"image {first + 1:,}" if one else f"one of images {first + 1:,} to {rows[other[0]].stop:,}"
    if source is not None and new["hashed"] == new["images"] and (called := names(source)) is not None:
        last = "" if one else f" to {printable(called[rows[other[0]].stop - 1])}"
        place = f"{'' if one else 'one of '}{printable(called[first])}{last}"
    return f"the contents of {count} of {new['hashed']:,} {part} images are others, the first is {place}"


def _some(classes: Any) -> str:
    listed = [printable(str(name)) for name in classes or ()]
    return ", ".join(listed[:5]) + (f", ... ({len(listed)})" if len(listed) > 5 else "") or "none"


def _former(source: Source) -> dict[str, Any]:
    """What versions before this rule noted, so that their runs go on: of FORMER_SAMPLES images a hash."""
    labels = None if source.labels is None else np.asarray(source.labels, dtype="<i8").tobytes()
    at = np.unique(np.linspace(0, len(source) - 1, FORMER_SAMPLES).round().astype(int))
    looked_at = hashlib.sha256()
    for i in at.tolist():
        looked_at.update(_former_content(source, i))
    return {
        "images": len(source),
        "shape": list(source.shape),
        "labels": None if labels is None else hashlib.sha256(labels).hexdigest()[:16],
        "samples": looked_at.hexdigest()[:16],
    }


def _former_content(source: Source, i: int) -> bytes:
    if isinstance(source, Encoded):
        return source.stored.read(i if source.at is None else int(source.at[i]))
    return np.ascontiguousarray(source.images[i] if isinstance(source, Arrays) else source[i]).tobytes()


def _hash(content: bytes) -> str:
    return hashlib.blake2b(content, digest_size=16).hexdigest()
