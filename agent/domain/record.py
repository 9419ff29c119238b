"""What the journal keeps of one deployment: written before each step, read after a restart."""

from __future__ import annotations

from dataclasses import dataclass

from agent.domain.trial import Told
from fitment.core.deployment import (
    Assignment,
    CalibrationReport,
    DeploymentReport,
    DeploymentState,
    Lesser,
    Outcome,
    SignedPayload,
)
from fitment.core.measurement import Measurement

FORMAT = 1
"""Raised when a stored record changes its meaning; new optional fields do not raise it."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Checked:
    """Answers to the golden inputs before the variant was activated or patched."""

    golden_ok: bool
    stack: str  # stack hash at the time
    agreement: float | None = None  # with the fp32 reference, 0..1
    integer_coverage: float | None = None  # heavy ops that ran in integers, 0..1
    reason: str = ""


def is_for_others(stacks: tuple[str, ...], stack: str) -> bool:
    """Whether what is for these stacks alone is not for this one."""
    return bool(stacks) and stack not in stacks


@dataclass(frozen=True, slots=True, kw_only=True)
class DeploymentRecord:
    """One deployment. Times are seconds of a clock that only this process knows.

    ``spent_s`` carries the time of earlier processes, so that a deadline counts the time that
    the agent really had: a device that was switched off for a week did not dawdle.
    """

    order: SignedPayload  # as received; the verify worker checks it
    assignment: Assignment
    format: int = FORMAT
    state: DeploymentState = DeploymentState.IDLE
    outcome: Outcome | None = None
    reasons: tuple[str, ...] = ()
    attempts: int = 0  # failed tries in this state
    waits: int = 0  # times in a row that the other side was away; lengthens the back-off only
    transitions: int = 0  # stored changes of state; capped, so no path is endless
    resumes: int = 0  # times that the agent or the machine died during this deployment
    mends: bool = False  # the device's own: what was committed is fetched again
    rung: int = 0  # the device's own: this one of the order's ladder
    stacks: tuple[str, ...] = ()  # the rung is for these alone; empty: any
    stopped: bool = False  # the agent was asked to stop; going on after that is no resume
    held: str = ""  # why its transfer waits for the device's allowance; empty: it does not
    refetched: bool = False
    failed_in: DeploymentState | None = None
    fetched_bytes: int = 0  # over the wire
    delta_base: str = ""  # variant that it was rebuilt from
    folder: str = ""  # "a" or "b": where it is staged
    checked: Checked | None = None
    served: Told | None = None  # what the slot's server said before the switch
    measurement: Measurement | None = None
    calibration: CalibrationReport | None = None
    started_at_s: float = 0.0
    state_entered_at_s: float = 0.0
    spent_s: float = 0.0  # before this process
    ended_generation: int | None = None  # observed generation when it ended

    @property
    def id(self) -> str:
        """The deployment's id."""
        return self.assignment.deployment

    def laid_by(self, stack: str) -> bool:
        """Whether it is for another stack than this: then nothing here can be asked of it."""
        return is_for_others(self.stacks, stack)

    def elapsed_s(self, now_s: float) -> float:
        """Seconds that the agent has worked on it."""
        return self.spent_s + max(0.0, now_s - self.started_at_s)

    def report(self) -> DeploymentReport:
        """What the controller is told; the outcome only once it stands, after any roll-back."""
        ended = self.state in (DeploymentState.REPORTING, DeploymentState.IDLE)
        return DeploymentReport(
            deployment=self.id,
            slot=self.assignment.slot,
            variant=self.assignment.bundle.variant,
            state=self.state,
            outcome=self.outcome if ended else None,
            reasons=self.reasons,
            attempts=self.attempts,
            fetched_bytes=self.fetched_bytes,
            delta_base=self.delta_base,
            held="" if ended else self.held,
            measurement=self.measurement,
            calibration=self.calibration,
        )


@dataclass(frozen=True, slots=True, kw_only=True)
class SlotFacts:
    """What one slot holds. ``variant`` is empty while nothing was ever committed."""

    slot: str
    variant: str = ""
    name: str = ""
    release: str = ""
    counter: int = 0
    calibration: str = ""  # overlay id, empty when pristine
    last_good: str = ""  # folder "a" or "b" of the committed variant
    golden_ok: bool | None = None
    integer_coverage: float | None = None
    checked_stack: str = ""  # stack hash of the last check
    reason: str = ""  # why it does not serve
    damaged: bool = False  # its files changed on the disk; nothing was done about it yet
    p50_ms: float | None = None  # measured on this device before it was committed
    ladder: tuple[Lesser, ...] = ()  # lesser variants that its order names
    deployment: str = ""  # that committed it; with a ladder, like the next two
    order: SignedPayload | None = None  # by which the ladder's bundles are verified
    throttle_c: float | None = None  # at which this class of device cuts its clocks
    coverage_min: float | None = None  # of heavy operators in integers, as its order asked
    stacks: tuple[str, ...] = ()  # a rung that is for these alone; empty: any
