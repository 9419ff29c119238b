"""Fit jobs, one step at a time: probe, make variants, confirm on a device, choose.

All state is in the store, so each step may be taken again after a restart. A job's way:
queued → probing (a device of the cohort times kernels) → running (a worker makes variants) →
confirming (a device of the cohort times the best few) → done.
"""

from __future__ import annotations

import logging
from collections.abc import Callable, Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

from controller.domain import choice, confirm, fleet, studies, transitions
from controller.domain.fleet import JobStatus
from controller.errors import FitError, FitmentError, NotFound, Temporary, UserError
from controller.reconcile import cohorts, ingest, residuals
from controller.reconcile.context import Context
from fitment.core import plain
from fitment.core.deployment import BundleRef, StudyKind
from fitment.core.measurement import Measurement, Verdict

log = logging.getLogger("controller.reconcile")

COMING_BACK_S = 90.0
"""After a start devices are taken to be on their way back: they wait up to a minute between two
tries to connect, so nobody being there yet says nothing."""


def start(  # noqa: PLR0913 - what a fit is for, and what it may know
    context: Context, model_id: str, cohort: fleet.Cohort, *, effort: str = "", trigger: str = "",
    fresh: bool = False, climbs_from: str = "", level_ms: float = 0.0, rungs: tuple[str, ...] = (),
) -> fleet.FitJob:  # fmt: skip
    """Begin a fit, or hand over the one that this cohort had already.

    What was fitted once is not fitted again: its variants are chosen among anew, with all that
    was measured since. ``fresh``: the cohort is not as it was, so only what a device measures from
    now on counts; ``climbs_from`` is what it runs, and ``level_ms`` its tail in the field.
    ``rungs`` are kinds of variants to make beside the effort's; a trigger asks for those that the
    model's newest fit had.

    Raises:
        NotFound: no such model version.
        UserError: no device of the cohort is enrolled.
    """
    if context.store.models.get(model_id) is None:
        raise NotFound(f"no model version '{model_id}'; see: fitment model list")
    if not cohorts.members(context, cohort):
        raise UserError(f"no enrolled device belongs to {cohort.key}; see: fitment device list")
    effort = effort or context.settings.effort
    of_model = list(context.store.jobs.find(model=model_id))
    if trigger and not rungs and of_model:
        rungs = of_model[-1].rungs
    known = [j for j in of_model if j.cohort == cohort and j.status is not JobStatus.FAILED]
    same = [j for j in known if j.effort == effort and set(rungs) <= set(j.rungs)]
    now = context.clock()
    if same and same[-1].status is not JobStatus.DONE:
        return same[-1]
    job = fleet.FitJob(
        id=context.new_id(), model=model_id, cohort=cohort, status=JobStatus.QUEUED,
        created_at=now, effort=effort, trigger=trigger, rungs=rungs,
    )  # fmt: skip
    if same:
        earlier = same[-1]
        job = replace(
            earlier, id=job.id, created_at=now, trigger=trigger, cached=True, finished_at=0.0,
            status=JobStatus.RUNNING if fresh else JobStatus.CONFIRMING, choice=None,
            climbs_from=climbs_from, level_ms=level_ms, fresh_since=now if fresh else 0.0,
            studies=() if fresh else earlier.studies,
        )  # fmt: skip
        learnt = residuals.of_profile(context, cohort.profile)
        job = replace(job, variants=residuals.priced(job.variants, learnt), residuals=learnt)
    with context.store.transaction():
        context.store.jobs.add(job)
        details = {"cohort": cohort.key, "effort": effort, "cached": str(job.cached).lower()}
        context.record("controller", "fit_started", job.id, details)
    return job


def advance(context: Context) -> int:
    """Take each unfinished job one step further; returns how many there are."""
    unfinished = 0
    for status, step in STEPS.items():
        for job in context.store.jobs.find(status=status):
            unfinished += 1
            _guarded(context, job, step)
    return unfinished


def _guarded(
    context: Context, job: fleet.FitJob, step: Callable[[Context, fleet.FitJob], None]
) -> None:
    try:
        step(context, job)
    except Temporary as error:
        log.info("action=fit_waits job=%s reason=%s", job.id, error)
    except FitmentError as error:
        fail(context, job, str(error))


def fail(context: Context, job: fleet.FitJob, reason: str) -> None:
    """End a job that cannot be done."""
    transitions.check_job(job.status, JobStatus.FAILED)
    with context.store.transaction():
        ended = replace(job, status=JobStatus.FAILED, error=reason, finished_at=context.clock())
        context.store.jobs.put(ended)
        context.record("controller", "fit_failed", job.id, {"reason": reason})


