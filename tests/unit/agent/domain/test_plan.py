"""Wish and state → the next step, as rows."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

import pytest

from agent.domain import plan
from agent.domain.plan import (
    Acknowledge,
    BeginStudy,
    Clear,
    DropStudy,
    GiveWay,
    Interrupt,
    Orders,
    Prepare,
    Recheck,
    Refuse,
    Situation,
    Start,
)
from agent.domain.record import SlotFacts
from fitment.core import digest
from fitment.core.deployment import (
    Assignment,
    DeploymentState,
    DesiredState,
    Lesser,
    SignedPayload,
    Span,
    Study,
    StudyKind,
)
from tests.unit.agent.domain.orders import SIGNED, assignment, bundle, record

STACK = "sha256:stack"
STUDY = Study(id="s-1", kind=StudyKind.PROBE, device="dev-1", bundle=bundle())
FACTS = SlotFacts(slot="digits", variant="sha256:v", checked_stack=STACK)


def orders(*assignments: Assignment, studies: Sequence[Study] = (), generation: int = 5) -> Orders:
    return Orders(
        generation=generation,
        assignments=tuple((SIGNED, order) for order in assignments),
        studies=tuple((SIGNED, order) for order in studies),
    )


def situation(asked: Orders | None = None, **changes: object) -> Situation:
    base = Situation(orders=asked, stack=STACK, slots=(FACTS,))
    return replace(base, **changes)  # type: ignore[arg-type]


LESSER = Lesser(bundle=bundle())
LADDERED = replace(FACTS, ladder=(LESSER,), deployment="d-0", order=SIGNED)
RUNG = replace(FACTS, slot="digits~1", variant=LESSER.bundle.variant)
TRIED = frozenset(f"d-0.rung-1.{n}" for n in range(1, 6))
HELD = plan.quarantine_key("digits~1", LESSER.bundle.variant, STACK)
OF_A_RUNG = record(
    DeploymentState.FETCHING, rung=1, assignment=assignment("d-0.rung-1.1", slot="digits~1")
)
WINDOWED = assignment("d-2", windows=(Span(opens_unix=1, closes_unix=2),))
WAITS = record(DeploymentState.FETCHING, held="the link is metered")
WORKING = record(DeploymentState.BENCHMARKING)
ENDED = record(DeploymentState.REPORTING, ended_generation=5)


@pytest.mark.parametrize(
    ("now", "step"),
    [
        (situation(), None),
        (situation(orders()), None),
        (situation(orders(assignment())), Start(order=SIGNED, assignment=assignment())),
        (situation(orders(assignment()), known=frozenset({"d-1"})), None),
        (situation(orders(assignment()), active=WORKING), None),
        (situation(None, active=WORKING), None),
        (situation(orders(assignment()), stack="sha256:other"), Recheck(slot="digits")),
        (situation(None, stack="sha256:other", active=WORKING), Recheck(slot="digits")),
        (situation(None, stack="", active=WORKING), None),
        (situation(None, slots=(SlotFacts(slot="digits"),), stack="sha256:other"), None),
        (situation(orders(generation=6), ended=(ENDED,)), Acknowledge(deployment="d-1")),
        (situation(orders(generation=5), ended=(ENDED,)), None),
        (situation(orders(generation=4), ended=(ENDED,)), Acknowledge(deployment="d-1")),
        (
            situation(orders(assignment(), generation=6), ended=(ENDED,), known=frozenset({"d-1"})),
            None,
        ),
        (
            situation(orders(), active=WORKING),
            Interrupt(
                deployment="d-1", superseded=False, reason="the controller no longer asks for it"
            ),
        ),
        (
            situation(orders(assignment("d-2")), active=WORKING),
            Interrupt(
                deployment="d-1", superseded=True, reason="release rel came before it had ended"
            ),
        ),
        (situation(orders(), active=record(DeploymentState.COMMITTING)), None),
        (situation(orders(), active=record(DeploymentState.ROLLING_BACK)), None),
        (situation(orders(studies=[STUDY])), BeginStudy(order=SIGNED, study=STUDY)),
        (situation(orders(studies=[STUDY]), study=STUDY), None),
        (situation(orders(studies=[STUDY]), studies_known=frozenset({"s-1"})), None),
        (situation(orders(assignment(), studies=[STUDY]), active=WORKING), None),
        (situation(orders(), study=STUDY), DropStudy(study="s-1")),
        (situation(None, study=STUDY), None),
        (situation(orders(studies=[replace(STUDY, id="../x")])), None),
        (situation(None, slots=(LADDERED,)), Prepare(slot="digits", rung=1)),
        (situation(orders(studies=[STUDY]), slots=(LADDERED,)), Prepare(slot="digits", rung=1)),
        (situation(None, slots=(LADDERED, RUNG)), None),
        (situation(None, slots=(LADDERED, RUNG), active=WORKING), None),
        (
            situation(None, slots=(LADDERED, replace(RUNG, variant="sha256:old"))),
            Prepare(slot="digits", rung=1),
        ),
        (situation(None, slots=(LADDERED,), known=TRIED), None),
        (situation(None, slots=(LADDERED,), quarantine={HELD: plan.QUARANTINE_AFTER}), None),
        (
            situation(None, slots=(LADDERED,), quarantine={HELD: plan.QUARANTINE_AFTER - 1}),
            Prepare(slot="digits", rung=1),
        ),
        (situation(None, slots=(replace(LADDERED, order=None),)), None),
        (situation(None, slots=(FACTS, RUNG)), Clear(slot="digits~1")),
        (situation(None, slots=(RUNG,)), Clear(slot="digits~1")),
        (situation(None, slots=(FACTS, RUNG), held=frozenset({"digits~1"})), None),
        (situation(None, slots=(FACTS, RUNG), stack="sha256:x"), Clear(slot="digits~1")),
        (situation(None, slots=(FACTS, RUNG), active=WORKING), None),
        (situation(orders(assignment()), slots=(LADDERED,)),
         Start(order=SIGNED, assignment=assignment())),
        (
            situation(orders(assignment("d-2")), slots=(LADDERED,), active=OF_A_RUNG),
            GiveWay(deployment="d-0.rung-1.1"),
        ),
        (
            situation(orders(assignment("d-2")), slots=(LADDERED,),
                      active=replace(OF_A_RUNG, state=DeploymentState.TRIAL)),
            None,
        ),
        (situation(orders(), slots=(LADDERED,), active=OF_A_RUNG), None),
        (situation(orders(WINDOWED), slots=(LADDERED,), active=OF_A_RUNG), None),
        (
            situation(orders(assignment("d-2")), slots=(LADDERED,),
                      active=replace(OF_A_RUNG, held="the month's are spent")),
            GiveWay(deployment="d-0.rung-1.1"),
        ),
        (situation(orders(assignment("d-1"), assignment("d-2", slot="b")), active=WAITS), None),
        (
            situation(orders(assignment("d-1"), assignment("d-2", slot="b", metered=True)),
                      active=WAITS),
            GiveWay(deployment="d-1"),
        ),
        (
            situation(orders(assignment("d-1", metered=True),
                             assignment("d-2", slot="b", metered=True)),
                      active=replace(WAITS, assignment=assignment("d-1", metered=True))),
            None,
        ),
        (
            situation(None, slots=(LADDERED, RUNG), ended=(replace(
                OF_A_RUNG, state=DeploymentState.REPORTING),)),
            Acknowledge(deployment="d-0.rung-1.1"),
        ),
        (
            situation(None, slots=(RUNG, replace(LADDERED, checked_stack="")), stack=STACK),
            Recheck(slot="digits"),
        ),
    ],
)  # fmt: skip
def test_rows(now: Situation, step: plan.Step | None) -> None:
    assert plan.plan(now) == step


@pytest.mark.parametrize(
    ("order", "says"),
    [
        (assignment(slot="../x"), "cannot name a slot"),
        (assignment(slot=""), "cannot name a slot"),
        (assignment(slot=".hidden"), "cannot name a slot"),
        (assignment(bundle=replace(bundle(), archive="../../x")), "not named by digests"),
        (assignment(bundle=replace(bundle(), archive_bytes=0)), "not named by digests"),
        (assignment(slot="digits~1"), "cannot name a slot"),
        (
            assignment(ladder=(Lesser(bundle=replace(bundle(), archive="../x")),)),
            "a bundle of its ladder is not named by digests",
        ),
    ],
)
def test_what_cannot_be_begun_is_refused(order: Assignment, says: str) -> None:
    step = plan.plan(situation(orders(order)))
    assert isinstance(step, Refuse)
    assert says in step.reason


def test_quarantine_is_of_a_variant_on_a_stack() -> None:
    key = plan.quarantine_key("digits", bundle().variant, STACK)
    held = situation(orders(assignment()), quarantine={key: plan.QUARANTINE_AFTER})
    assert isinstance(plan.plan(held), Refuse)
    once_less = replace(held, quarantine={key: plan.QUARANTINE_AFTER - 1})
    assert isinstance(plan.plan(once_less), Start)
    other = replace(held, stack="sha256:other", slots=())
    assert isinstance(plan.plan(other), Start)


def test_decoding_names_what_makes_no_sense_and_keeps_the_rest() -> None:
    good = SignedPayload(payload=digest.canonical(assignment()), key_id="k", signature=b"")
    junk = replace(good, payload=b"\xff")
    part = replace(good, payload=b'{"device": "dev-1"}')
    probe = replace(good, payload=digest.canonical(STUDY))
    read = plan.decode(
        DesiredState(generation=3, assignments=(junk, good, part), studies=(probe, junk))
    )
    assert read.generation == 3
    assert [order for _, order in read.assignments] == [assignment()]
    assert [order for _, order in read.studies] == [STUDY]
    assert len(read.problems) == 3
    assert read.assigned("d-1")
    assert not read.assigned("d-2")
    assert read.asked("s-1")
