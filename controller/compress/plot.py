"""A scatter plot as SVG: cost on a logarithmic axis, quality, size as area, and the front."""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from html import escape

WIDTH, HEIGHT = 860, 430
LEFT, RIGHT, TOP, BOTTOM = 64, 24, 18, 46
LARGEST = 22.0  # radius of the heaviest point, in pixels
AXIS = "p50 latency in ms, one thread"
_STEPS = (1, 2, 5)


@dataclass(frozen=True, slots=True, kw_only=True)
class Point:
    """One variant. ``low`` and ``high`` are the interval of ``y``."""

    label: str
    group: str
    x: float  # above 0
    y: float
    low: float
    high: float
    weight: float
    chosen: bool
    faint: bool  # it does not keep to the budget
    words: str


@dataclass(frozen=True, slots=True, kw_only=True)
class Frame:
    """Values to pixels."""

    x_low: float
    x_high: float
    y_low: float
    y_high: float

    def x(self, value: float) -> float:
        share = math.log(value / self.x_low) / math.log(self.x_high / self.x_low)
        return LEFT + share * (WIDTH - LEFT - RIGHT)

    def y(self, value: float) -> float:
        share = (value - self.y_low) / (self.y_high - self.y_low)
        return HEIGHT - BOTTOM - share * (HEIGHT - TOP - BOTTOM)


def scatter(points: Sequence[Point]) -> str:
    """The picture; a line of text when there is nothing to draw."""
    if not points:
        return "<p>No variant was timed, so there is no picture.</p>"
    placed = frame(points)
    parts = [
        (
            f'<svg viewBox="0 0 {WIDTH} {HEIGHT}" role="group"'
            ' aria-label="Accuracy against latency of all variants">'
        ),
        *_axes(placed),
        _front(points, placed),
        *(_drawn(point, placed, points) for point in sorted(points, key=lambda p: -p.weight)),
        "</svg>",
    ]
    return "\n".join(parts)


def front(points: Sequence[Point]) -> list[Point]:
    """Points that no other beats in both, fastest first."""
    best, kept = -math.inf, []
    for point in sorted(points, key=lambda p: (p.x, -p.y)):
        if point.y > best:
            kept.append(point)
            best = point.y
    return kept


def ticks(low: float, high: float) -> list[float]:
    """1, 2 and 5 times powers of ten between two positive values."""
    first, last = math.floor(math.log10(low)), math.ceil(math.log10(high))
    every = (step * 10.0**power for power in range(first, last + 1) for step in _STEPS)
    return [value for value in every if low <= value <= high]


def frame(points: Sequence[Point]) -> Frame:
    """Axes that hold all points and their intervals."""
    low, high = min(p.low for p in points), max(p.high for p in points)
    margin = max(0.05 * (high - low), 0.1)
    fastest, slowest = min(p.x for p in points), max(p.x for p in points)
    return Frame(
        x_low=fastest / 1.3, x_high=slowest * 1.3, y_low=low - margin, y_high=high + margin
    )


def _axes(frame: Frame) -> Iterator[str]:
    bottom, right = HEIGHT - BOTTOM, WIDTH - RIGHT
    for value in ticks(frame.x_low, frame.x_high):
        x = frame.x(value)
        yield f'<line class="grid" x1="{x:.1f}" y1="{TOP}" x2="{x:.1f}" y2="{bottom}"/>'
        yield f'<text class="tick" x="{x:.1f}" y="{bottom + 18}">{value:g}</text>'
    for value in levels(frame.y_low, frame.y_high):
        y = frame.y(value)
        yield f'<line class="grid" x1="{LEFT}" y1="{y:.1f}" x2="{right}" y2="{y:.1f}"/>'
        yield f'<text class="tick left" x="{LEFT - 8}" y="{y + 4:.1f}">{value:g} %</text>'
    middle = (LEFT + right) / 2
    yield f'<text class="axis" x="{middle:.0f}" y="{HEIGHT - 8}">{AXIS}</text>'


def levels(low: float, high: float) -> list[float]:
    """Round values, about six of them."""
    rough = (high - low) / 6
    power = 10.0 ** math.floor(math.log10(rough))
    step = next((s * power for s in (1, 2, 5, 10) if s * power >= rough), 10 * power)
    first = math.ceil(low / step)
    return [round(i * step, 6) for i in range(first, math.floor(high / step) + 1)]


def corners(points: Sequence[Point], placed: Frame) -> list[tuple[float, float]]:
    """The front as the corners of a line of steps, in pixels."""
    found: list[tuple[float, float]] = []
    for point in front(points):
        x, y = placed.x(point.x), placed.y(point.y)
        if found:
            found.append((x, found[-1][1]))
        found.append((x, y))
    return found


def radius(point: Point, points: Sequence[Point]) -> float:
    """Of a point, in pixels: its area is its weight, beside the heaviest."""
    return max(5.0, LARGEST * math.sqrt(point.weight / max(p.weight for p in points)))


def _front(points: Sequence[Point], placed: Frame) -> str:
    line = " ".join(f"{x:.1f},{y:.1f}" for x, y in corners(points, placed))
    return f'<polyline class="front" points="{line}"/>'


def _drawn(point: Point, frame: Frame, points: Sequence[Point]) -> str:
    x, y = frame.x(point.x), frame.y(point.y)
    size = radius(point, points)
    groups = sorted({p.group for p in points})
    kind = f"point g{groups.index(point.group)}{' faint' * point.faint}{' chosen' * point.chosen}"
    words = escape(point.words, quote=True)
    bar = (
        f'<line class="interval" x1="{x:.1f}" x2="{x:.1f}" y1="{frame.y(point.low):.1f}"'
        f' y2="{frame.y(point.high):.1f}"/>'
    )
    circle = (
        f'<circle class="{kind}" cx="{x:.1f}" cy="{y:.1f}" r="{size:.1f}" tabindex="0"'
        f' role="img" aria-label="{words}"><title>{words}</title></circle>'
    )
    if not point.chosen:
        return bar + circle
    end = x > WIDTH * 0.7
    name = (
        f'<text class="name{" end" * end}" x="{x:.1f}" y="{frame.y(point.low) + 14:.1f}">'
        f"{escape(point.label)}</text>"
    )
    return bar + circle + name