def cancel(context: Context, trigger: fleet.Trigger, reason: str) -> None:
    """End the fit of a trigger that was closed, with what it asks of devices.

    None that had ended, and none that is another's, too.
    """
    job = context.store.jobs.get(trigger.job)
    if job is None or job.status in ENDED or job.trigger != trigger.id:
        return
    open_ = context.store.triggers.find(model=trigger.model, closed_at=0.0)
    if any(other.job == job.id and other.id != trigger.id for other in open_):
        return
    with context.store.transaction():
        for study in _studies(context, job):
            if not study.done_at:
                given_up = replace(study, done_at=context.clock(), failed="the fit was cancelled")
                context.store.studies.put(given_up)
        fail(context, job, reason)
    context.fits.cancel(job.id)


ENDED = frozenset({JobStatus.DONE, JobStatus.FAILED})


def _queued(context: Context, job: fleet.FitJob) -> None:
    """Ask one device for the kernel tables that are not known yet."""
    runtimes = cohorts.runtimes(context, job.cohort)
    missing = [n for n in runtimes if cohorts.kernel_table(context, job.cohort, n) is None]
    if not missing:
        _run(context, job)
        return
    device = cohorts.online(context, job.cohort)
    if device is None:
        _note(context, job, "waiting for a device of the cohort to come online")
        return
    if not cohorts.tells_time(device):
        _run(context, job)
        return
    probes = {name: context.fits.probe_bundle(name) for name in missing}
    if any(probe is None for probe in probes.values()):
        _note(context, job, "making the kernel probe")
        return
    refs = [(probe.ref, Path(probe.archive)) for probe in probes.values() if probe is not None]
    _offer(context, refs)
    with context.store.transaction():
        asked = tuple(_ask(context, job, device, StudyKind.PROBE, ref) for ref, _ in refs)
        _move(context, job, JobStatus.PROBING, step="probing kernels", studies=asked)


def _probing(context: Context, job: fleet.FitJob) -> None:
    if _pending(context, job):
        return
    _run(context, job)


def _run(context: Context, job: fleet.FitJob) -> None:
    job = replace(job, residuals=residuals.of_profile(context, job.cohort.profile))
    context.fits.start(job.id, request(context, job))
    _move(context, job, JobStatus.RUNNING, step="making variants", fraction=0.05)


def _running(context: Context, job: fleet.FitJob) -> None:
    if job.cached:  # its variants are there; a device says anew how they do
        _confirm(context, job)
        return
    if not context.fits.known(job.id):  # the controller was restarted
        context.fits.start(job.id, request(context, job))
    progress = context.fits.poll(job.id)
    if not progress.done:
        _note(context, job, progress.step, 0.05 + 0.75 * progress.fraction)
        return
    if progress.error:
        raise FitError(progress.error)
    variants = plain.from_plain(tuple[fleet.Variant, ...], progress.result["variants"])
    archives = progress.result["archives"]
    _offer(context, [(v.bundle, Path(archives[v.bundle.archive])) for v in variants])
    job = replace(
        job,
        variants=variants,
        scheme_reasons=progress.result["reasons"],
        remarks=tuple(progress.result.get("remarks", ())),
        fp32_accuracy=progress.result["fp32_accuracy"],
        fp32_bytes=progress.result["fp32_bytes"],
    )
    _learn(context, job)
    _confirm(context, job)


def _learn(context: Context, job: fleet.FitJob) -> None:
    model = context.store.models.get(job.model)
    if model is not None and model.fp32_accuracy is None:
        facts = replace(model, fp32_accuracy=job.fp32_accuracy, fp32_bytes=job.fp32_bytes)
        context.store.models.put(facts)


def _confirm(context: Context, job: fleet.FitJob) -> None:
    trigger = context.store.triggers.get(job.trigger) if job.trigger else None
    device = cohorts.online(context, job.cohort, prefer=trigger.device if trigger else "")
    waits = job.fresh_since > 0 or _may_come_back(context)
    if device is None and context.settings.confirm and waits:
        _wait(context, job)
        return
    if device is None or not context.settings.confirm or not cohorts.tells_time(device):
        _choose(context, job)
        return
    with context.store.transaction():
        asked = _time(context, job, device)
        _move(context, job, JobStatus.CONFIRMING, step=TIMING, studies=asked, fraction=0.85)


