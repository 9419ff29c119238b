"""What devices say: it always beats what the controller believed."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace

import profiles
from controller.domain import fleet, triggers
from controller.errors import NotFound
from controller.reconcile import desired
from controller.reconcile.context import Context
from fitment.core import digest
from fitment.core.deployment import (
    CalibrationReport,
    DeploymentReport,
    Outcome,
    ReportedState,
)
from fitment.core.fingerprint import Fingerprint
from fitment.core.kernels import KernelTable
from fitment.core.link import Downlink, Uplink
from fitment.core.measurement import Measurement
from fitment.core.telemetry import TelemetryBatch


def on_uplink(context: Context, name: str, uplink: Uplink) -> tuple[Downlink, ...]:
    """Take in one message; returns what to answer."""
    device = context.store.devices.get(name)
    if device is None or device.revoked:
        return ()
    if uplink.telemetry is not None:
        return _telemetry(context, name, uplink.telemetry)
    with context.store.transaction():
        if uplink.presence is not None:
            seen(context, name, online=uplink.presence.online)
        if uplink.reported is not None:
            _reported(context, device, uplink.reported)
    return ()


def seen(context: Context, name: str, *, online: bool) -> None:
    """A device came or went."""
    device = context.store.devices.get(name)
    if device is not None:
        changed = replace(device, online=online, last_seen=context.clock())
        context.store.devices.put(changed)


def _telemetry(context: Context, name: str, batch: TelemetryBatch) -> tuple[Downlink, ...]:
    """The ack leaves after the commit: it names only what is synced to disk."""
    with context.store.transaction():
        ack = context.store.telemetry.ingest(name, batch)
    return (Downlink(ack=ack),)


def _reported(context: Context, device: fleet.Device, reported: ReportedState) -> None:
    before = device.reported.fingerprint if device.reported else None
    updated = replace(device, reported=reported, online=True, last_seen=context.clock())
    if before is None or not device.profile or before.hardware != reported.fingerprint.hardware:
        updated = _matched(context, updated, reported.fingerprint)
    context.store.devices.put(updated)
    if before is not None:
        _look_for_trigger(context, updated, before, reported)
    for report in reported.deployments:
        _deployment(context, device.name, report)
    _studies(context, device.name, reported.studies_done)


def _matched(context: Context, device: fleet.Device, seen_now: Fingerprint) -> fleet.Device:
    try:
        matched = profiles.match(seen_now, context.profiles)
    except profiles.ProfileError as error:
        return replace(device, profile="", profile_reason=str(error))
    if matched.profile.name != device.profile:
        details = {"profile": matched.profile.name, "reason": matched.reason}
        context.record(f"device:{device.name}", "profile_matched", device.name, details)
    return replace(device, profile=matched.profile.name, profile_reason=matched.reason)


def _look_for_trigger(
    context: Context, device: fleet.Device, before: Fingerprint, reported: ReportedState
) -> None:
    finding = triggers.changed(before, reported.fingerprint)
    if finding is None or device.cohort is None:
        return
    known = context.store.triggers.find(device=device.name)
    for slot in reported.slots:
        model = _model_of(context, slot.release)
        if not slot.variant or model is None:
            continue
        if not triggers.may_open(device.name, device.cohort, known, context.clock()):
            continue
        checked = "not answered yet" if slot.golden_ok is None else str(slot.golden_ok).lower()
        coverage = "unknown" if slot.integer_coverage is None else f"{slot.integer_coverage:.2f}"
        trigger = fleet.Trigger(
            id=context.new_id(), kind=finding.kind, device=device.name, model=model,
            cohort=device.cohort, created_at=context.clock(), before=slot.variant,
            reason=f"{finding.reason}; goldens {checked}, integer coverage {coverage}",
        )  # fmt: skip
        context.store.triggers.add(trigger)
        details = {"kind": trigger.kind.value, "reason": trigger.reason}
        context.record(f"device:{device.name}", "triggered", trigger.id, details)


def _model_of(context: Context, release: str) -> str | None:
    found = context.store.releases.get(release)
    return found.model if found else None


def _deployment(context: Context, name: str, report: DeploymentReport) -> None:
    known = context.store.deployments.get(report.deployment)
    if known is None or known.device != name or known.outcome is not None:
        return
    ended = report.outcome is not None
    changed = replace(
        known,
        state=report.state,
        outcome=report.outcome,
        ended_at=context.clock() if ended else 0.0,
        reasons=report.reasons or known.reasons,
        measurement=report.measurement or known.measurement,
        calibration=report.calibration or known.calibration,
    )
    if changed == known:
        return
    context.store.deployments.put(changed)
    if ended:
        context.record(
            f"device:{name}", "deployment_ended", known.id, _numbers(changed, report.outcome)
        )


def _numbers(deployment: fleet.Deployment, outcome: Outcome | None) -> Mapping[str, str]:
    details = {
        "outcome": outcome.value if outcome else "",
        "variant": digest.short(deployment.variant),
        "reasons": "; ".join(deployment.reasons),
    }
    taken = deployment.measurement
    if taken is not None and taken.latency is not None:
        details["p50_ms"] = f"{taken.latency.p50_ms:.4f}"
        details["verdict"] = taken.verdict.value
    return details


def _studies(context: Context, name: str, done: tuple[str, ...]) -> None:
    """A study that is done without an answer here failed on the device."""
    for study_id in done:
        study = context.store.studies.get(study_id)
        if study is None or study.device != name or study.done_at:
            continue
        failed = replace(
            study, done_at=context.clock(), failed="the device gave it up; see its notes"
        )
        context.store.studies.put(failed)


def on_measurement(
    context: Context,
    name: str,
    study: str,
    measurement: Measurement | None,
    kernels: KernelTable | None,
) -> None:
    """The answer to a study; a second one changes nothing."""
    record = context.store.studies.get(study)
    if record is None or record.device != name:
        raise NotFound(f"no study '{study}' was put to this device")
    if record.measurement is not None or record.kernels is not None:
        return
    with context.store.transaction():
        answered = replace(
            record, done_at=context.clock(), measurement=measurement, kernels=kernels, failed=""
        )
        context.store.studies.put(answered)
        details = {"device": name, "kind": record.kind.value}
        context.record(f"device:{name}", "study_answered", study, details)
    desired.publish(context, name)


def on_calibration(
    context: Context, name: str, deployment: str, report: CalibrationReport, overlay: bytes
) -> None:
    """Keep what a calibration changed, so that the running bytes can be built again."""
    known = context.store.deployments.get(deployment)
    if known is None or known.device != name:
        raise NotFound(f"no deployment '{deployment}' of this device")
    kept = context.blobs.put_bytes(overlay) if overlay else ""
    with context.store.transaction():
        context.store.deployments.put(replace(known, calibration=report, overlay=kept))
        details = {"applied": str(report.applied).lower(), "reason": report.reason}
        context.record(f"device:{name}", "calibrated", deployment, details)
