"""Labels from the field: what became known later of answers that devices gave.

A line says of one answer whether it was right. Lines are kept in pages, one for a device and an
hour, under an id of their own, so that a line that comes again changes nothing and one that was
corrected takes its former's place. What is counted is counted from the page: a tally never drifts
from its lines.
"""

from __future__ import annotations

import datetime as dt
from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from typing import Any

from fitment.core import digest

HOUR_S = 3600
LINES_A_PAGE = 10_000
"""A page is one document; who labels more than that of one device's hour can label a sample."""
KNOWN = (
    "id", "device", "release", "variant", "time", "predicted", "label", "correction", "correct",
    "slice", "must_pass",
)  # fmt: skip
_TEXT_MAX = 200


@dataclass(frozen=True, slots=True, kw_only=True)
class Line:
    """One answer of a device, and what is known of it now."""

    id: str
    at: float  # when it was given, seconds since 1970
    release: str = ""  # as asked for, or found out; empty: not yet
    variant: str = ""
    slice: str = ""  # the part of the data, by the user's names
    right: bool | None = None  # None: only corrected, and people correct only what is wrong
    corrected: bool = False
    must_pass: bool = False  # an answer that must never be wrong


@dataclass(frozen=True, slots=True, kw_only=True)
class LabelPage:
    """All lines of one device and hour."""

    key: str  # "device/start_s"
    device: str
    start_s: int
    lines: Mapping[str, Line] = field(default_factory=dict)  # by id


@dataclass(frozen=True, slots=True, kw_only=True)
class FieldTally:
    """What the lines of one device, hour, release and slice come to."""

    key: str  # "device/start_s/release/slice"
    device: str
    release: str
    variant: str  # digest
    start_s: int
    slice: str = ""  # empty: all lines, whatever their slice
    count: int = 0  # lines that say right or wrong
    right: int = 0
    must: int = 0  # of those that must never be wrong
    must_wrong: int = 0
    corrections: int = 0  # not in ``count``: nobody says how many answers were looked at


@dataclass(frozen=True, slots=True, kw_only=True)
class Posted:
    """What came of labels that were posted."""

    taken: int = 0  # new ones
    changed: int = 0  # that took the place of one with the same id
    known: int = 0  # that were there already, word for word
    fell: tuple[str, ...] = ()  # rollouts that are over and would be halted by what is known now


def page_of(device: str, at: float) -> LabelPage:
    """The empty page that a line belongs on."""
    start = int(at // HOUR_S) * HOUR_S
    return LabelPage(key=f"{device}/{start}", device=device, start_s=start)


def read(given: Mapping[str, Any], now: float) -> Line:
    """One line as it was posted.

    Raises:
        ValueError: what is wrong with it, in words.
    """
    unknown = sorted(set(given) - set(KNOWN))
    if unknown:
        raise ValueError(f"unknown key '{unknown[0]}'; known are {', '.join(KNOWN)}")
    at = _moment(given.get("time"), now)
    right, corrected = _judged(given)
    must = given.get("must_pass", False)
    if must not in (True, False):
        raise ValueError("'must_pass' is true or false")
    name = _text(given, "id") or digest.digest_of({k: v for k, v in given.items() if k != "device"})
    return Line(
        id=name, at=at, release=_text(given, "release"), variant=_text(given, "variant"),
        slice=_text(given, "slice"), right=right, corrected=corrected, must_pass=bool(must),
    )  # fmt: skip


def written(page: LabelPage, lines: Mapping[str, Line]) -> LabelPage:
    """The page with these lines.

    Raises:
        ValueError: there would be too many.
    """
    every = {**page.lines, **lines}
    if len(every) > LINES_A_PAGE:
        raise ValueError(
            f"more than {LINES_A_PAGE} labels of '{page.device}' in one hour: post a sample"
        )
    return replace(page, lines=every)


def tallied(page: LabelPage) -> dict[str, FieldTally]:
    """What a page comes to, by key: of each release in all, and by its slices."""
    found: dict[str, FieldTally] = {}
    for line in page.lines.values():
        for name in dict.fromkeys(("", line.slice)):
            key = f"{page.key}/{line.release}/{name}"
            known = found.get(key) or FieldTally(
                key=key, device=page.device, release=line.release, variant=line.variant,
                start_s=page.start_s, slice=name,
            )  # fmt: skip
            found[key] = _counted(known, line)
    return found


def _counted(tally: FieldTally, line: Line) -> FieldTally:
    judged = line.right is not None
    return replace(
        tally,
        count=tally.count + judged,
        right=tally.right + bool(line.right),
        must=tally.must + (line.must_pass and judged),
        must_wrong=tally.must_wrong + (line.must_pass and line.right is False),
        corrections=tally.corrections + line.corrected,
    )


def _moment(given: Any, now: float) -> float:
    if isinstance(given, str):
        try:
            moment = dt.datetime.fromisoformat(given)
        except ValueError:
            raise ValueError(f"'time' {given!r} is no ISO 8601 time") from None
        if moment.tzinfo is None:
            raise ValueError(f"'time' {given!r} has no zone: add 'Z' or '+02:00'")
        given = moment.timestamp()
    if isinstance(given, bool) or not isinstance(given, int | float) or not abs(given) < 1e15:
        raise ValueError("'time' is when the answer was given: seconds since 1970, or ISO 8601")
    if not 0 < given <= now + 300:
        unit = "; it is in seconds, not in milliseconds" if given > 100 * now else ""
        raise ValueError(
            f"'time' {given:.0f} is not between 1970 and now, which is {now:.0f}{unit}"
        )
    return float(given)


def _judged(given: Mapping[str, Any]) -> tuple[bool | None, bool]:
    """Whether it was right, and whether somebody corrected it."""
    ways = [key for key in ("label", "correct", "correction") if given.get(key) is not None]
    if len(ways) != 1:
        raise ValueError("a line has one of 'label' (with 'predicted'), 'correct', 'correction'")
    value, predicted = given[ways[0]], given.get("predicted")
    if ways[0] == "correct":
        if not isinstance(value, bool):
            raise ValueError("'correct' is true or false")
        return value, False
    if predicted is not None:
        same = _same(ways[0], value) == _same("predicted", predicted)
        return (same, False) if ways[0] == "label" else (None, not same)
    if ways[0] == "label":
        raise ValueError("a 'label' needs what was 'predicted' beside it")
    return None, True


def _same(key: str, value: Any) -> str:
    """As text, so that 3, 3.0 and "3" are one class."""
    if isinstance(value, bool | str):
        return str(value).strip()
    if isinstance(value, int | float) and abs(value) < 1e15:
        return str(int(value)) if value == int(value) else repr(value)
    raise ValueError(f"'{key}' is a class: a text or a number")


def _text(given: Mapping[str, Any], key: str) -> str:
    value = given.get(key) or ""
    if not isinstance(value, str) or len(value) > _TEXT_MAX:
        raise ValueError(f"'{key}' is a text of at most {_TEXT_MAX} characters")
    return value
