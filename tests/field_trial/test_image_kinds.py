"""Images of 16 bits with fewer in use, and files that are passed over by their suffix."""

import struct
import zlib
from io import BytesIO
from pathlib import Path

import numpy as np
import pytest
from omegaconf import OmegaConf
from PIL import Image

import ssl_kd
from ssl_kd.cli import main
from ssl_kd.data import folder
from ssl_kd.data.image_files import extensions, image_files
from ssl_kd.errors import InputError

from .case import Case, check
from .folders import images, train

RAMP = np.linspace(0, 1, 64).reshape(8, 8)


def ramp(bits: int, of: float = 1.0) -> np.ndarray:
    """Values from 0 to a share of all that so many bits hold, uint16 (8, 8)."""
    return np.round(RAMP * of * (2**bits - 1)).astype(np.uint16)


def png(values: np.ndarray, significant: int | None = None, colour: bool = False) -> bytes:
    """A PNG of 16 bits, with an sBIT chunk or without."""
    height, width = values.shape
    lines = np.repeat(values[..., None], 3, 2) if colour else values
    raw = b"".join(b"\0" + line.astype(">u2").tobytes() for line in lines)
    parts = [(b"IHDR", struct.pack(">IIBBBBB", width, height, 16, 2 if colour else 0, 0, 0, 0))]
    parts += [] if significant is None else [(b"sBIT", bytes([significant] * (3 if colour else 1)))]
    parts += [(b"IDAT", zlib.compress(raw)), (b"IEND", b"")]
    chunks = (struct.pack(">I", len(c)) + n + c + struct.pack(">I", zlib.crc32(n + c)) for n, c in parts)
    return b"\x89PNG\r\n\x1a\n" + b"".join(chunks)


def pgm(values: np.ndarray, most: int) -> bytes:
    return b"P5\n8 8\n%d\n" % most + values.astype(">u2").tobytes()


def tiff(values: np.ndarray, **tags: int) -> bytes:
    """A TIFF; tags as t341=4095."""
    file = BytesIO()
    Image.fromarray(values).save(file, "TIFF", tiffinfo={int(tag[1:]): value for tag, value in tags.items()})
    return file.getvalue()


def write(root: str, **contents: bytes) -> None:
    """Files a__png="..." as root/a.png."""
    Path(root).mkdir(parents=True, exist_ok=True)
    for name, content in contents.items():
        Path(root, name.replace("__", ".")).write_bytes(content)


DEEP = {
    "png-8": ("png", png(ramp(8)), 8),
    "png-10": ("png", png(ramp(10)), 10),
    "png-12": ("png", png(ramp(12)), 12),
    "png-14": ("png", png(ramp(14)), 14),
    "png-16": ("png", png(ramp(16)), 16),
    "tiff-12": ("tif", tiff(ramp(12)), 12),
    "tiff-32-that-hold-12": ("tif", tiff(ramp(12).astype(np.int32)), 12),
    "tiff-signed-that-hold-12": ("tif", tiff(ramp(12), t339=2), 12),
    "tiff-signed-that-hold-15": ("tif", tiff((RAMP * 32767).astype(np.uint16), t339=2), 15),
    "pgm-that-says-16": ("pgm", pgm(ramp(12), 65535), 12),
    "jpeg-2000": ("jp2", None, 12),
    "png-that-says-12": ("png", png(ramp(12), 12), 12),
    "png-that-says-12-and-keeps-to-16": ("png", png(ramp(16), 12), 16),
}


@pytest.mark.parametrize("name", DEEP)
def test_values_that_use_fewer_bits_fill_the_range(name):
    kind, content, bits = DEEP[name]
    if content is None:
        Image.fromarray(ramp(bits)).save(file := BytesIO(), "JPEG2000")
        content = file.getvalue()
    write("x", **{f"a__{kind}": content})
    data = folder("x", 8)
    assert np.abs(data.train[0][0] - RAMP * 255).max() <= 1
    assert data.train.bit_depth == bits
    assert (f"they are read as {bits} bits; data.bit_depth=16 takes" in " ".join(data.notes)) == (bits < 16)


