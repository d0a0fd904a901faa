"""Hashes of files that were read before: a file of that place, size and times is not read again.

They lie in $XDG_CACHE_HOME/ssl_kd/hashes, one file for each folder of images, and may be deleted at any time.
A cache that is damaged, or cannot be written, costs time and nothing else.
"""

import contextlib
import hashlib
import os
import time
from pathlib import Path

import numpy as np

from ssl_kd.errors import InputError
from ssl_kd.system.paths import cache_folder
from ssl_kd.system.writing import write_whole

MOST_BYTES = 256 << 20  # of all cache files together; the oldest go first
SETTLED = 2.0  # seconds: a file that changed later may change again within the same tick of its clock
_MAGIC = b"ssl_kd hashes 1\n"
_DIGEST = 16


class HashCache:
    """The hashes of one folder: rows of a key (path, inode, size, times) and a digest, 16 bytes each."""

    def __init__(self, root: Path) -> None:
        name = hashlib.blake2b(os.fsencode(os.path.realpath(root)), digest_size=_DIGEST).hexdigest()
        self.path = folder() / f"{name}.bin"
        self.rows = _read(self.path)  # uint64 (N, 4), sorted by the first column

    def look_up(self, keys: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """Digests uint8 (M, 16) of keys uint8 (M, 16), and which of them were there, bool (M,)."""
        digests = np.zeros((len(keys), _DIGEST), np.uint8)
        if not len(self.rows) or not len(keys):
            return digests, np.zeros(len(keys), bool)
        asked = np.ascontiguousarray(keys).view("<u8")
        at = np.searchsorted(self.rows[:, 0], asked[:, 0]).clip(max=len(self.rows) - 1)
        there = (self.rows[at, :2] == asked).all(1)
        digests[there] = np.ascontiguousarray(self.rows[at[there], 2:]).view(np.uint8)
        return digests, there

    def add(self, keys: np.ndarray, digests: np.ndarray) -> None:
        """Keeps them, in place of what the folder's file held of other files that are gone."""
        rows = np.concatenate([keys, digests], 1).view("<u8")
        rows = np.concatenate([rows, _read(self.path)])  # another process may have added some meanwhile
        rows = rows[np.unique(rows[:, 0], return_index=True)[1]]
        content = rows.astype("<u8").tobytes()
        if len(content) > MOST_BYTES // 2:
            return
        with contextlib.suppress(OSError, InputError):  # on a full or a read-only disk: files are read again
            self.path.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
            write_whole(self.path, _MAGIC + _checksum(content) + content, mode=0o600)
            _tidy(self.path.parent, keep=self.path)


def folder() -> Path:
    return cache_folder() / "hashes"


def key_of(path: str, found: os.stat_result) -> bytes:
    """What a file is known by as long as nobody changes it."""
    facts = f"{found.st_dev} {found.st_ino} {found.st_size} {found.st_mtime_ns} {found.st_ctime_ns} "
    return hashlib.blake2b(facts.encode() + os.fsencode(path), digest_size=_DIGEST).digest()


def settled(found: os.stat_result) -> bool:
    """Whether a change from now on would be seen in the times of the file."""
    return time.time() - max(found.st_mtime, found.st_ctime) > SETTLED


def _read(path: Path) -> np.ndarray:
    none = np.empty((0, 4), "<u8")
    try:
        if not path.is_file() or path.stat().st_size > MOST_BYTES:
            return none
        content = path.read_bytes()
    except OSError:
        return none
    head = len(_MAGIC) + _DIGEST
    body = content[head:]
    whole = content.startswith(_MAGIC) and content[len(_MAGIC) : head] == _checksum(body)
    if not whole or len(body) % 32:
        return none
    return np.frombuffer(body, "<u8").reshape(-1, 4)


def _checksum(content: bytes) -> bytes:
    return hashlib.blake2b(content, digest_size=_DIGEST).digest()


def _tidy(place: Path, keep: Path) -> None:
    """Deletes our oldest files, until all take no more than MOST_BYTES, and what killed processes left."""
    ours = [path for path in place.iterdir() if path.suffix in (".bin", ".part")]
    files = sorted((path.lstat().st_mtime, path.lstat().st_size, path) for path in ours)
    room = sum(size for _, size, _ in files)
    for changed, size, path in files:
        left_over = path.suffix == ".part" and time.time() - changed > 3600
        if path != keep and (left_over or (room > MOST_BYTES and path.suffix == ".bin")):
            path.unlink(missing_ok=True)
            room -= size
