"""Two variants beside each other: what counts, what is told, and what is not."""

from __future__ import annotations

import math
import random
from dataclasses import replace
from typing import Any

import pytest

from controller.domain.comparison import Finding, compare, median_interval
from controller.domain.paired import Quantity, Taken
from fitment.core.measurement import Energy, Latency, Measurement, ReadingStatus, Verdict

A, B, OTHER = "sha256:a", "sha256:b", "sha256:c"


def latency(ms: float, spread: float = 0.02) -> Latency:
    return Latency(
        count=300, mean_ms=ms, min_ms=ms, p50_ms=ms, p50_low_ms=ms * (1 - spread),
        p50_high_ms=ms * (1 + spread), p95_ms=ms * 1.2,
    )  # fmt: skip


def measured(bundle: str, ms: float = 1.0, **more: object) -> Measurement:
    values: dict[str, Any] = {
        "id": "m", "bundle": bundle, "runtime": "onnx 1", "threads": 1, "verdict": Verdict.VALID,
        "latency": latency(ms), "agreement": 0.99, "peak_memory_bytes": 1000,
        "energy": Energy(status=ReadingStatus.UNAVAILABLE, reason="no sensor"),
        "hardware": "h", "stack": "s",
    }  # fmt: skip
    return Measurement(**(values | more))


def taken(device: str, bundle: str, ms: float = 1.0, *, at: float = 0.0, **more: object) -> Taken:
    return Taken(
        device=device, profile="p", at=at, source=f"{device}-{at}",
        measurement=measured(bundle, ms, **more),
    )  # fmt: skip


def joules(value: float, status: ReadingStatus = ReadingStatus.MEASURED) -> Energy:
    return Energy(status=status, value_mj=value, method="rapl", scope="package")


def rows(all_taken: list[Taken]) -> dict[Quantity, Any]:
    (group,), _ = compare(frozenset({A}), frozenset({B}), all_taken)
    return {row.quantity: row for row in group.rows}


def fleet_of(count: int, ratio: float, **of_b: object) -> list[Taken]:
    made = []
    for n in range(count):
        ms = 1.0 + 0.3 * n  # devices differ by more than variants do
        made += [taken(f"d{n:02}", A, ms), taken(f"d{n:02}", B, ms * ratio, **of_b)]
    return made


@pytest.mark.parametrize(
    ("ratio", "finding"),
    [(0.5, Finding.BETTER), (2.0, Finding.WORSE), (1.0, Finding.NO_DIFFERENCE)],
)
@pytest.mark.parametrize("count", [1, 5, 6, 40])
def test_each_device_is_its_own_measure(count: int, ratio: float, finding: Finding) -> None:
    row = rows(fleet_of(count, ratio))[Quantity.LATENCY]
    assert row.finding is finding
    assert row.change.value == pytest.approx(ratio)
    assert (row.pairs, row.a_devices, row.b_devices) == (count, count, count)
    assert ("not statistical" in row.because) is (count < 6)
    assert (row.change.low is None) is (count < 6)
    if count < 6:
        assert f"of {count} device(s) {count} {finding.value}" in row.because


def test_devices_that_do_not_agree_are_mixed() -> None:
    found = [
        taken("a", A), taken("a", B, 0.5), taken("b", A), taken("b", B, 2.0),
        taken("c", A), taken("c", B, 0.5),
    ]  # fmt: skip
    row = rows(found)[Quantity.LATENCY]
    assert row.finding is Finding.MIXED
    assert row.because == "not statistical: of 3 device(s) 2 better, 1 worse"


def test_a_value_without_an_interval_only_leans() -> None:
    found = rows([taken("a", A, energy=joules(2.0)), taken("a", B, energy=joules(1.0))])
    row = found[Quantity.ENERGY]
    assert (row.finding, row.change.value) == (Finding.LEANS_BETTER, 0.5)
    assert found[Quantity.MEMORY].finding is Finding.NO_DIFFERENCE


def test_more_agreement_is_better_and_counted_in_points() -> None:
    row = rows(fleet_of(8, 1.0, agreement=0.97))[Quantity.AGREEMENT]
    assert row.finding is Finding.WORSE
    assert row.change.value == pytest.approx(-0.02)


def test_an_interleaved_run_beats_two_apart() -> None:
    apart = [taken("a", A, 1.0, at=1.0), taken("a", B, 2.0, at=2.0)]
    together = taken("a", B, 0.8, at=2.0, baseline=A, baseline_latency=latency(1.0))
    _, (device,) = compare(frozenset({A}), frozenset({B}), [apart[0], together])
    assert device.interleaved
    assert device.changes["latency"].value == pytest.approx(0.8)
    # and the other way round: A was the new one
    back = taken("a", A, 1.0, at=3.0, baseline=B, baseline_latency=latency(0.5))
    _, (device,) = compare(frozenset({A}), frozenset({B}), [*apart, back])
    assert device.changes["latency"].value == pytest.approx(0.5)
    # one that was disturbed says nothing
    bad = replace(together, measurement=replace(together.measurement, verdict=Verdict.CONTENDED))
    _, (device,) = compare(frozenset({A}), frozenset({B}), [*apart, bad])
    assert not device.interleaved
    assert device.changes["latency"].value == pytest.approx(2.0)


