"""The fleet at a glance: records to rows."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

from controller.dashboard.views.words import (
    State,
    Tone,
    device_state,
    is_emulated,
    job_state,
    rollout_state,
)
from controller.domain import eligible, fleet
from controller.domain.tickets import Ticket

SHOWN_MOST = 200
"""Rows of one table; more are found by the filter, and said."""

JOB_ENDED = frozenset({fleet.JobStatus.DONE, fleet.JobStatus.FAILED})
ROLLOUT_ENDED = frozenset(
    {fleet.RolloutState.COMPLETED, fleet.RolloutState.REVERTED, fleet.RolloutState.CANCELLED}
)
_ORDER = {Tone.BAD: 0, Tone.WARN: 1, Tone.BUSY: 2, Tone.GOOD: 3, Tone.QUIET: 4}


@dataclass(frozen=True, slots=True, kw_only=True)
class FleetRecords:
    """What the fleet's page is made from."""

    devices: Sequence[fleet.Device] = ()
    models: Sequence[fleet.ModelVersion] = ()
    jobs: Sequence[fleet.FitJob] = ()  # those that run
    rollouts: Sequence[fleet.Rollout] = ()  # those that have not ended
    deployments: Sequence[fleet.Deployment] = ()  # of these rollouts
    triggers: Sequence[fleet.Trigger] = ()  # open ones
    tickets: Sequence[Ticket] = ()  # the same


@dataclass(frozen=True, slots=True, kw_only=True)
class Count:
    """One number of the first row."""

    name: str
    number: int
    of: str = ""
    tone: Tone = Tone.QUIET
    page: str = ""


@dataclass(frozen=True, slots=True, kw_only=True)
class DeviceRow:
    """One line of the fleet."""

    name: str
    state: State
    profile: str
    emulated: bool
    runs: tuple[str, ...]
    last_seen: float
    notes: int = 0
    labels: str = ""


@dataclass(frozen=True, slots=True, kw_only=True)
class Matrix:
    """How many devices of a profile run a variant."""

    profiles: tuple[str, ...] = ()
    variants: tuple[str, ...] = ()
    cells: Mapping[tuple[str, str], int] = field(default_factory=dict)
    emulated: frozenset[str] = frozenset()  # profiles with devices that are


@dataclass(frozen=True, slots=True, kw_only=True)
class RolloutRow:
    """A rollout and how far it is."""

    id: str
    model: str
    state: State
    wave: str
    fraction: float
    words: str
    created_at: float = 0.0


@dataclass(frozen=True, slots=True, kw_only=True)
class FitRow:
    """A fit and how far it is."""

    id: str
    model: str  # id
    name: str
    profile: str
    state: State
    step: str
    fraction: float


@dataclass(frozen=True, slots=True, kw_only=True)
class Overview:
    """The fleet at a glance."""

    counts: tuple[Count, ...]
    devices: tuple[DeviceRow, ...]
    matching: int  # of which `devices` are the first
    total: int
    matrix: Matrix
    triggers: tuple[fleet.Trigger, ...]
    rollouts: tuple[RolloutRow, ...]
    fits: tuple[FitRow, ...]
    has_models: bool


def overview(records: FleetRecords, wanted: str = "") -> Overview:
    """The fleet's page; ``wanted`` are words that a device's line must hold."""
    rows = [device_row(device) for device in records.devices]
    rows.sort(key=lambda row: (_ORDER[row.state.tone], row.name))
    matching = [row for row in rows if matches(row, wanted)]
    names = {model.id: f"{model.name} {model.version}" for model in records.models}
    return Overview(
        counts=_counts(records),
        devices=tuple(matching[:SHOWN_MOST]),
        matching=len(matching),
        total=len(rows),
        matrix=matrix(records.devices),
        triggers=tuple(records.triggers),
        rollouts=tuple(
            rollout_row(made, records.devices, records.deployments) for made in records.rollouts
        ),
        fits=tuple(fit_row(job, names) for job in records.jobs),
        has_models=bool(records.models),
    )


