"""The keys folder, and what is read out of tokens and errors."""

from __future__ import annotations

import stat
from pathlib import Path

import grpc
import pytest
from cryptography import x509
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.asymmetric import ec

from agent.workers import first_contact, gateway_client, keys
from agent.workers.child import JobError
from controller.trust.ca import CertificateAuthority
from controller.trust.tokens import make_token


def test_the_key_is_made_once_and_private(tmp_path: Path) -> None:
    folder = tmp_path / "keys"
    keys.ensure_folder(folder)
    first, second = keys.ensure_key(folder), keys.ensure_key(folder)
    assert first.private_numbers() == second.private_numbers()
    assert stat.S_IMODE(folder.stat().st_mode) == 0o700
    assert stat.S_IMODE((folder / "device.key").stat().st_mode) == 0o600
    assert [path.name for path in folder.iterdir()] == ["device.key"]


def test_a_damaged_key_is_said(tmp_path: Path) -> None:
    (tmp_path / "device.key").write_bytes(b"")
    with pytest.raises(JobError, match="enrol") as caught:
        keys.ensure_key(tmp_path)
    assert caught.value.permanent


@pytest.mark.parametrize("name", ["", "cam-1"])
def test_requests_and_proofs_hold(tmp_path: Path, name: str) -> None:
    key = keys.ensure_key(tmp_path)
    csr = keys.make_csr(key, name)
    assert x509.load_pem_x509_csr(csr).is_signature_valid
    key.public_key().verify(keys.prove(key, csr), csr, ec.ECDSA(hashes.SHA256()))


def test_answers_are_checked_before_they_are_kept(tmp_path: Path) -> None:
    ca = CertificateAuthority.create(tmp_path / "ca", "CA")
    other = CertificateAuthority.create(tmp_path / "other", "CA")
    key = keys.ensure_key(tmp_path)
    issued = ca.issue_device(keys.make_csr(key, ""), "cam-1", 30)
    checked = keys.check_issued(issued.pem, ca.certificate_pem, key)
    assert (checked.name, checked.expires_unix) == ("cam-1", issued.expires_unix)
    with pytest.raises(JobError, match="did not sign"):
        keys.check_issued(issued.pem, other.certificate_pem, key)
    with pytest.raises(JobError, match="another key"):
        keys.check_issued(issued.pem, ca.certificate_pem, ec.generate_private_key(ec.SECP256R1()))
    with pytest.raises(JobError, match="no certificate"):
        keys.check_issued(b"", ca.certificate_pem, key)


def test_the_controllers_tokens_are_understood(tmp_path: Path) -> None:
    ca = CertificateAuthority.create(tmp_path / "ca", "CA")
    text = make_token(ca.fingerprint()).text
    token = first_contact.read_token(f"  {text}\n")
    assert (token.text, token.fingerprint) == (text, ca.fingerprint())
    first_contact.check_ca(ca.certificate_pem, token.fingerprint, "ca.crt")


@pytest.mark.parametrize("text", ["", "fit1.abc.def", "Bearer x"])
def test_what_is_no_token_is_said(text: str) -> None:
    with pytest.raises(JobError, match="no enrolment token") as caught:
        first_contact.read_token(text)
    assert caught.value.permanent


@pytest.mark.parametrize("address", ["", "host", "host:", ":9443", "host:port"])
def test_addresses_have_a_port(address: str) -> None:
    with pytest.raises(JobError, match="host:port"):
        first_contact.find_ca(address, "sha256:" + "0" * 64)


class Refusal(grpc.RpcError):
    """An answer of a server."""

    def __init__(self, code: grpc.StatusCode, trailing: tuple[tuple[str, str], ...] = ()) -> None:
        super().__init__()
        self._code = code
        self._trailing = trailing

    def code(self) -> grpc.StatusCode:
        return self._code

    def details(self) -> str:
        return "the server's words"

    def trailing_metadata(self) -> tuple[tuple[str, str], ...]:
        return self._trailing


@pytest.mark.parametrize(
    ("status", "code", "permanent"),
    [
        (grpc.StatusCode.UNAVAILABLE, "unavailable", False),
        (grpc.StatusCode.DEADLINE_EXCEEDED, "unavailable", False),
        (grpc.StatusCode.NOT_FOUND, "not_found", True),
        (grpc.StatusCode.UNAUTHENTICATED, "refused", True),
        (grpc.StatusCode.PERMISSION_DENIED, "refused", True),
        (grpc.StatusCode.FAILED_PRECONDITION, "conflict", True),
        (grpc.StatusCode.INTERNAL, "server", False),
    ],
)
def test_every_answer_says_whether_trying_again_helps(
    status: grpc.StatusCode, code: str, permanent: bool
) -> None:
    error = gateway_client.job_error(Refusal(status), "asking")
    assert (error.code, error.permanent, error.retry_after_s) == (code, permanent, None)
    assert "asking: the server's words" in str(error)


@pytest.mark.parametrize(
    ("text", "expected"), [("2.5", 2.5), ("soon", 5.0), ("-1", 5.0), ("inf", 5.0), (None, 5.0)]
)
def test_a_busy_server_says_when(text: str | None, expected: float) -> None:
    trailing = (("retry-after", text),) if text is not None else ()
    refusal = Refusal(grpc.StatusCode.RESOURCE_EXHAUSTED, trailing)
    error = gateway_client.job_error(refusal, "asking")
    assert (error.code, error.permanent, error.retry_after_s) == ("busy", False, expected)


def test_a_device_without_keys_is_told_to_enrol(tmp_path: Path) -> None:
    with pytest.raises(JobError, match="fitment-agent enroll"):
        gateway_client.read_key_file(str(tmp_path / "device.key"))
