"""The picture of a fit as a PNG: a file that decodes, with what belongs where it belongs."""

from __future__ import annotations

import struct
import zlib

import numpy as np
import pytest
from numpy.typing import NDArray

from controller.compress import letters, picture, plot
from controller.compress.page import png
from controller.compress.raster import Canvas

from .test_page import report, row


def decoded(content: bytes) -> NDArray[np.uint8]:
    """Pixels [height, width, 3] of a PNG without filters; every check sum is looked at."""
    assert content[:8] == b"\x89PNG\r\n\x1a\n"
    parts, at = {}, 8
    while at < len(content):
        (length,) = struct.unpack_from(">I", content, at)
        kind, body = content[at + 4 : at + 8], content[at + 8 : at + 8 + length]
        (check,) = struct.unpack_from(">I", content, at + 8 + length)
        assert check == zlib.crc32(kind + body)
        parts[kind], at = body, at + 12 + length
    width, height, depth, colours, *rest = struct.unpack(">IIBBBBB", parts[b"IHDR"])
    assert (depth, colours, rest) == (8, 2, [0, 0, 0])
    lines = np.frombuffer(zlib.decompress(parts[b"IDAT"]), np.uint8).reshape(height, -1)
    assert not lines[:, 0].any()
    return lines[:, 1:].reshape(height, width, 3)


def test_shapes_cover_what_they_should() -> None:
    canvas = Canvas(40, 30)
    canvas.disc(10, 10, 5, (255, 0, 0))
    canvas.ring(30, 10, 6, (0, 0, 255))
    canvas.line((0, 25), (40, 25), (0, 128, 0), width=2)
    canvas.text(38, 20, "ll", (0, 0, 0))  # runs over the edge
    pixels = decoded(canvas.png())
    assert pixels.shape == (30, 40, 3)
    assert tuple(pixels[10, 10]) == (255, 0, 0)
    assert tuple(pixels[10, 30]) == (255, 255, 255)
    assert tuple(pixels[10, 24]) != (255, 255, 255)
    assert (pixels[24] == (0, 128, 0)).all()
    covered = (255 - pixels[:20, :20, 1].astype(float)).sum() / 255
    assert covered == pytest.approx(np.pi * 25, rel=0.02)


def test_letters_differ_and_an_unknown_one_is_a_box() -> None:
    known = "0123456789abcdefghijklmnopqrstuvwxyzABCDEFGHIJKLMNOPQRSTUVWXYZ%+-.,:@()<=>_/! "
    assert len({letters.glyph(letter).tobytes() for letter in known}) == len(known)
    assert (letters.glyph("é") == letters.glyph("☃")).all()


def test_the_chosen_variant_is_where_the_plot_has_it() -> None:
    rows = [row("fast", 0.1, 0.9, chosen=True), row("slow", 1.0, 0.93, runtime="litert")]
    pixels = decoded(png(report(*rows)))
    points = [
        plot.Point(label="", group=r["runtime"], x=r["latency"]["value"], y=100 * r["accuracy"],
                   low=100 * r["accuracy"] - 1, high=100 * r["accuracy"] + 1, weight=900,
                   chosen=False, faint=False, words="")
        for r in rows
    ]  # fmt: skip
    placed = plot.frame(points)
    for point, colour in zip(points, (picture.GROUPS[1], picture.GROUPS[0]), strict=True):
        x, y = placed.x(point.x), placed.y(point.y) + picture.HEAD
        found = pixels[int(picture.SCALE * y) + 8, int(picture.SCALE * x) + 8].astype(int)
        assert np.abs(found - colour).argmax() == np.abs(np.array(255) - colour).argmax()
        assert (found != 255).any()


def test_a_fit_that_timed_nothing_says_so_in_a_picture_that_opens() -> None:
    pixels = decoded(png(report(row("fp32", None, 0.9))))
    assert (pixels != 255).any()
