"""Certificates: who gets one, what strict TLS stacks say, and that revoking lasts."""

from __future__ import annotations

import datetime as dt
import socket
import ssl
import stat
import threading
from pathlib import Path

import pytest
from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec, rsa
from cryptography.x509.oid import NameOID

from controller.errors import TrustError
from controller.trust.ca import CertificateAuthority
from fitment.core import digest


def make_csr(key: ec.EllipticCurvePrivateKey | rsa.RSAPrivateKey, name: str = "wish") -> bytes:
    subject = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, name)])
    request = x509.CertificateSigningRequestBuilder().subject_name(subject)
    return request.sign(key, hashes.SHA256()).public_bytes(serialization.Encoding.PEM)


def new_key() -> ec.EllipticCurvePrivateKey:
    return ec.generate_private_key(ec.SECP256R1())


@pytest.fixture
def ca(tmp_path: Path) -> CertificateAuthority:
    return CertificateAuthority.create(tmp_path / "ca", "Test CA")


def test_a_device_gets_the_name_that_the_controller_gives(ca: CertificateAuthority) -> None:
    key = new_key()
    issued = ca.issue_device(make_csr(key, "ctl.1"), "cam-1", 30)
    certificate = x509.load_pem_x509_certificate(issued.pem)
    assert ca.read_device(issued.pem) == ("cam-1", issued.serial)
    assert certificate.public_key() == key.public_key()
    left = certificate.not_valid_after_utc - dt.datetime.now(tz=dt.timezone.utc)
    assert dt.timedelta(days=29) < left <= dt.timedelta(days=30)
    assert issued.expires_unix == certificate.not_valid_after_utc.timestamp()


@pytest.mark.parametrize("name", ["ctl.1", "", "a/b", "a+b", "x" * 65, "a#", "a b"])
def test_no_device_gets_a_name_that_means_something(ca: CertificateAuthority, name: str) -> None:
    with pytest.raises(TrustError, match="not a device name"):
        ca.issue_device(make_csr(new_key()), name, 30)


@pytest.mark.parametrize("name", ["ctl", "ctl.x", "cam-1", "ctl.1/x"])
def test_controllers_have_their_own_names(ca: CertificateAuthority, name: str) -> None:
    with pytest.raises(TrustError, match="not a controller's name"):
        ca.issue_controller(name)


def test_a_request_must_be_signed_by_its_own_key(ca: CertificateAuthority) -> None:
    request = x509.load_pem_x509_csr(make_csr(new_key()))
    der = bytearray(request.public_bytes(serialization.Encoding.DER))
    der[-1] ^= 1  # in the signature
    body = x509.load_der_x509_csr(bytes(der)).public_bytes(serialization.Encoding.PEM)
    with pytest.raises(TrustError, match="not signed by its own key"):
        ca.issue_device(body, "cam-1", 30)


@pytest.mark.parametrize(
    ("request_pem", "message"),
    [
        (b"", "no PEM"),
        (b"x" * 20_000, "too long"),
        (make_csr(rsa.generate_private_key(65537, 2048)), "P-256"),
        (make_csr(ec.generate_private_key(ec.SECP384R1())), "P-256"),
    ],
)
def test_bad_requests_are_refused(
    ca: CertificateAuthority, request_pem: bytes, message: str
) -> None:
    with pytest.raises(TrustError, match=message):
        ca.issue_device(request_pem, "cam-1", 30)


def test_the_fingerprint_is_the_digest_of_the_der(ca: CertificateAuthority) -> None:
    der = ssl.PEM_cert_to_DER_cert(ca.certificate_pem.decode())
    assert ca.fingerprint() == digest.digest_bytes(der)


def test_it_is_private_and_never_replaced(tmp_path: Path, ca: CertificateAuthority) -> None:
    folder = tmp_path / "ca"
    assert stat.S_IMODE(folder.stat().st_mode) == 0o700
    assert {stat.S_IMODE(path.stat().st_mode) for path in folder.iterdir()} == {0o600}
    with pytest.raises(TrustError, match="not replaced"):
        CertificateAuthority.create(folder, "Another")
    assert CertificateAuthority.open(folder).fingerprint() == ca.fingerprint()


def test_what_is_missing_or_damaged_is_said(tmp_path: Path, ca: CertificateAuthority) -> None:
    assert ca.fingerprint()
    (tmp_path / "ca" / "ca.key").write_bytes(b"rubbish")
    with pytest.raises(TrustError, match="damaged"):
        CertificateAuthority.open(tmp_path / "ca")
    with pytest.raises(TrustError, match="backup"):
        CertificateAuthority.open(tmp_path / "nowhere")


