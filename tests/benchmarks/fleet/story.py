"""What becomes of each device, drawn once, so that both engines meet the same fleet."""

from __future__ import annotations

import random
from dataclasses import dataclass


@dataclass(frozen=True, slots=True, kw_only=True)
class Fate:
    """One device's deployment, whenever it begins."""

    fails: bool
    takes_s: float
    ratio: float  # latency to its own baseline


@dataclass(frozen=True, slots=True, kw_only=True)
class Story:
    """A variant: how often it fails and how fast it is. Failures end sooner than successes."""

    name: str
    fails: float
    ratio: float
    good: bool


STORIES = (
    Story(name="good (1 % fail)", fails=0.01, ratio=0.9, good=True),
    Story(name="just allowed (2 % fail)", fails=0.02, ratio=0.9, good=True),
    Story(name="bad (12 % fail)", fails=0.12, ratio=0.9, good=False),
    Story(name="slow (1.25 times, 1 % fail)", fails=0.01, ratio=1.25, good=False),
)


def fates(story: Story, devices: int, seed: int) -> list[Fate]:
    """Of a fleet."""
    chance = random.Random(f"{story.name}/{seed}")
    found = []
    for _ in range(devices):
        fails = chance.random() < story.fails
        takes_s = chance.uniform(2.0, 15.0) if fails else chance.uniform(20.0, 60.0)
        ratio = story.ratio * chance.lognormvariate(0.0, 0.06)
        found.append(Fate(fails=fails, takes_s=takes_s, ratio=ratio))
    return found
