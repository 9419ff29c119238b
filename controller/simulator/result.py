"""What came of a simulation."""

from __future__ import annotations

from dataclasses import dataclass

from controller.domain import fleet
from controller.domain.fleet import RolloutState
from controller.domain.judgement import GateReport
from controller.reconcile.controller import Controller
from controller.simulator.seed import Fleet
from fitment.core.deployment import Outcome


@dataclass(frozen=True, slots=True, kw_only=True)
class Result:
    """One rollout over one modelled fleet; everything in it is modelled but ``wall_seconds``."""

    scenario: str
    seed: int
    devices: int
    completed: bool
    halted: bool
    committed: int  # deployments, when the rollout ended
    failed: int
    exposed_at_halt: int | None  # devices admitted when it halted; null: it did not
    exposure_bound: int  # of the wave that it ended in
    likely_bound: int | None
    seconds: float  # of virtual time, until it completed or halted
    state: str
    reason: str
    gates: tuple[GateReport, ...] = ()
    wall_seconds: float = 0.0
    still_open: int = 0  # deployments without an end
    triggers: int = 0


def result_of(controller: Controller, made: fleet.Rollout, wanted: Fleet, seconds: float) -> Result:
    """How a rollout stands."""
    gates, exposure = controller.judged(made.id)
    every = controller.store.deployments.find(rollout=made.id)
    halted = made.state is RolloutState.HALTED
    return Result(
        scenario=wanted.scenario.name, seed=wanted.seed, devices=wanted.devices,
        completed=made.state is RolloutState.COMPLETED, halted=halted,
        committed=sum(d.outcome is Outcome.COMMITTED for d in every),
        failed=sum(d.outcome not in (None, Outcome.COMMITTED) for d in every),
        exposed_at_halt=exposure.admitted if halted else None, exposure_bound=exposure.bound,
        likely_bound=exposure.likely_bound, seconds=seconds, state=made.state.value,
        reason=made.reasons[-1] if made.reasons else "", gates=gates,
    )  # fmt: skip
