"""What came of a simulation."""

from __future__ import annotations

from dataclasses import dataclass

from controller.domain import fleet
from controller.domain.fleet import RolloutState
from controller.domain.judgement import GateReport
from controller.reconcile import rolling
from controller.reconcile.context import Context
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


@dataclass(frozen=True, slots=True, kw_only=True)
class WireResult(Result):
    """The same on the wire, where ``seconds`` are ours, and what it took.

    All but the last five are of the time in which the rollout ran; shares are of one core.
    """

    pace: float  # modelled seconds in one of ours
    messages_per_s: float  # from devices, that the broker took
    telemetry_rows_per_s: float  # that the controller stored
    ack_p50_ms: float | None  # from a telemetry batch's sending to the word that it is on disk
    ack_p95_ms: float | None
    controller_cpu_share: float
    broker_cpu_share: float
    simulator_cpu_share: float
    tick_ms: float  # of the controller's loop, mean
    tick_cpu_ms: float  # processor time of one, mean: what a busy machine cannot stretch
    tick_most_ms: float  # no tick took longer than this bound
    controller_cpu_share_quiet: float  # with telemetry alone, before the rollout
    tick_quiet_ms: float
    tick_quiet_cpu_ms: float
    controller_rss_bytes: int
    controller_rss_bytes_per_device: int  # above what it took before a device was there
    broker_rss_bytes_per_device: int
    connect_s: float  # until every device was told what is desired of it
    lost_connections: int


def result_of(context: Context, made: fleet.Rollout, wanted: Fleet, seconds: float) -> Result:
    """How a rollout stands."""
    gates, exposure = rolling.judged(context, made.id)
    every = context.store.deployments.find(rollout=made.id)
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
