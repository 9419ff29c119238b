"""Does the new variant stay? Measurement and checks against the gates, with reasons.

Rules:

1. wrong answers to the golden inputs end it, whatever the gates say;
2. a gate whose value is missing is *not judged*, and the reason says so; a missing sensor is
   never a pass by a made-up number and never a failure;
3. p95 falls back to the upper bound of p50's interval, since a short run supports no p95;
4. a disturbed run (contended, drifting) says little about absolute time: latency is then judged
   by the ratio to the running variant alone, which was interleaved and disturbed alike;
5. under an emulator no time, memory or energy is judged at all: answers are.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

from agent.domain.record import Checked
from fitment.core.deployment import DeviceGates
from fitment.core.measurement import Measurement, Verdict

_RATIO_ONLY = (Verdict.CONTENDED, Verdict.DRIFTING)


@dataclass(frozen=True, slots=True, kw_only=True)
class Judgement:
    """Whether it is good, and why; reasons of what was not judged are among them."""

    good: bool
    reasons: tuple[str, ...]


@dataclass(frozen=True, slots=True, kw_only=True)
class _Finding:
    """Of one gate."""

    holds: bool
    reason: str


def judge(measurement: Measurement, gates: DeviceGates, checked: Checked | None) -> Judgement:
    """Judge one measurement."""
    findings = [
        *_answers(measurement, checked),
        *_agreement(measurement, gates, checked),
        *_coverage(measurement, gates, checked),
        *_costs(measurement, gates),
    ]
    failed = tuple(finding.reason for finding in findings if not finding.holds)
    noted = tuple(finding.reason for finding in findings if finding.holds and finding.reason)
    return Judgement(good=not failed, reasons=failed + _disturbed(measurement) + noted)


def _disturbed(measurement: Measurement) -> tuple[str, ...]:
    if measurement.verdict is Verdict.VALID:
        return ()
    why = "; ".join(measurement.reasons)
    return (f"the measurement is {measurement.verdict.value}" + (f": {why}" if why else ""),)


def _answers(measurement: Measurement, checked: Checked | None) -> Iterator[_Finding]:
    if measurement.golden_ok is False or (checked is not None and not checked.golden_ok):
        yield _Finding(holds=False, reason="it answers the golden inputs wrongly")


def _costs(measurement: Measurement, gates: DeviceGates) -> Iterator[_Finding]:
    if not measurement.tells_costs:
        yield _not_judged("time, memory and energy", "they are an emulator's")
        return
    yield from _latency(measurement, gates)
    yield from _ratio(measurement, gates)
    yield from _memory(measurement, gates)
    yield from _energy(measurement, gates)


def _latency(measurement: Measurement, gates: DeviceGates) -> Iterator[_Finding]:
    limit = gates.latency_p95_max_ms
    if limit is None:
        return
    if measurement.verdict in _RATIO_ONLY:
        yield _not_judged("latency p95", "the run was disturbed; the ratio counts")
        return
    if measurement.latency is None:
        yield _not_judged("latency p95", "no latency was measured")
        return
    value, name = measurement.latency.p95_ms, "p95"
    if value is None:
        value, name = measurement.latency.p50_high_ms, "p50 (upper bound, for want of a p95)"
    yield _most(f"latency {name}", value, limit, "ms")
    if measurement.latency.p95_ms is None and value <= limit:
        count = measurement.latency.count
        yield _Finding(holds=True, reason=f"{count} runs support no p95: judged by p50's bound")


def _ratio(measurement: Measurement, gates: DeviceGates) -> Iterator[_Finding]:
    limit = gates.latency_ratio_max
    if limit is None:
        return
    new, old = measurement.latency, measurement.baseline_latency
    if new is None or old is None or old.p50_ms <= 0:
        yield _not_judged("latency ratio", "nothing was running to compare with")
        return
    yield _most("latency ratio to the running variant", new.p50_ms / old.p50_ms, limit, "")


def _agreement(
    measurement: Measurement, gates: DeviceGates, checked: Checked | None
) -> Iterator[_Finding]:
    if gates.agreement_min is not None:
        value = measurement.agreement
        if value is None and checked is not None:
            value = checked.agreement
        yield _least("agreement with fp32", value, gates.agreement_min)


def _coverage(
    measurement: Measurement, gates: DeviceGates, checked: Checked | None
) -> Iterator[_Finding]:
    if gates.integer_coverage_min is not None:
        value = measurement.integer_coverage
        if value is None and checked is not None:
            value = checked.integer_coverage
        yield _least("integer coverage", value, gates.integer_coverage_min)


def _memory(measurement: Measurement, gates: DeviceGates) -> Iterator[_Finding]:
    limit, value = gates.peak_memory_max_bytes, measurement.peak_memory_bytes
    if limit is None:
        return
    if value is None:
        yield _not_judged("peak memory", "it was not measured")
        return
    yield _most("peak memory", value / 2**20, limit / 2**20, "MiB")


def _energy(measurement: Measurement, gates: DeviceGates) -> Iterator[_Finding]:
    if gates.energy_max_mj is None:
        return
    if measurement.energy.value_mj is None:
        yield _not_judged("energy", measurement.energy.reason or "no sensor")
        return
    yield _most("energy", measurement.energy.value_mj, gates.energy_max_mj, "mJ")


def _most(what: str, value: float, limit: float, unit: str) -> _Finding:
    if value <= limit:
        return _Finding(holds=True, reason="")
    shown = f"{value:.4g} {unit}".rstrip()
    return _Finding(holds=False, reason=f"{what} is {shown}, at most {limit:.4g} is allowed")


def _least(what: str, value: float | None, limit: float) -> _Finding:
    if value is None:
        return _not_judged(what, "the device could not tell")
    if value >= limit:
        return _Finding(holds=True, reason="")
    return _Finding(holds=False, reason=f"{what} is {value:.4g}, at least {limit:.4g} is asked")


def _not_judged(what: str, why: str) -> _Finding:
    return _Finding(holds=True, reason=f"{what} was not judged: {why}")
