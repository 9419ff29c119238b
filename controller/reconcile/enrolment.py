"""Who may belong to the fleet: tokens, certificates, revocation."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace

from controller.domain import fleet
from controller.errors import Conflict, NotFound, TrustError, UserError
from controller.reconcile import admitting, servicing, strangers
from controller.reconcile.context import Context
from controller.reconcile.keepsakes import check_labels
from controller.trust import tokens
from fitment.core.deployment import Outcome
from fitment.wire import topics

_SERIALS_KEPT = 16
"""Certificates last for weeks and are renewed well before their end, so few overlap."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Admission:
    """What a newly admitted device gets."""

    device: str
    certificate_pem: bytes


def create_token(
    context: Context, ttl_s: float, labels: Mapping[str, str]
) -> tuple[str, fleet.Token]:
    """A one-time token: its text is shown once, only its hash is kept.

    Raises:
        UserError: the time or a label cannot be.
    """
    check_labels(labels)
    if not ttl_s > 0:
        raise UserError(f"a token's lifetime must be more than 0 s, not {ttl_s:g}")
    made = tokens.make_token(context.trust.ca.fingerprint())
    now = context.clock()
    token = fleet.Token(hash=made.hash, created_at=now, expires_at=now + ttl_s, labels=dict(labels))
    with context.store.transaction():
        context.store.tokens.add(token)
        context.record("operator", "token_created", token.hash, {"ttl_s": f"{ttl_s:g}"})
    return made.text, token


def admit(context: Context, token_text: str, wished_name: str, csr_pem: bytes) -> Admission:
    """Certify a new device, once per token.

    Raises:
        TrustError: the token is unknown, used or expired.
        UserError: the name cannot be a device's, or is taken.
    """
    token = _usable_token(context, token_text)
    name = wished_name or f"device-{context.new_id()[-8:]}"
    check_free(context, name)
    with context.store.transaction():
        admission = enrol(context, name, csr_pem, token.labels, by=f"token {token.hash[:19]}")
        context.store.tokens.put(replace(token, used_by=name, used_at=context.clock()))
    return admission


def check_free(context: Context, name: str) -> None:
    """Refuse a name that cannot be had.

    A name is free when no device has it, or one that was revoked or decommissioned had it.

    Raises:
        UserError: it cannot be a device's.
        Conflict: a device has it.
    """
    if not topics.valid_device_name(name):
        raise UserError(f"'{name}' cannot be a device's name (use A-Z a-z 0-9 _ -, at most 64)")
    known = context.store.devices.get(name)
    if known is not None and not known.revoked:
        raise Conflict(
            f"a device named '{name}' is enrolled already; choose another name,"
            f" or revoke it first: fitment device revoke {name}"
        )


def enrol(
    context: Context, name: str, csr_pem: bytes, labels: Mapping[str, str], *, by: str
) -> Admission:
    """Certify a device under a free name, and put it on record.

    Who takes the name of one that was decommissioned is another device: rollouts that name the
    old one are not for it, and what the old one ran is not held against it.

    Raises:
        TrustError: the request does not hold.
    """
    certificate = context.trust.ca.issue_device(csr_pem, name, context.settings.certificate_days)
    now = context.clock()
    known = context.store.devices.get(name)
    before = known.renamed_at if known else 0.0
    device = fleet.Device(
        name=name, serial=certificate.serial, serials=(certificate.serial,), enrolled_at=now,
        labels=dict(labels), renamed_at=now if known and known.decommissioned_at else before,
    )  # fmt: skip
    with context.store.transaction():
        context.store.devices.put(device)
        details = {"serial": certificate.serial, "by": by}
        context.record(f"device:{name}", "admitted", name, details)
    return Admission(device=name, certificate_pem=certificate.pem)


def _usable_token(context: Context, text: str) -> fleet.Token:
    token = context.store.tokens.get(tokens.hash_token(text))
    again = "make a new one: fitment token create"
    if token is None:
        raise TrustError(f"this token is not known here; {again}")
    if token.used_by:
        raise TrustError(f"this token was used already, by '{token.used_by}'; {again}")
    if context.clock() > token.expires_at:
        raise TrustError(f"this token has expired; {again}")
    return token


