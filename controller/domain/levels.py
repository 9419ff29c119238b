"""How fast devices are beside how they began, at the same temperature, and what that asks for.

A device's *shift* is the logarithm of how its latency now relates to that of its first days with
the variant; 0.18 is 20 % slower. It is taken in whole (what users see) and at the same heat (what
has changed that is not the weather), over the last windows one by one. A cohort's shift is the
median of its devices', window by window, so a window that no sensor filled says nothing.

A device that differs from its cohort alone is a case for service. What all share is one for a fit.
Everything asked for must hold in every window; what it is compared with next time is the shift at
which it was answered. So noise around a level asks for nothing twice.
"""

from __future__ import annotations

import math
import statistics
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass

from controller.domain.telemetry import Rollup, added
from fitment.core.telemetry import Column, TelemetryBatch

HEAT_STEP_C = 5
"""Width of a bin of temperatures."""
NO_SENSOR = "x"
"""Bin of samples without a temperature."""
_PREFIX = "level."
_VARIANT = 12  # digits of a digest in a quantity's name


@dataclass(frozen=True, slots=True, kw_only=True)
class Rules:
    """When a difference is one. Shares are of the latency."""

    window_s: float = 6 * 3600.0
    windows: int = 3  # in a row: three quarters of a day, so neither noon nor night decides alone
    baseline_s: float = 2 * 86400.0  # after the variant was committed
    least_samples: int = 5  # of a window (its edges cut an hourly one), and twice of the baseline
    alone: float = 0.2  # above its cohort: a ticket
    alone_spreads: float = 4.0  # and so many robust standard deviations of the cohort
    together: float = 0.2  # of a cohort at the same heat: a trigger
    moved_least: float = 0.1  # what half of the devices must have moved for it to be shared
    peers: int = 3  # devices that it takes to tell alone from together
    over: float = 0.05  # above the budget's latency before it counts as missed
    back: float = 0.5  # of a threshold below which it is over


@dataclass(frozen=True, slots=True, kw_only=True)
class Window:
    """One span of one device: its shift in whole and at the same heat, None where unknown."""

    whole: float | None = None
    same_heat: float | None = None
    level_ms: float | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class Standing:
    """How one device does beside its baseline; windows newest first."""

    device: str
    base_ms: float
    windows: tuple[Window, ...]
    since: float = 0.0  # when its baseline began

    @property
    def shift(self) -> float | None:
        """The newest one in whole."""
        return self.windows[0].whole if self.windows else None


@dataclass(frozen=True, slots=True, kw_only=True)
class Shift:
    """What the devices of a cohort share in each window, newest first."""

    devices: int
    whole: tuple[float | None, ...]
    same_heat: tuple[float | None, ...]
    spread: tuple[float, ...]  # robust standard deviation of `whole`
    moved: float = 0.0  # share of devices that moved at the same heat, in the cohort's direction


@dataclass(frozen=True, slots=True, kw_only=True)
class Alone:
    """By how much a device lies above its cohort in every window; the least of them."""

    above: float
    own: float  # its own shift, newest window
    shared: float  # the cohort's
    peers: int


def quantity(slot: str, variant: str) -> str:
    """How quantities of a variant's latency begin; what follows is rung and bin."""
    return f"{_PREFIX}{slot}.{variant.removeprefix('sha256:')[:_VARIANT]}."


def binned(batch: TelemetryBatch) -> TelemetryBatch:
    """The batch with a column for each latency, named by what served, its rung and the heat.

    Rollups of such columns are told apart by all of that, and add up like any others.
    """
    more: dict[str, list[float]] = {}
    rows = len(batch.wall_unix_ns)
    heats = _values(batch, "temperature_c", rows)
    for name, column in batch.columns.items():
        slot = name.removeprefix("serving.").removesuffix(".latency_p50_ms")
        if name != f"serving.{slot}.latency_p50_ms" or len(column.values) != rows:
            continue
        served = _served(batch.tags, slot)
        if served is None:
            continue
        for row, (value, heat) in enumerate(zip(column.values, heats, strict=True)):
            named = f"{quantity(slot, served[0])}{served[1]}.{heat_bin(heat)}"
            more.setdefault(named, [math.nan] * rows)[row] = value
    if not more:
        return batch
    columns = {name: Column(values=tuple(values)) for name, values in more.items()}
    return TelemetryBatch(
        outbox=batch.outbox, sequence=batch.sequence, first_available=batch.first_available,
        boot_id=batch.boot_id, monotonic_ns=batch.monotonic_ns, wall_unix_ns=batch.wall_unix_ns,
        columns={**batch.columns, **columns}, tags=batch.tags,
    )  # fmt: skip