TIMING = "timing on the device"
FRESH_MOST_S = 86_400.0
"""For so long a fit waits that only what a device measures from now on can decide."""


def _wait(context: Context, job: fleet.FitJob) -> None:
    """For a device of the cohort.

    Raises:
        FitError: predictions do not do for this one, and nobody came.
    """
    if job.fresh_since and context.clock() - job.fresh_since > FRESH_MOST_S:
        raise FitError(
            "no device of the cohort timed its variants within a day, and it changed, so that"
            " predictions and older timings say nothing; begin again when one is online"
        )
    _note(context, job, "waiting for a device of the cohort to come back")


def _time(context: Context, job: fleet.FitJob, device: fleet.Device) -> tuple[str, ...]:
    wanted = confirm.candidates(job.variants, _budget(context, job), also=job.climbs_from)
    refs = [v.bundle for v in job.variants if v.bundle.variant in wanted]
    return tuple(_ask(context, job, device, StudyKind.BENCHMARK, ref) for ref in refs)


def _may_come_back(context: Context) -> bool:
    return context.clock() - context.started_at < COMING_BACK_S


def _confirming(context: Context, job: fleet.FitJob) -> None:
    if _pending(context, job):
        return
    if job.fresh_since and _is_silent(context, job):
        _time_again(context, job)
    else:
        _choose(context, job)


def _is_silent(context: Context, job: fleet.FitJob) -> bool:
    """Whether no device said anything: it went away, which says nothing of the variants."""
    return not any(
        s.measurement is not None or s.failed.startswith(ingest.GAVE_UP)
        for s in _studies(context, job)
    )


def _time_again(context: Context, job: fleet.FitJob) -> None:
    device = cohorts.online(context, job.cohort)
    if device is None:
        _wait(context, job)
        return
    with context.store.transaction():
        asked = _time(context, job, device)
        context.store.jobs.put(replace(job, step=TIMING, studies=asked))


def _choose(context: Context, job: fleet.FitJob) -> None:
    known = measured(context, job)
    budget, failed = _budget(context, job), unusable(context, job)
    runs = next((v for v in job.variants if v.bundle.variant == job.climbs_from), None)
    seen = choice.at_level(known, runs, job.level_ms) if runs is not None else known
    chosen = choice.choose(job.variants, budget, seen, unusable=failed, climbs_from=job.climbs_from)
    with context.store.transaction():
        _move(context, job, JobStatus.DONE, step="done", fraction=1.0, choice=chosen,
              measured=known, finished_at=context.clock())  # fmt: skip
        names = {v.bundle.variant: v.name for v in job.variants}
        details = {"chosen": names.get(chosen.chosen, ""), "reason": chosen.reason}
        context.record("controller", "variant_chosen", job.id, details)


STEPS: Mapping[JobStatus, Callable[[Context, fleet.FitJob], None]] = {
    JobStatus.CONFIRMING: _confirming,
    JobStatus.RUNNING: _running,
    JobStatus.PROBING: _probing,
    JobStatus.QUEUED: _queued,
}
"""Each state that is not an end, latest first, so that a job takes one step a round."""


def measured(context: Context, job: fleet.FitJob) -> dict[str, Measurement]:
    """What devices of the cohort measured, by variant digest: for the job, and in the field.

    Of one device the latest counts, but a disturbed measurement never replaces an undisturbed one;
    of several devices the one in the middle, without those that are a case for service.
    """
    taken = [(s.device, s.measurement) for s in _studies(context, job)]
    for release in context.store.releases.find(model=job.model):
        taken += [
            (d.device, d.measurement)
            for d in context.store.deployments.find(release=release.id)
            if d.cohort == job.cohort and d.ended_at >= job.fresh_since
        ]
    ill = {ticket.device for ticket in context.store.tickets.find(closed_at=0.0)}
    found: dict[str, dict[tuple[bool, bool], dict[str, Measurement]]] = {}
    for device, measurement in taken:
        if measurement is not None:
            rank = (measurement.verdict is Verdict.VALID, device not in ill)
            found.setdefault(measurement.bundle, {}).setdefault(rank, {})[device] = measurement
    best = {bundle: ranked[max(ranked)] for bundle, ranked in found.items()}
    return {bundle: choice.middle(list(some.values())) for bundle, some in best.items()}


