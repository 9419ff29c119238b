"""Verify: is this order the director's, for this device, and is the file what was signed?

In this order, each step trusting only the ones before:

1. the order carries the pinned director's signature;
2. it decodes, and names this device;
3. the signed metadata lists the bundle with the order's digest and length;
4. the file on disk has them; what was rebuilt from a delta cannot, and holds exactly the files
   that the variant's digest covers, which the order and the release sign;
5. for an assignment: the signed release names this variant for this slot, with the order's
   counter, and the counter is not below the slot's lowest. A rung of the order's ladder must be on
   a ladder of the release.

Nothing is activated here.
"""

from __future__ import annotations

import json
import sys
from pathlib import Path
from typing import TypeVar

from cryptography.exceptions import InvalidSignature
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PublicKey
from tuf.api.exceptions import LengthOrHashMismatchError
from tuf.api.metadata import TargetFile

from agent.jobs import VerifyJob, VerifyResult
from agent.workers import child, gateway_client, stage
from agent.workers.child import JobError
from agent.workers.metadata import SignedMetadata
from fitment.core import digest as digests
from fitment.core import plain
from fitment.core.bundle import ReleaseManifest
from fitment.core.deployment import Assignment, BundleRef, SignedPayload, Study

T = TypeVar("T")


def handle(job: VerifyJob) -> VerifyResult:
    """Check everything.

    Raises:
        JobError: ``not_enrolled``, ``order`` (signature or form), ``not_for_me``, ``rollback``,
            ``release``, ``digest``, or a code of `SignedMetadata`.
    """
    order = _read_order(job)
    if isinstance(order, Assignment) and order.counter < job.lowest_counter:
        raise JobError(
            "rollback",
            f"the release's counter {order.counter} is below {job.lowest_counter}, which slot "
            f"'{order.slot}' has reached: an old release is revived only as a new one",
            permanent=True,
        )
    bundle = _bundle(order, job.rung)
    with gateway_client.gateway(job.connection) as stub:
        metadata = SignedMetadata(
            stub,
            folder=Path(job.metadata_dir),
            root=gateway_client.read_key_file(job.trusted_root),
            floor_unix=job.now_unix,
        )
        listed = metadata.target(bundle.target)
        _check_listed(bundle, listed)
        if job.rebuilt:
            stage.check_contents(job.archive_path, bundle.variant)
        else:
            _check_file(listed, job.archive_path)
        if isinstance(order, Assignment):
            _check_release(order, metadata.small_target(order.release_target), job.rung)
        signed_at = metadata.signed_at_unix()
    return VerifyResult(
        variant=bundle.variant,
        counter=order.counter if isinstance(order, Assignment) else 0,
        timestamp_unix=max(signed_at, job.now_unix or 0.0),
    )


def _read_order(job: VerifyJob) -> Assignment | Study:
    _check_signature(job.order, _director_key(job.director_key))
    order = _decode_order(job.order.payload, job.kind)
    if order.device != job.device:
        raise JobError(
            "not_for_me",
            f"the order is for '{order.device}', this device is '{job.device}'",
            permanent=True,
        )
    bundle = _bundle(order, job.rung)
    if bundle.target != f"bundles/{_hex(bundle.variant)}.tar.xz":
        raise JobError("order", "the order's target is not its variant's", permanent=True)
    return order


def _bundle(order: Assignment | Study, rung: int) -> BundleRef:
    """What the file should be: the order's own bundle, or one of its ladder."""
    if not rung:
        return order.bundle
    ladder = order.ladder if isinstance(order, Assignment) else ()
    if not 1 <= rung <= len(ladder):
        raise JobError("order", f"the order's ladder has no rung {rung}", permanent=True)
    return ladder[rung - 1].bundle


def _director_key(path: str) -> Ed25519PublicKey:
    text = gateway_client.read_key_file(path)
    try:
        return Ed25519PublicKey.from_public_bytes(bytes.fromhex(text.decode("ascii").strip()))
    except ValueError as error:
        raise JobError(
            "not_enrolled",
            f"{path} holds no director key (64 hex digits): enrol this device again",
            permanent=True,
        ) from error


def _check_signature(order: SignedPayload, key: Ed25519PublicKey) -> None:
    if order.key_id != digests.digest_bytes(key.public_bytes_raw()):
        raise JobError(
            "order",
            "the order is signed by another director than the one this device was enrolled with",
            permanent=True,
        )
    try:
        key.verify(order.signature, order.payload)
    except InvalidSignature as error:
        raise JobError("order", "the order's signature does not hold", permanent=True) from error


def _decode_order(payload: bytes, kind: str) -> Assignment | Study:
    if kind == "assignment":
        return _decode(Assignment, payload, "order")
    if kind == "study":
        return _decode(Study, payload, "order")
    raise JobError(
        "order", f"unknown kind of order: {kind!r} (assignment or study)", permanent=True
    )


def _decode(kind: type[T], data: bytes, code: str) -> T:
    try:
        return plain.from_plain(kind, json.loads(data))
    except ValueError as error:
        raise JobError(code, f"not a {kind.__name__}: {error}", permanent=True) from error


def _check_listed(bundle: BundleRef, listed: TargetFile) -> None:
    signed = "sha256:" + listed.hashes.get("sha256", "")
    if (signed, listed.length) != (bundle.archive, bundle.archive_bytes):
        raise JobError(
            "digest",
            f"the order names archive {digests.short(bundle.archive)}, signed for this variant "
            f"is {digests.short(signed)}",
            permanent=True,
        )


def _check_file(listed: TargetFile, archive_path: str) -> None:
    try:
        with Path(archive_path).open("rb") as file:
            listed.verify_length_and_hashes(file)
    except LengthOrHashMismatchError as error:
        raise JobError(
            "digest", f"{archive_path} is not the signed file: {error}; it must be fetched again"
        ) from error
    except OSError as error:
        raise JobError("archive", f"cannot read {archive_path}: {error.strerror}") from error


def _check_release(order: Assignment, data: bytes, rung: int) -> None:
    release = _decode(ReleaseManifest, data, "release")
    problem = _release_problem(order, release, rung)
    if problem:
        raise JobError(
            "release",
            f"release '{release.release}' was approved, but not for this order: {problem}",
            permanent=True,
        )


def _release_problem(order: Assignment, release: ReleaseManifest, rung: int) -> str:
    if release.release != order.release:
        return f"the order says '{order.release}'"
    if release.slot != order.slot:
        return f"it is for slot '{release.slot}', the order for '{order.slot}'"
    if release.counter != order.counter:
        return f"its counter is {release.counter}, the order's {order.counter}"
    if order.bundle.variant not in release.variants.values():
        return f"it does not name variant {digests.short(order.bundle.variant)}"
    variant = _bundle(order, rung).variant
    if rung and not any(variant in ladder for ladder in release.ladders.values()):
        return f"none of its ladders names variant {digests.short(variant)}"
    return ""


def _hex(digest: str) -> str:
    try:
        return digests.hex_of(digest)
    except ValueError as error:
        raise JobError("order", str(error), permanent=True) from error


if __name__ == "__main__":
    sys.exit(child.run("verify", handle))
