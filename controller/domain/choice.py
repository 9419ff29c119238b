"""Which variant a cohort gets: a pure function of evidence, budget and measurements.

Only guard figures choose (held out of training, disjoint from calibration); test figures are
for people. A tenth of the accuracy budget is kept in reserve, because the field is harsher than
the guard set; it is spent only when nothing else qualifies, and the reason then says so.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from controller.domain.fleet import Budget, Choice, Variant
from fitment.core.measurement import CostKind, Measurement, Verdict

RESERVE = 0.1
"""Share of the accuracy budget that is kept back."""
TIE = 0.03
"""Latencies closer than this share are equal; the smaller transfer wins."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Excess:
    """By how much a variant misses one limit; ``share`` is relative to the limit."""

    share: float
    words: str


def choose(
    variants: Sequence[Variant],
    budget: Budget,
    measured: Mapping[str, Measurement],
    *,
    reserve: float = RESERVE,
) -> Choice:
    """Rank the variants that keep to ``budget`` by latency and take the first.

    Args:
        variants: candidates with their evidence.
        budget: limits; null ones are not asked.
        measured: measurement by variant digest, from a device of the cohort.
        reserve: share of the accuracy budget kept back.

    Returns:
        A choice whose ``chosen`` is empty when no variant keeps to the budget; its reason then
        says which came closest and by how much.
    """
    misses = {
        v.bundle.variant: _misses(v, budget, measured.get(v.bundle.variant)) for v in variants
    }
    strict = {
        v.bundle.variant: _misses(
            v, budget, measured.get(v.bundle.variant), accuracy_share=1.0 - reserve
        )
        for v in variants
    }
    fitting = [v for v in variants if not strict[v.bundle.variant]]
    from_reserve = not fitting
    if from_reserve:
        fitting = [v for v in variants if not misses[v.bundle.variant]]
    rejected = {
        digest: "; ".join(miss.words for miss in found) for digest, found in misses.items() if found
    }
    if not fitting:
        return Choice(chosen="", reason=_closest(variants, misses), rejected=rejected)
    ranked = _rank(fitting, measured)
    best = ranked[0]
    reason = _reason(best, variants, budget, measured)
    if from_reserve:
        reason += "; this spends the reserve of the accuracy budget, nothing else qualified"
    return Choice(
        chosen=best.bundle.variant,
        reason=reason,
        ranked=tuple(v.bundle.variant for v in ranked),
        rejected=rejected,
    )


def latency_ms(variant: Variant, measurement: Measurement | None) -> float | None:
    """Median latency: measured on the device when there is one, else predicted, else unknown."""
    if measurement is not None and measurement.latency is not None:
        return measurement.latency.p50_ms
    return variant.predicted.value if variant.predicted else None


def _rank(variants: Sequence[Variant], measured: Mapping[str, Measurement]) -> list[Variant]:
    """By latency, with ties (within `TIE` of the fastest left) by bytes on the wire."""
    left = sorted(variants, key=lambda v: _known(latency_ms(v, measured.get(v.bundle.variant))))
    ranked: list[Variant] = []
    while left:
        fastest = _known(latency_ms(left[0], measured.get(left[0].bundle.variant)))
        tied = [
            v
            for v in left
            if _known(latency_ms(v, measured.get(v.bundle.variant))) <= fastest * (1 + TIE)
        ]
        first = min(tied, key=lambda v: v.wire_bytes)
        ranked.append(first)
        left.remove(first)
    return ranked


def _known(value: float | None) -> float:
    return float("inf") if value is None else value


