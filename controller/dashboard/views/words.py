"""Numbers, moments and states as people read them; what is missing is a dash and the reason."""

from __future__ import annotations

import enum
import math
from dataclasses import dataclass

from controller.domain import fleet
from fitment.core.deployment import Outcome
from fitment.core.measurement import Cost, Energy, Latency, Measurement

DASH = "–"


class Tone(enum.Enum):
    """How a state looks; its word always stands beside it, so colour is never all there is."""

    GOOD = "good"  # as it should be
    BUSY = "busy"  # on its way
    WARN = "warn"  # somebody should look
    BAD = "bad"  # it failed
    QUIET = "quiet"  # over, or not there


@dataclass(frozen=True, slots=True, kw_only=True)
class Value:
    """One quantity in words. ``note`` qualifies it, or says why there is none."""

    text: str
    note: str = ""

    @property
    def missing(self) -> bool:
        """Whether there is nothing but the reason."""
        return self.text == DASH


@dataclass(frozen=True, slots=True, kw_only=True)
class State:
    """A word and its tone."""

    word: str
    tone: Tone


def none(why: str) -> Value:
    """No value, and why."""
    return Value(text=DASH, note=why)


def percent(share: float | None, why: str, digits: int = 2) -> Value:
    """A share of 0..1."""
    if share is None or math.isnan(share):
        return none(why)
    return Value(text=f"{share * 100:.{digits}f} %")


def size(count: int | None, why: str) -> Value:
    """Bytes in the largest unit that keeps three digits."""
    if count is None:
        return none(why)
    for unit, bytes_ in (("GB", 1e9), ("MB", 1e6)):
        if count >= bytes_:
            return Value(text=f"{count / bytes_:,.2f} {unit}")
    return Value(text=f"{count / 1e3:,.1f} kB" if count >= 1000 else f"{count} B")


def milliseconds(value: float | None, why: str) -> Value:
    """A time, with as many digits as it bears."""
    if value is None:
        return none(why)
    return Value(text=f"{value:.3f} ms" if value < 100 else f"{value:,.1f} ms")


def cost(found: Cost | None, why: str) -> Value:
    """A cost with its kind, and its verdict where it has one."""
    if found is None:
        return none(why)
    verdict = f", {found.verdict.value}" if found.verdict else ""
    in_ms = found.unit == "ms"
    text = milliseconds(found.value, "").text if in_ms else f"{found.value:g} {found.unit}"
    by = f", corrected by residuals of {found.devices}" if found.devices else ""
    return Value(text=text, note=f"{found.kind.value}{verdict}{by}")


def latency(taken: Measurement | None, why: str) -> Value:
    """The median that a device measured, with its verdict, and whether it stands for another."""
    if taken is None:
        return none(why)
    if taken.latency is None:
        return none("; ".join(taken.reasons) or "the device timed nothing")
    note = taken.verdict.value + ", emulated" * (taken.emulated and taken.tells_costs)
    return Value(text=milliseconds(taken.latency.p50_ms, "").text, note=note)


def p95(found: Latency | None) -> Value:
    """A percentile that the number of runs may not support."""
    if found is None:
        return none("nothing was timed")
    return milliseconds(found.p95_ms, f"{found.count} runs do not support it")


def energy(found: Energy) -> Value:
    """Energy of one inference and how it was come by."""
    if found.value_mj is None:
        return none(found.reason or found.status.value)
    return Value(text=f"{found.value_mj:.3g} mJ", note=f"{found.status.value}, {found.method}")


def against(taken: Measurement | None) -> Value:
    """New over running, interleaved in one run."""
    if taken is None or taken.latency is None:
        return none("nothing was timed")
    if taken.baseline_latency is None or not taken.baseline_latency.p50_ms:
        return none("nothing ran before to compare with")
    return Value(text=f"× {taken.latency.p50_ms / taken.baseline_latency.p50_ms:.2f}")


def device_state(device: fleet.Device) -> State:
    """Where a device stands."""
    if device.decommissioned_at:
        return State(word="decommissioned", tone=Tone.QUIET)
    if device.revoked:
        return State(word="revoked", tone=Tone.QUIET)
    if device.reported is None:
        return State(word="never reported", tone=Tone.WARN)
    return State(word="online", tone=Tone.GOOD) if device.online else State(
        word="offline", tone=Tone.WARN
    )  # fmt: skip


_ROLLOUT = {
    fleet.RolloutState.DRAFT: Tone.QUIET,
    fleet.RolloutState.AWAITING_APPROVAL: Tone.WARN,
    fleet.RolloutState.RUNNING: Tone.BUSY,
    fleet.RolloutState.PAUSED: Tone.WARN,
    fleet.RolloutState.HALTED: Tone.BAD,
    fleet.RolloutState.REVERTING: Tone.BUSY,
    fleet.RolloutState.REVERTED: Tone.WARN,
    fleet.RolloutState.COMPLETED: Tone.GOOD,
    fleet.RolloutState.CANCELLED: Tone.QUIET,
}

_OUTCOME = {
    Outcome.COMMITTED: Tone.GOOD,
    Outcome.ROLLED_BACK: Tone.BAD,
    Outcome.FAILED: Tone.BAD,
    Outcome.REJECTED: Tone.BAD,
    Outcome.TIMED_OUT: Tone.BAD,
    Outcome.CANCELLED: Tone.QUIET,
    Outcome.SUPERSEDED: Tone.QUIET,
}

_JOB = {fleet.JobStatus.DONE: Tone.GOOD, fleet.JobStatus.FAILED: Tone.BAD}


def rollout_state(rollout: fleet.Rollout) -> State:
    """Where a rollout stands."""
    return State(word=rollout.state.value.replace("_", " "), tone=_ROLLOUT[rollout.state])


def deployment_state(deployment: fleet.Deployment) -> State:
    """How a deployment ended, or how far it is."""
    if deployment.outcome is None:
        return State(word=deployment.state.value.replace("_", " "), tone=Tone.BUSY)
    return State(word=deployment.outcome.value.replace("_", " "), tone=_OUTCOME[deployment.outcome])


def job_state(job: fleet.FitJob) -> State:
    """Where a fit stands."""
    return State(word=job.status.value, tone=_JOB.get(job.status, Tone.BUSY))


def is_emulated(device: fleet.Device) -> bool:
    """Whether a host stands in for the board."""
    return device.reported is not None and device.reported.fingerprint.emulated