def _served(tags: Mapping[str, str], slot: str) -> tuple[str, str] | None:
    """Variant and rung that served a slot, as the device tagged its samples."""
    if f"{slot}.variant" in tags:
        return tags[f"{slot}.variant"], tags.get(f"{slot}.rung", "0")
    if tags.get("slot") == slot and tags.get("variant"):
        return tags["variant"], tags.get("rung", "0")
    return None


def _values(batch: TelemetryBatch, name: str, rows: int) -> Sequence[float]:
    found = batch.columns.get(name)
    values = found.values if found is not None else ()
    return values if len(values) == rows else [math.nan] * rows


def heat_bin(celsius: float) -> str:
    """``60`` for 60 to 65 degrees; `NO_SENSOR` without a reading."""
    if not math.isfinite(celsius):
        return NO_SENSOR
    return str(math.floor(celsius / HEAT_STEP_C) * HEAT_STEP_C)


def standing(
    device: str, baseline: Iterable[Rollup], recent: Iterable[Rollup], *, now: float,
    rules: Rules, since: float = 0.0,
) -> Standing | None:  # fmt: skip
    """How a device does, from rollups of one variant; None while its baseline is being learnt.

    Args:
        device: its name.
        baseline: of its first days with the variant.
        recent: by hour, of at least the last ``rules.windows`` windows.
        now: the time.
        rules: when a difference is one.
        since: when it committed the variant.
    """
    before = _by_heat(baseline)
    base = _median(before.values())
    if base is None or sum(r.count for r in before.values()) < 2 * rules.least_samples:
        return None
    spans: list[list[Rollup]] = [[] for _ in range(rules.windows)]
    for rollup in recent:
        place = math.ceil((now - rollup.start_s) / rules.window_s) - 1
        if 0 <= place < rules.windows:
            spans[place].append(rollup)
    windows = tuple(_window(before, base, span, rules) for span in spans)
    return Standing(device=device, base_ms=base, windows=windows, since=since)


def _window(
    before: Mapping[str, Rollup], base: float, span: Sequence[Rollup], rules: Rules
) -> Window:
    now = _by_heat(span)
    count = sum(r.count for r in now.values())
    level = _median(now.values())
    if level is None or count < rules.least_samples or level <= 0:
        return Window()
    both = [
        (math.log(now[heat].quantile(0.5) / before[heat].quantile(0.5)), now[heat].count)
        for heat in now
        if heat in before and min(now[heat].least, before[heat].least) > 0
    ]
    covered = sum(weight for _, weight in both)
    same = sum(shift * weight for shift, weight in both) / covered if covered else None
    return Window(
        whole=math.log(level / base), level_ms=level,
        same_heat=same if 2 * covered >= count else None,
    )  # fmt: skip


def _by_heat(rollups: Iterable[Rollup]) -> dict[str, Rollup]:
    """Pooled by bin; only of the chosen variant itself, which is rung 0."""
    found: dict[str, Rollup] = {}
    for rollup in rollups:
        _, rung, heat = rollup.quantity.rsplit(".", 2)
        if rung == "0":
            found[heat] = added(found[heat], rollup) if heat in found else rollup
    return found


def _median(rollups: Iterable[Rollup]) -> float | None:
    pooled: Rollup | None = None
    for rollup in rollups:
        pooled = rollup if pooled is None else added(pooled, rollup)
    if pooled is None or pooled.least <= 0:
        return None
    return pooled.quantile(0.5)


