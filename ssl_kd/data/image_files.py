"""Which files are images: what Pillow reads here, and what is passed over and has to be said."""

import os
import stat
from collections import Counter
from collections.abc import Iterable
from dataclasses import dataclass, field
from functools import cache
from pathlib import Path

from PIL import Image, features

from ssl_kd.errors import InputError

USUAL = (".jpg", ".jpeg", ".png", ".bmp", ".gif", ".webp", ".tif", ".tiff", ".ppm", ".pgm")
# What Pillow may take a file for, whatever its name, and in which order it looks. PostScript, say, is not
# among them: it would have Ghostscript run. Files of the last have no mark at their beginning.
KINDS = (
    "JPEG MPO PNG BMP GIF WEBP TIFF PPM AVIF HEIF JPEG2000 DIB PCX QOI ICO SGI SUN DDS PSD ICNS TGA".split()
)
_LIBRARIES = {"JPEG": "jpg", "MPO": "jpg", "JPEG2000": "jpg_2000", "WEBP": "webp", "AVIF": "avif"}
_OTHER_NAMES = {".jif": "JPEG", ".jfi": "JPEG"}  # that Pillow does not know of
# Files that lie beside images and are none: nothing is lost with them.
BESIDE = frozenset(
    (
        ".txt .text .csv .tsv .json .jsonl .xml .yaml .yml .toml .md .rst .html .htm .log .py .ipynb .m .r "
        ".sh .bat .db .sqlite .ini .cfg .lnk .url .pdf .doc .docx .odt .xls .xlsx .ods .ppt .pptx .mat .pkl "
        ".pickle .zip .tar .gz .tgz .bz2 .xz .7z .rar .part .partial .tmp .bak .crdownload .swp .lock .md5 "
        ".sha1 .sha256 .names .data .lst .list .pts .cls .caption .parquet .arrow .xmp .aae .thm .wav .mp3 "
        ".aux .tfw .jgw .pgw .prj .cpg "
    ).split()
)
FOLDERS_BESIDE = frozenset(("__MACOSX", "@eaDir", "#recycle", "$RECYCLE.BIN", "System Volume Information"))
_MARKS = (b"\xff\xd8\xff", b"\x89PNG\r\n\x1a\n", b"GIF87a", b"GIF89a", b"II*\0", b"MM\0*")


@cache
def formats() -> tuple[str, ...]:
    """The kinds of image that Pillow, with the libraries that it has here, may take a file for."""
    Image.init()
    there = (kind for kind in KINDS if kind in Image.OPEN)
    return tuple(kind for kind in there if kind not in _LIBRARIES or features.check(_LIBRARIES[kind]))


@cache
def extensions() -> tuple[str, ...]:
    """The suffixes of image files, in lower case, the usual ones first."""
    known = {**Image.registered_extensions(), **_OTHER_NAMES}
    found = sorted(suffix for suffix, kind in known.items() if kind in formats())
    return tuple([suffix for suffix in USUAL if suffix in found] + [s for s in found if s not in USUAL])


def suffix(name: str) -> str:
    return os.path.splitext(name)[1].lower()


@dataclass
class Tree:
    """Files below a folder, by their names from there on.

    files: images, folder by folder. passed: what is neither an image that Pillow reads nor known to lie
    beside images. folders: all there are.
    """

    files: list[str] = field(default_factory=list)
    passed: list[str] = field(default_factory=list)
    folders: set[str] = field(default_factory=set)


def image_files(root: Path) -> Tree:
    """What lies below `root`. Raises InputError where no image does.

    Links are followed, wherever they lead, each real folder once; but never to a folder that `root` lies in.
    """
    if not root.is_dir():
        raise InputError(f"there is no folder {root}")
    tree, seen = Tree(), {str(above) for above in root.resolve().parents}
    for place, folders, names in os.walk(root, followlinks=True):
        real = os.path.realpath(place)
        if real in seen:
            folders.clear()
            continue
        seen.add(real)
        folders[:] = sorted(f for f in folders if not f.startswith(".") and f not in FOLDERS_BESIDE)
        below = "" if place == str(root) else os.path.relpath(place, root)
        images, passed = _sorted_out(place, names)
        tree.folders.add(below)
        tree.files += [os.path.join(below, name) for name in images]
        tree.passed += [os.path.join(below, name) for name in passed]
    if not tree.files:
        raise InputError(no_image(str(root), tree.passed))
    tree.files.sort(key=_by_folder)
    tree.passed.sort(key=_by_folder)
    return tree


def no_image(where: str, passed: Iterable[str] = ()) -> str:
    """The sentence for a place without images."""
    others = kinds(passed)
    cannot = f"; {others} cannot be read here" if others else ""
    return f"there is no image in {where}; accepted are {' '.join(extensions())}{cannot}"


def kinds(names: Iterable[str]) -> str:
    """How many files of which suffixes: ".heic (12), .svg (1)"."""
    counts = Counter(suffix(name) or "no suffix" for name in names)
    return ", ".join(f"{kind} ({count:,})" for kind, count in counts.most_common(6))


def _by_folder(name: str) -> str:
    return name.replace(os.sep, "\0")


def _sorted_out(place: str, names: Iterable[str]) -> tuple[list[str], list[str]]:
    """The images among the files of one folder, and what is passed over."""
    images: list[str] = []
    odd: list[str] = []
    for name in names:
        kind = suffix(name)
        if name.startswith(".") or name.endswith("~") or kind in BESIDE or name == "Icon\r":
            continue
        (images if kind in extensions() else odd).append(name)
    unknown = [name for name in odd if _begins_as_an_image(os.path.join(place, name))]
    stems = {os.path.splitext(name)[0] for name in [*images, *unknown]} if odd else set()
    passed = [n for n in odd if n not in unknown and _says_something(n, os.path.join(place, n), stems)]
    return images + unknown, passed


def _says_something(name: str, path: str, stems: set[str]) -> bool:
    """Not so for another form of an image that is there (x.jpg and x.cr2), nor for LICENSE or Makefile."""
    stem, kind = os.path.splitext(name)
    return bool(kind) and stem not in stems and os.path.isfile(path)


def _begins_as_an_image(path: str) -> bool:
    """Of files whose suffix says nothing: 0001, photo.jpg_large."""
    try:
        if not stat.S_ISREG(os.stat(path).st_mode):
            return False
        with open(path, "rb") as file:
            head = file.read(16)
    except OSError:
        return False
    bitmap = head[:2] == b"BM" and head[6:10] == b"\0\0\0\0"
    return head.startswith(_MARKS) or bitmap or (head[:4] == b"RIFF" and head[8:12] == b"WEBP")
