"""One rollout: waves, gates, how each device fares, and what an operator may do."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from controller.dashboard.views import words
from controller.dashboard.views.twin import variant_name
from controller.dashboard.views.words import State, Tone, Value
from controller.domain import eligible, fleet, transitions, windows
from controller.domain.field import Slice
from controller.domain.fleet import RolloutState
from controller.domain.judgement import Exposure, GateReport, GateVerdict, TooFew, Unit
from controller.domain.sequential import MOST
from fitment.core.deployment import DeploymentState, Span

ACTS: Mapping[str, tuple[RolloutState, str]] = {
    "pause": (
        RolloutState.PAUSED,
        "Nobody else is admitted; devices that have begun go on, but not those that wait.",
    ),
    "resume": (
        RolloutState.RUNNING,
        "It goes on. After a halt, the failures so far are acknowledged and judged no more.",
    ),
    "revert": (
        RolloutState.REVERTING,
        "Every device that was updated goes back to what it ran before.",
    ),
    "let-go": (
        RolloutState.RUNNING,
        "The control group ends: its devices get the release like the others.",
    ),
    "cancel": (
        RolloutState.CANCELLED,
        "It is given up: what is under way is taken back, what committed stays.",
    ),
}
"""What an operator may do, the state it leads to, and what that means."""


@dataclass(frozen=True, slots=True, kw_only=True)
class RolloutRecords:
    """What a rollout's page is made from."""

    rollout: fleet.Rollout
    release: fleet.Release | None = None
    deployments: Sequence[fleet.Deployment] = ()
    devices: Mapping[str, fleet.Device] | None = None
    names: Mapping[str, str] | None = None
    audit: Sequence[fleet.AuditEntry] = ()  # about the rollout itself
    gates: Sequence[GateReport] = ()
    exposure: Exposure | None = None
    control: Sequence[str] = ()  # devices that are held back now
    field: Sequence[Slice] = ()  # what labels say: new, old and control devices
    now: float = 0.0  # of the controller's clock


@dataclass(frozen=True, slots=True, kw_only=True)
class Wave:
    """One wave and how it went."""

    number: int
    share: str
    state: State
    admitted: int
    ended: int
    committed: int
    gate: str  # what its gate was judged on


@dataclass(frozen=True, slots=True, kw_only=True)
class DeploymentRow:
    """One device's way."""

    id: str
    device: str
    emulated: bool
    wave: int
    variant: str
    state: State
    window: Span | None  # that is open, or opens next, for one that waits
    reasons: tuple[str, ...]
    p50: Value
    ratio: Value
    agreement: Value
    since: float


@dataclass(frozen=True, slots=True, kw_only=True)
class GateRow:
    """One gate of one cohort, with what it was judged on."""

    cohort: str
    gate: str
    state: State
    estimate: Value
    bet: Value
    samples: Value
    reason: str


@dataclass(frozen=True, slots=True, kw_only=True)
class FieldRow:
    """How a group of devices answered, by labels."""

    devices: str
    slice: str
    accuracy: Value
    labels: str
    must_pass: str


@dataclass(frozen=True, slots=True, kw_only=True)
class Waves:
    """A rollout's page."""

    id: str
    slot: str
    model: str
    release: str
    state: State
    created_at: float
    selector: str
    gate: tuple[str, ...]
    deadline: str
    soak: str
    windows: tuple[str, ...]
    reasons: tuple[str, ...]
    waves: tuple[Wave, ...]
    devices: tuple[DeploymentRow, ...]
    gates: tuple[GateRow, ...]
    exposure: str
    control: str
    field: tuple[FieldRow, ...]
    asks: str
    pending: tuple[str, ...]
    revert_release: str
    trigger: str
    acts: tuple[str, ...]