def device_row(device: fleet.Device) -> DeviceRow:
    """One device as a line."""
    reported = device.reported
    slots = reported.slots if reported else ()
    return DeviceRow(
        name=device.name,
        state=device_state(device),
        profile=device.profile,
        emulated=is_emulated(device),
        runs=tuple(
            f"{slot.slot}: {slot.name}" + (f" (rung {slot.rung} serves)" if slot.rung else "")
            for slot in slots
            if slot.variant
        ),
        last_seen=device.last_seen,
        notes=len(reported.notes) if reported else 0,
        labels=", ".join(f"{key}={value}" for key, value in device.labels.items()),
    )


def matches(row: DeviceRow, wanted: str) -> bool:
    """Whether every word is somewhere in the line."""
    line = " ".join(
        (row.name, row.state.word, row.profile, *row.runs, row.labels, "emulated" * row.emulated)
    ).lower()
    return all(word in line for word in wanted.lower().split())


def matrix(devices: Sequence[fleet.Device]) -> Matrix:
    """Profile by variant, of devices that are not revoked."""
    cells: Counter[tuple[str, str]] = Counter()
    marked = set()
    for device in devices:
        if device.revoked or device.reported is None:
            continue
        profile = device.profile or "no profile"
        if is_emulated(device):
            marked.add(profile)
        active = [slot for slot in device.reported.slots if slot.variant]
        for name in [f"{s.slot}: {s.name}" for s in active] or ["nothing yet"]:
            cells[profile, name] += 1
    return Matrix(
        profiles=tuple(sorted({profile for profile, _ in cells})),
        variants=tuple(sorted({name for _, name in cells})),
        cells=dict(cells),
        emulated=frozenset(marked),
    )


def rollout_row(
    made: fleet.Rollout, devices: Sequence[fleet.Device], deployments: Sequence[fleet.Deployment]
) -> RolloutRow:
    """How far a rollout is: ended deployments against the devices it is for."""
    wanted = set(made.devices) or {d.name for d in devices if eligible.takes(made, d)}
    newest = {d.device: d for d in deployments if d.rollout == made.id}
    ended = sum(d.outcome is not None for d in newest.values())
    whole = len(wanted | set(newest))
    slots = {d.slot for d in newest.values()}
    return RolloutRow(
        id=made.id,
        model=", ".join(sorted(slots)),
        state=rollout_state(made),
        wave=f"{min(made.wave + 1, len(made.waves))} of {len(made.waves)}",
        fraction=ended / whole if whole else 0.0,
        words=f"{ended} of {whole} devices ended",
        created_at=made.created_at,
    )


def fit_row(job: fleet.FitJob, names: Mapping[str, str]) -> FitRow:
    """How far a fit is."""
    return FitRow(
        id=job.id, model=job.model, name=names.get(job.model, job.model),
        profile=job.cohort.profile, state=job_state(job), step=job.step or job.status.value,
        fraction=job.fraction,
    )  # fmt: skip


def _counts(records: FleetRecords) -> tuple[Count, ...]:
    there = [d for d in records.devices if not d.revoked]
    online = sum(d.online for d in there)
    all_on = Tone.GOOD if online == len(there) and there else Tone.WARN
    return (
        Count(name="online", number=online, of=f"of {len(there)} devices", tone=all_on),
        Count(name="models", number=len(records.models), page="models"),
        Count(name="fits running", number=len(records.jobs), tone=_busy(records.jobs)),
        Count(
            name="rollouts open", number=len(records.rollouts), tone=_busy(records.rollouts),
            page="rollouts",
        ),
        Count(
            name="open triggers", number=len(records.triggers), page="triggers",
            tone=Tone.WARN if records.triggers else Tone.QUIET,
        ),
        Count(
            name="open tickets", number=len(records.tickets), page="tickets",
            tone=Tone.WARN if records.tickets else Tone.QUIET,
        ),
    )  # fmt: skip


def _busy(records: Sequence[object]) -> Tone:
    return Tone.BUSY if records else Tone.QUIET
