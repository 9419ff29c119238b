"""Devices that failed get another turn, within their rollout's own rules.

They are admitted as anybody is: in the share of the wave that runs, while they are online, inside
their windows. Gates go by a device's first attempt that no operator has accepted, so trying again
mends no gate and counts nobody twice (`rollout.View.judged`).
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

from controller.domain import fleet, plan, rollout
from controller.domain.fleet import RolloutState
from controller.domain.observing import BAD
from controller.errors import Conflict, NotFound
from controller.reconcile import rolling
from controller.reconcile.context import Context
from fitment.core.deployment import Outcome

MOST = 5
"""Attempts of one device in one rollout; an agent holds a variant in quarantine after as many."""
_OPEN = (RolloutState.RUNNING, RolloutState.PAUSED, RolloutState.HALTED, RolloutState.COMPLETED)


def retry(context: Context, rollout_id: str, devices: Sequence[str] = ()) -> fleet.Rollout:
    """Give failed devices of a rollout another turn: all of them, or those that are named.

    A completed rollout runs again for them; a paused or halted one gives the turn once it goes on.
    What a device refused (`rejected`) is tried again only where the device is named.

    Raises:
        NotFound: there is no such rollout, or a named device has no part in it.
        Conflict: nobody is to be tried again, or the rollout is over for good.
    """
    made = rolling.get(context, rollout_id)
    if made.state not in _OPEN:
        raise Conflict(
            f"the rollout is {made.state.value}; create another one for the devices that failed"
        )
    newest, _ = rollout.attempts(context.store.deployments.find(rollout=rollout_id))
    missing = [name for name in devices if name not in newest]
    if missing:
        raise NotFound(f"'{missing[0]}' was not admitted to this rollout; see: rollout status")
    failed = [d for d in newest.values() if _has_turn(context, made, d, named=devices)]
    if not failed:
        raise Conflict(_nobody(made, newest, devices))
    names = ", ".join(d.device for d in failed)
    changed = replace(made, retried=(*made.retried, *(d.id for d in failed)))
    with context.store.transaction():
        context.record("operator", "rollout_retried", made.id, {"devices": names})
        if made.state is RolloutState.COMPLETED:
            return rolling.to(
                context, changed, RolloutState.RUNNING, f"tried again: {names}", "operator"
            )
        context.store.rollouts.put(changed)
    return changed


def _has_turn(
    context: Context, made: fleet.Rollout, ended: fleet.Deployment, *, named: Sequence[str]
) -> bool:
    device = context.store.devices.get(ended.device)
    if device is None or device.revoked or ended.id in made.retried:
        return False
    if not plan.own(device, (ended,)):
        return False  # it was another device that failed
    if ended.attempt >= MOST or (named and ended.device not in named):
        return False
    return ended.outcome in BAD and (bool(named) or ended.outcome is not Outcome.REJECTED)


def _nobody(made: fleet.Rollout, newest: dict[str, fleet.Deployment], named: Sequence[str]) -> str:
    asked = [d for d in newest.values() if not named or d.device in named]
    waiting = [d.device for d in asked if d.id in made.retried]
    if waiting:
        return f"{', '.join(waiting[:3])} waits for another turn already"
    spent = [d.device for d in asked if d.outcome in BAD and d.attempt >= MOST]
    if spent:
        return f"{', '.join(spent[:3])} was tried {MOST} times; see why: fitment rollout status"
    refused = [d.device for d in asked if d.outcome is Outcome.REJECTED]
    if refused:
        return (
            f"{', '.join(refused[:3])} refused the release; where the cause is mended, name it:"
            f" fitment rollout retry {made.id} --device {refused[0]}"
        )
    return "no device of this rollout failed"
