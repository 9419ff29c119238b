"""What holds of every rollout, whatever its devices do: seeded worlds of some hundred devices."""

from __future__ import annotations

import json
import random
from dataclasses import dataclass, field, replace

import pytest

from controller.domain import gates
from controller.domain import rollout as rules
from controller.domain.fleet import Deployment, Device, Gate, Rollout, RolloutState
from controller.domain.judgement import TooFew
from fitment.core import plain
from fitment.core.deployment import Outcome
from tests.scenarios.test_rollout import BAD, GOOD, RUNNING, device, ended, timed

GATE = Gate(max_failure_share=0.03, false_halt_rate=0.1)


@dataclass(slots=True, kw_only=True)
class World:
    """A rollout without a controller: steps are taken as they are named."""

    chance: random.Random
    fails: float
    slower: float = 1.0
    forgetful: bool = False  # everything goes through JSON between two looks, as in a restart
    made: Rollout = field(default_factory=lambda: replace(RUNNING, gate=GATE, deadline_s=50.0))
    devices: list[Device] = field(default_factory=list)
    deployments: dict[str, Deployment] = field(default_factory=dict)
    steps: list[str] = field(default_factory=list)
    now: float = 1000.0

    def __post_init__(self) -> None:
        count = self.chance.randint(31, 250)
        self.devices = [
            device(f"{n:03}", stack=self.chance.choice("sstu")) for n in range(count)
        ]  # fmt: skip

    def view(self) -> rules.View:
        made, deployments = self.made, self.deployments
        if self.forgetful and self.now % 6 == 0:
            made = plain.from_plain(Rollout, json.loads(json.dumps(plain.to_plain(made))))
            deployments = {
                name: plain.from_plain(Deployment, json.loads(json.dumps(plain.to_plain(d))))
                for name, d in reversed(list(deployments.items()))
            }
        return rules.View(
            rollout=made, targets=self.devices, deployments=deployments, now=self.now
        )  # fmt: skip

    def turn(self) -> None:
        view = self.view()
        for step in rules.steps(view):
            self._take(step, view)
        exposed, bound = len(self.deployments), rules.exposure(self.view()).bound
        assert exposed <= bound
        for members in view.cohorts().values():
            mine = view.of(members)
            ends = sum(d.outcome is not None for d in mine)
            assert len(mine) - ends <= max(GATE.open_most, ends)
        self.now += 1.0
        self._devices_act()

    def _take(self, step: rules.Step, view: rules.View) -> None:
        self.steps.append(repr(step))
        match step:
            case rules.Admit():
                assert step.device not in self.deployments
                assert step.wave == self.made.wave
                self.deployments[step.device] = replace(
                    ended(step.device, None, created_at=self.now),
                    cohort=next(d.cohort for d in self.devices if d.name == step.device),
                )
            case rules.NextWave():
                assert step.wave == self.made.wave + 1
                assert all(d.outcome is not None for d in self.deployments.values())
                assert not gates.failed(rules.reports(view, final=True))
                self.made = replace(self.made, wave=step.wave)
            case rules.TimeOut():
                (name,) = [n for n, d in self.deployments.items() if d.id == step.deployment]
                self._end(name, Outcome.TIMED_OUT)
            case rules.Halt():
                self.made = replace(self.made, state=RolloutState.HALTED)
            case rules.Complete():
                self.made = replace(self.made, state=RolloutState.COMPLETED)
            case rules.Ask():
                self.made = replace(self.made, answered=self.made.wave)

    def _devices_act(self) -> None:
        self.devices = [replace(d, online=self.chance.random() < 0.9) for d in self.devices]
        for name, deployment in self.deployments.items():
            if deployment.outcome is None and self.chance.random() < 0.4:
                bad = self.chance.random() < self.fails
                if self.chance.random() > 0.01:  # else it never says anything again
                    self._end(name, BAD if bad else GOOD)

    def _end(self, name: str, outcome: Outcome) -> None:
        noise = self.chance.gauss(1.0, 0.05)
        taken = timed(ratio=self.slower * noise) if outcome is GOOD else None
        self.deployments[name] = replace(
            self.deployments[name], outcome=outcome, ended_at=self.now, measurement=taken
        )

    def run(self) -> World:
        for _ in range(3000):
            self.turn()
            open_ones = [d for d in self.deployments.values() if d.outcome is None]
            if self.made.state is not RolloutState.RUNNING and not open_ones:
                return self
        pytest.fail("it never ended")


@pytest.mark.parametrize("seed", range(12))
def test_gates_hold_exposure_is_bounded_and_everything_ends(seed: int) -> None:
    chance = random.Random(seed)
    fails = chance.choice((0.0, 0.02, 0.15, 0.6))
    World(chance=chance, fails=fails, slower=chance.choice((0.7, 1.0, 1.3))).run()


@pytest.mark.parametrize("seed", range(3))
def test_a_restart_between_any_two_looks_changes_nothing(seed: int) -> None:
    runs = [
        World(chance=random.Random(seed), fails=0.08, forgetful=forgetful).run()
        for forgetful in (False, True)
    ]
    assert runs[0].steps == runs[1].steps
    assert runs[0].made == runs[1].made


def test_a_slow_variant_that_commits_everywhere_is_halted() -> None:
    world = World(chance=random.Random(1), fails=0.0, slower=1.3).run()
    assert world.made.state is RolloutState.HALTED
    assert len(world.deployments) < 90


def test_where_too_few_can_tell_it_asks_once_a_wave() -> None:
    few = [device(str(n)) for n in range(5)]
    made = replace(RUNNING, gate=Gate(too_few=TooFew.ASK))
    view = rules.View(
        rollout=made, targets=few, deployments={"0": ended("0", GOOD)}, now=2000.0
    )  # fmt: skip
    (step,) = rules.steps(view)
    assert isinstance(step, rules.Ask)
    assert "not statistical" in step.reason
    (after,) = rules.steps(replace(view, rollout=replace(made, answered=0)))
    assert isinstance(after, rules.NextWave)
