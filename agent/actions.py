"""What is done in each state: a table from state to action.

An action begins with a job for a worker, with an answer at once, or with a wish to be asked
again; when its job has a result it gives the next of these. Every action may be begun anew at
any time, which is what a restart does.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import Final

from agent import orders, trial
from agent.desk import Desk
from agent.domain import plan, verdict, window
from agent.domain.events import Event
from agent.domain.record import Checked, DeploymentRecord, SlotFacts
from agent.domain.rungs import parted
from agent.domain.trial import Look
from agent.jobs import (
    BenchmarkJob,
    BenchmarkResult,
    CalibrateJob,
    CalibrateResult,
    CheckJob,
    CheckResult,
    FetchResult,
    StageResult,
    SubmitJob,
    VerifyResult,
    WorkerFailure,
)
from agent.slots import OVERLAY, spare
from agent.steps import Action, Again, Answer, Job, Next
from agent.submissions import keep
from fitment.core.deployment import CalibrationMode, CalibrationReport, Outcome
from fitment.core.deployment import DeploymentState as State

TRIAL_CHECK_S: Final = 10.0
"""Between two looks at a variant on trial."""

_REJECTED: Final = frozenset({"not_for_me", "rollback", "runtime_missing", "memory_never"})
"""Failures that say: not for this device."""
_AWAY: Final = frozenset({"unavailable", "busy"})
"""Failures of the other side: an outage burns no attempt."""
_DAMAGED: Final = frozenset({"digest", "archive"})
"""Failures of a file that may be mended by fetching it again."""


def classify(record: DeploymentRecord, failure: WorkerFailure, *, timed_out: bool) -> Event:
    """What a worker's failure means for the deployment."""
    if timed_out:
        return Event.TIMED_OUT
    if failure.retry_after_s is not None or (failure.code in _AWAY and not failure.permanent):
        return Event.BUSY
    if failure.code in _REJECTED:
        return Event.REJECTED
    if record.state in (State.VERIFYING, State.STAGING) and failure.code in _DAMAGED:
        again = not failure.permanent and not record.refetched
        return Event.REFETCH if again else Event.PERMANENT
    return Event.PERMANENT if failure.permanent else Event.FAILED


def _fetch(desk: Desk, record: DeploymentRecord) -> Next:
    """Receive it, when the device's allowance leaves room; to wait for that burns no attempt."""
    order, base = record.assignment, _delta_base(desk, record)
    held = orders.held(desk, order.bundle, asked=order.metered, delta=base is not None)
    if held is not None and record.held:
        return Again(after_s=held.after_s)
    if held is not None:
        return Answer(event=Event.HELD, reasons=(held.reason,), changes={"held": held.reason})
    if record.held:
        return Answer(event=Event.OPENED, changes={"held": ""})
    return Job(worker="fetch", job=orders.fetch(desk, order.bundle, base))


def _delta_base(desk: Desk, record: DeploymentRecord) -> SlotFacts | None:
    """What a delta may build on: the committed files, unless they or a delta failed before."""
    facts = desk.journal.slot(record.assignment.slot)
    if record.refetched or record.mends or facts.damaged:
        return None
    # The same variant is a base, too: a release that only adds rungs then costs next to nothing.
    return facts if facts.variant and facts.last_good else None


def _fetched(_desk: Desk, record: DeploymentRecord, result: FetchResult) -> Next:
    before = record.fetched_bytes if record.refetched else 0
    fetched = {
        "fetched_bytes": before + (result.wire_bytes or result.total_bytes),
        "delta_base": result.delta_base,
    }
    reasons = (f"fetching: {result.note}",) if result.note else ()
    return Answer(event=Event.DONE, reasons=reasons, changes=fetched)


def _verify(desk: Desk, record: DeploymentRecord) -> Next:
    order = record.assignment
    lowest = desk.journal.slot(order.slot).counter
    return Job(
        worker="verify",
        job=orders.verify(
            desk,
            record.order,
            order.bundle,
            kind="assignment",
            lowest_counter=lowest,
            rung=record.rung,
        ),
    )


def _verified(desk: Desk, _record: DeploymentRecord, result: VerifyResult) -> Next:
    orders.raise_floor(desk, result.timestamp_unix)
    return Answer(event=Event.DONE)


