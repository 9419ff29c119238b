"""Whether a timed run may be believed: signals to a verdict, with reasons in words.

The thresholds are shares of a run, chosen from what a two-core virtual machine shows: quiet, the
thread has the processor for 98 to 100 % of the time and is preempted a few times a second;
beside one busy process on each core the processor share falls to between 0.5 and 0.7 and
preemptions exceed 100 a second, while the wall-clock median is off by half.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from agent.sensors import Conditions, throttle_reasons
from fitment.core.deployment import BenchmarkPlan
from fitment.core.measurement import Verdict

CPU_SHARE_MIN = 0.9
PRESSURE_MAX = 0.10  # share of the run in which some task waited for a processor
PREEMPTIONS_MAX_PER_S = 50.0  # a fair scheduler that shares a core switches every 3 to 10 ms
DRIFT_MAX = 0.05  # of the last third's median against the first third's
CLOCK_FALL_MAX = 0.2  # below this the governor breathes; above it something cut the clock


@dataclass(frozen=True, slots=True, kw_only=True)
class Signals:
    """What was seen beside the latencies. None where it cannot be told."""

    wall_s: float
    cpu_share: float | None  # processor time over wall-clock time of the timed thread
    pressure: float | None  # 0..1
    preemptions_per_s: float | None
    conditions: tuple[Conditions, ...]  # the first right before timing, the last right after
    translated_on: str = ""  # the machine on which an emulator translated the instructions

    def numbers(self) -> dict[str, float]:
        """For a measurement's ``conditions``: these signals, and the last readings."""
        values = {
            "cpu_share": self.cpu_share,
            "pressure": self.pressure,
            "preemptions_per_s": self.preemptions_per_s,
        }
        known = {name: value for name, value in values.items() if value is not None}
        last = self.conditions[-1].numbers() if self.conditions else {}
        return {**last, **known}


def judge(
    plan: BenchmarkPlan, *, runs: int, seconds: float, drift: float, signals: Signals
) -> tuple[Verdict, tuple[str, ...]]:
    """The gravest verdict, and the reasons for all that was found.

    ``runs`` and ``seconds`` are the candidate's own.
    """
    found = (
        (Verdict.EMULATED, translation(signals.translated_on)),
        (Verdict.TOO_SHORT, short_reasons(plan, runs=runs, seconds=seconds)),
        (Verdict.THROTTLED, throttling(signals.conditions)),
        (Verdict.CONTENDED, contention(signals)),
        (Verdict.DRIFTING, drifting(drift)),
    )
    reasons = tuple(reason for _, group in found for reason in group)
    verdict = next((verdict for verdict, group in found if group), Verdict.VALID)
    return verdict, reasons


def translation(host: str) -> tuple[str, ...]:
    """Whether an emulator on ``host`` carried the instructions out."""
    if not host:
        return ()
    return (f"an emulator translated the instructions on {host}: no device takes these times",)


def short_reasons(plan: BenchmarkPlan, *, runs: int, seconds: float) -> tuple[str, ...]:
    """Where the run stayed below the plan."""
    reasons = []
    if runs < plan.min_runs:
        reasons.append(f"{runs} runs in {plan.max_seconds:g} s, the plan asks for {plan.min_runs}")
    if seconds < plan.min_seconds:
        reasons.append(f"{seconds:.2f} s of runs, the plan asks for {plan.min_seconds:g} s")
    return tuple(reasons)


def contention(signals: Signals) -> tuple[str, ...]:
    """Signs that other work took the processor."""
    reasons = []
    if signals.cpu_share is not None and signals.cpu_share < CPU_SHARE_MIN:
        reasons.append(
            f"the timed thread had a processor for {signals.cpu_share:.0%} of the time "
            f"(at least {CPU_SHARE_MIN:.0%} is asked)"
        )
    if signals.pressure is not None and signals.pressure > PRESSURE_MAX:
        reasons.append(
            f"tasks waited for a processor in {signals.pressure:.0%} of the run "
            f"(at most {PRESSURE_MAX:.0%})"
        )
    rate = signals.preemptions_per_s
    if rate is not None and rate > PREEMPTIONS_MAX_PER_S:
        reasons.append(
            f"{rate:.0f} involuntary context switches a second (at most {PREEMPTIONS_MAX_PER_S:g})"
        )
    return tuple(reasons)


def throttling(conditions: Sequence[Conditions]) -> tuple[str, ...]:
    """Signs that clocks were cut, between the first look and any later one."""
    reasons: dict[str, None] = {}
    for later in conditions[1:]:
        reasons.update(dict.fromkeys(throttle_reasons(conditions[0], later)))
    clocks = [look.freq_khz for look in conditions if look.freq_khz]
    if clocks and min(clocks) < (1 - CLOCK_FALL_MAX) * clocks[0]:
        fall = f"the clock fell from {clocks[0] / 1e3:.0f} to {min(clocks) / 1e3:.0f} MHz"
        reasons[fall] = None
    return tuple(reasons)


def drifting(drift: float) -> tuple[str, ...]:
    """Whether the run's end was faster or slower than its beginning."""
    if abs(drift) <= DRIFT_MAX:
        return ()
    word = "slower" if drift > 0 else "faster"
    found = f"the last third of the runs was {abs(drift):.0%} {word} than the first"
    return (f"{found} (at most {DRIFT_MAX:.0%})",)
