"""Orders that are right: carried out once, in order, reported to the end, given up when told."""

from __future__ import annotations

from typing import Final

from controller.conformance.case import QUIET_S, Case
from controller.conformance.spec import Check, hold
from fitment.core.deployment import Assignment, Outcome, StudyKind
from fitment.core.deployment import DeploymentState as State
from fitment.core.telemetry import CommandKind

ORDER: Final = (
    State.FETCHING, State.VERIFYING, State.STAGING, State.CALIBRATING, State.BENCHMARKING,
    State.JUDGING, State.TRIAL, State.COMMITTING, State.REPORTING,
)  # fmt: skip
"""The way of an undisturbed deployment. Reports are levels: any of these may be passed unseen."""


def _commits(case: Case) -> str:
    order = case.order(case.bundle())
    case.wish(case.sign(order))
    slot = case.committed(order)
    hold(slot.counter == order.counter, f"counter {slot.counter}, ordered was {order.counter}")
    hold(slot.release == order.release, f"release {slot.release!r}, ordered {order.release!r}")
    hold(slot.golden_ok, "it does not say that it answered the goldens")
    hold(slot.serving, "it does not say that it serves")
    report = case.ended(order)
    taken = report.measurement
    hold(taken is not None, "committed without a measurement, though a benchmark was ordered")
    assert taken is not None
    hold(taken.bundle == order.bundle.variant, "its measurement is of another variant")
    return f"slot holds {order.bundle.name}, counter {slot.counter}, {taken.verdict.value} timing"


def _states(case: Case) -> str:
    order = case.order(case.bundle())
    case.wish(case.sign(order))
    case.committed(order)
    seen = case.records.deployment(order.deployment)
    states = list(dict.fromkeys(report.state for report in seen if report.outcome is None))
    words = ", ".join(state.value for state in states)
    unknown = [state.value for state in states if state not in ORDER]
    hold(not unknown, f"states that are not on the way: {', '.join(unknown)}")
    hold(states == sorted(states, key=ORDER.index), f"reported in the order {words}")
    early = [r for r in seen if r.outcome is None and r.state is State.REPORTING]
    hold(not early, "state reporting without an outcome")
    at = [i for i, report in enumerate(seen) if report.outcome is not None]
    hold(all(r.outcome is not None for r in seen[at[0] :]), "an outcome was taken back")
    hold(len({r.outcome for r in seen if r.outcome}) == 1, "two outcomes of one deployment")
    return f"reported: {words}, then the outcome"


def _once(case: Case) -> str:
    order = case.order(case.bundle())
    signed = case.sign(order)
    case.wish(signed)
    case.committed(order)
    fetched, ended = len(case.fetches(order.bundle)), case.ended(order)
    case.sees(case.wish(signed))
    case.fresh()
    case.cut()
    _nothing_more(case, order, fetched)
    later = [r for r in case.records.deployment(order.deployment) if r.outcome is not None][-1]
    hold(later.outcome is ended.outcome, "another outcome the second time")
    same = ended.measurement is None or (
        later.measurement is not None and later.measurement.id == ended.measurement.id
    )
    hold(same, "measured again")
    return f"the same order again, and after a reconnect: {fetched} fetch, one measurement"


def _nothing_more(case: Case, order: Assignment, fetched: int) -> None:
    since = case.records.mark()

    def more() -> bool:
        working = [r for r in case.records.deployment(order.deployment, since) if not r.outcome]
        return bool(working) or len(case.fetches(order.bundle)) > fetched

    hold(not case.records.wait(more, QUIET_S), "it was carried out once more")


def _acknowledged(case: Case) -> str:
    order = case.order(case.bundle())
    signed = case.sign(order)
    case.wish(signed)
    case.committed(order)
    since = case.records.mark()
    generation = case.wish()

    def forgotten() -> bool:
        later = [r for r in case.records.reports(since) if r.observed_generation >= generation]
        return bool(later) and not any(
            d.deployment == order.deployment for d in later[-1].deployments
        )

    hold(
        case.records.wait(forgotten, case.within_s),
        "an end that was acknowledged is still reported",
    )
    fetched = len(case.fetches(order.bundle))
    case.wish(signed)
    _nothing_more(case, order, fetched)
    return "reported until it was no longer ordered; ordered again by its old id, nothing happened"


