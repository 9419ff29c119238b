"""What a rollout compares with: what ran on a device before, and devices that stay behind."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from typing import Any

from controller.domain import fleet, footprint, holding, observing, plan
from controller.domain.fleet import RolloutState
from controller.errors import Conflict
from controller.reconcile.context import Context


def before(context: Context, gate: fleet.Gate, device: fleet.Device, slot: str) -> dict[str, Any]:
    """What the running variant took, as its own deployment measured it: fields of a deployment."""
    if gate.energy_ratio_max is None and not observing.needs_before(gate):
        return {}
    every = context.store.deployments.find(device=device.name)
    ran = plan.running(plan.own(device, every)).get(slot)
    if ran is None:
        return {}
    taken = ran.measurement
    energy = taken.energy.value_mj if taken is not None and taken.tells_costs else None
    return {"energy_before_mj": energy, "before": footprint.of(ran.variant, taken)}


def unheld(made: fleet.Rollout) -> fleet.Rollout:
    """The rollout as if it held nobody back: whom it is for in the end."""
    return replace(made, control_below=0.0)


def held(made: fleet.Rollout, everyone: Sequence[fleet.Device]) -> tuple[fleet.Device, ...]:
    """Those that stay behind now, in order."""
    return tuple(d for d in everyone if holding.is_held(made, d))


def let_go(context: Context, made: fleet.Rollout) -> fleet.Rollout:
    """End the control group now: its devices are admitted like the others.

    Raises:
        Conflict: it has none, or not any more.
    """
    if not made.control_below or made.control_ended_at:
        raise Conflict("this rollout holds no control group back")
    if made.state not in (RolloutState.RUNNING, RolloutState.PAUSED):
        raise Conflict(f"this rollout is {made.state.value}: its control group stays as it is")
    return end(context, made, "let go", "operator")


def end(context: Context, made: fleet.Rollout, why: str, actor: str) -> fleet.Rollout:
    """The control group has ended; who was in it is still told apart."""
    changed = replace(made, control_ended_at=context.clock())
    with context.store.transaction():
        context.store.rollouts.put(changed)
        context.record(actor, "control_ended", made.id, {"reason": why})
    return changed
