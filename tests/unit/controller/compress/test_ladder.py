"""Ladder and schemes: what the target measured decides, a hint only where it did not."""

from __future__ import annotations

from dataclasses import replace

import pytest

from controller.compress.search import ladder
from controller.compress.search.ladder import Plan, RuntimeTarget
from controller.compress.search.scheme import rank_schemes
from controller.errors import FitError
from fitment.core.kernels import KernelTable, KernelTiming
from fitment.core.measurement import Verdict

ONNX = RuntimeTarget(runtime="onnx", format="onnx", schemes=("u8s8", "s8s8", "fp32", "dynamic"))
LITERT = RuntimeTarget(runtime="litert", format="tflite", schemes=("s8s8", "fp32"))


def _table(verdict: Verdict = Verdict.VALID, **times_us: float) -> KernelTable:
    timings = tuple(
        KernelTiming(kernel="gemm:c8:k8", scheme=scheme, macs=64, p50_us=time, count=10)
        for scheme, time in times_us.items()
    )
    return KernelTable(
        runtime="onnx", runtime_version="1.32", hardware="h", stack="s", threads=1,
        verdict=verdict, emulated=False, timings=timings,
    )  # fmt: skip


def _names(plan: Plan) -> list[str]:
    return [rung.label for rung in ladder.build(plan).rungs]


def test_the_quick_ladder_of_a_torch_source() -> None:
    assert _names(Plan(targets=(ONNX,), machine="x86_64")) == [
        "fp32",
        "int8-u8s8",
        "int8-u8s8-w4",
        "int8-dynamic",
        "fp32-pruned50-kd",
        "int8-u8s8-pruned50-kd",
        "int8-u8s8-w4-pruned50-kd",
    ]


def test_litert_has_signed_int8_and_no_dynamic() -> None:
    found = ladder.build(Plan(targets=(LITERT,))).rungs
    assert [r.name for r in found] == [
        "fp32", "int8-s8s8", "int8-s8s8-w4",
        "fp32-pruned50-kd", "int8-s8s8-pruned50-kd", "int8-s8s8-w4-pruned50-kd",
    ]  # fmt: skip
    assert all(r.recipe.text[-1] == "emit_litert" for r in found)
    assert found[0].label == "fp32@litert"


def test_an_onnx_source_is_not_pruned() -> None:
    plan = Plan(targets=(ONNX, LITERT), torch_source=False)
    assert not any("pruned" in name for name in _names(plan))


def test_thorough_tries_more_ratios_schemes_and_calibrators() -> None:
    names = _names(Plan(targets=(ONNX,), effort="thorough", machine="x86_64"))
    assert {"int8-u8s8-w4", "int8-u8s8-w3-pruned30-kd"} <= set(names)
    assert {"fp32-short40-pruned50-kd", "int8-u8s8-w3-short40-pruned65-kd"} <= set(names)
    assert {"int8-u8s8-kl", "int8-s8s8", "fp32-pruned30-kd", "int8-u8s8-pruned65-kd"} <= set(names)
    assert {"int8-u8s8-mixed", "int8-u8s8-mixed-pruned50-kd"} <= set(names)
    trained = {name for name in names if "qat" in name}
    assert trained == {"int8-u8s8-w2-qat-pruned65-kd", "int8-u8s8-w2-qat-short40-pruned65-kd"}
    assert len(names) == len(set(names))


def test_variants_of_one_network_share_the_dear_part() -> None:
    rungs = ladder.build(Plan(targets=(ONNX, LITERT))).rungs
    heads = {rung.recipe.split()[0].digest for rung in rungs if "pruned" in rung.name}
    assert len(heads) == len(ladder.QUICK_CUTS)


def test_slimmable_widths_are_rungs_where_they_are_asked_for() -> None:
    plan = Plan(targets=(ONNX,), machine="x86_64", extras=("slimmable",), recover={"epochs": 1.0})
    found = [rung for rung in ladder.build(plan).rungs if rung.slim]
    assert [rung.name for rung in found] == [
        "fp32-slim100", "int8-u8s8-slim100", "int8-u8s8-w4-slim100",
        "fp32-slim50", "int8-u8s8-slim50", "int8-u8s8-w4-slim50",
        "fp32-slim25", "int8-u8s8-slim25", "int8-u8s8-w4-slim25",
    ]  # fmt: skip
    assert len({rung.recipe.steps[0] for rung in found}) == 1  # one training for all
    assert "epochs=1" in found[0].recipe.text[0]
    assert not any(rung.slim for rung in ladder.build(replace(plan, extras=())).rungs)
    assert not any(rung.slim for rung in ladder.build(replace(plan, torch_source=False)).rungs)


