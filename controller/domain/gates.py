"""What must hold of a cohort before a rollout goes on."""

from __future__ import annotations

import statistics
from collections.abc import Sequence

from controller.domain.fleet import Deployment, Rollout
from fitment.core.deployment import Outcome

STATISTICAL = 30
"""Below so many ended deployments a share says little: each device's own comparison is judged."""

_BAD = frozenset({Outcome.ROLLED_BACK, Outcome.FAILED, Outcome.TIMED_OUT, Outcome.REJECTED})
_VOID = frozenset({Outcome.SUPERSEDED, Outcome.CANCELLED})


def is_void(deployment: Deployment) -> bool:
    """Whether it ended for reasons that say nothing of the variant."""
    return deployment.outcome in _VOID


def counts(deployment: Deployment, rollout: Rollout) -> bool:
    """Whether it ended and is judged; an acknowledged failure no longer is."""
    if deployment.outcome is None or is_void(deployment):
        return False
    return deployment.id not in rollout.acknowledged


def failure(deployments: Sequence[Deployment], rollout: Rollout, *, least: int) -> str:
    """Why one cohort's gate does not hold, in words; empty when it does.

    Args:
        deployments: of one cohort in this rollout.
        rollout: with the gate.
        least: fewer ended deployments than this are not judged yet.
    """
    judged = [d for d in deployments if counts(d, rollout)]
    if not judged or len(judged) < least:
        return ""
    found = _failures(judged, rollout) or _slow(judged, rollout) or _differing(judged, rollout)
    return found + _label(len(judged), rollout) if found else ""


def summary(deployments: Sequence[Deployment], rollout: Rollout) -> str:
    """What a gate that held was judged on, in words."""
    judged = [d for d in deployments if counts(d, rollout)]
    good = sum(d.outcome is Outcome.COMMITTED for d in judged)
    return f"{good} of {len(judged)} committed{_label(len(judged), rollout)}"


def _label(judged: int, rollout: Rollout) -> str:
    if judged >= max(STATISTICAL, rollout.gate.min_sample):
        return ""
    return " (not statistical: judged by each device's own comparison)"


def _failures(judged: Sequence[Deployment], rollout: Rollout) -> str:
    bad = [d for d in judged if d.outcome in _BAD]
    allowed = rollout.gate.max_failure_share
    if len(bad) <= allowed * len(judged):
        return ""
    first = bad[0]
    outcome = first.outcome.value if first.outcome else ""
    why = f": {first.reasons[-1]}" if first.reasons else ""
    return (
        f"{len(bad)} of {len(judged)} failed (allowed share {allowed:g});"
        f" {first.device} {outcome}{why}"
    )


def _slow(judged: Sequence[Deployment], rollout: Rollout) -> str:
    """Interleaved with the device's own baseline, so that a disturbance meets both alike."""
    limit = rollout.gate.latency_ratio_max
    ratios = [ratio for ratio in map(_ratio, judged) if ratio is not None]
    if limit is None or not ratios:
        return ""
    median = statistics.median(ratios)
    if median <= limit:
        return ""
    return f"median latency is {median:.2f} times the device's own baseline (allowed {limit:g})"


def _ratio(deployment: Deployment) -> float | None:
    taken = deployment.measurement
    if taken is None or taken.latency is None or taken.baseline_latency is None:
        return None
    baseline = taken.baseline_latency.p50_ms
    return taken.latency.p50_ms / baseline if baseline > 0 else None


def _differing(judged: Sequence[Deployment], rollout: Rollout) -> str:
    limit = rollout.gate.agreement_min
    seen = [
        (d.measurement.agreement, d.device)
        for d in judged
        if d.measurement is not None and d.measurement.agreement is not None
    ]
    if limit is None or not seen:
        return ""
    worst, device = min(seen)
    return "" if worst >= limit else f"agreement {worst:.3f} on {device} is below {limit:g}"
