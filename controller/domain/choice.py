"""Which variant a cohort gets: a pure function of evidence, budget and measurements.

Only guard figures choose (held out of training, disjoint from calibration); test figures are
for people. A tenth of the accuracy budget is kept in reserve, because the field is harsher than
the guard set; it is spent only when nothing else qualifies, and the reason then says so.
Those that keep to the budget are put in order by `controller.domain.ranking`.
"""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any

from controller.domain import ranking
from controller.domain.fleet import Budget, Choice, Variant
from controller.domain.ranking import ALIKE, TIE, all_measured, measured_ms, predicted_ms
from fitment.core.measurement import CostKind, Measurement, ReadingStatus, Verdict

RESERVE = 0.1
"""Share of the accuracy budget that is kept back."""
HEADROOM = 0.15
"""Share of the latency's limit that a more accurate variant than what runs must leave free."""
ACCURACY = "accuracy"
"""What `Budget.prefer` says where the most accurate variant is wanted, and not the fastest."""
PREFERENCES = ("latency", ACCURACY)
SLICE_LEAST = 30
"""Guard inputs that a slice needs to be judged: a drop in fewer is chance."""

_LEAST_DROP = 0.01
"""An accuracy budget of (nearly) nothing is compared in points, not divided by nothing."""

Latency = Callable[[Variant], float | None]


@dataclass(frozen=True, slots=True, kw_only=True)
class Excess:
    """By how much a variant misses one limit; ``share`` is relative to the limit."""

    share: float
    words: str


@dataclass(frozen=True, slots=True, kw_only=True)
class _Case:
    """What is known beside the variants."""

    budget: Budget
    measured: Mapping[str, Measurement]
    unusable: Mapping[str, str] = field(default_factory=dict)
    climbs_from: Variant | None = None

    def of(self, variant: Variant) -> Measurement | None:
        return self.measured.get(variant.bundle.variant)


def choose(
    variants: Sequence[Variant],
    budget: Budget,
    measured: Mapping[str, Measurement],
    *,
    reserve: float = RESERVE,
    unusable: Mapping[str, str] | None = None,
    climbs_from: str = "",
) -> Choice:
    """Rank the variants that keep to ``budget`` and take the first.

    They are ranked by latency, by bytes on the wire among those that are about as fast, and by the
    accuracy that they lose among those that are about as small, too; where the budget prefers
    accuracy, by what they lose of it first. So none that keeps to the budget is at least as fast,
    as small and as accurate as the first, and better in one of these.

    Args:
        variants: candidates with their evidence.
        budget: limits; null ones are not asked.
        measured: measurement by variant digest, from devices of the cohort.
        reserve: share of the accuracy budget kept back.
        unusable: variant digest to why a device of the cohort could not run it.
        climbs_from: digest of what runs; what is more accurate must keep `HEADROOM` of the
            latency free, or a level between the two would make the cohort go up and down.

    Returns:
        A choice whose ``chosen`` is empty when no variant keeps to the budget; its reason then
        says which came closest and by how much.
    """
    runs = next((v for v in variants if v.bundle.variant == climbs_from), None)
    case = _Case(budget=budget, measured=measured, unusable=unusable or {}, climbs_from=runs)
    misses = {v.bundle.variant: _misses(v, case) for v in variants}
    rejected = {
        digest: "; ".join(m.words for m in found) for digest, found in misses.items() if found
    }
    allowed = [v for v in variants if not misses[v.bundle.variant]]
    if not allowed:
        return Choice(chosen="", reason=_closest(variants, misses), rejected=rejected)
    kept_back = [v for v in allowed if not _misses(v, case, accuracy_share=1.0 - reserve)]
    ranked = ranking.ranked(kept_back or allowed, measured, accurate=budget.prefer == ACCURACY)
    reason = _reason(ranked[0], variants, case)
    if measured and not all_measured(ranked, measured):
        reason += "; ranked by prediction, since not all of the best few could be timed"
    if not kept_back:
        reason += "; this spends the reserve of the accuracy budget, nothing else qualified"
    return Choice(
        chosen=ranked[0].bundle.variant,
        reason=reason,
        ranked=tuple(v.bundle.variant for v in ranked),
        rejected=rejected,
    )


def keeping_to(
    variants: Sequence[Variant],
    budget: Budget,
    measured: Mapping[str, Measurement],
    *,
    unusable: Mapping[str, str] | None = None,
) -> list[Variant]:
    """The variants that miss no limit of ``budget``, in their order; see `choose`."""
    case = _Case(budget=budget, measured=measured, unusable=unusable or {})
    return [v for v in variants if not _misses(v, case)]


