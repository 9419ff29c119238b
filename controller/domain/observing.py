"""What each device's deployment says to each gate: 1 against it, 0 for it, or nothing."""

from __future__ import annotations

import statistics
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace

from controller.domain import footprint
from controller.domain.field import CHANCE, FIRST, Word
from controller.domain.fleet import Deployment, Device, Gate, Rollout
from controller.domain.judgement import Unit
from controller.domain.plan import SETTLE_S, own
from controller.domain.staying import Changes
from fitment.core import digest
from fitment.core.deployment import Outcome
from fitment.core.measurement import Measurement

BAD = frozenset({Outcome.ROLLED_BACK, Outcome.FAILED, Outcome.TIMED_OUT, Outcome.REJECTED})
"""Outcomes that speak against a variant."""
_VOID = frozenset({Outcome.SUPERSEDED, Outcome.CANCELLED})


@dataclass(frozen=True, slots=True, kw_only=True)
class Seen:
    """What the devices of one cohort said to one gate, in the order of their admission."""

    ordered: Sequence[float]  # 1 against, 0 for; an open one counts for it
    ended: Sequence[float]  # without those that are open
    values: Sequence[float] = ()  # the numbers behind it, of those that ended
    whose: Sequence[Deployment] = ()  # that ended, beside ``ended``
    clusters: Sequence[str] = ()  # of the same
    waiting: int = 0
    missing: int = 0
    contradicted: Mapping[str, str] = field(default_factory=dict)  # deployment -> what it runs

    def by_cluster(self) -> list[float]:
        """The mean of each cluster; a device without the label is one of its own."""
        found: dict[str, list[float]] = {}
        for value, cluster in zip(self.ended, self.clusters, strict=True):
            found.setdefault(cluster, []).append(value)
        return [statistics.fmean(values) for values in found.values()]


@dataclass(frozen=True, slots=True, kw_only=True)
class Check:
    """One gate: what it reads, and what it claims."""

    name: str
    limit: float
    allowed: float  # share of devices that may speak against it
    read: Callable[[Deployment], float | None]
    against: Callable[[float], bool]
    words: Callable[[Seen], str]
    needs: str = ""  # what a device lacks that says nothing
    own: bool = False  # the estimate is a value that each device is held against itself by
    unit: Unit = Unit.SHARE
    word: Callable[[Word], float | None] | None = None  # it reads labels, not the deployment
    beside: bool = False  # the control group's change is taken off


def checks(gate: Gate) -> tuple[Check, ...]:
    """The gates that are asked for; the false-halt rate is shared out among them."""
    share, above = gate.max_failure_share, gate.above_share
    found = [
        Check(
            name="failures",
            limit=share,
            allowed=share,
            read=lambda _: None,
            against=bool,
            words=lambda seen: _failures(seen, share),
        )
    ]
    for name, limit, unit, read, needs in (
        ("latency", gate.latency_ratio_max, Unit.TIMES, p50_ratio, "nothing ran there before"),
        ("latency p95", gate.latency_p95_ratio_max, Unit.TIMES, p95_ratio, "too few runs for one"),
        (
            "energy",
            gate.energy_ratio_max,
            Unit.TIMES,
            energy_ratio,
            "no energy sensor, or none before",
        ),
        (
            "memory",
            gate.memory_ratio_max,
            Unit.TIMES,
            memory_ratio,
            "no peak memory, or none before",
        ),
        (
            "agreement drop",
            gate.agreement_drop_max,
            Unit.POINTS,
            agreement_drop,
            "nothing ran there before",
        ),
        (
            "coverage drop",
            gate.coverage_drop_max,
            Unit.POINTS,
            coverage_drop,
            "no coverage, or none before",
        ),
    ):
        if limit is not None:
            made = _own_check(name, limit, above, unit, read, needs)
            found.append(replace(made, beside=name in ("energy", "memory")))
    for name, limit, read, needs in (
        ("agreement", gate.agreement_min, agreement, "no reference outputs"),
        ("coverage", gate.coverage_min, coverage, "its runtime does not tell"),
    ):
        if limit is not None:
            found.append(_least_check(name, limit, share, read, needs))
    if gate.thermal_share_max is not None:
        found.append(_thermal_check(gate.thermal_share_max))
    return (*found, *_field_checks(gate))


def _field_checks(gate: Gate) -> tuple[Check, ...]:
    """What labels from the field are held to; they come late, so most devices say nothing yet."""
    found, drop, share = [], gate.field_drop_max, gate.max_failure_share
    needs = f"fewer than {FIRST} labels of it, or of the release before"
    if drop is not None:
        whole = _own_check(
            "field accuracy drop", drop, gate.above_share, Unit.POINTS, lambda _: None, needs
        )
        found = [
            replace(whole, word=lambda word: word.drop),
            Check(
                name="field slices", limit=drop, allowed=max(share, CHANCE), read=lambda _: None,
                against=lambda value: value > drop, word=lambda word: word.surely, needs=needs,
                words=lambda seen: _surely_worse(seen, drop),
            ),
        ]  # fmt: skip
    if gate.must_pass:
        found.append(
            Check(
                name="must-pass", limit=share, allowed=share, read=lambda _: None, against=bool,
                word=lambda word: float(word.must_wrong) if word.must else None,
                words=_must_passed, needs="no answer is labelled as one that must pass",
            )
        )  # fmt: skip
    return tuple(found)