@pytest.mark.parametrize(
    ("kind", "content", "largest"),
    [
        ("pgm", pgm(ramp(12, 0.1), 4095), 26),  # what the header calls white is white
        ("pgm", pgm(ramp(10, 0.5), 1023), 128),
        ("pgm", b"P5\n8 8\n15\n" + np.round(RAMP * 15).astype(np.uint8).tobytes(), 255),
        ("png", png(ramp(12, 0.1), 12), 26),
        ("tif", tiff(ramp(12, 0.1), t341=4095), 26),
        ("png", png(ramp(16, 0.3), 16), 77),
    ],
)
def test_what_a_file_says_of_its_range_goes_before_what_is_seen_of_it(kind, content, largest):
    write("x", **{f"a__{kind}": content})
    assert abs(int(folder("x", 8).train[0].max()) - largest) <= 1


@pytest.mark.parametrize("bits", [12, 16])
@pytest.mark.parametrize("packed", [None, "tiff_lzw"])
def test_a_tiff_whose_zero_is_white_is_turned_round_with_16_bits_as_with_8(bits, packed):
    Path("x").mkdir()
    Image.fromarray(ramp(bits)).save("x/a.tif", compression=packed, tiffinfo={262: 0})
    assert np.abs(folder("x", 8).train[0][0] - (1 - RAMP) * 255).max() <= 1


@pytest.mark.parametrize("packed", [None, "tiff_lzw"])
@pytest.mark.parametrize("dtype", [np.uint8, np.uint16])
def test_a_tiff_is_turned_as_it_says_that_its_lines_are_stored(dtype, packed):
    pixels = np.round(RAMP * np.iinfo(dtype).max).astype(dtype)
    Path("x").mkdir()
    Image.fromarray(pixels).save("x/a.tif", compression=packed, tiffinfo={274: 6})
    assert np.abs(folder("x", 8).train[0][0] - np.rot90(RAMP, -1) * 255).max() <= 1


def test_one_depth_is_of_the_whole_data_set_and_images_keep_their_brightness():
    write("x", a__png=png(ramp(12)), b__png=png(ramp(12, 0.25)), c__tif=tiff(ramp(12, 0.5)))
    train = folder("x", 8).train
    assert train.bit_depth == 12 and [int(train[i].max()) for i in range(3)] == [255, 64, 128]
    write("y/train", a__png=png(ramp(12, 0.2)))
    write("y/test", a__png=png(ramp(12)))
    data = folder("y", 8)
    assert (data.train[0].max(), data.test[0].max()) == (51, 255)


def test_the_option_goes_before_what_is_seen_and_what_does_not_fit_is_refused(monkeypatch):
    write("x", a__png=png(ramp(8)), b__png=png(ramp(8)), c__png=png(ramp(12)))
    assert folder("x", 8, bit_depth=16).train[0].max() == 1 and folder("x", 8).train.bit_depth == 12
    monkeypatch.setattr("ssl_kd.data.depth.MEASURED", 2)
    train = folder("x", 8).train
    assert train.bit_depth == 8 and train[0].max() == 255
    with pytest.raises(
        InputError, match="holds the value 4,095, which 8 bits cannot; data.bit_depth=12 does"
    ):
        train[2]
    monkeypatch.setattr("ssl_kd.data.depth.LOOKED_AT", 1)
    Image.new("L", (8, 8)).save("x/a.png")
    with pytest.raises(
        InputError, match="end at 255, and nothing says how many bits .*; data.bit_depth=8 does"
    ):
        folder("x", 8).train[1]


def test_probes_export_and_single_images_of_a_run_take_its_depth(capsys):
    write("x", **{f"i{i}__png": png(ramp(12, 0.5 + i / 20)) for i in range(8)})
    assert main(train()) == 0, capsys.readouterr()
    said = " ".join(capsys.readouterr().out.split())
    assert said.count("so they are read as 12 bits; data.bit_depth=16 takes the whole range") == 1
    assert OmegaConf.load("r/config.yaml").data.bit_depth == 12
    run = ssl_kd.load("r")
    decoded = np.stack([run.data.train[i] for i in range(8)])
    alone = np.concatenate([run.embed([f"x/i{i}.png"]) for i in range(8)])
    assert np.allclose(alone, run.embed(decoded), atol=1e-5)
    assert np.allclose(run.embed([Image.open("x/i3.png")]), alone[3:4], atol=1e-5)
    assert main(train()) == 0 and "finished before" in capsys.readouterr().out


