"""One model: its fits, every candidate with its evidence, and the Pareto picture."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, fields

from controller.dashboard.views import words
from controller.dashboard.views.beside import names_of
from controller.dashboard.views.words import State, Value
from controller.domain import fleet


@dataclass(frozen=True, slots=True, kw_only=True)
class ModelRecords:
    """What a model's page is made from."""

    model: fleet.ModelVersion
    jobs: Sequence[fleet.FitJob] = ()
    releases: Sequence[fleet.Release] = ()
    rollouts: Sequence[fleet.Rollout] = ()
    emulated: frozenset[str] = frozenset()  # cohort keys of devices that stand in for a board


@dataclass(frozen=True, slots=True, kw_only=True)
class Candidate:
    """One variant of one fit, with its evidence and why it was taken or not."""

    name: str
    runtime: str
    state: State
    why: str
    accuracy: Value
    guard: Value
    agreement: Value
    file: Value
    wire: Value
    predicted: Value
    measured: Value
    host: Value


@dataclass(frozen=True, slots=True, kw_only=True)
class Bubble:
    """One candidate in the picture."""

    name: str
    latency_ms: float
    accuracy: float
    file_bytes: int
    chosen: bool
    front: bool  # nothing else is at least as good in both
    kind: str  # how the latency was come by


@dataclass(frozen=True, slots=True, kw_only=True)
class Fit:
    """One fit of the model to one cohort."""

    id: str
    cohort: str
    profile: str
    emulated: bool
    state: State
    step: str
    fraction: float
    running: bool
    error: str
    created_at: float
    finished_at: float
    cached: bool
    trigger: str
    reason: str
    schemes: tuple[str, ...]
    remarks: tuple[str, ...]
    candidates: tuple[Candidate, ...]
    bubbles: tuple[Bubble, ...]
    unplaced: int  # candidates without accuracy or latency


@dataclass(frozen=True, slots=True, kw_only=True)
class ReleaseRow:
    """A release of the model."""

    id: str
    counter: int
    created_at: float
    state: State
    entries: tuple[tuple[str, str, str], ...]  # cohort, variant, why
    rollouts: tuple[tuple[str, State], ...]


@dataclass(frozen=True, slots=True, kw_only=True)
class Workbench:
    """A model's page."""

    id: str
    name: str
    version: str
    registered_at: float
    accuracy: Value
    size: Value
    budget: tuple[str, ...]
    profile_budgets: tuple[tuple[str, tuple[str, ...]], ...]
    fits: tuple[Fit, ...]
    releases: tuple[ReleaseRow, ...]
    variants: tuple[str, ...]  # names, to compare two of


def workbench(records: ModelRecords) -> Workbench:
    """A model's page; newest fits and releases first."""
    model = records.model
    jobs = sorted(records.jobs, key=lambda job: job.created_at, reverse=True)
    releases = sorted(records.releases, key=lambda made: made.created_at, reverse=True)
    names = {v.bundle.variant: v.name for job in jobs for v in job.variants}
    known = next((job for job in jobs if job.fp32_accuracy is not None), None)
    accuracy = model.fp32_accuracy if model.fp32_accuracy is not None or known is None else (
        known.fp32_accuracy
    )  # fmt: skip
    plain_bytes = model.fp32_bytes if model.fp32_bytes is not None or known is None else (
        known.fp32_bytes
    )  # fmt: skip
    return Workbench(
        id=model.id,
        name=model.name,
        version=model.version,
        registered_at=model.registered_at,
        accuracy=words.percent(accuracy, "known after the first fit"),
        size=words.size(plain_bytes, "known after the first fit"),
        budget=budget(model.budget),
        profile_budgets=tuple(
            (profile, budget(asked)) for profile, asked in model.profile_budgets.items()
        ),
        fits=tuple(fit(job, emulated=job.cohort.key in records.emulated) for job in jobs),
        releases=tuple(release_row(made, names, records.rollouts) for made in releases),
        variants=names_of(jobs),
    )


def fit(job: fleet.FitJob, *, emulated: bool) -> Fit:
    """One fit with its candidates, the chosen one first, then as they were ranked."""
    choice = job.choice
    order = list(choice.ranked) if choice else []
    ranked = sorted(job.variants, key=lambda v: _rank(v, choice, order))
    bubbles = place(ranked, job)
    return Fit(
        id=job.id,
        cohort=job.cohort.key,
        profile=job.cohort.profile,
        emulated=emulated,
        state=words.job_state(job),
        step=job.step or job.status.value,
        fraction=job.fraction,
        running=job.status not in {fleet.JobStatus.DONE, fleet.JobStatus.FAILED},
        error=job.error,
        created_at=job.created_at,
        finished_at=job.finished_at,
        cached=job.cached,
        trigger=job.trigger,
        reason=choice.reason if choice else "",
        schemes=tuple(f"{runtime}: {why}" for runtime, why in job.scheme_reasons.items()),
        remarks=job.remarks,
        candidates=tuple(candidate(v, job) for v in ranked),
        bubbles=bubbles,
        unplaced=len(ranked) - len(bubbles),
    )


