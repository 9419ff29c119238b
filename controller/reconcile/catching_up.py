"""What devices have seen of us and we no longer know: a store was restored from a backup.

Their word moves us on: generations, release counters, versions of the signed metadata. Nothing is
taken back: what a device runs that is not on record here stays, and the audit log says so.
"""

from __future__ import annotations

import logging
from dataclasses import replace

from controller.domain import fleet
from controller.domain.catching_up import believed
from controller.errors import TrustError
from controller.reconcile import releasing
from controller.reconcile.context import Context
from fitment.core import digest
from fitment.core.deployment import DeploymentReport, ReportedState, SlotReport

log = logging.getLogger("controller.reconcile")

RUNG_MARK = ".rung-"
"""In the ids that agents give to deployments of their own."""
UNKNOWN_RELEASE, UNKNOWN_DEPLOYMENT = "unknown_release", "unknown_deployment"


def on_report(context: Context, device: fleet.Device, said: ReportedState) -> None:
    """Move past what a device has seen; ``device`` is as it was before this report."""
    _generation(context, device, said.observed_generation)
    before = {s.slot: s.release for s in device.reported.slots} if device.reported else {}
    for slot in said.slots:
        if slot.release and before.get(slot.slot) != slot.release:
            _release(context, device.name, slot)
    _metadata(context, device.name, said)


def on_unknown(context: Context, name: str, report: DeploymentReport) -> None:
    """Note the end of a deployment that is not on record, once.

    It was ordered after the backup, or the device mended a slot by itself.
    """
    if report.outcome is None or RUNG_MARK in report.deployment:
        return  # the order for a ladder's rung is the one for what it stands below
    if context.store.audit.find(action=UNKNOWN_DEPLOYMENT, subject=report.deployment):
        return
    details = {
        "slot": report.slot, "variant": digest.short(report.variant),
        "outcome": report.outcome.value, "reasons": "; ".join(report.reasons),
    }  # fmt: skip
    context.record(f"device:{name}", UNKNOWN_DEPLOYMENT, report.deployment, details)


def _generation(context: Context, device: fleet.Device, seen: int) -> None:
    """`plan.wish` goes on above it; here it is said why."""
    said_before = device.reported.observed_generation if device.reported else 0
    if seen > said_before and believed(device.generation, seen) > device.generation:
        details = {"known": str(device.generation), "seen": str(seen)}
        context.record(f"device:{device.name}", "generation_fast_forwarded", device.name, details)


def _release(context: Context, name: str, slot: SlotReport) -> None:
    if context.store.releases.get(slot.release) is not None:
        return
    known = releasing.highest_counter(context, slot.slot)
    details = {
        "slot": slot.slot, "release": slot.release, "counter": str(slot.counter),
        "variant": digest.short(slot.variant) if slot.variant else "", "known": str(known),
    }  # fmt: skip
    context.record(f"device:{name}", UNKNOWN_RELEASE, name, details)
    ahead = believed(known, slot.counter) > known
    if ahead:
        context.record(f"device:{name}", "counter_fast_forwarded", slot.slot, details)
    if ahead or slot.counter == known:  # two releases of one number would be told apart by nobody
        _renumber(context, slot)


def _renumber(context: Context, seen: SlotReport) -> None:
    """Releases that nobody signed yet go above; a signed one is never changed."""
    counter = seen.counter
    for release in context.store.releases.find(slot=seen.slot):
        if release.approved_at or release.counter > seen.counter:
            continue
        counter += 1
        context.store.releases.put(replace(release, counter=counter))
        details = {"before": str(release.counter), "now": str(counter)}
        context.record("controller", "release_renumbered", release.id, details)


def _metadata(context: Context, name: str, said: ReportedState) -> None:
    """Sign anew what the device has seen a later version of, where the key is here."""
    try:
        signed = context.trust.repository.move_past(said.metadata_versions)
    except TrustError as error:
        log.error("action=metadata_behind reason=%s", error)  # noqa: TRY400 - the text says it
        return
    if signed:
        details = {"device": name, "signed": ", ".join(signed)}
        context.record(f"device:{name}", "metadata_fast_forwarded", "metadata", details)
