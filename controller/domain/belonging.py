"""What operators add to the fleet: groups of devices, notes on them, and who waits to be let in.

Times are seconds since the epoch (UTC), given by the caller.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field


@dataclass(frozen=True, slots=True, kw_only=True)
class DeviceGroup:
    """Devices by what they are: a named expression, looked at anew each time."""

    name: str
    where: str  # an expression; see `selection`
    created_at: float
    changed_at: float = 0.0


@dataclass(frozen=True, slots=True, kw_only=True)
class Note:
    """What somebody wrote about a device."""

    id: str
    device: str
    at: float
    author: str  # "operator:…", or "operator" who has no name
    text: str


@dataclass(frozen=True, slots=True, kw_only=True)
class Applicant:
    """A device that asks to be let in without a token, and waits for an operator's word."""

    name: str
    key_hash: str  # sha256:… of its public key; only this key is let in
    code: str  # what both sides show, to be compared by people
    asked_at: float
    seen_at: float  # when it last asked
    approved_at: float = 0.0
    rejected_at: float = 0.0
    admitted_at: float = 0.0  # when the approval let it in, as its device's ``enrolled_at``
    labels: Mapping[str, str] = field(default_factory=dict)  # given with the approval

    @property
    def waits(self) -> bool:
        """Whether nobody has said anything yet."""
        return not (self.approved_at or self.rejected_at)


@dataclass(frozen=True, slots=True, kw_only=True)
class NoteLine:
    """A note as it is exported."""

    at: float
    author: str
    text: str


@dataclass(frozen=True, slots=True, kw_only=True)
class DeviceLine:
    """What operators own of one device; labels are all of its labels."""

    device: str
    labels: Mapping[str, str] = field(default_factory=dict)
    notes: tuple[NoteLine, ...] = ()


@dataclass(frozen=True, slots=True, kw_only=True)
class GroupLine:
    """A group as it is exported."""

    group: str
    where: str


@dataclass(frozen=True, slots=True, kw_only=True)
class Imported:
    """What an import did, or would do."""

    labelled: tuple[str, ...] = ()  # devices whose labels are others than before
    notes: int = 0  # that were not there yet
    groups: tuple[str, ...] = ()  # made or changed
    unknown: tuple[str, ...] = ()  # devices that are not here; nothing was done for them
