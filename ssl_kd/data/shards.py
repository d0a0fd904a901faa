"""Tar files in the webdataset convention, read at random places through an index that is made at the start.

Which members are one sample, `samples` says: `KEY.jpg` beside `KEY.cls` (a number or a name) or `KEY.json`
(with a field for it). An index holds 20 bytes for each image, so that a shuffle is exact
and any step can be the first, and no file is read as a whole.
"""

import glob
import os
import re
import tarfile
from collections.abc import Iterator
from pathlib import Path
from typing import IO, Any

import numpy as np

from ssl_kd.data.files import MOST_BYTES, first_line
from ssl_kd.data.image_files import kinds, no_image
from ssl_kd.data.samples import Index, samples_of
from ssl_kd.data.sources import RESIDENT_BYTES, Data, Part, encoded
from ssl_kd.errors import InputError
from ssl_kd.system.paths import expand
from ssl_kd.system.reading import opened
from ssl_kd.system.text import printable

MOST_OPEN = 256  # files kept open; a process may have 1024 on most machines
MOST_HEAD = 1 << 20  # bytes of a member's name and attributes
MOST_FILES = 1_000_000  # that braces may stand for

COMPRESSED = (b"\x1f\x8b", b"BZh", b"\xfd7zXZ", b"\x28\xb5\x2f\xfd")  # how gzip, bzip2, xz and zstd begin

Member = tuple[str, int, int]  # name, first byte, bytes


def shards(
    path: str | Path,
    size: int,
    test: str | Path | None = None,
    label: str = "label",
    skip_broken: bool = False,
    limit: int | None = None,
    resident_bytes: int = RESIDENT_BYTES,
    image: str | None = None,
    bit_depth: int | None = None,
) -> Data:
    """Uncompressed tar files of images, as RGB squares of `size` pixels.

    path: a folder of .tar files, or a pattern: `train-{000000..000012}.tar`, `train-*.tar`.
    test: the same for the test images, seen from here or from the folder of `path`.
    label: the field of a `KEY.json` that holds the label, or the label's part of the name in `KEY.label.cls`.
    image: where samples have several images, as `KEY.left.png` and `KEY.right.png`, the one to take: "left";
        "all" takes each for an image of its own.
    Labels that are numbers are named by the lines of `classes.txt` beside the training files, if it is there.
    skip_broken, limit, resident_bytes, bit_depth: as in `folders.folder`.
    """
    files = [shard_files(path)]
    if test is not None:
        near = files[0][0].parent / test  # `/` keeps an absolute path as it is
        files.append(shard_files(near if near.is_dir() or _matches(next(braces(str(near)))) else test))
        both = {file.resolve() for file in files[0]} & {file.resolve() for file in files[1]}
        if both:
            raise InputError(f"{min(both)} is among the training files and among the test files")
    listed = files[0][0].parent / "classes.txt"
    lines = listed.read_text("utf-8", "replace").splitlines() if listed.is_file() else []
    found = [
        _part(part, str(where), label, image, skip_broken)
        for part, where in zip(files, (path, test), strict=False)
    ]
    parts = [part for part, _ in found]
    numbers = any(isinstance(said, int) for said in parts[0].said)
    return encoded(
        parts,
        size,
        names=[line.strip() for line in lines] if numbers else (),
        limit=limit,
        skip_broken=skip_broken,
        resident_bytes=resident_bytes,
        bit_depth=bit_depth,
        notes=[note for _, notes in found for note in notes],
    )


class Members:
    """Members of tar files, by the number of their file, their first byte and their length."""

    def __init__(self, files: list[Path], file: np.ndarray, offset: np.ndarray, size: np.ndarray):
        self.files, self.file, self.offset, self.size = files, file, offset, size
        self.open: dict[int, int] = {}  # file -> descriptor

    def __len__(self) -> int:
        return len(self.file)

    def read(self, i: int) -> bytes:
        file, offset, size = int(self.file[i]), int(self.offset[i]), int(self.size[i])
        if size > MOST_BYTES:
            raise ValueError(f"it has {size:,} bytes, more than {MOST_BYTES:,}")
        descriptor = self.open.get(file)
        if descriptor is not None:
            return os.pread(descriptor, size, offset)  # of no position, so threads and forks may share it
        descriptor = os.open(self.files[file], os.O_RDONLY)
        if len(self.open) < MOST_OPEN and self.open.setdefault(file, descriptor) == descriptor:
            return os.pread(descriptor, size, offset)
        try:
            return os.pread(descriptor, size, offset)
        finally:
            os.close(descriptor)

    def name(self, i: int) -> str:
        path = self.files[int(self.file[i])]
        key = next(name for name, offset, _ in members(path) if offset == self.offset[i])
        return f"{path}:{key}"

    def names(self) -> list[str]:
        """Of all, inside their files."""
        called = [{offset: name for name, offset, _ in members(path)} for path in self.files]
        places = zip(self.file.tolist(), self.offset.tolist(), strict=True)
        return [called[file][offset] for file, offset in places]

    def __getstate__(self) -> dict[str, Any]:
        return {**self.__dict__, "open": {}}  # another process opens its own

    def __del__(self) -> None:
        for descriptor in self.open.values():
            os.close(descriptor)