SIXTEEN = [
    (
        "colour",
        {"a__png": png(ramp(12), colour=True)},
        [],
        "only the upper 8 can be read.*convert them to 8 bits, or",
    ),
    (
        "option",
        {"a__png": png(ramp(8))},
        ["data.bit_depth=20"],
        "data.bit_depth must be a whole number from 8 to 16",
    ),
    (
        "float",
        {"a__tif": tiff(RAMP.astype(np.float32))},
        [],
        "holds floating-point pixels; convert it to 8 or 16",
    ),
    (
        "signed",
        {"a__tif": tiff(ramp(8).astype(np.int32) - 99)},
        [],
        "negative pixels; convert it to 8 or 16 bits",
    ),
    (
        "32 bits",
        {"a__tif": tiff(ramp(16).astype(np.int32) * 2)},
        [],
        "pixels of more than 16 bits; convert it",
    ),
]
CASES = [
    Case(f"16 bits: {name}", "16-bit images come out black", train("batch_size=1", *words), says, made)
    for name, files, words, says in SIXTEEN
    for made in [lambda files=files: write("x", **files)]
]


def lost(suffix: str, good: int = 4, bad: int = 4) -> None:
    """Classes of which one has files of a kind that Pillow does not know."""
    images({"cat": 4, "dog": good})
    for i in range(bad):
        Path(f"x/dog/n{i}{suffix}").write_bytes(b"\0\0\0 ftypheic")


CASES += [
    Case(f"lost: {name}", "files passed over by their suffix", train(*words), says, made)
    for name, words, says, made in [
        (
            "a class",
            [],
            r"passed over .*\.heic \(4\).*that is all of x in dog: convert",
            lambda: lost(".heic", 0),
        ),
        ("half", [], r"that is 4 of 8 of x in dog: .*data.skip_broken=true$", lambda: lost(".jxl")),
        ("raw", [], r"\.npy \(4\)", lambda: lost(".npy")),
        ("vectors", [], r"\.svg \(6\)", lambda: lost(".svg", 2, 6)),
        ("all", [], r"no image in .*x; .* \.dcm \(3\) cannot be read here", lambda: only(".dcm")),
    ]
]


def only(suffix: str) -> None:
    Path("x").mkdir()
    for i in range(3):
        Path(f"x/{i}{suffix}").write_bytes(b"1")


@pytest.mark.parametrize("case", CASES, ids=lambda case: case.name)
def test_what_cannot_be_read_as_it_is_meant_is_refused(case, capsys):
    case = Case(**{**case.__dict__, "says": case.says.replace("of x in", "of .*x in")})
    check(case, capsys)


def test_a_few_lost_files_are_counted_and_named_and_more_are_left_out_on_demand():
    lost(".heic", good=4, bad=1)
    said = " ".join(folder("x", 8).notes)
    assert "1 file is passed over as no image that can be read here, .heic (1): dog/n0.heic" in said
    lost(".exr", good=4, bad=5)
    data = folder("x", 8, skip_broken=True)
    assert len(data.train) == 8 and "6 files are passed over" in " ".join(data.notes)


@pytest.mark.parametrize("suffix", sorted(extensions()))
def test_every_suffix_that_pillow_writes_is_read_back(suffix):
    kind = Image.registered_extensions().get(suffix, "JPEG")
    if kind not in Image.SAVE or kind in ("ICNS", "ICO", "PSD"):
        kind = "PNG"  # what is in a file counts, not its name
    Path("x").mkdir()
    Image.new("L" if suffix in (".pbm", ".pgm") else "RGB", (16, 16), 200).save(f"x/a{suffix}", kind)
    Path(f"x/a{suffix}").rename(f"x/A{suffix.upper()}")
    train = folder("x", 8).train
    assert len(train) == 1 and abs(int(train[0].max()) - 200) <= 3 or suffix == ".pbm"


