"""The ladder of lesser variants below a cohort's choice: a pure function of evidence and budget.

Two kinds stand on it. *Cheaper* ones take clearly less time, energy or memory than the chosen one
and keep to a second, wider accuracy budget; they are for a device that is hot, low or short. The
*portable* one is plain floating point, in another runtime where there is one: it depends on no
integer kernel, delegate or optimizer, and is for the day the chosen one no longer runs.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace

from controller.domain import choice, ranking
from controller.domain.fleet import Budget, Rung, Variant
from fitment.core.deployment import Pressure
from fitment.core.measurement import Measurement

LIGHTER = 0.9
"""A rung takes at most this share of what the one above it takes; less is not worth a switch."""
MOST_CHEAPER = 2
"""Each rung costs the device a bundle's space."""

Cost = Callable[[Variant], float | None]


@dataclass(frozen=True, slots=True, kw_only=True)
class Ladder:
    """Rungs from first to last, and why there are no more."""

    rungs: tuple[Rung, ...] = ()
    reason: str = ""


@dataclass(frozen=True, slots=True, kw_only=True)
class Case:
    """What is known beside the variants, as `choice.choose` knows it."""

    budget: Budget
    measured: Mapping[str, Measurement] = field(default_factory=dict)
    unusable: Mapping[str, str] = field(default_factory=dict)

    def of(self, variant: Variant) -> Measurement | None:
        """What a device of the cohort measured of it."""
        return self.measured.get(variant.bundle.variant)


def ladder(chosen: Variant, variants: Sequence[Variant], case: Case) -> Ladder:
    """The rungs below ``chosen``.

    Args:
        chosen: what the cohort gets.
        variants: of the same model and target, with their evidence.
        case: budget, measurements, and what a device could not run.
    """
    others = [v for v in variants if v.bundle.variant != chosen.bundle.variant]
    cheaper, short = _cheaper(chosen, others, case)
    taken = {rung.variant for rung in cheaper}
    portable, why = _portable(chosen, [v for v in others if v.bundle.variant not in taken], case)
    notes = [note for note in (short, why) if note]
    return Ladder(rungs=(*cheaper, *portable), reason="; ".join(notes))


def relieved(variant: Variant, chosen: Variant, case: Case) -> tuple[Pressure, ...]:
    """Of which pressures a variant takes clearly less; figures of one kind are compared only."""
    found: list[Pressure] = []
    if _lighter(variant, chosen, _time_costs(case)):
        found += [Pressure.HEAT, Pressure.BATTERY]
    if _lighter(variant, chosen, _memory_costs(case)):
        found.append(Pressure.MEMORY)
    return tuple(found)


def wider(budget: Budget) -> Budget:
    """The limits of a cheaper variant: of what is lost on the way down, accuracy alone counts.

    Latency and energy are not asked, since less than the chosen one's is.
    """
    drop = budget.lesser_accuracy_drop_max
    return replace(
        budget, accuracy_drop_max=drop, slice_drop_max=None, flips_max=None, agreement_min=None,
        latency_p95_max_ms=None, energy_max_mj=None,
    )  # fmt: skip


def _cheaper(chosen: Variant, others: Sequence[Variant], case: Case) -> tuple[list[Rung], str]:
    if case.budget.lesser_accuracy_drop_max is None:
        return [], ""
    known = [v for v in others if _within(v, case.budget.lesser_accuracy_drop_max)]
    fit = choice.keeping_to(known, wider(case.budget), case.measured, unusable=case.unusable)
    left = sorted(fit, key=lambda v: (v.guard_accuracy_drop or 0.0, v.wire_bytes))
    rungs: list[Rung] = []
    above = chosen
    for variant in left:
        if len(rungs) < MOST_CHEAPER and relieved(variant, above, case):
            relieves = relieved(variant, chosen, case)
            rungs.append(_rung(variant, relieves, _words(variant, chosen, case)))
            above = variant
    short = "" if rungs else "no cheaper variant keeps to the wider accuracy budget"
    return rungs, short


def _within(variant: Variant, drop: float) -> bool:
    """Without labels, answers that differ count as lost: no more than these can be."""
    return variant.guard_accuracy_drop is not None or variant.guard_agreement >= 1.0 - drop


def _portable(
    chosen: Variant, others: Sequence[Variant], case: Case
) -> tuple[tuple[Rung, ...], str]:
    asked = replace(wider(case.budget), accuracy_drop_max=case.budget.accuracy_drop_max)
    plain = [v for v in others if v.scheme == "fp32"]
    fit = choice.keeping_to(plain, asked, case.measured, unusable=case.unusable)
    if not fit:
        what = "is the portable one" if chosen.scheme == "fp32" else "has none that is portable"
        return (), f"no portable fallback: the chosen variant {what}, and no other fits"
    best = min(
        fit,
        key=lambda v: (v.runtime == chosen.runtime, v.guard_accuracy_drop or 0.0, v.wire_bytes),
    )
    where = "the same runtime" if best.runtime == chosen.runtime else f"{best.runtime} instead"
    words = f"portable: plain floating point in {where}, for a stack on which the other fails"
    return (_rung(best, relieved(best, chosen, case), words, portable=True),), ""


def _rung(
    variant: Variant, relieves: tuple[Pressure, ...], reason: str, *, portable: bool = False
) -> Rung:
    return Rung(variant=variant.bundle.variant, relieves=relieves, portable=portable, reason=reason)


def _time_costs(case: Case) -> tuple[Cost, ...]:
    """Kinds of what heats and drains, best first; multiply-adds where nothing was timed."""
    return (
        lambda v: choice.energy_mj(case.of(v)), lambda v: ranking.measured_ms(case.of(v)),
        ranking.predicted_ms, lambda v: float(v.macs) or None,
    )  # fmt: skip


def _memory_costs(case: Case) -> tuple[Cost, ...]:
    return (lambda v: choice.peak_bytes(case.of(v)), lambda v: float(v.file_bytes))


def _lighter(variant: Variant, than: Variant, costs: tuple[Cost, ...]) -> bool:
    """By the first kind of figure that both have."""
    for cost in costs:
        own, other = cost(variant), cost(than)
        if own is not None and other is not None:
            return own <= LIGHTER * other
    return False


def _words(variant: Variant, chosen: Variant, case: Case) -> str:
    parts = ["cheaper"]
    named: tuple[tuple[str, str, Cost], ...] = (
        ("measured", "mJ", lambda v: choice.energy_mj(case.of(v))),
        ("measured", "ms p50", lambda v: ranking.measured_ms(case.of(v))),
        ("predicted", "ms p50", ranking.predicted_ms),
        ("", "kB in the file", lambda v: v.file_bytes / 1000),
    )
    for kind, unit, cost in named:
        own, other = cost(variant), cost(chosen)
        if own is not None and other is not None:
            parts.append(f"{own:.4g} {unit}, chosen {other:.4g} {kind}".strip())
    if variant.guard_accuracy_drop is not None:
        change = -100 * variant.guard_accuracy_drop or 0.0
        allowed = 100 * (case.budget.lesser_accuracy_drop_max or 0.0)
        parts.append(f"guard accuracy {change:+.2f} points of {allowed:.1f} allowed")
    return "; ".join(parts)