def shard_files(path: str | Path) -> list[Path]:
    """The .tar files of a folder, or those that a pattern names, in order. Raises InputError."""
    path = expand(path)
    if path.is_dir():
        inside = sorted(file for file in path.iterdir() if file.suffix == ".tar" and file.is_file())
        if not inside:
            raise InputError(f"there is no .tar file in {path}")
        return inside
    found = {one: _matches(one) for one in braces(str(path))}
    missing = [one for one, files in found.items() if not files]
    if missing:
        raise InputError(f"there is no file {missing[0]}")
    return [file for files in found.values() for file in files]


def _matches(pattern: str) -> list[Path]:
    names = [pattern] if Path(pattern).is_file() else sorted(glob.glob(pattern))
    return [path for path in map(Path, names) if path.is_file()]  # reading a pipe would not end


def braces(pattern: str) -> Iterator[str]:
    """What a shell makes of `{000..012}` and `{a,b}`."""
    match = re.search(r"\{(?:(\d+)\.\.(\d+)|([^{}]*,[^{}]*))\}", pattern)
    if match is None:
        yield pattern
        return
    first, last, words = match.groups()
    if not words and int(last) - int(first) >= MOST_FILES:
        raise InputError(f"{match[0]} stands for more than {MOST_FILES:,} files")
    inside = words.split(",") if words else [f"{i:0{len(first)}}" for i in range(int(first), int(last) + 1)]
    for text in inside:
        yield from braces(pattern[: match.start()] + text + pattern[match.end() :])


def members(path: Path) -> Iterator[Member]:
    """The regular files inside a tar file, in their order. Raises InputError."""
    try:
        with opened(path) as file, tarfile.open(fileobj=_Heads(file), mode="r:") as archive:  # type: ignore[call-overload]
            end = os.fstat(file.fileno()).st_size
            for member in archive:
                archive.members.clear()
                if member.issparse():
                    raise ValueError("it holds sparse files")
                if member.isreg():
                    if not 0 <= member.size <= end - member.offset_data:
                        raise ValueError(f"{printable(member.name)} is said to have {member.size:,} bytes")
                    yield member.name, member.offset_data, member.size
            if os.pread(file.fileno(), tarfile.BLOCKSIZE, archive.offset).strip(b"\0"):
                raise ValueError(f"at byte {archive.offset} no member begins")  # where tarfile just stops
    except (tarfile.TarError, ValueError, OSError) as error:
        packed = isinstance(error, tarfile.TarError) and _compressed(path)
        why = (
            "it is compressed; unpacked, images can be read from the middle of it"
            if packed
            else first_line(error)
        )
        raise InputError(f"{path} is not a readable .tar file ({why})") from error


class _Heads:
    """What tarfile reads of a file, which is the heads of its members; a head may claim any length."""

    def __init__(self, file: IO[bytes]) -> None:
        self.file, self.seek, self.tell, self.close = file, file.seek, file.tell, file.close

    def read(self, size: int = -1) -> bytes:
        if not 0 <= size <= MOST_HEAD:
            raise ValueError(f"a head of it claims {size:,} bytes")
        return self.file.read(size)


def _compressed(path: Path) -> bool:
    with path.open("rb") as file:
        return file.read(6).startswith(COMPRESSED)


def _part(
    files: list[Path], where: str, field: str, image: str | None, lenient: bool
) -> tuple[Part, list[str]]:
    """The samples of all files, and what is to be said of what is not among them."""
    index = Index()
    samples = [samples_of(path, members(path), field, image, index) for path in files]
    if not any(samples):
        raise InputError(no_image(where, index.passed))
    images = sum(map(len, samples))
    unread = index.passed_images
    if unread and len(unread) >= images and not lenient:
        raise InputError(
            f"{where} has {len(unread):,} files that cannot be read as images here, {kinds(unread)}, and "
            f"{images:,} that can; convert them to PNG or JPEG, or leave them out by data.skip_broken=true"
        )
    file = np.repeat(np.arange(len(files), dtype=np.int32), [len(part) for part in samples])
    offset, size = (np.array([row[k] for part in samples for row in part], dtype=np.int64) for k in (0, 1))
    said = [row[2] for part in samples for row in part]
    return Part(Members(files, file, offset, size), said, where), index.told(where, images, field)