def renew(context: Context, name: str, csr_pem: bytes) -> bytes:
    """A new certificate for a device that showed a good one.

    Raises:
        TrustError: the device was revoked.
    """
    device = _device(context, name)
    if device.revoked:
        raise TrustError(f"'{name}' was revoked; enrol it again with a new token")
    certificate = context.trust.ca.issue_device(csr_pem, name, context.settings.certificate_days)
    with context.store.transaction():
        serials = (*device.serials, certificate.serial)[-_SERIALS_KEPT:]
        context.store.devices.put(replace(device, serial=certificate.serial, serials=serials))
        context.record(f"device:{name}", "renewed", name, {"serial": certificate.serial})
    return certificate.pem


def recover(context: Context, name: str, csr_pem: bytes, expired_pem: bytes, proof: bytes) -> bytes:
    """A new certificate for a device whose old one ran out, by proof that it holds the key.

    Raises:
        TrustError: the proof does not hold, or the device was revoked.
    """
    proven = context.trust.ca.check_proof(certificate_pem=expired_pem, csr_pem=csr_pem, proof=proof)
    if proven != name:
        raise TrustError("the certificate belongs to another device")
    return renew(context, name, csr_pem)


def revoke(context: Context, name: str) -> None:
    """Shut a device out, now and for as long as its certificates live."""
    device = _device(context, name)
    with context.store.transaction():
        context.store.devices.put(replace(device, revoked=True, online=False))
        _withdraw(context, name, "the device was revoked")
        context.record("operator", "revoked", name, {"serial": device.serial})
    _shut_out(context, device)


def decommission(context: Context, name: str) -> fleet.Device:
    """Take a device out of service: it is shut out, nothing is asked of it, no rollout counts it.

    What is known of it stays. Its name is free from then on.

    Raises:
        NotFound: there is no such device.
        Conflict: it was decommissioned before.
    """
    device = _device(context, name)
    if device.decommissioned_at:
        raise Conflict(f"'{name}' was decommissioned already")
    now = context.clock()
    gone = replace(
        device, revoked=True, online=False, decommissioned_at=now, desired_key="",
    )  # fmt: skip
    with context.store.transaction():
        context.store.devices.put(gone)
        _withdraw(context, name, "the device was decommissioned")
        counted_out = _count_out(context, name)
        details = {"serial": device.serial, "rollouts": ", ".join(counted_out)}
        context.record("operator", "decommissioned", name, details)
    _shut_out(context, device)
    return gone


def _count_out(context: Context, name: str) -> list[str]:
    """Rollouts that wait for it wait no more."""
    waiting = [made for made in context.store.rollouts.find() if name in made.pending]
    for made in waiting:
        left = tuple(other for other in made.pending if other != name)
        context.store.rollouts.put(replace(made, pending=left))
    return [made.id for made in waiting]


def _withdraw(context: Context, name: str, why: str) -> None:
    """End what is under way on a device, and what it was asked, and its tickets."""
    now = context.clock()
    for deployment in context.store.deployments.find(device=name, outcome=None):
        admitting.end(context, deployment, Outcome.CANCELLED, why)
    for study in context.store.studies.find(device=name, done_at=0.0):
        context.store.studies.put(replace(study, done_at=now, failed=why))
    applied = context.store.applicants.get(name)
    if applied is not None and applied.approved_at:
        context.store.applicants.delete(name)  # it may ask again, and waits then
    for ticket in servicing.of_device(context, name):
        servicing.close(context, ticket.id, why, actor="controller")


def _shut_out(context: Context, device: fleet.Device) -> None:
    for serial in {*device.serials, device.serial} - {""}:
        context.trust.revoke(serial, context.clock())


def is_allowed(context: Context, name: str, serial: str) -> bool:
    """Whether a certificate that TLS accepted is still good here."""
    device = context.store.devices.get(name)
    if context.trust.ca.is_revoked(serial):
        return False
    if device is None:
        strangers.note(context, name, serial)
    return device is not None and not device.revoked


def _device(context: Context, name: str) -> fleet.Device:
    device = context.store.devices.get(name)
    if device is None:
        raise NotFound(f"no device is named '{name}'; see: fitment device list")
    return device
