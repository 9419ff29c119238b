"""What each device's deployment says to each gate: 1 against it, 0 for it, or nothing."""

from __future__ import annotations

import statistics
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field

from controller.domain.fleet import Deployment, Device, Gate, Rollout
from controller.domain.plan import SETTLE_S
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
    ratio: bool = False  # the estimate is a value of the devices, not a share of them


def checks(gate: Gate) -> tuple[Check, ...]:
    """The gates that are asked for."""
    share = gate.max_failure_share
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
    for name, limit, read, needs in (
        ("latency", gate.latency_ratio_max, p50_ratio, "nothing ran there to compare with"),
        (
            "latency p95",
            gate.latency_p95_ratio_max,
            p95_ratio,
            "too few runs for a 95th percentile",
        ),
        ("energy", gate.energy_ratio_max, energy_ratio, "no energy sensor, or none before"),
    ):
        if limit is not None:
            found.append(_ratio_check(name, limit, gate.above_share, read, needs))
    least = gate.agreement_min
    if least is not None:
        found.append(
            Check(
                name="agreement",
                limit=least,
                allowed=share,
                read=agreement,
                against=lambda value: value < least,
                words=lambda seen: _differing(seen, least),
                needs="no reference outputs",
            )
        )
    return tuple(found)


def _ratio_check(
    name: str, limit: float, share: float, read: Callable[[Deployment], float | None], needs: str
) -> Check:
    def words(seen: Seen) -> str:
        median = statistics.median(seen.values)
        return f"median {name} is {median:.2f} times the device's own baseline (allowed {limit:g})"

    return Check(
        name=name, limit=limit, allowed=share, read=read, needs=needs, ratio=True,
        against=lambda value: value > limit, words=words,
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
) -> Seen:
    """What a cohort's devices say to one gate."""
    label = rollout.gate.cluster
    ordered: list[float] = []
    ended: list[tuple[float, float, Deployment]] = []
    lies: dict[str, str] = {}
    waiting = missing = 0
    for deployment in deployments:
        if deployment.outcome is None:
            waiting += 1
            ordered.append(0.0)
            continue
        if not counts(deployment, rollout):
            continue
        value = check.read(deployment)
        if check.name == "failures":
            runs = contradiction(deployment, devices.get(deployment.device), now=now)
            lies |= {deployment.id: runs} if runs else {}
            value = float(deployment.outcome in BAD or bool(runs))
        if value is None:
            missing += 1
            continue
        against = float(check.against(value))
        ordered.append(against)
        ended.append((against, value, deployment))
    return Seen(
        ordered=ordered, ended=[e[0] for e in ended], values=[e[1] for e in ended],
        whose=[e[2] for e in ended], waiting=waiting, missing=missing, contradicted=lies,
        clusters=[_cluster(devices.get(e[2].device), label, e[2].device) for e in ended],
    )  # fmt: skip


def _cluster(device: Device | None, label: str, name: str) -> str:
    given = device.labels.get(label, "") if device is not None and label else ""
    return given or f"device {name}"


def contradiction(deployment: Deployment, device: Device | None, *, now: float) -> str:
    """What a device runs that says it committed and runs something else; empty when it does not.

    Its reports are looked at again after a while: the one with its slots may be on its way.
    """
    if deployment.outcome is not Outcome.COMMITTED or device is None or device.reported is None:
        return ""
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


def _differing(seen: Seen, limit: float) -> str:
    worst, device = min((v, d.device) for v, d in zip(seen.values, seen.whose, strict=True))
    return f"agreement {worst:.3f} on {device} is below {limit:g}"
