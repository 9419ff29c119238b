"""Building and reading X.509 certificates; no files, no state.

Every certificate carries authority and subject key identifiers, and CAs the KeyUsage, that
``VERIFY_X509_STRICT`` (the default since Python 3.13) asks for.
"""

from __future__ import annotations

import base64
import datetime as dt
import ipaddress
from collections.abc import Sequence
from dataclasses import dataclass

from cryptography import x509
from cryptography.exceptions import InvalidSignature
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.x509.oid import (
    AuthorityInformationAccessOID,
    ExtendedKeyUsageOID,
    NameOID,
)

from controller.errors import TrustError
from fitment.core import digest

EPOCH = dt.datetime(1970, 1, 1, tzinfo=dt.timezone.utc)
"""Start of validity of our own certificates: a device whose clock fell back to 1970 must still
accept its controller. The end of validity is what limits a certificate."""

_MAX_CSR_BYTES = 16 * 1024

SERVER = ExtendedKeyUsageOID.SERVER_AUTH
CLIENT = ExtendedKeyUsageOID.CLIENT_AUTH


@dataclass(frozen=True, slots=True, kw_only=True)
class Certificate:
    """A certificate that was issued."""

    pem: bytes
    serial: str  # decimal
    expires_unix: float


@dataclass(frozen=True, slots=True, kw_only=True)
class Validity:
    """From when to when, UTC."""

    start: dt.datetime
    end: dt.datetime


@dataclass(frozen=True, slots=True, kw_only=True)
class Issuer:
    """A CA's key and certificate."""

    key: ec.EllipticCurvePrivateKey
    certificate: x509.Certificate


def new_key() -> ec.EllipticCurvePrivateKey:
    """A P-256 key: the one curve that every TLS stack and every secure element knows."""
    return ec.generate_private_key(ec.SECP256R1())


def key_pem(key: ec.EllipticCurvePrivateKey) -> bytes:
    """PKCS#8 PEM, not encrypted."""
    return key.private_bytes(
        serialization.Encoding.PEM,
        serialization.PrivateFormat.PKCS8,
        serialization.NoEncryption(),
    )


def pem(certificate: x509.Certificate) -> bytes:
    """PEM of one certificate."""
    return certificate.public_bytes(serialization.Encoding.PEM)


def common_name(certificate: x509.Certificate) -> str:
    """The subject's CN.

    Raises:
        TrustError: there is not exactly one.
    """
    names = certificate.subject.get_attributes_for_oid(NameOID.COMMON_NAME)
    if len(names) != 1:
        raise TrustError("the certificate has no single common name")
    return str(names[0].value)


def build_ca(name: str, key: ec.EllipticCurvePrivateKey, validity: Validity) -> x509.Certificate:
    """A self-signed CA certificate that may sign leaves and CRLs, and no further CA."""
    subject = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, name)])
    usage = _usage(sign=False, certificates=True)
    identifier = x509.SubjectKeyIdentifier.from_public_key(key.public_key())
    return (
        _builder(subject, subject, key.public_key(), validity)
        .add_extension(x509.BasicConstraints(ca=True, path_length=0), critical=True)
        .add_extension(usage, critical=True)
        .add_extension(identifier, critical=False)
        .add_extension(_authority(identifier), critical=False)
        .sign(key, hashes.SHA256())
    )


def build_leaf(
    issuer: Issuer,
    name: str,
    *,
    public_key: ec.EllipticCurvePublicKey,
    validity: Validity,
    purpose: x509.ObjectIdentifier,
    hosts: Sequence[str] = (),
) -> x509.Certificate:
    """A leaf certificate for one purpose; ``hosts`` become subject alternative names.

    A server's leaf also carries its CA, as an authority information access ``caIssuers`` entry
    with a ``data:`` URI (RFC 5280 §4.2.2.1, RFC 2397): the standard TLS client can read the
    leaf on first contact but not the chain, and a device knows the CA only by fingerprint.
    """
    subject = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, name)])
    identifier = x509.SubjectKeyIdentifier.from_public_key(issuer.key.public_key())
    builder = (
        _builder(subject, issuer.certificate.subject, public_key, validity)
        .add_extension(x509.BasicConstraints(ca=False, path_length=None), critical=True)
        .add_extension(_usage(sign=True, certificates=False), critical=True)
        .add_extension(x509.ExtendedKeyUsage([purpose]), critical=False)
        .add_extension(x509.SubjectKeyIdentifier.from_public_key(public_key), critical=False)
        .add_extension(_authority(identifier), critical=False)
    )
    if hosts:
        names = x509.SubjectAlternativeName([_general_name(host) for host in hosts])
        builder = builder.add_extension(names, critical=False)
        builder = builder.add_extension(_carried_ca(issuer.certificate), critical=False)
    return builder.sign(issuer.key, hashes.SHA256())


