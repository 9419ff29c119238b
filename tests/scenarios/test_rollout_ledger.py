"""A rollout's sums decide as its records do, whatever its devices do and operators ask for."""

from __future__ import annotations

import random
from dataclasses import dataclass, field, replace

import pytest

from controller.domain import ledger as sums
from controller.domain import rollout as rules
from controller.domain.fleet import Deployment, Device, Gate, Rollout, RolloutState
from controller.domain.ledger import Ledger
from fitment.core.deployment import UNDERSTANDS_WINDOWS, Outcome, SlotReport
from tests.scenarios.test_rollout import RUNNING, device, ended, timed

GATES = (
    Gate(max_failure_share=0.05, agreement_min=0.95),
    Gate(max_failure_share=0.2, latency_p95_ratio_max=1.2, above_share=0.3, open_most=5),
    Gate(max_failure_share=0.1, min_sample=15, false_halt_rate=0.4),
    Gate(max_failure_share=0.05, cluster="site", thermal_share_max=0.5),
    Gate(max_failure_share=0.0, latency_ratio_max=1.05),
    Gate(max_failure_share=0.6, latency_ratio_max=None),
)
ILL = (
    Outcome.ROLLED_BACK, Outcome.FAILED, Outcome.FAILED, Outcome.REJECTED, Outcome.SUPERSEDED,
    Outcome.CANCELLED,
)  # fmt: skip


