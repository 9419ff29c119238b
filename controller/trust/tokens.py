"""One-time tokens that admit a device.

A token's text is ``fit1.<random, base64url>.<sha256 of the CA certificate's DER, hex>``. The
second part is the secret, the third lets a device know the controller on first contact. Only
the digest of the whole text is stored, so a stolen database admits nobody.
"""

from __future__ import annotations

import re
import secrets
from dataclasses import dataclass

from controller.errors import TrustError
from fitment.core import digest

_SECRET_BYTES = 24  # 192 bits: no guessing, and no padding in base64
_TEXT = re.compile(r"fit1\.[A-Za-z0-9_-]{32}\.[0-9a-f]{64}\Z")


@dataclass(frozen=True, slots=True, kw_only=True)
class NewToken:
    """A token that was just made: the text goes to the device, the hash to the store."""

    text: str
    hash: str  # sha256:… of the text, the key of `fleet.Token`


def make_token(ca_fingerprint: str) -> NewToken:
    """Make a token for a controller whose CA has this fingerprint (``sha256:…``).

    Raises:
        ValueError: the fingerprint is no digest.
    """
    secret = secrets.token_urlsafe(_SECRET_BYTES)
    text = f"fit1.{secret}.{digest.hex_of(ca_fingerprint)}"
    return NewToken(text=text, hash=hash_token(text))


def hash_token(text: str) -> str:
    """The hash under which a presented token is looked up.

    Raises:
        TrustError: the text is no token at all.
    """
    cleaned = text.strip()
    if not _TEXT.match(cleaned):
        raise TrustError(
            "this is no enrolment token (expected 'fit1.…' of three parts): "
            "copy the whole line that 'fitment token create' printed"
        )
    return digest.digest_bytes(cleaned.encode())