def read_csr(csr_pem: bytes) -> ec.EllipticCurvePublicKey:
    """The public key of a certificate request whose own signature holds.

    Nothing else of the request is used: names and extensions are the controller's to give.

    Raises:
        TrustError: it is no request, its signature is wrong, or its key is not P-256.
    """
    if len(csr_pem) > _MAX_CSR_BYTES:
        raise TrustError(f"the certificate request is too long (over {_MAX_CSR_BYTES} bytes)")
    try:
        request = x509.load_pem_x509_csr(csr_pem)
        signed = request.is_signature_valid
        key = request.public_key()
    except (ValueError, TypeError) as error:
        raise TrustError("the certificate request is no PEM PKCS#10 request") from error
    if not signed:
        raise TrustError("the certificate request is not signed by its own key")
    return p256(key)


def key_hash(key: ec.EllipticCurvePublicKey) -> str:
    """``sha256:…`` of a public key (SubjectPublicKeyInfo, DER)."""
    der = key.public_bytes(
        serialization.Encoding.DER, serialization.PublicFormat.SubjectPublicKeyInfo
    )
    return digest.digest_bytes(der)


def p256(key: object) -> ec.EllipticCurvePublicKey:
    """``key``, if it is a P-256 public key.

    Raises:
        TrustError: it is of another kind.
    """
    if isinstance(key, ec.EllipticCurvePublicKey) and isinstance(key.curve, ec.SECP256R1):
        return key
    raise TrustError("the key must be an elliptic-curve key on P-256 (secp256r1)")


def issued_by(certificate: x509.Certificate, issuer: x509.Certificate) -> bool:
    """Whether ``issuer`` signed ``certificate`` (validity in time is not looked at)."""
    try:
        certificate.verify_directly_issued_by(issuer)
    except (ValueError, TypeError, InvalidSignature):
        return False
    return True


def hosts_of(certificate: x509.Certificate) -> tuple[str, ...]:
    """DNS names and addresses that a server certificate is good for."""
    try:
        extension = certificate.extensions.get_extension_for_class(x509.SubjectAlternativeName)
    except x509.ExtensionNotFound:
        return ()
    names = extension.value
    addresses = (str(a) for a in names.get_values_for_type(x509.IPAddress))
    return (*names.get_values_for_type(x509.DNSName), *addresses)


def _builder(
    subject: x509.Name,
    issuer: x509.Name,
    public_key: ec.EllipticCurvePublicKey,
    validity: Validity,
) -> x509.CertificateBuilder:
    return (
        x509.CertificateBuilder()
        .subject_name(subject)
        .issuer_name(issuer)
        .public_key(public_key)
        .serial_number(x509.random_serial_number())
        .not_valid_before(validity.start)
        .not_valid_after(validity.end)
    )


def _usage(*, sign: bool, certificates: bool) -> x509.KeyUsage:
    return x509.KeyUsage(
        digital_signature=sign,
        content_commitment=False,
        key_encipherment=False,
        data_encipherment=False,
        key_agreement=False,
        key_cert_sign=certificates,
        crl_sign=certificates,
        encipher_only=False,
        decipher_only=False,
    )


def _authority(identifier: x509.SubjectKeyIdentifier) -> x509.AuthorityKeyIdentifier:
    return x509.AuthorityKeyIdentifier.from_issuer_subject_key_identifier(identifier)


def _general_name(host: str) -> x509.GeneralName:
    try:
        return x509.IPAddress(ipaddress.ip_address(host))
    except ValueError:
        pass
    try:
        return x509.DNSName(host)
    except ValueError as error:
        raise TrustError(
            f"not a host name: {host!r} (write it in ASCII, international names as 'xn--…')"
        ) from error


def _carried_ca(certificate: x509.Certificate) -> x509.AuthorityInformationAccess:
    der = certificate.public_bytes(serialization.Encoding.DER)
    uri = "data:application/pkix-cert;base64," + base64.b64encode(der).decode()
    description = x509.AccessDescription(
        AuthorityInformationAccessOID.CA_ISSUERS, x509.UniformResourceIdentifier(uri)
    )
    return x509.AuthorityInformationAccess([description])