def _stage(desk: Desk, record: DeploymentRecord) -> Next:
    if not desk.runtimes:
        reason = "no runtime is installed or enabled: pip install 'fitment[onnx]' or [litert]"
        return Answer(event=Event.REJECTED, reasons=(reason,))
    slot = record.assignment.slot
    last_good = desk.journal.slot(slot).last_good
    letter = spare(last_good)
    desk.slots.prepare(slot)
    if desk.slots.active(slot) == letter:
        _switch_back(desk, slot, last_good)  # an earlier roll-back found a disk that refused
    if holder := trial.holder(desk, slot, letter):
        return Again(after_s=1.0, problem=f"'{holder}' has not let go of an earlier variant yet")
    job = orders.stage(desk, record.assignment.bundle, desk.slots.folder(slot, letter))
    if record.laid_by(desk.stack):
        job = replace(job, runtimes=())  # that stack may bring the one it needs
    return Job(worker="stage", job=job)


def _staged(desk: Desk, record: DeploymentRecord, result: StageResult | CheckResult) -> Next:
    """First the bundle is unpacked, then it answers the golden inputs, before anything else."""
    letter = spare(desk.journal.slot(record.assignment.slot).last_good)
    if isinstance(result, StageResult):
        if record.laid_by(desk.stack):
            laid = Checked(golden_ok=True, stack=desk.stack)
            return Answer(event=Event.DONE, changes={"checked": laid, "folder": letter})
        variant = record.assignment.bundle.variant
        job = check_job(desk, _folder(desk, record, letter), variant)
        return Job(worker="check", job=replace(job, first=True))
    checked = Checked(
        golden_ok=result.golden_ok,
        stack=desk.stack,
        agreement=result.agreement,
        integer_coverage=result.integer_coverage,
        reason=result.reason,
    )
    changes = {"checked": checked, "folder": letter, "calibration": None, "measurement": None}
    if not result.golden_ok:
        return Answer(event=Event.PERMANENT, reasons=(_wrong(result),), changes=changes)
    found = _look(desk, record)
    if not found.open:
        return Answer(event=Event.HELD, reasons=(f"staged; {found.reason}",), changes=changes)
    return Answer(event=Event.DONE, changes=changes)


def _look(desk: Desk, record: DeploymentRecord) -> window.Look:
    """Whether there is room in a maintenance window for the trial, or for what is left of it."""
    order, on_trial = record.assignment, record.state is State.TRIAL
    gone_s = desk.now_s - record.state_entered_at_s if on_trial else 0.0
    switched = on_trial and desk.slots.active(order.slot) == record.folder
    return window.look(
        order.windows, wall_unix=desk.wall_unix, floor_unix=desk.floor_unix,
        needs_s=max(0.0, order.trial_s - gone_s) + (0.0 if switched else window.MARGIN_S),
    )  # fmt: skip


def _wait(desk: Desk, record: DeploymentRecord) -> Next:
    """Until a window opens. Measuring waits too: it would disturb what serves by day."""
    found = _look(desk, record)
    if not found.open:
        return Again(after_s=found.after_s, problem=found.problem)
    return Answer(event=Event.DONE if record.measurement else Event.OPENED)


def _calibrate(desk: Desk, record: DeploymentRecord) -> Next:
    asked = record.assignment.calibration
    if asked.mode is CalibrationMode.NONE:
        return Answer(event=Event.NOT_ASKED)
    samples = desk.samples.get(record.assignment.slot)
    if samples is None or not any(samples.glob("*.npy")):
        slot = record.assignment.slot
        where = f"no .npy file in {samples}" if samples else f"[samples] {slot} is not set"
        return skip_calibration(record, f"this device keeps no samples for the slot: {where}")
    folder = _folder(desk, record, record.folder)
    job = CalibrateJob(
        result="",
        folder=str(folder),
        samples=str(samples),
        overlay=str(folder / OVERLAY),
        plan=asked,
        setting=desk.setting,
        limits=desk.limits,
    )
    return Job(worker="calibrate", job=job)


def _calibrated(_desk: Desk, _record: DeploymentRecord, result: CalibrateResult) -> Next:
    return Answer(event=Event.DONE, changes={"calibration": result.report})


def skip_calibration(record: DeploymentRecord, reason: str) -> Answer:
    """Go on with the pristine bundle: calibration helps, and is never needed."""
    report = CalibrationReport(
        id="", mode=record.assignment.calibration.mode, applied=False, reason=reason
    )
    return Answer(event=Event.NOT_ASKED, changes={"calibration": report})


