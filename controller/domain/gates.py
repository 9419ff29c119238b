"""What must hold of a cohort before a rollout goes on: each gate with its evidence.

The device is the unit, compared with itself. Latency is timed in turns with what runs there, so
that weather, site and neighbours meet both alike; energy, memory, heat, coverage and agreement are
held against what the device's last release was measured to take there; energy, memory and heat
beside what the control group changed by meanwhile, where there is one (`staying`). Each gate bets
against its claim (`sequential`); bets of all gates and cohorts are added with weights that sum to
at most 1, and the rollout halts when the sum reaches one over the false-halt rate. A sum of such
bets is one (Vovk and Wang 2021), so the rate is that of the whole rollout, whichever gates, waves
and cohorts there are and however often anybody looks.
"""

from __future__ import annotations

import math
import statistics
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace

from controller.domain import observing, sequential, staying
from controller.domain.field import Word
from controller.domain.fleet import Deployment, Device, Gate, Rollout
from controller.domain.judgement import GateReport, GateVerdict, Unit
from controller.domain.observing import Check, Seen, counts, is_void
from fitment.core.deployment import Outcome

__all__ = ["STATISTICAL", "Cohort", "counts", "failed", "is_void", "judge", "summary"]

STATISTICAL = 30
"""Below so many devices a share says little: 29 without a failure show, with 95 % confidence, that
fewer than a tenth fail, and fewer show less."""
CONFIDENCE = 0.05
"""Bounds that are shown miss with this chance."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Cohort:
    """One cohort's part in a rollout; ``deployments`` in the order of their admission."""

    key: str
    members: int  # devices that it has now, admitted or not
    deployments: Sequence[Deployment]
    devices: Mapping[str, Device]
    place: int = 0  # among the cohorts, by their first admission
    words: Mapping[str, Word] = field(default_factory=dict)  # what labels say of devices, by name
    control: Sequence[staying.Kept] = ()  # its devices in the control group, as often as asked


@dataclass(frozen=True, slots=True, kw_only=True)
class Look:
    """One gate of one cohort, and when it is looked at."""

    cohort: Cohort
    check: Check
    rollout: Rollout
    now: float
    final: bool

    def early(self, seen: Seen) -> bool:
        """Whether so few have ended that the wave goes on unjudged."""
        return not self.final and len(seen.ended) < self.rollout.gate.min_sample


def judge(
    cohorts: Sequence[Cohort], rollout: Rollout, *, now: float, final: bool
) -> tuple[GateReport, ...]:
    """Every gate of every cohort.

    Args:
        cohorts: those with a deployment.
        rollout: with the gate.
        now: seconds, UTC.
        final: a wave is over: ``min_sample`` holds no longer, and clusters are looked at.
    """
    found = observing.checks(rollout.gate)
    reports = tuple(
        _judged(Look(cohort=cohort, check=check, rollout=rollout, now=now, final=final), len(found))
        for cohort in cohorts
        for check in found
    )
    return _together(reports, rollout)


def asked(gate: Gate) -> int:
    """How many gates there are."""
    return len(observing.checks(gate))


def part(place: int, checks: int) -> float:
    """A gate's weight: 1/2, 1/6, 1/12, … by cohort, so that any number of late ones adds up to 1.

    Each is fixed before anything is known of its cohort.
    """
    return 1 / ((place + 1) * (place + 2) * checks)


def failed(reports: Sequence[GateReport]) -> str:
    """Why the rollout halts, in words; empty when it does not."""
    found = [r for r in reports if r.verdict is GateVerdict.FAILED]
    return f"cohort {found[0].cohort}: {found[0].reason}" if found else ""


def unsure(reports: Sequence[GateReport]) -> str:
    """What was let pass without statistics, in words; empty when nothing was."""
    held = (GateVerdict.HOLDS, GateVerdict.FAILED)
    found = [r for r in reports if r.verdict not in held]
    return ", ".join(f"{r.gate} of {r.cohort}: {r.reason}" for r in found[:3]) + (
        f" and {len(found) - 3} more" if len(found) > 3 else ""
    )


