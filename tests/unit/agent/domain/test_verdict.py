"""Measurement × gates → commit or roll back, as rows."""

from __future__ import annotations

from dataclasses import dataclass, field, replace

import pytest

from agent.domain.record import Checked
from agent.domain.verdict import judge
from agent.testing import latency, measurement
from fitment.core.deployment import DeviceGates
from fitment.core.measurement import Energy, Measurement, ReadingStatus, Verdict

PLAIN = measurement(p50_ms=2.0, baseline_ms=2.0)
CHECKED = Checked(golden_ok=True, stack="s", agreement=0.98, integer_coverage=0.9)


@dataclass(frozen=True, kw_only=True)
class Row:
    name: str
    measured: Measurement = PLAIN
    gates: DeviceGates = field(default_factory=DeviceGates)
    checked: Checked | None = CHECKED
    good: bool
    says: str = ""


def without_p95(p50_ms: float) -> Measurement:
    return replace(PLAIN, latency=replace(latency(p50_ms), p95_ms=None))


def energy(value_mj: float) -> Measurement:
    return replace(PLAIN, energy=Energy(status=ReadingStatus.MEASURED, value_mj=value_mj))


ROWS = (
    Row(name="nothing asked", good=True),
    Row(name="wrong answers in the benchmark", measured=replace(PLAIN, golden_ok=False),
        good=False, says="wrongly"),
    Row(name="wrong answers in the check", checked=replace(CHECKED, golden_ok=False),
        good=False, says="wrongly"),
    Row(name="p95 holds", gates=DeviceGates(latency_p95_max_ms=2.4), good=True),
    Row(name="p95 does not", gates=DeviceGates(latency_p95_max_ms=2.3), good=False,
        says="latency p95 is 2.4 ms, at most 2.3"),
    Row(name="no p95: the bound of p50 holds", measured=without_p95(2.0),
        gates=DeviceGates(latency_p95_max_ms=2.1), good=True, says="support no p95"),
    Row(name="no p95: the bound of p50 does not", measured=without_p95(2.1),
        gates=DeviceGates(latency_p95_max_ms=2.1), good=False, says="upper bound"),
    Row(name="no latency at all", measured=replace(PLAIN, latency=None),
        gates=DeviceGates(latency_p95_max_ms=1.0, latency_ratio_max=1.0), good=True,
        says="no latency was measured"),
    Row(name="ratio holds", gates=DeviceGates(latency_ratio_max=1.0), good=True),
    Row(name="ratio does not", measured=measurement(p50_ms=2.3, baseline_ms=2.0),
        gates=DeviceGates(latency_ratio_max=1.1), good=False, says="ratio to the running variant"),
    Row(name="nothing to compare with", measured=measurement(p50_ms=9.0),
        gates=DeviceGates(latency_ratio_max=1.1), good=True, says="nothing was running"),
    Row(name="contended: time is not judged, the ratio is",
        measured=measurement(p50_ms=9.0, baseline_ms=9.0, verdict=Verdict.CONTENDED),
        gates=DeviceGates(latency_p95_max_ms=1.0, latency_ratio_max=1.1), good=True,
        says="the measurement is contended"),
    Row(name="drifting and slower than what runs",
        measured=measurement(p50_ms=9.0, baseline_ms=5.0, verdict=Verdict.DRIFTING),
        gates=DeviceGates(latency_ratio_max=1.1), good=False, says="ratio"),
    Row(name="throttled is what the device does: its time counts",
        measured=measurement(p50_ms=9.0, verdict=Verdict.THROTTLED),
        gates=DeviceGates(latency_p95_max_ms=1.0), good=False, says="throttled"),
    Row(name="an emulator's costs are judged by no gate",
        measured=replace(measurement(p50_ms=9e3, baseline_ms=1.0, verdict=Verdict.EMULATED),
                         energy=Energy(status=ReadingStatus.MEASURED, value_mj=9e3)),
        gates=DeviceGates(latency_p95_max_ms=1.0, latency_ratio_max=1.1, peak_memory_max_bytes=1,
                          energy_max_mj=0.1),
        good=True, says="time, memory and energy was not judged: they are an emulator's"),
    Row(name="its answers are",
        measured=replace(PLAIN, verdict=Verdict.EMULATED), good=False,
        gates=DeviceGates(agreement_min=0.995), says="agreement with fp32 is 0.99"),
    Row(name="agreement holds", gates=DeviceGates(agreement_min=0.99), good=True),
    Row(name="agreement does not", gates=DeviceGates(agreement_min=0.995), good=False,
        says="agreement with fp32 is 0.99, at least 0.995"),
    Row(name="agreement from the check", measured=replace(PLAIN, agreement=None),
        gates=DeviceGates(agreement_min=0.985), good=False, says="0.98"),
    Row(name="agreement unknown", measured=replace(PLAIN, agreement=None), checked=None,
        gates=DeviceGates(agreement_min=0.985), good=True,
        says="agreement with fp32 was not judged"),
    Row(name="coverage does not hold", measured=replace(PLAIN, integer_coverage=0.4),
        gates=DeviceGates(integer_coverage_min=0.9), good=False, says="integer coverage is 0.4"),
    Row(name="coverage from the check", measured=replace(PLAIN, integer_coverage=None),
        gates=DeviceGates(integer_coverage_min=0.9), good=True),
    Row(name="coverage unknown", measured=replace(PLAIN, integer_coverage=None), checked=None,
        gates=DeviceGates(integer_coverage_min=0.9), good=True, says="could not tell"),
    Row(name="memory holds", gates=DeviceGates(peak_memory_max_bytes=50 << 20), good=True),
    Row(name="memory does not", gates=DeviceGates(peak_memory_max_bytes=40 << 20), good=False,
        says="peak memory is 50 MiB"),
    Row(name="memory unknown", measured=replace(PLAIN, peak_memory_bytes=None),
        gates=DeviceGates(peak_memory_max_bytes=1), good=True, says="peak memory was not judged"),
    Row(name="energy holds", measured=energy(3.0), gates=DeviceGates(energy_max_mj=3.0), good=True),
    Row(name="energy does not", measured=energy(3.5), gates=DeviceGates(energy_max_mj=3.0),
        good=False, says="energy is 3.5 mJ"),
    Row(name="no energy sensor", gates=DeviceGates(energy_max_mj=0.1), good=True,
        says="energy was not judged: no sensor"),
)  # fmt: skip


@pytest.mark.parametrize("row", ROWS, ids=lambda row: row.name)
def test_rows(row: Row) -> None:
    judgement = judge(row.measured, row.gates, row.checked)
    assert judgement.good is row.good, judgement.reasons
    assert row.says in "; ".join(judgement.reasons)


def test_what_failed_comes_first() -> None:
    gates = DeviceGates(latency_p95_max_ms=1.0, energy_max_mj=1.0)
    measured = measurement(p50_ms=9.0, verdict=Verdict.TOO_SHORT)
    reasons = judge(measured, gates, None).reasons
    assert "p95" in reasons[0]
    assert "too_short" in reasons[1]
    assert "energy" in reasons[2]
