"""Who may call what: a row for every call, and whoever has no row is refused."""

from __future__ import annotations

import enum
from collections.abc import Mapping
from dataclasses import dataclass


class Caller(enum.Enum):
    """Who may make a call."""

    ANYONE = "anyone"  # no certificate: the call itself proves what it needs (token, key)
    DEVICE = "device"  # a certificate of our authority, of a device that is not revoked


@dataclass(frozen=True, slots=True, kw_only=True)
class Rule:
    """What one call demands."""

    caller: Caller
    why: str


POLICY: Mapping[str, Rule] = {
    "/fitment.v1.Enroll/Admit": Rule(
        caller=Caller.ANYONE, why="the caller has no certificate yet; the token admits it once"
    ),
    "/fitment.v1.Enroll/Apply": Rule(
        caller=Caller.ANYONE, why="it only waits; an operator's word lets its key in"
    ),
    "/fitment.v1.Enroll/Recover": Rule(
        caller=Caller.ANYONE, why="its certificate expired; the signature proves its key"
    ),
    "/fitment.v1.Gateway/Session": Rule(
        caller=Caller.DEVICE, why="carries one device's own messages"
    ),
    "/fitment.v1.Gateway/RenewCertificate": Rule(
        caller=Caller.DEVICE, why="only the holder of a valid certificate renews it"
    ),
    "/fitment.v1.Gateway/FetchArtifact": Rule(
        caller=Caller.DEVICE, why="models are the fleet's property"
    ),
    "/fitment.v1.Gateway/LocateArtifact": Rule(
        caller=Caller.DEVICE, why="names where the fleet's models lie"
    ),
    "/fitment.v1.Gateway/FindDelta": Rule(
        caller=Caller.DEVICE, why="names what the fleet runs, and costs work to answer"
    ),
    "/fitment.v1.Gateway/FetchMetadata": Rule(
        caller=Caller.DEVICE, why="names what the fleet runs"
    ),
    "/fitment.v1.Gateway/SubmitMeasurement": Rule(
        caller=Caller.DEVICE, why="stored under the caller's own name"
    ),
    "/fitment.v1.Gateway/SubmitCalibration": Rule(
        caller=Caller.DEVICE, why="stored under the caller's own name"
    ),
}


def rule_for(method: str) -> Rule | None:
    """The row of a full method name, or None: then refuse."""
    return POLICY.get(method)