def waves(records: RolloutRecords) -> Waves:
    """A rollout's page."""
    made, release = records.rollout, records.release
    every = sorted(records.deployments, key=lambda d: (d.wave, d.created_at))
    devices, names = records.devices or {}, records.names or {}
    return Waves(
        id=made.id,
        slot=release.slot if release else "",
        model=release.model if release else "",
        release=made.release,
        state=words.rollout_state(made),
        created_at=made.created_at,
        selector=eligible.asked_for(made),
        gate=gate(made.gate),
        deadline=f"{windows.words(made.deadline_s)} for each device"
        if made.deadline_s >= 3600
        else f"{made.deadline_s:g} s for each device",
        soak=f"{made.soak_s:g} s after each wave" if made.soak_s else "none",
        windows=made.windows,
        reasons=made.reasons,
        waves=tuple(wave(made, number, every, records.audit) for number in range(len(made.waves))),
        devices=tuple(deployment_row(d, devices.get(d.device), names, records.now) for d in every),
        gates=tuple(gate_row(report) for report in records.gates),
        exposure=exposure(records.exposure),
        control=control(made, records.control),
        field=tuple(field_row(row) for row in records.field),
        asks=made.asks,
        pending=made.pending,
        revert_release=made.revert_release,
        trigger=made.trigger,
        acts=acts(made.state, holds=bool(records.control)),
    )


def wave(
    made: fleet.Rollout,
    number: int,
    deployments: Sequence[fleet.Deployment],
    audit: Sequence[fleet.AuditEntry],
) -> Wave:
    """One wave; the gate's words are those of the decision that ended it."""
    mine = [d for d in deployments if d.wave == number]
    ended = [d for d in mine if d.outcome is not None]
    opened = {e.details.get("wave", ""): e for e in audit if e.action == "wave_opened"}
    after = opened.get(str(number + 1))
    words_of_gate = after.details.get("gate", "") if after else ""
    if not words_of_gate and number == made.wave and made.reasons:
        words_of_gate = made.reasons[-1]
    return Wave(
        number=number + 1,
        share=f"{made.waves[number]:.0%} of the cohorts, and of each",
        state=_wave_state(made, number),
        admitted=len(mine),
        ended=len(ended),
        committed=sum(words.deployment_state(d).tone is Tone.GOOD for d in ended),
        gate=words_of_gate,
    )


def deployment_row(
    deployment: fleet.Deployment,
    device: fleet.Device | None,
    names: Mapping[str, str],
    now: float = 0.0,
) -> DeploymentRow:
    """One device's way as a line."""
    taken = deployment.measurement
    running = deployment.outcome is None
    waits = running and deployment.state is DeploymentState.WAITING
    nothing = "not measured yet" if running else "nothing was measured"
    return DeploymentRow(
        id=deployment.id,
        device=deployment.device,
        emulated=device is not None and words.is_emulated(device),
        wave=deployment.wave + 1,
        variant=variant_name(deployment.variant, names),
        state=words.deployment_state(deployment),
        window=windows.coming(deployment.windows, now) if waits else None,
        reasons=deployment.reasons,
        p50=words.latency(taken, nothing),
        ratio=words.against(taken),
        agreement=words.percent(taken.agreement if taken else None, nothing),
        since=deployment.created_at if running else deployment.ended_at,
    )


_TONES: Mapping[GateVerdict, Tone] = {
    GateVerdict.HOLDS: Tone.GOOD,
    GateVerdict.FAILED: Tone.BAD,
    GateVerdict.UNDECIDED: Tone.BUSY,
    GateVerdict.EACH: Tone.WARN,
    GateVerdict.MISSING: Tone.WARN,
}


def gate_row(report: GateReport) -> GateRow:
    """One gate of one cohort as a line."""
    unit = report.unit
    note = f"allowed {report.limit:g}"
    if report.low is not None or report.high is not None:
        note = f"{_number(report.low, unit)} to {_number(report.high, unit)}, {note}"
    silent = f", {report.missing} without a number" if report.missing else ""
    bet = words.none("not statistical")
    if report.e_value is not None and report.e_needed is not None:
        text = f"{report.e_value:.3g}" if report.e_value < MOST else "certain"
        bet = Value(text=text, note=f"halts at {report.e_needed:.4g} (alpha {report.alpha:.2g})")
    return GateRow(
        cohort=report.cohort,
        gate=report.gate,
        state=State(word=report.verdict.value, tone=_TONES[report.verdict]),
        estimate=Value(text=_number(report.estimate, unit), note=note),
        bet=bet,
        samples=Value(text=str(report.samples), note=f"{report.waiting} under way{silent}"),
        reason=report.reason,
    )


def _number(value: float | None, unit: Unit) -> str:
    if value is None:
        return words.DASH
    if unit is Unit.TIMES:
        return f"× {value:.3f}"
    return f"{value:.2%}" if unit is Unit.SHARE else f"{value:+.3f}"