@dataclass(slots=True, kw_only=True)
class World:
    """Records that change at random, and both ways to decide."""

    chance: random.Random
    made: Rollout
    fails: float
    lies: float  # devices that run something else than they say
    now: float = 1000.0
    targets: dict[str, Device] = field(default_factory=dict)
    deployments: dict[str, Deployment] = field(default_factory=dict)
    earlier: dict[str, tuple[Deployment, ...]] = field(default_factory=dict)
    kept: Ledger = field(init=False)
    numbers: int = 0

    def __post_init__(self) -> None:
        for number in range(self.chance.choice((12, 80, 200))):
            self._put(self._device(f"{number:03}"))
        self._open_ledger()

    def _open_ledger(self) -> None:
        self.kept = Ledger(
            rollout=self.made, targets=self.targets, deployments=self.deployments,
            earlier=self.earlier,
        )  # fmt: skip

    def _device(self, name: str) -> Device:
        made = device(name, stack=self.chance.choice("sstu"))
        assert made.reported is not None
        told = (UNDERSTANDS_WINDOWS,) if self.chance.random() < 0.9 else ()
        slots = (SlotReport(slot="s", variant="w" if self.chance.random() < self.lies else "v"),)
        reported = replace(made.reported, understands=told, slots=slots)
        return replace(
            made, reported=reported, online=self.chance.random() < 0.9, last_seen=self.now,
            labels={"site": self.chance.choice("abcdefgh")},
            renamed_at=self.now if self.chance.random() < 0.1 else 0.0,  # another has the name
        )  # fmt: skip

    def _put(self, made: Device) -> None:
        self.targets[made.name] = made
        if self.numbers:
            self.kept.look(made.name)

    def turn(self) -> tuple[rules.Step, ...]:
        self.numbers += 1
        expected = rules.steps(self._view())
        found = self.kept.steps(self.made, self.now)
        assert _ordered(found) == _ordered(expected)
        self._check_sums()
        if self.chance.random() < 0.2:  # a restart
            self._open_ledger()
            assert _ordered(self.kept.steps(self.made, self.now)) == _ordered(expected)
        for step in expected:
            self._take(step)
        for _ in range(self.chance.choice((0, 1, 3, 20))):
            self._happens()
        self.now += self.chance.choice((0.5, 1.0, 7.0))
        return expected

    def _check_sums(self) -> None:
        """The sums are those of the records, also where they decide nothing yet."""
        reports = rules.reports(self._view())
        judged = [(r.e_value, r.e_needed) for r in reports if r.e_value and r.e_needed]
        held = self.kept.stakes()
        assert [pair for pair in held if pair != (1.0, 1.0)] == judged

    def _view(self) -> rules.View:
        return rules.View(
            rollout=self.made, targets=tuple(self.targets.values()),
            deployments=dict(self.deployments), earlier=dict(self.earlier), now=self.now,
        )  # fmt: skip

    def _take(self, step: rules.Step) -> None:
        match step:
            case rules.Admit():
                self._admit(step.device)
            case rules.TimeOut():
                found = next(d for d in self.deployments.values() if d.id == step.deployment)
                self._end(found, Outcome.TIMED_OUT)
            case rules.NextWave():
                self.made = replace(self.made, wave=step.wave)
            case rules.Halt():
                every = (*self.deployments.values(), *(d for e in self.earlier.values() for d in e))
                self._set(acknowledged=tuple(d.id for d in every if d.outcome is not None))
            case rules.Complete():
                self._set(state=RolloutState.COMPLETED, pending=step.pending)
            case _:
                self._set(answered=self.made.wave)

    def _set(self, **changes: object) -> None:
        before, self.made = self.made, replace(self.made, **changes)  # type: ignore[arg-type]
        if not sums.same_settings(before, self.made):
            self._open_ledger()

    def _admit(self, name: str) -> None:
        known = self.deployments.get(name)
        self.numbers += 1
        cohort = self.targets[name].cohort if self.chance.random() < 0.95 else None
        again = known is not None and known.id in self.made.retried
        if known is not None and again:
            self.earlier[name] = (*self.earlier.get(name, ()), known)
        self.deployments[name] = replace(
            ended(name, None, created_at=self.now), id=f"{name}-{self.numbers}", cohort=cohort,
            attempt=1 + len(self.earlier.get(name, ())),
        )  # fmt: skip
        self.kept.look(name)

    def _end(self, known: Deployment, outcome: Outcome) -> None:
        ratio = self.chance.gauss(1.0, 0.06)
        taken = timed(ratio=ratio, agreement=self.chance.choice((1.0, 0.9)))
        self.deployments[known.device] = replace(
            known, outcome=outcome, ended_at=self.now,
            measurement=taken if self.chance.random() < 0.9 else None,
            held_back=outcome is Outcome.CANCELLED and self.chance.random() < 0.5,
        )  # fmt: skip
        self.kept.look(known.device)

    def _happens(self) -> None:
        names = sorted(self.targets)
        chosen = self.chance.random()
        if chosen < 0.7:
            going = [d for d in self.deployments.values() if d.outcome is None]
            if going:
                bad = self.chance.random() < self.fails
                outcome = self.chance.choice(ILL) if bad else Outcome.COMMITTED
                self._end(self.chance.choice(going), outcome)
        elif chosen < 0.9 and names:
            self._put(self._device(self.chance.choice(names)))
        elif chosen < 0.94 and len(names) > 5:
            gone = self.chance.choice(names)
            known = self.targets.pop(gone)
            self.kept.look(gone)
            if self.chance.random() < 0.3:  # it is back before anybody decides
                self._put(known)
        elif chosen < 0.98:
            back = set(self.deployments) - set(self.targets) or {
                f"{self.chance.randint(0, 300):03}"
            }
            self._put(self._device(self.chance.choice(sorted(back))))
        else:
            bad = [d.id for d in self.deployments.values() if d.outcome is Outcome.FAILED]
            if bad:
                again = (*self.made.retried, self.chance.choice(bad))
                self._set(retried=again, state=RolloutState.RUNNING)


def _ordered(steps: tuple[rules.Step, ...]) -> list[str]:
    """Deadlines end at one moment whichever comes first; everything else has its order."""
    words = [repr(step) for step in steps]
    return sorted(words) if any(isinstance(s, rules.TimeOut) for s in steps) else words


@pytest.mark.parametrize("seed", range(30))
def test_sums_decide_as_records_do(seed: int) -> None:
    chance = random.Random(seed)
    made = replace(
        RUNNING, gate=GATES[seed % len(GATES)], deadline_s=60.0, soak_s=chance.choice((0.0, 9.0)),
        waves=chance.choice(((0.1, 0.5, 1.0), (1.0,))),
        windows=("Mon 02:00 +2h",) if seed % 5 == 4 else (),
        windows_end=1300.0 if seed % 10 == 9 else 0.0,
    )  # fmt: skip
    world = World(
        chance=chance, made=made, fails=chance.choice((0.02, 0.1, 0.7)),
        lies=chance.choice((0.0, 0.02, 0.3)),
    )  # fmt: skip
    kinds = {type(step) for _ in range(100) for step in world.turn()}
    assert rules.Admit in kinds
