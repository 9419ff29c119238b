"""Energy above idle, with meters whose joules are known."""

from __future__ import annotations

import pytest

from agent.sensors import EnergyWindow, Unavailable
from agent.workers import consumption
from agent.workers.timing import Stream
from fitment.core.measurement import ReadingStatus


def _window(joules: float | None, seconds: float, reason: str = "") -> EnergyWindow:
    status = ReadingStatus.MEASURED if joules is not None else ReadingStatus.UNAVAILABLE
    return EnergyWindow(
        joules=joules,
        seconds=seconds,
        samples=40,
        method="rapl:package-0",
        scope="package",
        status=status,
        reason=reason,
    )


def test_idle_power_is_taken_off() -> None:
    energy = consumption.per_run(_window(2.0, 1.0), _window(10.0, 2.0), runs=100)
    assert energy.value_mj == pytest.approx(60.0)
    assert energy.baseline_w == 2.0
    assert (energy.samples, energy.sample_hz) == (40, 20.0)  # of the two seconds that it was busy
    assert (energy.status, energy.method) == (ReadingStatus.MEASURED, "rapl:package-0")


@pytest.mark.parametrize(
    ("idle", "busy", "reason"),
    [
        (_window(None, 1.0, "idle failed"), _window(10.0, 2.0), "idle failed"),
        (_window(2.0, 1.0), _window(None, 2.0, "busy failed"), "busy failed"),
        (_window(5.0, 1.0), _window(10.0, 2.0), "no power above the 5.00 W"),
    ],
)
def test_what_cannot_be_told_is_null_with_a_reason(
    idle: EnergyWindow, busy: EnergyWindow, reason: str
) -> None:
    energy = consumption.per_run(idle, busy, runs=100)
    assert (energy.value_mj, energy.status) == (None, ReadingStatus.UNAVAILABLE)
    assert reason in energy.reason


class _SlowMeter:
    method, scope, status, interval_s = "battery", "device", ReadingStatus.MEASURED, 10.0

    def available(self) -> str:
        return ""

    def start(self) -> None:
        raise AssertionError("not started when it cannot finish")

    sample = start

    def stop(self) -> EnergyWindow:
        raise AssertionError("not started")


def test_a_gauge_slower_than_the_plan_is_not_waited_for() -> None:
    stream = Stream(session=None, feeds=())  # type: ignore[arg-type]
    energy = consumption.measure(_SlowMeter(), stream, max_seconds=20.0)
    assert energy.value_mj is None
    assert "battery needs 250 s of runs, the plan allows 20 s" in energy.reason


def test_no_meter_passes_its_reason_on() -> None:
    stream = Stream(session=None, feeds=())  # type: ignore[arg-type]
    energy = consumption.measure(Unavailable(reason="nothing here"), stream, max_seconds=1.0)
    assert (energy.status, energy.reason) == (ReadingStatus.UNAVAILABLE, "nothing here")
