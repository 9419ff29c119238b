"""Energy meters: counters of joules and integrals of watts, behind one small protocol.

A window says how it was measured. What could not be measured is ``None`` with a reason; it is
never 0, and an estimate is never passed off as a measurement.
"""

from __future__ import annotations

import itertools
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Protocol

from fitment.core.measurement import ReadingStatus

Clock = Callable[[], float]
"""Seconds on a clock that never goes back."""

MIN_SENSOR_SAMPLES = 20
"""A window with fewer readings of a power sensor is no measurement."""


@dataclass(frozen=True, slots=True, kw_only=True)
class EnergyWindow:
    """Energy between start and stop, of everything in ``scope``, idle draw included."""

    joules: float | None
    seconds: float
    samples: int
    method: str  # "rapl:package-0", "ina3221:VDD_IN"
    scope: str  # "package", "board", "soc", "device"
    status: ReadingStatus
    reason: str = ""  # why there is no value

    @property
    def mean_w(self) -> float | None:
        """Mean power over the window, in watts."""
        if self.joules is None or self.seconds <= 0:
            return None
        return self.joules / self.seconds


class Meter(Protocol):
    """One source of energy readings. Call `sample` often; it reads no faster than the sensor."""

    @property
    def method(self) -> str: ...

    @property
    def scope(self) -> str: ...

    @property
    def status(self) -> ReadingStatus:
        """Measured or estimated: what a window of it is at best."""
        ...

    @property
    def interval_s(self) -> float:
        """How often `sample` should be called."""
        ...

    def available(self) -> str:
        """Empty when it can be read now; otherwise the reason why not."""
        ...

    def start(self) -> None: ...

    def sample(self) -> None: ...

    def stop(self) -> EnergyWindow: ...


@dataclass(frozen=True, slots=True, kw_only=True)
class Unavailable:
    """No meter on this device, and why, source by source."""

    reason: str
    tried: tuple[tuple[str, str], ...] = ()


@dataclass(frozen=True, slots=True, kw_only=True)
class Source:
    """What a reading is and how good it is."""

    method: str
    scope: str
    status: ReadingStatus = ReadingStatus.MEASURED
    interval_s: float = 0.1
    distinct: bool = False
    """The gauge refreshes slowly: repeated values are the same reading and count once."""


Read = Callable[[], float | None]


class PowerMeter:
    """Integrates a power sensor over time (trapezoids between readings)."""

    def __init__(
        self,
        read_w: Read,
        *,
        source: Source,
        usable: Callable[[], str] = lambda: "",
        clock: Clock = time.monotonic,
    ) -> None:
        """``read_w`` gives watts or None; ``usable`` says why the sensor does not count now."""
        self._read_w = read_w
        self._source = source
        self._usable = usable
        self._clock = clock
        self._points: list[tuple[float, float]] = []
        self._started_s = 0.0
        self._failure = ""

    @property
    def method(self) -> str:
        return self._source.method

    @property
    def scope(self) -> str:
        return self._source.scope

    @property
    def status(self) -> ReadingStatus:
        return self._source.status

    @property
    def interval_s(self) -> float:
        return self._source.interval_s

    def available(self) -> str:
        reason = self._usable()
        if reason:
            return reason
        return "" if self._read_w() is not None else f"{self.method}: the sensor gives no reading"

    def start(self) -> None:
        self._points = []
        self._failure = self._usable()
        self._started_s = self._clock()
        self._take()

    def sample(self) -> None:
        """Take a reading, unless the sensor cannot have a new one yet."""
        # A little under the interval, or a caller that keeps to it would miss every second one.
        if self._points and self._clock() - self._points[-1][0] < 0.95 * self.interval_s:
            return
        self._take()

    def stop(self) -> EnergyWindow:
        self._take()
        seconds = self._clock() - self._started_s
        self._failure = self._failure or self._usable()
        count = self._count()
        if not self._failure and count < MIN_SENSOR_SAMPLES:
            self._failure = f"{count} readings in the window, {MIN_SENSOR_SAMPLES} are needed"
        joules = None if self._failure else self._integral()
        return _window(self._source, joules, seconds, count, self._failure)

    def _take(self) -> None:
        watts = self._read_w()
        if watts is None:
            self._failure = self._failure or f"{self.method}: a reading failed in the window"
            return
        self._points.append((self._clock(), watts))

    def _count(self) -> int:
        if not self._source.distinct:
            return len(self._points)
        values = [watts for _, watts in self._points]
        pairs = itertools.pairwise(values)
        return bool(values) + sum(1 for a, b in pairs if a != b)

    def _integral(self) -> float:
        pairs = zip(self._points, self._points[1:], strict=False)
        return sum((t1 - t0) * (w0 + w1) / 2 for (t0, w0), (t1, w1) in pairs)


