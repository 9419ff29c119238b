"""Which devices a rollout is for, and why the others are not: one answer for all who ask.

Admission, the preview of a rollout and the words in errors come from here.
"""

from __future__ import annotations

import enum
from collections.abc import Mapping
from dataclasses import dataclass

from controller.domain import holding, plan, selection
from controller.domain.fleet import Deployment, Device, Release, Rollout
from fitment.core import digest
from fitment.core.deployment import UNDERSTANDS_WINDOWS, SlotReport


class Bar(enum.Enum):
    """Why a device gets nothing."""

    NOT_SELECTED = "not_selected"  # the rollout is for others
    REVOKED = "revoked"  # its certificate does not hold any more
    NOT_REPORTED = "not_reported"  # nothing is known of it yet
    NO_VARIANT = "no_variant"  # the release has none for its cohort, nor for its profile
    AHEAD = "ahead"  # it runs a later release of the slot, and goes back to none
    RUNS_IT = "runs_it"  # it runs this release already
    QUARANTINED = "quarantined"  # the variant failed there again and again
    NEWER_UNDER_WAY = "newer_under_way"  # a later release is on its way to it
    OLD_AGENT = "old_agent"  # its agent does not heed maintenance windows
    CONTROL = "control"  # it stays on what it runs, to compare with
    NO_WINDOW = "no_window"  # no maintenance window opens for it before its deadline


@dataclass(frozen=True, slots=True, kw_only=True)
class Barred:
    """Why one device gets nothing."""

    bar: Bar
    reason: str  # a sentence for people


def selects(selector: Mapping[str, str], device: Device) -> bool:
    """Whether a selector (``name``, ``profile`` or a label, all by equality) takes a device."""
    facts = {**device.labels, "name": device.name, "profile": device.profile}
    return not device.revoked and all(facts.get(key) == value for key, value in selector.items())


def barred(
    made: Rollout, release: Release, device: Device, *, begun: bool = False
) -> Barred | None:
    """Why a rollout is not for a device; None: it is.

    Args:
        made: the rollout.
        release: its release.
        device: as it is now.
        begun: it was admitted to this rollout, which keeps it, whatever its facts become.
    """
    if device.revoked:
        return Barred(bar=Bar.REVOKED, reason=_shut_out(device))
    outside = "" if begun else _outside(made, device)
    if outside:
        return Barred(bar=Bar.NOT_SELECTED, reason=outside)
    if not begun and holding.is_held(made, device):
        reason = "it is of the control group: it stays on what it runs until that ends"
        return Barred(bar=Bar.CONTROL, reason=reason)
    variant = variant_for(release, device)
    if not variant:
        return _without(device)
    if is_ahead(device, release):
        reason = f"it runs a later release of '{release.slot}' than counter {release.counter}"
        return Barred(bar=Bar.AHEAD, reason=reason)
    return None if begun else _there_already(device, release, variant)


def _there_already(device: Device, release: Release, variant: str) -> Barred | None:
    """Whether it runs what it would get, or has found out that it cannot."""
    slot = _slot(device, release)
    if slot is not None and slot.release == release.id and slot.variant == variant:
        return Barred(bar=Bar.RUNS_IT, reason=f"it runs {slot.name or digest.short(variant)} of it")
    if device.reported is not None and f"{release.slot}/{variant}" in device.reported.quarantined:
        reason = f"{digest.short(variant)} is in quarantine there: it failed again and again"
        return Barred(bar=Bar.QUARANTINED, reason=reason)
    return None


def takes(made: Rollout, device: Device) -> bool:
    """Whether a device is of the selection, whatever the release has for it."""
    return not device.revoked and not _outside(made, device)


def held_up(made: Rollout, device: Device, *, now: float) -> Barred | None:
    """Why a device that the rollout is for could not be given an order, were it there."""
    if not made.windows:
        return None
    if not keeps_to_windows(device):
        reason = "its agent is too old for maintenance windows: bring it up to date"
        return Barred(bar=Bar.OLD_AGENT, reason=reason)
    if 0 < made.windows_end <= now:
        return Barred(bar=Bar.NO_WINDOW, reason="the last maintenance window is over")
    return None


def is_target(made: Rollout, release: Release, device: Device, *, begun: bool = False) -> bool:
    """Whether a rollout is for a device."""
    return barred(made, release, device, begun=begun) is None


def has_begun(device: Device, newest: Mapping[str, Deployment]) -> bool:
    """Whether a rollout with these deployments, by device, has admitted it.

    It has not where the one that it admitted was another that had the name.
    """
    found = newest.get(device.name)
    return found is not None and bool(plan.own(device, (found,)))


def is_ahead(device: Device, release: Release) -> bool:
    """Whether a device runs a later release of the slot; it would refuse an older one."""
    slots = device.reported.slots if device.reported else ()
    return any(s.slot == release.slot and s.counter > release.counter for s in slots)


def variant_for(release: Release, device: Device) -> str:
    """Digest of what the release has for a device: its cohort's, else its profile's."""
    cohort = device.cohort.key if device.cohort else ""
    return release.variants.get(cohort) or release.variants.get(device.profile, "")


def keeps_to_windows(device: Device) -> bool:
    """Whether its agent says that it heeds maintenance windows; older ones do not."""
    return device.reported is not None and UNDERSTANDS_WINDOWS in device.reported.understands


def asked_for(made: Rollout) -> str:
    """What a rollout is for, in words."""
    if made.devices:
        return ", ".join(made.devices)
    said = [f"{key}={value}" for key, value in made.selector.items()]
    if made.group:
        said.append(f"group {made.group}: {made.where}")
    elif made.where:
        said.append(made.where)
    return ", ".join(said) or "the whole fleet"


def _outside(made: Rollout, device: Device) -> str:
    if made.devices:
        if device.name not in made.devices:
            return "it is not named"
        since = device.renamed_at > made.created_at > 0
        return "another device had this name when the rollout was made" if since else ""
    for key, value in made.selector.items():
        if not selects({key: value}, device):
            return f"it is not {key}={value}"
    part = selection.parse(made.where)
    return "" if part.holds(device) else part.why_not(device)


def _without(device: Device) -> Barred:
    if device.reported is None:
        return Barred(bar=Bar.NOT_REPORTED, reason="it has not reported what it is yet")
    if not device.profile:
        reason = f"no profile fits it: {device.profile_reason}" if device.profile_reason else (
            "no profile fits it"
        )  # fmt: skip
        return Barred(bar=Bar.NO_VARIANT, reason=reason)
    cohort = device.cohort.key if device.cohort else device.profile
    reason = f"the release has no variant for its cohort {cohort}, nor for its profile"
    return Barred(bar=Bar.NO_VARIANT, reason=reason)


def _slot(device: Device, release: Release) -> SlotReport | None:
    slots = device.reported.slots if device.reported else ()
    return next((slot for slot in slots if slot.slot == release.slot), None)


def _shut_out(device: Device) -> str:
    return "it was decommissioned" if device.decommissioned_at else "it was revoked"
