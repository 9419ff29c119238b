"""Signals to verdicts, as rows."""

from __future__ import annotations

from dataclasses import replace

import pytest

from agent.sensors import Conditions
from agent.workers import verdicts
from agent.workers.verdicts import Signals
from fitment.core.deployment import BenchmarkPlan
from fitment.core.measurement import Verdict

PLAN = BenchmarkPlan(min_runs=100, min_seconds=1.0, max_seconds=5.0)
CALM = Conditions(freq_khz=2_000_000, temperature_c=50.0, cooling_active=False, throttle_count=3)
QUIET = Signals(
    wall_s=1.0, cpu_share=0.99, pressure=0.01, preemptions_per_s=4.0, conditions=(CALM, CALM)
)
BLIND = Signals(
    wall_s=1.0, cpu_share=None, pressure=None, preemptions_per_s=None, conditions=(Conditions(),)
)


def _later(**changes: object) -> Signals:
    return replace(QUIET, conditions=(CALM, replace(CALM, **changes), CALM))  # type: ignore[arg-type]


ROWS = [
    ("quiet", QUIET, {}, Verdict.VALID, ""),
    ("no sensors at all", BLIND, {}, Verdict.VALID, ""),
    ("too few runs", QUIET, {"runs": 99}, Verdict.TOO_SHORT, "99 runs in 5 s"),
    ("too few seconds", QUIET, {"seconds": 0.5}, Verdict.TOO_SHORT, "0.50 s of runs"),
    ("processor lost", replace(QUIET, cpu_share=0.6), {}, Verdict.CONTENDED, "60%"),
    ("pressure", replace(QUIET, pressure=0.2), {}, Verdict.CONTENDED, "20% of the run"),
    ("preempted", replace(QUIET, preemptions_per_s=180.0), {}, Verdict.CONTENDED, "180"),
    ("cooling in the middle", _later(cooling_active=True), {}, Verdict.THROTTLED, "cooling"),
    ("a throttle event", _later(throttle_count=5), {}, Verdict.THROTTLED, "2 thermal"),
    ("the clock fell", _later(freq_khz=1_200_000), {}, Verdict.THROTTLED, "2000 to 1200 MHz"),
    ("the clock breathes", _later(freq_khz=1_800_000), {}, Verdict.VALID, ""),
    ("emulated, whatever else", replace(QUIET, translated_on="x86_64", pressure=0.9), {},
     Verdict.EMULATED, "translated the instructions on x86_64"),
    ("slower", QUIET, {"drift": 0.08}, Verdict.DRIFTING, "8% slower"),
    ("faster", QUIET, {"drift": -0.08}, Verdict.DRIFTING, "8% faster"),
]  # fmt: skip


@pytest.mark.parametrize(
    ("name", "signals", "changes", "verdict", "reason"),
    ROWS,
    ids=lambda v: v if isinstance(v, str) else "",
)
def test_judge(
    name: str, signals: Signals, changes: dict[str, float], verdict: Verdict, reason: str
) -> None:
    arguments = {"runs": 100, "seconds": 1.0, "drift": 0.0, **changes}
    found, reasons = verdicts.judge(PLAN, signals=signals, **arguments)  # type: ignore[arg-type]
    assert found is verdict
    assert bool(reasons) == (verdict is not Verdict.VALID)
    assert reason in " ".join(reasons)


def test_the_gravest_is_the_verdict_and_all_are_said() -> None:
    signals = replace(_later(cooling_active=True), cpu_share=0.5)
    found, reasons = verdicts.judge(PLAN, runs=100, seconds=1.0, drift=0.5, signals=signals)
    assert found is Verdict.THROTTLED
    assert len(reasons) == 3


def test_numbers_hold_what_is_known_only() -> None:
    assert BLIND.numbers() == {}
    assert QUIET.numbers()["freq_khz"] == 2_000_000
    assert QUIET.numbers()["cooling_active"] == 0.0