def unusable(context: Context, job: fleet.FitJob) -> dict[str, str]:
    """Variants that a device could not time while it could time others, or that labels refuted.

    One that could time none has a problem of its own, which says nothing of the variants.
    """
    asked = [s for s in _studies(context, job) if s.kind is StudyKind.BENCHMARK]
    refuted = _refuted(context, job)
    if not any(s.measurement for s in asked):
        return refuted
    return refuted | {
        s.bundle.variant: f"the device could not run it: {s.failed}"
        for s in asked
        if s.failed.startswith(ingest.GAVE_UP)
    }


def _refuted(context: Context, job: fleet.FitJob) -> dict[str, str]:
    """Variants of which labels from this cohort said that their answers are worse."""
    return {
        t.before: f"labels from the field speak against it: {t.reason}"
        for t in context.store.triggers.find(model=job.model)
        if t.kind is fleet.TriggerKind.FIELD_FELL and t.cohort == job.cohort
    }


def _studies(context: Context, job: fleet.FitJob) -> list[studies.StudyRecord]:
    found = (context.store.studies.get(study) for study in job.studies)
    return [study for study in found if study is not None]


def _move(context: Context, job: fleet.FitJob, status: JobStatus, **changes: Any) -> None:
    transitions.check_job(job.status, status)
    context.store.jobs.put(replace(job, status=status, **changes))


def _note(context: Context, job: fleet.FitJob, step: str, fraction: float | None = None) -> None:
    changed = replace(job, step=step, fraction=job.fraction if fraction is None else fraction)
    if changed != job:
        context.store.jobs.put(changed)


def _pending(context: Context, job: fleet.FitJob) -> bool:
    """Whether a study of the job is still open; one that took too long is closed as failed."""
    now = context.clock()
    pending = False
    for study in _studies(context, job):
        if study.done_at:
            continue
        if now - study.created_at > context.settings.study_timeout_s:
            failed = replace(study, done_at=now, failed="no answer in time")
            context.store.studies.put(failed)
        else:
            pending = True
    return pending


def _ask(
    context: Context, job: fleet.FitJob, device: fleet.Device, kind: StudyKind, ref: BundleRef
) -> str:
    study = studies.StudyRecord(
        id=context.new_id(), kind=kind, device=device.name, cohort=job.cohort, bundle=ref,
        created_at=context.clock(),
    )  # fmt: skip
    context.store.studies.add(study)
    return study.id


def _offer(context: Context, archives: list[tuple[BundleRef, Path]]) -> None:
    """Make transport files fetchable: into the signed metadata at once, and into the blobs.

    The blob is written last: it says that both were done, also to a controller that was killed
    in between.
    """
    new = [(ref, path) for ref, path in archives if not context.blobs.has(ref.archive)]
    if not new:
        return
    context.trust.repository.add_bundles([(ref.target, path) for ref, path in new])
    for ref, path in new:
        if context.blobs.put_file(path) != ref.archive:
            raise FitError(f"{path.name} is not what its worker said it was; run the fit again")


def request(context: Context, job: fleet.FitJob) -> dict[str, Any]:
    """A plain `controller.compress.fit.FitRequest`; the runner adds its folders.

    Raises:
        FitError: the cohort or the model version is gone.
    """
    model = _model(context, job)
    profile = cohorts.profile_of(context, job.cohort)
    names = cohorts.runtimes(context, job.cohort)
    tables = [cohorts.kernel_table(context, job.cohort, name) for name in names]
    targets = [
        {
            "runtime": r.name,
            "format": r.format,
            "schemes": list(r.schemes),
            "rules": list(r.rules),
        }
        for r in profile.runtimes
        if r.name in names
    ]
    return {
        "workload_folder": model.snapshot,
        "runtimes": targets,
        "model_id": model.id,
        "profile": profile.name,
        "residuals": plain.to_plain(job.residuals),
        "kernel_tables": [plain.to_plain(t) for t in tables if t is not None],
        "budget": plain.to_plain(cohorts.budget_of(context, model, profile.name)),
        "effort": job.effort,
        "rungs": list(job.rungs),
        "calibratable": profile.name in model.calibrate_profiles,
        "channels_multiple_of": profile.channels_multiple_of,
        "machine": cohorts.machine(context, job.cohort),
    }


def _model(context: Context, job: fleet.FitJob) -> fleet.ModelVersion:
    model = context.store.models.get(job.model)
    if model is None:
        raise FitError("its model version is gone")
    return model


def _budget(context: Context, job: fleet.FitJob) -> fleet.Budget:
    return cohorts.budget_of(context, _model(context, job), job.cohort.profile)
