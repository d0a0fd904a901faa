"""What images are, by their contents: a hash of each, as it is stored, and its name below its root.

Files are hashed by threads (hashlib and the reading leave the interpreter's lock), and those that have not
changed since are not read again (`hash_cache`).
"""

import hashlib
import os
import weakref
from pathlib import Path
from typing import Any

import numpy as np
from torch import Tensor

from ssl_kd.data.adapt import subset
from ssl_kd.data.files import Paths, first_line, read_file
from ssl_kd.data.hash_cache import HashCache, key_of, settled
from ssl_kd.data.loaders import in_order
from ssl_kd.data.shards import Members
from ssl_kd.data.sources import Encoded, Source
from ssl_kd.data.workers import Chunk, decoding_threads, in_chunks
from ssl_kd.data.wrapper import Wrapper
from ssl_kd.errors import InputError
from ssl_kd.system.text import printable

DIGEST = 16
BATCH = 512
_ROWS = 1 << 16

_hashed: "weakref.WeakKeyDictionary[Any, dict[bytes, np.ndarray]]" = weakref.WeakKeyDictionary()


def names(source: Source) -> list[str] | None:
    """Of each image, below the folder or in the tar file that it is from; None where there are no names."""
    store, at = stored(source)
    given = getattr(store, "names", None)
    if given is None:
        return None
    every = given()
    return None if every is None else [every[i] for i in at.tolist()]


def sizes(source: Source) -> np.ndarray:
    """Bytes of each image as it is stored, int64 (N,); as it is decoded, where that alone is known."""
    store, at = stored(source)
    if isinstance(store, Paths):
        return np.array([_stat(store.name(int(i))).st_size for i in at], np.int64)
    if isinstance(store, Members):
        return np.asarray(store.size, np.int64)[at]
    return np.full(len(source), int(np.prod(source.shape)), np.int64)


def digests(source: Source, at: np.ndarray | None = None) -> np.ndarray:
    """A hash of each image as it is stored, uint8 (N, 16); of those at positions `at` (M,) alone.

    Computed once in a process. Raises InputError for what cannot be read.
    """
    which = np.arange(len(source)) if at is None else np.asarray(at)
    try:
        known = _hashed.setdefault(source, {})
    except TypeError:  # a source of the user's own that nothing can refer to
        known = {}
    key = b"" if at is None else which.tobytes()
    if key not in known:
        known[key] = known[b""][which] if b"" in known else _digests(source, which)
    return known[key]


def stored(source: Source) -> tuple[Any, np.ndarray]:
    """Where the images lie and at which positions; the source itself where that is all there is."""
    at = np.arange(len(source))
    while isinstance(source, Wrapper):
        positions = getattr(source, "at", None)
        at = at if positions is None else np.asarray(positions)[at]
        source = source.source
    if isinstance(source, Encoded):
        return source.stored, at if source.at is None else np.asarray(source.at)[at]
    return source, at


def _digests(source: Source, which: np.ndarray) -> np.ndarray:
    store, at = stored(source)
    at = at[which]
    if isinstance(store, Paths):
        return _of_files(store, at)
    if store is source or not hasattr(store, "read"):
        part = source if len(which) == len(source) else subset(source, which)
        return np.concatenate([pixel_digests(images) for images, _ in in_order(part, BATCH)])
    found = np.empty((len(at), DIGEST), np.uint8)

    def fill(chunk: Chunk) -> None:
        for i in chunk:
            try:
                content = store.read(int(at[i]))
            except (OSError, ValueError) as error:
                name = printable(store.name(int(at[i])))
                raise InputError(f"{name} cannot be read ({first_line(error)})") from error
            found[i] = np.frombuffer(_hash(content), np.uint8)

    list(in_chunks(fill, len(at), decoding_threads(), lambda i: store.name(int(at[i]))))
    return found


def pixel_digests(images: Tensor) -> np.ndarray:
    """A hash of the pixels of each of the images uint8 (N, C, H, W), uint8 (N, 16)."""
    rows = images.contiguous().flatten(1).numpy()
    return np.stack([np.frombuffer(_hash(row), np.uint8) for row in rows])


def _of_files(store: Paths, at: np.ndarray) -> np.ndarray:
    cache = HashCache(store.root)
    root = os.path.realpath(store.root)
    keys, found = np.empty((len(at), DIGEST), np.uint8), np.empty((len(at), DIGEST), np.uint8)
    keep = np.zeros(len(at), bool)

    def look(chunk: Chunk) -> None:
        for i in chunk:
            name = store.name(int(at[i]))
            facts = _stat(name)
            keys[i] = np.frombuffer(key_of(os.path.join(root, name), facts), np.uint8)
            keep[i] = settled(facts)

    list(in_chunks(look, len(at), decoding_threads(), lambda i: store.name(int(at[i]))))
    for start in range(0, len(at), _ROWS):
        rows = slice(start, start + _ROWS)
        known, there = cache.look_up(keys[rows])
        found[rows] = known
        missing = start + np.flatnonzero(~there)

        def read(chunk: Chunk, missing: np.ndarray = missing) -> None:
            for i in (int(missing[j]) for j in chunk):
                found[i] = np.frombuffer(_hash(_content(store.name(int(at[i])))), np.uint8)

        called = lambda j, missing=missing: store.name(int(at[missing[j]]))  # noqa: E731
        list(in_chunks(read, len(missing), decoding_threads(), called))
        keep[rows] &= ~there
    if keep.any():
        cache.add(keys[keep], found[keep])
    return found


def _stat(name: str) -> os.stat_result:
    try:
        return os.stat(name)
    except OSError as error:
        raise InputError(f"{printable(name)} cannot be read ({first_line(error)})") from error


def _content(name: str) -> bytes:
    try:
        return read_file(Path(name))
    except (OSError, ValueError) as error:
        raise InputError(f"{printable(name)} cannot be read ({first_line(error)})") from error


def _hash(content: Any) -> bytes:
    return hashlib.blake2b(content, digest_size=DIGEST).digest()