@pytest.mark.parametrize(
    ("rules", "texts"),
    [
        (("per_tensor",), ("equalize", "per_channel=False", "centred=False")),
        (("per_tensor", "power_of_two"), ("equalize", "per_channel=False", "power_of_two=True")),
        (("centred",), ("per_channel=True", "centred=True", "power_of_two=False")),
    ],
)
@pytest.mark.parametrize("effort", ladder.EFFORTS)
def test_no_rung_breaks_the_rules_of_the_target(
    effort: str, rules: tuple[str, ...], texts: tuple[str, ...]
) -> None:
    plan = Plan(targets=(replace(LITERT, rules=rules),), effort=effort, extras=("slimmable",))
    names = [rung.name for rung in ladder.build(plan).rungs]
    assert {"int8-s8s8", "int8-s8s8-pruned50-kd", "int8-s8s8-slim25"} <= set(names)
    for rung in ladder.build(plan).rungs:
        if rung.scheme != "fp32" and not rung.name.endswith("-tensor"):
            recipe = " ".join(rung.recipe.text)
            assert all(text in recipe for text in texts), recipe
            assert "reconstruct" not in recipe  # it chooses scales by itself


def test_thorough_tries_one_scale_for_all_channels() -> None:
    found = ladder.build(Plan(targets=(ONNX,), effort="thorough", machine="x86_64")).rungs
    (rung,) = (rung for rung in found if rung.name == "int8-u8s8-tensor")
    assert "per_channel=False" in " ".join(rung.recipe.text)


@pytest.mark.parametrize(
    ("times", "machine", "first"),
    [
        ({"fp32": 10, "u8s8": 5, "s8s8": 20}, "x86_64", "u8s8"),
        ({"fp32": 10, "u8s8": 15, "s8s8": 4}, "x86_64", "s8s8"),
        ({"fp32": 10, "u8s8": 5.1, "s8s8": 5}, "x86_64", "u8s8"),  # a tie
        ({"fp32": 10, "u8s8": 5, "s8s8": 5.1}, "aarch64", "s8s8"),
        ({}, "x86_64", "u8s8"),
        ({}, "aarch64", "s8s8"),
        ({"u8s8": 5, "s8s8": 2}, "x86_64", "u8s8"),  # nothing without fp32 to compare with
    ],
)
def test_the_table_decides(times: dict[str, float], machine: str, first: str) -> None:
    tables = [_table(**times)] if times else []
    found = rank_schemes("onnx", ONNX.schemes, tables, machine=machine)
    assert found.ranked[0] == first
    assert ("relative to fp32" in found.reason) == ("fp32" in times)


def test_a_disturbed_table_gives_way_to_a_valid_one() -> None:
    tables = [
        _table(Verdict.CONTENDED, fp32=10, u8s8=1, s8s8=9),
        _table(fp32=10, u8s8=9, s8s8=1),
    ]
    assert rank_schemes("onnx", ONNX.schemes, tables, machine="x86_64").ranked[0] == "s8s8"
    only = rank_schemes("onnx", ONNX.schemes, tables[:1], machine="x86_64")
    assert "its verdict is contended" in only.reason


def test_a_target_without_int8_says_so() -> None:
    found = rank_schemes("onnx", ("fp32",), [], machine="x86_64")
    assert (found.ranked, found.reason) == ((), "the target allows no static int8 on onnx")


def test_hints_of_the_workload_reach_distillation() -> None:
    plan = Plan(targets=(ONNX,), recover={"epochs": 1.0, "alpha": 1.0})
    assert "epochs=1" in ladder.pruned_head(plan, ladder.Cut(0.5)).text[1]
    assert "alpha=1.0" in ladder.pruned_head(plan, ladder.Cut(0.5)).text[1]


@pytest.mark.parametrize(
    ("plan", "words"),
    [
        (Plan(targets=(ONNX,), effort="heroic"), "effort 'heroic' is not one of"),
        (Plan(targets=()), "allows no runtime"),
        (Plan(targets=(ONNX,), extras=("winged",)), "no rungs 'winged', only: slimmable"),
    ],
)
def test_impossible_plans_are_refused(plan: Plan, words: str) -> None:
    with pytest.raises(FitError, match=words):
        ladder.build(plan)
