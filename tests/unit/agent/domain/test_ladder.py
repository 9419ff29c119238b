"""Which rung serves: by table for the words, by property for what must never happen."""

from __future__ import annotations

import random
from collections.abc import Callable, Sequence
from dataclasses import replace

import pytest

from agent.domain import ladder
from agent.domain.ladder import Health, Limits, Readings, Rung, Standing
from fitment.core.deployment import Pressure

LIMITS = Limits()
ALL = frozenset(Pressure)
LADDER = (
    Rung(health=Health.GOOD),
    Rung(health=Health.GOOD, relieves=frozenset({Pressure.HEAT, Pressure.BATTERY})),
    Rung(health=Health.GOOD, relieves=ALL),
)
NOTHING = Readings()
HOT, WARM, COOL = (
    Readings(temperature_c=degrees, throttle_c=85.0) for degrees in (84.0, 80.0, 70.0)
)
LOW = Readings(battery_percent=15.0, discharging=True)
SHORT = Readings(memory_stall_percent=40.0, memory_available_share=0.03)
PRESSING = (
    HOT, Readings(throttled=True), replace(COOL, throttled=True), LOW, SHORT,
    Readings(memory_available_share=0.01), Readings(memory_stall_percent=10.0),
)  # fmt: skip
BETWEEN = (
    (HOT, WARM),
    (LOW, Readings(battery_percent=25.0, discharging=True)),
    (SHORT, Readings(memory_stall_percent=5.0)),
    (SHORT, Readings(memory_available_share=0.1)),
)
SILENT = (
    NOTHING, COOL, Readings(temperature_c=120.0),  # without a throttle point heat is a number
    Readings(throttle_c=40.0), Readings(throttled=False), Readings(battery_percent=1.0),
    Readings(discharging=True), Readings(battery_percent=1.0, discharging=False),
)  # fmt: skip

SEEDS = range(150)


def any_ladder(dice: random.Random) -> tuple[Rung, ...]:
    return tuple(
        Rung(
            health=dice.choice(list(Health)),
            relieves=frozenset(p for p in Pressure if dice.random() < 0.5),
        )
        for _ in range(dice.randint(1, 4))
    )


def any_readings(dice: random.Random) -> Readings:
    """Each sensor may be silent."""
    return Readings(
        temperature_c=dice.choice([None, dice.uniform(-20.0, 120.0), dice.uniform(70.0, 90.0)]),
        throttle_c=dice.choice([None, 85.0]),
        throttled=dice.choice([None, None, False, True]),
        battery_percent=dice.choice([None, dice.uniform(0.0, 100.0)]),
        discharging=dice.choice([None, False, True]),
        memory_stall_percent=dice.choice([None, dice.uniform(0.0, 15.0)]),
        memory_available_share=dice.choice([None, dice.uniform(0.0, 0.3)]),
    )


def any_walk(dice: random.Random) -> list[tuple[float, Readings]]:
    """Spells of some readings, some of them calm, so that there are ways back as well."""
    steps: list[tuple[float, Readings]] = []
    for _ in range(dice.randint(1, 30)):
        calm = dice.random() < 0.5
        for _ in range(dice.randint(1, 12)):
            seen = dice.choice([COOL, NOTHING]) if calm else any_readings(dice)
            steps.append((dice.uniform(0.5, 60.0), seen))
    return steps


def walk(
    steps: Sequence[tuple[float, Readings]], on: Sequence[Rung] = LADDER,
    each: Callable[[float, Standing, Standing, Readings], None] = lambda *_: None,
) -> Standing:  # fmt: skip
    now_s, standing = 1000.0, Standing()
    for pause_s, seen in steps:
        now_s += pause_s
        after = ladder.step(standing, on, seen, LIMITS, now_s)
        each(now_s, standing, after, seen)
        standing = after
    return standing


def every(seconds: float, seen: Readings, *, pause_s: float = 2.0) -> list[tuple[float, Readings]]:
    return [(pause_s, seen)] * int(seconds / pause_s)


@pytest.mark.parametrize("seen", PRESSING)
def test_a_pressure_leads_to_a_rung_that_relieves_it(seen: Readings) -> None:
    standing = walk([(2.0, seen)])
    (pressure,) = standing.pressures
    assert pressure in LADDER[standing.rung].relieves
    assert standing.reason.startswith(f"{pressure.value}: ")
    assert "None" not in standing.reason
    assert standing.rung == (2 if pressure is Pressure.MEMORY else 1)


@pytest.mark.parametrize("seen", SILENT)
def test_a_sensor_that_says_nothing_never_triggers(seen: Readings) -> None:
    assert walk(every(600, seen)).rung == 0


@pytest.mark.parametrize(("begun", "seen"), BETWEEN)
def test_between_the_limits_nothing_begins_and_nothing_ends(
    begun: Readings, seen: Readings
) -> None:
    assert walk(every(600, seen)).rung == 0
    held = walk([(2.0, begun), *every(4000, seen, pause_s=50.0)])
    assert held.rung == walk([(2.0, begun)]).rung