def _surely_worse(seen: Seen, limit: float) -> str:
    worst, device = max((v, d.device) for v, d in zip(seen.values, seen.whose, strict=True))
    bad = round(sum(seen.ended))
    return (
        f"labels show {bad} of {len(seen.ended)} devices to be surely worse in all or in a slice,"
        f" {device} by {worst:.3f} at least (allowed {limit:g})"
    )


def _must_passed(seen: Seen) -> str:
    bad = [(d.device, v) for v, d in zip(seen.values, seen.whose, strict=True) if v]
    device, count = bad[0]
    return f"{len(bad)} devices got an answer wrong that must pass: {device}, {count:.0f} of them"


Read = Callable[[Deployment], float | None]


def _own_check(name: str, limit: float, share: float, unit: Unit, read: Read, needs: str) -> Check:
    def words(seen: Seen) -> str:
        median = statistics.median(seen.values)
        if unit is Unit.TIMES:
            return (
                f"median {name} is {median:.2f} times the device's own baseline (allowed {limit:g})"
            )
        return f"median {name} is {median:.3f} below the device's own last (allowed {limit:g})"

    return Check(
        name=name, limit=limit, allowed=share, read=read, needs=needs, own=True, unit=unit,
        against=lambda value: value > limit, words=words,
    )  # fmt: skip


def _least_check(name: str, least: float, share: float, read: Read, needs: str) -> Check:
    return Check(
        name=name, limit=least, allowed=share, read=read, needs=needs,
        against=lambda value: value < least, words=lambda seen: _below(name, seen, least),
    )  # fmt: skip


def _thermal_check(share: float) -> Check:
    def words(seen: Seen) -> str:
        hot = [d.device for d, bad in zip(seen.whose, seen.ended, strict=True) if bad]
        return (
            f"{len(hot)} of {len(seen.ended)} were throttled, {hot[0]} among them, and not by what"
            f" ran there before (allowed share {share:g})"
        )

    return Check(
        name="thermal", limit=share, allowed=share, read=newly_throttled, against=bool,
        words=words, needs="no thermal sensor", beside=True,
    )  # fmt: skip


def is_void(deployment: Deployment) -> bool:
    """Whether it ended for reasons that say nothing of the variant."""
    return deployment.outcome in _VOID


def counts(deployment: Deployment, rollout: Rollout) -> bool:
    """Whether it ended and is judged; an acknowledged failure no longer is."""
    if deployment.outcome is None or is_void(deployment):
        return False
    return deployment.id not in rollout.acknowledged


def observe(
    check: Check,
    deployments: Sequence[Deployment],
    devices: Mapping[str, Device],
    rollout: Rollout,
    *,
    now: float,
    words: Mapping[str, Word] | None = None,
    changes: Changes | None = None,
) -> Seen:
    """What a cohort's devices say to one gate.

    Args:
        check: the gate.
        deployments: in the order of their admission.
        devices: by name.
        rollout: with the gate's settings.
        now: seconds, UTC.
        words: what labels say of devices, by name.
        changes: of the control group; until it has answered, a device of its wave is open.
    """
    label = rollout.gate.cluster
    ordered: list[float] = []
    ended: list[tuple[float, float, Deployment]] = []
    lies: dict[str, str] = {}
    waiting = missing = 0
    for deployment in deployments:
        if deployment.outcome is None or (changes is not None and changes.waits(deployment.wave)):
            waiting += 1
            ordered.append(0.0)
            continue
        if not counts(deployment, rollout):
            continue
        device = devices.get(deployment.device)
        value, runs = value_of(check, deployment, device, now=now, words=words)
        lies |= {deployment.id: runs} if runs else {}
        if value is None:
            missing += 1
            continue
        value = _corrected(check, value, deployment.wave, changes)
        against = float(check.against(value))
        ordered.append(against)
        ended.append((against, value, deployment))
    return Seen(
        ordered=ordered, ended=[e[0] for e in ended], values=[e[1] for e in ended],
        whose=[e[2] for e in ended], waiting=waiting, missing=missing, contradicted=lies,
        clusters=[_cluster(devices.get(e[2].device), label, e[2].device) for e in ended],
    )  # fmt: skip


def value_of(
    check: Check,
    deployment: Deployment,
    device: Device | None,
    *,
    now: float,
    words: Mapping[str, Word] | None = None,
) -> tuple[float | None, str]:
    """The number that a gate reads of a deployment that ended, None where there is none.

    Beside it what the device runs, where that contradicts its word.
    """
    if check.name != "failures":
        return _said(check, deployment, words or {}), ""
    runs = contradiction(deployment, device, now=now)
    return float(deployment.outcome in BAD or bool(runs)), runs