def _benchmark(desk: Desk, record: DeploymentRecord) -> Next:
    if record.laid_by(desk.stack):
        return Answer(event=Event.DONE)
    # A rung is timed beside the variant that it stands in for.
    facts = desk.journal.slot(parted(record.assignment.slot)[0])
    # What does not run here cannot be timed either, and is what this is to take the place of.
    runs = facts.last_good and facts.golden_ok is not False
    baseline = desk.slots.folder(facts.slot, facts.last_good) if runs else None
    job = BenchmarkJob(
        result="",
        id=record.id,
        folder=str(_folder(desk, record, record.folder)),
        overlay=_overlay(desk, record),
        baseline_folder=str(baseline) if baseline and baseline.is_dir() else "",
        baseline_overlay=_existing(baseline / OVERLAY) if baseline and facts.calibration else "",
        plan=record.assignment.benchmark,
        setting=desk.setting,
        limits=desk.limits,
    )
    return Job(worker="benchmark", job=job)


def _benchmarked(_desk: Desk, _record: DeploymentRecord, result: BenchmarkResult) -> Next:
    return Answer(event=Event.DONE, changes={"measurement": result.measurement})


def _judge(desk: Desk, record: DeploymentRecord) -> Next:
    if record.laid_by(desk.stack):
        reason = "it is for another stack, where it was tested: here it is laid by"
        return Answer(event=Event.JUDGED_GOOD, reasons=(reason,))
    if record.measurement is None:
        reason = "there is no measurement to judge"
        return Answer(event=Event.PERMANENT, reasons=(reason,))
    judgement = verdict.judge(record.measurement, record.assignment.gates, record.checked)
    if not judgement.good:
        return Answer(event=Event.JUDGED_BAD, reasons=judgement.reasons)
    found = _look(desk, record)
    if not found.open:
        return Answer(event=Event.HELD, reasons=(f"judged good; {found.reason}",))
    if unseen := _unproven(trial.shadow(desk, record)):
        return unseen
    served = trial.server(desk, record)  # stored before anything is switched
    if served is None and (unheard := _unproven(trial.silent(desk, record))):
        return unheard
    return Answer(event=Event.JUDGED_GOOD, reasons=judgement.reasons, changes={"served": served})


def _try_out(desk: Desk, record: DeploymentRecord) -> Next:
    """Let it serve, and ask it by the path that applications follow.

    A trial that outlasts its window, because the power went meanwhile, is taken back: outside a
    window nothing serves but what was committed.
    """
    slot = record.assignment.slot
    if record.laid_by(desk.stack):
        desk.slots.switch(slot, record.folder)  # of a slot that nobody is led to on this stack
        return Answer(event=Event.DONE)
    found = _look(desk, record)
    if not found.open:
        if desk.slots.active(slot) == record.folder:
            _switch_back(desk, slot, desk.journal.slot(slot).last_good)
        return Answer(event=Event.HELD, reasons=(f"not tried out; {found.reason}",))
    if misfits := trial.misfits(desk, record):
        return Answer(event=Event.JUDGED_BAD, reasons=misfits)
    desk.slots.switch(slot, record.folder)
    variant = record.assignment.bundle.variant
    return _unproven(trial.look(desk, record)) or Job(
        worker="check", job=check_job(desk, desk.slots.link(slot), variant)
    )


def _tried_out(desk: Desk, record: DeploymentRecord, result: CheckResult) -> Next:
    if not result.golden_ok:
        return Answer(event=Event.JUDGED_BAD, reasons=("on trial: " + _wrong(result),))
    if unproven := _unproven(trial.look(desk, record)):
        return unproven
    left_s = record.assignment.trial_s - (desk.now_s - record.state_entered_at_s)
    if left_s > 0:
        return Again(after_s=min(left_s, TRIAL_CHECK_S))
    checked = Checked(
        golden_ok=True,
        stack=desk.stack,
        agreement=result.agreement,
        integer_coverage=result.integer_coverage,
    )
    return Answer(event=Event.DONE, changes={"checked": checked})


def _unproven(found: Look) -> Next | None:
    """What speaks against it where it would serve; None: nothing."""
    if found.bad:
        return Answer(event=Event.JUDGED_BAD, reasons=found.bad)
    return Again(after_s=found.after_s, problem=found.waits) if found.waits else None


