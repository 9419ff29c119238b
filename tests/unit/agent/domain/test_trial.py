"""What a server or an application says on trial, and what that means."""

from __future__ import annotations

from dataclasses import replace

import pytest

from agent.domain.trial import ANSWER_S, Look, Seen, Told, judge, shadowed, unanswered
from fitment.core.deployment import DeviceGates, ShadowPlan

OLD, NEW = "sha256:old", "sha256:new"
GATES = DeviceGates(latency_p95_max_ms=10.0, latency_ratio_max=1.5)
BEFORE = Told(variant=OLD, requests=1000, errors=10, count=1000, p50_ms=2.0, p95_ms=5.0)


def look(
    now: Told | None, before: Told | None = BEFORE, *, waited_s: float = 1.0,
    gates: DeviceGates = GATES,
) -> Look:  # fmt: skip
    return judge("the server", before, now, wanted=NEW, gates=gates, waited_s=waited_s, limit_s=9.0)


def after(requests: int, errors: int = 0, **more: float) -> Told:
    return Told(
        variant=NEW, requests=1000 + requests, errors=10 + errors, count=requests,
        p50_ms=more.get("p50_ms"), p95_ms=more.get("p95_ms"),
    )  # fmt: skip


@pytest.mark.parametrize(
    ("now", "waits"),
    [
        (BEFORE, "the server has sha256:old and not sha256:new"),
        (None, "the server does not answer"),
        (Told(variant="", refused="x"), "the server has no variant loaded and not sha256:new: x"),
    ],
)
def test_who_has_not_loaded_it_is_waited_for_up_to_the_limit(now: Told | None, waits: str) -> None:
    assert look(now) == Look(waits=waits)
    (reason,) = look(now, waited_s=10.0).bad
    assert reason == f"{waits} (10 s after the switch)"


def test_who_will_not_load_it_is_not_waited_for() -> None:
    told = Told(variant=OLD, refused="it answers wrong", hopeless=True)
    (reason,) = look(told).bad
    assert "it answers wrong" in reason


@pytest.mark.parametrize(
    ("now", "before", "bad"),
    [
        (after(0), BEFORE, ""),  # nobody asked it anything
        (after(200, 2), BEFORE, ""),  # no more than before
        (after(100, 3), BEFORE, "3 of 103 requests since the switch failed, 0.99 % did before"),
        (after(0, 1), BEFORE, "1 of 1 requests"),
        (Told(variant=NEW, requests=50, errors=0), BEFORE, ""),  # it was started anew
        (Told(variant=NEW, requests=50, errors=5), BEFORE, "5 of 55 requests"),
        (Told(variant=NEW, requests=98, errors=2), None, "2 of 100 requests"),
        (after(99, p50_ms=9.0, p95_ms=9.9), BEFORE, ""),  # too few for the ratio
        (after(100, p50_ms=3.1, p95_ms=9.9), BEFORE, "p50 in service rose from 2 ms to 3.1"),
        (after(9, p50_ms=2.0, p95_ms=10.1), BEFORE, "p95 in service is 10.1 ms, at most 10 is"),
        (after(9, p95_ms=15.0), Told(variant=OLD, errors=9, p95_ms=15.0), ""),  # as before
    ],
)  # fmt: skip
def test_it_may_be_no_worse_than_before(now: Told, before: Told | None, bad: str) -> None:
    found = look(now, before)
    assert (found.waits, bool(found.bad)) == ("", bool(bad))
    assert bad in " ".join(found.bad)


def test_where_no_gate_is_asked_latency_is_not_judged() -> None:
    assert look(after(100, p50_ms=90.0, p95_ms=99.0), gates=DeviceGates()) == Look()


PLAN = ShadowPlan(seconds=60.0, inputs=100, agreement_min=0.98)


@pytest.mark.parametrize(
    ("seen", "waited_s", "needed", "waits", "bad"),
    [
        (Seen(), 1.0, True, True, ""),  # it loads
        (Seen(variant=OLD, samples=500), 1.0, True, True, ""),  # another one's
        (Seen(variant=NEW, samples=100, agreement=0.99), 30.0, True, True, ""),
        (Seen(variant=NEW, samples=100, agreement=0.99), 60.0, True, False, ""),
        (Seen(variant=NEW, samples=100, agreement=0.97), 5.0, False, False, "0.9700 of 100"),
        (Seen(variant=NEW, samples=99, agreement=0.5), 5.0, False, True, ""),  # too few to tell
        (Seen(variant=NEW, samples=99, agreement=0.5), 60.0, False, False, ""),
        (Seen(variant=NEW, samples=99, agreement=1.0), 60.0, True, False, "it saw 99 of 100"),
        (Seen(variant=NEW, samples=3, failed="run_failed"), 5.0, False, False, "run_failed"),
        (None, 1.0, True, False, "the slot has no server"),
        (None, 1.0, False, False, ""),
    ],
)
def test_the_shadow(
    seen: Seen | None, waited_s: float, needed: bool, waits: bool, bad: str
) -> None:
    found = shadowed(seen, replace(PLAN, needed=needed), wanted=NEW, waited_s=waited_s)
    assert (bool(found.waits), bool(found.bad)) == (waits, bool(bad))
    assert bad in " ".join(found.bad)
    assert 0.5 <= found.after_s <= 5.0


def test_a_server_that_is_there_may_say_nothing_for_a_while() -> None:
    def asked(seen: Seen | None, waited_s: float, *, needed: bool = True) -> Look:
        plan = replace(PLAN, needed=needed)
        return shadowed(seen, plan, wanted=NEW, waited_s=waited_s, there=True)

    for waited_s in (1.0, PLAN.seconds + 1.0):
        assert asked(None, waited_s).waits.endswith("does not answer")
    assert "does not answer" in asked(None, PLAN.seconds + ANSWER_S).bad[0]
    assert asked(None, PLAN.seconds + ANSWER_S, needed=False) == Look()
    assert unanswered("shoes", waited_s=1.0).waits == "the server of slot 'shoes' does not answer"
    assert unanswered("shoes", waited_s=ANSWER_S + 1.0) == Look()


def test_it_says_the_same_while_it_sees_more() -> None:
    few, more = (
        shadowed(Seen(variant=NEW, samples=n), PLAN, wanted=NEW, waited_s=n) for n in (3, 9)
    )
    assert few == more  # each other sentence is a report of the whole state
