"""Lets the right rung of each slot serve: looks, asks `agent.domain.ladder`, moves the link.

It needs no network and no worker. Where a slot should stand is stored before the link is moved,
and the link is compared with it at every look, so a power loss between the two is made good.
"""

from __future__ import annotations

import json
import logging
import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Final

from agent.desk import Desk
from agent.domain import ladder, rungs
from agent.domain.ladder import Health, Limits, Readings, Rung, Standing
from agent.domain.record import SlotFacts
from agent.journal import Journal
from agent.sensors import with_throttle_point
from fitment.core import plain
from fitment.core.deployment import Pressure

log = logging.getLogger(__name__)

Sense = Callable[[str, float | None], Readings]
"""From the root of the device's files, and the throttle point that the operator set."""
_SETTING: Final = "ladder/"


@dataclass(frozen=True, slots=True, kw_only=True)
class LadderSettings:
    """What an operator may set."""

    interval_s: float = 2.0  # between two looks at the sensors
    throttle_c: float | None = None  # None: as the board, else the order says
    limits: Limits = field(default_factory=Limits)


@dataclass(frozen=True, slots=True, kw_only=True)
class Stood:
    """Where a slot stands, as the journal keeps it and the reports say it."""

    rung: int = 0
    reason: str = ""
    since_unix: float = 0.0  # by the device's clock; 0: it was never another
    pressed: bool = False
    pressures: tuple[Pressure, ...] = ()
    strikes: int = 0


def stored(journal: Journal, slot: str) -> Stood | None:
    """What the journal says of a slot that has, or had, a ladder."""
    text = journal.setting(_SETTING + slot)
    return plain.from_plain(Stood, json.loads(text)) if text else None


class Ladders:
    """All slots' ladders."""

    def __init__(self, sense: Sense) -> None:
        self._sense = sense
        self._readings = Readings()
        self._looked_s = -math.inf
        self._standings: dict[str, Standing] = {}
        self._stood: dict[str, Stood] = {}

    @property
    def stood(self) -> Mapping[str, Stood]:
        """Where each slot stands that has a ladder."""
        return self._stood

    def tick(
        self, desk: Desk, settings: LadderSettings, *, wall_unix_s: float, moved: bool
    ) -> bool:
        """Look when it is time, or at once when slots ``moved``. Returns whether a rung changed."""
        due = desk.now_s >= self._looked_s + settings.interval_s
        if not (due or moved):
            return False
        slots = {facts.slot: facts for facts in desk.journal.slots()}
        chosen = [facts for facts in rungs.chosen_only(slots.values()) if self._has(desk, facts)]
        if due:
            self._looked_s = desk.now_s
        if chosen and due:
            self._readings = self._sense(desk.setting.root, settings.throttle_c)
        changed = [self._one(desk, settings, facts, slots, wall_unix_s) for facts in chosen]
        return any(changed)

    def _has(self, desk: Desk, facts: SlotFacts) -> bool:
        return bool(facts.ladder) or facts.slot in self._stood or desk.slots.rung(facts.slot) > 0

    def _one(
        self, desk: Desk, settings: LadderSettings, facts: SlotFacts,
        slots: Mapping[str, SlotFacts], wall_unix_s: float,
    ) -> bool:  # fmt: skip
        if facts.slot not in self._standings:
            self._take_up(desk, facts.slot)
        readings = with_throttle_point(self._readings, facts.throttle_c)
        before, known = self._standings[facts.slot], self._stood[facts.slot]
        found = _on_disk(desk, facts.slot, rungs.ladder(facts, slots, desk.stack))
        after = ladder.step(before, found, readings, settings.limits, desk.now_s)
        self._standings[facts.slot] = after
        moved = after.rung != before.rung
        stood = Stood(
            rung=after.rung, reason=after.reason, pressed=after.pressed, strikes=after.strikes,
            pressures=tuple(p for p in Pressure if p in after.pressures),
            since_unix=wall_unix_s if moved else known.since_unix,
        )  # fmt: skip
        self._keep(desk, facts.slot, stood)
        if moved:
            log.info("action=rung slot=%s rung=%d why=%s", facts.slot, after.rung, after.reason)
        desk.slots.stand(facts.slot, after.rung)
        return (stood.rung, stood.reason) != (known.rung, known.reason)

    def _keep(self, desk: Desk, slot: str, stood: Stood) -> None:
        self._stood[slot] = stood
        text = json.dumps(plain.to_plain(stood), separators=(",", ":"))
        desk.journal.save_setting(_SETTING + slot, text)

    def _take_up(self, desk: Desk, slot: str) -> None:
        """What an earlier process left; its pauses begin anew."""
        # Without a word in the journal the link tells.
        stood = stored(desk.journal, slot) or Stood(rung=desk.slots.rung(slot))
        self._stood[slot] = stood
        self._standings[slot] = Standing(
            rung=stood.rung, reason=stood.reason, pressed=stood.pressed, strikes=stood.strikes,
            pressures=frozenset(stood.pressures), changed_s=desk.now_s if stood.rung else None,
        )  # fmt: skip


def _on_disk(desk: Desk, slot: str, found: tuple[Rung, ...]) -> tuple[Rung, ...]:
    """The same, but what the disk has lost since it was checked cannot serve."""
    gone = Rung(health=Health.BAD, why="its link is gone from the disk")
    return tuple(
        rung if not number or desk.slots.active(rungs.rung_slot(slot, number)) else gone
        for number, rung in enumerate(found)
    )
