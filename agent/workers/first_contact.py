"""First contact: find the controller's CA, of which only the fingerprint is known.

The standard library's TLS client hands over the server's own certificate without checking it,
but not the chain. So the controller's server certificate carries its CA (authority information
access, ``caIssuers``, a ``data:`` URI). Nothing of that connection is trusted: the CA is taken
only if its digest is the one in the token, and the real connection then checks everything
against it.
"""

from __future__ import annotations

import base64
import binascii
import re
import socket
import ssl
from dataclasses import dataclass

from cryptography import x509
from cryptography.hazmat.primitives import serialization
from cryptography.x509.oid import AuthorityInformationAccessOID

from agent.workers.child import JobError
from fitment.core import digest as digests

_TIMEOUT_S = 15.0
_TOKEN = re.compile(r"fit1\.[A-Za-z0-9_-]{16,}\.([0-9a-f]{64})\Z")
_DATA_URI = "data:application/pkix-cert;base64,"


@dataclass(frozen=True, slots=True, kw_only=True)
class Token:
    """An enrolment token, read."""

    text: str
    fingerprint: str  # of the CA certificate's DER, sha256:…


def read_token(text: str) -> Token:
    """Read ``fit1.<secret>.<sha256 of the CA certificate, hex>``.

    Raises:
        JobError: code ``token``.
    """
    cleaned = text.strip()
    found = _TOKEN.match(cleaned)
    if not found:
        raise JobError(
            "token",
            "this is no enrolment token (expected 'fit1.…' of three parts): copy the whole line "
            "that 'fitment token create' printed",
            permanent=True,
        )
    return Token(text=cleaned, fingerprint="sha256:" + found.group(1))


def find_ca(address: str, fingerprint: str) -> bytes:
    """PEM of the CA with this fingerprint, from the server at ``address`` (host:port).

    Raises:
        JobError: ``unavailable``, ``address``, or ``wrong_ca`` when the server is another.
    """
    leaf = _leaf(address)
    for der in _carried(leaf):
        if digests.digest_bytes(der) == fingerprint:
            return _pem(der)
    raise JobError(
        "wrong_ca",
        f"the server at {address} is not the controller that made this token: its certificate "
        f"authority does not have the fingerprint {digests.short(fingerprint)}…; check the "
        "address, or ask for a new token",
        permanent=True,
    )


def shown_ca(address: str) -> tuple[bytes, str]:
    """PEM and fingerprint of the CA that the server at ``address`` says it has.

    Nothing vouches for it but people who compare a code that covers it (`fitment.core.admission`).

    Raises:
        JobError: ``unavailable``, ``address``, or ``wrong_ca`` when the server shows none.
    """
    carried = _carried(_leaf(address))
    if not carried:
        raise JobError(
            "wrong_ca", f"the server at {address} is no Fitment controller", permanent=True
        )
    return _pem(carried[0]), digests.digest_bytes(carried[0])


def check_ca(ca_pem: bytes, fingerprint: str, origin: str) -> None:
    """Check that a CA file is the one that the token names.

    Raises:
        JobError: code ``wrong_ca``.
    """
    try:
        authorities = x509.load_pem_x509_certificates(ca_pem)
    except ValueError as error:
        raise JobError(
            "wrong_ca", f"{origin} holds no certificate: {error}", permanent=True
        ) from error
    ders = (a.public_bytes(serialization.Encoding.DER) for a in authorities)
    if fingerprint not in {digests.digest_bytes(der) for der in ders}:
        raise JobError(
            "wrong_ca",
            f"{origin} is not the certificate authority that this token names; use the token and "
            "the CA of the same controller",
            permanent=True,
        )


def _leaf(address: str) -> x509.Certificate:
    host, port = _split(address)
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
    context.check_hostname = False
    context.verify_mode = ssl.CERT_NONE
    context.set_alpn_protocols(["h2"])  # a gRPC server hangs up on others
    try:
        with (
            socket.create_connection((host, port), timeout=_TIMEOUT_S) as raw,
            context.wrap_socket(raw, server_hostname=host) as connection,
        ):
            der = connection.getpeercert(binary_form=True)
    except OSError as error:  # TLS and name errors are OSErrors too
        raise JobError(
            "unavailable", f"cannot reach the controller at {address}: {error}"
        ) from error
    try:
        return x509.load_der_x509_certificate(der or b"")
    except ValueError as error:
        raise JobError("wrong_ca", f"{address} showed no certificate", permanent=True) from error


def _split(address: str) -> tuple[str, int]:
    host, _, port = address.rpartition(":")
    if not host or not port.isdecimal() or not 0 < int(port) < 65_536:
        raise JobError(
            "address",
            f"not an address: {address!r} (expected host:port, as in 'controller.local:9443')",
            permanent=True,
        )
    return host.strip("[]"), int(port)


def _carried(leaf: x509.Certificate) -> list[bytes]:
    """DER of what the leaf says are its issuer's certificates."""
    try:
        access = leaf.extensions.get_extension_for_class(x509.AuthorityInformationAccess).value
    except (x509.ExtensionNotFound, ValueError):
        return []
    locations = (
        str(entry.access_location.value)
        for entry in access
        if entry.access_method == AuthorityInformationAccessOID.CA_ISSUERS
    )
    return [der for text in locations if (der := _decode(text)) is not None]


def _decode(uri: str) -> bytes | None:
    if not uri.startswith(_DATA_URI):
        return None
    try:
        return base64.b64decode(uri[len(_DATA_URI) :], validate=True)
    except binascii.Error:
        return None


def _pem(der: bytes) -> bytes:
    certificate = x509.load_der_x509_certificate(der)
    return certificate.public_bytes(serialization.Encoding.PEM)