def test_what_still_presses_leads_one_further_and_not_beyond() -> None:
    assert walk(every(LIMITS.dwell_s - 2, HOT)).rung == 1
    assert walk(every(LIMITS.dwell_s + 6, HOT)).rung == 2
    assert walk(every(4000, HOT, pause_s=50.0)).rung == 2


def test_a_sensor_that_falls_silent_lets_go() -> None:
    assert walk([(2.0, HOT), *every(LIMITS.calm_s + LIMITS.dwell_s, NOTHING)]).rung == 0


def test_a_way_back_that_does_not_hold_doubles_the_calm() -> None:
    """A device that overheats with the chosen variant and cools with the lesser one."""
    lengths: list[float] = []
    now_s, standing, came_s = 0.0, Standing(), 0.0
    while len(lengths) < 8:
        now_s += 2.0
        after = ladder.step(
            standing, LADDER[:2], HOT if standing.rung == 0 else COOL, LIMITS, now_s
        )
        if after.rung > standing.rung:
            came_s = now_s
        elif after.rung < standing.rung:
            lengths.append(now_s - came_s)
        standing = after
    assert lengths == sorted(lengths)
    assert lengths[1] >= 1.9 * lengths[0]
    assert lengths[-1] >= 3500.0


def test_a_rung_that_fails_gives_way_at_once_and_comes_back_at_once() -> None:
    broken = (replace(LADDER[0], health=Health.BAD, why="wrong answers"), *LADDER[1:])
    fallen = ladder.step(Standing(), broken, NOTHING, LIMITS, 1.0)
    assert (fallen.rung, fallen.reason) == (1, "rung 0 gave way: wrong answers")
    assert ladder.step(fallen, broken, NOTHING, LIMITS, 1e6).rung == 1
    unknown = (replace(LADDER[0], health=Health.UNKNOWN), *LADDER[1:])
    assert ladder.step(fallen, unknown, NOTHING, LIMITS, 1e6).rung == 1
    mended = ladder.step(fallen, LADDER, NOTHING, LIMITS, 2.0)
    assert (mended.rung, mended.reason) == (0, "")


def test_a_rung_that_fails_under_pressure_gives_way_to_one_that_relieves_it() -> None:
    broken = (replace(LADDER[0], health=Health.BAD), *LADDER[1:])
    fallen = ladder.step(Standing(), broken, SHORT, LIMITS, 1.0)
    assert (fallen.rung, fallen.pressed) == (2, True)


def test_a_ladder_that_became_shorter_is_left() -> None:
    assert ladder.step(Standing(rung=2), LADDER[:1], HOT, LIMITS, 1.0).rung == 0


@pytest.mark.parametrize("seed", SEEDS)
def test_it_never_moves_to_what_does_not_run(seed: int) -> None:
    dice = random.Random(seed)
    steps, on = any_walk(dice), any_ladder(dice)
    good = any(rung.health is Health.GOOD for rung in on)

    def look(_now_s: float, before: Standing, after: Standing, _seen: Readings) -> None:
        if after.rung != before.rung and (good or after.rung):
            assert on[after.rung].health is Health.GOOD
        if good:
            assert on[after.rung].health is not Health.BAD

    walk(steps, on, look)


def test_it_never_flaps() -> None:
    """Whatever the sensors say: a pause after every change, and a calm before every way back."""
    downs = ups = 0
    for seed in SEEDS:
        changed: list[float] = []
        pressing: list[float] = []
        counts: list[bool] = []

        def look(
            now_s: float, before: Standing, after: Standing, seen: Readings,
            changed: list[float] = changed, pressing: list[float] = pressing,
            counts: list[bool] = counts,
        ) -> None:  # fmt: skip
            if ladder.acute(seen, LIMITS):
                pressing.append(now_s)
            if after.rung == before.rung:
                return
            assert not changed or now_s - changed[-1] >= LIMITS.dwell_s
            if after.rung < before.rung:
                assert all(now_s - at >= LIMITS.calm_s for at in pressing)
            else:
                assert before.pressures | ladder.acute(seen, LIMITS)
            changed.append(now_s)
            counts.append(after.rung > before.rung)

        walk(any_walk(random.Random(seed)), LADDER, look)
        downs, ups = downs + counts.count(True), ups + counts.count(False)
    assert downs > 100, "the walks say something"
    assert ups > 30


@pytest.mark.parametrize("seed", SEEDS)
def test_under_what_stays_the_same_it_comes_to_rest(seed: int) -> None:
    dice = random.Random(seed)
    rested, seen, moves, now_s = walk(any_walk(dice)), any_readings(dice), 0, 1e6
    for _ in range(300):
        now_s += 20.0
        after = ladder.step(rested, LADDER, seen, LIMITS, now_s)
        moves += after.rung != rested.rung
        rested = after
    assert moves <= len(LADDER)
    if not rested.pressures:
        assert rested.rung == 0


@pytest.mark.parametrize("seed", SEEDS)
def test_silence_never_triggers_whatever_came_before(seed: int) -> None:
    before, now_s = walk(any_walk(random.Random(seed))), 1e7
    for _ in range(300):
        now_s += 30.0
        after = ladder.step(before, LADDER, NOTHING, LIMITS, now_s)
        assert after.rung <= before.rung
        before = after
    assert before.rung == 0
