"""How fast each device is in the field, beside its first days: tickets for one, triggers for all.

Looked at cohort by cohort, a few devices a tick. What is read are rollups, so nothing is
remembered here but how far the look has come.
"""

from __future__ import annotations

import math
import statistics
import time
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field, replace

from controller.domain import choice, fleet, levels, plan, tickets, triggers
from controller.domain.levels import Rules, Shift, Standing
from controller.domain.telemetry import Period, Query, Rollup, pooled
from controller.domain.tickets import Sensors, Ticket
from controller.reconcile import cohorts, fitting, optimising, servicing
from controller.reconcile.context import Context
from fitment.core.measurement import Measurement

BUDGET_S = 0.05
"""Of one tick, like that of keeping telemetry."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Group:
    """Devices of one cohort that run one variant in one slot."""

    cohort: fleet.Cohort
    slot: str
    variant: str


@dataclass(frozen=True, slots=True, kw_only=True)
class Member:
    """One of them."""

    device: str
    since: float  # when it committed the variant
    release: str


@dataclass(slots=True, kw_only=True)
class Look:
    """How far a look over the fleet has come; losing it costs the look."""

    next_at: float = 0.0
    waiting: list[str] = field(default_factory=list)  # devices
    members: dict[Group, list[Member]] = field(default_factory=dict)
    standings: dict[Group, list[Standing]] = field(default_factory=dict)
    under_way: bool = False


def advance(context: Context, look: Look) -> None:
    """Take steps of a look, or begin one when it is time."""
    now = context.clock()
    if not context.settings.optimise:
        return
    if not look.under_way:
        if now < look.next_at:
            return
        _begin(context, look)
    until = time.perf_counter() + BUDGET_S
    while look.waiting:
        _one(context, look, look.waiting.pop(), now)
        if time.perf_counter() >= until:
            return
    for group in look.members:
        _decide(context, look, group)
    look.under_way, look.next_at = False, now + context.settings.levels_every_s


def _begin(context: Context, look: Look) -> None:
    look.members, look.standings, look.under_way = {}, {}, True
    names = (device.name for device in context.store.devices.find(revoked=False))
    look.waiting = sorted(names, reverse=True)  # they are taken from the end


def _one(context: Context, look: Look, name: str, now: float) -> None:
    """What one device runs, and how it does."""
    device = context.store.devices.get(name)
    if device is None or device.revoked or device.cohort is None:
        return
    every = plan.own(device, context.store.deployments.find(device=name))
    for slot, ran in plan.running(every).items():
        if ran.cohort != device.cohort:
            continue  # another trigger is due, or on its way
        group = Group(cohort=device.cohort, slot=slot, variant=ran.variant)
        member = Member(device=name, since=ran.ended_at, release=ran.release)
        look.members.setdefault(group, []).append(member)
        found = _standing(context, group, member, now)
        if found is not None:
            look.standings.setdefault(group, []).append(found)


def _standing(context: Context, group: Group, member: Member, now: float) -> Standing | None:
    rules = context.settings.rules
    named = levels.quantity(group.slot, group.variant)
    since = _since(context, group, member, now)
    if since is None:
        return None
    baseline = context.store.telemetry.rollups(_days(member, named, rules))
    recent = context.store.telemetry.rollups(
        Query(quantity=named, prefix=True, device=member.device, since_s=since)
    )
    return levels.standing(
        member.device, baseline, recent, now=now, rules=rules, since=member.since
    )


def _since(context: Context, group: Group, member: Member, now: float) -> float | None:
    """Where the windows begin; None while they reach back before the baseline's end, or a ticket's.

    What a mended device did before says nothing of it.
    """
    rules = context.settings.rules
    since = now - rules.windows * rules.window_s
    closed = [t.closed_at for t in context.store.tickets.find(device=member.device)
              if t.slot == group.slot]  # fmt: skip
    return since if since >= max([member.since + rules.baseline_s, *closed]) else None


def _days(member: Member, quantity: str, rules: Rules, *, prefix: bool = True) -> Query:
    """Rollups of a device's first days with what it runs, in whole days."""
    until = Period.DAY.start(member.since + rules.baseline_s)
    return Query(
        quantity=quantity, prefix=prefix, period=Period.DAY, device=member.device,
        since_s=Period.DAY.start(member.since), until_s=max(until, member.since + 1.0),
    )  # fmt: skip


def _decide(context: Context, look: Look, group: Group) -> None:
    rules = context.settings.rules
    own = look.standings.get(group, [])
    peers = own if len(own) >= rules.peers else _of_profile(look, group)
    shared = levels.together(peers, rules)
    ill = {s.device for s in own if _ticket(context, look, group, s, shared)}
    sound = [s for s in own if s.device not in ill]
    if sound:
        _level(context, look, group, sound, ill)