def scaled(measurement: Measurement, shift: float) -> Measurement:
    """What it would have been on a device slower by ``shift`` (a logarithm)."""
    if measurement.latency is None:
        return measurement
    known = dataclasses.asdict(measurement.latency)
    times: dict[str, Any] = {
        name: None if value is None else value * math.exp(shift)
        for name, value in known.items()
        if name != "count"
    }
    return replace(measurement, latency=replace(measurement.latency, **times))


def at_level(
    measured: Mapping[str, Measurement], runs: Variant, level_ms: float
) -> Mapping[str, Measurement]:
    """What one device timed in a moment, at the level that its cohort has over days.

    How variants compare is the device's word; how slow the running one is, the field's: the
    moment may have been a cool one.
    """
    own = tail_ms(runs, measured.get(runs.bundle.variant))
    if not own or not level_ms or runs.bundle.variant not in measured:
        return measured
    shift = math.log(level_ms / own)
    return {key: scaled(taken, shift) for key, taken in measured.items()}


def middle(taken: Sequence[Measurement]) -> Measurement:
    """The one in the middle by its median latency, of at least one; without latency, the last."""
    timed = [m for m in taken if m.latency is not None]
    if not timed:
        return taken[-1]
    ordered = sorted(timed, key=lambda m: m.latency.p50_ms if m.latency else 0.0)
    return ordered[(len(ordered) - 1) // 2]


def _misses(variant: Variant, case: _Case, *, accuracy_share: float = 1.0) -> list[Excess]:
    budget, measurement = case.budget, case.of(variant)
    found = [_over_accuracy(variant, budget, accuracy_share)]
    found += [_over_slice(variant, budget), _over_must_pass(variant)]
    if budget.agreement_min is not None:
        found.append(_under("agreement", variant.guard_agreement, budget.agreement_min))
    limits = (
        ("share of flips", variant.guard_flips, budget.flips_max),
        ("drop of recall at the operating point", _recall_drop(variant), budget.recall_drop_max),
        ("file bytes", variant.file_bytes, budget.file_bytes_max),
        ("bytes on the wire", variant.wire_bytes, budget.wire_bytes_max),
        ("p95 latency in ms", tail_ms(variant, measurement), _latency_max(variant, case)),
        ("peak memory in bytes", peak_bytes(measurement), budget.peak_memory_max_bytes),
        ("energy in mJ", energy_mj(measurement), budget.energy_max_mj),
    )
    found += [_over(name, value, limit) for name, value, limit in limits]
    if variant.bundle.variant in case.unusable:
        found.append(Excess(share=math.inf, words=case.unusable[variant.bundle.variant]))
    if measurement is not None and measurement.golden_ok is False:
        found.append(Excess(share=math.inf, words="answers the golden inputs wrongly"))
    return [excess for excess in found if excess is not None]


def _latency_max(variant: Variant, case: _Case) -> float | None:
    """The limit, less the headroom for a variant above the one that runs."""
    limit, runs = case.budget.latency_p95_max_ms, case.climbs_from
    if limit is None or runs is None or not is_more_accurate(variant, runs):
        return limit
    return (1.0 - HEADROOM) * limit


def is_more_accurate(variant: Variant, than: Variant) -> bool:
    """By more than chance, on the guard set."""
    own, other = variant.guard_accuracy_drop or 0.0, than.guard_accuracy_drop or 0.0
    return other - own > ALIKE


def tail_ms(variant: Variant, measurement: Measurement | None) -> float | None:
    """The latency that a p95 limit is held against.

    Measured p95 when the run was undisturbed and long enough; else the upper end of the
    median's interval, since the tail of a disturbed run tells of the disturbance; else the
    prediction.
    """
    if measurement is None or measurement.latency is None or not measurement.tells_costs:
        return predicted_ms(variant)
    latency = measurement.latency
    if measurement.verdict is Verdict.VALID and latency.p95_ms is not None:
        return latency.p95_ms
    return latency.p50_high_ms


def _recall_drop(variant: Variant) -> float | None:
    return variant.operating.guard_recall_drop if variant.operating else None


def peak_bytes(measurement: Measurement | None) -> float | None:
    """Measured peak memory, or None; an emulator's is no device's."""
    return measurement.peak_memory_bytes if measurement and measurement.tells_costs else None


def energy_mj(measurement: Measurement | None) -> float | None:
    """Measured energy of an inference, or None; an estimate is none."""
    if measurement is None or not measurement.tells_costs:
        return None
    if measurement.energy.status is not ReadingStatus.MEASURED:
        return None
    return measurement.energy.value_mj


def _over_accuracy(variant: Variant, budget: Budget, share: float) -> Excess | None:
    if budget.accuracy_drop_max is None or variant.guard_accuracy_drop is None:
        return None
    limit = budget.accuracy_drop_max * share
    return _over("accuracy drop", variant.guard_accuracy_drop, limit, least=_LEAST_DROP)


def _over_slice(variant: Variant, budget: Budget) -> Excess | None:
    """The part of the data that suffers most, however well the whole does."""
    judged = [s for s in variant.slices if s.guard_count >= SLICE_LEAST]
    if budget.slice_drop_max is None or not judged:
        return None
    worst = max(judged, key=lambda s: s.guard_drop)
    name = f"drop of {worst.name} ({worst.guard_count} guard inputs)"
    return _over(name, worst.guard_drop, budget.slice_drop_max, least=_LEAST_DROP)


def _over_must_pass(variant: Variant) -> Excess | None:
    failed = variant.must_pass_failed
    if not failed:
        return None
    return Excess(share=float(failed), words=f"fails {failed} inputs that must pass")


def _over(
    name: str, value: float | None, limit: float | None, *, least: float = 1e-12
) -> Excess | None:
    if value is None or limit is None or value <= limit:
        return None
    share = (value - limit) / max(abs(limit), least)
    return Excess(share=share, words=f"{name} {_number(value)} is above {_number(limit)}")


def _under(name: str, value: float, limit: float) -> Excess | None:
    if value >= limit:
        return None
    return Excess(
        share=(limit - value) / limit, words=f"{name} {_number(value)} is below {_number(limit)}"
    )


def _number(value: float) -> str:
    """Bytes in full, fractions in four digits."""
    return f"{value:.0f}" if abs(value) >= 1000 else f"{value:.4g}"


def _closest(variants: Sequence[Variant], misses: Mapping[str, list[Excess]]) -> str:
    if not variants:
        return "no variant could be made; see the job's log"
    nearest = min(variants, key=lambda v: max(e.share for e in misses[v.bundle.variant]))
    worst = max(misses[nearest.bundle.variant], key=lambda e: e.share)
    off = f" ({100 * worst.share:.0f} % off)" if math.isfinite(worst.share) else ""
    return f"no variant keeps to the budget; {nearest.name} came closest: {worst.words}{off}"


def _reason(best: Variant, variants: Sequence[Variant], case: _Case) -> str:
    parts = [_latency_words(best, variants, case)]
    if best.guard_accuracy_drop is not None:
        allowed = case.budget.accuracy_drop_max
        of = "" if allowed is None else f" of {100 * allowed:.1f} allowed"
        change = -100 * best.guard_accuracy_drop or 0.0  # never "-0.00"
        parts.append(f"guard accuracy {change:+.2f} points{of}")
    parts.append(f"agreement {100 * best.guard_agreement:.1f} %")
    parts.append(f"{best.file_bytes / 1000:.0f} kB, {best.wire_bytes / 1000:.0f} kB on the wire")
    return ", ".join(parts)


def _latency_words(best: Variant, variants: Sequence[Variant], case: _Case) -> str:
    """The latency with its kind, beside fp32's of the same kind."""
    measurement = case.of(best)
    latency: Latency
    if measured_ms(measurement) is not None:
        kind, latency = CostKind.MEASURED.value, lambda v: measured_ms(case.of(v))
        if measurement is not None and measurement.verdict is not Verdict.VALID:
            kind += f" ({measurement.verdict.value})"
    elif best.predicted is not None:
        by = f", corrected by {best.predicted.devices} devices" if best.predicted.devices else ""
        kind, latency = f"predicted ({best.predicted.kind.value}{by})", predicted_ms
    else:
        return "latency unknown"
    own = latency(best) or 0.0
    words = f"{own:.3f} ms p50 {kind}"
    fp32 = next((v for v in variants if v.name == "fp32" and v.runtime == best.runtime), None)
    other = latency(fp32) if fp32 is not None and fp32 is not best else None
    return f"{words}, {_compared(own, other)}" if other and own else words


def _compared(own: float, other: float) -> str:
    if max(own, other) <= min(own, other) * (1 + TIE):
        return "as fast as fp32"
    if own <= other:
        return f"{other / own:.1f} times faster than fp32"
    return f"{own / other:.1f} times slower than fp32"