def _commit(desk: Desk, record: DeploymentRecord) -> Next:
    """The counter and the last good folder, on disk and in the journal; in this order.

    The facts file is for a lost journal only, so a power loss between the two hurts nothing:
    the resumed commit writes both again.
    """
    order, checked = record.assignment, record.checked
    calibration = record.calibration
    measured = record.measurement
    latency = measured.latency if measured is not None and measured.tells_costs else None
    facts = SlotFacts(
        slot=order.slot,
        variant=order.bundle.variant,
        name=order.bundle.name,
        release=order.release,
        counter=order.counter,
        calibration=calibration.id if calibration and calibration.applied else "",
        last_good=record.folder,
        golden_ok=checked.golden_ok if checked else None,
        integer_coverage=checked.integer_coverage if checked else None,
        checked_stack=checked.stack if checked else "",
        p50_ms=latency.p50_ms if latency else None,
        ladder=order.ladder,
        deployment=order.deployment if order.ladder else "",
        order=record.order if order.ladder else None,
        throttle_c=order.throttle_c if order.ladder else None,
        coverage_min=order.gates.integer_coverage_min,
        stacks=record.stacks,
    )
    desk.slots.switch(order.slot, record.folder)
    desk.slots.write_facts(facts)
    if order.ladder:
        desk.slots.keep_manifest(order.slot, record.folder)
    desk.journal.save_slot(facts)
    if calibration and calibration.applied:
        job = SubmitJob(
            result="",
            connection=desk.connection,
            deployment=record.id,
            calibration=calibration,
            overlay=_overlay(desk, record),
        )
        keep(desk.journal, f"calibration/{record.id}", job)
    return Answer(event=Event.DONE)


def _roll_back(desk: Desk, record: DeploymentRecord) -> Next:
    """Back to the last good folder, or to nothing; what was staged is removed."""
    slot = record.assignment.slot
    facts = desk.journal.slot(slot)
    _switch_back(desk, slot, facts.last_good)
    if desk.slots.read_facts(slot).counter > facts.counter:  # of a commit that did not hold
        desk.slots.write_facts(facts)
    letter = spare(facts.last_good)
    trial.end_shadow(desk, record)
    if not trial.holder(desk, slot, letter):  # the next staging waits for who has it loaded
        desk.slots.clear(slot, letter)
    return Answer(event=Event.DONE)


def _switch_back(desk: Desk, slot: str, last_good: str) -> None:
    if last_good:
        desk.slots.switch(slot, last_good)
    else:
        desk.slots.deactivate(slot)


def _rest(_desk: Desk, _record: DeploymentRecord) -> Next:
    """Nothing is done here: the planner says when it goes on."""
    return Again(after_s=3600.0)


ACTIONS: Final[Mapping[State, Action]] = {
    State.IDLE: Action(begin=_rest),
    State.FETCHING: Action(begin=_fetch, finished=_fetched),
    State.VERIFYING: Action(begin=_verify, finished=_verified),
    State.STAGING: Action(begin=_stage, finished=_staged),
    State.WAITING: Action(begin=_wait),
    State.CALIBRATING: Action(begin=_calibrate, finished=_calibrated),
    State.BENCHMARKING: Action(begin=_benchmark, finished=_benchmarked),
    State.JUDGING: Action(begin=_judge),
    State.TRIAL: Action(begin=_try_out, finished=_tried_out),
    State.COMMITTING: Action(begin=_commit),
    State.ROLLING_BACK: Action(begin=_roll_back),
    State.REPORTING: Action(begin=_rest),
}
"""Every state and what is done in it."""


def finish(desk: Desk, record: DeploymentRecord) -> DeploymentRecord:
    """Clean up after a deployment that has just reached its end; returns the record to store."""
    orders.forget(desk, record.assignment.bundle)
    before = (None, State.IDLE, State.FETCHING, State.VERIFYING, State.WAITING)
    device_side = record.failed_in not in before
    failed = record.outcome in (Outcome.FAILED, Outcome.ROLLED_BACK, Outcome.TIMED_OUT)
    order = record.assignment
    key = plan.quarantine_key(order.slot, order.bundle.variant, desk.stack)
    if record.outcome is Outcome.COMMITTED:
        desk.journal.count_failure(key, failed=False)
    elif failed and device_side:
        desk.journal.count_failure(key, failed=True)
    generation = int(desk.journal.setting("generation", "0"))
    return replace(record, ended_generation=generation)


def check_job(desk: Desk, folder: Path, variant: str) -> CheckJob:
    """Answer the golden inputs of a pristine bundle: they were recorded without an overlay."""
    return CheckJob(
        result="", folder=str(folder), variant=variant, setting=desk.setting, limits=desk.limits
    )


def _folder(desk: Desk, record: DeploymentRecord, letter: str) -> Path:
    return desk.slots.folder(record.assignment.slot, letter)


def _overlay(desk: Desk, record: DeploymentRecord) -> str:
    if record.calibration is None or not record.calibration.applied:
        return ""
    return _existing(desk.slots.overlay(record.assignment.slot, record.folder))


def _existing(path: Path) -> str:
    return str(path) if path.exists() else ""


def _wrong(result: CheckResult) -> str:
    why = f": {result.reason}" if result.reason else ""
    return f"it answers the golden inputs wrongly (worst error {result.worst_error:.4g}){why}"
