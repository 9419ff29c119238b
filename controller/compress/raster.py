"""A small canvas: discs, lines and text as a PNG, with nothing but numpy and zlib.

Shapes are smoothed by how much of a pixel they cover; letters are the usual five by seven dots,
each a block of pixels. Enough for a picture of a few dozen points where no browser is at hand.
"""

from __future__ import annotations

import struct
import zlib
from typing import Any, TypeAlias

import numpy as np
from numpy.typing import NDArray

from controller.compress.letters import COLUMNS, ROWS, glyph

Colour: TypeAlias = tuple[int, int, int]
_SIGNATURE = b"\x89PNG\r\n\x1a\n"
_RGB = 2  # the colour type of three channels


class Canvas:
    """Pixels [height, width, 3] from the upper left; coordinates are in pixels and may be parts."""

    def __init__(self, width: int, height: int, ground: Colour = (255, 255, 255)) -> None:
        self._pixels = np.empty((height, width, 3), np.float64)
        self._pixels[:] = ground

    def disc(self, x: float, y: float, radius: float, colour: Colour, opacity: float = 1.0) -> None:
        """A filled circle."""
        part, rows, columns = self._part((x, x), (y, y), radius + 1)
        away = np.hypot(columns - x, rows - y)
        self._blend(part, np.clip(radius + 0.5 - away, 0.0, 1.0) * opacity, colour)

    def ring(self, x: float, y: float, radius: float, colour: Colour, width: float = 1.5) -> None:
        """The edge of a circle."""
        part, rows, columns = self._part((x, x), (y, y), radius + width)
        away = np.abs(np.hypot(columns - x, rows - y) - radius)
        self._blend(part, np.clip(width / 2 + 0.5 - away, 0.0, 1.0), colour)

    def line(
        self, start: tuple[float, float], end: tuple[float, float], colour: Colour,
        width: float = 1.0,
    ) -> None:  # fmt: skip
        """A straight line with round ends."""
        (x0, y0), (x1, y1) = start, end
        part, rows, columns = self._part((x0, x1), (y0, y1), width + 1)
        length = (x1 - x0) ** 2 + (y1 - y0) ** 2
        along = ((columns - x0) * (x1 - x0) + (rows - y0) * (y1 - y0)) / (length or 1.0)
        along = np.clip(along, 0.0, 1.0)
        away = np.hypot(columns - x0 - along * (x1 - x0), rows - y0 - along * (y1 - y0))
        self._blend(part, np.clip(width / 2 + 0.5 - away, 0.0, 1.0), colour)

    def box(
        self, x: float, y: float, width: float, height: float, colour: Colour, opacity: float
    ) -> None:
        """A filled rectangle from its upper left."""
        part, rows, columns = self._part((x, x + width), (y, y + height), 0)
        cover = np.full((len(rows), columns.size), opacity)
        self._blend(part, cover, colour)

    def text(
        self,
        x: float,
        y: float,
        words: str,
        colour: Colour,
        *,
        size: int = 2,
        anchor: str = "start",
    ) -> None:
        """One line, ``y`` at its middle; ``anchor``: what of it is at ``x``: start, middle, end."""
        shift = {"start": 0.0, "middle": 0.5, "end": 1.0}[anchor] * text_width(words, size)
        left, top = round(x - shift), round(y - ROWS * size / 2)
        for number, letter in enumerate(words):
            dots = np.kron(glyph(letter), np.ones((size, size)))
            self._stamp(dots, left + number * (COLUMNS + 1) * size, top, colour)

    def png(self) -> bytes:
        """The picture as the bytes of a PNG file."""
        pixels = np.rint(self._pixels).clip(0, 255).astype(np.uint8)
        height, width, _ = pixels.shape
        lines = np.zeros((height, 1 + 3 * width), np.uint8)  # each line begins with its filter, 0
        lines[:, 1:] = pixels.reshape(height, -1)
        head = struct.pack(">IIBBBBB", width, height, 8, _RGB, 0, 0, 0)
        parts = ((b"IHDR", head), (b"IDAT", zlib.compress(lines.tobytes(), 9)), (b"IEND", b""))
        return _SIGNATURE + b"".join(_chunk(kind, body) for kind, body in parts)

    def _part(
        self, x: tuple[float, float], y: tuple[float, float], reach: float
    ) -> tuple[tuple[slice, slice], NDArray[Any], NDArray[Any]]:
        """The pixels within ``reach`` of a box, and the middles of their rows and columns."""
        height, width, _ = self._pixels.shape
        top, bottom = max(int(min(y) - reach), 0), min(int(max(y) + reach) + 1, height)
        left, right = max(int(min(x) - reach), 0), min(int(max(x) + reach) + 1, width)
        rows = np.arange(top, max(bottom, top))[:, None] + 0.5
        columns = np.arange(left, max(right, left))[None, :] + 0.5
        return (slice(top, max(bottom, top)), slice(left, max(right, left))), rows, columns

    def _blend(self, part: tuple[slice, slice], cover: NDArray[Any], colour: Colour) -> None:
        share = cover[..., None]
        self._pixels[part] = self._pixels[part] * (1 - share) + np.asarray(colour) * share

    def _stamp(self, dots: NDArray[Any], left: int, top: int, colour: Colour) -> None:
        """Dots [rows, columns] of 0 and 1; what lies outside of the canvas is left out."""
        height, width, _ = self._pixels.shape
        rows, columns = np.nonzero(dots)
        rows, columns = rows + top, columns + left
        inside = (rows >= 0) & (rows < height) & (columns >= 0) & (columns < width)
        self._pixels[rows[inside], columns[inside]] = colour


def text_width(words: str, size: int = 2) -> float:
    """Pixels that a line takes."""
    return max(len(words) * (COLUMNS + 1) - 1, 0) * size


def _chunk(kind: bytes, body: bytes) -> bytes:
    return struct.pack(">I", len(body)) + kind + body + struct.pack(">I", zlib.crc32(kind + body))
