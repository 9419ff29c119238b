"""Small charts as SVG: they follow the page's colours and need no library."""

from __future__ import annotations

import math
from collections.abc import Sequence

from controller.dashboard.draw.markup import Html, Part, tag, value
from controller.dashboard.views import words
from controller.dashboard.views.twin import Series
from controller.dashboard.views.workbench import Bubble

_W, _H, _PAD = 280, 64, 4
_BW, _BH = 440, 290
_LEFT, _RIGHT, _TOP, _BOTTOM = 58, 14, 20, 40


def sparkline(series: Series) -> Html:
    """A quantity over time, with its lowest and highest value in words."""
    caption = tag("figcaption", tag("span", series.name), " ", value(series.newest))
    if len(series.points) < 2:
        return tag("figure", caption, class_="spark")
    values = [y for _, y in series.points]
    low, high = min(values), max(values)
    spread = (high - low) or 1.0
    first, last = series.points[0][0], series.points[-1][0]
    line = " ".join(
        f"{_PAD + (_W - 2 * _PAD) * (at - first) / ((last - first) or 1.0):.1f},"
        f"{_H - _PAD - (_H - 2 * _PAD) * ((y - low) / spread if high > low else 0.5):.1f}"
        for at, y in series.points
    )
    span = f"{last - first:.0f} s" if last - first < 120 else f"{(last - first) / 60:.0f} min"
    words_ = f"{low:.4g} to {high:.4g}, {len(values)} samples in {span}"
    drawing = tag(
        "svg", tag("title", f"{series.name}: {words_}"),
        tag("polyline", points=line, class_="line", fill="none"),
        viewBox=f"0 0 {_W} {_H}", role="img", preserveAspectRatio="none",
        aria_label=f"{series.name}: {words_}",
    )  # fmt: skip
    return tag("figure", caption, drawing, tag("small", words_, class_="note"), class_="spark")


def pareto(bubbles: Sequence[Bubble], unplaced: int) -> Html:
    """Accuracy against latency on a log axis; the area of a bubble is the file's size."""
    if not bubbles:
        why = "No candidate has both an accuracy and a latency yet."
        return tag("p", why, class_="empty")
    frame = _Frame(bubbles)
    parts: list[Part] = [tag("title", _spoken(bubbles)), *frame.axes()]
    front = sorted((b for b in bubbles if b.front), key=lambda b: b.latency_ms)
    if len(front) > 1:
        points = " ".join(f"{frame.x(b.latency_ms):.1f},{frame.y(b.accuracy):.1f}" for b in front)
        parts.append(tag("polyline", points=points, class_="front", fill="none"))
    parts += [frame.bubble(b) for b in sorted(bubbles, key=lambda b: -b.file_bytes)]
    parts += frame.labels(bubbles)
    drawing = tag("svg", parts, viewBox=f"0 0 {_BW} {_BH}", role="img", aria_label=_spoken(bubbles))
    note = f"Area: file size. Line: the front. Latency {bubbles[0].kind}, logarithmic."
    if unplaced:
        note += f" {unplaced} without such a latency or accuracy are not drawn."
    caption = tag("figcaption", tag("small", note, class_="note"))
    return tag("figure", drawing, caption, class_="pareto")


class _Frame:
    """Where things lie in the picture."""

    def __init__(self, bubbles: Sequence[Bubble]) -> None:
        times = [b.latency_ms for b in bubbles]
        rights = [b.accuracy for b in bubbles]
        self._x0, self._x1 = math.log10(min(times) / 1.25), math.log10(max(times) * 1.25)
        reach = max((max(rights) - min(rights)) * 0.25, 0.001)
        self._y0, self._y1 = min(rights) - reach, max(rights) + reach
        self._most = max(b.file_bytes for b in bubbles) or 1

    def x(self, ms: float) -> float:
        """From milliseconds."""
        share = (math.log10(ms) - self._x0) / (self._x1 - self._x0)
        return _LEFT + share * (_BW - _LEFT - _RIGHT)

    def y(self, accuracy: float) -> float:
        """From a share."""
        share = (accuracy - self._y0) / (self._y1 - self._y0)
        return _BH - _BOTTOM - share * (_BH - _TOP - _BOTTOM)

    def bubble(self, bubble: Bubble) -> Html:
        """One candidate."""
        radius = 4 + 12 * math.sqrt(bubble.file_bytes / self._most)
        kind = "chosen" if bubble.chosen else "front" if bubble.front else "behind"
        said = (
            f"{bubble.name}: {bubble.accuracy:.2%}, {bubble.latency_ms:.3f} ms {bubble.kind},"
            f" {words.size(bubble.file_bytes, '').text}{', chosen' * bubble.chosen}"
        )
        x, y = self.x(bubble.latency_ms), self.y(bubble.accuracy)
        return tag(
            "g", tag("title", said),
            tag("circle", cx=f"{x:.1f}", cy=f"{y:.1f}", r=f"{radius:.1f}", class_=f"bubble {kind}"),
        )  # fmt: skip

    def labels(self, bubbles: Sequence[Bubble]) -> list[Html]:
        """Names of the chosen one and the front, moved apart where they would overlap."""
        named = sorted(
            (b for b in bubbles if b.chosen or b.front), key=lambda b: self.y(b.accuracy)
        )
        made, last = [], -100.0
        for bubble in named:
            x, y = self.x(bubble.latency_ms), self.y(bubble.accuracy)
            y = max(y + 4, last + 15)
            last = y
            right = x < _BW * 0.6
            away = 7 + 12 * math.sqrt(bubble.file_bytes / self._most)
            made.append(
                tag("text", bubble.name + (" ✓" if bubble.chosen else ""),
                    x=f"{x + (away if right else -away):.1f}", y=f"{y:.1f}",
                    text_anchor="start" if right else "end", class_="name")
            )  # fmt: skip
        return made

    def axes(self) -> list[Html]:
        """Lines and their numbers."""
        made = []
        for share in (0.0, 0.5, 1.0):
            accuracy = self._y0 + share * (self._y1 - self._y0)
            y = self.y(accuracy)
            made.append(tag("line", x1=_LEFT, x2=_BW - _RIGHT, y1=f"{y:.1f}", y2=f"{y:.1f}", class_="grid"))  # noqa: E501  # fmt: skip
            made.append(tag("text", f"{accuracy:.1%}", x=_LEFT - 8, y=f"{y + 4:.1f}", text_anchor="end"))  # noqa: E501  # fmt: skip
            ms = 10 ** (self._x0 + share * (self._x1 - self._x0))
            x = self.x(ms)
            anchor = "start" if share == 0.0 else "end" if share == 1.0 else "middle"
            made.append(tag("text", f"{ms:.3g} ms", x=f"{x:.1f}", y=_BH - _BOTTOM + 18, text_anchor=anchor))  # noqa: E501  # fmt: skip
        made.append(tag("text", "latency →", x=_BW - _RIGHT, y=_BH - 6, text_anchor="end"))
        made.append(tag("text", "↑ accuracy", x=_LEFT, y=13, text_anchor="start"))
        return made


def _spoken(bubbles: Sequence[Bubble]) -> str:
    best = [b.name for b in bubbles if b.front]
    chosen = [b.name for b in bubbles if b.chosen]
    return (
        f"{len(bubbles)} candidates, accuracy against {bubbles[0].kind} latency;"
        f" on the front: {', '.join(best)}; chosen: {', '.join(chosen) or 'none'}"
    )
