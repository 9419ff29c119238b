"""Telemetry as it is kept and asked for: raw for a time, and rolled up by hour and by day.

A rollup is a sum of parts: rollups of the same quantity add up in any order, so what a store adds
in small steps, or an answer pools over many devices, is what adding it all at once would be.
Percentiles come from a sketch: counts in buckets that grow by 4 %, so each is right within 2 %.
"""

from __future__ import annotations

import enum
import math
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field, replace

from fitment.core.telemetry import TelemetryBatch

_GROWTH = 1.04
_LOG_GROWTH = math.log(_GROWTH)
_LARGEST = 1e30
"""No sensor says more, and a sum of as many as a database holds is still a number."""
_SMALLEST = 1e-30
FUTURE_S = 300.0
"""How far ahead a device's clock may be before it is not believed."""
PAST_S = 400 * 86400.0
"""For how long a device may have kept samples for us; before that its clock had not been set."""


class Period(enum.Enum):
    """How long the spans are that rollups tell of."""

    HOUR = "hour"  # begins at a full hour, UTC
    DAY = "day"  # begins at midnight, UTC

    @property
    def seconds(self) -> int:
        """Its length."""
        return 3600 if self is Period.HOUR else 86400

    def start(self, wall_s: float) -> int:
        """When the span begins that a moment lies in."""
        return int(wall_s // self.seconds) * self.seconds


class Keep(enum.Enum):
    """What retention bounds, each by age and by rows."""

    RAW = "raw"  # rows as devices sent them
    HOUR = "hour"  # rollups by hour
    DAY = "day"  # rollups by day


@dataclass(frozen=True, slots=True, kw_only=True)
class Bound:
    """For how long something is kept, and how much of it at most; the oldest goes first."""

    age_s: float
    rows: int


@dataclass(frozen=True, slots=True, kw_only=True)
class Retention:
    """What is kept of telemetry."""

    raw: Bound = Bound(age_s=7 * 86400.0, rows=500_000)
    hour: Bound = Bound(age_s=90 * 86400.0, rows=1_000_000)
    day: Bound = Bound(age_s=730 * 86400.0, rows=1_000_000)

    def of(self, what: Keep) -> Bound:
        """The bound of one."""
        bounds = {Keep.RAW: self.raw, Keep.HOUR: self.hour, Keep.DAY: self.day}
        return bounds[what]


@dataclass(frozen=True, slots=True, kw_only=True)
class Held:
    """How much there is."""

    rows: int = 0  # raw ones kept now
    rows_ever: int = 0  # raw ones that were ever stored
    hours: int = 0  # rollups
    days: int = 0  # rollups


@dataclass(frozen=True, slots=True, kw_only=True)
class Origin:
    """Whose samples a rollup holds; empty where that was not known, or where several are pooled."""

    device: str = ""
    profile: str = ""
    variant: str = ""  # digest
    release: str = ""


@dataclass(frozen=True, slots=True, kw_only=True)
class Sample:
    """What a device's sensors said at one moment, as it was sent."""

    device: str
    wall_s: float
    boot_id: str
    tags: Mapping[str, str]  # slot, variant, release, rung, …
    values: dict[str, float | None]  # by quantity; None where a sensor had nothing to say


GROUPS = ("", "device", "profile", "variant", "release")
"""What rollups can be told apart by; empty pools all."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Rollup:
    """All values of one quantity in one span."""

    quantity: str
    start_s: int
    origin: Origin
    count: int
    least: float
    most: float
    total: float
    sketch: Mapping[str, int] = field(default_factory=dict)  # bucket -> how many

    @property
    def mean(self) -> float:
        """The arithmetic mean."""
        return self.total / self.count

    def quantile(self, share: float) -> float:
        """The value below which a share of them lies, within 2 %."""
        wanted, passed = share * (self.count - 1), 0
        for bucket in sorted(self.sketch, key=_value_of):
            passed += self.sketch[bucket]
            if passed > wanted:
                return min(max(_value_of(bucket), self.least), self.most)
        return self.most


@dataclass(frozen=True, slots=True, kw_only=True)
class Query:
    """Which rollups; an empty name is any."""

    quantity: str
    prefix: bool = False  # every quantity that begins so
    period: Period = Period.HOUR
    since_s: float = 0.0
    until_s: float = math.inf
    device: str = ""
    profile: str = ""
    variant: str = ""
    release: str = ""
    limit: int = 20_000  # rollups at most: an answer must not stop the loop for long

    @property
    def wanted(self) -> Mapping[str, str]:
        """The names that were given."""
        names = {name: getattr(self, name) for name in GROUPS if name}
        return {name: value for name, value in names.items() if value}


def is_reading(value: float) -> bool:
    """Whether a sensor said something; NaN, infinity and the absurd are nothing."""
    return -_LARGEST < value < _LARGEST


def rolled(quantity: str, start_s: int, origin: Origin, values: Iterable[float]) -> Rollup:
    """The rollup of some readings (at least one)."""
    listed = list(values)
    sketch: dict[str, int] = {}
    for value in listed:
        bucket = _bucket(value)
        sketch[bucket] = sketch.get(bucket, 0) + 1
    return Rollup(
        quantity=quantity, start_s=start_s, origin=origin, count=len(listed),
        least=min(listed), most=max(listed), total=math.fsum(listed), sketch=sketch,
    )  # fmt: skip


def added(one: Rollup, other: Rollup) -> Rollup:
    """Both in one, under the first one's name."""
    sketch = dict(one.sketch)
    for bucket, count in other.sketch.items():
        sketch[bucket] = sketch.get(bucket, 0) + count
    return replace(
        one, count=one.count + other.count, least=min(one.least, other.least),
        most=max(one.most, other.most), total=one.total + other.total, sketch=sketch,
    )  # fmt: skip


def pooled(rollups: Iterable[Rollup], by: str = "") -> tuple[Rollup, ...]:
    """One rollup a span, or one a span and value of ``by``; oldest first."""
    pools: dict[tuple[int, str], Rollup] = {}
    for rollup in rollups:
        name = str(getattr(rollup.origin, by)) if by else ""
        origin = Origin(**{by: name}) if by else Origin()
        key, named = (rollup.start_s, name), replace(rollup, origin=origin)
        pools[key] = added(pools[key], named) if key in pools else named
    return tuple(pools[key] for key in sorted(pools))


def placed(batch: TelemetryBatch, now: float) -> TelemetryBatch:
    """The batch with times that can be: a device's clock may be from 1970, or from the future.

    A sample whose time cannot be is put before ``now`` by as much as the device's monotonic clock
    ran since. Retention and rollups go by these times.
    """
    clock = batch.monotonic_ns
    if len(clock) != len(batch.wall_unix_ns):
        clock = (0,) * len(batch.wall_unix_ns)
    newest = max(clock, default=0)
    walls = tuple(
        wall if _can_be(wall, now) else int((now - min((newest - ran) / 1e9, PAST_S)) * 1e9)
        for wall, ran in zip(batch.wall_unix_ns, clock, strict=True)
    )
    return replace(batch, wall_unix_ns=walls)


def origin_of(device: str, tags: Mapping[str, str]) -> Origin:
    """Whose samples a batch with these tags holds."""
    return Origin(
        device=device,
        profile=tags.get("profile", ""),
        variant=tags.get("variant", ""),
        release=tags.get("release", ""),
    )


def _can_be(wall_ns: int, now: float) -> bool:
    return now - PAST_S <= wall_ns / 1e9 <= now + FUTURE_S


def _bucket(value: float) -> str:
    size = abs(value)
    if size < _SMALLEST:
        return "0"
    sign = "-" if value < 0 else "+"
    return f"{sign}{math.ceil(math.log(size) / _LOG_GROWTH)}"


def _value_of(bucket: str) -> float:
    if bucket == "0":
        return 0.0
    size = 2 * _GROWTH ** int(bucket[1:]) / (_GROWTH + 1)
    return -size if bucket[0] == "-" else size
