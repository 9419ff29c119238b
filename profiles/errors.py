"""The one error of this room."""

from __future__ import annotations


class ProfileError(ValueError):
    """A profile is unknown, malformed or contradicts itself, or no profile fits a device."""