def _of_profile(look: Look, group: Group) -> list[Standing]:
    """Who a device is compared with where its cohort is too small: its profile, in that slot.

    Only those whose baselines are of about the same days: shifts since other days are others.
    """
    own = [standing.since for standing in look.standings.get(group, [])]
    return [
        standing
        for other, some in look.standings.items()
        if (other.cohort.profile, other.slot) == (group.cohort.profile, group.slot)
        for standing in some
        if own and min(own) - ALIKE_S <= standing.since <= max(own) + ALIKE_S
    ]


ALIKE_S = 2 * 86_400.0


def _ticket(context: Context, look: Look, group: Group, standing: Standing, shared: Shift) -> bool:
    """Open, renew or close a device's ticket; says whether it has one."""
    rules = context.settings.rules
    known = [t for t in servicing.of_device(context, standing.device) if t.slot == group.slot]
    found = levels.alone(standing, shared, rules)
    if found is None:
        for ticket in known:
            own = look.standings.get(group, [])
            if _is_well(ticket, group, standing, own, shared, rules):
                words = "it does as its peers do again"
                servicing.close(context, ticket.id, words, actor="controller")
                known = []
        return bool(known)
    release = context.store.releases.get(_member(look, group, standing.device).release)
    if release is None:
        return bool(known)
    now, level = context.clock(), standing.windows[0].level_ms or 0.0
    servicing.open_(context, Ticket(
        id=context.new_id(), device=standing.device, model=release.model, slot=group.slot,
        variant=group.variant, cohort=group.cohort, opened_at=now, updated_at=now,
        summary=tickets.summary(found, standing.base_ms, level),
        causes=_causes(context, look, group, standing.device),
        numbers={
            "baseline_ms": standing.base_ms, "level_ms": level, "own_shift": found.own,
            "cohort_shift": found.shared, "above_cohort": found.above, "peers": float(found.peers),
        },
    ))  # fmt: skip
    return True


def _is_well(
    ticket: Ticket, group: Group, standing: Standing, own: list[Standing], shared: Shift,
    rules: Rules,
) -> bool:  # fmt: skip
    """Whether a device does as its peers again, or as it did where it never had any."""
    had_baseline = "baseline_ms" in ticket.numbers
    had_peers = ticket.numbers.get("peers", 0.0) + 1 >= rules.peers
    if not levels.is_back(standing, shared, rules):
        return False
    if had_peers and shared.devices < rules.peers:
        return False  # nobody is left to tell by
    # With another variant than then, its baseline is that of an ill device; so it is where the
    # ticket was opened for what its first measurement said, before there was a baseline.
    return (had_baseline and ticket.variant == group.variant) or levels.is_like(
        standing, own, rules
    )


def _member(look: Look, group: Group, device: str) -> Member:
    return next(m for m in look.members[group] if m.device == device)


PEERS_MOST = 8
"""Peers whose sensors are read for a ticket."""


def _causes(context: Context, look: Look, group: Group, device: str) -> tuple[str, ...]:
    others = [m for m in look.members[group] if m.device != device][:PEERS_MOST]
    before, now = _sensors(context, _member(look, group, device))
    beside = [_sensors(context, other) for other in others]
    return tickets.causes(
        before, now, _middle([now for _, now in beside]), _middle([before for before, _ in beside])
    )


def _sensors(context: Context, member: Member) -> tuple[Sensors, Sensors]:
    """What a device's sensors said in its first days, and in the windows of now."""
    rules = context.settings.rules
    since = context.clock() - rules.windows * rules.window_s
    before, now = {}, {}
    for name, quantity in tickets.QUANTITIES.items():
        first = context.store.telemetry.rollups(_days(member, quantity, rules, prefix=False))
        newest = context.store.telemetry.rollups(
            Query(quantity=quantity, device=member.device, since_s=since)
        )
        before[name], now[name] = _value(name, first), _value(name, newest)
    return Sensors(**before), Sensors(**now)


def _value(name: str, rollups: Iterable[Rollup]) -> float | None:
    """Of all spans together: the median; a share's mean; the most of a counter."""
    one = pooled([replace(r, start_s=0) for r in rollups])
    if not one:
        return None
    if name == "ecc_corrected":
        return one[0].most
    return one[0].mean if name == "throttled_share" else one[0].quantile(0.5)


def _middle(some: list[Sensors]) -> Sensors:
    found = {}
    for name in tickets.QUANTITIES:
        known = [v for v in (getattr(s, name) for s in some) if v is not None]
        found[name] = statistics.median(known) if known else None
    return Sensors(**found)