def _superseded(case: Case) -> str:
    case.servers.faults.stall = True
    first = case.order(case.bundle(padding=200_000))
    case.wish(case.sign(first))
    case.fetching(first.bundle)
    second = case.order(case.bundle())
    case.wish(case.sign(second))
    report = case.ended(first)
    case.servers.faults.stall = False
    hold(report.outcome is Outcome.SUPERSEDED, f"the first ended as {_value(report.outcome)}")
    case.committed(second)
    return "the first superseded, the second committed"


def _cancelled(case: Case) -> str:
    case.servers.faults.stall = True
    order = case.order(case.bundle(padding=200_000))
    case.wish(case.sign(order))
    case.fetching(order.bundle)
    case.command(CommandKind.CANCEL, order.deployment)
    report = case.ended(order)
    hold(report.outcome is Outcome.CANCELLED, f"it ended as {_value(report.outcome)}")
    return "cancelled"


def _withdrawn(case: Case) -> str:
    case.servers.faults.stall = True
    order = case.order(case.bundle(padding=200_000))
    case.wish(case.sign(order))
    case.fetching(order.bundle)
    case.wish()
    since = case.records.mark()

    def gone() -> bool:
        found = case.records.deployment(order.deployment)
        ended = [r for r in found if r.outcome is not None]
        reports = case.records.reports(since)
        left = reports and not any(
            d.deployment == order.deployment for d in reports[-1].deployments
        )
        return bool(ended or left)

    hold(case.records.wait(gone, case.within_s), "it goes on with what is no longer ordered")
    ends = {_value(r.outcome) for r in case.records.deployment(order.deployment) if r.outcome}
    hold(ends <= {"cancelled"}, f"it ended as {', '.join(sorted(ends))}")
    return f"given up{', and reported as cancelled' * bool(ends)}"


def _deadline(case: Case) -> str:
    case.servers.faults.stall = True
    order = case.order(case.bundle(padding=200_000), deadline_s=3.0)
    case.wish(case.sign(order))
    report = case.ended(order)
    hold(report.outcome is Outcome.TIMED_OUT, f"it ended as {_value(report.outcome)}")
    return "timed out after its 3 s"


def _killed(case: Case) -> str:
    case.servers.faults.stall = True
    order = case.order(case.bundle(padding=200_000))
    case.wish(case.sign(order))
    case.fetching(order.bundle)
    case.subject.kill()
    case.servers.faults.stall = False
    case.subject.start()
    case.committed(order)
    return "killed while it fetched, started again, committed"


def _study(case: Case) -> str:
    study = case.study(case.bundle())
    case.wish(studies=(case.sign(study),))
    answers = case.records.wait(
        lambda: case.records.asked("SubmitMeasurement", study.id), case.within_s
    )
    hold(answers, f"no measurement within {case.within_s:g} s")
    taken = getattr(answers[0].value, "measurement", None)
    hold(taken is not None and taken.bundle == study.bundle.variant, "it measured something else")
    done = case.records.wait(
        lambda: study.id in case.records.reports()[-1].studies_done, case.within_s
    )
    hold(done, "its reports do not say that the study is done")
    assert study.kind is StudyKind.BENCHMARK
    return "measured, handed in under its id, and reported as done"


def _value(outcome: Outcome | None) -> str:
    return outcome.value if outcome is not None else "-"


CHECKS: Final = (
    Check(
        id="order-commits",
        says="A right order ends committed; the slot names variant, release and counter, and"
        " serves after it answered the goldens.",
        run=_commits,
    ),
    Check(
        id="order-states",
        says="States are reported in the order of the table, and an outcome stands.",
        run=_states,
    ),
    Check(
        id="order-once",
        says="The same order again, by whatever way, is not carried out again.",
        run=_once,
    ),
    Check(
        id="order-acknowledged",
        says="An end is reported until a newer desired state no longer names it, and its id never"
        " runs again.",
        run=_acknowledged,
    ),
    Check(
        id="order-superseded",
        says="A newer order for the slot ends the one in progress as superseded.",
        run=_superseded,
    ),
    Check(
        id="order-cancelled",
        says="The command CANCEL ends the deployment that it names as cancelled.",
        run=_cancelled,
    ),
    Check(
        id="order-withdrawn",
        says="An order that is no longer desired is given up.",
        run=_withdrawn,
    ),
    Check(
        id="order-deadline",
        says="A deployment past its deadline ends as timed out.",
        run=_deadline,
    ),
    Check(
        id="order-killed",
        says="A deployment goes on after its agent was killed and started again.",
        run=_killed,
    ),
    Check(
        id="study-answered",
        says="A study is answered once, by a measurement under its id, and then reported as done.",
        run=_study,
    ),
)
