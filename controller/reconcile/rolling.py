"""Rollouts: run the steps that the pure planner names, and what operators ask for."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field, replace
from typing import Any

from controller.domain import eligible, fleet, holding, plan, rollout, transitions
from controller.domain.fleet import RolloutState
from controller.domain.judgement import Exposure, GateReport
from controller.errors import Conflict, NotFound, UserError
from controller.reconcile import (
    admitting,
    asking,
    grouping,
    labelling,
    releasing,
    standing,
    staying,
    zones,
)
from controller.reconcile.context import Context
from controller.reconcile.looking import Looks
from fitment.core.deployment import DeploymentState, Outcome

REVERT = "revert:"
"""How the trigger of a rollout begins that brings devices back."""
LEFT = "left_selection"
"""A device was not admitted yet, and what the rollout asks for no longer holds of it."""


@dataclass(frozen=True, slots=True, kw_only=True)
class RolloutPlan:
    """What an operator asks for; without any selection: the whole fleet."""

    selector: Mapping[str, str] = field(default_factory=dict)
    where: str = ""  # an expression; see `controller.domain.selection`
    group: str = ""  # a stored one's name
    devices: tuple[str, ...] = ()
    waves: tuple[float, ...] = (0.1, 0.5, 1.0)
    soak_s: float = 0.0
    deadline_s: float = 3600.0
    gate: fleet.Gate = field(default_factory=fleet.Gate)
    windows: tuple[str, ...] = ()
    metered: bool = False
    control_share: float = 0.0  # of devices that stay on what they run, to compare with
    control_by: str = ""  # label whose devices stay together
    control_s: float = 0.0  # for so long after the last wave


def create(
    context: Context, release_id: str, asked: RolloutPlan, *, trigger: str = "",
    asks_after: int = -1,
) -> fleet.Rollout:  # fmt: skip
    """Begin a rollout, or leave it waiting until its release is approved.

    ``asks_after``: the wave after which an operator is asked, whatever statistics say.

    Raises:
        NotFound: no such release, device or group.
        UserError: the waves do not add up, the release has nothing for any device, the selection
            excludes itself, or a maintenance window would never open.
    """
    made, release = drafted(context, release_id, asked, trigger=trigger)
    made = replace(made, asks_after=asks_after)
    with context.store.transaction():
        context.store.rollouts.add(made)
        details = {
            "release": release.id, "waves": ", ".join(f"{w:g}" for w in asked.waves),
            "for": eligible.asked_for(made),
        }  # fmt: skip
        context.record("controller" if trigger else "operator", "rollout_created", made.id, details)
    return made


def drafted(
    context: Context, release_id: str, asked: RolloutPlan, *, trigger: str = ""
) -> tuple[fleet.Rollout, fleet.Release]:
    """What `create` would begin, with every reason to refuse it; nothing is kept.

    Raises:
        NotFound: as for `create`.
        UserError: as for `create`.
    """
    release = context.store.releases.get(release_id)
    if release is None:
        raise NotFound(f"no release '{release_id}'; see: fitment release list")
    asking.check_waves(asked.waves)
    asking.check_gate(asked.gate)
    asking.check_times(asked.soak_s, asked.deadline_s)
    windows = zones.read(asked.windows)
    where = grouping.selection_of(context, asked.where, asked.group)
    made = fleet.Rollout(
        id=context.new_id(), release=release_id, created_at=context.clock(), metered=asked.metered,
        state=RolloutState.RUNNING if release.approved_at else RolloutState.AWAITING_APPROVAL,
        selector=dict(asked.selector), where=where, group=asked.group,
        devices=tuple(dict.fromkeys(asked.devices)), waves=asked.waves, soak_s=asked.soak_s,
        deadline_s=asked.deadline_s, gate=asked.gate,
        trigger=trigger, wave_started_at=context.clock(), windows=tuple(map(str, windows)),
        control_share=asked.control_share, control_by=asked.control_by, control_s=asked.control_s,
    )  # fmt: skip
    asking.check_named(context, made)
    chosen = targets(context, made, release)
    if not chosen:
        raise UserError(asking.nobody(context, made, release))
    made = asking.with_control(made, chosen)
    chosen = tuple(d for d in chosen if not holding.is_held(made, d))
    made = replace(made, windows_end=zones.check(windows, chosen, made))
    asking.check_control_ends(made)
    return made, release


def targets(
    context: Context,
    made: fleet.Rollout,
    release: fleet.Release,
    newest: Mapping[str, fleet.Deployment] | None = None,
) -> tuple[fleet.Device, ...]:
    """Devices that the rollout is for and that the release has a variant for, in order.

    ``newest``: deployments of those that it has admitted, by device.
    """
    if made.devices:
        devices = [context.store.devices.get(name) for name in made.devices]
        chosen = [d for d in devices if d is not None]
    else:
        chosen = list(context.store.devices.find(revoked=False))
    begun = {d.name for d in chosen if eligible.has_begun(d, newest or {})}
    return tuple(d for d in chosen if eligible.is_target(made, release, d, begun=d.name in begun))


def controls(context: Context, made: fleet.Rollout, release: fleet.Release) -> tuple[str, ...]:
    """Names of the devices that are held back now, in order."""
    return tuple(d.name for d in _kept(context, made, release))


def _kept(
    context: Context, made: fleet.Rollout, release: fleet.Release
) -> tuple[fleet.Device, ...]:
    everyone = targets(context, standing.unheld(made), release) if made.control_below else ()
    return standing.held(made, everyone)


def advance(context: Context, looks: Looks) -> None:
    """Take every step that is due in every rollout that is not quite over."""
    looks.read()
    due = {made.id: made for made in context.store.rollouts.find(state=RolloutState.RUNNING)}
    for made in context.store.rollouts.find(state=RolloutState.COMPLETED):
        if made.pending:
            due[made.id] = made
    for key in sorted({d.rollout for d in looks.open.values()} - set(due)):
        open_in = context.store.rollouts.get(key)  # deadlines hold in any state
        if open_in is not None:
            due[key] = open_in
    for made in due.values():
        _advance_one(context, made, looks)
    looks.drop(set(due))
    for made in context.store.rollouts.find(state=RolloutState.REVERTING):
        _finish_revert(context, made)


def _advance_one(context: Context, made: fleet.Rollout, looks: Looks) -> None:
    release = context.store.releases.get(made.release)
    if release is None:
        return
    now = context.clock()
    held = looks.due(made, release, now)
    if held is None:
        return
    if made.state is RolloutState.RUNNING and staying.is_due(made):
        made = staying.begin(context, made, release, _kept(context, made, release))
    control = staying.answers(context, made)
    steps = held.steps(now, looks.words.about(made), control)
    with context.store.transaction():
        for name, why in held.left.items():
            details = {"device": name, "reason": why}
            context.record("controller", LEFT, made.id, details)
        for step in steps:
            EXECUTORS[type(step)](context, made, release, step)
    held.left.clear()
    if not steps:
        held.rest(now, staying.due(context, made))


def _view(context: Context, made: fleet.Rollout, release: fleet.Release) -> rollout.View:
    newest, earlier = rollout.attempts(context.store.deployments.find(rollout=made.id))
    return rollout.View(
        rollout=made, targets=targets(context, made, release, newest), deployments=newest,
        earlier=earlier, now=context.clock(),
        words=labelling.words(context.store, made) if labelling.asks(made.gate) else {},
        control=staying.answers(context, made),
    )  # fmt: skip


def judged(context: Context, rollout_id: str) -> tuple[tuple[GateReport, ...], Exposure]:
    """How each gate of a rollout stands now, and how many devices its release has reached.

    Raises:
        NotFound: there is no such rollout.
    """
    made = get(context, rollout_id)
    release = context.store.releases.get(made.release)
    if release is None:
        return (), Exposure()
    view = _view(context, made, release)
    over = made.state is RolloutState.COMPLETED
    return rollout.reports(view, final=over), rollout.exposure(view)


def left(context: Context, rollout_id: str) -> Mapping[str, str]:
    """Devices that no longer were of the selection before their turn came, and why.

    Raises:
        NotFound: there is no such rollout.
    """
    made = get(context, rollout_id)
    told = {
        entry.details.get("device", ""): entry.details.get("reason", "")
        for entry in context.store.audit.find(action=LEFT, subject=rollout_id)
    }
    begun = {d.device for d in context.store.deployments.find(rollout=rollout_id)} if told else ()
    devices = {name: context.store.devices.get(name) for name in told}
    return {
        name: why
        for name, why in told.items()
        if (device := devices[name]) and name not in begun and not eligible.takes(made, device)
    }


def _time_out(
    context: Context, _made: fleet.Rollout, _release: fleet.Release, step: rollout.TimeOut
) -> None:
    deployment = context.store.deployments.get(step.deployment)
    if deployment is not None and deployment.outcome is None:
        admitting.end(context, deployment, Outcome.TIMED_OUT, step.reason)


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
    to(context, made, RolloutState.HALTED, step.reason)
    hold_back(context, made.id)


def _complete(
    context: Context, made: fleet.Rollout, _release: fleet.Release, step: rollout.Complete
) -> None:
    to(context, replace(made, pending=step.pending), RolloutState.COMPLETED, step.reason)


def _ask(context: Context, made: fleet.Rollout, _release: fleet.Release, step: rollout.Ask) -> None:
    to(context, replace(made, asks=step.reason), RolloutState.PAUSED, step.reason)


def _let_go(
    context: Context, made: fleet.Rollout, _release: fleet.Release, step: rollout.LetGo
) -> None:
    standing.end(context, made, step.reason, "controller")


EXECUTORS: Mapping[type, Callable[[Context, fleet.Rollout, fleet.Release, Any], None]] = {
    rollout.Admit: admitting.admit,
    rollout.TimeOut: _time_out,
    rollout.NextWave: _next_wave,
    rollout.Halt: _halt,
    rollout.Complete: _complete,
    rollout.Ask: _ask,
    rollout.LetGo: _let_go,
}
"""Every step and what runs it; a test holds the keys to the union."""


def to(
    context: Context, made: fleet.Rollout, state: RolloutState, reason: str, actor: str = ""
) -> fleet.Rollout:
    """Bring a rollout into another state, with the reason on record.

    Raises:
        Conflict: the table has no such step.
    """
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
        raise NotFound(f"no rollout '{rollout_id}'; see: fitment rollout list")
    return made


def approved(context: Context, release_id: str) -> None:
    """Start what waited for this release."""
    for made in context.store.rollouts.find(release=release_id):
        if made.state is RolloutState.AWAITING_APPROVAL:
            to(context, made, RolloutState.RUNNING, "the release was approved")


def pause(context: Context, rollout_id: str) -> fleet.Rollout:
    """Admit nothing more; what is under way goes on, but for devices that wait for a window."""
    with context.store.transaction():
        made = to(context, get(context, rollout_id), RolloutState.PAUSED, "paused", "operator")
        hold_back(context, rollout_id)
    return made


def hold_back(context: Context, rollout_id: str) -> None:
    """Take back what has not begun to switch: it would hours from now, whatever came between."""
    for deployment in context.store.deployments.find(rollout=rollout_id, outcome=None):
        if deployment.windows and deployment.state in _BEFORE_WINDOW:
            held = replace(deployment, held_back=True)
            admitting.end(
                context, held, Outcome.CANCELLED, "held back before its maintenance window"
            )


_BEFORE_WINDOW = frozenset(
    {
        DeploymentState.IDLE,
        DeploymentState.FETCHING,
        DeploymentState.VERIFYING,
        DeploymentState.STAGING,
        DeploymentState.WAITING,
    }
)
"""States in which nothing was measured yet, and nothing switched."""


def resume(context: Context, rollout_id: str) -> fleet.Rollout:
    """Go on. After a halt the failures so far are acknowledged: they are judged no more.

    A halt for latency or agreement acknowledges those deployments all the same, and the stated
    rate of false halts then holds from here on. A rollout that asked goes on without statistics.
    """
    made = get(context, rollout_id)
    if made.state is RolloutState.COMPLETED:  # only `retry` opens it again
        raise Conflict("the rollout is completed; to try failed devices again: rollout retry")
    if made.asks:
        made = replace(made, asks="", answered=made.wave)
    if made.state is RolloutState.HALTED:
        ended = context.store.deployments.find(rollout=rollout_id)
        accepted = tuple(d.id for d in ended if d.outcome is not None)
        made = replace(made, acknowledged=accepted)
    return to(context, made, RolloutState.RUNNING, "resumed", "operator")


def cancel(context: Context, rollout_id: str) -> fleet.Rollout:
    """Give it up: what is under way is taken back, what committed stays."""
    with context.store.transaction():
        made = get(context, rollout_id)
        made = to(context, replace(made, pending=()), RolloutState.CANCELLED, "cancelled",
                   "operator")  # fmt: skip
        for deployment in context.store.deployments.find(rollout=rollout_id, outcome=None):
            admitting.end(context, deployment, Outcome.CANCELLED, "the rollout was cancelled")
    return made


def revert(context: Context, rollout_id: str) -> fleet.Rollout:
    """Bring the updated devices back to what they ran before, never waiting for offline ones.

    Raises:
        UserError: there is nothing to go back to.
        Conflict: it is in a state that cannot be reverted.
    """
    made = get(context, rollout_id)
    transitions.check_rollout(made.state, RolloutState.REVERTING)
    touched = [
        (context.store.devices.get(d.device), d)
        for d in context.store.deployments.find(rollout=rollout_id)
        if d.outcome in (None, Outcome.COMMITTED)
    ]
    devices = [
        device
        for device, its in touched
        if device is not None and not device.revoked and plan.own(device, (its,))
    ]
    if not devices:
        raise Conflict("no device of this rollout was updated; cancel it instead")
    devices = [device for device in devices if not _moved_on(context, device, made)]
    if not devices:
        raise Conflict("every device of this rollout runs a later release by now; revert that one")
    back = releasing.revert_of(context, made, devices)
    releasing.approve(context, back.id, actor="operator")
    gate = fleet.Gate(max_failure_share=1.0, latency_ratio_max=None)
    asked = RolloutPlan(
        devices=tuple(dict.fromkeys(d.name for d in devices)), waves=(1.0,), gate=gate,
        deadline_s=made.deadline_s, metered=made.metered,
    )  # fmt: skip
    with context.store.transaction():
        create(context, back.id, asked, trigger=made.trigger or f"{REVERT}{made.id}")
        made = replace(made, revert_release=back.id, pending=())
        return to(context, made, RolloutState.REVERTING, f"back to {back.id}", "operator")


def _moved_on(context: Context, device: fleet.Device, made: fleet.Rollout) -> bool:
    """Whether the device committed another release since: there is nothing here to take back."""
    its = plan.own(device, context.store.deployments.find(device=device.name))
    here = [d for d in its if d.rollout == made.id]
    if any(d.outcome is None for d in here):
        return False
    now = plan.running(its)
    return any(now[d.slot].release != made.release for d in here if d.outcome is Outcome.COMMITTED)


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
    to(context, made, RolloutState.REVERTED, reason)