def _level(
    context: Context, look: Look, group: Group, sound: list[Standing], ill: set[str]
) -> None:
    """A trigger for the cohort, where all of it is at another level than its variant was for.

    Devices that are a case for service are left out: what they do says nothing of the others, and
    what the others need is not what ails them.
    """
    rules = context.settings.rules
    members = {m.device: m for m in look.members[group]}
    since = min(members[s.device].since for s in sound)
    release = context.store.releases.get(members[sound[0].device].release)
    if release is None:
        return
    known = [t for t in context.store.triggers.find(model=release.model)
             if t.cohort == group.cohort]  # fmt: skip
    if triggers.may_shift(known, now=context.clock()) is not triggers.Answer.OPEN:
        return
    steady = levels.steady(levels.together(sound, rules))
    finding = _finding(context, group, release, steady, _References(
        whole=triggers.reference(known, group.variant, since=since),
        same_heat=triggers.reference_at_same_heat(
            known, group.variant, since=since, now=steady.same_heat
        ),
        known=known, since=since,
    ))  # fmt: skip
    if finding is None:
        return
    middle = _nearest(sound, steady.whole or 0.0)
    now = context.clock()
    optimising.raise_(context, fleet.Trigger(
        id=context.new_id(), kind=finding.kind, device=middle, model=release.model,
        cohort=group.cohort, created_at=now, before=group.variant, by_level=True,
        devices=dict.fromkeys((middle, *(m for m in members if m not in {middle, *ill})), now),
        shift=steady.whole or 0.0, same_heat=steady.same_heat, reason=finding.reason,
        level_ms=finding.level_ms,
    ))  # fmt: skip


@dataclass(frozen=True, slots=True, kw_only=True)
class _References:
    """Shifts at which the running variant was last looked at."""

    whole: float | None
    same_heat: float
    known: list[fleet.Trigger]  # of the cohort
    since: float  # when what runs was committed first


def _nearest(sound: list[Standing], shift: float) -> str:
    """The device that is most like its cohort: the canary."""
    return min(sound, key=lambda s: (abs((s.shift or 0.0) - shift), s.device)).device


def _finding(
    context: Context, group: Group, release: fleet.Release, steady: levels.Steady,
    seen: _References,
) -> triggers.Finding | None:  # fmt: skip
    rules = context.settings.rules
    job = _job(context, release.model, group.cohort)
    model = context.store.models.get(release.model)
    if job is None or model is None:
        return triggers.level(steady, seen.same_heat, rules)
    budget = cohorts.budget_of(context, model, group.cohort.profile)
    if budget.latency_p95_max_ms is None or not triggers.asks_of_budget(steady, seen.whole, rules):
        return triggers.level(steady, seen.same_heat, rules)  # what was measured need not be read
    known = fitting.measured(context, job)
    runs = next((v for v in job.variants if v.bundle.variant == group.variant), None)
    tail = choice.tail_ms(runs, known.get(group.variant)) if runs is not None else None
    limit = budget.latency_p95_max_ms
    at = triggers.taken_at(seen.known, job.id, group.variant, since=seen.since)
    over = triggers.over_budget(steady, seen.whole, tail, limit, rules, at)
    if over is not None:
        return over
    if runs is not None and limit is not None and triggers.has_room(steady, seen.whole, rules):
        room = _affords(job, budget, known, runs, steady, at)
        if room is not None and tail is not None:
            return replace(room, level_ms=tail * math.exp(steady.middle - at))
    return triggers.level(steady, seen.same_heat, rules)


def _affords(
    job: fleet.FitJob, budget: fleet.Budget, known: Mapping[str, Measurement],
    runs: fleet.Variant, steady: levels.Steady, at: float,
) -> triggers.Finding | None:  # fmt: skip
    """A more accurate variant that would be chosen, if all became faster as what runs did."""
    now = {key: choice.scaled(taken, (steady.whole or 0.0) - at) for key, taken in known.items()}
    found = choice.choose(job.variants, budget, now, climbs_from=runs.bundle.variant)
    best = next((v for v in job.variants if v.bundle.variant == found.chosen), None)
    if best is None or not choice.is_more_accurate(best, runs):
        return None
    tail = choice.tail_ms(best, now.get(best.bundle.variant))
    if tail is None:
        return None
    return triggers.affordable(steady, best.name, tail, budget.latency_p95_max_ms or 0.0)


def _job(context: Context, model: str, cohort: fleet.Cohort) -> fleet.FitJob | None:
    done = context.store.jobs.find(model=model, status=fleet.JobStatus.DONE)
    return next((job for job in reversed(done) if job.cohort == cohort), None)
