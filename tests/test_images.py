"""Files that are not the image they say: each is converted in a known way, or named and refused."""

import io
import os
import struct
import tarfile
import zlib
from pathlib import Path

import numpy as np
import pytest
from PIL import EpsImagePlugin, Image

from ssl_kd.data import folder, shards
from ssl_kd.errors import InputError

SIZE = 8


def colours(height: int = 20, width: int = 24) -> Image.Image:
    pixels = np.random.default_rng(height * width).integers(0, 256, (height, width, 3), np.uint8)
    return Image.fromarray(pixels)


def stored(image: Image.Image, kind: str, **options) -> bytes:
    file = io.BytesIO()
    image.save(file, kind, **options)
    return file.getvalue()


def chunk(name: bytes, content: bytes) -> bytes:
    return struct.pack(">I", len(content)) + name + content + struct.pack(">I", zlib.crc32(name + content))


def png(width: int, height: int, pixels: bytes = b"", bits: int = 8, colour: int = 2) -> bytes:
    """A PNG that claims this size. colour: 0 grey, 2 RGB."""
    header = struct.pack(">IIBBBBB", width, height, bits, colour, 0, 0, 0)
    parts = [(b"IHDR", header), (b"IDAT", zlib.compress(pixels)), (b"IEND", b"")]
    return b"\x89PNG\r\n\x1a\n" + b"".join(chunk(*part) for part in parts)


def alone(place: Path, name: str, content: bytes, size: int = SIZE) -> np.ndarray:
    """The only image of a folder, decoded."""
    place.mkdir(exist_ok=True)
    (place / name).write_bytes(content)
    return folder(place, size).train[0]


def expected(image: Image.Image, size: int = SIZE) -> np.ndarray:
    """The central square of an RGB image, resized."""
    edge = min(image.size)
    left, top = (image.width - edge) // 2, (image.height - edge) // 2
    square = image.crop((left, top, left + edge, top + edge))
    return np.asarray(square.resize((size, size), Image.Resampling.BILINEAR)).transpose(2, 0, 1)


FRAMES = [colours(20, 24), colours(20, 24).rotate(180)]
EXIF = Image.Exif()
EXIF[0x0112] = 6  # taken with the camera on its side
PALETTE = colours().quantize(16)

CONVERTED = {
    "grey": (stored(colours().convert("L"), "PNG"), colours().convert("L")),
    "grey-with-alpha": (stored(colours().convert("LA"), "PNG"), colours().convert("L")),
    "alpha": (stored(colours().convert("RGBA"), "PNG"), colours()),
    "palette": (stored(PALETTE, "PNG"), PALETTE),
    "palette-with-transparency": (stored(PALETTE, "PNG", transparency=bytes([0, 128] + [255] * 14)), PALETTE),
    "cmyk": (stored(colours().convert("CMYK"), "TIFF"), colours().convert("CMYK")),
    "black-and-white": (stored(colours().convert("1"), "PNG"), colours().convert("1")),
    "animated-gif": (stored(PALETTE, "GIF", save_all=True, append_images=FRAMES), PALETTE),
    "animated-png": (stored(FRAMES[0], "PNG", save_all=True, append_images=FRAMES[1:]), FRAMES[0]),
    "animated-webp": (
        stored(FRAMES[0], "WEBP", save_all=True, append_images=FRAMES[1:], lossless=True),
        FRAMES[0],
    ),
    "on-its-side": (stored(colours(), "PNG", exif=EXIF), colours()),
}


@pytest.mark.parametrize("name", CONVERTED)
def test_every_kind_of_image_becomes_rgb_and_of_an_animation_the_first_frame(name, tmp_path):
    content, image = CONVERTED[name]
    found = alone(tmp_path / "one", "x.png", content)
    assert np.abs(found.astype(int) - expected(image.convert("RGB"))).max() <= 1


def test_an_image_of_one_pixel_is_that_pixel_everywhere(tmp_path):
    found = alone(tmp_path / "one", "x.png", stored(Image.new("RGB", (1, 1), (1, 2, 3)), "PNG"))
    assert found.shape == (3, SIZE, SIZE) and (found == np.array([1, 2, 3])[:, None, None]).all()
    assert alone(tmp_path / "two", "x.png", stored(colours(1, 300), "PNG")).shape == (3, SIZE, SIZE)


def test_sixteen_bits_are_scaled_and_not_clipped(tmp_path):
    ramp = np.linspace(0, 65535, SIZE * SIZE).reshape(SIZE, SIZE).astype(np.uint16)
    lines = b"".join(b"\0" + line.astype(">u2").tobytes() for line in ramp)
    grey = alone(tmp_path / "grey", "x.png", png(SIZE, SIZE, lines, bits=16, colour=0))
    assert np.abs(grey - ramp / 257).max() <= 0.5 and len(np.unique(grey)) > 60
    triples = np.repeat(ramp[..., None], 3, axis=2)
    lines = b"".join(b"\0" + line.astype(">u2").tobytes() for line in triples)
    rgb = alone(tmp_path / "rgb", "x.png", png(SIZE, SIZE, lines, bits=16))
    assert np.abs(rgb - ramp / 257).max() <= 1  # Pillow's own: the upper byte


