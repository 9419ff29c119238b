"""Ids: uuid7 (RFC 9562), which sort by the time they were made."""

from __future__ import annotations

import secrets
import uuid


def uuid7(now: float) -> str:
    """A new id; ``now`` is seconds since the epoch."""
    milliseconds = int(now * 1000) & ((1 << 48) - 1)
    value = milliseconds << 80 | secrets.randbits(80)
    value = value & ~(0xF << 76) | 0x7 << 76  # version
    value = value & ~(0x3 << 62) | 0x2 << 62  # variant
    return str(uuid.UUID(int=value))
