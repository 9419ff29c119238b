"""Devices without a token: they wait, with what people can compare, for an operator's word.

Anybody who reaches the port may ask, so what asking costs is bounded: how many wait, how many begin
to in a minute, and for how long one is kept that no longer asks.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace

from controller.domain.belonging import Applicant
from controller.errors import Conflict, NotFound, Temporary, TrustError, UserError
from controller.reconcile import enrolment
from controller.reconcile.context import Context
from controller.reconcile.enrolment import Admission
from controller.reconcile.keepsakes import check_labels
from fitment.core import admission as codes
from fitment.core import digest

MOST = 100
"""Devices that wait at a time."""
NEW_A_MINUTE = 20
SILENT_S = 3600.0
"""Who has not asked for so long is forgotten."""
KEPT_S = 86_400.0
"""How long an answer stands: a device that lost its certificate on the way may ask again."""
POLL_S = 5.0
_SEEN_EVERY_S = 60.0
"""That it asked is written down so often; asking costs no write otherwise."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Applied:
    """What a device that asked is told."""

    device: str
    poll_after_s: float
    admission: Admission | None = None  # None: it waits


def apply(context: Context, wished_name: str, csr_pem: bytes) -> Applied:
    """Let a device wait, or in where an operator has said so.

    Raises:
        TrustError: this controller lets nobody in so, an operator refused it, or the request does
            not hold.
        Conflict: another device has the name, or waits under it.
        UserError: the name cannot be a device's.
        Temporary: too many wait, or have come at once.
    """
    if not context.settings.enrolment_by_approval:
        raise TrustError(
            "this controller lets devices in by token only: make one there (fitment token create),"
            " or set enrolment_by_approval in its settings"
        )
    key = context.trust.ca.key_hash(csr_pem)
    name = wished_name or f"device-{digest.hex_of(key)[:8]}"
    forget(context)
    known = context.store.applicants.get(name)
    if known is None:
        return _first(context, name, key)
    if known.key_hash != key:
        raise Conflict(
            f"another device waits under the name '{name}'; choose another name, or have it"
            f" refused: fitment device reject {name}"
        )
    if known.rejected_at:
        raise TrustError(f"an operator refused '{name}' with this key")
    if known.approved_at:
        return _let_in(context, known, csr_pem)
    if context.clock() - known.seen_at > _SEEN_EVERY_S:
        context.store.applicants.put(replace(known, seen_at=context.clock()))
    return Applied(device=name, poll_after_s=POLL_S)


def _first(context: Context, name: str, key: str) -> Applied:
    enrolment.check_free(context, name)
    now = context.clock()
    every = context.store.applicants.find()
    if sum(one.waits for one in every) >= MOST:
        raise Temporary(f"{MOST} devices wait for an operator already", retry_after_s=60.0)
    if sum(one.asked_at > now - 60.0 for one in every) >= NEW_A_MINUTE:
        raise Temporary("too many devices ask at once", retry_after_s=30.0)
    code = codes.code(key, context.trust.ca.fingerprint())
    made = Applicant(name=name, key_hash=key, code=code, asked_at=now, seen_at=now)
    with context.store.transaction():
        context.store.applicants.put(made)
        context.record(f"device:{name}", "applied", name, {"code": code})
    return Applied(device=name, poll_after_s=POLL_S)


def _let_in(context: Context, known: Applicant, csr_pem: bytes) -> Applied:
    """Certify it; again, too, for the answer before may be lost. The key is the same.

    An approval lets in once: who was revoked since, or whose name went to another, asks anew.
    """
    device = context.store.devices.get(known.name)
    if device is not None and not device.revoked and device.enrolled_at == known.admitted_at:
        pem = enrolment.renew(context, known.name, csr_pem)
        admitted = Admission(device=known.name, certificate_pem=pem)
        return Applied(device=known.name, poll_after_s=POLL_S, admission=admitted)
    enrolment.check_free(context, known.name)
    if known.admitted_at or (device is not None and device.enrolled_at >= known.approved_at):
        raise TrustError(
            f"the approval of '{known.name}' was used up: choose another name, or come in with"
            " a token (fitment token create)"
        )
    with context.store.transaction():
        admitted = enrolment.enrol(
            context, known.name, csr_pem, known.labels, by=f"approval of {known.code}"
        )
        context.store.applicants.put(replace(known, admitted_at=context.clock()))
    return Applied(device=known.name, poll_after_s=POLL_S, admission=admitted)


def waiting(context: Context) -> tuple[Applicant, ...]:
    """Those that wait, in the order in which they came."""
    forget(context)
    return tuple(one for one in context.store.applicants.find() if one.waits)


def approve(
    context: Context, name: str, code: str, labels: Mapping[str, str] | None = None
) -> Applicant:
    """Let in the device that shows ``code``; it comes in when it next asks.

    Raises:
        NotFound: nobody waits under that name.
        UserError: the code is another: the device that waits is not the one that was looked at;
            or a label cannot be.
        Conflict: it was answered already.
    """
    known = _waits(context, name)
    if not codes.same(code, known.code):
        raise UserError(
            f"'{name}' does not wait with the code {code or '(none)'}: compare what the device"
            " shows with: fitment device pending; where they differ, refuse it: it is another"
            " device, or somebody stands between it and this controller"
        )
    enrolment.check_free(context, name)
    check_labels(labels or {})
    approved = replace(known, approved_at=context.clock(), labels=dict(labels or {}))
    with context.store.transaction():
        context.store.applicants.put(approved)
        context.record("operator", "approved", name, {"code": known.code})
    return approved


def reject(context: Context, name: str) -> Applicant:
    """Refuse a device; its key is told so for a day, and the name is free for another key then.

    Raises:
        NotFound: nobody waits under that name.
        Conflict: it was answered already.
    """
    known = _waits(context, name)
    rejected = replace(known, rejected_at=context.clock())
    with context.store.transaction():
        context.store.applicants.put(rejected)
        context.record("operator", "rejected", name, {"code": known.code})
    return rejected


def _waits(context: Context, name: str) -> Applicant:
    forget(context)
    known = context.store.applicants.get(name)
    if known is None:
        raise NotFound(f"no device waits under the name '{name}'; see: fitment device pending")
    if not known.waits:
        answered = "let in" if known.approved_at else "refused"
        raise Conflict(f"'{name}' was {answered} already")
    return known


def forget(context: Context) -> None:
    """Drop those that ask no more, and answers that are a day old."""
    now = context.clock()
    for one in context.store.applicants.find():
        answered = one.approved_at or one.rejected_at
        over = answered + KEPT_S if answered else one.seen_at + SILENT_S
        if over < now:
            context.store.applicants.delete(one.name)
