"""What gates come to: how each stands, with its numbers, and how far a release has got."""

from __future__ import annotations

import enum
from dataclasses import dataclass


class TooFew(enum.Enum):
    """What follows where a cohort is too small for statistics, or a gate has nothing to go by."""

    PROCEED = "proceed"  # go on when each device's own comparison held, and say so
    ASK = "ask"  # pause at the end of the wave until an operator resumes


class Unit(enum.Enum):
    """What a gate's estimate and limit are."""

    SHARE = "share"  # of devices, 0 to 1
    TIMES = "times"  # the device's own baseline
    POINTS = "points"  # absolute, of a share that each device has


class GateVerdict(enum.Enum):
    """How one gate stands for one cohort."""

    HOLDS = "holds"  # on enough devices
    FAILED = "failed"  # the rollout halts
    UNDECIDED = "undecided"  # too few devices so far, or none ended
    EACH = "each"  # not statistical: every device's own comparison held
    MISSING = "missing"  # devices ended and none could say; never taken for a pass


@dataclass(frozen=True, slots=True, kw_only=True)
class GateReport:
    """One gate of one cohort, with the numbers that it was judged on.

    ``estimate`` and its bounds are a share of devices that speak against it, or for what each is
    held against itself the value that ``above_share`` of them exceed (the median, for a half);
    the bounds hold at all looks together.
    """

    cohort: str
    gate: str  # "failures", "latency", …
    verdict: GateVerdict
    reason: str
    limit: float
    samples: int = 0  # devices (or clusters) that said something
    waiting: int = 0  # admitted and not ended; they count as good until they end
    missing: int = 0  # ended without a number that the gate needs
    estimate: float | None = None
    low: float | None = None
    high: float | None = None
    statistical: bool = False
    e_value: float | None = None  # what a bet against the gate has grown to
    e_needed: float | None = None  # at which the gate alone halts
    alpha: float = 0.0  # this gate's part of the false-halt rate
    unit: Unit = Unit.SHARE  # of the estimate and its bounds


@dataclass(frozen=True, slots=True, kw_only=True)
class Exposure:
    """How many devices a rollout has let the release reach, and may before it halts."""

    admitted: int = 0
    bound: int = 0  # of this wave, whatever happens
    detects: float = 0.0  # a share of failing devices
    likely_bound: int | None = None  # of a cohort that fails so often, with 95 % confidence
