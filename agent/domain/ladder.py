"""Which rung of a slot's ladder serves: the chosen variant, or a lesser one, and why.

A rung that does not run here gives way at once. Short of heat, battery or memory, the slot steps
down to a rung that relieves it, and comes back when that is over. Three things keep it from
swinging: limits to enter and to leave lie apart, every change under pressure is followed by a
pause, and a way back that did not hold doubles the calm that the next one needs. A sensor that
says nothing never makes it step down.
"""

from __future__ import annotations

import enum
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Final

from fitment.core.deployment import Pressure

MOST_CALM_S: Final = 3600.0
"""The calm that is asked for before a way back never grows beyond this."""


class Health(enum.Enum):
    """What is known of one rung on this device and stack."""

    GOOD = "good"  # it is there, and answered its goldens
    UNKNOWN = "unknown"  # it is there, and is being asked
    BAD = "bad"  # it is not there, does not load, or answers wrongly


class Place(enum.Enum):
    """On which stack a rung may serve."""

    ANYWHERE = "anywhere"  # on any
    HERE = "here"  # it is for the stack of this moment, and comes first on it
    ELSEWHERE = "elsewhere"  # it is for another stack, and never serves on this one


@dataclass(frozen=True, slots=True, kw_only=True)
class Rung:
    """One variant of a slot; the first of a ladder is the chosen one."""

    health: Health
    relieves: frozenset[Pressure] = frozenset()
    why: str = ""  # it is bad
    place: Place = Place.ANYWHERE


@dataclass(frozen=True, slots=True, kw_only=True)
class Readings:
    """What the sensors say; None where there is none."""

    temperature_c: float | None = None
    throttle_c: float | None = None  # at which clocks are cut
    throttled: bool | None = None  # they are being cut
    battery_percent: float | None = None
    discharging: bool | None = None
    memory_stall_percent: float | None = None  # of the last ten seconds, some task waited
    memory_available_share: float | None = None  # of all memory, 0..1


@dataclass(frozen=True, slots=True, kw_only=True)
class Limits:
    """When a pressure begins and ends, and how long a rung is kept."""

    heat_enter_below_k: float = 2.0  # kelvin below the throttle point
    heat_leave_below_k: float = 10.0
    battery_enter_percent: float = 20.0
    battery_leave_percent: float = 30.0
    stall_enter_percent: float = 10.0
    stall_leave_percent: float = 2.0
    available_enter_share: float = 0.05
    available_leave_share: float = 0.12
    dwell_s: float = 60.0  # between two changes that a pressure makes
    calm_s: float = 120.0  # without a pressure before the way back


@dataclass(frozen=True, slots=True, kw_only=True)
class Standing:
    """Where a slot stands. Times are of the caller's monotonic clock."""

    rung: int = 0
    reason: str = ""
    pressed: bool = False  # a pressure brought it here, not a rung that failed
    pressures: frozenset[Pressure] = frozenset()  # under way, with their hysteresis
    changed_s: float | None = None  # when a pressure, or its end, changed the rung last
    calm_since_s: float | None = None
    returned_s: float | None = None  # when it last came back from a pressure
    strikes: int = 0  # ways back that did not hold, in a row


def step(
    before: Standing, ladder: Sequence[Rung], readings: Readings, limits: Limits, now_s: float
) -> Standing:
    """Where the slot stands now.

    Args:
        before: what `step` said last.
        ladder: the chosen variant and the lesser ones, from first to last.
        readings: of this moment.
        limits: what an operator set.
        now_s: monotonic.

    A rung that is for the stack of now takes the chosen one's place, as long as it is not known to
    be bad: it was tested on this stack before the device had it, and the chosen one was not.
    """
    order = _order(ladder)
    moved = _moved(before, ladder, order)
    place = order.index(moved.rung) if moved.rung in order else moved.rung
    after = _step(
        replace(moved, rung=place), [_here(ladder[n]) for n in order], order, readings, limits,
        now_s,
    )  # fmt: skip
    return replace(after, rung=order[after.rung])