def summary(
    deployments: Sequence[Deployment], rollout: Rollout, reports: Sequence[GateReport] = ()
) -> str:
    """What a gate that held was judged on, in words."""
    judged = [d for d in deployments if counts(d, rollout)]
    good = sum(d.outcome is Outcome.COMMITTED for d in judged)
    words = f"{good} of {len(judged)} committed"
    if len(judged) < max(STATISTICAL, rollout.gate.min_sample):
        words += OWN
    silent = {r.gate for r in reports if r.verdict is GateVerdict.MISSING}
    return words + "".join(f", {gate} was not measured" for gate in sorted(silent))


OWN = " (not statistical: judged by each device's own comparison)"


def _judged(look: Look, asked: int) -> GateReport:
    cohort, rate = look.cohort, look.rollout.gate.false_halt_rate
    alpha = part(cohort.place, asked) * rate
    beside = look.check.beside and bool(look.rollout.control_below)
    changes = _changes(look, staying.PART * alpha) if beside else None
    alpha *= 1 - staying.PART if beside else 1.0
    if changes is not None:
        look = replace(look, check=_allowing(look.check, changes))
    check = look.check
    seen = observing.observe(
        check, cohort.deployments, cohort.devices, look.rollout, now=look.now, words=cohort.words,
        changes=changes,
    )  # fmt: skip
    base = GateReport(
        cohort=cohort.key, gate=check.name, verdict=GateVerdict.UNDECIDED, reason="", alpha=alpha,
        limit=check.limit, samples=len(seen.ended), waiting=seen.waiting, missing=seen.missing,
        e_needed=1 / alpha, unit=check.unit,
    )  # fmt: skip
    if not seen.ended:
        return _nothing(base, check)
    base = _estimated(base, check, seen)
    if cohort.members < STATISTICAL:
        base = _each(base, look, seen)
    else:
        base = _clustered(base, look, seen) if look.rollout.gate.cluster else _bet(base, look, seen)
    return base if changes is None else replace(base, reason=base.reason + beside_words(changes))


def _changes(look: Look, alpha: float) -> staying.Changes:
    check, waves = look.check, len(look.rollout.waves)
    above = check.allowed if check.unit is Unit.TIMES else None
    found = staying.changes(
        look.cohort.control, check.read, above=above, alpha=alpha, waves=waves
    )  # fmt: skip
    return staying.Changes(by_wave=found, bound=look.cohort.members >= STATISTICAL)


def _allowing(check: Check, changes: staying.Changes) -> Check:
    """A share may be as much greater as the control group's is."""
    if check.unit is Unit.TIMES:
        return check
    more = min(1.0, check.limit + changes.highest())
    return replace(check, limit=more, allowed=more)


def beside_words(changes: staying.Changes) -> str:
    """What the control group said, in words."""
    found = [c for _, c in sorted(changes.by_wave.items())]
    said = [c for c in found if c.said]
    if not said:
        waits = any(c.open for c in found)
        return "; the control group " + ("is still timing" if waits else "said nothing of it")
    last = said[-1]
    words = f"; the control group's own: {last.middle:.2f} in {last.said}"
    if not changes.bound:
        return words
    if last.most is None:
        return f"{words}, too few to correct by"
    return f"{words}, {last.most:.2f} at most"


def _estimated(report: GateReport, check: Check, seen: Seen) -> GateReport:
    """A share and its bounds, or a quantile of the ratios and its bounds."""
    if check.own:
        low, high = sequential.quantile_bounds(seen.values, check.allowed, CONFIDENCE)
        return replace(report, estimate=_quantile(seen.values, check), low=low, high=high)
    total = sum(seen.ended)
    low, high = sequential.share_bounds(len(seen.ended), total, CONFIDENCE)
    return replace(report, estimate=total / len(seen.ended), low=low, high=high)


def _quantile(values: Sequence[float], check: Check) -> float:
    if check.allowed == 0.5:
        return statistics.median(values)
    ordered = sorted(values, reverse=True)
    return ordered[min(len(ordered) - 1, math.floor(check.allowed * len(ordered)))]


