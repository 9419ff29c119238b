"""What operators may do: three roles, each with all that the ones before it may."""

from __future__ import annotations

import enum
from dataclasses import dataclass


class Role(enum.Enum):
    """What a token opens."""

    VIEWER = "viewer"  # looks at everything but model files
    OPERATOR = "operator"  # enrols devices, fits, releases, rolls out and takes back
    ADMIN = "admin"  # registers code, signs releases, shuts out and readmits, makes tokens


_ORDER = (Role.VIEWER, Role.OPERATOR, Role.ADMIN)


@dataclass(frozen=True, slots=True, kw_only=True)
class Identity:
    """Who asks, as its token says."""

    name: str
    role: Role


def covers(role: Role, needed: Role) -> bool:
    """Whether who has ``role`` may do what needs ``needed``."""
    return _ORDER.index(role) >= _ORDER.index(needed)
