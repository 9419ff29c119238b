"""What is known of a cohort: who is in it, what it can run, and how fast its kernels are."""

from __future__ import annotations

from typing import Any

from controller.domain import fleet
from controller.errors import FitError
from controller.reconcile.context import Context
from fitment.core import plain
from fitment.core.deployment import StudyKind
from fitment.core.kernels import KernelTable
from profiles import Profile


def members(context: Context, cohort: fleet.Cohort) -> list[fleet.Device]:
    """Devices of a cohort that are not revoked."""
    devices = context.store.devices.find(profile=cohort.profile, revoked=False)
    return [d for d in devices if d.cohort == cohort]


def online(context: Context, cohort: fleet.Cohort, *, prefer: str = "") -> fleet.Device | None:
    """A device that may answer for its cohort.

    A host that stands in for one does so only at need, and so does one that is a case for service.
    Of equals it is the one named ``prefer``, or else the first.
    """
    there = [d for d in members(context, cohort) if d.online]
    return min(
        there, default=None, key=lambda d: (_is_emulated(d), _is_ill(context, d), d.name != prefer)
    )  # fmt: skip


def _is_ill(context: Context, device: fleet.Device) -> bool:
    return any(not t.closed_at for t in context.store.tickets.find(device=device.name))


def _is_emulated(device: fleet.Device) -> bool:
    return device.reported is not None and device.reported.fingerprint.emulated


def tells_time(device: fleet.Device) -> bool:
    """Whether what a device times can be gone by; an emulator that translates is no device."""
    return device.reported is None or not device.reported.fingerprint.translated_on


def profile_of(context: Context, cohort: fleet.Cohort) -> Profile:
    """The profile of a cohort.

    Raises:
        FitError: it is not installed any more.
    """
    for profile in context.profiles:
        if profile.name == cohort.profile:
            return profile
    raise FitError(f"the profile '{cohort.profile}' is not installed here any more")


def machine(context: Context, cohort: fleet.Cohort) -> str:
    """What ``uname`` calls its processors, or nothing."""
    for device in members(context, cohort):
        if device.reported is not None:
            return device.reported.fingerprint.hardware.facts.get("machine", "")
    return ""


def runtimes(context: Context, cohort: fleet.Cohort) -> list[str]:
    """Runtimes that the profile supports and a device of the cohort has, in its order.

    Raises:
        FitError: there is no such runtime, or no such device any more.
    """
    present: set[str] = set()
    devices = members(context, cohort)
    for device in devices:
        if device.reported is not None:
            present.update(device.reported.fingerprint.runtimes())
    supported = [r.name for r in profile_of(context, cohort).runtimes]
    names = [name for name in supported if name in present]
    if not devices:
        raise FitError(f"no device belongs to {cohort.key} any more; fit again where it went")
    if not names:
        have = ", ".join(sorted(present)) or "none"
        raise FitError(
            f"no runtime in common: the profile '{cohort.profile}' can use"
            f" {', '.join(supported)}; the device has {have}:"
            " pip install 'fitment[onnx]' on it"
        )
    return names


def kernel_table(context: Context, cohort: fleet.Cohort, runtime: str) -> KernelTable | None:
    """The newest kernel table of a cohort, or None.

    Where a real board is in the cohort, what a host that stands in for it timed does not count.
    """
    real = not all(_is_emulated(d) for d in members(context, cohort))
    for study in reversed(context.store.studies.find(kind=StudyKind.PROBE)):
        table = study.kernels
        if table is None or study.cohort != cohort or table.runtime != runtime:
            continue
        if not (real and table.emulated):
            return table
    return None


def budget_of(context: Context, model: fleet.ModelVersion, profile: str) -> fleet.Budget:
    """The limits of the class of device, the model's over them, the model's for it over those."""
    classes = [p.budget for p in context.profiles if p.name == profile]
    limits: dict[str, Any] = {}
    for layer in (*classes, model.budget, model.profile_budgets.get(profile)):
        given = plain.to_plain(layer) or {}
        limits.update({name: value for name, value in given.items() if value is not None})
    return fleet.Budget(**limits)
