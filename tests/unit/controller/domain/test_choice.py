"""Which variant a cohort gets, and the words that go with it."""

from __future__ import annotations

import random
from dataclasses import replace

import pytest

from controller.domain import choice, confirm, ranking
from controller.domain.evidence import SliceEvidence
from controller.domain.fleet import Budget, Variant
from fitment.core.deployment import BundleRef
from fitment.core.measurement import (
    Cost,
    CostKind,
    Energy,
    Latency,
    Measurement,
    ReadingStatus,
    Verdict,
)


def variant(name: str, ms: float, *, drop: float = 0.0, kb: int = 100) -> Variant:
    bundle = BundleRef(
        variant=name, name=name, archive=f"a-{name}", archive_bytes=kb * 1000, target=name
    )
    return Variant(
        name=name, bundle=bundle, model="m", format="onnx", runtime="onnx", scheme="fp32",
        recipe=(), recipe_digest="", accuracy=None, accuracy_interval=None, agreement=0.99,
        sqnr_db=None, guard_accuracy=0.9 - drop, guard_accuracy_drop=drop, guard_agreement=0.99,
        integer_coverage=None, file_bytes=kb * 1000, wire_bytes=kb * 800, macs=1,
        predicted=Cost(value=ms, unit="ms", kind=CostKind.INTERPOLATED),
    )  # fmt: skip


def measured(name: str, ms: float, verdict: Verdict = Verdict.VALID) -> Measurement:
    latency = Latency(
        count=200, mean_ms=ms, min_ms=ms, p50_ms=ms, p50_low_ms=ms, p50_high_ms=ms, p95_ms=ms
    )
    energy = Energy(status=ReadingStatus.UNAVAILABLE, reason="no sensor")
    return Measurement(
        id=name, bundle=name, runtime="onnx", threads=1, verdict=verdict, energy=energy,
        latency=latency,
    )  # fmt: skip


FP32 = variant("fp32", 1.0, kb=1000)
INT8 = variant("int8", 0.4, drop=0.002)
PRUNED = variant("int8-pruned", 0.2, drop=0.012, kb=50)
ALL = (FP32, INT8, PRUNED)


@pytest.mark.parametrize(
    ("budget", "chosen"),
    [
        (Budget(), "int8-pruned"),
        (Budget(accuracy_drop_max=0.01), "int8"),
        (Budget(accuracy_drop_max=0.001), "fp32"),
        (Budget(file_bytes_max=60_000), "int8-pruned"),
        (Budget(file_bytes_max=60_000, accuracy_drop_max=0.01), ""),
        (Budget(latency_p95_max_ms=0.3), "int8-pruned"),
        (Budget(agreement_min=0.999), ""),
    ],
)
def test_the_fastest_within_the_budget(budget: Budget, chosen: str) -> None:
    assert choice.choose(ALL, budget, {}).chosen == chosen


def test_a_tenth_of_the_accuracy_budget_is_kept_back() -> None:
    budget = Budget(accuracy_drop_max=0.0125)
    assert choice.choose(ALL, budget, {}).chosen == "int8"
    alone = choice.choose((PRUNED,), budget, {})
    assert alone.chosen == "int8-pruned"
    assert "spends the reserve" in alone.reason


def test_measurements_beat_predictions() -> None:
    taken = {n: measured(n, ms) for n, ms in (("int8", 4.5), ("int8-pruned", 2.0), ("fp32", 1.0))}
    found = choice.choose(ALL, Budget(), taken)
    assert found.chosen == "fp32"
    assert found.ranked == ("fp32", "int8-pruned", "int8")


def test_a_disturbed_measurement_is_named() -> None:
    taken = {"int8": measured("int8", 0.1, Verdict.CONTENDED), "fp32": measured("fp32", 1.0)}
    reason = choice.choose((FP32, INT8), Budget(), taken).reason
    assert "0.100 ms p50 measured (contended), 10.0 times faster than fp32" in reason


def test_near_ties_go_to_the_smaller_transfer() -> None:
    twin = variant("twin", 0.205, kb=20)
    assert choice.choose((PRUNED, twin), Budget(), {}).chosen == "twin"


