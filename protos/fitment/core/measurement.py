"""One benchmark on one device, with its verdict.

A number without its kind and its verdict is not a measurement: costs say how they were come
by, a missing sensor is null with a reason, and a run that was disturbed says so.
"""

from __future__ import annotations

import enum
from collections.abc import Mapping
from dataclasses import dataclass, field


class CostKind(enum.Enum):
    """How a cost was come by. Kinds are never mixed silently."""

    MEASURED = "measured"  # timed on the device itself
    INTERPOLATED = "interpolated"  # between measured kernels of the same device
    ESTIMATED = "estimated"  # from a model of the device
    CLAIMED = "claimed"  # from a vendor's document


class Verdict(enum.Enum):
    """Whether a benchmark may be believed."""

    VALID = "valid"  # steady, undisturbed, long enough
    CONTENDED = "contended"  # other work took the processor
    THROTTLED = "throttled"  # clocks were cut or the device was too hot
    DRIFTING = "drifting"  # first and last third differ too much
    TOO_SHORT = "too_short"  # fewer runs or seconds than the plan asked for
    EMULATED = "emulated"  # an emulator translated the instructions: no device takes these times


class ReadingStatus(enum.Enum):
    """Whether a sensor's value is a reading."""

    MEASURED = "measured"  # a sensor gave it
    ESTIMATED = "estimated"  # a fitted model gave it
    UNAVAILABLE = "unavailable"  # no sensor; the value is null


@dataclass(frozen=True, slots=True, kw_only=True)
class Cost:
    """A value with its unit and kind."""

    value: float
    unit: str
    kind: CostKind
    verdict: Verdict | None = None
    devices: int = 0  # whose residuals corrected it; 0: it stands as it was computed


@dataclass(frozen=True, slots=True, kw_only=True)
class Latency:
    """A latency distribution of single-stream runs, in milliseconds.

    A percentile that the number of runs cannot support (MLPerf's early-stopping bound at 99 %
    confidence) is null, and so is its interval. Intervals are distribution free (order statistics,
    95 %). What is told as p90 to p99 is that bound, so it lies at the upper end of its interval or
    above.
    """

    count: int
    mean_ms: float
    min_ms: float
    p50_ms: float
    p50_low_ms: float
    p50_high_ms: float
    p90_ms: float | None = None
    p95_ms: float | None = None
    p99_ms: float | None = None
    p90_low_ms: float | None = None
    p90_high_ms: float | None = None
    p95_low_ms: float | None = None
    p95_high_ms: float | None = None
    p99_low_ms: float | None = None
    p99_high_ms: float | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class Energy:
    """Energy of one inference, or why there is none."""

    status: ReadingStatus
    value_mj: float | None = None
    method: str = ""  # e.g. "rapl:package-0"
    scope: str = ""  # e.g. "package", "board"
    baseline_w: float | None = None
    samples: int = 0
    reason: str = ""
    sample_hz: float | None = None  # readings a second that the sensor really gave


@dataclass(frozen=True, slots=True, kw_only=True)
class Measurement:
    """What a device found out about one bundle."""

    id: str
    bundle: str  # variant digest
    runtime: str  # "onnx 1.32.0"
    threads: int
    verdict: Verdict
    energy: Energy
    reasons: tuple[str, ...] = ()
    latency: Latency | None = None
    baseline: str = ""  # variant digest of the running variant, interleaved in the same run
    baseline_latency: Latency | None = None
    agreement: float | None = None  # share of reference inputs with the same top-1 as fp32
    sqnr_db: float | None = None
    integer_coverage: float | None = None  # heavy ops that really ran in integers, 0..1
    golden_ok: bool | None = None
    peak_memory_bytes: int | None = None
    load_ms: float | None = None
    first_ms: float | None = None
    hardware: str = ""  # hardware hash at the time
    stack: str = ""  # stack hash at the time
    emulated: bool = False
    conditions: Mapping[str, float] = field(default_factory=dict)  # pressure, clocks, temperature
    wall_unix_ns: int = 0  # hint only: device clocks wander

    @property
    def tells_costs(self) -> bool:
        """Whether time, memory and energy are a device's; an emulator's are nobody's.

        What was answered (goldens, agreement, coverage) holds either way.
        """
        return self.verdict is not Verdict.EMULATED
