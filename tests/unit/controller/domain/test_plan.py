"""What a device is asked for, and when it is seen to have drifted."""

from __future__ import annotations

from dataclasses import replace

import pytest

from controller.domain import plan
from controller.domain.fleet import Cohort, Deployment, Device
from controller.domain.studies import StudyRecord
from fitment.core.deployment import BundleRef, Outcome, ReportedState, SlotReport, StudyKind
from fitment.core.fingerprint import Facet, Fingerprint

FACET = Facet.of({})
SEEN = Fingerprint(chassis=FACET, hardware=FACET, stack=FACET, condition=FACET)
COMMITTED = Deployment(
    id="1", rollout="r", release="r1", device="d", slot="s", variant="sha256:aa", wave=0,
    created_at=1.0, outcome=Outcome.COMMITTED, ended_at=100.0,
)  # fmt: skip
OPEN = replace(COMMITTED, id="2", release="r2", outcome=None, ended_at=0.0)
STUDY = StudyRecord(
    id="q", kind=StudyKind.PROBE, device="d", created_at=1.0,
    cohort=Cohort(profile="p", hardware="h", stack="s"),
    bundle=BundleRef(variant="v", name="n", archive="a", archive_bytes=1, target="t"),
)  # fmt: skip


def device(*, generation: int = 0, key: str = "", observed: int = 0, runs: str = "") -> Device:
    slots = (SlotReport(slot="s", variant=runs),) if runs else ()
    reported = ReportedState(
        boot_id="b", agent_version="1", observed_generation=observed, fingerprint=SEEN, slots=slots
    )
    return Device(name="d", reported=reported, generation=generation, desired_key=key)


def test_the_generation_rises_only_with_the_content() -> None:
    first = plan.wish(device(), [OPEN], [STUDY])
    assert (first.generation, first.changed) == (1, True)
    again = plan.wish(device(generation=1, key=first.key), [OPEN], [STUDY])
    assert (again.generation, again.changed) == (1, False)
    less = plan.wish(device(generation=1, key=first.key), [OPEN], [])
    assert (less.generation, less.changed) == (2, True)


def test_what_has_ended_is_not_asked_for() -> None:
    wish = plan.wish(device(), [COMMITTED, OPEN], [STUDY, replace(STUDY, id="p", done_at=5.0)])
    assert (wish.deployments, wish.studies) == ((OPEN,), (STUDY,))


def test_a_restored_store_goes_on_above_what_the_device_saw() -> None:
    key = plan.wish(device(), [], []).key
    wish = plan.wish(device(generation=3, key=key, observed=9), [], [])
    assert (wish.generation, wish.changed) == (10, True)


def test_the_last_commit_of_a_slot_is_what_runs() -> None:
    later = replace(COMMITTED, id="3", ended_at=200.0)
    assert plan.running([later, COMMITTED, OPEN]) == {"s": later}


@pytest.mark.parametrize(
    ("runs", "others", "now", "words"),
    [
        ("sha256:aa", (), 200.0, ""),
        ("sha256:bb", (), 200.0, "the device runs bb, not aa as recorded"),
        ("", (), 200.0, "the device runs nothing, not aa as recorded"),
        ("sha256:bb", (), 105.0, ""),  # its report may still be on its way
        ("sha256:bb", (OPEN,), 200.0, ""),  # something else is
        ("sha256:bb", (replace(COMMITTED, id="0"),), 200.0, ""),  # it was tried again before
    ],
)
def test_drift(runs: str, others: tuple[Deployment, ...], now: float, words: str) -> None:
    every = (COMMITTED, *others)
    assert plan.drifted(device(runs=runs), COMMITTED, every, now=now) == words
