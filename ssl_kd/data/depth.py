"""How many bits the values of images of 16 bits have: cameras and scanners put 8, 10 or 12 into such files.

It is one number for a data set, so that no image changes its brightness beside the others: what a file says
(TIFF, PGM; PNG's sBIT where the values keep to it), or else the least that the values of a sample fit into.
"""

import struct
import warnings
from collections.abc import Iterable, Iterator
from dataclasses import dataclass

import numpy as np
from PIL import Image

from ssl_kd.errors import InputError

DEPTHS = (8, 10, 12, 14, 16)
FULL = 16
LOOKED_AT = 256  # images of a data set whose headers are read
MEASURED = 64  # of these, whose pixels are read
_STRIP = 64  # rows that are scaled at once
_DARK = 63  # of 255: what 14 of 16 bits come to

# Tags of TIFF.
_SAMPLE_BITS, _PHOTOMETRIC, _SAMPLE_FORMAT, _LARGEST = 258, 262, 339, (341, 281)


@dataclass(frozen=True)
class Header:
    """What a file of 16 bits says of its values, before they are read.

    said: bits, where the file leaves no doubt. hint: bits that the values have if they fit into them.
    upper: Pillow keeps the upper 8 bits alone, as it does of colour. signed: half of the range is negative.
    """

    said: int | None = None
    hint: int | None = None
    upper: bool = False
    signed: bool = False


def header(image: Image.Image, content: bytes) -> Header | None:
    """Of an image that is opened and not yet loaded; None for 8 bits."""
    if image.format == "PPM":
        most = _maxval(image)
        if image.mode == "I":
            return Header(said=FULL if most not in (None, 65535) else None)  # Pillow has scaled these
        return Header(upper=True) if image.mode == "RGB" and most == 65535 else None
    if image.format == "PNG" and content[24:25] == b"\x10":
        return Header(hint=_significant(content), upper=not image.mode.startswith("I"))
    if image.format == "TIFF":
        tags = image.tag_v2  # type: ignore[attr-defined]
        bits = tags.get(_SAMPLE_BITS) or (1,)
        if image.mode.startswith("I"):
            most = next((tags[tag] for tag in _LARGEST if tag in tags), None)
            most = most[0] if isinstance(most, tuple) and most else most
            hint = _bits(int(most)) if isinstance(most, int | float) and 0 < most < 65536 else None
            signed = 2 in _tuple(tags.get(_SAMPLE_FORMAT))
            return Header(bits[0] if 8 < bits[0] < FULL else None, hint, signed=signed and bits[0] == FULL)
        return Header(upper=True) if max(bits) == FULL else None
    if image.format == "SGI" and content[3:4] == b"\x02":
        return Header(upper=True)
    return Header() if image.mode.startswith("I") else None


def white_is_zero(image: Image.Image) -> bool:
    """Whether the values of a TIFF of 16 bits grow towards black; Pillow inverts those of 8 bits alone."""
    tags = getattr(image, "tag_v2", {})
    return image.mode.startswith("I") and tags.get(_PHOTOMETRIC) == 0


