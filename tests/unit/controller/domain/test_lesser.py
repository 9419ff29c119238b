"""Which lesser variants stand below a choice, of what they take less, and the words for it."""

from __future__ import annotations

from dataclasses import replace

import pytest

from controller.domain import lesser
from controller.domain.fleet import Budget, Variant
from controller.domain.lesser import Case
from fitment.core.deployment import Pressure
from fitment.core.measurement import Energy, Measurement, ReadingStatus

from .test_choice import measured, variant

HEAT, BATTERY, MEMORY = Pressure.HEAT, Pressure.BATTERY, Pressure.MEMORY
CHOSEN = replace(variant("int8", 1.0, drop=0.005, kb=100), scheme="u8s8")
NARROW = replace(variant("int8-narrow", 0.6, drop=0.02, kb=60), scheme="u8s8")
NARROWER = replace(variant("int8-narrower", 0.3, drop=0.04, kb=30), scheme="u8s8")
FP32 = variant("fp32", 2.0, kb=400)
FP32_LITERT = replace(variant("fp32-litert", 3.0, kb=500), runtime="litert", format="tflite")
ALL = (FP32, CHOSEN, NARROW, NARROWER, FP32_LITERT)
WIDE = Budget(accuracy_drop_max=0.01, agreement_min=0.99, latency_p95_max_ms=0.1,
              lesser_accuracy_drop_max=0.05)  # fmt: skip


def names(made: lesser.Ladder) -> list[str]:
    return [rung.variant for rung in made.rungs]


def with_energy(name: str, ms: float, mj: float) -> Measurement:
    energy = Energy(status=ReadingStatus.MEASURED, value_mj=mj, method="m", scope="device")
    return replace(measured(name, ms), energy=energy)


@pytest.mark.parametrize(
    ("budget", "expected"),
    [
        (Budget(accuracy_drop_max=0.01), ["fp32-litert"]),
        (WIDE, ["int8-narrow", "int8-narrower", "fp32-litert"]),
        (replace(WIDE, lesser_accuracy_drop_max=0.03), ["int8-narrow", "fp32-litert"]),
        (replace(WIDE, lesser_accuracy_drop_max=0.01), ["fp32-litert"]),
        (replace(WIDE, file_bytes_max=450_000), ["int8-narrow", "int8-narrower", "fp32"]),
        (replace(WIDE, file_bytes_max=100_000), ["int8-narrow", "int8-narrower"]),
    ],
)
def test_cheaper_ones_by_quality_then_the_portable_one(budget: Budget, expected: list[str]) -> None:
    made = lesser.ladder(CHOSEN, ALL, Case(budget=budget))
    assert names(made) == expected
    assert [rung.portable for rung in made.rungs] == ["fp32" in name for name in expected]


def test_each_says_of_what_it_takes_less_and_why_it_is_there() -> None:
    made = lesser.ladder(CHOSEN, ALL, Case(budget=WIDE))
    assert [rung.relieves for rung in made.rungs] == [
        (HEAT, BATTERY, MEMORY), (HEAT, BATTERY, MEMORY), ()
    ]  # fmt: skip
    assert made.rungs[0].reason == (
        "cheaper; 0.6 ms p50, chosen 1 predicted; 60 kB in the file, chosen 100; "
        "guard accuracy -2.00 points of 5.0 allowed"
    )
    assert "litert instead" in made.rungs[2].reason
    assert made.reason == ""


def test_measured_figures_count_before_predicted_ones() -> None:
    times = {"int8": measured("int8", 1.0), "int8-narrow": measured("int8-narrow", 0.98)}
    assert lesser.relieved(NARROW, CHOSEN, Case(budget=WIDE, measured=times)) == (MEMORY,)


def test_energy_counts_before_time() -> None:
    slower = {"int8": with_energy("int8", 1.0, 5.0), "int8-narrow": with_energy("b", 1.2, 3.0)}
    case = Case(budget=WIDE, measured=slower)
    assert HEAT in lesser.relieved(NARROW, CHOSEN, case)
    faster = {"int8": with_energy("int8", 1.0, 5.0), "int8-narrow": with_energy("b", 0.5, 5.1)}
    assert HEAT not in lesser.relieved(NARROW, CHOSEN, Case(budget=WIDE, measured=faster))


def test_what_a_device_could_not_run_or_answers_wrongly_is_no_rung() -> None:
    wrong = {"int8-narrow": replace(measured("int8-narrow", 0.5), golden_ok=False)}
    failed = {"fp32-litert": "the device could not run it"}
    made = lesser.ladder(CHOSEN, ALL, Case(budget=WIDE, measured=wrong, unusable=failed))
    assert names(made) == ["int8-narrower", "fp32"]
    assert "the same runtime" in made.rungs[1].reason


def test_what_must_pass_must_pass_on_a_lesser_rung_as_well() -> None:
    failing = replace(NARROW, must_pass_failed=1)
    assert names(lesser.ladder(CHOSEN, (failing, FP32), Case(budget=WIDE))) == ["fp32"]


def test_a_variant_hardly_lighter_than_the_one_above_is_left_out() -> None:
    near = replace(variant("near", 0.58, drop=0.03, kb=58), scheme="u8s8")
    assert names(lesser.ladder(CHOSEN, (NARROW, near), Case(budget=WIDE))) == ["int8-narrow"]


def test_without_labels_agreement_stands_for_accuracy() -> None:
    def unlabelled(made: Variant, agreement: float) -> Variant:
        return replace(made, guard_accuracy_drop=None, guard_agreement=agreement)

    good, bad = unlabelled(NARROW, 0.96), unlabelled(NARROWER, 0.80)
    assert names(lesser.ladder(CHOSEN, (good, bad), Case(budget=WIDE))) == ["int8-narrow"]


def test_what_is_missing_is_said() -> None:
    made = lesser.ladder(CHOSEN, (CHOSEN,), Case(budget=WIDE))
    assert names(made) == []
    assert "no cheaper variant keeps to the wider accuracy budget" in made.reason
    assert "no portable fallback: the chosen variant has none" in made.reason
    alone = lesser.ladder(FP32, (FP32,), Case(budget=Budget()))
    assert "the chosen variant is the portable one" in alone.reason
