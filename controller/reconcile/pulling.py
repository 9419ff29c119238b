"""What runs on a device, byte for byte: the pristine file with the overlay of its calibration.

Where that corrects what is fed, the file is the pristine one and the correction stands beside it.
"""

from __future__ import annotations

from dataclasses import replace
from pathlib import PurePosixPath

from controller.artifacts import packing
from controller.domain import fleet, plan, pulled
from controller.errors import Conflict, NotFound
from controller.reconcile import desired
from controller.reconcile.context import Context
from fitment.core import digest
from fitment.core.deployment import SlotReport
from fitment.core.patch import Overlay, parse_overlay, patched


def pull(context: Context, name: str, slot: str = "") -> pulled.RunningModel:
    """Build again what a device says that it runs; its word decides, not what was sent.

    ``slot`` may be empty where the device has one only.

    Raises:
        NotFound: no such device or slot, or it runs nothing there.
        Conflict: it runs something that this controller cannot build.
    """
    device = context.store.devices.get(name)
    if device is None:
        raise NotFound(f"no device '{name}'; see: fitment device list")
    report = _serving(_slot(device, slot))
    deployment = plan.running(context.store.deployments.find(device=name)).get(report.slot)
    release = context.store.releases.get(deployment.release) if deployment else None
    bundle = desired.find_bundle(context, release.model if release else "", report.variant)
    if bundle is None:
        raise Conflict(
            f"{name} runs {digest.short(report.variant)}, which no fit of this controller made"
        )
    with context.blobs.open(bundle.archive) as archive:
        manifest, data = packing.read_artifact(archive)
    overlay = _overlay(context, report, device=name) if report.calibration else None
    suffix = PurePosixPath(manifest.artifact).suffix
    return pulled.RunningModel(
        device=name, slot=report.slot, variant=report.variant,
        file_name=f"{manifest.name}{suffix}", calibration=report.calibration,
        data=data if overlay is None else patched(data, overlay),
        input=overlay.input if overlay is not None else None,
    )  # fmt: skip


def _slot(device: fleet.Device, wanted: str) -> SlotReport:
    slots = device.reported.slots if device.reported is not None else ()
    filled = [s for s in slots if s.variant and wanted in ("", s.slot)]
    if not filled:
        where = f"in slot '{wanted}'" if wanted else "yet"
        raise NotFound(f"{device.name} runs nothing {where}; see: fitment device show")
    if len(filled) > 1:
        names = ", ".join(s.slot for s in filled)
        raise Conflict(f"{device.name} has more than one slot, name one with --slot: {names}")
    return filled[0]


def _serving(report: SlotReport) -> SlotReport:
    """The same for the rung that serves: a lesser variant runs as it was shipped."""
    rung = next((r for r in report.ladder if r.rung == report.rung), None)
    return report if rung is None else replace(report, variant=rung.variant, calibration="")


def _overlay(context: Context, report: SlotReport, *, device: str) -> Overlay:
    for deployment in context.store.deployments.find(device=device):
        calibration = deployment.calibration
        if deployment.overlay and calibration is not None and calibration.id == report.calibration:
            with context.blobs.open(deployment.overlay) as stream:
                return parse_overlay(stream.read())
    raise Conflict(
        f"{device} calibrated its variant, and has not handed over yet what it changed;"
        " try again when it was online for a while"
    )