def exposure(found: Exposure | None) -> str:
    """How many devices it has reached and may reach, in words."""
    if found is None:
        return ""
    said = f"{found.admitted} admitted, at most {found.bound} in this wave"
    if found.likely_bound is None:
        return said
    return (
        f"{said}; a variant that fails on {found.detects:.0%} of a cohort is halted before it has"
        f" reached {found.likely_bound} of its devices, with 95 % confidence"
    )


def gate(asked: fleet.Gate) -> tuple[str, ...]:
    """What must hold before the next wave, one a line."""
    lines = [f"at most {asked.max_failure_share:.0%} of ended deployments failed, per cohort"]
    for name, limit in (
        ("latency", asked.latency_ratio_max),
        ("95th percentile of latency", asked.latency_p95_ratio_max),
        ("energy", asked.energy_ratio_max),
        ("peak memory", asked.memory_ratio_max),
    ):
        if limit is not None:
            who = "median" if asked.above_share == 0.5 else f"but for {asked.above_share:.0%}:"
            lines.append(f"{who} {name} at most × {limit:g} of the device's own")
    for words_of_it, share in (
        ("agreement with fp32 at least", asked.agreement_min),
        ("median agreement falls below the device's own last by at most", asked.agreement_drop_max),
        ("devices that it throttles, and the last one did not, at most", asked.thermal_share_max),
        ("heavy operators in integers at least", asked.coverage_min),
        (
            "median share of them falls below the device's own last by at most",
            asked.coverage_drop_max,
        ),
        ("field accuracy, and each slice's, falls by at most", asked.field_drop_max),
    ):
        if share is not None:
            lines.append(f"{words_of_it} {share:.2%}")
    if asked.must_pass:
        lines.append("no answer is wrong that is labelled as one that must pass")
    lines.append(f"judged from {asked.min_sample} ended deployment(s) on, and at each wave's end")
    lines.append(
        f"a good release is halted with a chance of {asked.false_halt_rate:.0%} at most, over all"
        " gates, cohorts and waves together"
    )
    if asked.cluster:
        lines.append(f"devices with one '{asked.cluster}' count as one, at the ends of waves")
    then = "it asks an operator" if asked.too_few is TooFew.ASK else "it goes on and says so"
    lines.append(f"where too few devices can tell: {then}")
    return tuple(lines)


def field_row(row: Slice) -> FieldRow:
    """One group and slice as a line."""
    counted, share = row.counted, row.counted.accuracy
    accuracy = words.none("nothing was labelled right or wrong") if share is None else Value(
        text=f"{share:.2%}", note=f"95 %: {row.low:.2%} to {row.high:.2%}"
    )  # fmt: skip
    passed = (
        f"{counted.must - counted.must_wrong} of {counted.must}" if counted.must else words.DASH
    )
    return FieldRow(
        devices=row.group, slice=row.slice or "all", accuracy=accuracy,
        labels=str(counted.count), must_pass=passed,
    )  # fmt: skip


def control(made: fleet.Rollout, held: Sequence[str]) -> str:
    """The group that stays on what it runs, in words; empty where there is none."""
    if not made.control_below:
        return ""
    if made.control_ended_at:
        return "it was let go, and gets the release like the others"
    together = f", whole '{made.control_by}' together," if made.control_by else ""
    until = f"{windows.words(made.control_s)} after" if made.control_s else "the end of"
    some = ", ".join(held[:8]) + (" …" if len(held) > 8 else "")
    return (
        f"{len(held)} {'device stays' if len(held) == 1 else 'devices stay'} on what runs there"
        f"{together} until {until} the last wave: {some}"
    )


def acts(state: RolloutState, *, holds: bool = False) -> tuple[str, ...]:
    """What an operator may do now, by the table of transitions."""
    after = transitions.ROLLOUT[state]
    resumable = {RolloutState.PAUSED, RolloutState.HALTED}
    offered = [
        name
        for name, (target, _) in ACTS.items()
        if target in after and name != "let-go" and (name != "resume" or state in resumable)
    ]
    if holds and state in {RolloutState.RUNNING, RolloutState.PAUSED}:
        offered.append("let-go")
    return tuple(offered)


def _wave_state(made: fleet.Rollout, number: int) -> State:
    if number < made.wave or made.state in {RolloutState.COMPLETED, RolloutState.REVERTED}:
        return State(word="done", tone=Tone.GOOD)
    if number > made.wave:
        return State(word="waits", tone=Tone.QUIET)
    return words.rollout_state(made)
