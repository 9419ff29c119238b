"""Desired beside observed: what one device should be asked for, and whether it has drifted."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from controller.domain import catching_up
from controller.domain.fleet import Deployment, Device
from controller.domain.studies import StudyRecord
from fitment.core import digest
from fitment.core.deployment import Outcome

SETTLE_S = 10.0
"""After a commit the device's next report may still be on its way."""
REOPENINGS = 1
"""How often one release is tried again on a device that left it by itself."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Wish:
    """What a device's desired state holds."""

    deployments: tuple[Deployment, ...]
    studies: tuple[StudyRecord, ...]
    generation: int
    key: str  # digest of the content
    changed: bool  # it must be published


def wish(device: Device, deployments: Sequence[Deployment], studies: Sequence[StudyRecord]) -> Wish:
    """The desired state of one device from its deployments and studies that are open.

    The generation rises when, and only when, the content changes or the device has seen a
    higher one (the store was restored from a backup).
    """
    due = tuple(d for d in deployments if d.outcome is None)
    asked = tuple(s for s in studies if not s.done_at)
    key = digest.digest_of([[d.id for d in due], [s.id for s in asked]])
    said = device.reported.observed_generation if device.reported else 0
    seen = catching_up.believed(device.generation, said)
    changed = key != device.desired_key or seen > device.generation
    generation = seen + 1 if changed else device.generation
    return Wish(deployments=due, studies=asked, generation=generation, key=key, changed=changed)


def own(device: Device, deployments: Sequence[Deployment]) -> tuple[Deployment, ...]:
    """Of those under a device's name, its own: older ones are of another that had the name."""
    return tuple(d for d in deployments if d.created_at >= device.renamed_at)


def running(deployments: Sequence[Deployment]) -> dict[str, Deployment]:
    """Slot to the deployment that last committed there, from all of one device."""
    found: dict[str, Deployment] = {}
    for deployment in deployments:
        if deployment.outcome is Outcome.COMMITTED:
            known = found.get(deployment.slot)
            if known is None or deployment.ended_at >= known.ended_at:
                found[deployment.slot] = deployment
    return found


def drifted(
    device: Device, committed: Deployment, every: Sequence[Deployment], *, now: float
) -> str:
    """Why a committed deployment no longer is what the device runs; empty when it is.

    A device that left a release more than `REOPENINGS` times has its reasons: it is left alone.
    """
    if device.reported is None or now - committed.ended_at < SETTLE_S:
        return ""
    if any(d.outcome is None and d.slot == committed.slot for d in every):
        return ""  # something else is on its way there
    tries = [d for d in every if d.release == committed.release]
    if len(tries) > REOPENINGS:
        return ""
    slot = next((s for s in device.reported.slots if s.slot == committed.slot), None)
    if slot is not None and slot.variant == committed.variant:
        return ""
    runs = digest.short(slot.variant) if slot is not None and slot.variant else "nothing"
    return f"the device runs {runs}, not {digest.short(committed.variant)} as recorded"
