"""The simulator: modelled devices below the controller's own loop, in virtual time."""

from __future__ import annotations

import random
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import pytest

from agent.domain import transitions
from controller.errors import UserError
from controller.simulator import seed
from controller.simulator.device import _TAKES_S
from controller.simulator.physics import BOARDS, Machine, surroundings_c
from controller.simulator.traits import SCENARIOS, Scenario
from controller.simulator.world import PLAN, World, trusted
from controller.trust import Trust
from fitment.core.deployment import DeploymentState
from fitment.core.fingerprint import Facet, Fingerprint
from profiles import all_profiles, match


@pytest.fixture(scope="module")
def keys() -> Iterator[tuple[Trust, Path]]:
    with trusted() as made:
        yield made


def world(
    keys: tuple[Trust, Path], scenario: Scenario, *, devices: int = 60, number: int = 1
) -> World:
    return World(seed.Fleet(devices=devices, scenario=scenario, seed=number), *keys)


QUIET = replace(SCENARIOS["good-release"], crashes=0.0, flaky=0.0, silent=0.0)


@pytest.mark.parametrize("name", BOARDS)
def test_a_modelled_board_is_matched_to_its_profile(name: str) -> None:
    facet = Facet.of({})
    seen = Fingerprint(
        chassis=facet, hardware=Facet.of(BOARDS[name].facts), stack=facet, condition=facet
    )
    assert match(seen, all_profiles()).profile.name == name


def test_heat_takes_from_the_clock_and_no_more_than_half() -> None:
    machine = Machine(board=BOARDS["raspberry-pi-5"])
    cool, hot = machine.chip_c(20.0), machine.chip_c(50.0)
    assert machine.slowed(cool) == 1.0
    assert 1.0 < machine.slowed(hot) < machine.slowed(300.0) == 2.0
    assert machine.latency_ms("int8", hot) > machine.latency_ms("int8", cool)
    assert surroundings_c(0.0, 10.0) == 33.0


def test_every_state_of_the_agent_takes_some_time() -> None:
    """A state that the agent's table gains is one that devices would pass in no time."""
    timed = {*_TAKES_S, DeploymentState.IDLE, DeploymentState.FETCHING, DeploymentState.REPORTING}
    assert timed == {state for state, _ in transitions.TABLE}


def test_a_sound_release_reaches_everybody(keys: tuple[Trust, Path]) -> None:
    found = world(keys, QUIET).run()
    assert (found.completed, found.halted, found.exposed_at_halt) == (True, False, None)
    assert (found.committed, found.failed, found.still_open) == (60, 0, 0)


def test_nobody_switches_outside_the_windows_of_a_night(keys: tuple[Trust, Path]) -> None:
    made = world(keys, replace(QUIET, skewed=0.0, flaky=0.3, up_s=600.0), devices=40)
    began = made.now  # 22:13 UTC
    plan = replace(PLAN, windows=("daily 00:00 +2h UTC",), deadline_s=2 * 86_400.0)
    found = made.run(plan, most_s=2 * 86_400.0)
    assert (found.completed, found.failed, found.still_open) == (True, 0, 0)
    hours = [(d.switched_at - began) / 3600 for d in made.devices.values() if d.switched_at]
    assert len(hours) == found.committed
    opens = (86_400 - began % 86_400) / 3600
    assert all(opens <= hour < opens + 2 for hour in hours), hours


def test_a_clock_that_is_wrong_by_years_switches_in_no_window(keys: tuple[Trust, Path]) -> None:
    made = world(keys, replace(QUIET, skewed=1.0), devices=20)
    for device in made.devices.values():
        device.traits = replace(device.traits, skew_s=-1.7e9)
    plan = replace(PLAN, windows=("daily 00:00 +2h UTC",), deadline_s=86_400.0)
    found = made.run(plan, most_s=2 * 86_400.0)
    assert (found.committed, found.halted) == (0, True)
    assert not any("v2" in d.slots for d in made.devices.values())


def test_a_bad_release_halts_within_its_bound(keys: tuple[Trust, Path]) -> None:
    found = world(keys, SCENARIOS["bad-release"], devices=300).run()
    assert found.halted
    assert found.exposed_at_halt is not None
    assert found.exposed_at_halt <= found.exposure_bound < 60
    assert found.still_open == 0


def test_devices_that_lie_are_found_out(keys: tuple[Trust, Path]) -> None:
    found = world(keys, replace(QUIET, name="liars", liars=0.3)).run()
    assert found.halted
    assert "its own report says that it runs" in found.reason


def test_late_and_repeated_messages_do_no_harm(keys: tuple[Trust, Path]) -> None:
    shaken = replace(SCENARIOS["flaky-links"], crashes=0.0, silent=0.0, late=0.3, repeats=0.3)
    found = world(keys, shaken, devices=40).run()
    assert found.completed
    assert found.still_open == 0


def test_a_hot_day_halts_nothing(keys: tuple[Trust, Path]) -> None:
    hot = replace(SCENARIOS["thermal-summer"], crashes=0.0, silent=0.0)
    made = world(keys, hot, devices=40)
    found = made.run()
    assert found.completed
    taken = [d.measurement for d in made.store.deployments.find() if d.measurement]
    assert any(one.verdict.value == "throttled" for one in taken), "else it was no hot day"


def test_a_seed_repeats_everything(keys: tuple[Trust, Path]) -> None:
    runs = [world(keys, SCENARIOS["flaky-links"], devices=30).run() for _ in range(2)]
    assert replace(runs[0], wall_seconds=0.0) == replace(runs[1], wall_seconds=0.0)


def test_a_restart_of_the_controller_changes_no_end(keys: tuple[Trust, Path]) -> None:
    made = world(keys, QUIET, devices=40)
    chance, turn = random.Random(2), made.turn

    def shaken() -> None:
        turn()
        if chance.random() < 0.3:
            made.restart()

    made.turn = shaken  # type: ignore[method-assign]
    found = made.run(replace(PLAN, soak_s=0.0))
    assert (found.completed, found.committed, found.still_open) == (True, 40, 0)


@pytest.mark.parametrize("mix", [{}, {"toaster": 1.0}, {"rk3588": -1.0}, {"rk3588": 0.0}])
def test_a_mix_that_no_fleet_could_have(mix: dict[str, float]) -> None:
    with pytest.raises(UserError):
        seed.check_mix(mix)
