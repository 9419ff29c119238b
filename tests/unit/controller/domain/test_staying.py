"""What the control group changed by is not laid on a release: energy, memory, heat."""

from __future__ import annotations

import random
from dataclasses import replace

import pytest

from controller.domain import gates, sequential, staying
from controller.domain.fleet import Gate, Rollout
from controller.domain.footprint import Footprint
from controller.domain.judgement import GateReport, GateVerdict
from controller.domain.staying import Kept
from controller.domain.studies import ControlMark
from fitment.core.measurement import Energy, Measurement, ReadingStatus, Verdict
from tests.scenarios.test_rollout import GOOD, NOW, RUNNING, ended, timed

OLD = Footprint(variant="old", peak_memory_bytes=10_000, throttled=False)
GATE = Gate(
    max_failure_share=0.05, latency_ratio_max=None, energy_ratio_max=1.2, memory_ratio_max=1.2,
    thermal_share_max=0.1,
)  # fmt: skip
HELD = replace(RUNNING, gate=GATE, control_below=0.3, waves=(0.5, 1.0))
NAMES = ("energy", "memory", "thermal")


def took(times: float, *, hot: bool = False) -> Measurement:
    """So many times what it was before, in energy and memory."""
    return replace(
        timed(), peak_memory_bytes=int(10_000 * times), conditions={"temperature_c": 50.0},
        energy=Energy(status=ReadingStatus.MEASURED, value_mj=2.0 * times),
        verdict=Verdict.THROTTLED if hot else Verdict.VALID,
    )  # fmt: skip


def updated(count: int, times: float, *, hot: bool = False, wave: int = 0) -> list:
    return [
        replace(ended(f"{n:03}", GOOD), measurement=took(times, hot=hot), before=OLD, wave=wave,
                energy_before_mj=2.0)
        for n in range(count)
    ]  # fmt: skip


def stayed(
    count: int, times: float, *, hot: bool = False, wave: int = 0, site: str = "", open_: int = 0
) -> list[Kept]:
    return [
        Kept(
            cohort="c", open=n < open_,
            mark=ControlMark(wave=wave, cluster=site or str(n), energy_before_mj=2.0, before=OLD),
            seen=replace(ended(f"k{n:03}", None), measurement=took(times, hot=hot), before=OLD,
                         wave=wave, energy_before_mj=2.0),
        )
        for n in range(count)
    ]  # fmt: skip


def judged(
    rows: list, control: list[Kept], members: int = 60, made: Rollout = HELD
) -> dict[str, GateReport]:
    cohort = gates.Cohort(
        key="c", members=members, deployments=rows, devices={}, control=control
    )  # fmt: skip
    return {r.gate: r for r in gates.judge([cohort], made, now=NOW + 60.0, final=True)}


@pytest.mark.parametrize(("members", "count"), [(60, 40), (6, 6)])
def test_a_hot_week_halts_nothing_and_a_greedy_variant_is_halted(members: int, count: int) -> None:
    week = updated(count, 1.5, hot=True)
    alone = judged(week, [], members)
    assert all(alone[name].verdict is GateVerdict.FAILED for name in NAMES), "no group to tell"
    both = judged(week, stayed(40, 1.5, hot=True), members)
    assert not gates.failed(tuple(both.values()))
    assert both["energy"].estimate == pytest.approx(1.0)
    assert "the control group's own: 1.50 in 40" in both["energy"].reason
    greedy = judged(week, stayed(40, 1.0), members)
    assert all(greedy[name].verdict is GateVerdict.FAILED for name in NAMES)


def test_a_cool_week_hides_no_greed() -> None:
    assert judged(updated(40, 1.1), [])["energy"].verdict is GateVerdict.HOLDS
    report = judged(updated(40, 1.1), stayed(40, 0.8))["energy"]
    assert report.verdict is GateVerdict.FAILED
    assert report.estimate == pytest.approx(1.375)


def test_each_wave_is_held_against_its_own_time() -> None:
    rows = [*updated(10, 1.0), *updated(50, 1.5, wave=1)]
    control = [*stayed(40, 1.0), *stayed(40, 1.5, wave=1)]
    assert judged(rows, control, 80)["memory"].verdict is GateVerdict.HOLDS
    assert judged(rows, stayed(40, 1.0) + stayed(40, 1.0, wave=1), 80)["memory"].e_value > 100  # type: ignore[operator]


def test_until_all_have_answered_nothing_is_judged() -> None:
    report = judged(updated(40, 1.5), stayed(40, 1.5, open_=1))["energy"]
    assert (report.verdict, report.waiting) == (GateVerdict.UNDECIDED, 40)


def test_a_site_speaks_once_and_too_few_correct_nothing() -> None:
    report = judged(updated(40, 1.5), stayed(40, 1.5, site="yard"))["energy"]
    assert report.verdict is GateVerdict.FAILED
    assert "1.50 in 1, too few to correct by" in report.reason


def test_bounds_err_no_more_often_than_stated() -> None:
    """The quantile's is checked against every count, the share's against its own definition."""
    chance, alpha = random.Random(3), 0.05
    missed = 0
    for _ in range(2000):
        values = [chance.random() for _ in range(12)]
        bound = staying.most_value(values, 0.3, alpha)
        missed += bound is not None and bound < 0.7
    assert missed <= 2000 * alpha
    assert staying.most_value([1.0] * 4, 0.5, alpha) is None, "a half of four: 6 % are all below"
    most = staying.most_share(20, 0.1, alpha)
    assert 1 - sequential.tail(20, 3, most) == pytest.approx(alpha)
    assert staying.most_share(3, 1.0, alpha) == pytest.approx(1.0)


def test_with_a_group_a_good_release_halts_no_more_often_than_stated() -> None:
    """100 rollouts of two cohorts and waves, on the border of every claim, in a hot week."""
    rate, chance = 0.1, random.Random(11)
    made = replace(HELD, gate=replace(GATE, false_halt_rate=rate))
    halts = sum(_halts(made, chance) for _ in range(100))
    assert halts <= 100 * rate
    assert _halts(made, chance, worse=0.5), "else the rows show nothing"


def _halts(made: Rollout, chance: random.Random, worse: float = 0.0) -> bool:
    control = [_one(stayed, chance, wave, 1.0, 0.2) for wave in (0, 1) for _ in range(30)]
    control = [replace(k, mark=replace(k.mark, cluster=str(n))) for n, k in enumerate(control)]
    ends = [
        [_one(updated, chance, n // 20, 1.2 + worse, 0.3 + worse) for n in range(40)]
        for _ in range(2)
    ]
    for seen in range(10, 41, 10):
        there = [k for k in control if k.mark.wave <= ends[0][seen - 1].wave]
        cohorts = [
            gates.Cohort(
                key=str(n), members=60, deployments=of[:seen], devices={}, place=n, control=there
            )
            for n, of in enumerate(ends)
        ]
        if gates.failed(gates.judge(cohorts, made, now=NOW + 60.0, final=False)):
            return True
    return False


def _one(make, chance: random.Random, wave: int, times: float, hot: float):  # type: ignore[no-untyped-def]
    week = (1.3, 1.5)[wave]
    spread = chance.lognormvariate(0.0, 0.1)
    (found,) = make(1, times * week * spread, hot=chance.random() < hot, wave=wave)
    return found