def candidate(variant: fleet.Variant, job: fleet.FitJob) -> Candidate:
    """One variant as a line."""
    digest = variant.bundle.variant
    state, why = _judged(digest, job.choice)
    accuracy = words.percent(variant.accuracy, "no labels to score with")
    if variant.accuracy is not None and variant.accuracy_interval is not None:
        low, high = variant.accuracy_interval
        accuracy = Value(text=accuracy.text, note=f"95 %: {low * 100:.2f}–{high * 100:.2f}")
    return Candidate(
        name=variant.name,
        runtime=variant.runtime,
        state=state,
        why=why,
        accuracy=accuracy,
        guard=words.percent(variant.guard_accuracy, "no labels to score with"),
        agreement=words.percent(variant.agreement, ""),
        file=words.size(variant.file_bytes, ""),
        wire=words.size(variant.wire_bytes, ""),
        predicted=words.cost(variant.predicted, "no kernel table of this cohort"),
        measured=words.latency(job.measured.get(digest), "no device timed it"),
        host=words.cost(variant.host_latency, "not timed on the controller"),
    )


def place(variants: Sequence[fleet.Variant], job: fleet.FitJob) -> tuple[Bubble, ...]:
    """Candidates that have both coordinates, with the front marked.

    Kinds of latency are not mixed: measured ones stand alone when a device measured two or more,
    else the predicted ones do.
    """
    measured = {
        digest: taken.latency.p50_ms
        for digest, taken in job.measured.items()
        if taken.latency is not None
    }
    use_measured = sum(v.bundle.variant in measured for v in variants) > 1
    chosen = job.choice.chosen if job.choice else ""
    points = []
    for variant in variants:
        ms = measured.get(variant.bundle.variant) if use_measured else _predicted(variant)
        if ms is not None and variant.accuracy is not None:
            points.append((variant, ms, variant.accuracy))
    return tuple(
        Bubble(
            name=v.name,
            latency_ms=ms,
            accuracy=right,
            file_bytes=v.file_bytes,
            chosen=v.bundle.variant == chosen,
            front=not any(_beats((a, b), (ms, right)) for _, a, b in points),
            kind="measured" if use_measured else "predicted",
        )
        for v, ms, right in points
    )


def budget(asked: fleet.Budget) -> tuple[str, ...]:
    """What a variant must keep to, one a line."""
    units = {"accuracy_drop_max": "", "latency_p95_max_ms": "ms", "energy_max_mj": "mJ"}
    lines = []
    for field in fields(asked):
        limit = getattr(asked, field.name)
        if limit is None:
            continue
        if isinstance(limit, str):
            lines.append(f"{field.name}: {limit}")
            continue
        name = field.name.removesuffix("_ms").removesuffix("_mj").removesuffix("_bytes")
        text = words.size(limit, "").text if "bytes" in field.name else f"{limit:g} {units.get(field.name, '')}"  # noqa: E501  # fmt: skip
        lines.append(f"{name.replace('_', ' ').replace(' bytes', '')}: {text}".strip())
    return tuple(lines)


def release_row(
    made: fleet.Release, names: Mapping[str, str], rollouts: Sequence[fleet.Rollout]
) -> ReleaseRow:
    """One release as a line."""
    approved = State(word="approved", tone=words.Tone.GOOD) if made.approved_at else State(
        word="waits for approval", tone=words.Tone.WARN
    )  # fmt: skip
    return ReleaseRow(
        id=made.id,
        counter=made.counter,
        created_at=made.created_at,
        state=approved,
        entries=tuple(
            (key, names.get(digest, digest.removeprefix("sha256:")[:12]), made.reasons.get(key, ""))
            for key, digest in made.variants.items()
        ),
        rollouts=tuple((r.id, words.rollout_state(r)) for r in rollouts if r.release == made.id),
    )


def _rank(variant: fleet.Variant, choice: fleet.Choice | None, order: Sequence[str]) -> int:
    digest = variant.bundle.variant
    if choice is not None and digest == choice.chosen:
        return -1
    return order.index(digest) if digest in order else len(order)


def _judged(digest: str, choice: fleet.Choice | None) -> tuple[State, str]:
    if choice is None:
        return State(word="not judged yet", tone=words.Tone.QUIET), "the fit has not ended"
    if digest == choice.chosen:
        return State(word="chosen", tone=words.Tone.GOOD), choice.reason
    if digest in choice.rejected:
        return State(word="rejected", tone=words.Tone.BAD), choice.rejected[digest]
    if digest in choice.ranked:
        place = choice.ranked.index(digest) + 1
        return State(word="in budget", tone=words.Tone.QUIET), f"ranked {place}"
    return State(word="not ranked", tone=words.Tone.QUIET), "it was not compared"


def _predicted(variant: fleet.Variant) -> float | None:
    return None if variant.predicted is None else variant.predicted.value


def _beats(one: tuple[float, float], other: tuple[float, float]) -> bool:
    return one[0] <= other[0] and one[1] >= other[1] and one != other
