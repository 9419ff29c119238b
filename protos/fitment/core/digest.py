"""Digests: how Fitment names content.

A digest is the text ``sha256:`` followed by 64 lower-case hex digits. Structured values are
digested over canonical JSON: sorted keys, no spaces, UTF-8, no NaN.
"""

from __future__ import annotations

import hashlib
import json
import re
from collections.abc import Iterable
from typing import Any

from fitment.core import plain

_PATTERN = re.compile(r"sha256:[0-9a-f]{64}\Z")


def canonical(value: Any) -> bytes:
    """Encode ``value`` (JSON values or dataclasses) so that equal values give equal bytes."""
    return json.dumps(
        plain.to_plain(value),
        sort_keys=True,
        separators=(",", ":"),
        ensure_ascii=False,
        allow_nan=False,
    ).encode()


def digest_bytes(data: bytes) -> str:
    """Digest of a byte string."""
    return "sha256:" + hashlib.sha256(data).hexdigest()


def digest_chunks(chunks: Iterable[bytes]) -> str:
    """Digest of a stream, read once and never held whole."""
    state = hashlib.sha256()
    for chunk in chunks:
        state.update(chunk)
    return "sha256:" + state.hexdigest()


def digest_of(value: Any) -> str:
    """Digest of a structured value, over its canonical JSON."""
    return digest_bytes(canonical(value))


def hex_of(digest: str) -> str:
    """The 64 hex digits of a well-formed digest.

    Raises:
        ValueError: ``digest`` is not ``sha256:`` and 64 lower-case hex digits. File names are
            made from digests, so nothing else may pass.
    """
    if not _PATTERN.match(digest):
        raise ValueError(f"not a digest: {digest!r} (expected 'sha256:' and 64 hex digits)")
    return digest[len("sha256:") :]


def short(digest: str) -> str:
    """The first twelve hex digits, for people."""
    return digest.removeprefix("sha256:")[:12]
