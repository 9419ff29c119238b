"""The certificate authority: who may talk to this controller, and who no longer may."""

from __future__ import annotations

import datetime as dt
import json
import re
import threading
from collections.abc import Sequence
from pathlib import Path

from cryptography import x509
from cryptography.exceptions import InvalidSignature
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec

from controller.errors import TrustError
from controller.trust import certificates, files
from controller.trust.certificates import Certificate, Issuer, Validity
from fitment.core import digest
from fitment.wire import topics

CA_DAYS = 3650  # devices pin it, so it outlives a product's usual life in the field
SERVER_DAYS = 397  # renewed at start when a month is left; no device needs to know
CONTROLLER_DAYS = 397
CRL_DAYS = 365  # a broker with an expired list refuses everybody, so the list outlives outages
BACKDATE = dt.timedelta(days=1)  # the controller's own clock may step back a little
LOCAL_HOSTS = ("localhost", "127.0.0.1", "::1")

_CONTROLLER = re.compile(r"ctl\.[0-9]{1,6}\Z")
_KEY, _CERTIFICATE, _REVOKED = "ca.key", "ca.crt", "revoked.json"


class CertificateAuthority:
    """An EC P-256 CA in a private folder. Safe to use from several threads."""

    def __init__(self, folder: Path, issuer: Issuer, revoked: dict[str, float]) -> None:
        self._folder = folder
        self._issuer = issuer
        self._revoked = revoked
        self._lock = threading.Lock()

    @classmethod
    def create(cls, folder: Path, name: str) -> CertificateAuthority:
        """Make a CA called ``name``.

        Raises:
            TrustError: there is one in ``folder``; replacing it would strand every device.
        """
        if (folder / _KEY).exists():
            raise TrustError(f"there is a certificate authority in {folder}; it is not replaced")
        files.make_private_folder(folder)
        key = certificates.new_key()
        validity = Validity(start=certificates.EPOCH, end=_in_days(CA_DAYS))
        certificate = certificates.build_ca(name, key, validity)
        files.write_private(folder / _CERTIFICATE, certificates.pem(certificate))
        files.write_private(folder / _REVOKED, b"{}")
        files.write_private(folder / _KEY, certificates.key_pem(key))  # last: it says "complete"
        return cls.open(folder)

    @classmethod
    def open(cls, folder: Path) -> CertificateAuthority:
        """Load the CA of ``folder``.

        Raises:
            TrustError: a file is missing or damaged.
        """
        what = "the certificate authority"
        key_data = files.read_required(folder / _KEY, what)
        certificate_data = files.read_required(folder / _CERTIFICATE, what)
        revoked_data = files.read_required(folder / _REVOKED, what)
        try:
            key = serialization.load_pem_private_key(key_data, password=None)
            certificate = x509.load_pem_x509_certificate(certificate_data)
            revoked = {str(k): float(v) for k, v in json.loads(revoked_data).items()}
        except (ValueError, TypeError, AttributeError) as error:
            raise TrustError(f"{what} in {folder} is damaged: {error}") from error
        if not isinstance(key, ec.EllipticCurvePrivateKey):
            raise TrustError(f"{what} in {folder} has a key of another kind than P-256")
        return cls(folder, Issuer(key=key, certificate=certificate), revoked)

    @property
    def certificate_pem(self) -> bytes:
        """The CA certificate, for trust stores."""
        return certificates.pem(self._issuer.certificate)

    def fingerprint(self) -> str:
        """Digest (``sha256:…``) of the CA certificate's DER, the third part of tokens."""
        der = self._issuer.certificate.public_bytes(serialization.Encoding.DER)
        return digest.digest_bytes(der)

    def issue_device(self, csr_pem: bytes, device_name: str, days: float) -> Certificate:
        """Certify the key of a request under the name that the controller gives.

        Raises:
            TrustError: the name is no device's, or the request does not hold.
        """
        if not topics.valid_device_name(device_name):
            raise TrustError(
                f"not a device name: {device_name!r} (use A-Z a-z 0-9 _ -, at most 64 characters)"
            )
        public_key = certificates.read_csr(csr_pem)
        validity = Validity(start=_now() - BACKDATE, end=_in_days(days))
        return self._issued(device_name, public_key, validity)

    def key_hash(self, csr_pem: bytes) -> str:
        """Digest (``sha256:…``) of the key that a request is for.

        Raises:
            TrustError: the request does not hold.
        """
        return certificates.key_hash(certificates.read_csr(csr_pem))

    def issue_server(self, hosts: Sequence[str]) -> tuple[bytes, bytes]:
        """Key and certificate chain (leaf, then CA) for gRPC and MQTT; PEM both.

        The names of this machine's loopback are always among the hosts.
        """
        key = certificates.new_key()
        leaf = certificates.build_leaf(
            self._issuer,
            "fitment-controller",
            public_key=key.public_key(),
            validity=Validity(start=certificates.EPOCH, end=_in_days(SERVER_DAYS)),
            purpose=certificates.SERVER,
            hosts=tuple(dict.fromkeys((*LOCAL_HOSTS, *hosts))),
        )
        return certificates.key_pem(key), certificates.pem(leaf) + self.certificate_pem

    def issue_controller(self, name: str) -> tuple[bytes, bytes]:
        """Key and client certificate (PEM) with which a controller goes to the broker.

        Raises:
            TrustError: the name is not like ``ctl.1``; the dot keeps devices from having it.
        """
        if not _CONTROLLER.match(name):
            raise TrustError(f"not a controller's name: {name!r} (expected 'ctl.1', 'ctl.2', …)")
        key = certificates.new_key()
        validity = Validity(start=certificates.EPOCH, end=_in_days(CONTROLLER_DAYS))
        return certificates.key_pem(key), self._issued(name, key.public_key(), validity).pem

    def read_device(self, certificate_pem: bytes) -> tuple[str, str]:
        """(device name, serial) of a certificate that this CA issued; it may have expired.

        Raises:
            TrustError: this CA did not issue it, it was revoked, or it is no device's.
        """
        certificate = self._read_own(certificate_pem)
        name, serial = certificates.common_name(certificate), str(certificate.serial_number)
        if self.is_revoked(serial):
            raise TrustError(f"the certificate of '{name}' was revoked; enrol it with a new token")
        if not topics.valid_device_name(name):
            raise TrustError(f"the certificate of '{name}' is no device's")
        return name, serial

    def check_proof(self, *, certificate_pem: bytes, csr_pem: bytes, proof: bytes) -> str:
        """Name of the device that proves to hold the key of its (expired) certificate.

        ``proof`` is an ECDSA signature with SHA-256 over the bytes of ``csr_pem``. It needs no
        nonce: who replays it gets a certificate for a key that he does not have.

        Raises:
            TrustError: the certificate is not ours or revoked, or the proof does not hold.
        """
        name, _serial = self.read_device(certificate_pem)
        key = certificates.p256(self._read_own(certificate_pem).public_key())
        try:
            key.verify(proof, csr_pem, ec.ECDSA(hashes.SHA256()))
        except InvalidSignature as error:
            raise TrustError(f"the proof of key for '{name}' does not hold") from error
        return name

    def revoke(self, serial: str | int, at: float) -> None:
        """Revoke a certificate for good; ``at`` is seconds since the epoch. Idempotent."""
        with self._lock:
            revoked = {**self._revoked}
            revoked.setdefault(_decimal(serial), at)
            files.write_private(self._folder / _REVOKED, json.dumps(revoked).encode())
            self._revoked = revoked

    def is_revoked(self, serial: str | int) -> bool:
        """Whether a serial (decimal text or number) was revoked."""
        return _decimal(serial) in self._revoked

    def crl_pem(self) -> bytes:
        """A fresh revocation list, signed, good for `CRL_DAYS`."""
        now = _now()
        builder = (
            x509.CertificateRevocationListBuilder()
            .issuer_name(self._issuer.certificate.subject)
            .last_update(now - BACKDATE)
            .next_update(_in_days(CRL_DAYS))
            # Milliseconds grow with every list, and survive a restored backup.
            .add_extension(x509.CRLNumber(int(now.timestamp() * 1000)), critical=False)
            .add_extension(
                x509.AuthorityKeyIdentifier.from_issuer_public_key(self._issuer.key.public_key()),
                critical=False,
            )
        )
        for serial, at in sorted(self._revoked.items()):
            builder = builder.add_revoked_certificate(_revoked_entry(serial, at))
        return builder.sign(self._issuer.key, hashes.SHA256()).public_bytes(
            serialization.Encoding.PEM
        )

    def _issued(
        self, name: str, public_key: ec.EllipticCurvePublicKey, validity: Validity
    ) -> Certificate:
        leaf = certificates.build_leaf(
            self._issuer,
            name,
            public_key=public_key,
            validity=validity,
            purpose=certificates.CLIENT,
        )
        return Certificate(
            pem=certificates.pem(leaf),
            serial=str(leaf.serial_number),
            expires_unix=leaf.not_valid_after_utc.timestamp(),
        )

    def _read_own(self, certificate_pem: bytes) -> x509.Certificate:
        try:
            certificate = x509.load_pem_x509_certificate(certificate_pem)
        except ValueError as error:
            raise TrustError("this is no PEM certificate") from error
        if not certificates.issued_by(certificate, self._issuer.certificate):
            raise TrustError("the certificate was not issued by this controller")
        return certificate


def _decimal(serial: str | int) -> str:
    try:
        return str(int(serial))
    except ValueError as error:
        raise TrustError(f"not a serial number: {serial!r} (expected decimal digits)") from error


def _revoked_entry(serial: str, at: float) -> x509.RevokedCertificate:
    moment = dt.datetime.fromtimestamp(at, tz=dt.timezone.utc)
    return (
        x509.RevokedCertificateBuilder().serial_number(int(serial)).revocation_date(moment).build()
    )


def _now() -> dt.datetime:
    return dt.datetime.now(tz=dt.timezone.utc)


def _in_days(days: float) -> dt.datetime:
    return _now() + dt.timedelta(days=days)