def test_nothing_fits_and_the_nearest_is_named() -> None:
    found = choice.choose(ALL, Budget(file_bytes_max=40_000), {})
    assert found.chosen == ""
    assert "int8-pruned came closest: file bytes 50000 is above 40000 (25 % off)" in found.reason
    assert set(found.rejected) == {"fp32", "int8", "int8-pruned"}


def test_missing_readings_do_not_reject() -> None:
    budget = Budget(energy_max_mj=1.0, peak_memory_max_bytes=1)
    taken = {v.name: measured(v.name, ms) for v, ms in zip(ALL, (1.0, 0.1, 0.2), strict=True)}
    assert choice.choose(ALL, budget, taken).chosen == "int8"


def test_an_estimated_energy_is_no_reading() -> None:
    guess = Energy(status=ReadingStatus.ESTIMATED, value_mj=9.0)
    real = Energy(status=ReadingStatus.MEASURED, value_mj=9.0)
    budget = Budget(energy_max_mj=1.0)
    for energy, chosen in ((guess, "int8"), (real, "")):
        taken = {"int8": replace(measured("int8", 0.1), energy=energy)}
        assert choice.choose((INT8,), budget, taken).chosen == chosen


def test_kinds_of_cost_are_not_ranked_against_each_other() -> None:
    found = choice.choose(ALL, Budget(), {"int8": measured("int8", 0.1)})
    assert found.chosen == "int8-pruned"
    assert "0.200 ms p50 predicted (interpolated), 5.0 times faster than fp32" in found.reason
    assert "ranked by prediction" in found.reason


def test_the_tail_of_a_disturbed_run_does_not_reject() -> None:
    budget = Budget(latency_p95_max_ms=0.5)
    taken = measured("int8", 0.1, Verdict.CONTENDED)
    assert taken.latency is not None
    tail = replace(taken.latency, p95_ms=0.9)
    disturbed = replace(taken, latency=tail)
    assert choice.choose((INT8,), budget, {"int8": disturbed}).chosen == "int8"
    valid = replace(disturbed, verdict=Verdict.VALID)
    assert choice.choose((INT8,), budget, {"int8": valid}).chosen == ""


def test_what_a_device_could_not_run_is_not_chosen() -> None:
    found = choice.choose(ALL, Budget(), {}, unusable={"int8-pruned": "the device gave it up"})
    assert found.chosen == "int8"
    assert found.rejected == {"int8-pruned": "the device gave it up"}


def test_wrong_golden_answers_reject_without_a_percentage() -> None:
    wrong = replace(measured("int8", 0.1), golden_ok=False)
    found = choice.choose((INT8,), Budget(), {"int8": wrong})
    assert found.reason.endswith("int8 came closest: answers the golden inputs wrongly")


def test_a_loss_against_fp32_is_said_as_one() -> None:
    taken = {"fp32": measured("fp32", 1.0), "int8": measured("int8", 2.0)}
    budget = Budget(file_bytes_max=500_000)
    assert "2.0 times slower than fp32" in choice.choose((FP32, INT8), budget, taken).reason


def test_nothing_to_choose_from() -> None:
    assert "no variant could be made" in choice.choose((), Budget(), {}).reason


def test_the_best_few_and_fp32_are_confirmed() -> None:
    assert confirm.candidates(ALL, Budget(), top=1) == ("int8-pruned", "fp32")
    assert confirm.candidates(ALL, Budget(latency_p95_max_ms=0.01), top=2) == (
        "int8-pruned", "int8", "fp32",
    )  # fmt: skip


def _sliced(*drops: tuple[str, int, float]) -> Variant:
    parts = tuple(
        SliceEvidence(
            name=name, guard_count=count, guard_fp32=0.9, guard_value=0.9 - drop,
            test_count=count, test_fp32=0.9, test_value=0.9,
        )
        for name, count, drop in drops
    )  # fmt: skip
    return replace(INT8, slices=parts)


def test_the_slice_that_suffers_most_is_held_against_its_limit() -> None:
    found = _sliced(("class bag", 200, 0.01), ("class coat", 40, 0.3))
    choice_made = choice.choose((FP32, found), Budget(slice_drop_max=0.05), {})
    assert choice_made.chosen == "fp32"
    why = choice_made.rejected["int8"]
    assert why == "drop of class coat (40 guard inputs) 0.3 is above 0.05"


