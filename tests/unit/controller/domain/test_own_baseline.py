"""Gates that hold a device against what ran on it before: memory, heat, coverage, agreement."""

from __future__ import annotations

import random
from dataclasses import replace

import pytest

from controller.domain import footprint, gates, observing
from controller.domain.fleet import Deployment, Gate
from controller.domain.footprint import Footprint
from controller.domain.judgement import GateVerdict, Unit
from fitment.core.measurement import Verdict
from tests.scenarios.test_rollout import BAD, GOOD, NOW, RUNNING, ended, timed
from tests.unit.controller.domain.test_gates import judged, many

COOL = {"temperature_c": 50.0}
BEFORE = Footprint(
    variant="old", peak_memory_bytes=10_000, throttled=False, integer_coverage=0.9, agreement=0.99
)
NEW = replace(timed(), peak_memory_bytes=10_000, integer_coverage=0.9, conditions=COOL)
EVERY = Gate(
    max_failure_share=0.05, latency_ratio_max=1.1, memory_ratio_max=1.2, thermal_share_max=0.1,
    coverage_min=0.5, coverage_drop_max=0.05, agreement_min=0.9, agreement_drop_max=0.02,
)  # fmt: skip


def rows(count: int, begin: int = 0, before: Footprint | None = BEFORE, **new: object) -> list:
    taken = replace(NEW, **new)  # type: ignore[arg-type]
    return [replace(d, measurement=taken, before=before) for d in many(count, begin=begin)]


@pytest.mark.parametrize(
    ("gate", "changed", "estimate", "unit"),
    [
        ("memory", {"peak_memory_bytes": 15_000}, 1.5, Unit.TIMES),
        ("thermal", {"verdict": Verdict.THROTTLED}, 1.0, Unit.SHARE),
        ("thermal", {"conditions": {"cooling_active": 1.0}}, 1.0, Unit.SHARE),
        ("coverage", {"integer_coverage": 0.4}, 1.0, Unit.SHARE),
        ("coverage drop", {"integer_coverage": 0.8}, 0.1, Unit.POINTS),
        ("agreement drop", {"agreement": 0.95}, 0.04, Unit.POINTS),
    ],
)
def test_a_regression_halts_and_as_much_as_before_does_not(
    gate: str, changed: dict[str, object], estimate: float, unit: Unit
) -> None:
    held = judged(rows(40), EVERY)[gate]
    assert (held.verdict, held.unit) == (GateVerdict.HOLDS, unit)
    found = judged(rows(40, **changed), EVERY)
    assert found[gate].verdict is GateVerdict.FAILED
    assert found[gate].estimate == pytest.approx(estimate)
    assert [r.gate for r in found.values() if r.verdict is GateVerdict.FAILED] == [gate] or (
        gate == "coverage"  # so low is far below the last one, too
    )


def test_what_the_device_did_before_is_not_laid_on_the_new_variant() -> None:
    hot = replace(BEFORE, throttled=True)
    report = judged(rows(40, before=hot, verdict=Verdict.THROTTLED), EVERY)["thermal"]
    assert (report.verdict, report.estimate) == (GateVerdict.HOLDS, 0.0)
    first = judged(rows(40, before=None, verdict=Verdict.THROTTLED), EVERY)
    assert first["thermal"].verdict is GateVerdict.FAILED, "nothing before: taken as it is"
    assert first["memory"].verdict is GateVerdict.MISSING, "nothing before: no pass either"


def test_a_device_without_a_thermal_sensor_says_nothing() -> None:
    silent = judged(rows(40, conditions={}), EVERY)["thermal"]
    assert (silent.verdict, silent.missing) == (GateVerdict.MISSING, 40)
    assert footprint.throttled(replace(NEW, verdict=Verdict.TOO_SHORT)) is None
    emulated = replace(NEW, verdict=Verdict.EMULATED)
    assert footprint.throttled(emulated) is None
    assert footprint.of("v", emulated).peak_memory_bytes is None
    assert footprint.of("v", emulated).integer_coverage == 0.9


def test_nothing_of_it_is_asked_unless_it_is_said() -> None:
    assert [check.name for check in observing.checks(Gate())] == ["failures", "latency"]
    assert not observing.needs_before(Gate(energy_ratio_max=1.1))
    assert observing.needs_before(Gate(thermal_share_max=0.0))


def test_all_gates_together_halt_a_good_release_no_more_often_than_stated() -> None:
    """200 rollouts of 3 cohorts on the border of every claim, looked at after every fifth end."""
    rate, chance = 0.1, random.Random(7)
    made = replace(RUNNING, gate=replace(EVERY, false_halt_rate=rate))
    halts = sum(_halts(made.gate, chance) for _ in range(200))
    assert halts <= 200 * rate
    assert _halts(made.gate, chance, worse=0.6), "else the rows show nothing"


def _halts(gate: Gate, chance: random.Random, worse: float = 0.0) -> bool:
    made = replace(RUNNING, gate=gate)
    ends = [[_device(chance, worse) for _ in range(40)] for _ in range(3)]
    for seen in range(5, 41, 5):
        cohorts = [
            gates.Cohort(key=str(n), members=60, deployments=of[:seen], devices={}, place=n)
            for n, of in enumerate(ends)
        ]
        if gates.failed(gates.judge(cohorts, made, now=NOW + 60.0, final=False)):
            return True
    return False


def _device(chance: random.Random, worse: float) -> Deployment:
    """On the border: half are above each ratio, and each share is what is allowed."""

    def above(limit: float) -> float:
        return limit * (1.01 if chance.random() < 0.5 + worse / 2 else 0.99)

    taken = replace(
        timed(ratio=above(1.1)), peak_memory_bytes=int(10_000 * above(1.2)),
        verdict=Verdict.THROTTLED if chance.random() < 0.1 + worse else Verdict.VALID,
        integer_coverage=0.4 if chance.random() < 0.05 + worse else 0.9 - above(0.05),
        agreement=0.99 - above(0.02), conditions=COOL,
    )  # fmt: skip
    outcome = GOOD if chance.random() > 0.05 else BAD
    return replace(ended("x", outcome), measurement=taken, before=BEFORE)
