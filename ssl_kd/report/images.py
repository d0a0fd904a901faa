"""Images inside the page: tiles side by side as one WebP, as a data URL."""

import base64
import io
from collections.abc import Sequence

import numpy as np
from PIL import Image
from torch import Tensor

SMALLEST, LARGEST = 64, 96  # pixels of a tile's side: below it pixels are repeated, above it is shrunk
GAP, FRAME = 6, 4  # pixels between tiles, and of the frame that marks one

Tile = np.ndarray  # uint8 (H, W, 3)


def tile(image: np.ndarray | Tensor) -> Tile:
    """uint8 (C, H, W), or float in [0, 1], as an RGB tile of SMALLEST to LARGEST pixels."""
    pixels = np.asarray(image)
    if pixels.dtype != np.uint8:
        pixels = np.round(pixels.astype(np.float32).clip(0, 1) * 255).astype(np.uint8)
    pixels = np.moveaxis(pixels[:3] if len(pixels) >= 3 else pixels[:1], 0, -1)  # (H, W, 3 or 1)
    pixels = np.repeat(pixels, 3, -1) if pixels.shape[-1] == 1 else pixels
    side = max(pixels.shape[:2])
    if side > LARGEST:
        height, width = (max(1, round(edge * LARGEST / side)) for edge in pixels.shape[:2])
        return np.asarray(Image.fromarray(pixels).resize((width, height), Image.Resampling.LANCZOS))
    times = -(-SMALLEST // side)
    return pixels.repeat(times, 0).repeat(times, 1)


def strip(tiles: Sequence[Tile], marked: Sequence[bool] = ()) -> tuple[str, int, int]:
    """Tiles in a row, on a transparent ground: a data URL, its width and its height.

    A marked tile has a frame and a corner cut off, which need no colour to be seen.
    """
    marks = list(marked) or [False] * len(tiles)
    height, width = (max(t.shape[axis] for t in tiles) for axis in (0, 1))
    place = width + 2 * FRAME + GAP
    sheet = np.zeros((height + 2 * FRAME, place * len(tiles) - GAP, 4), np.uint8)
    for number, (own, mark) in enumerate(zip(tiles, marks, strict=True)):
        left = number * place
        if mark:
            _frame(sheet[:, left : left + width + 2 * FRAME])
        h, w = own.shape[:2]
        area = sheet[FRAME : FRAME + h, left + FRAME : left + FRAME + w]
        area[..., :3], area[..., 3] = own, 255
        if mark:
            _corner(area)
    photographs = tiles[0].shape[0] > SMALLEST
    return _webp(Image.fromarray(sheet), photographs), sheet.shape[1], sheet.shape[0]


def sprite(images: Sequence[np.ndarray], side: int = 32, columns: int = 50) -> str:
    """uint8 (C, H, W) images as one sheet of tiles of `side` pixels, `columns` in a row: a data URL."""
    rows = -(-len(images) // columns)
    sheet = Image.new("RGB", (columns * side, rows * side))
    for i, image in enumerate(images):
        own = Image.fromarray(tile(image)).resize((side, side), Image.Resampling.BOX)
        sheet.paste(own, (i % columns * side, i // columns * side))
    return _webp(sheet, True)


def _frame(area: np.ndarray) -> None:
    area[:] = (*_WRONG, 255)


def _corner(area: np.ndarray) -> None:
    """Cuts off the upper right corner, with a white edge so that it shows on any image."""
    h, w = area.shape[:2]
    down, right = np.mgrid[:h, :w]
    distance = down + (w - 1 - right)
    reach = round(0.34 * min(h, w))
    area[(distance < reach)] = (255, 255, 255, 255)
    area[(distance < reach - 3)] = (*_WRONG, 255)


_WRONG = (213, 94, 0)


def _webp(image: Image.Image, lossy: bool) -> str:
    file = io.BytesIO()
    image.save(file, "WEBP", lossless=not lossy, quality=72 if lossy else 80, method=4)
    return "data:image/webp;base64," + base64.b64encode(file.getvalue()).decode()