def test_a_slice_of_a_few_inputs_judges_nothing() -> None:
    found = _sliced(("class bag", 200, 0.01), ("class coat", choice.SLICE_LEAST - 1, 0.3))
    assert choice.choose((FP32, found), Budget(slice_drop_max=0.05), {}).chosen == "int8"


def test_of_equals_the_one_that_a_device_can_calibrate_comes_first() -> None:
    plain, asked = variant("plain", 0.40, kb=50), variant("asked", 0.405, kb=100)
    assert choice.choose((plain, asked), Budget(), {}).chosen == "plain"
    asked = replace(asked, calibratable=True)
    assert choice.choose((plain, asked), Budget(), {}).chosen == "asked"
    slower = replace(variant("slower", 0.8), calibratable=True)
    assert choice.choose((plain, slower), Budget(), {}).chosen == "plain"


def test_costs_of_an_emulator_are_unknown() -> None:
    """Neither its latency nor its memory; whether it answers right counts."""
    taken = replace(measured("int8", 9e3, Verdict.EMULATED), peak_memory_bytes=10**12)
    budget = Budget(latency_p95_max_ms=5.0, peak_memory_max_bytes=10**6)
    found = choice.choose((INT8,), budget, {"int8": taken})
    assert found.chosen == "int8"
    assert "0.400 ms p50 predicted (interpolated)" in found.reason
    assert choice.choose((INT8,), budget, {"int8": replace(taken, golden_ok=False)}).chosen == ""


def test_where_accuracy_is_preferred_the_most_accurate_that_keeps_to_the_budget_is_first() -> None:
    exact, lean = variant("exact", 3.0), variant("lean", 1.0, drop=0.008)
    close = variant("close", 2.0, drop=0.001)  # no worse than chance would have it
    budget = Budget(accuracy_drop_max=0.02, latency_p95_max_ms=4.0, prefer="accuracy")
    chosen = choice.choose([exact, lean, close], budget, {})
    assert chosen.ranked == tuple(v.bundle.variant for v in (close, exact, lean))
    tight = replace(budget, latency_p95_max_ms=1.5)
    assert choice.choose([exact, lean, close], tight, {}).chosen == lean.bundle.variant


@pytest.mark.parametrize("level", [0.5, 0.8, 1.0, 1.2, 1.5, 2.0, 3.0])
@pytest.mark.parametrize("seed", range(4))
def test_a_level_that_wavers_makes_no_cohort_go_up_and_down(level: float, seed: int) -> None:
    """A variant above the one that runs needs time to spare, so a tenth either way is no matter."""
    chance = random.Random(seed)
    budget = Budget(accuracy_drop_max=0.02, latency_p95_max_ms=4.0, prefer="accuracy")
    runs, changes = "", 0
    for _ in range(60):
        pace = level * chance.uniform(0.94, 1.06)
        made = [variant("exact", 3.0 * pace), variant("lean", 1.0 * pace, drop=0.008)]
        chosen = choice.choose(made, budget, {}, climbs_from=runs).chosen
        changes += bool(runs) and chosen != runs
        runs = chosen
    assert changes <= 1


def test_how_variants_compare_is_the_devices_word_and_how_slow_they_are_the_fields() -> None:
    known = {"exact": measured("exact", 3.0), "lean": measured("lean", 1.0)}
    seen = choice.at_level(known, variant("lean", 1.0), 1.5)
    assert ranking.measured_ms(seen["exact"]) == pytest.approx(4.5)
    assert choice.at_level(known, variant("other", 1.0), 1.5) == known
    assert choice.at_level(known, variant("lean", 1.0), 0.0) == known


def test_of_several_devices_the_one_in_the_middle_speaks() -> None:
    taken = [measured("v", ms) for ms in (9.0, 1.0, 1.1)]
    assert ranking.measured_ms(choice.middle(taken)) == 1.1
    assert ranking.measured_ms(choice.middle(taken[:2])) == 1.0
