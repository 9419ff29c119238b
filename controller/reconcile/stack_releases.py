"""Releases that hold both: today's variant as it is, and beside it the one for what is to come."""

from __future__ import annotations

from dataclasses import dataclass, field

from controller.domain import fleet
from controller.domain.stacks import StackAnnouncement, StackPart
from controller.reconcile import arriving, releasing
from controller.reconcile.context import Context
from controller.reconcile.standings import Member, members, picture
from fitment.core.deployment import CalibrationPlan, DeviceGates


@dataclass(slots=True, kw_only=True)
class _Draft:
    """What the release will say, by cohort."""

    variants: dict[str, str] = field(default_factory=dict)
    reasons: dict[str, str] = field(default_factory=dict)
    gates: dict[str, DeviceGates] = field(default_factory=dict)
    calibration: dict[str, CalibrationPlan] = field(default_factory=dict)
    ladders: dict[str, tuple[fleet.Rung, ...]] = field(default_factory=dict)


def holding_both(
    context: Context, now: StackAnnouncement, slot: str, part: StackPart
) -> fleet.Release | None:
    """A release for the devices that do not hold both yet; None: there is none.

    Where devices of one cohort run different variants, it is for the most common one; the others
    are for the next.
    """
    late = {s.device for s in picture(context, now) if slot in s.unserved}
    draft = _Draft()
    for cohort, alike in _by_cohort(members(context, now), late, slot).items():
        _keep(context, draft, cohort, alike, slot)
        draft.ladders[cohort.key] = arriving.with_rung(
            draft.variants[cohort.key], draft.ladders[cohort.key], arriving.rung(now, part)
        )
    if not draft.variants:
        return None
    if now.cohort is not None:
        draft.variants[now.cohort.key] = part.chosen
        draft.reasons[now.cohort.key] = f"{part.reason}; {part.tested}"
    release = fleet.Release(
        id=context.new_id(), model=part.model, slot=slot, created_at=context.clock(),
        counter=releasing.highest_counter(context, slot) + 1, variants=draft.variants,
        reasons=draft.reasons, gates=draft.gates, calibration=draft.calibration,
        ladders=draft.ladders,
    )  # fmt: skip
    context.store.releases.add(release)
    details = {"stack": now.name, **release.reasons}
    context.record("controller", "release_created", release.id, details)
    return release


def _by_cohort(found: list[Member], late: set[str], slot: str) -> dict[fleet.Cohort, list[Member]]:
    """Devices that lack it, by cohort, of each the largest group that runs one variant."""
    groups: dict[fleet.Cohort, dict[str, list[Member]]] = {}
    for member in found:
        cohort = member.device.cohort
        if member.device.name in late and cohort is not None:
            variant = member.running[slot].variant
            groups.setdefault(cohort, {}).setdefault(variant, []).append(member)
    return {
        c: max(by.values(), key=lambda g: (len(g), g[0].device.name)) for c, by in groups.items()
    }


def _keep(
    context: Context, draft: _Draft, cohort: fleet.Cohort, alike: list[Member], slot: str
) -> None:
    """What a cohort runs stays as it is, and is gated by its answers alone: it serves already."""
    key, first = cohort.key, alike[0]
    ran = first.running[slot]
    before = context.store.releases.get(ran.release)
    draft.variants[key] = ran.variant
    draft.reasons[key] = f"unchanged: what it runs of release {ran.release}"
    draft.ladders[key] = ()
    if before is None:
        return
    keys = [(ran.cohort or cohort).key, first.device.profile]
    gates = next((before.gates[k] for k in keys if k in before.gates), DeviceGates())
    draft.gates[key] = DeviceGates(agreement_min=gates.agreement_min)
    calibration = next((before.calibration[k] for k in keys if k in before.calibration), None)
    if calibration is not None:
        draft.calibration[key] = calibration
    draft.ladders[key] = releasing.ladder_of(before, first.device, ran)