def grey(image: Image.Image, bits: int | None, inverted: bool = False) -> np.ndarray:
    """The values of an image of mode I or I;16 as uint8 (H, W), scaled by 2 ** bits - 1.

    bits: None where nobody knows; then the whole range, unless the values fill less than a quarter of it.
    inverted: 0 is white (see `white_is_zero`). Raises ValueError.
    """
    values = np.asarray(image)
    least, most = int(values.min()), int(values.max())
    if least < 0:  # white and black would be all that is left of it
        raise ValueError("it holds negative pixels; convert it to 8 or 16 bits without a sign")
    if most > 65535:
        raise ValueError("it holds pixels of more than 16 bits; convert it to 8 or 16")
    if bits is None and 0 < most < 1 << 14:
        raise ValueError(f"{_unknown(most)}; data.bit_depth={_bits(most)} does")
    top = (1 << (bits or FULL)) - 1
    if most > top:
        raise ValueError(
            f"it holds the value {most:,}, which {bits} bits cannot; data.bit_depth={_bits(most)} does"
        )
    grey = np.empty(values.shape, np.uint8)
    for start in range(0, len(values), _STRIP):  # the steps in between take four times what the values do
        scaled = (values[start : start + _STRIP].astype(np.int64) * 255 + top // 2) // top
        grey[start : start + _STRIP] = 255 - scaled if inverted else scaled
    return grey


def check_upper(image: Image.Image, bits: int | None) -> None:
    """Raises ValueError for an image, loaded, whose upper 8 bits are not those that its values are in."""
    if bits == FULL:
        return
    most = _most(image)
    if bits is not None or 0 < most <= _DARK:
        raise ValueError(
            "it holds 16 bits a channel, of which only the upper 8 can be read, and its values are in the "
            "lower; convert it to 8 bits, or say data.bit_depth=16 if it is just dark"
        )


def of_data_set(contents: Iterable[bytes]) -> tuple[int | None, str]:
    """Bits of the values of those images that have 16, and what to say of it; None where there are none.

    contents: of a sample of the files; what cannot be read is not looked at. Raises InputError.
    """
    largest, hints, uppers, count, signed = 0, [0], [], 0, False
    for image, head in _sixteen(contents):
        if head.said is not None:
            continue
        if head.upper:
            uppers.append(_most(image))
        elif (values := np.asarray(image)).min() >= 0 and values.max() < 1 << FULL:
            largest = max(largest, int(values.max()))
            hints.append(head.hint or 0)
            signed, count = signed or head.signed, count + 1
    if uppers and 0 < max(uppers) <= _DARK:
        raise InputError(
            f"the images hold 16 bits a channel, of which only the upper 8 can be read, and of {len(uppers)} "
            f"that were looked at none is brighter than {max(uppers)} of 255 in these; convert them to 8 "
            "bits, or say data.bit_depth=16 if they are just dark"
        )
    if not largest:
        return (FULL if any(uppers) else None), ""
    hint = max(hints)
    bits = hint if largest < 1 << hint else 15 if signed and largest >= 1 << 14 else _bits(largest)
    if uppers and bits != FULL:
        raise InputError(
            f"the grey images of 16 bits use {bits} of them and those in colour all; convert them to 8 bits"
        )
    if bits == FULL:
        return bits, ""
    return bits, (
        f"the images of 16 bits hold values up to {largest:,} ({count} were looked at), so they are read as "
        f"{bits} bits; data.bit_depth=16 takes the whole range"
    )


def _sixteen(contents: Iterable[bytes]) -> Iterator[tuple[Image.Image, Header]]:
    """The loaded images of 16 bits, MEASURED of them at most."""
    from ssl_kd.data.files import opened

    measured = 0
    for content in contents:
        if measured == MEASURED:
            return
        try:
            with warnings.catch_warnings(), opened(content) as image:
                head = header(image, content)
                if head is None:
                    continue
                image.load()
        except Exception:  # Pillow's decoders let many types through; who trains on it is told by `decode`
            continue
        measured += 1
        yield image, head


def _most(image: Image.Image) -> int:
    bands = image.getextrema()
    return int(max(high for _, high in (bands if isinstance(bands[0], tuple) else (bands,))))


def _bits(most: int) -> int:
    """The least of DEPTHS that a value fits into."""
    return next((bits for bits in DEPTHS if most < 1 << bits), FULL)


def _unknown(most: int) -> str:
    return f"its values, of 16 bits, end at {most:,}, and nothing says how many bits they have"


def _maxval(image: Image.Image) -> int | None:
    """What the header of a PPM calls white; None where Pillow needs no scaling of its own."""
    tiles = getattr(image, "tile", None)
    args = tiles[0][3] if tiles else None
    last = args[-1] if isinstance(args, tuple) else args
    return last if isinstance(last, int) else None


def _significant(content: bytes) -> int | None:
    """The largest of a PNG's sBIT, which stands before the pixels."""
    at = 8
    while at + 8 <= len(content):
        length, kind = struct.unpack(">I4s", content[at : at + 8])
        if kind == b"sBIT":
            return max(content[at + 8 : at + 8 + min(length, 4)], default=0) or None
        if kind in (b"IDAT", b"IEND"):
            break
        at += 12 + length
    return None


def _tuple(value: object) -> tuple:
    return value if isinstance(value, tuple) else (value,)
