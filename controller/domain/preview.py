"""What a rollout would do before it begins: who would get what, in which wave, and why others not.

Waves are walked through by the admission that real rollouts have, as if every device were there and
every deployment ended well; so the numbers are the most that each wave can reach.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass, replace

from controller.domain import eligible, rollout
from controller.domain.eligible import Barred
from controller.domain.fleet import Deployment, Device, Release, Rollout
from fitment.core.deployment import Outcome


@dataclass(frozen=True, slots=True, kw_only=True)
class Place:
    """A device that would be admitted."""

    device: str
    cohort: str
    variant: str  # digest
    wave: int  # from 0; in which it is admitted at the earliest, if all are there
    online: bool  # who is away is admitted when it is back, and others in its place


@dataclass(frozen=True, slots=True, kw_only=True)
class LeftOut:
    """A device that would get nothing, and why."""

    device: str
    bar: eligible.Bar
    reason: str


@dataclass(frozen=True, slots=True, kw_only=True)
class CohortPlan:
    """What would come to one cohort."""

    cohort: str
    variant: str  # digest
    members: int
    online: int
    waves: tuple[int, ...]  # devices admitted up to the end of each wave, at most


@dataclass(frozen=True, slots=True, kw_only=True)
class Preview:
    """All of it."""

    selection: str  # what the rollout is for, in words
    waves: tuple[float, ...]
    reached: tuple[int, ...]  # devices up to the end of each wave, over all cohorts
    cohorts: tuple[CohortPlan, ...] = ()
    places: tuple[Place, ...] = ()
    left_out: tuple[LeftOut, ...] = ()
    notes: tuple[str, ...] = ()


def preview(
    made: Rollout,
    release: Release,
    targets: Sequence[Device],
    others: Sequence[tuple[Device, Barred]],
    *,
    now: float,
) -> Preview:
    """What `made` would do now.

    Args:
        made: the rollout, as it would be kept.
        release: its release.
        targets: devices that it would admit, in admission order.
        others: those that it would not, and why.
        now: seconds, UTC.
    """
    waves = _walk(made, targets, now)
    cohorts = tuple(
        _cohort(key, members, release, made, waves)
        for key, members in rollout.group(targets).items()
    )
    return Preview(
        selection=eligible.asked_for(made),
        waves=made.waves,
        reached=_until(Counter(waves.values()), len(made.waves)),
        cohorts=cohorts,
        places=tuple(
            Place(
                device=d.name, cohort=rollout.key_of(d), online=d.online,
                variant=eligible.variant_for(release, d), wave=waves[d.name],
            )
            for d in sorted(targets, key=lambda d: waves[d.name])
        ),
        left_out=tuple(LeftOut(device=d.name, bar=b.bar, reason=b.reason) for d, b in others),
        notes=_notes(targets, cohorts),
    )  # fmt: skip


def _walk(made: Rollout, targets: Sequence[Device], now: float) -> dict[str, int]:
    """The wave of each device, as admission gives them out."""
    there = [replace(device, online=True) for device in targets]
    grouped = {key: tuple(members) for key, members in rollout.group(there).items()}
    ended: dict[str, Deployment] = {}
    waves: dict[str, int] = {}
    for wave in range(len(made.waves)):
        view = rollout.View(
            rollout=replace(made, wave=wave, soak_s=0.0), targets=there, deployments=ended,
            now=now, grouped=grouped,
        )  # fmt: skip
        while admitted := rollout.admissions(view):
            for step in admitted:
                waves[step.device] = wave
                ended[step.device] = _ended(step.device, made, wave, now)
    return waves


def _ended(device: str, made: Rollout, wave: int, now: float) -> Deployment:
    return Deployment(
        id=device, rollout=made.id, release=made.release, device=device, slot="", variant="",
        wave=wave, created_at=now, ended_at=now, outcome=Outcome.COMMITTED,
    )  # fmt: skip


def _cohort(
    key: str, members: Sequence[Device], release: Release, made: Rollout, waves: dict[str, int]
) -> CohortPlan:
    return CohortPlan(
        cohort=key,
        variant=eligible.variant_for(release, members[0]),
        members=len(members),
        online=sum(device.online for device in members),
        waves=_until(Counter(waves[d.name] for d in members), len(made.waves)),
    )


def _until(counted: Counter[int], waves: int) -> tuple[int, ...]:
    """How many up to the end of each wave."""
    return tuple(sum(counted[n] for n in range(wave + 1)) for wave in range(waves))


def _notes(targets: Sequence[Device], cohorts: Sequence[CohortPlan]) -> tuple[str, ...]:
    away = [device.name for device in targets if not device.online]
    empty = [plan.cohort for plan in cohorts if not plan.online]
    found = []
    if away:
        some = f"{', '.join(away[:3])}{' …' if len(away) > 3 else ''}"
        found.append(f"{len(away)} of them are offline ({some}): admitted when they come back")
    if empty and len(empty) < len(cohorts):
        found.append(f"nobody is online in {', '.join(empty[:3])}{' …' if len(empty) > 3 else ''}")
    if targets and len(away) == len(targets):
        found.append("nobody is online: the rollout begins when a device comes back")
    return tuple(found)