def _misses(
    variant: Variant,
    budget: Budget,
    measurement: Measurement | None,
    *,
    accuracy_share: float = 1.0,
) -> list[Excess]:
    found: list[Excess | None] = []
    if budget.accuracy_drop_max is not None and variant.guard_accuracy_drop is not None:
        limit = budget.accuracy_drop_max * accuracy_share
        found.append(_over("accuracy drop", variant.guard_accuracy_drop, limit, scale=0.01))
    if budget.agreement_min is not None:
        found.append(_under("agreement", variant.guard_agreement, budget.agreement_min))
    limits = (
        ("file bytes", variant.file_bytes, budget.file_bytes_max),
        ("bytes on the wire", variant.wire_bytes, budget.wire_bytes_max),
        ("p95 latency in ms", _p95(variant, measurement), budget.latency_p95_max_ms),
        (
            "peak memory in bytes",
            measurement.peak_memory_bytes if measurement else None,
            budget.peak_memory_max_bytes,
        ),
        (
            "energy in mJ",
            measurement.energy.value_mj if measurement else None,
            budget.energy_max_mj,
        ),
    )
    found += [_over(name, value, limit) for name, value, limit in limits if _asked(value, limit)]
    if measurement is not None and measurement.golden_ok is False:
        found.append(Excess(share=float("inf"), words="answers the golden inputs wrongly"))
    return [excess for excess in found if excess is not None]


def _asked(value: float | None, limit: float | None) -> bool:
    return value is not None and limit is not None


def _p95(variant: Variant, measurement: Measurement | None) -> float | None:
    if measurement is not None and measurement.latency is not None:
        return measurement.latency.p95_ms or measurement.latency.p50_high_ms
    return latency_ms(variant, None)


def _over(
    name: str, value: float | None, limit: float | None, *, scale: float | None = None
) -> Excess | None:
    if value is None or limit is None or value <= limit:
        return None
    share = (value - limit) / max(abs(limit), scale or 1e-12)
    return Excess(share=share, words=f"{name} {value:.4g} is above {limit:.4g}")


def _under(name: str, value: float, limit: float) -> Excess | None:
    if value >= limit:
        return None
    return Excess(share=(limit - value) / limit, words=f"{name} {value:.4g} is below {limit:.4g}")


def _closest(variants: Sequence[Variant], misses: Mapping[str, list[Excess]]) -> str:
    if not variants:
        return "no variant could be made; see the job's log"
    nearest = min(variants, key=lambda v: max(e.share for e in misses[v.bundle.variant]))
    worst = max(misses[nearest.bundle.variant], key=lambda e: e.share)
    return (
        f"no variant keeps to the budget; {nearest.name} came closest:"
        f" {worst.words} ({100 * worst.share:.0f} % off)"
    )


def _reason(
    best: Variant,
    variants: Sequence[Variant],
    budget: Budget,
    measured: Mapping[str, Measurement],
) -> str:
    parts = [_latency_words(best, variants, measured)]
    if best.guard_accuracy_drop is not None:
        allowed = budget.accuracy_drop_max
        of = "" if allowed is None else f" of {100 * allowed:.1f} allowed"
        parts.append(f"guard accuracy {-100 * best.guard_accuracy_drop:+.2f} points{of}")
    parts.append(f"agreement {100 * best.guard_agreement:.1f} %")
    parts.append(f"{best.file_bytes / 1000:.0f} kB, {best.wire_bytes / 1000:.0f} kB on the wire")
    return ", ".join(parts)


def _latency_words(
    best: Variant, variants: Sequence[Variant], measured: Mapping[str, Measurement]
) -> str:
    measurement = measured.get(best.bundle.variant)
    latency = latency_ms(best, measurement)
    if latency is None:
        return "latency unknown"
    if measurement is not None and measurement.latency is not None:
        kind = CostKind.MEASURED.value
        if measurement.verdict is not Verdict.VALID:
            kind += f" ({measurement.verdict.value})"
    else:
        kind = best.predicted.kind.value if best.predicted else "unknown"
    words = f"{latency:.3f} ms p50 {kind}"
    plain_fp32 = next((v for v in variants if v.name == "fp32" and v.runtime == best.runtime), None)
    if plain_fp32 is not None and plain_fp32 is not best:
        other = latency_ms(plain_fp32, measured.get(plain_fp32.bundle.variant))
        if other is not None and latency > 0:
            words += f", {other / latency:.1f} times faster than fp32"
    return words
