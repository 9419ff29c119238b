"""Numbers with their notes, and dashes with their reasons."""

from __future__ import annotations

import pytest

from controller.dashboard.views import words
from controller.dashboard.views.words import Tone, Value
from controller.domain import fleet
from controller.testing import latency
from fitment.core.deployment import Outcome
from fitment.core.measurement import (
    Cost,
    CostKind,
    Energy,
    Measurement,
    ReadingStatus,
    Verdict,
)


def taken(**more: object) -> Measurement:
    values: dict[str, object] = {
        "id": "1", "bundle": "sha256:b", "runtime": "onnx 1", "threads": 1,
        "verdict": Verdict.CONTENDED, "energy": Energy(status=ReadingStatus.UNAVAILABLE),
        "latency": latency(0.25),
    }  # fmt: skip
    return Measurement(**(values | more))  # type: ignore[arg-type]


def test_what_is_missing_is_a_dash_and_a_reason_never_zero() -> None:
    for found in (
        words.percent(None, "why"), words.percent(float("nan"), "why"), words.size(None, "why"),
        words.milliseconds(None, "why"), words.cost(None, "why"), words.latency(None, "why"),
    ):  # fmt: skip
        assert found == Value(text="–", note="why")
        assert found.missing
    assert words.percent(0.0, "why").text == "0.00 %"
    assert words.size(0, "why").text == "0 B"


@pytest.mark.parametrize(
    ("count", "text"),
    [(999, "999 B"), (90_112, "90.1 kB"), (1_154_000, "1.15 MB"), (2_500_000_000, "2.50 GB")],
)
def test_sizes(count: int, text: str) -> None:
    assert words.size(count, "").text == text


def test_a_time_carries_its_verdict_and_the_mark() -> None:
    assert words.latency(taken(), "") == Value(text="0.250 ms", note="contended")
    assert words.latency(taken(emulated=True), "").note == "contended, emulated"
    translated = taken(emulated=True, verdict=Verdict.EMULATED)
    assert words.latency(translated, "").note == "emulated"
    silent = taken(latency=None, reasons=("the worker was killed",))
    assert words.latency(silent, "") == Value(text="–", note="the worker was killed")


def test_a_cost_carries_its_kind() -> None:
    cost = Cost(value=0.5, unit="ms", kind=CostKind.INTERPOLATED, verdict=Verdict.VALID)
    assert words.cost(cost, "") == Value(text="0.500 ms", note="interpolated, valid")
    claimed = Cost(value=12.0, unit="mJ", kind=CostKind.CLAIMED)
    assert words.cost(claimed, "") == Value(text="12 mJ", note="claimed")


def test_energy_says_how_or_why_not() -> None:
    gone = Energy(status=ReadingStatus.UNAVAILABLE, reason="no RAPL")
    assert words.energy(gone) == Value(text="–", note="no RAPL")
    there = Energy(status=ReadingStatus.MEASURED, value_mj=1.5, method="rapl:package-0")
    assert words.energy(there) == Value(text="1.5 mJ", note="measured, rapl:package-0")


def test_a_ratio_needs_both_sides() -> None:
    assert words.against(None).missing
    assert words.against(taken()).missing
    assert words.against(taken(baseline_latency=latency(0.5))).text == "× 0.50"


def test_a_percentile_that_is_not_supported_says_so() -> None:
    assert words.p95(latency(2.0)).text == "2.000 ms"
    assert words.p95(None).missing


def test_every_state_has_a_word_and_a_tone() -> None:
    for state in fleet.RolloutState:
        made = fleet.Rollout(id="r", release="x", state=state, created_at=1.0)
        assert words.rollout_state(made).word
    for outcome in (None, *Outcome):
        one = fleet.Deployment(
            id="d", rollout="r", release="x", device="a", slot="m", variant="v", wave=0,
            created_at=1.0, outcome=outcome,
        )  # fmt: skip
        assert words.deployment_state(one).word
    for status in fleet.JobStatus:
        cohort = fleet.Cohort(profile="p", hardware="h", stack="s")
        job = fleet.FitJob(id="j", model="m", cohort=cohort, status=status, created_at=1.0)
        assert words.job_state(job).word == status.value


def test_a_device_is_never_merely_absent() -> None:
    assert words.device_state(fleet.Device(name="a")).word == "never reported"
    assert words.device_state(fleet.Device(name="a", revoked=True)).tone is Tone.QUIET
