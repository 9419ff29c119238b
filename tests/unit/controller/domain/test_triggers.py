"""When a fit is asked for, and when not again."""

from __future__ import annotations

from dataclasses import replace

import pytest

from controller.domain import triggers
from controller.domain.fleet import Budget, Cohort, Deployment, Device, Trigger, TriggerKind
from controller.domain.triggers import Answer
from fitment.core.deployment import Outcome, ReportedState
from fitment.core.fingerprint import Facet, Fingerprint
from fitment.core.measurement import Energy, Latency, Measurement, ReadingStatus, Verdict

PLAIN = Fingerprint(
    chassis=Facet.of({"board": "x"}), hardware=Facet.of({"cpu": "a76"}),
    stack=Facet.of({"runtime.onnx": "1.31"}), condition=Facet.of({"governor": "performance"}),
)  # fmt: skip
NEWER = replace(PLAIN, stack=Facet.of({"runtime.onnx": "1.32"}))


def device(seen: Fingerprint) -> Device:
    reported = ReportedState(
        boot_id="b", agent_version="1", observed_generation=0, fingerprint=seen
    )
    return Device(name="d", profile="p", reported=reported)


def cohort(seen: Fingerprint) -> Cohort:
    return Cohort(profile="p", hardware=seen.hardware.hash, stack=seen.stack.hash)


RUNNING = Deployment(
    id="1", rollout="r", release="r1", device="d", slot="s", variant="v", wave=0, created_at=1.0,
    outcome=Outcome.COMMITTED, ended_at=10.0, cohort=cohort(PLAIN), fingerprint=PLAIN,
)  # fmt: skip


def trigger(**changes: object) -> Trigger:
    made = Trigger(
        id="t", kind=TriggerKind.STACK_CHANGED, device="d", model="m", cohort=cohort(NEWER),
        reason="", created_at=20.0,
    )  # fmt: skip
    return replace(made, **changes)  # type: ignore[arg-type]


def test_a_device_in_another_cohort_than_its_variant_asks_for_a_fit() -> None:
    found = triggers.moved(device(NEWER), RUNNING)
    assert found is not None
    assert found.kind is TriggerKind.STACK_CHANGED
    assert found.reason == "stack changed: runtime.onnx '1.31' → '1.32'"


def test_a_device_that_came_back_asks_for_nothing() -> None:
    assert triggers.moved(device(PLAIN), RUNNING) is None


def test_an_unknown_past_asks_for_nothing() -> None:
    assert triggers.moved(device(NEWER), replace(RUNNING, cohort=None)) is None


@pytest.mark.parametrize(
    ("known", "now", "answer"),
    [
        ([], 30.0, Answer.OPEN),
        ([trigger()], 30.0, Answer.ANSWERED),  # one is open
        ([trigger(closed_at=25.0)], 999.0, Answer.ANSWERED),  # it was closed for this deployment
        ([trigger(created_at=5.0, closed_at=9.0)], 999.0, Answer.OPEN),  # for an earlier one
        ([trigger(created_at=5.0, closed_at=9.0)], 30.0, Answer.LATER),  # the pause
        ([trigger(cohort=cohort(PLAIN), closed_at=25.0)], 30.0, Answer.LATER),
        ([trigger(cohort=cohort(PLAIN), closed_at=25.0)], 99.0, Answer.OPEN),
        ([trigger(cohort=cohort(PLAIN))], 99.0, Answer.OPEN),  # it changed while one was open
        # Of another device of the cohort: joined until it is rolled out, then waited for.
        ([trigger(device="e")], 30.0, Answer.JOIN),
        ([trigger(device="e", devices={"e": 20.0, "f": 21.0})], 30.0, Answer.JOIN),
        ([trigger(device="e", devices={"e": 20.0, "d": 21.0})], 30.0, Answer.ANSWERED),
        ([trigger(device="e", rollout="r")], 30.0, Answer.LATER),
        ([trigger(device="e", by_level=True)], 30.0, Answer.LATER),
        ([trigger(device="e", closed_at=25.0)], 30.0, Answer.LATER),  # the cohort's pause
        ([trigger(device="e", closed_at=25.0)], 84.0, Answer.LATER),  # twice as long after one
        ([trigger(device="e", closed_at=25.0)], 86.0, Answer.OPEN),
    ],
)
def test_one_answer_for_one_question(known: list[Trigger], now: float, answer: Answer) -> None:
    assert triggers.may_open("d", cohort(NEWER), known, since=10.0, now=now) is answer


LATENCY = Latency(
    count=200, mean_ms=1.0, min_ms=1.0, p50_ms=1.0, p50_low_ms=1.0, p50_high_ms=1.0, p95_ms=2.0
)
MEASURED = Measurement(
    id="m", bundle="v", runtime="onnx", threads=1, verdict=Verdict.VALID, latency=LATENCY,
    energy=Energy(status=ReadingStatus.MEASURED, value_mj=5.0), peak_memory_bytes=100,
)  # fmt: skip


@pytest.mark.parametrize(
    ("budget", "words"),
    [
        (Budget(), ""),
        (Budget(latency_p95_max_ms=2.5), ""),
        (Budget(latency_p95_max_ms=1.5), "p95 latency 2 ms is above 1.5 ms"),
        (Budget(energy_max_mj=4.0), "energy 5 mJ is above 4 mJ"),
        (Budget(peak_memory_max_bytes=99), "peak memory 100 bytes is above 99 bytes"),
    ],
)
def test_a_missed_budget_is_named(budget: Budget, words: str) -> None:
    found = triggers.missed(MEASURED, budget)
    assert (found.reason if found else "") == (f"budget missed: {words}" if words else "")


def test_a_disturbed_or_missing_measurement_misses_nothing() -> None:
    budget = Budget(latency_p95_max_ms=0.1)
    assert triggers.missed(replace(MEASURED, verdict=Verdict.CONTENDED), budget) is None
    assert triggers.missed(None, budget) is None
