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


@dataclass(frozen=True, slots=True, kw_only=True)
class Operator:
    """Somebody with a token of their own; only its hash is kept."""

    name: str
    role: Role
    hash: str  # sha256:… of the token text
    created_at: float
    expires_at: float = 0.0  # 0: it has no end
    revoked_at: float = 0.0


def covers(role: Role, needed: Role) -> bool:
    """Whether who has ``role`` may do what needs ``needed``."""
    return _ORDER.index(role) >= _ORDER.index(needed)
