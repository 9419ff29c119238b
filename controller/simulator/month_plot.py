"""A month as a picture: what each policy had lost, and how often it had fitted, day by day."""

from __future__ import annotations

import itertools
import math
from collections.abc import Sequence
from html import escape

from controller.simulator import climate
from controller.simulator.month import MonthResult

WIDTH, HEIGHT = 880, 400
_PANEL, _LEFT, _TOP, _BOTTOM, _GAP = 340.0, 70.0, 46.0, 60.0, 96.0
_COLOURS = {"ours": "#0b6e4f", "never": "#b3541e", "every report": "#3d5a98"}
_DASHES = {"ours": "", "never": "7 4", "every report": "2 3"}


def picture(results: Sequence[MonthResult]) -> str:
    """An SVG of two panels; a thin line a seed, and all of a policy in one style.

    Regret is on a plain axis, refits on a logarithmic one, and what befell is marked.
    """
    parts = [
        (
            f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {WIDTH} {HEIGHT}" role="img"'
            ' font-family="sans-serif" font-size="12">'
        ),
        "<title>A modelled month: regret and refits of three policies</title>",
        f'<rect width="{WIDTH}" height="{HEIGHT}" fill="#fff"/>',
        *_panel(results, 0, "regret so far, points × device-hours", "regret_by_day", log=False),
        *_panel(results, 1, "refits so far (logarithmic)", "refits_by_day", log=True),
        *_legend(),
        "</svg>",
    ]
    return "\n".join(parts) + "\n"


def _panel(
    results: Sequence[MonthResult], place: int, title: str, field: str, *, log: bool
) -> list[str]:
    lines = [(r.policy, tuple(itertools.accumulate(getattr(r, field)))) for r in results]
    top = max((values[-1] for _, values in lines if values), default=1.0) or 1.0
    left, height = _LEFT + place * (_PANEL + _GAP), HEIGHT - _TOP - _BOTTOM

    def x(day: float) -> float:
        return left + day / climate.DAYS * _PANEL

    def y(value: float) -> float:
        share = math.log1p(value) / math.log1p(top) if log else value / top
        return _TOP + (1.0 - share) * height

    parts = [f'<text x="{left}" y="{_TOP - 16}" font-weight="bold">{escape(title)}</text>']
    for value in _ticks(top, log=log):
        parts.append(f'<path d="M{left} {y(value):.1f}h{_PANEL}" stroke="#ddd"/>')
        parts.append(
            f'<text x="{left - 6}" y="{y(value) + 4:.1f}" text-anchor="end">{value:g}</text>'
        )
    parts += [
        f'<text x="{x(day):.1f}" y="{HEIGHT - _BOTTOM + 18}" text-anchor="middle">{day}</text>'
        for day in range(0, climate.DAYS + 1, 5)
    ]
    parts += [
        f'<path d="M{x(event.day):.1f} {_TOP}v{height}" stroke="#999" stroke-dasharray="1 4">'
        f"<title>{escape(event.says)}</title></path>"
        for event in climate.SHARED
    ]
    for policy, values in lines:
        way = " ".join(f"{x(d + 1):.1f},{y(v):.1f}" for d, v in enumerate(values))
        parts.append(
            f'<polyline points="{x(0):.1f},{y(0.0):.1f} {way}" fill="none" stroke-width="1.6"'
            f' stroke="{_COLOURS[policy]}" stroke-dasharray="{_DASHES[policy]}"/>'
        )
    return parts


def _ticks(top: float, *, log: bool) -> list[float]:
    if log:
        return [10.0**power for power in range(int(math.log10(top)) + 1)] if top >= 1 else [0.0]
    step = 10.0 ** math.floor(math.log10(top))
    step = step / 2 if top / step < 3 else step
    return [step * n for n in range(int(top / step) + 1)]


def _legend() -> list[str]:
    parts = []
    for place, (policy, colour) in enumerate(_COLOURS.items()):
        at = _LEFT + 150.0 * place
        parts.append(
            f'<path d="M{at} {HEIGHT - 16}h34" stroke="{colour}" stroke-width="2"'
            f' stroke-dasharray="{_DASHES[policy]}"/>'
            f'<text x="{at + 40}" y="{HEIGHT - 12}">{policy}</text>'
        )
    parts.append(
        f'<text x="{WIDTH - 16}" y="{HEIGHT - 12}" text-anchor="end" fill="#555">days; a line a'
        " seed; dotted: something befell all of a class</text>"
    )
    return parts
