"""Files of data that claim more than a machine has: archives, arrays, images, tables, tensors."""

import ast
import io
import os
import tarfile
import tracemalloc
import zipfile
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image
from safetensors.torch import save_file

from ssl_kd.data import depth, files, label_tables
from ssl_kd.data.files import decode, load_tensors, read_file
from ssl_kd.data.npz import read_npz
from ssl_kd.data.shards import Members, members
from ssl_kd.data.sources import arrays
from ssl_kd.errors import InputError
from ssl_kd.system import room

from .case import Case, check
from .folders import SMALL

ARRAYS = ["train", "data=arrays", "data.path=x.npz", *SMALL[:1], *SMALL[2:], "run=r"]
DIGITS = ["train", "data=digits", "data.limit=64", *SMALL[:1], *SMALL[2:], "run=r"]
MIB = 1 << 20


def header(shape: str, kind: str = "|u1") -> bytes:
    file = io.BytesIO()
    np.lib.format.write_array_header_1_0(
        file, {"descr": kind, "fortran_order": False, "shape": ast.literal_eval(shape)}
    )
    return file.getvalue()


def npz(name: str = "x.npz", **members: bytes) -> Callable[[], None]:
    def make() -> None:
        with zipfile.ZipFile(name, "w", zipfile.ZIP_DEFLATED) as archive:
            for key, content in members.items():
                archive.writestr(f"{key}.npy", content)

    return make


def zeros(mib: int, name: str = "x.npz") -> None:
    """Grey images of 1 MiB each, some KiB in the file."""
    with zipfile.ZipFile(name, "w", zipfile.ZIP_DEFLATED) as archive:
        with archive.open("train_images.npy", "w", force_zip64=True) as member:
            member.write(header(f"({mib}, 1024, 1024)"))
            for _ in range(mib):
                member.write(bytes(MIB))


def twin() -> None:
    with pytest.warns(UserWarning, match="Duplicate"):
        with zipfile.ZipFile("x.npz", "w") as archive:
            for _ in range(2):
                archive.writestr("train_images.npy", header("(8, 8, 8)") + bytes(512))


def compressed_tensors() -> None:
    torch.save({"labels": torch.zeros(MIB)}, "plain.pt")
    with zipfile.ZipFile("plain.pt") as plain, zipfile.ZipFile("x.pt", "w", zipfile.ZIP_DEFLATED) as packed:
        for name in plain.namelist():
            packed.writestr(name, plain.read(name))
    Path("plain.pt").unlink()


def repeated() -> None:
    torch.save({"labels": torch.zeros(1).expand(1 << 40)}, "x.pt")


def pipe(name: str) -> Callable[[], None]:
    return lambda: os.mkfifo(name)


def sparse(name: str, size: int) -> Callable[[], None]:
    def make() -> None:
        with open(name, "wb") as file:
            file.truncate(size)

    return make


LIES = header("(1099511627776, 8, 8)") + bytes(512)
CASES = [
    Case("npz-of-terabytes", "an array claims more than its file", ARRAYS, "claims .* bytes, and has 512",
         npz(train_images=LIES)),
    Case("npz-labels-of-terabytes", "an array claims more than its file", ARRAYS, "train_labels cannot be",
         npz(train_images=header("(8, 8, 8)") + bytes(512), train_labels=header("(1099511627776,)", "<i8"))),
    Case("npz-longer-than-it-says", "an array of another length", ARRAYS, "claims 512 bytes, and has 513",
         npz(train_images=header("(8, 8, 8)") + bytes(513))),
    Case("npz-twin", "two members of one name", ARRAYS, "it is there twice", twin),
    Case("npz-pipe", "a pipe in place of a file", ARRAYS, "a pipe or a device", pipe("x.npz")),
    Case("labels-compressed-tensors", "an archive of zeros", [*DIGITS, "labels.file=x.pt"],
         "is a compressed archive", compressed_tensors),
    Case("labels-repeated-tensor", "one number said to be there often", [*DIGITS, "labels.file=x.pt"],
         "larger than the file", repeated),
    Case("labels-npz-of-terabytes", "an array claims more than its file", [*DIGITS, "labels.file=x.npz"],
         "cannot be read \\(it claims", npz(labels=header("(1099511627776,)", "<i8"))),
    Case("labels-table-of-gigabytes", "a table of any size", [*DIGITS, "labels.file=x.csv"],
         "keep the columns of names and labels", sparse("x.csv", 257 * MIB)),
]  # fmt: skip


@pytest.mark.parametrize("case", CASES, ids=lambda case: case.name)
def test_a_file_that_claims_too_much_is_refused(case: Case, capsys: pytest.CaptureFixture[str]) -> None:
    check(case, capsys)


def test_a_limit_reads_no_more_of_an_archive_than_it_keeps() -> None:
    zeros(128)
    assert Path("x.npz").stat().st_size < MIB
    tracemalloc.start()
    data = arrays("x.npz", limit=4)
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert len(data.train) == 4 and peak < 16 * MIB


