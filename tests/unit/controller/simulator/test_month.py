"""A month: its truth, and the first days of it below the controller's own loop."""

from __future__ import annotations

from xml.etree import ElementTree as ET

import pytest

from controller.domain.fleet import TriggerKind
from controller.simulator import climate, month_plot
from controller.simulator.month import SLOT, Month, Policy
from controller.simulator.physics import BOARDS, DAY_S, Machine
from controller.simulator.world import BEGIN_S, trusted


def state(profile: str, day: float, *, stack: str = "1.0", number: int = 9) -> climate.State:
    machine = Machine(board=BOARDS[profile])
    return climate.state(machine, profile, number, stack, at_s=BEGIN_S + day * DAY_S, day=day)


@pytest.mark.parametrize(
    ("profile", "day", "stack", "best"),
    [
        ("raspberry-pi-5", 2, "1.0", "balanced"),
        ("raspberry-pi-5", 12, "1.0", "lean"),
        ("raspberry-pi-5", 20, "1.0", "balanced"),
        ("jetson-orin-nano", 2, "1.0", "balanced"),
        ("jetson-orin-nano", 6, "2.0", "lean"),
        ("jetson-orin-nano", 15, "3.0", "exact"),
        ("rk3588", 2, "1.0", "balanced"),
        ("rk3588", 9, "1.0", "lean"),
        ("rk3588", 19, "1.0", "exact"),
    ],
)
def test_what_is_right_for_a_class_changes_as_the_rows_say(
    profile: str, day: float, stack: str, best: str
) -> None:
    how = state(profile, day, stack=stack)
    limit = climate.LIMIT_MS[profile]
    assert min(climate.PACE, key=lambda name: climate.cost(name, how, limit)) == best
    assert climate.regret(best, how, limit) == 0.0
    assert all(climate.regret(name, how, limit) > 0 for name in climate.PACE if name != best)


def test_what_befalls_one_device_befalls_no_other() -> None:
    for one in climate.ALONE:
        before, after = (state(one.profile, one.day + d, number=one.number) for d in (-0.1, 0.1))
        other = state(one.profile, one.day + 0.1, number=one.number + 1)
        assert after.ms["lean"] > 1.3 * before.ms["lean"]
        assert other.ms["lean"] == pytest.approx(before.ms["lean"], rel=0.02)


def test_ten_days_of_the_loop() -> None:
    """Two devices fall ill and are tickets; a driver and a silent patch are one trigger each."""
    with trusted() as (trust, folder):
        world = Month(12, 3, Policy.OURS, trust, folder)
        for device in world.members:
            device.coming = [(day, stack) for day, stack in device.coming if day < 10.0]
        result = world.live(days=10)
        assert result.tickets == ("sim-006", "sim-007")
        assert result.tickets == result.ill[:2]
        kinds = [t.kind for t in world.store.triggers.find()]
        assert kinds.count(TriggerKind.BUDGET_MISSED) == 1
        assert TriggerKind.STACK_CHANGED in kinds
        assert result.fits == 1, "of the new driver's cohort; the rest is chosen among anew"
        runs = {d.name: d.slots[SLOT].name for d in world.members}
        assert {runs[d.name] for d in world.members if d.profile != "raspberry-pi-5"} >= {"lean"}
        assert runs["sim-009"] == "balanced", "a device beside one that is ill keeps what it has"
        never = Month(12, 3, Policy.NEVER, trust, folder).live(days=10)
    assert (never.refits, never.tickets, never.settled) == (0, (), True)
    assert result.regret < 0.5 * never.regret
    assert result.refits <= 4
    drawn = ET.fromstring(month_plot.picture([result, never]))
    lines = [e for e in drawn.iter() if e.tag.endswith("polyline")]
    assert len(lines) == 4, "two panels with a line a policy"