BROKEN = {
    "empty": (b"", "it is no image of a known kind"),
    "text": (b"hello\n" * 9, "it is no image of a known kind"),
    "a-web-page": (b"<html><body>404</body></html>", "it is no image of a known kind"),
    "cut-short-jpeg": (stored(colours(200, 200), "JPEG")[:900], "truncated"),
    "cut-short-png": (stored(colours(200, 200), "PNG")[:900], "truncated"),
    "floating-point": (stored(Image.new("F", (9, 9), 0.5), "TIFF"), "it holds floating-point pixels"),
    "thirty-two-bits": (stored(Image.new("I", (9, 9), 70000), "TIFF"), "pixels of more than 16 bits"),
    "negative": (stored(Image.new("I", (9, 9), -1), "TIFF"), "it holds negative pixels; convert it"),
    "bomb": (png(50_000, 50_000), r"it claims to have more than 178,956,970 pixels"),
    "smaller-bomb": (png(12_000, 12_000), "12000 x 12000 pixels are more than 89,478,485"),
    "postscript": (
        b"%!PS-Adobe-3.0 EPSF-3.0\n%%BoundingBox: 0 0 9 9\n%%EndComments\n",
        "no image of a known",
    ),
}


@pytest.mark.parametrize("name", BROKEN)
def test_what_is_no_image_is_named_or_left_out_and_counted(name, tmp_path, monkeypatch):
    def never(*_, **__):
        raise AssertionError("a program was to be run, or memory taken for what a header claims")

    content, why = BROKEN[name]
    monkeypatch.setattr(EpsImagePlugin, "Ghostscript", never)
    if "bomb" in name:
        monkeypatch.setattr(Image.Image, "load", never)
    place = tmp_path / "photos"
    with pytest.raises(InputError, match=rf"^{place}/x.jpg cannot be decoded \([^\n]*{why}[^\n]*\)$"):
        alone(place, "x.jpg", content)
    monkeypatch.undo()
    (place / "good.png").write_bytes(stored(colours(), "PNG"))
    train = folder(place, SIZE, skip_broken=True).train
    assert len(train) == 1 and train.skipped == [f"{place}/x.jpg"]


@pytest.mark.parametrize("name", ["bomb", "text", "cut-short-jpeg", "postscript"])
def test_in_a_tar_file_it_is_the_same(name, tmp_path):
    content, why = BROKEN[name]
    with tarfile.open(tmp_path / "a.tar", "w") as archive:
        member = tarfile.TarInfo("x.jpg")
        member.size = len(content)
        archive.addfile(member, io.BytesIO(content))
    with pytest.raises(InputError, match=rf"a.tar:x.jpg cannot be decoded \([^\n]*{why}"):
        shards(tmp_path, SIZE).train[0]


def test_what_has_no_end_is_not_read(tmp_path):
    """A pipe would wait for ever, a device give bytes for ever, a file of two gigabytes fill the memory."""
    os.mkfifo(tmp_path / "pipe.png")
    (tmp_path / "zeros.png").symlink_to("/dev/zero")
    with open(tmp_path / "huge.png", "wb") as file:
        file.truncate(2 << 30)  # of no blocks on the disk
    (tmp_path / "nowhere.png").symlink_to("gone.png")
    (tmp_path / "itself.png").symlink_to("itself.png")
    train = folder(tmp_path, SIZE).train
    said = {}
    for i in range(len(train)):
        with pytest.raises(InputError) as error:
            train[i]
        said[Path(train.name(i)).stem] = str(error.value).partition("cannot be decoded ")[2]
    assert said == {
        "huge": "(it has 2,147,483,648 bytes, more than 1,073,741,824)",
        "itself": "(Too many levels of symbolic links)",
        "nowhere": "(No such file or directory)",
        "pipe": "(it is no regular file)",
        "zeros": "(it is no regular file)",
    }


def test_a_folder_may_be_called_like_an_image_and_a_link_upwards_ends(tmp_path):
    """Links are followed, also out of the folder, but not to where the folder itself lies."""
    (tmp_path / "private").mkdir()
    (tmp_path / "private/y.png").write_bytes(stored(colours(), "PNG"))
    root = tmp_path / "photos"
    (root / "cat.jpg").mkdir(parents=True), (root / "dog").mkdir()
    (root / "cat.jpg/1.png").write_bytes(stored(colours(), "PNG"))
    (root / "dog/2.png").write_bytes(stored(colours(), "PNG"))
    (root / "dog/up").symlink_to("../.."), (root / "dog/again").symlink_to(".")
    train = folder(root, SIZE).train
    assert len(train) == 2 and train.classes == ("cat.jpg", "dog")
    (root / "dog/more").symlink_to(tmp_path / "private")
    assert len(folder(root, SIZE).train) == 3


def test_names_that_cannot_be_printed_are_escaped_wherever_they_are_shown(tmp_path):
    for name in ("a\nb", "\x1b[31mred", "\u202eleft", os.fsdecode(b"\xff")):
        (tmp_path / name).mkdir()
        (tmp_path / name / "1.png").write_bytes(stored(colours(), "PNG"))
    train = folder(tmp_path, SIZE).train
    assert train.classes == ("\\x1b[31mred", "a\\nb", "\\u202eleft", "\\udcff")
    (tmp_path / "a\nb" / "bad\n.png").write_bytes(b"x")
    with pytest.raises(InputError, match=r"^[^\n]*a\\nb/bad\\n.png cannot be decoded[^\n]*$"):
        broken = folder(tmp_path, SIZE).train
        [broken[i] for i in range(len(broken))]
    skipped = folder(tmp_path, SIZE, skip_broken=True).train.skipped
    assert len(skipped) == 1 and all(name.isprintable() for name in skipped)