def _said(check: Check, deployment: Deployment, words: Mapping[str, Word]) -> float | None:
    if check.word is None:
        return check.read(deployment)
    word = words.get(deployment.device)
    return None if word is None else check.word(word)


def _corrected(check: Check, value: float, wave: int, changes: Changes | None) -> float:
    """A ratio beside the control group's of the same wave; a share is corrected in whole."""
    by = None if changes is None or check.unit is not Unit.TIMES else changes.of(wave)
    return value / by if by else value


def _cluster(device: Device | None, label: str, name: str) -> str:
    given = device.labels.get(label, "") if device is not None and label else ""
    return given or f"device {name}"


def contradiction(deployment: Deployment, device: Device | None, *, now: float) -> str:
    """What a device runs that says it committed and runs something else; empty when it does not.

    Its reports are looked at again after a while: the one with its slots may be on its way.
    """
    if deployment.outcome is not Outcome.COMMITTED or device is None or device.reported is None:
        return ""
    if not own(device, (deployment,)):
        return ""  # what it runs says nothing of the one that had its name
    if now - deployment.ended_at < SETTLE_S or device.last_seen < deployment.ended_at:
        return ""
    held = [s for s in device.reported.slots if s.slot == deployment.slot]
    if not held or held[0].variant == deployment.variant:
        return ""
    return digest.short(held[0].variant) if held[0].variant else "nothing"


def _costs(deployment: Deployment) -> Measurement | None:
    """What it cost there; None where an emulator took the place of the device."""
    taken = deployment.measurement
    return taken if taken is not None and taken.tells_costs else None


def p50_ratio(deployment: Deployment) -> float | None:
    """Median latency to that of what ran there, timed in turns on the same device."""
    taken = _costs(deployment)
    if taken is None or taken.latency is None or taken.baseline_latency is None:
        return None
    baseline = taken.baseline_latency.p50_ms
    return taken.latency.p50_ms / baseline if baseline > 0 else None


def p95_ratio(deployment: Deployment) -> float | None:
    """The same for the 95th percentile; None where too few runs support one."""
    taken = _costs(deployment)
    if taken is None or taken.latency is None or taken.baseline_latency is None:
        return None
    ours, baseline = taken.latency.p95_ms, taken.baseline_latency.p95_ms
    return ours / baseline if ours is not None and baseline else None


def energy_ratio(deployment: Deployment) -> float | None:
    """Energy of an inference to that of what ran there, as the device measured each."""
    taken, before = _costs(deployment), deployment.energy_before_mj
    if taken is None or taken.energy.value_mj is None or not before:
        return None
    return taken.energy.value_mj / before


def agreement(deployment: Deployment) -> float | None:
    """Share of reference inputs with the answer of fp32."""
    return None if deployment.measurement is None else deployment.measurement.agreement


def memory_ratio(deployment: Deployment) -> float | None:
    """Peak memory to that of what ran there, as the device measured each."""
    taken, before = _costs(deployment), deployment.before
    if taken is None or taken.peak_memory_bytes is None or before is None:
        return None
    own = before.peak_memory_bytes
    return taken.peak_memory_bytes / own if own else None


def newly_throttled(deployment: Deployment) -> float | None:
    """1 where clocks were cut while it was timed, and were not by what ran there before."""
    found, before = footprint.throttled(deployment.measurement), deployment.before
    if found is None:
        return None
    return float(found and not (before is not None and before.throttled))


def coverage(deployment: Deployment) -> float | None:
    """Share of heavy operators that ran in integers."""
    return None if deployment.measurement is None else deployment.measurement.integer_coverage


def coverage_drop(deployment: Deployment) -> float | None:
    """By how much that is less than of what ran there."""
    now, before = coverage(deployment), deployment.before
    if now is None or before is None or before.integer_coverage is None:
        return None
    return before.integer_coverage - now


def agreement_drop(deployment: Deployment) -> float | None:
    """By how much agreement with fp32 is less than that of what ran there."""
    now, before = agreement(deployment), deployment.before
    if now is None or before is None or before.agreement is None:
        return None
    return before.agreement - now


def needs_before(gate: Gate) -> bool:
    """Whether a gate holds a device against what ran on it before."""
    asked = (gate.memory_ratio_max, gate.coverage_drop_max, gate.agreement_drop_max,
             gate.thermal_share_max)  # fmt: skip
    return any(limit is not None for limit in asked)


def _failures(seen: Seen, allowed: float) -> str:
    bad = [d for d, against in zip(seen.whose, seen.ended, strict=True) if against]
    first = bad[0]
    outcome = first.outcome.value if first.outcome else ""
    why = f": {first.reasons[-1]}" if first.reasons else ""
    if first.id in seen.contradicted:
        why = f", but its own report says that it runs {seen.contradicted[first.id]}"
    return (
        f"{len(bad)} of {len(seen.ended)} failed (allowed share {allowed:g});"
        f" {first.device} {outcome}{why}"
    )


def _below(name: str, seen: Seen, limit: float) -> str:
    worst, device = min((v, d.device) for v, d in zip(seen.values, seen.whose, strict=True))
    return f"{name} {worst:.3f} on {device} is below {limit:g}"