def test_the_usual_suffixes_are_there():
    there = set(extensions())
    assert {
        ".jpe",
        ".jif",
        ".jfif",
        ".jp2",
        ".j2k",
        ".tga",
        ".pnm",
        ".pbm",
        ".dib",
        ".pcx",
        ".qoi",
        ".ico",
    } <= there
    assert not there & {".eps", ".ps", ".pdf", ".wmf", ".emf", ".mpg", ".fits", ".h5", ".svg", ".npy"}


def test_what_lies_beside_images_is_no_loss_and_what_has_no_suffix_is_looked_into():
    images({"cat": 2, "dog": 2})
    picture = Path("x/cat/0.png").read_bytes()
    for name in (
        "Thumbs.db",
        ".DS_Store",
        "._0.png",
        "0.txt",
        "0.json",
        "LICENSE",
        "0.npy",
        "0.xmp",
        "1.CR2",
        "a~",
    ):
        Path("x/cat", name).write_bytes(b"\0\5\x16\7")
    Path("x/__MACOSX/cat").mkdir(parents=True)
    Path("x/__MACOSX/cat/._0.png").write_bytes(b"\0\5\x16\7")
    Path("x/@eaDir").mkdir()
    Path("x/@eaDir/small.jpg").write_bytes(picture)
    for name in ("0004", "five.jpg_large", "six.jpg"):  # the last is a PNG
        Path("x/dog", name).write_bytes(picture)
    tree = image_files(Path("x"))
    assert tree.files == [f"cat/{i}.png" for i in (0, 1)] + [
        "dog/0.png",
        "dog/0004",
        "dog/1.png",
        "dog/five.jpg_large",
        "dog/six.jpg",
    ]
    assert tree.passed == []
    train = folder("x", 8).train
    assert [len(train[i]) for i in range(7)] == [3] * 7


def test_the_same_holds_of_single_files_and_of_several_pages():
    """The first page counts, as the first frame of an animation does; a note of the camera is not applied."""
    pages = [Image.new("L", (8, 8), value) for value in (40, 200)]
    Path("x").mkdir()
    pages[0].save("x/a.tif", save_all=True, append_images=pages[1:])
    turned = Image.Exif()
    turned[0x0112] = 6
    Image.fromarray((RAMP * 255).astype(np.uint8)).save("x/b.png", exif=turned)
    train = folder("x", 8).train
    assert (train[0] == 40).all() and np.abs(train[1][0] - RAMP * 255).max() <= 1


def inverted(content: bytes) -> bytes:
    """A TIFF whose header calls 0 white."""
    black, white = (struct.pack("<HHIHH", 262, 3, 1, zero, 0) for zero in (1, 0))
    assert black in content
    return content.replace(black, white)


KEPT = {
    "white-is-zero": (inverted(tiff((RAMP * 255).astype(np.uint8))), 255 - RAMP * 255),
    "alpha-of-grey": (None, RAMP * 255),
    "cmyk": (None, RAMP * 255),
    "palette": (None, RAMP * 255),
    "1-bit": (None, (RAMP > 0.5) * 255),
}


@pytest.mark.parametrize("name", KEPT)
def test_what_was_right_stays_right(name):
    content, expected = KEPT[name]
    grey = Image.fromarray((RAMP * 255).astype(np.uint8))
    made = {
        "alpha-of-grey": lambda: Image.merge("LA", [grey, Image.new("L", (8, 8), 0)]),
        "cmyk": lambda: grey.convert("RGB").convert("CMYK"),
        "palette": lambda: grey.convert("P"),
        "1-bit": lambda: Image.fromarray(RAMP > 0.5),
    }
    Path("x").mkdir()
    if content is not None:
        Path("x/a.tif").write_bytes(content)
    else:
        made[name]().save("x/a.png" if name != "cmyk" else "x/a.tif")
    assert np.abs(folder("x", 8).train[0][0] - expected).max() <= 1
