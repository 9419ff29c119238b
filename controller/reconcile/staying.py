"""Has devices that stay behind time again what they run, once a wave, and reads their answers."""

from __future__ import annotations

import itertools
from collections.abc import Sequence
from dataclasses import replace
from typing import Any

from controller.domain import fleet, holding, observing, plan, rollout, studies
from controller.domain.staying import MOST, WAIT_S, Kept, kept
from controller.reconcile import desired, standing
from controller.reconcile.context import Context
from fitment.core.deployment import StudyKind


def is_asked(made: fleet.Rollout) -> bool:
    """Whether a gate looks at what only another timing can tell, and there is a control group."""
    held = made.control_below > 0 and not made.control_ended_at
    return held and any(check.beside for check in observing.checks(made.gate))


def is_due(made: fleet.Rollout) -> bool:
    """Whether nobody was asked at this wave yet."""
    return made.control_wave < made.wave and is_asked(made)


def begin(
    context: Context, made: fleet.Rollout, release: fleet.Release, devices: Sequence[fleet.Device]
) -> fleet.Rollout:
    """Ask them for this wave, of each cohort so many that a bound can be given; nobody twice.

    Args:
        context: the loop's hands.
        made: the rollout, that runs, and for whose wave nobody was asked yet.
        release: its release.
        devices: of its control group.
    """
    chosen = _chosen(made, [d for d in devices if d.online and d.cohort is not None])
    if not chosen:
        return made  # nobody is there yet
    asked = [study for d in chosen if (study := _ask(context, made, release, d)) is not None]
    changed = replace(
        made, control_wave=made.wave,
        control_studies=(*made.control_studies, *(study.id for study in asked)),
    )  # fmt: skip
    with context.store.transaction():
        for study in asked:
            context.store.studies.add(study)
        context.store.rollouts.put(changed)
        if asked:  # else nobody runs anything that was measured
            details = {"wave": str(made.wave), "devices": ", ".join(s.device for s in asked)}
            context.record("controller", "control_asked", made.id, details)
    return changed


def _chosen(made: fleet.Rollout, there: Sequence[fleet.Device]) -> list[fleet.Device]:
    """One device of each cluster in a cohort, in the order of the draw."""

    def place(device: fleet.Device) -> tuple[float, str]:
        return holding.place(made.release, _cluster(made, device)), device.name

    found: dict[tuple[str, str], fleet.Device] = {}
    for device in sorted(there, key=place):
        found.setdefault((rollout.key_of(device), _cluster(made, device)), device)
    by_cohort: dict[str, list[fleet.Device]] = {}
    for (key, _), device in found.items():
        by_cohort.setdefault(key, []).append(device)
    return list(itertools.chain.from_iterable(of[:MOST] for of in by_cohort.values()))


def _cluster(made: fleet.Rollout, device: fleet.Device) -> str:
    """For whom it speaks: devices that are drawn as one, or fail together."""
    given = device.labels.get(made.gate.cluster, "") if made.gate.cluster else ""
    return f"{made.gate.cluster}={given}" if given else holding.cluster_of(made, device)


def _ask(
    context: Context, made: fleet.Rollout, release: fleet.Release, device: fleet.Device
) -> studies.StudyRecord | None:
    every = context.store.deployments.find(device=device.name)
    ran = plan.running(plan.own(device, every)).get(release.slot)
    from_release = context.store.releases.get(ran.release) if ran is not None else None
    if ran is None or from_release is None or ran.cohort != device.cohort or device.cohort is None:
        return None  # a device that changed is no measure of what changed for others
    ref = desired.find_bundle(context, from_release.model, ran.variant)
    if ref is None or ran.measurement is None:
        return None
    taken: dict[str, Any] = standing.before(context, made.gate, device, release.slot)
    mark = studies.ControlMark(wave=made.wave, cluster=_cluster(made, device), **taken)
    return studies.StudyRecord(
        id=context.new_id(), kind=StudyKind.BENCHMARK, device=device.name, cohort=device.cohort,
        bundle=ref, created_at=context.clock(), control=mark,
    )  # fmt: skip


def answers(context: Context, made: fleet.Rollout) -> tuple[Kept, ...]:
    """What they said so far; who took too long is given up."""
    found = []
    for key in made.control_studies:
        study = context.store.studies.get(key)
        if study is None or study.control is None:
            continue
        if not study.done_at and context.clock() - study.created_at >= WAIT_S:
            study = replace(study, done_at=context.clock(), failed="no answer in time")
            context.store.studies.put(study)
        found.append(kept(study))
    return tuple(found)


def due(context: Context, made: fleet.Rollout) -> float:
    """When the first of those that have not answered is given up; infinite: there is none."""
    found = (context.store.studies.get(key) for key in made.control_studies)
    return min(
        (s.created_at + WAIT_S for s in found if s is not None and not s.done_at),
        default=float("inf"),
    )
