"""Rollouts: run the steps that the pure planner names, and what operators ask for."""

from __future__ import annotations

import itertools
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any

from controller.domain import fleet, rollout, transitions
from controller.domain.fleet import RolloutState
from controller.errors import Conflict, NotFound, UserError
from controller.reconcile import desired, releasing
from controller.reconcile.context import Context
from fitment.core.deployment import DeploymentState, Outcome


@dataclass(frozen=True, slots=True, kw_only=True)
class RolloutPlan:
    """What an operator asks for; empty selector and devices: the whole fleet."""

    selector: Mapping[str, str] = field(default_factory=dict)
    devices: tuple[str, ...] = ()
    waves: tuple[float, ...] = (0.1, 0.5, 1.0)
    soak_s: float = 0.0
    deadline_s: float = 3600.0
    gate: fleet.Gate = field(default_factory=fleet.Gate)


def create(
    context: Context, release_id: str, plan: RolloutPlan, *, trigger: str = ""
) -> fleet.Rollout:
    """Begin a rollout, or leave it waiting until its release is approved.

    Raises:
        NotFound: no such release or device.
        UserError: the waves do not add up, or the release has nothing for any device.
    """
    release = context.store.releases.get(release_id)
    if release is None:
        raise NotFound(f"no release '{release_id}'; see: fitment release list")
    _check_waves(plan.waves)
    approved = bool(release.approved_at)
    made = fleet.Rollout(
        id=context.new_id(), release=release_id, created_at=context.clock(),
        state=RolloutState.RUNNING if approved else RolloutState.AWAITING_APPROVAL,
        selector=dict(plan.selector), devices=plan.devices, waves=plan.waves,
        soak_s=plan.soak_s, deadline_s=plan.deadline_s, gate=plan.gate, trigger=trigger,
        wave_started_at=context.clock(),
    )  # fmt: skip
    if not targets(context, made, release):
        raise UserError(
            "no device of the selection has a variant in this release;"
            f" it has: {', '.join(release.variants)}"
        )
    with context.store.transaction():
        context.store.rollouts.add(made)
        details = {"release": release_id, "waves": ", ".join(f"{w:g}" for w in plan.waves)}
        context.record("controller" if trigger else "operator", "rollout_created", made.id, details)
    return made


def _check_waves(waves: Sequence[float]) -> None:
    rising = all(a < b for a, b in itertools.pairwise(waves))
    if not waves or not rising or waves[0] <= 0 or waves[-1] != 1.0:
        shown = ", ".join(f"{w:g}" for w in waves)
        raise UserError(
            f"waves are cumulative shares that rise to 1, for example 0.1, 0.5, 1; not: {shown}"
        )


def targets(
    context: Context, made: fleet.Rollout, release: fleet.Release
) -> tuple[fleet.Device, ...]:
    """Devices that the rollout is for and that the release has a variant for, in order."""
    if made.devices:
        devices = [context.store.devices.get(name) for name in made.devices]
        missing = [n for n, d in zip(made.devices, devices, strict=True) if d is None]
        if missing:
            raise NotFound(f"no device is named '{missing[0]}'; see: fitment device list")
        chosen = [d for d in devices if d is not None and not d.revoked]
    else:
        every = context.store.devices.find(revoked=False)
        chosen = [d for d in every if rollout.selects(made.selector, d)]
    return tuple(d for d in chosen if variant_for(release, d))


def variant_for(release: fleet.Release, device: fleet.Device) -> str:
    """Digest of what the release has for a device: its cohort's, else its profile's."""
    cohort = device.cohort.key if device.cohort else ""
    return release.variants.get(cohort) or release.variants.get(device.profile, "")


def advance(context: Context) -> None:
    """Take every step that is due in every rollout that runs."""
    for state in (RolloutState.RUNNING, RolloutState.PAUSED, RolloutState.REVERTING):
        for made in context.store.rollouts.find(state=state):
            _advance_one(context, made)


def _advance_one(context: Context, made: fleet.Rollout) -> None:
    release = context.store.releases.get(made.release)
    if release is None:
        return
    if made.state is RolloutState.REVERTING:
        _finish_revert(context, made)
        return
    view = rollout.View(
        rollout=made,
        targets=targets(context, made, release),
        deployments={d.device: d for d in context.store.deployments.find(rollout=made.id)},
        now=context.clock(),
    )
    for step in rollout.steps(view):
        with context.store.transaction():
            EXECUTORS[type(step)](context, made, release, step)


def _admit(
    context: Context, made: fleet.Rollout, release: fleet.Release, step: rollout.Admit
) -> None:
    device = context.store.devices.get(step.device)
    if device is None:
        return
    for older in context.store.deployments.find(device=device.name):
        if older.outcome is None and older.slot == release.slot:
            _end(context, older, Outcome.SUPERSEDED, f"release {release.id} came first")
    deployment = fleet.Deployment(
        id=context.new_id(), rollout=made.id, release=release.id, device=device.name,
        slot=release.slot, variant=variant_for(release, device), wave=step.wave,
        created_at=context.clock(),
    )  # fmt: skip
    context.store.deployments.add(deployment)
    details = {"device": device.name, "wave": str(step.wave), "rollout": made.id}
    context.record("controller", "admitted_to_wave", deployment.id, details)


def _time_out(
    context: Context, _made: fleet.Rollout, _release: fleet.Release, step: rollout.TimeOut
) -> None:
    deployment = context.store.deployments.get(step.deployment)
    if deployment is not None and deployment.outcome is None:
        _end(context, deployment, Outcome.TIMED_OUT, step.reason)