def _order(ladder: Sequence[Rung]) -> list[int]:
    """Numbers of the rungs, the best for this stack first."""
    first = [n for n, rung in enumerate(ladder) if _leads(rung)]
    return first + [n for n in range(len(ladder)) if n not in first]


def _leads(rung: Rung) -> bool:
    return rung.place is Place.HERE and rung.health is not Health.BAD


def _here(rung: Rung) -> Rung:
    """As it counts on this stack."""
    if rung.place is Place.ELSEWHERE:
        return replace(rung, health=Health.BAD, why="it is for another stack")
    return replace(rung, health=Health.GOOD) if _leads(rung) else rung


def _moved(before: Standing, ladder: Sequence[Rung], order: Sequence[int]) -> Standing:
    """Where the stack itself leads: away from what is for another, to what is for this one."""
    stands = before.rung < len(ladder)
    strays = stands and ladder[before.rung].place is Place.ELSEWHERE
    first = order[0] if order else 0
    leads = stands and _leads(ladder[first]) and before.rung != first and not before.pressed
    if not (strays or leads):
        return before
    reason = f"rung {first} was made for this stack" if ladder[first].place is Place.HERE else ""
    return replace(before, rung=first, reason=reason, pressed=False)


def _step(
    before: Standing, ladder: Sequence[Rung], order: Sequence[int], readings: Readings,
    limits: Limits, now_s: float,
) -> Standing:  # fmt: skip
    """`step` by places instead of numbers: ``order`` has the number at each place."""
    pressures = felt(before.pressures, readings, limits)
    calm_s = before.calm_since_s if before.calm_since_s is not None else now_s
    now = replace(before, pressures=pressures, calm_since_s=None if pressures else calm_s)
    if not _stands(ladder, now.rung):
        return _fall(now, ladder, order)
    if pressures:
        return _down(now, ladder, readings, limits, now_s)
    return _back(now, ladder, order, limits, now_s)


def felt(before: frozenset[Pressure], readings: Readings, limits: Limits) -> frozenset[Pressure]:
    """The pressures that are under way: begun at the one limit and not over by the other."""
    begun = acute(readings, limits)
    return begun | {p for p in before if not _OVER[p](readings, limits)}


def acute(readings: Readings, limits: Limits) -> frozenset[Pressure]:
    """The pressures whose limit to enter is reached right now."""
    return frozenset(p for p, begins in _BEGINS.items() if begins(readings, limits))


def _heat_begins(now: Readings, limits: Limits) -> bool:
    below_k = _below_k(now)
    return now.throttled is True or (below_k is not None and below_k <= limits.heat_enter_below_k)


def _heat_over(now: Readings, limits: Limits) -> bool:
    below_k = _below_k(now)
    return now.throttled is not True and (below_k is None or below_k >= limits.heat_leave_below_k)


def _below_k(now: Readings) -> float | None:
    if now.temperature_c is None or now.throttle_c is None:
        return None
    return now.throttle_c - now.temperature_c


def _battery_begins(now: Readings, limits: Limits) -> bool:
    low = now.battery_percent is not None and now.battery_percent <= limits.battery_enter_percent
    return low and now.discharging is True


def _battery_over(now: Readings, limits: Limits) -> bool:
    left = now.battery_percent
    return now.discharging is not True or left is None or left >= limits.battery_leave_percent


def _memory_begins(now: Readings, limits: Limits) -> bool:
    stall, share = now.memory_stall_percent, now.memory_available_share
    return (stall is not None and stall >= limits.stall_enter_percent) or (
        share is not None and share <= limits.available_enter_share
    )


def _memory_over(now: Readings, limits: Limits) -> bool:
    stall, share = now.memory_stall_percent, now.memory_available_share
    return (stall is None or stall <= limits.stall_leave_percent) and (
        share is None or share >= limits.available_leave_share
    )


_BEGINS: Final = {
    Pressure.HEAT: _heat_begins,
    Pressure.BATTERY: _battery_begins,
    Pressure.MEMORY: _memory_begins,
}
_OVER: Final = {
    Pressure.HEAT: _heat_over,
    Pressure.BATTERY: _battery_over,
    Pressure.MEMORY: _memory_over,
}


