"""Orders that must not be carried out, each wrong in one thing."""

from __future__ import annotations

import json
import time
from dataclasses import replace
from typing import Final

from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey

from controller.conformance.case import QUIET_S, Case
from controller.conformance.spec import Check, NotRun, hold
from controller.trust.director import Director
from controller.trust.repository import MetadataRepository
from fitment.core.deployment import SignedPayload, SlotReport

_LONG_AGO_S: Final = 200 * 86400.0
"""Before now: every role but the root, which lives a year, has expired since."""


def _before(case: Case) -> SlotReport:
    """What the slot holds; something, so that "unchanged" says more than "nothing came"."""
    case.ready()
    if not case.slot().variant:
        order = case.order(case.bundle())
        case.wish(case.sign(order))
        if not case.records.wait(lambda: case.slot().variant, case.within_s):
            raise NotRun("no right order was committed before, so a wrong one shows nothing")
    return case.slot()


def _signature(case: Case) -> str:
    before = _before(case)
    order = case.order(case.bundle())
    signed = case.sign(order)
    case.wish(replace(signed, signature=_flipped(signed.signature)))
    return case.refused(order, before)


def _payload(case: Case) -> str:
    """The director's signature, over other bytes than those that are sent."""
    before = _before(case)
    order = case.order(case.bundle())
    signed = case.sign(order)
    changed = signed.payload.replace(b'"trial_s":0.1', b'"trial_s":0.2')
    assert changed != signed.payload
    case.wish(SignedPayload(payload=changed, key_id=signed.key_id, signature=signed.signature))
    return case.refused(order, before)


def _director(case: Case) -> str:
    before = _before(case)
    order = case.order(case.bundle())
    case.wish(Director(Ed25519PrivateKey.generate()).sign(order))
    return case.refused(order, before)


def _posing(case: Case) -> str:
    """Another key under the director's name."""
    before = _before(case)
    order = case.order(case.bundle())
    signed = Director(Ed25519PrivateKey.generate()).sign(order)
    case.wish(replace(signed, key_id=case.trust.director.key_id))
    return case.refused(order, before)


def _device(case: Case) -> str:
    before = _before(case)
    order = case.order(case.bundle(), device="somebody-else")
    case.wish(case.sign(order))
    return case.refused(order, before)


def _counter(case: Case) -> str:
    before = _before(case)
    order = case.order(case.bundle(), counter=before.counter - 1)
    case.wish(case.sign(order))
    return case.refused(order, before)


def _replay(case: Case) -> str:
    """An order that was right once, signature and all, under a new deployment's id or its own."""
    before = _before(case)
    older = case.order(case.bundle())
    case.wish(case.sign(older))
    case.committed(older)
    newer = case.order(case.bundle())
    case.wish(case.sign(newer))
    before = case.committed(newer)
    fetched = len(case.fetches(older.bundle))
    case.wish(case.sign(older))
    went = case.records.wait(lambda: len(case.fetches(older.bundle)) > fetched, QUIET_S)
    hold(case.slot().variant == before.variant, "the slot holds the old variant again")
    hold(not went, "it fetched the old variant again")
    return "an old order, replayed, did nothing"


def _release(case: Case) -> str:
    before = _before(case)
    other = case.bundle()
    order = case.order(case.bundle(), released=other.variant)
    case.wish(case.sign(order))
    return case.refused(order, before)


def _unlisted(case: Case) -> str:
    before = _before(case)
    order = case.order(case.bundle(listed=False))
    case.wish(case.sign(order))
    asked = len(case.records.asked("FetchMetadata"))
    return case.kept_out(order, before, lambda: len(case.records.asked("FetchMetadata")) > asked)


def _expired(case: Case) -> str:
    """Metadata with newer versions, signed by the right keys, whose time is over."""
    before = _before(case)
    ref = case.bundle(listed=False)
    order = case.order(ref)
    trust, folder = case.trust, case.folder / "trust" / "metadata"
    stale = MetadataRepository(
        folder, case.folder / "offline", clock=lambda: time.time() - _LONG_AGO_S
    )
    stale.add_bundles([(ref.target, case.servers.blobs.path(ref.archive))])
    asked = len(case.records.asked("FetchMetadata"))
    case.wish(case.sign(order))
    try:
        return case.kept_out(
            order, before, lambda: len(case.records.asked("FetchMetadata")) > asked
        )
    finally:
        trust.repository = MetadataRepository(folder, case.folder / "offline")
        trust.repository.refresh()


