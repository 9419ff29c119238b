"""Settings of the fingerprint readers."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True, slots=True, kw_only=True)
class HardwareSettings:
    """Where hardware is read from, and whether this host stands in for a board."""

    root: str = "/"  # prefix of /proc, /sys, /etc and /dev
    emulates: str = ""  # name of a shipped board; empty: this machine is what it is
