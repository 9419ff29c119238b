"""What devices say: it always beats what the controller believed."""

from __future__ import annotations

import logging
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace

import profiles
from controller.domain import fleet, studies
from controller.domain.history import FINGERPRINT_CHANGED
from controller.domain.levels import binned
from controller.domain.telemetry import placed
from controller.domain.triggers import differences
from controller.errors import NotFound
from controller.reconcile import catching_up, desired, strangers
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
from fitment.core.telemetry import Command, CommandKind, TelemetryBatch

log = logging.getLogger("controller.reconcile")

REPORT_WITHIN_S = 60.0
GAVE_UP = "the device gave it up"
"""How the reason of a study begins that the device said was done and answered nothing to."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Heard:
    """One thing that came over the link: a message, or that a device came or went."""

    device: str
    uplink: Uplink | None = None
    up: bool | None = None  # it listens now, or is gone


@dataclass(frozen=True, slots=True, kw_only=True)
class Taken:
    """What came of it; both for after the commit."""

    answers: tuple[tuple[str, Downlink], ...]
    came: frozenset[str]  # devices that listen again


def take_in(context: Context, heard: Sequence[Heard]) -> Taken:
    """Take in what came, in one transaction, as if one after the other."""
    with context.store.transaction():
        of_device: dict[str, list[Heard]] = {}
        for one in heard:
            of_device.setdefault(one.device, []).append(one)
        batches: list[tuple[str, TelemetryBatch]] = []
        asked: list[tuple[str, Downlink]] = []
        came = {one.device for one in heard if one.up}
        for name, all_of_it in of_device.items():
            device = context.store.devices.get(name)
            if device is None and any(one.uplink is not None for one in all_of_it):
                strangers.note(context, name)
            if device is not None and not device.revoked:
                known, as_of = device, _one_device(context, device, all_of_it)
                device = as_of[-1]
                if device.online and not known.online:
                    came.add(name)  # also by a report alone: what said so before may be lost
                of_it = _batches(context, as_of, all_of_it)
                batches += of_it
                if of_it and (device.reported is None or not device.online):
                    asked.append((name, _asks_for_report(context)))
        acks = context.store.telemetry.ingest_many(batches)
    # One ack a device and outbox: the last says the most.
    last = {(name, ack.outbox): ack for (name, _), ack in zip(batches, acks, strict=True)}
    acked = ((name, Downlink(ack=ack)) for (name, _), ack in last.items())
    return Taken(answers=(*asked, *acked), came=frozenset(came))


def _asks_for_report(context: Context) -> Downlink:
    """For a device that sends samples and counts as away: what it said was lost on the way."""
    deadline = int((context.clock() + REPORT_WITHIN_S) * 1e9)
    command = Command(id=context.new_id(), kind=CommandKind.REPORT, deadline_unix_ns=deadline)
    return Downlink(command=command)


def _one_device(
    context: Context, known: fleet.Device, heard: Sequence[Heard]
) -> list[fleet.Device]:
    """Presence and reports of one device, in order; its record is written once.

    Gives what was known of it after each, so that samples count for what served when they came.
    """
    device, now = known, context.clock()
    as_of: list[fleet.Device] = []
    reports: list[ReportedState] = []
    for one in heard:
        presence = one.uplink.presence if one.uplink is not None else None
        online = one.up if presence is None else presence.online
        if online is not None:
            device = replace(device, online=online, last_seen=now)
        reported = one.uplink.reported if one.uplink is not None else None
        if reported is not None and _is_stale(device.reported, reported):
            log.info("action=stale_report_dropped device=%s", device.name)
        elif reported is not None:
            catching_up.on_report(context, device, reported)
            device = replace(device, reported=reported, online=True, last_seen=now)
            reports.append(reported)
        as_of.append(device)
    if reports:
        device = _matched_again(context, known, device)
    if device != known:
        context.store.devices.put(device)
    before = known.reported
    for reported in reports:  # each of them: the last to come need not be the last that was said
        _news(context, device.name, before, reported)
        before = reported
    return [*(replace(then, profile=device.profile) for then in as_of[:-1]), device]


def _batches(
    context: Context, as_of: Sequence[fleet.Device], heard: Sequence[Heard]
) -> list[tuple[str, TelemetryBatch]]:
    found = []
    for device, one in zip(as_of, heard, strict=True):
        batch = one.uplink.telemetry if one.uplink is not None else None
        if batch is None:
            continue
        if any(len(c.values) != len(batch.wall_unix_ns) for c in batch.columns.values()):
            # No sending again mends it.
            log.warning("action=batch_refused device=%s reason=ragged_columns", device.name)
            continue
        placed_now = placed(batch, context.clock())
        tagged = replace(placed_now, tags=_tags(device, batch.tags))
        found.append((device.name, binned(tagged)))
    return found


def offline(context: Context, name: str) -> None:
    """Nothing is known of a device's link; when it was last seen stays as it is."""
    device = context.store.devices.get(name)
    if device is not None:
        context.store.devices.put(replace(device, online=False))