@dataclass(frozen=True, slots=True, kw_only=True)
class Counter:
    """One energy counter in microjoules; it starts again at 0 above ``range_uj``."""

    name: str
    read_uj: Callable[[], int | None]
    range_uj: int | None = None


class CounterMeter:
    """Sums energy counters that wrap around.

    Only one wrap between two samples can be seen, so a sample is due well before the shortest
    counter can wrap twice (65 kJ at 200 W is five minutes).
    """

    def __init__(
        self, counters: Sequence[Counter], *, source: Source, clock: Clock = time.monotonic
    ) -> None:
        self._counters = tuple(counters)
        self._source = source
        self._clock = clock
        self._last: list[int | None] = []
        self._total_uj = 0
        self._samples = 0
        self._started_s = 0.0
        self._failure = ""

    @property
    def method(self) -> str:
        return self._source.method

    @property
    def scope(self) -> str:
        return self._source.scope

    @property
    def status(self) -> ReadingStatus:
        return self._source.status

    @property
    def interval_s(self) -> float:
        return self._source.interval_s

    def available(self) -> str:
        silent = [c.name for c in self._counters if c.read_uj() is None]
        return f"{self.method}: no reading from {', '.join(silent)}" if silent else ""

    def start(self) -> None:
        self._failure, self._total_uj, self._samples = "", 0, 0
        self._started_s = self._clock()
        self._last = [c.read_uj() for c in self._counters]
        self._note_silent(self._last)

    def sample(self) -> None:
        now = [c.read_uj() for c in self._counters]
        self._note_silent(now)
        for counter, before, after in zip(self._counters, self._last, now, strict=True):
            if before is not None and after is not None:
                self._total_uj += self._delta(counter, before, after)
        self._last = now
        self._samples += 1

    def stop(self) -> EnergyWindow:
        self.sample()
        seconds = self._clock() - self._started_s
        if not self._failure and self._total_uj == 0 and seconds > 0:
            self._failure = f"{self.method}: the counter did not move"
        joules = None if self._failure else self._total_uj / 1e6
        return _window(self._source, joules, seconds, self._samples, self._failure)

    def _note_silent(self, values: list[int | None]) -> None:
        # A failed reading taken as 0 would look like a wrap next time: the window is void.
        if not self._failure and any(value is None for value in values):
            self._failure = f"{self.method}: a reading failed in the window"

    def _delta(self, counter: Counter, before: int, after: int) -> int:
        if after >= before:
            return after - before
        if counter.range_uj is None:
            self._failure = f"{counter.name} went back and its range is not known"
            return 0
        return after - before + counter.range_uj


def _window(
    source: Source, joules: float | None, seconds: float, samples: int, reason: str
) -> EnergyWindow:
    return EnergyWindow(
        joules=joules,
        seconds=seconds,
        samples=samples,
        method=source.method,
        scope=source.scope,
        status=source.status if joules is not None else ReadingStatus.UNAVAILABLE,
        reason=reason,
    )
