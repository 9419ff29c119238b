"""Gates: what each says of a cohort, and with which numbers."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

import pytest

from controller.domain import gates
from controller.domain.fleet import Deployment, Device, Gate
from controller.domain.judgement import GateReport, GateVerdict
from fitment.core.deployment import Outcome, SlotReport
from fitment.core.measurement import Energy, ReadingStatus
from tests.scenarios.test_rollout import BAD, GOOD, NOW, RUNNING, device, ended, timed

MANY = 60


def judged(
    deployments: Sequence[Deployment],
    gate: Gate,
    *,
    members: int = MANY,
    devices: Sequence[Device] = (),
    final: bool = False,
) -> dict[str, GateReport]:
    cohort = gates.Cohort(
        key="c", members=members, deployments=deployments, devices={d.name: d for d in devices}
    )
    found = gates.judge(
        [cohort], replace(RUNNING, gate=gate), now=NOW + 60.0, final=final
    )  # fmt: skip
    return {report.gate: report for report in found}


def many(count: int, outcome: Outcome | None = GOOD, *, ratio: float | None = None,
         begin: int = 0) -> list[Deployment]:  # fmt: skip
    taken = None if ratio is None else timed(ratio=ratio)
    return [
        replace(ended(f"{n:03}", outcome), measurement=taken) for n in range(begin, begin + count)
    ]


ALLOWED = Gate(max_failure_share=0.02, latency_ratio_max=None)


def test_two_failures_of_sixty_are_no_evidence_and_six_are() -> None:
    held = judged([*many(58), *many(2, BAD, begin=58)], ALLOWED)["failures"]
    assert (held.verdict, held.samples, held.statistical) == (GateVerdict.HOLDS, 60, True)
    assert held.low is not None
    assert held.low < 2 / 60 < (held.high or 0)
    halted = judged([*many(52), *many(8, BAD, begin=52)], ALLOWED)["failures"]
    assert halted.verdict is GateVerdict.FAILED
    assert "8 of 60 failed" in halted.reason
    assert (halted.e_value or 0) >= (halted.e_needed or 1e99)


def test_failures_that_end_first_do_not_run_ahead() -> None:
    """Two of the first two to end failed, of thirty that are under way: a good variant does that.

    Left out, the open ones would make it two of two.
    """
    early = many(30, None)
    early[10], early[25] = (replace(early[n], outcome=BAD) for n in (10, 25))
    assert judged(early, ALLOWED)["failures"].verdict is GateVerdict.UNDECIDED
    alone = [d for d in early if d.outcome]
    assert judged(alone, ALLOWED)["failures"].verdict is GateVerdict.FAILED


def test_a_slow_variant_is_seen_on_each_devices_own_baseline() -> None:
    gate = Gate(max_failure_share=0.02)
    slow = judged(many(15, ratio=1.3), gate)["latency"]
    assert slow.verdict is GateVerdict.FAILED
    assert "median latency is 1.30 times the device's own baseline" in slow.reason
    mixed = judged([*many(40, ratio=1.0), *many(20, ratio=1.3, begin=40)], gate)["latency"]
    assert mixed.verdict is GateVerdict.HOLDS
    assert (mixed.estimate, mixed.low) == (1.0, 1.0)
    strict = judged(
        [*many(40, ratio=1.0), *many(20, ratio=1.3, begin=40)], replace(gate, above_share=0.1)
    )  # fmt: skip
    assert strict["latency"].verdict is GateVerdict.FAILED


def test_what_nobody_measured_is_missing_and_no_pass() -> None:
    gate = Gate(energy_ratio_max=1.1)
    found = judged(many(40), gate)
    for name in ("latency", "energy"):
        assert found[name].verdict is GateVerdict.MISSING
        assert (found[name].missing, found[name].estimate) == (40, None)
    assert "latency of c" in gates.unsure(tuple(found.values()))


def test_energy_is_compared_with_what_the_last_release_took() -> None:
    taken = replace(timed(), energy=Energy(status=ReadingStatus.MEASURED, value_mj=3.0))
    hungry = [replace(d, measurement=taken, energy_before_mj=2.0) for d in many(20)]
    report = judged(hungry, Gate(energy_ratio_max=1.2))["energy"]
    assert (report.verdict, report.estimate) == (GateVerdict.FAILED, 1.5)


def test_a_small_cohort_is_judged_device_by_device_and_says_so() -> None:
    held = judged([*many(9), *many(1, BAD, begin=9)], replace(ALLOWED, max_failure_share=0.2),
                  members=12)["failures"]  # fmt: skip
    assert (held.verdict, held.statistical, held.e_value) == (GateVerdict.EACH, False, None)
    assert "not statistical" in held.reason


def test_a_cohort_that_just_begins_is_undecided() -> None:
    report = judged(many(5), ALLOWED)["failures"]
    assert report.verdict is GateVerdict.UNDECIDED
    assert "5 of 30" in report.reason


def test_the_rate_is_shared_among_gates_and_any_number_of_cohorts() -> None:
    parts = [gates.part(place, 3) for place in range(5000) for _ in range(3)]
    assert 0.99 < sum(parts) <= 1.0
    gate = Gate(agreement_min=0.9)
    assert sum(r.alpha for r in judged(many(3), gate).values()) <= gate.false_halt_rate / 2 + 1e-12


def test_cohorts_that_fail_a_little_fail_together() -> None:
    gate = replace(ALLOWED, max_failure_share=0.05)
    rows = [*many(44), *many(9, BAD, begin=44)]
    cohorts = [
        gates.Cohort(key=str(n), members=MANY, deployments=rows, devices={}, place=n)
        for n in range(2)
    ]
    rollout = replace(RUNNING, gate=gate)
    alone = gates.judge(cohorts[:1], rollout, now=NOW, final=False)
    needed = (alone[0].e_value or 0) / (alone[0].e_needed or 1)
    assert 0.75 < needed < 1.0, "else the rows show nothing"
    assert not gates.failed(alone)
    assert "together" in gates.failed(gates.judge(cohorts, rollout, now=NOW, final=False))


def test_clusters_count_once_and_only_at_the_end_of_a_wave() -> None:
    """A site whose power failed is one word, not ten."""
    devices = [replace(device(f"{n:03}"), labels={"site": str(n // 10)}) for n in range(400)]
    outage = [*many(10, BAD), *many(390, begin=10)]
    gate = replace(ALLOWED, cluster="site")
    lone = judged(outage, ALLOWED, members=400, devices=devices)["failures"]
    assert lone.verdict is GateVerdict.FAILED
    end = judged(outage, gate, members=400, devices=devices, final=True)["failures"]
    assert (end.verdict, end.samples) == (GateVerdict.HOLDS, 40)
    everywhere = [replace(d, outcome=BAD if n % 3 == 0 else GOOD) for n, d in enumerate(outage)]
    looks = [
        judged(everywhere, gate, members=400, devices=devices, final=final)["failures"].verdict
        for final in (False, True)
    ]
    assert looks == [GateVerdict.HOLDS, GateVerdict.FAILED]


@pytest.mark.parametrize(("runs", "fails"), [("v", False), ("old", True), ("", True)])
def test_a_device_that_says_committed_and_runs_something_else(runs: str, fails: bool) -> None:
    liar = device("000")
    assert liar.reported is not None
    slots = (SlotReport(slot="s", variant=runs),)
    liar = replace(liar, last_seen=NOW + 30.0, reported=replace(liar.reported, slots=slots))
    report = judged(many(1), Gate(), devices=[liar], members=1)["failures"]
    assert (report.verdict is GateVerdict.FAILED) is fails
    assert ("its own report" in report.reason) is fails
