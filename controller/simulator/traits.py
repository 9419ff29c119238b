"""Scenarios as rows: what the variant is like, and what befalls devices."""

from __future__ import annotations

import random
from collections.abc import Mapping
from dataclasses import dataclass, replace


@dataclass(frozen=True, slots=True, kw_only=True)
class Scenario:
    """Shares are of devices; the variant's are chances of one deployment."""

    name: str
    says: str
    crashes: float = 0.002  # the variant fails on a device, for whatever reason
    slower: float = 1.0  # times its modelled latency
    agreement: float = 0.99
    warmer_c: float = 0.0  # than an ordinary day
    flaky: float = 0.02  # devices whose link comes and goes
    up_s: float = 3600.0  # mean seconds that such a link holds
    down_s: float = 300.0
    repeats: float = 0.0  # messages that arrive twice
    late: float = 0.0  # messages that arrive late, out of order
    liars: float = 0.0  # devices that say committed and change nothing
    silent: float = 0.002  # devices that take an order and are not heard of again
    skewed: float = 0.05  # devices whose clock is wrong, some by decades
    upgrades: float = 0.0  # devices whose driver changes in the first hour
    upgrade_slower: float = 1.0  # times the latency, of int8 on the new driver
    good: bool = True  # whether a right rollout completes


SCENARIOS: Mapping[str, Scenario] = {
    row.name: row
    for row in (
        Scenario(name="good-release", says="a sound variant, ordinary devices"),
        Scenario(
            name="bad-release",
            says="it fails on 15 % of devices and is slower than what ran",
            crashes=0.15,
            slower=3.0,
            good=False,
        ),
        Scenario(
            name="driver-upgrade",
            says="a driver update slows int8 down, in the middle of it",
            upgrades=0.3,
            upgrade_slower=3.5,
            good=False,
        ),
        Scenario(
            name="thermal-summer",
            says="a sound variant on the hottest day; many throttle",
            warmer_c=22.0,
        ),
        Scenario(
            name="flaky-links",
            says="half of the links come and go; messages late and twice",
            flaky=0.5,
            up_s=300.0,
            down_s=120.0,
            repeats=0.1,
            late=0.1,
        ),
        Scenario(
            name="liars",
            says="a tenth say committed and run what they ran before",
            liars=0.1,
            good=False,
        ),
    )
}


@dataclass(frozen=True, slots=True, kw_only=True)
class Traits:
    """What is the matter with one device."""

    flaky: bool = False
    liar: bool = False
    silent: bool = False
    skew_s: float = 0.0
    upgrades_at: float | None = None  # seconds after the beginning

    @classmethod
    def drawn(cls, scenario: Scenario, chance: random.Random) -> Traits:
        """By chance, as often as the scenario says."""
        found = cls(
            flaky=chance.random() < scenario.flaky,
            liar=chance.random() < scenario.liars,
            silent=chance.random() < scenario.silent,
        )
        if chance.random() < scenario.skewed:
            found = replace(found, skew_s=chance.choice((-1.7e9, -86_400.0, 3600.0, 1e9)))
        if chance.random() < scenario.upgrades:
            found = replace(found, upgrades_at=chance.uniform(60.0, 900.0))
        return found