def _tags(device: fleet.Device, said: Mapping[str, str]) -> Mapping[str, str]:
    """The device's tags, with what is known of it here; it cannot speak for another profile."""
    variant, slots = said.get("variant", ""), device.reported.slots if device.reported else ()
    releases = [
        slot.release
        for slot in slots
        if slot.slot == said.get("slot")
        and variant in (slot.variant, *(rung.variant for rung in slot.ladder))
    ]
    return {**said, "profile": device.profile, "release": releases[0] if releases else ""}


def _matched_again(context: Context, known: fleet.Device, device: fleet.Device) -> fleet.Device:
    """With its profile, where that is not known or its hardware is another than before."""
    before, now = known.reported, device.reported
    assert now is not None
    moved = before is None or before.fingerprint.hardware != now.fingerprint.hardware
    return _matched(context, device, now.fingerprint) if moved or not device.profile else device


def _news(
    context: Context, name: str, before: ReportedState | None, reported: ReportedState
) -> None:
    """What a report says that the one before it did not."""
    if before is not None:
        _changed(context, name, before.fingerprint, reported.fingerprint)
    old = {r.deployment: r for r in before.deployments} if before else {}
    for report in reported.deployments:
        if old.get(report.deployment) != report:
            _deployment(context, name, report)
    done = set(before.studies_done) if before else set()
    _studies(context, name, tuple(s for s in reported.studies_done if s not in done))


def _changed(context: Context, name: str, before: Fingerprint, after: Fingerprint) -> None:
    """Keep on record what a device became; its condition changes by the hour, and is left out."""
    facets = (
        ("hardware", before.hardware, after.hardware),
        ("stack", before.stack, after.stack),
        ("chassis", before.chassis, after.chassis),
    )
    details = {facet: differences(old, new) for facet, old, new in facets if old.hash != new.hash}
    if details:
        context.record(f"device:{name}", FINGERPRINT_CHANGED, name, details)


def _is_stale(known: ReportedState | None, said: ReportedState) -> bool:
    """Whether a report was overtaken by a later one: it had seen less of what is desired.

    Within one boot a device never goes back behind a desired state that it has seen.
    """
    if known is None or known.boot_id != said.boot_id:
        return False
    return said.observed_generation < known.observed_generation


def _matched(context: Context, device: fleet.Device, seen_now: Fingerprint) -> fleet.Device:
    try:
        matched = profiles.match(seen_now, context.profiles)
    except profiles.ProfileError as error:
        return replace(device, profile="", profile_reason=str(error))
    if matched.profile.name != device.profile:
        details = {"profile": matched.profile.name, "reason": matched.reason}
        context.record(f"device:{device.name}", "profile_matched", device.name, details)
    return replace(device, profile=matched.profile.name, profile_reason=matched.reason)


def _deployment(context: Context, name: str, report: DeploymentReport) -> None:
    known = context.store.deployments.get(report.deployment)
    if known is None:
        catching_up.on_unknown(context, name, report)
        return
    if known.device != name:
        return
    if known.outcome is not None and report.outcome in (None, known.outcome):
        return  # what the controller ended (by a deadline, say) yields to the device's word only
    ended = report.outcome is not None
    changed = replace(
        known,
        state=report.state,
        outcome=report.outcome,
        ended_at=context.clock() if ended else 0.0,
        reasons=report.reasons or known.reasons,
        measurement=report.measurement or known.measurement,
        calibration=report.calibration or known.calibration,
        fetched_bytes=report.fetched_bytes or known.fetched_bytes,
        delta_base=report.delta_base or known.delta_base,
        held=report.held,
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
        failed = replace(study, done_at=context.clock(), failed=f"{GAVE_UP}; see its notes")
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
        wrong = _elsewhere(record, measurement, kernels)
        answered = replace(
            record, done_at=context.clock(), failed=wrong,
            measurement=None if wrong else measurement, kernels=None if wrong else kernels,
        )  # fmt: skip
        context.store.studies.put(answered)
        details = {"device": name, "kind": record.kind.value, "failed": wrong}
        context.record(f"device:{name}", "study_answered", study, details)
    desired.publish(context, name)


def _elsewhere(
    record: studies.StudyRecord, measurement: Measurement | None, kernels: KernelTable | None
) -> str:
    """Why an answer does not tell of the cohort that was asked about; empty when it does.

    A device may change between the question and the answer.
    """
    for taken in (measurement, kernels):
        if taken is None:
            continue
        if (taken.hardware or record.cohort.hardware) != record.cohort.hardware:
            return "it was taken on other hardware than was asked about"
        if (taken.stack or record.cohort.stack) != record.cohort.stack:
            return "it was taken on another stack than was asked about"
    return ""


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
