"""The scatter plot of a fit as a PNG: for mails, slides and terminals, where no page is opened.

It is drawn from the places of `controller.compress.plot`; what a pointer shows there is written out
here for the chosen variant and the front.
"""

from __future__ import annotations

from collections.abc import Sequence
from itertools import pairwise

from controller.compress import plot
from controller.compress.plot import HEIGHT, LEFT, RIGHT, TOP, WIDTH, Frame, Point
from controller.compress.raster import Canvas, Colour, text_width

SCALE = 2  # pixels for one of the plot's
HEAD = 34  # of the plot's pixels, above it
LETTERS = 2  # pixels of one dot
INK: Colour = (28, 33, 38)
SOFT: Colour = (91, 102, 112)
GRID: Colour = (217, 222, 227)
GROUPS: tuple[Colour, ...] = ((31, 111, 235), (217, 115, 13), (39, 134, 74))
FAINT = 0.08
_GAP = 20  # pixels between two names


def png(points: Sequence[Point], title: str) -> bytes:
    """The picture as the bytes of a PNG file; a line of text where there is nothing to draw."""
    canvas = Canvas(SCALE * WIDTH, SCALE * (HEIGHT + HEAD))
    canvas.text(SCALE * LEFT, SCALE * HEAD / 2, title, INK, size=3)
    if not points:
        words = "No variant was timed, so there is no picture."
        canvas.text(SCALE * LEFT, SCALE * (HEAD + TOP), words, SOFT)
        return canvas.png()
    frame = plot.frame(points)
    _axes(canvas, frame)
    for start, end in pairwise(plot.corners(points, frame)):
        canvas.line(_at(*start), _at(*end), SOFT, width=3)
    groups = sorted({p.group for p in points})
    for point in sorted(points, key=lambda p: -p.weight):
        colour = GROUPS[groups.index(point.group) % len(GROUPS)]
        _point(canvas, point, frame, colour, plot.radius(point, points))
    _names(canvas, points, frame)
    _legend(canvas, groups)
    return canvas.png()


def _at(x: float, y: float) -> tuple[float, float]:
    """From the plot's pixels to the picture's."""
    return SCALE * x, SCALE * (y + HEAD)


def _axes(canvas: Canvas, frame: Frame) -> None:
    bottom, right = HEIGHT - plot.BOTTOM, WIDTH - RIGHT
    for value in plot.ticks(frame.x_low, frame.x_high):
        x = frame.x(value)
        canvas.line(_at(x, TOP), _at(x, bottom), GRID)
        canvas.text(*_at(x, bottom + 14), f"{value:g}", SOFT, size=LETTERS, anchor="middle")
    for value in plot.levels(frame.y_low, frame.y_high):
        y = frame.y(value)
        canvas.line(_at(LEFT, y), _at(right, y), GRID)
        canvas.text(*_at(LEFT - 8, y), f"{value:g} %", SOFT, size=LETTERS, anchor="end")
    middle = (LEFT + right) / 2
    canvas.text(*_at(middle, HEIGHT - 12), plot.AXIS, SOFT, size=LETTERS, anchor="middle")


def _point(canvas: Canvas, point: Point, frame: Frame, colour: Colour, radius: float) -> None:
    x, y = _at(frame.x(point.x), frame.y(point.y))
    low, high = (_at(frame.x(point.x), frame.y(value)) for value in (point.low, point.high))
    canvas.line(low, high, SOFT)
    opacity = FAINT if point.faint else 0.8 if point.chosen else 0.35
    canvas.disc(x, y, SCALE * radius, colour, opacity)
    canvas.ring(x, y, SCALE * radius, colour, 5.0 if point.chosen else 2.0)


def _names(canvas: Canvas, points: Sequence[Point], frame: Frame) -> None:
    """Of the chosen one and the front, moved apart where they would overlap."""
    front = plot.front(points)
    named = sorted((p for p in points if p.chosen or p in front), key=lambda p: frame.y(p.y))
    last = 0.0
    for point in named:
        x, y = _at(frame.x(point.x), frame.y(point.y))
        last = y = max(y, last + _GAP)
        away = SCALE * plot.radius(point, points) + 6
        words = f"{point.label} (chosen)" if point.chosen else point.label
        wide = text_width(words, LETTERS)
        left = x + away if x + away + wide < SCALE * (WIDTH - RIGHT) else x - away - wide
        canvas.box(left - 3, y - _GAP / 2, wide + 6, _GAP, (255, 255, 255), 0.75)
        canvas.text(left, y, words, INK, size=LETTERS)


def _legend(canvas: Canvas, groups: Sequence[str]) -> None:
    """Which colour is which runtime, at the upper right."""
    x, y = float(SCALE * (WIDTH - RIGHT)), SCALE * HEAD / 2
    for number, group in reversed(list(enumerate(groups))):
        canvas.text(x, y, group, INK, size=LETTERS, anchor="end")
        x -= text_width(group, LETTERS) + 14
        canvas.disc(x, y, 7, GROUPS[number % len(GROUPS)])
        x -= 30