def _versions(case: Case) -> str:
    """What it says that it has trusted, beside what lies here for it to trust."""
    _before(case)
    known = _published(case)
    order = case.order(case.bundle())
    least = _published(case)
    case.wish(case.sign(order))
    case.committed(order)

    def said() -> bool:
        told = case.records.reports()[-1].metadata_versions
        return all(told.get(role, 0) >= version for role, version in least.items())

    case.records.wait(said, case.within_s)
    told, most = case.records.reports()[-1].metadata_versions, _published(case)
    assert all(least[role] >= known[role] for role in known)
    for role in least:
        hold(role in told, f"its report names no version of {role}")
        right = least[role] <= told[role] <= most[role]
        hold(
            right,
            f"it says version {told[role]} of {role}, there are {least[role]} to {most[role]}",
        )
    return ", ".join(f"{role} {told[role]}" for role in least)


def _published(case: Case) -> dict[str, int]:
    """Versions of timestamp and snapshot that lie here."""
    data = case.trust.repository.read("timestamp.json")
    assert data is not None
    signed = json.loads(data)["signed"]
    return {
        "timestamp": int(signed["version"]),
        "snapshot": int(signed["meta"]["snapshot.json"]["version"]),
    }


def _digest(case: Case) -> str:
    before = _before(case)
    case.servers.faults.flip = True
    order = case.order(case.bundle())
    case.wish(case.sign(order))
    said = case.kept_out(order, before, lambda: case.fetches(order.bundle))
    return f"a file with one bit changed, sent {len(case.fetches(order.bundle))} times: {said}"


def _goldens(case: Case) -> str:
    before = _before(case)
    order = case.order(case.bundle(wrong=True))
    case.wish(case.sign(order))
    said = case.refused(order, before)
    hold(case.slot().serving, "what ran before no longer serves")
    return said


def _study(case: Case) -> str:
    case.ready()
    study = case.study(case.bundle())
    signed = case.sign(study)
    case.wish(studies=(replace(signed, signature=_flipped(signed.signature)),))
    right = case.study(case.bundle())
    case.records.wait(
        lambda: study.id in case.records.reports()[-1].studies_done, min(case.within_s, 15.0)
    )
    case.wish(studies=(case.sign(right),))
    answered = case.records.wait(
        lambda: case.records.asked("SubmitMeasurement", right.id), case.within_s
    )
    hold(answered, "it answered neither the forged study nor the right one after it")
    hold(not case.records.asked("SubmitMeasurement", study.id), "it answered a forged study")
    return "the forged one was not answered, the right one after it was"


def _flipped(signature: bytes) -> bytes:
    return bytes((signature[0] ^ 1,)) + signature[1:]


CHECKS: Final = (
    Check(
        id="verify-signature",
        says="An order whose signature does not hold is not carried out.",
        run=_signature,
    ),
    Check(
        id="verify-payload",
        says="An order that was changed after it was signed is not carried out.",
        run=_payload,
    ),
    Check(
        id="verify-director",
        says="An order of another director than the enrolment's is not carried out.",
        run=_director,
    ),
    Check(
        id="verify-key",
        says="An order signed by another key under the director's id is not carried out.",
        run=_posing,
    ),
    Check(
        id="verify-device",
        says="An order for another device is not carried out.",
        run=_device,
    ),
    Check(
        id="verify-counter",
        says="A release whose counter is below the slot's is not carried out.",
        run=_counter,
    ),
    Check(
        id="verify-replay",
        says="An order that was carried out is not carried out again when it is replayed.",
        run=_replay,
    ),
    Check(
        id="verify-release",
        says="A variant that the signed release does not name is not carried out.",
        run=_release,
    ),
    Check(
        id="verify-listed",
        says="A bundle that the signed metadata does not list is not unpacked.",
        run=_unlisted,
    ),
    Check(
        id="verify-expired",
        says="Signed metadata whose time is over is not believed.",
        run=_expired,
    ),
    Check(
        id="verify-versions",
        says="A report names the versions of the signed metadata that were trusted.",
        run=_versions,
    ),
    Check(
        id="verify-digest",
        says="A transport file that is not the signed one is not unpacked.",
        run=_digest,
    ),
    Check(
        id="verify-goldens",
        says="A variant that answers its golden inputs wrongly is not committed, and what ran"
        " before goes on.",
        run=_goldens,
    ),
    Check(
        id="verify-study",
        says="A study whose signature does not hold is not answered.",
        run=_study,
    ),
)
