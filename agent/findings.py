"""What the doctor found, one thing at a time."""

from __future__ import annotations

import enum
from dataclasses import dataclass


class Level(enum.Enum):
    """How bad a finding is."""

    OK = "ok"  # as it should be
    WARN = "warn"  # works, with less
    FAIL = "fail"  # the agent cannot do its work


@dataclass(frozen=True, slots=True, kw_only=True)
class Finding:
    """One thing looked at."""

    level: Level
    subject: str
    message: str
    mend: str = ""  # what to do, when it is not ok


def ok(subject: str, message: str) -> Finding:
    """As it should be."""
    return Finding(level=Level.OK, subject=subject, message=message)


def warn(subject: str, message: str, mend: str) -> Finding:
    """Works, with less."""
    return Finding(level=Level.WARN, subject=subject, message=message, mend=mend)


def fail(subject: str, message: str, mend: str) -> Finding:
    """The agent cannot do its work."""
    return Finding(level=Level.FAIL, subject=subject, message=message, mend=mend)