def test_revoking_lasts_and_is_in_the_list(tmp_path: Path, ca: CertificateAuthority) -> None:
    issued = ca.issue_device(make_csr(new_key()), "cam-1", 30)
    assert not ca.is_revoked(issued.serial)
    ca.revoke(issued.serial, at=1_700_000_000)
    ca.revoke(int(issued.serial), at=1_800_000_000)  # again: the first moment stays
    for authority in (ca, CertificateAuthority.open(tmp_path / "ca")):
        assert authority.is_revoked(issued.serial)
        with pytest.raises(TrustError, match="revoked"):
            authority.read_device(issued.pem)
    crl = x509.load_pem_x509_crl(ca.crl_pem())
    entry = crl.get_revoked_certificate_by_serial_number(int(issued.serial))
    assert entry is not None
    assert entry.revocation_date_utc.timestamp() == 1_700_000_000
    authority_certificate = x509.load_pem_x509_certificate(ca.certificate_pem)
    assert crl.is_signature_valid(authority_certificate.public_key())  # type: ignore[arg-type]


def test_a_foreign_certificate_is_not_ours(tmp_path: Path, ca: CertificateAuthority) -> None:
    other = CertificateAuthority.create(tmp_path / "other", "Test CA")  # the same name
    foreign = other.issue_device(make_csr(new_key()), "cam-1", 30)
    with pytest.raises(TrustError, match="not issued by this controller"):
        ca.read_device(foreign.pem)


def test_an_expired_device_proves_its_key(ca: CertificateAuthority) -> None:
    key, thief = new_key(), new_key()
    expired = ca.issue_device(make_csr(key), "cam-1", -0.5)
    csr = make_csr(key)
    proof = key.sign(csr, ec.ECDSA(hashes.SHA256()))
    arguments = {"certificate_pem": expired.pem, "csr_pem": csr, "proof": proof}
    assert ca.check_proof(**arguments) == "cam-1"
    for wrong in (b"", thief.sign(csr, ec.ECDSA(hashes.SHA256()))):
        with pytest.raises(TrustError, match="proof"):
            ca.check_proof(**{**arguments, "proof": wrong})
    with pytest.raises(TrustError, match="proof"):  # the proof is for another request
        ca.check_proof(**{**arguments, "csr_pem": make_csr(thief)})
    ca.revoke(expired.serial, at=0)
    with pytest.raises(TrustError, match="revoked"):
        ca.check_proof(**arguments)


def test_strict_tls_accepts_both_sides(tmp_path: Path, ca: CertificateAuthority) -> None:
    """Python 3.13 checks with VERIFY_X509_STRICT by default; so does this test."""
    server_key, server_chain = ca.issue_server(["controller.example"])
    client_key, client_certificate = ca.issue_controller("ctl.1")
    for name, data in {
        "s.key": server_key,
        "s.crt": server_chain,
        "c.key": client_key,
        "c.crt": client_certificate,
        "ca.crt": ca.certificate_pem,
    }.items():
        (tmp_path / name).write_bytes(data)
    server = ssl.create_default_context(ssl.Purpose.CLIENT_AUTH, cafile=str(tmp_path / "ca.crt"))
    server.load_cert_chain(tmp_path / "s.crt", tmp_path / "s.key")
    server.verify_mode = ssl.CERT_REQUIRED
    client = ssl.create_default_context(cafile=str(tmp_path / "ca.crt"))
    client.load_cert_chain(tmp_path / "c.crt", tmp_path / "c.key")
    for context in (server, client):
        context.verify_flags |= ssl.VERIFY_X509_STRICT
    for host in ("localhost", "127.0.0.1", "controller.example"):
        assert _handshake(server, client, host) == "ctl.1"
    with pytest.raises(ssl.SSLCertVerificationError):
        _handshake(server, client, "elsewhere.example")


def _handshake(server: ssl.SSLContext, client: ssl.SSLContext, host: str) -> str:
    """Common name that the server saw."""
    ours, theirs = socket.socketpair()
    seen: list[str] = []

    def serve() -> None:
        try:
            with server.wrap_socket(theirs, server_side=True) as connection:
                connection.recv(1)
                subject = connection.getpeercert()["subject"]  # type: ignore[index]
                seen.append(dict(pair[0] for pair in subject)["commonName"])  # type: ignore[misc]
        except OSError:
            theirs.close()

    thread = threading.Thread(target=serve)
    thread.start()
    try:
        with client.wrap_socket(ours, server_hostname=host) as connection:
            connection.send(b"x")
    finally:
        ours.close()
        thread.join(5)
    return seen[0]


def test_a_controller_of_1970_is_still_accepted(ca: CertificateAuthority) -> None:
    """Devices whose clock fell back must be able to talk to it; devices' own are recent."""
    _key, chain = ca.issue_server([])
    for certificate in x509.load_pem_x509_certificates(chain):
        assert certificate.not_valid_before_utc.timestamp() == 0
    issued = ca.issue_device(make_csr(new_key()), "cam-1", 30)
    device = x509.load_pem_x509_certificate(issued.pem)
    assert device.not_valid_before_utc.timestamp() > 1_600_000_000
