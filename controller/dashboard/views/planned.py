"""What a rollout would do, as people read it."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field

from controller.dashboard.views.twin import variant_name
from controller.domain.preview import LeftOut, Preview

SHOWN_MOST = 200
"""Devices in each table; the rest is counted."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Wish:
    """What a visitor asks for, and what came of it."""

    release: str = ""
    where: str = ""
    group: str = ""
    groups: tuple[str, ...] = ()  # that there are
    found: Preview | None = None
    names: Mapping[str, str] = field(default_factory=dict)  # variant digest -> name
    trouble: str = ""


@dataclass(frozen=True, slots=True, kw_only=True)
class CohortRow:
    """What would come to one cohort."""

    cohort: str
    variant: str
    devices: str
    waves: tuple[str, ...]


@dataclass(frozen=True, slots=True, kw_only=True)
class PlaceRow:
    """A device that would be admitted."""

    device: str
    cohort: str
    variant: str
    wave: str
    away: bool


@dataclass(frozen=True, slots=True, kw_only=True)
class Planned:
    """The page."""

    wish: Wish
    waves: tuple[str, ...] = ()
    reached: tuple[str, ...] = ()
    notes: tuple[str, ...] = ()
    cohorts: tuple[CohortRow, ...] = ()
    places: tuple[PlaceRow, ...] = ()
    left_out: tuple[LeftOut, ...] = ()
    more_places: int = 0
    more_left_out: int = 0


def planned(wish: Wish) -> Planned:
    """The page of a preview."""
    found = wish.found
    if found is None:
        return Planned(wish=wish)
    return Planned(
        wish=wish,
        waves=tuple(f"up to wave {n} ({share:.0%})" for n, share in enumerate(found.waves, 1)),
        reached=tuple(str(count) for count in found.reached),
        notes=found.notes,
        cohorts=tuple(
            CohortRow(
                cohort=plan.cohort, variant=variant_name(plan.variant, wish.names),
                devices=f"{plan.members}, {plan.online} online",
                waves=tuple(str(count) for count in plan.waves),
            )
            for plan in found.cohorts
        ),
        places=tuple(
            PlaceRow(
                device=p.device, cohort=p.cohort, variant=variant_name(p.variant, wish.names),
                wave=str(p.wave + 1), away=not p.online,
            )
            for p in found.places[:SHOWN_MOST]
        ),
        left_out=found.left_out[:SHOWN_MOST],
        more_places=max(0, len(found.places) - SHOWN_MOST),
        more_left_out=max(0, len(found.left_out) - SHOWN_MOST),
    )  # fmt: skip
