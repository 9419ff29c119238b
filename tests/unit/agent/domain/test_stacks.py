"""Which variant serves on which stack: in whatever order they come, the right one."""

from __future__ import annotations

import random
from dataclasses import replace

import pytest

from agent.domain import ladder, rungs
from agent.domain.ladder import Health, Limits, Place, Readings, Rung, Standing
from agent.domain.record import SlotFacts
from fitment.core.deployment import BundleRef, Lesser, Pressure

STACKS = ("a", "b", "c", "d")
SEEDS = range(200)
HOT, COOL = (Readings(temperature_c=t, throttle_c=85.0) for t in (84.0, 60.0))


def bundle(variant: str) -> BundleRef:
    return BundleRef(variant=variant, name=variant, archive="x", archive_bytes=1, target="t")


def device(dice: random.Random) -> dict[str, SlotFacts]:
    """A slot, a cheaper rung, and rungs for some stacks; all there and never checked."""
    lessers = [Lesser(bundle=bundle("cheap"), relieves=(Pressure.HEAT,))]
    tied = dice.sample(STACKS[1:], k=dice.randint(1, 3))
    lessers += [Lesser(bundle=bundle(f"for-{stack}"), stacks=(stack,)) for stack in tied]
    dice.shuffle(lessers)
    chosen = SlotFacts(slot="m", variant="chosen", ladder=tuple(lessers))
    held = {"m": chosen}
    for number, lesser in enumerate(lessers, 1):
        name = rungs.rung_slot("m", number)
        held[name] = SlotFacts(slot=name, variant=lesser.bundle.variant, stacks=lesser.stacks)
    return held


def right_on(held: dict[str, SlotFacts], stack: str, broken: set[tuple[str, str]]) -> str:
    """Said anew, without the ladder: its own where that holds, else the chosen, else the cheap."""
    for variant in (f"for-{stack}", "chosen", "cheap"):
        there = any(facts.variant == variant for facts in held.values())
        if there and (variant, stack) not in broken:
            return variant
    return "chosen"


def checked(held: dict[str, SlotFacts], stack: str, broken: set[tuple[str, str]]) -> None:
    """As the device does: one slot after the other, in its order."""
    while slot := rungs.recheck(held.values(), stack):
        facts = held[slot]
        elsewhere = bool(facts.stacks) and stack not in facts.stacks
        good = elsewhere or (facts.variant, stack) not in broken
        held[slot] = replace(
            facts, checked_stack=stack, golden_ok=good, reason="" if good else "no"
        )


def serving(held: dict[str, SlotFacts], standing: Standing) -> str:
    return held[rungs.rung_slot("m", standing.rung)].variant


@pytest.mark.parametrize("seed", SEEDS)
def test_whatever_order_stacks_come_in_the_right_one_serves(seed: int) -> None:
    dice = random.Random(seed)
    held, standing, now = device(dice), Standing(), 0.0
    everything = {facts.variant for facts in held.values()}
    broken = {(v, s) for v in sorted(everything) for s in STACKS if dice.random() < 0.2}
    for stack in (dice.choice(STACKS) for _ in range(8)):
        for done in (False, True):  # the first look comes before any check
            if done:
                checked(held, stack, broken)
            for _ in range(3):
                now += dice.uniform(0.1, 400.0)
                found = rungs.ladder(held["m"], held, stack)
                standing = ladder.step(standing, found, COOL, Limits(), now)
                serves = serving(held, standing)
                assert found[standing.rung].place is not Place.ELSEWHERE
                if done:
                    assert serves == right_on(held, stack, broken), (stack, standing)
                elif f"for-{stack}" in everything and held_good(held, stack):
                    assert serves == f"for-{stack}", "it takes over before its check"


def held_good(held: dict[str, SlotFacts], stack: str) -> bool:
    """It is not known to be bad here."""
    return all(f.golden_ok is not False for f in held.values() if stack in f.stacks)


@pytest.mark.parametrize("seed", SEEDS)
def test_no_pressure_leads_to_what_is_for_another_stack(seed: int) -> None:
    dice = random.Random(seed)
    standing, now = Standing(), 0.0
    for _ in range(40):
        found = tuple(
            Rung(
                health=dice.choice(list(Health)),
                place=dice.choice(list(Place)) if n else Place.ANYWHERE,
                relieves=frozenset(p for p in Pressure if dice.random() < 0.5),
            )
            for n in range(dice.randint(1, 5))
        )  # fmt: skip
        now += dice.uniform(0.1, 300.0)
        standing = ladder.step(standing, found, dice.choice([HOT, COOL]), Limits(), now)
        assert 0 <= standing.rung < len(found)
        assert found[standing.rung].place is not Place.ELSEWHERE


def test_it_says_why_and_says_nothing_on_the_way_back() -> None:
    here, there = (
        (Rung(health=Health.UNKNOWN), Rung(health=Health.UNKNOWN, place=place))
        for place in (Place.HERE, Place.ELSEWHERE)
    )
    gone = ladder.step(Standing(), here, Readings(), Limits(), 1.0)
    assert (gone.rung, gone.reason) == (1, "rung 1 was made for this stack")
    back = ladder.step(gone, there, Readings(), Limits(), 2.0)
    assert (back.rung, back.reason) == (0, "")


def test_heat_on_its_own_stack_leads_below_it_and_back_to_it() -> None:
    found = (
        Rung(health=Health.BAD, why="wrong answers"),
        Rung(health=Health.GOOD, relieves=frozenset({Pressure.HEAT})),
        Rung(health=Health.GOOD, place=Place.HERE),
    )
    standing = ladder.step(Standing(), found, COOL, Limits(), 0.0)
    assert standing.rung == 2
    standing = ladder.step(standing, found, HOT, Limits(), 10.0)
    assert (standing.rung, standing.pressed) == (1, True)
    for at in (200.0, 2000.0):
        standing = ladder.step(standing, found, COOL, Limits(), at)
    assert (standing.rung, standing.reason) == (2, "the pressure is over")