def _stands(ladder: Sequence[Rung], rung: int) -> bool:
    return rung < len(ladder) and ladder[rung].health is not Health.BAD


def _good(ladder: Sequence[Rung]) -> list[int]:
    return [n for n, rung in enumerate(ladder) if rung.health is Health.GOOD]


def _fall(now: Standing, ladder: Sequence[Rung], order: Sequence[int]) -> Standing:
    """What serves does not run here: the next best at once, for waiting mends nothing."""
    good = _good(ladder)
    relieving = [n for n in good if ladder[n].relieves & now.pressures]
    target = (relieving or good or [0])[0]
    if target == now.rung:
        return now
    why = ladder[now.rung].why if now.rung < len(ladder) else ""
    name = order[now.rung] if now.rung < len(order) else now.rung
    reason = f"rung {name} gave way: {why or 'it is no longer there'}"
    return replace(now, rung=target, reason=reason, pressed=target in relieving and target > 0)


def _down(
    now: Standing, ladder: Sequence[Rung], readings: Readings, limits: Limits, now_s: float
) -> Standing:
    """A rung that relieves what is short; one further where the limit is still exceeded."""
    if not _rested(now, limits, now_s):
        return now
    wanted = now.pressures
    if ladder[now.rung].relieves & wanted:
        wanted = acute(readings, limits)
    below = [n for n in _good(ladder) if n > now.rung and ladder[n].relieves & wanted]
    if not below:
        return now
    strikes = now.strikes
    if now.rung == 0 or not now.pressed:  # this way down is a new one
        soon = now.returned_s is not None and now_s - now.returned_s < MOST_CALM_S
        strikes = strikes + 1 if soon else 0
    return replace(
        now, rung=below[0], reason=words(wanted & ladder[below[0]].relieves, readings),
        pressed=True, changed_s=now_s, strikes=strikes,
    )  # fmt: skip


def _back(
    now: Standing, ladder: Sequence[Rung], order: Sequence[int], limits: Limits, now_s: float
) -> Standing:
    """The best rung that runs; after a pressure only once it has been calm for long enough."""
    best = min(_good(ladder), default=now.rung)
    if best >= now.rung:
        return now
    if ladder[0].health is not Health.GOOD:
        reason = f"rung {order[0]} gave way: {ladder[0].why or 'it is being checked'}"
    else:
        reason = ""
    if not now.pressed:
        return replace(now, rung=best, reason=reason)
    calm_s = now_s - (now.calm_since_s if now.calm_since_s is not None else now_s)
    if calm_s < calm_needed_s(now, limits) or not _rested(now, limits, now_s):
        return now
    return replace(
        now, rung=best, reason=reason or "the pressure is over", pressed=False,
        changed_s=now_s, returned_s=now_s,
    )  # fmt: skip


def calm_needed_s(now: Standing, limits: Limits) -> float:
    """Seconds without a pressure before the way back: doubled by each that did not hold."""
    return max(limits.calm_s, min(MOST_CALM_S, limits.calm_s * 2.0 ** min(now.strikes, 16)))


def _rested(now: Standing, limits: Limits, now_s: float) -> bool:
    return now.changed_s is None or now_s - now.changed_s >= limits.dwell_s


def words(pressures: frozenset[Pressure], now: Readings) -> str:
    """The pressures as a sentence, with the numbers that there are."""
    said: Mapping[Pressure, tuple[str, ...]] = {
        Pressure.HEAT: (
            _with("{:.1f} °C", now.temperature_c),
            _with("clocks are cut at {:.1f}", now.throttle_c),
            "clocks are being cut" if now.throttled else "",
        ),
        Pressure.BATTERY: (_with("{:.0f} % left", now.battery_percent), "discharging"),
        Pressure.MEMORY: (
            _with("tasks waited {:.1f} % of the time", now.memory_stall_percent),
            _with("{:.1%} is available", now.memory_available_share),
        ),
    }
    return "; ".join(
        f"{pressure.value}: {', '.join(part for part in parts if part)}"
        for pressure, parts in said.items()
        if pressure in pressures
    )


def _with(text: str, value: float | None) -> str:
    return "" if value is None else text.format(value)