def _each(report: GateReport, look: Look, seen: Seen) -> GateReport:
    """A cohort that can never show anything by numbers; labelled so.

    A ratio is to each device's own baseline, so the share of them that exceeds it is taken as it
    is. A failure may be chance: the cohort fails when so many would be rarer than the false-halt
    rate, at this one look; and is undecided when there are more than the allowed share.
    """
    report, check = replace(report, e_needed=None), look.check
    count, against = len(seen.ended) + seen.waiting, round(sum(seen.ended))
    if _is_allowed(check, count, against):
        return replace(report, verdict=GateVerdict.EACH, reason=f"held on {len(seen.ended)}{OWN}")
    rare = too_many(check, count, against, look.rollout.gate.false_halt_rate)
    if rare and not look.early(seen):
        return replace(report, verdict=GateVerdict.FAILED, reason=check.words(seen) + OWN)
    return replace(report, reason=f"{check.words(seen)}; too few to tell it from chance{OWN}")


def _is_allowed(check: Check, count: int, against: int) -> bool:
    return against <= check.allowed * count + 1e-9


def too_many(check: Check, count: int, against: int, rate: float) -> bool:
    """Whether of so few devices too many speak against it to be chance, at one look."""
    if _is_allowed(check, count, against):
        return False
    return check.own or sequential.tail(count, against, check.allowed) < rate


def _nothing(report: GateReport, check: Check) -> GateReport:
    if report.missing and not report.waiting:
        words = f"none of {report.missing} devices measured it: {check.needs}"
        return replace(report, verdict=GateVerdict.MISSING, reason=words)
    return replace(report, reason="no device has ended yet")


def _bet(report: GateReport, look: Look, seen: Seen) -> GateReport:
    """Over devices in the order of their admission.

    One that is under way counts as good until it ends. Failures end sooner than successes, and so
    the bet never runs ahead of what it will be when all have ended.
    """
    value, _ = sequential.highest(seen.ordered, look.check.allowed)
    value = 1.0 if look.early(seen) else value
    report = replace(report, e_value=value, statistical=len(seen.ended) >= STATISTICAL)
    return _settled(report, look.check, seen)


def _clustered(report: GateReport, look: Look, seen: Seen) -> GateReport:
    """Clusters instead of devices, at the ends of waves only, each end with its part of the rate.

    What devices of one cluster say is no independent word, and their mean moves with each; so
    there is no bet that could be looked at in between, but for a claim that one failure refutes.
    """
    check, looks = look.check, len(look.rollout.waves)
    means = seen.by_cluster()
    value = sequential.e_value(len(means), sum(means), check.allowed) / looks
    if not look.final:
        value = 1.0
    if check.allowed <= 0 and sum(means) > 0:
        value = sequential.MOST
    report = replace(
        report, samples=len(means), statistical=len(means) >= STATISTICAL, e_value=value
    )
    if not check.own:
        low, high = sequential.share_bounds(len(means), sum(means), CONFIDENCE / looks)
        report = replace(report, estimate=sum(means) / len(means), low=low, high=high)
    return _settled(report, check, seen)


def _settled(report: GateReport, check: Check, seen: Seen) -> GateReport:
    if (report.e_value or 0.0) >= (report.e_needed or math.inf):
        return replace(report, verdict=GateVerdict.FAILED, reason=check.words(seen))
    if report.statistical:
        return replace(report, verdict=GateVerdict.HOLDS, reason="nothing speaks against it")
    words = f"{report.samples} of {STATISTICAL} that statistics take (not statistical)"
    return replace(report, reason=words)


def _together(reports: tuple[GateReport, ...], rollout: Rollout) -> tuple[GateReport, ...]:
    """The bets added up: several cohorts that fail a little fail together."""
    rate = rollout.gate.false_halt_rate
    bets = {n: r.e_value / r.e_needed for n, r in enumerate(reports) if r.e_value and r.e_needed}
    whole = sum(bets.values())  # the sum of weight times e-value, over 1 / rate
    if whole < 1 or failed(reports):
        return reports
    worst = max(bets, key=lambda number: bets[number])
    words = f"all cohorts together speak against it (a chance of {rate:g} at most): this one most"
    changed = replace(reports[worst], verdict=GateVerdict.FAILED, reason=words)
    return (*reports[:worst], changed, *reports[worst + 1 :])