def test_a_limit_keeps_the_same_images_whether_they_are_read_in_pieces_or_whole(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr("ssl_kd.data.npz._AT_ONCE", 1000)
    noise = np.random.default_rng(0).integers(0, 256, (50, 8, 8, 3), np.uint8)
    labels = np.arange(50) % 5
    for images in (noise, np.asfortranarray(noise)):
        np.savez("x.npz", train_images=images, train_labels=labels)
        whole, part = arrays("x.npz").train, arrays("x.npz", limit=20).train
        assert part.at is not None and part.of == 50  # type: ignore[attr-defined]
        at = part.at  # type: ignore[attr-defined]
        assert (whole.images[at] == part.images).all() and (whole.labels[at] == part.labels).all()  # type: ignore[attr-defined, index]
        assert len(arrays("x.npz", limit=500).train) == 50


def test_an_archive_that_memory_cannot_hold_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    zeros(80)
    monkeypatch.setattr(room, "available_memory", lambda: 100 * MIB)
    with pytest.raises(InputError, match=r"would take 0.16 GiB .*data.limit="):
        read_npz(Path("x.npz"))
    assert len(arrays("x.npz", limit=2).train) == 2


def test_tensors_that_memory_cannot_hold_are_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(room, "available_memory", lambda: 100 * MIB)
    sparse("x.pt", 80 * MIB)()
    with pytest.raises(InputError, match="of memory, and 0.10 GiB are left"):
        load_tensors(Path("x.pt"))


def test_ordinary_tensors_pass() -> None:
    torch.save({"a": torch.zeros(9), "b": torch.zeros(3, 3).expand(4, 3, 3)}, "x.pt")
    assert load_tensors(Path("x.pt"))["b"].shape == (4, 3, 3)
    save_file({"a": torch.zeros(9)}, "x.safetensors")
    room.check_tensor_file("x.safetensors")


def test_pipes_are_not_waited_for() -> None:
    os.mkfifo("pipe")
    with pytest.raises(OSError, match="a pipe or a device"):
        room.check_tensor_file("pipe")
    with pytest.raises(ValueError, match="no regular file"):
        read_file(Path("pipe"))


def test_a_file_of_an_image_has_a_largest_size() -> None:
    sparse("x.png", files.MOST_BYTES + 1)()
    with pytest.raises(ValueError, match="more than"):
        read_file(Path("x.png"))


def test_a_member_of_a_shard_has_a_largest_size() -> None:
    sparse("x.tar", 4 * 512)()
    part = Members([Path("x.tar")], *(np.array([n]) for n in (0, 512, files.MOST_BYTES + 1)))
    with pytest.raises(ValueError, match="more than"):
        part.read(0)


def test_the_head_of_a_shards_member_has_a_largest_size() -> None:
    info = tarfile.TarInfo("x" * 8)
    info.type, info.size = tarfile.GNUTYPE_LONGNAME, 1 << 33
    Path("x.tar").write_bytes(info.tobuf(tarfile.GNU_FORMAT))
    os.truncate("x.tar", 1 << 34)
    with pytest.raises(InputError, match="a head of it claims"):
        list(members(Path("x.tar")))


def test_sixteen_bits_are_scaled_in_strips() -> None:
    values = np.random.default_rng(0).integers(0, 65536, (200, 30), np.uint16)
    image = Image.fromarray(values)
    expected = (values.astype(np.int64) * 255 + 32767) // 65535
    assert (depth.grey(image, 16) == expected).all()
    assert (depth.grey(image, 16, inverted=True) == 255 - expected).all()


def test_a_large_image_of_sixteen_bits_takes_little_more_than_its_values() -> None:
    image = Image.fromarray(np.full((2000, 2000), 40_000, np.uint16))
    tracemalloc.start()
    depth.grey(image, 16)
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert peak < 2000 * 2000 * 8


def test_large_images_are_decoded_one_at_a_time(monkeypatch: pytest.MonkeyPatch) -> None:
    entered = []

    class Watch:
        def __enter__(self) -> None:
            entered.append(1)

        def __exit__(self, *_: object) -> None:
            pass

    monkeypatch.setattr(files, "_large", Watch())
    monkeypatch.setattr(files, "LARGE", 100)
    for side in (10, 11):
        content = io.BytesIO()
        Image.new("RGB", (side, side)).save(content, "PNG")
        decode(content.getvalue(), 8)
    assert len(entered) == 1


def test_a_table_of_parquet_is_bounded_by_what_it_unpacks_to(monkeypatch: pytest.MonkeyPatch) -> None:
    pa = pytest.importorskip("pyarrow")
    import pyarrow.parquet

    pyarrow.parquet.write_table(pa.table({"label": list(range(1000))}), "x.parquet")
    assert len(label_tables.read_table(Path("x.parquet")).lines) == 1000
    monkeypatch.setattr(label_tables, "MOST_CELLS", 999)
    with pytest.raises(InputError, match="more than 999 cells"):
        label_tables.read_table(Path("x.parquet"))
