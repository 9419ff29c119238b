"""The keys folder: the device's key, what certifies it, and whom it trusts.

Files: ``device.key device.crt ca.crt tuf_root.json director.pub enrolment.json``, mode 0600 in
a folder of mode 0700, each replaced whole and durably. ``enrolment.json`` is written last: where
it is, the enrolment is complete.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from cryptography import x509
from cryptography.exceptions import InvalidSignature
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.x509.oid import NameOID

from agent import durable
from agent.workers.child import JobError

KEY, CERTIFICATE, CA = "device.key", "device.crt", "ca.crt"
ROOT, DIRECTOR, ENROLMENT = "tuf_root.json", "director.pub", "enrolment.json"


@dataclass(frozen=True, slots=True, kw_only=True)
class Issued:
    """A certificate that was checked."""

    name: str
    expires_unix: float


def ensure_folder(folder: Path) -> None:
    """Make the keys folder, readable by its owner only."""
    durable.make_folder(folder, mode=0o700)
    folder.chmod(0o700)


def ensure_key(folder: Path) -> ec.EllipticCurvePrivateKey:
    """The device's P-256 key; it is made on first use and never leaves the device."""
    path = folder / KEY
    if not path.exists():
        key = ec.generate_private_key(ec.SECP256R1())
        write_private(
            path,
            key.private_bytes(
                serialization.Encoding.PEM,
                serialization.PrivateFormat.PKCS8,
                serialization.NoEncryption(),
            ),
        )
    return load_key(folder)


def load_key(folder: Path) -> ec.EllipticCurvePrivateKey:
    """The device's key.

    Raises:
        JobError: it is missing or damaged; only a new enrolment helps.
    """
    path = folder / KEY
    try:
        key = serialization.load_pem_private_key(path.read_bytes(), password=None)
    except (OSError, ValueError, TypeError) as error:
        raise JobError(
            "key",
            f"the device's key {path} cannot be read ({error}); delete the keys folder and enrol "
            "this device again with a new token",
            permanent=True,
        ) from error
    if not isinstance(key, ec.EllipticCurvePrivateKey):
        raise JobError("key", f"{path} holds no elliptic-curve key; enrol again", permanent=True)
    return key


def make_csr(key: ec.EllipticCurvePrivateKey, name: str) -> bytes:
    """A certificate request (PEM). The controller decides the name; this is only the wish."""
    subject = [x509.NameAttribute(NameOID.COMMON_NAME, name)] if name else []
    request = x509.CertificateSigningRequestBuilder().subject_name(x509.Name(subject))
    return request.sign(key, hashes.SHA256()).public_bytes(serialization.Encoding.PEM)


def prove(key: ec.EllipticCurvePrivateKey, csr_pem: bytes) -> bytes:
    """Proof of holding ``key``: an ECDSA signature with SHA-256 over the request's bytes."""
    return key.sign(csr_pem, ec.ECDSA(hashes.SHA256()))


def load_certificate(folder: Path) -> x509.Certificate:
    """The device's current certificate; it may have expired.

    Raises:
        JobError: it is missing or damaged.
    """
    path = folder / CERTIFICATE
    try:
        return x509.load_pem_x509_certificate(path.read_bytes())
    except (OSError, ValueError) as error:
        raise JobError(
            "not_enrolled",
            f"the certificate {path} cannot be read ({error}): enrol this device first",
            permanent=True,
        ) from error


def check_issued(certificate_pem: bytes, ca_pem: bytes, key: ec.EllipticCurvePrivateKey) -> Issued:
    """Check an answer before anything is written: it is for our key, and its CA signed it.

    Raises:
        JobError: code ``answer``; nothing that the controller sent is kept.
    """
    try:
        certificate = x509.load_pem_x509_certificate(certificate_pem)
        authorities = x509.load_pem_x509_certificates(ca_pem)
    except ValueError as error:
        raise JobError("answer", f"the controller sent no certificate: {error}") from error
    if certificate.public_key() != key.public_key():
        raise JobError("answer", "the controller certified another key than this device's")
    if not any(_issued_by(certificate, authority) for authority in authorities):
        raise JobError("answer", "the controller's certificate authority did not sign the answer")
    names = certificate.subject.get_attributes_for_oid(NameOID.COMMON_NAME)
    return Issued(
        name=str(names[0].value) if names else "",
        expires_unix=certificate.not_valid_after_utc.timestamp(),
    )


def write_private(path: Path, data: bytes) -> None:
    """Replace ``path`` whole and durably, mode 0600 from the first byte on."""
    durable.write(path, data, permissions=0o600)


def _issued_by(certificate: x509.Certificate, authority: x509.Certificate) -> bool:
    try:
        certificate.verify_directly_issued_by(authority)
    except (ValueError, TypeError, InvalidSignature):
        return False
    return True
