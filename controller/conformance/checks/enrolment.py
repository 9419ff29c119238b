"""First contact: a token, a key that the device makes, a certificate."""

from __future__ import annotations

from typing import Final

from cryptography import x509
from cryptography.hazmat.primitives import serialization

from controller.conformance.case import DEVICE, Case
from controller.conformance.spec import Check, NotRun, hold
from controller.conformance.subject import Subject
from controller.trust.tokens import make_token
from fitment.core import digest

_OTHER_AUTHORITY: Final = digest.digest_bytes(b"another controller's authority")


def _other_authority(case: Case) -> str:
    before = len(case.servers.requests)
    code = _stranger(case, "other", make_token(_OTHER_AUTHORITY).text)
    asked = len(case.servers.requests) - before
    hold(not asked, "it sent its token to a controller whose authority is not the token's")
    hold(code != 0, "it says that it enrolled (exit status 0)")
    return f"exit status {code}, and the token was not sent"


def _unknown_token(case: Case) -> str:
    code = _stranger(case, "unknown", make_token(case.trust.ca.fingerprint()).text)
    hold(code != 0, "the controller refused the token, and it says that it enrolled")
    return f"exit status {code}"


def _stranger(case: Case, name: str, token: str) -> int:
    setup = case.setup
    agent = Subject(setup.commands, setup.folder / f"agent-{name}", within_s=case.within_s)
    return agent.enroll(controller=case.servers.enroll_address, token=token, device=DEVICE)


def _token(case: Case) -> str:
    code = case.enroll()
    asked = [r for r in case.servers.requests if r.device == DEVICE and not case.servers.tokens]
    hold(code == 0, f"exit status {code}: {case.subject.last_words()}")
    hold(asked, "exit status 0, and nobody was admitted")
    return "admitted once, exit status 0"


def _own_key(case: Case) -> str:
    if case.enroll() != 0 or not case.servers.requests:
        raise NotRun("it could not be enrolled")
    pem = case.servers.requests[-1].csr_pem
    hold(b"PRIVATE KEY" not in pem, "a private key left the device")
    request = x509.load_pem_x509_csr(pem)
    hold(request.is_signature_valid, "the request is not signed by its key")
    key = request.public_key().public_bytes(
        serialization.Encoding.DER, serialization.PublicFormat.SubjectPublicKeyInfo
    )
    return f"a request signed by the key {digest.short(digest.digest_bytes(key))}"


CHECKS: Final = (
    Check(
        id="enrol-authority",
        says="An agent sends its token to nobody whose certificate authority is not the token's.",
        run=_other_authority,
    ),
    Check(
        id="enrol-refused",
        says="A refused enrolment ends with an exit status other than 0.",
        run=_unknown_token,
    ),
    Check(
        id="enrol-token",
        says="A one-time token and a certificate request admit a device.",
        run=_token,
    ),
    Check(
        id="enrol-key",
        says="The device makes its key itself, and only a request signed by it leaves.",
        run=_own_key,
    ),
)
