"""The control group: who is drawn, and when it ends."""

from __future__ import annotations

from dataclasses import replace

import pytest

from controller.domain import eligible, holding
from controller.domain import rollout as rules
from controller.domain.fleet import Release
from tests.scenarios.test_rollout import FIVE, GOOD, NOW, RUNNING, device, ended

FLEET = [replace(device(f"{n:03}"), labels={"site": str(n // 10)}) for n in range(200)]
ASKED = replace(RUNNING, control_share=0.1, waves=(1.0,))


def drawn(asked: rules.Rollout, fleet: list = FLEET) -> rules.Rollout:
    return replace(asked, control_below=holding.mark(asked, fleet))


@pytest.mark.parametrize("salt", ["r", "another", "a third"])
def test_so_many_are_held_as_are_asked_for_and_by_another_draw_others(salt: str) -> None:
    made = drawn(replace(ASKED, release=salt))
    held = {d.name for d in FLEET if holding.is_held(made, d)}
    assert len(held) == 20
    other = drawn(replace(ASKED, release=f"{salt}!"))
    assert held != {d.name for d in FLEET if holding.is_held(other, d)}


def test_a_site_stays_together_and_so_does_who_joins_it_later() -> None:
    made = drawn(replace(ASKED, control_by="site"))
    sites = {d.labels["site"] for d in FLEET if holding.is_held(made, d)}
    assert len(sites) == 2
    assert all(holding.is_held(made, d) == (d.labels["site"] in sites) for d in FLEET)
    late = replace(device("late"), labels={"site": min(sites)})
    assert holding.is_held(made, late)


def test_of_two_one_is_held_and_of_one_none_can_be() -> None:
    made = drawn(replace(ASKED, control_share=0.01), FLEET[:2])
    assert sum(holding.is_held(made, d) for d in FLEET[:2]) == 1
    with pytest.raises(ValueError, match="two clusters"):
        holding.mark(replace(ASKED, control_by="site"), FLEET[:10])


def test_who_is_held_is_no_target_until_the_group_ends() -> None:
    made = drawn(ASKED)
    release = Release(
        id="1", model="m", slot="s", counter=1, created_at=0.0, variants={"p": "v"}
    )  # fmt: skip
    takes = [d for d in FLEET if eligible.is_target(made, release, d)]
    assert len(takes) == 180
    over = replace(made, control_ended_at=NOW)
    assert all(eligible.is_target(over, release, d) for d in FLEET)
    assert sum(holding.belongs(over, d) for d in FLEET) == 20, "they are still told apart"


def test_it_ends_so_long_after_the_last_wave() -> None:
    made = replace(drawn(ASKED, list(FIVE)), control_s=100.0)
    done = {d.name: ended(d.name, GOOD) for d in FIVE}
    view = rules.View(rollout=made, targets=FIVE, deployments=done, now=NOW + 99.0)
    assert rules.steps(view) == ()
    (step,) = rules.steps(replace(view, now=NOW + 100.0))
    assert isinstance(step, rules.LetGo)
    let_go = replace(made, control_ended_at=NOW + 100.0)
    joined = replace(view, rollout=let_go, targets=(*FIVE, device("held")), now=NOW + 101.0)
    assert rules.steps(joined) == (rules.Admit(device="held", wave=0),)
    (end,) = rules.steps(replace(joined, targets=FIVE))
    assert isinstance(end, rules.Complete)