def _next_wave(
    context: Context, made: fleet.Rollout, _release: fleet.Release, step: rollout.NextWave
) -> None:
    changed = replace(made, wave=step.wave, wave_started_at=context.clock())
    context.store.rollouts.put(changed)
    details = {"wave": str(step.wave), "gate": step.reason}
    context.record("controller", "wave_opened", made.id, details)


def _halt(
    context: Context, made: fleet.Rollout, _release: fleet.Release, step: rollout.Halt
) -> None:
    _to(context, made, RolloutState.HALTED, step.reason)


def _complete(
    context: Context, made: fleet.Rollout, _release: fleet.Release, step: rollout.Complete
) -> None:
    _to(context, made, RolloutState.COMPLETED, step.reason)


EXECUTORS: Mapping[type, Callable[[Context, fleet.Rollout, fleet.Release, Any], None]] = {
    rollout.Admit: _admit,
    rollout.TimeOut: _time_out,
    rollout.NextWave: _next_wave,
    rollout.Halt: _halt,
    rollout.Complete: _complete,
}
"""Every step and what runs it; a test holds the keys to the union."""


def _end(context: Context, deployment: fleet.Deployment, outcome: Outcome, reason: str) -> None:
    ended = replace(
        deployment, state=DeploymentState.IDLE, outcome=outcome, ended_at=context.clock(),
        reasons=(*deployment.reasons, reason),
    )  # fmt: skip
    context.store.deployments.put(ended)
    details = {"outcome": outcome.value, "reasons": reason}
    context.record("controller", "deployment_ended", deployment.id, details)


def _to(
    context: Context, made: fleet.Rollout, state: RolloutState, reason: str, actor: str = ""
) -> fleet.Rollout:
    transitions.check_rollout(made.state, state)
    changed = replace(
        made, state=state, reasons=(*made.reasons, reason) if reason else made.reasons
    )
    with context.store.transaction():
        context.store.rollouts.put(changed)
        context.record(actor or "controller", f"rollout_{state.value}", made.id, {"reason": reason})
    return changed


def get(context: Context, rollout_id: str) -> fleet.Rollout:
    """A rollout by id.

    Raises:
        NotFound: there is none.
    """
    made = context.store.rollouts.get(rollout_id)
    if made is None:
        raise NotFound(f"no rollout '{rollout_id}'; see: fitment rollout status")
    return made


def approved(context: Context, release_id: str) -> None:
    """Start what waited for this release."""
    for made in context.store.rollouts.find(release=release_id):
        if made.state is RolloutState.AWAITING_APPROVAL:
            _to(context, made, RolloutState.RUNNING, "the release was approved")


def pause(context: Context, rollout_id: str) -> fleet.Rollout:
    """Admit nothing more; what is under way goes on."""
    return _to(context, get(context, rollout_id), RolloutState.PAUSED, "paused", "operator")


def resume(context: Context, rollout_id: str) -> fleet.Rollout:
    """Go on; the failures so far are acknowledged by raising what the gate allows."""
    made = get(context, rollout_id)
    if made.state is RolloutState.HALTED:
        release = context.store.releases.get(made.release)
        gate = replace(made.gate, max_failure_share=1.0, latency_ratio_max=None)
        made = replace(made, gate=gate if release else made.gate)
    return _to(context, made, RolloutState.RUNNING, "resumed", "operator")


def cancel(context: Context, rollout_id: str) -> fleet.Rollout:
    """Give it up: what is under way is taken back, what committed stays."""
    made = _to(context, get(context, rollout_id), RolloutState.CANCELLED, "cancelled", "operator")
    for deployment in context.store.deployments.find(rollout=rollout_id):
        if deployment.outcome is None:
            _end(context, deployment, Outcome.CANCELLED, "the rollout was cancelled")
            desired.publish(context, deployment.device)
    return made


def revert(context: Context, rollout_id: str) -> fleet.Rollout:
    """Bring the updated devices back to the release before, never waiting for offline ones.

    Raises:
        UserError: there is nothing to go back to.
        Conflict: it is in a state that cannot be reverted.
    """
    made = get(context, rollout_id)
    transitions.check_rollout(made.state, RolloutState.REVERTING)
    updated = [
        d.device
        for d in context.store.deployments.find(rollout=rollout_id)
        if d.outcome in (None, Outcome.COMMITTED)
    ]
    if not updated:
        raise Conflict("no device of this rollout was updated; cancel it instead")
    back = releasing.approve(context, releasing.revert_of(context, made).id, actor="controller")
    plan = RolloutPlan(devices=tuple(updated), waves=(1.0,), gate=fleet.Gate(
        max_failure_share=1.0, latency_ratio_max=None))  # fmt: skip
    create(context, back.id, plan, trigger=made.trigger or f"revert:{made.id}")
    made = replace(made, revert_release=back.id)
    return _to(context, made, RolloutState.REVERTING, f"back to {back.id}", "operator")


def _finish_revert(context: Context, made: fleet.Rollout) -> None:
    """Done when every reachable device is; offline ones are named and catch up later."""
    backs = context.store.rollouts.find(release=made.revert_release)
    names = {name: context.store.devices.get(name) for back in backs for name in back.devices}
    ended = {
        d.device
        for back in backs
        for d in context.store.deployments.find(rollout=back.id)
        if d.outcome is not None
    }
    waiting = [n for n, d in names.items() if n not in ended and d is not None and d.online]
    if waiting:
        return
    away = sorted(set(names) - ended)
    reason = f"{len(ended)} went back" + (f"; offline: {', '.join(away)}" if away else "")
    _to(context, made, RolloutState.REVERTED, reason)