def together(standings: Sequence[Standing], rules: Rules) -> Shift:
    """What the devices share: medians, window by window."""
    whole, same, spread = [], [], []
    for place in range(rules.windows):
        seen = [w for s in standings for w in s.windows[place : place + 1]]
        known = [w.whole for w in seen if w.whole is not None]
        heats = [w.same_heat for w in seen if w.same_heat is not None]
        middle = statistics.median(known) if known else None
        whole.append(middle)
        # Half of the devices must have been as warm before, or nothing is said of the cohort.
        same.append(statistics.median(heats) if heats and 2 * len(heats) >= len(known) else None)
        spread.append(_spread(known, middle))
    return Shift(
        devices=len(standings), whole=tuple(whole), same_heat=tuple(same), spread=tuple(spread),
        moved=_moved(standings, same, rules),
    )  # fmt: skip


def _spread(values: Sequence[float], middle: float | None) -> float:
    """Median absolute deviation, as a standard deviation."""
    if middle is None:
        return 0.0
    return 1.4826 * statistics.median(abs(value - middle) for value in values)


def _moved(standings: Sequence[Standing], same: Sequence[float | None], rules: Rules) -> float:
    newest = same[0] if same else None
    if newest is None or not standings:
        return 0.0
    least, sign = math.log1p(rules.moved_least), math.copysign(1.0, newest)
    own = [s.windows[0].same_heat for s in standings if s.windows]
    known = [value for value in own if value is not None]
    return sum(sign * value >= least for value in known) / len(known) if known else 0.0


def alone(one: Standing, shared: Shift, rules: Rules) -> Alone | None:
    """By how much a device is slower than its cohort has become, where that is a service case."""
    excess = _excess(one, shared, rules)
    if excess is None or not one.windows or one.windows[0].whole is None:
        return None
    for above, spread in zip(excess, shared.spread, strict=True):
        if above <= max(math.log1p(rules.alone), rules.alone_spreads * spread):
            return None
    return Alone(
        above=min(excess), own=one.windows[0].whole, shared=shared.whole[0] or 0.0,
        peers=shared.devices - 1,
    )  # fmt: skip


def is_like(one: Standing, others: Sequence[Standing], rules: Rules) -> bool:
    """Whether a device is as fast as others that run the same; False where none is known."""
    known = [s.windows[0].level_ms for s in others if s.device != one.device and s.windows]
    levels = [level for level in known if level]
    own = one.windows[0].level_ms if one.windows else None
    if own is None or len(levels) < rules.peers - 1:
        return False
    return math.log(own / statistics.median(levels)) < math.log1p(rules.alone)


def is_back(one: Standing, shared: Shift, rules: Rules) -> bool:
    """Whether a device does again as its cohort does, in every window."""
    excess = _excess(one, shared, rules)
    limit = rules.back * math.log1p(rules.alone)
    return excess is not None and all(above < limit for above in excess)


def _excess(one: Standing, shared: Shift, rules: Rules) -> list[float] | None:
    """Above the cohort, window by window; None where one is not known. Few peers are none."""
    found = []
    for window, middle in zip(one.windows, shared.whole, strict=False):
        if window.whole is None:
            return None
        found.append(window.whole - (middle or 0.0 if shared.devices >= rules.peers else 0.0))
    return found if len(found) == rules.windows else None


@dataclass(frozen=True, slots=True, kw_only=True)
class Steady:
    """A shift that held in every window, the least of them in its direction."""

    whole: float | None = None
    same_heat: float | None = None
    middle: float = 0.0  # of the windows, in whole: the best guess at the level itself
    devices: int = 0
    moved: float = 0.0


def steady(shared: Shift) -> Steady:
    """What of a cohort's shift held in every window; None where its direction changed."""
    known = [value for value in shared.whole if value is not None]
    return Steady(
        whole=_least(shared.whole), same_heat=_least(shared.same_heat), devices=shared.devices,
        moved=shared.moved, middle=statistics.median(known) if known else 0.0,
    )  # fmt: skip


def _least(values: Sequence[float | None]) -> float | None:
    known = [value for value in values if value is not None]
    if not known or len(known) < len(values):
        return None
    if min(known) >= 0:
        return min(known)
    return max(known) if max(known) <= 0 else 0.0


def percent(shift: float) -> str:
    """A shift in words: ``+20 %``."""
    return f"{100 * math.expm1(shift):+.0f} %"
