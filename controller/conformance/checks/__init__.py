"""All checks, in the order in which they are run: what later ones need comes first."""

from __future__ import annotations

from typing import Final

from controller.conformance.checks import (
    enrolment,
    links,
    orders,
    telemetry,
    transfers,
    verifying,
    windows,
)
from controller.conformance.spec import Check

CHECKS: Final[tuple[Check, ...]] = (
    *enrolment.CHECKS,
    *links.CHECKS,
    *telemetry.CHECKS,
    *orders.CHECKS,
    *windows.CHECKS,
    *verifying.CHECKS,
    *transfers.CHECKS,
)

UNCHECKED: Final = {
    "enrol-recover": "it would take a certificate that has expired: days, or another clock",
    "enrol-renew": "an agent decides when it renews",
    "calibrate-local": "nobody outside can see that no sample leaves a device",
    "fetch-delta": "an agent may always fetch the whole file",
}
"""Rules of the document that no check looks at, and why."""
