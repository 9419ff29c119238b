"""What a device that has no token shows, and the controller too, so that people can compare it.

The code covers both ends: the device's key and the certificate authority that the device sees. Who
stands between the two has another key towards the one or another authority towards the other, and
the codes differ. It has 125 bits, so that no pair can be looked for that has the same one.
"""

from __future__ import annotations

import base64
import hashlib
from typing import Final

_GROUPS: Final = 5
_LETTERS: Final = 5  # of a group; base32, so each is five bits
_CONTEXT: Final = "fitment device and controller"


def code(key_hash: str, authority: str) -> str:
    """Five groups of five letters and digits, ``AB3DE-…``.

    Args:
        key_hash: ``sha256:…`` of the device's public key (SubjectPublicKeyInfo, DER).
        authority: ``sha256:…`` of the controller's CA certificate (DER), as that side sees it.
    """
    digest = hashlib.sha256(f"{_CONTEXT}\n{key_hash}\n{authority}".encode()).digest()
    text = base64.b32encode(digest).decode()
    return "-".join(text[n * _LETTERS : (n + 1) * _LETTERS] for n in range(_GROUPS))


def same(one: str, other: str) -> bool:
    """Whether two codes are one, however they were typed."""
    return _letters(one) == _letters(other) != ""


def _letters(text: str) -> str:
    return "".join(letter for letter in text.upper() if letter.isalnum())