@pytest.mark.parametrize(
    ("of_b", "quantity", "why"),
    [
        ({"stack": "other"}, Quantity.LATENCY, "different hardware or stacks"),
        ({"verdict": Verdict.THROTTLED}, Quantity.LATENCY, "B's measurement is throttled"),
        ({"latency": None}, Quantity.LATENCY, "not timed"),
        ({"agreement": None}, Quantity.AGREEMENT, "not compared with fp32"),
        ({"peak_memory_bytes": None}, Quantity.MEMORY, "no peak memory"),
        ({}, Quantity.ENERGY, "no sensor"),
        ({"bundle": OTHER}, Quantity.LATENCY, "B was not measured here"),
    ],
)
def test_what_cannot_be_compared_says_why(
    of_b: dict[str, object], quantity: Quantity, why: str
) -> None:
    other = measured(B)
    other = replace(other, **of_b)  # type: ignore[arg-type]
    found = [taken("a", A), replace(taken("a", B), measurement=other)]
    row = rows(found)[quantity]
    assert (row.finding, row.pairs, row.change.value) == (Finding.UNKNOWN, 0, None)
    assert why in row.because


def test_energy_of_two_kinds_is_not_compared() -> None:
    found = [
        taken("a", A, energy=joules(2.0)),
        taken("a", B, energy=joules(1.0, ReadingStatus.ESTIMATED)),
    ]
    row = rows(found)[Quantity.ENERGY]
    assert (row.finding, row.change.value) == (Finding.UNKNOWN, None)
    assert "measured, rapl there, estimated, rapl here" in row.because


def test_a_disturbed_run_is_shown_and_counts_for_nothing() -> None:
    found = [taken("a", A), taken("a", B, 9.0, verdict=Verdict.CONTENDED, reasons=("busy",))]
    (group,), (device,) = compare(frozenset({A}), frozenset({B}), found)
    assert group.left_out == {"contended": 1}
    assert device.b is not None
    assert (device.b.latency_ms.value, device.b.reasons) == (9.0, ("busy",))
    assert [row.b_devices for row in group.rows] == [0, 0, 0, 0]


def test_the_newest_valid_one_counts() -> None:
    found = [
        taken("a", A, 1.0), taken("a", B, 3.0, at=1.0), taken("a", B, 2.0, at=2.0),
        taken("a", B, 9.0, at=3.0, verdict=Verdict.DRIFTING),
    ]  # fmt: skip
    random.Random(1).shuffle(found)
    assert rows(found)[Quantity.LATENCY].change.value == pytest.approx(2.0)


def test_stand_ins_are_a_group_of_their_own() -> None:
    found = [*fleet_of(2, 0.5), taken("e", A, emulated=True), taken("e", B, 2.0, emulated=True)]
    groups, devices = compare(frozenset({A}), frozenset({B}), found)
    assert [(g.emulated, g.devices, g.rows[0].finding) for g in groups] == [
        (False, 2, Finding.BETTER), (True, 1, Finding.WORSE),
    ]  # fmt: skip
    assert [d.emulated for d in devices] == [False, False, True]


def test_several_bundles_may_be_one_variant() -> None:
    found = [taken("a", A), taken("a", B, 0.5), taken("b", OTHER), taken("b", B, 0.5)]
    (group,), _ = compare(frozenset({A, OTHER}), frozenset({B}), found)
    assert group.rows[0].pairs == 2


def test_nothing_measured_is_nothing_shown() -> None:
    assert compare(frozenset({A}), frozenset({B}), []) == ((), ())


@pytest.mark.parametrize("count", [6, 11, 40])
def test_the_interval_holds_the_median_as_often_as_it_says(count: int) -> None:
    chance = random.Random(count)
    truth = math.exp(0.0)
    held = 0
    for _ in range(2000):
        bounds = median_interval([chance.lognormvariate(0.0, 0.7) for _ in range(count)])
        assert bounds is not None
        held += bounds[0] <= truth <= bounds[1]
    assert held / 2000 >= 0.935  # 95 % but for the chance of 2000 draws


def test_five_give_no_interval() -> None:
    assert median_interval([1.0] * 5) is None
    assert median_interval([float(n) for n in range(1500)]) == (711.0, 788.0)
