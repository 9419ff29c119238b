"""Devices that show a certificate of ours and are not on record: enrolled after the backup.

They are not let in by themselves, for one that was revoked after the backup looks the same. An
operator says which are to be taken back.
"""

from __future__ import annotations

from controller.domain import fleet
from controller.errors import Conflict, NotFound
from controller.reconcile.context import Context
from fitment.core.link import Downlink
from fitment.core.telemetry import Command, CommandKind

UNKNOWN_DEVICE = "unknown_device"
_MOST = 1000
"""Names that are noted; a broker that is not ours may make them up."""


def note(context: Context, name: str, serial: str = "") -> None:
    """Note a device once; ``serial`` is its certificate's, where it was seen."""
    known = context.store.audit.find(action=UNKNOWN_DEVICE, subject=name)
    seen = any(entry.details.get("serial") or not serial for entry in known)
    if seen or len(context.store.audit.find(action=UNKNOWN_DEVICE)) >= _MOST:
        return
    context.record(f"device:{name}", UNKNOWN_DEVICE, name, {"serial": serial} if serial else {})


def names(context: Context) -> tuple[str, ...]:
    """Those that wait."""
    noted = {entry.subject for entry in context.store.audit.find(action=UNKNOWN_DEVICE)}
    return tuple(name for name in sorted(noted) if context.store.devices.get(name) is None)


def readmit(context: Context, name: str) -> None:
    """Put a device on record again. It keeps its key, its certificate and what it runs.

    Raises:
        Conflict: it is on record.
        NotFound: no device of that name has shown a certificate of ours.
    """
    if context.store.devices.get(name) is not None:
        raise Conflict(f"'{name}' is on record; a revoked device is enrolled anew with a token")
    seen = context.store.audit.find(action=UNKNOWN_DEVICE, subject=name)
    if not seen:
        raise NotFound(
            f"no device that is not on record has called itself '{name}' with a certificate of"
            " this controller; it must be switched on and reach it"
        )
    serials = tuple(s for s in dict.fromkeys(e.details.get("serial", "") for e in seen) if s)
    device = fleet.Device(
        name=name, serial=serials[-1] if serials else "", serials=serials,
        enrolled_at=context.clock(),
    )  # fmt: skip
    with context.store.transaction():
        context.store.devices.put(device)
        context.record("operator", "readmitted", name, {"serial": device.serial})
    asked = Command(id=context.new_id(), kind=CommandKind.REPORT)
    context.publish(name, Downlink(command=asked))
