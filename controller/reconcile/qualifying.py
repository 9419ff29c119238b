"""Takes announced stacks further: find a device that has one, fit, try out, ship both variants.

Each state has its work, done slot by slot; `domain.stacks.decide` says what follows. All of it may
be done again: what was begun is found in the record.
"""

from __future__ import annotations

import logging
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field, replace

from controller.domain import fleet, plan, policy, stacks
from controller.domain.fleet import JobStatus, RolloutState
from controller.domain.policy import Policy
from controller.domain.stacks import Progress, Seen, StackAnnouncement, StackPart, StackState
from controller.errors import Conflict, FitmentError, Temporary, TrustError, UserError
from controller.reconcile import cohorts, fitting, optimising, policies, releasing, rolling
from controller.reconcile.context import Context
from controller.reconcile.stack_releases import holding_both
from controller.reconcile.standings import Member, members, picture
from fitment.core.deployment import Outcome
from fitment.core.measurement import Measurement

log = logging.getLogger("controller.reconcile")

STACK = "stack:"
"""How the trigger of a rollout begins that an announced stack asked for."""
_LOOK_S = {StackState.PREPARED: 15.0, StackState.ANNOUNCED: 5.0}
_BUSY_S = 1.0
_FETCH_S = 600.0
"""After a commit a device has so long to fetch what stands beside it, before nobody waits."""
_OVER = (RolloutState.COMPLETED, RolloutState.HALTED, RolloutState.CANCELLED, RolloutState.REVERTED)
Work = Callable[[Context, StackAnnouncement, str, StackPart], tuple[StackPart, Seen]]


@dataclass(slots=True, kw_only=True)
class Looked:
    """When each announcement is worth another look; losing it costs a look."""

    next_at: dict[str, float] = field(default_factory=dict)


def advance(context: Context, looked: Looked) -> None:
    """Take each open announcement one step further, when it is time."""
    now_s = context.clock()
    for now in context.store.stacks.find(closed_at=0.0):
        if looked.next_at.get(now.id, 0.0) > now_s:
            continue
        moved = _guarded(context, now)
        looked.next_at[now.id] = 0.0 if moved else now_s + _LOOK_S.get(now.state, _BUSY_S)


def _guarded(context: Context, now: StackAnnouncement) -> bool:
    try:
        return _step(context, now)
    except Temporary as error:
        log.info("action=stack_waits stack=%s reason=%s", now.id, error)
    except FitmentError as error:
        _say(context, now, f"it cannot go on: {error}")
    return False


def _step(context: Context, now: StackAnnouncement) -> bool:
    """Do the work of the state; says whether another state follows."""
    holder = _holder(context, now)
    if holder is not None and now.state is StackState.ANNOUNCED:
        now = _found(context, now, holder)
    elif holder is not None and now.state in stacks.NEEDS_DEVICE and holder.name != now.device:
        now = replace(now, device=holder.name)  # another one stands in
    if now.state in stacks.NEEDS_DEVICE and holder is None:
        seen: dict[str, Seen] = {}
    elif now.state is StackState.ANNOUNCED:
        seen = dict.fromkeys(now.parts, Seen())
    else:
        now, seen = _work(context, now)
    devices = picture(context, now) if now.state is StackState.PREPARED else ()
    move = stacks.decide(now, found=holder is not None, parts=seen, devices=devices)
    if move is None:
        _say(context, now, _waits(now, holder, seen))
        return False
    _move(context, now, move)
    return True


def _waits(now: StackAnnouncement, holder: fleet.Device | None, seen: Mapping[str, Seen]) -> str:
    if now.state is StackState.ANNOUNCED and holder is None:
        how = ", ".join(f"{name} {value}" for name, value in sorted(now.facts.items()))
        who = now.device or f"a device of {now.profile}" + (f" with {how}" if how else "")
        return f"{who} has to report the stack"
    if now.state is StackState.ANNOUNCED:
        return f"no device of {now.profile} like {now.device} runs anything yet"
    return "; ".join(f"{slot}: {s.waits}" for slot, s in sorted(seen.items()) if s.waits)


def _say(context: Context, now: StackAnnouncement, waits: str) -> None:
    changed = replace(now, waits=waits)
    if changed != context.store.stacks.get(now.id):
        context.store.stacks.put(changed)


def _holder(context: Context, now: StackAnnouncement) -> fleet.Device | None:
    """A device that has the stack: the named one, or else one that is online."""
    if now.cohort is not None:
        found = cohorts.members(context, now.cohort)
    elif now.facts:
        of_profile = context.store.devices.find(profile=now.profile, revoked=False)
        found = [d for d in of_profile if stacks.matches(now.facts, d)]
    else:
        named = context.store.devices.get(now.device)
        return named if named is not None and named.cohort and not named.revoked else None
    return min(found, default=None, key=lambda d: (d.name != now.device, not d.online, d.name))


def _found(context: Context, now: StackAnnouncement, holder: fleet.Device) -> StackAnnouncement:
    """The announcement with what its device is, and what devices like it run."""
    if holder.reported is None or holder.cohort is None:
        return now
    seen = holder.reported.fingerprint
    now = replace(
        now, device=holder.name, hardware=seen.hardware.hash, stack=seen.stack.hash,
        stack_facts=dict(seen.stack.facts),
    )  # fmt: skip
    return replace(now, parts=_parts(members(context, now), now))


def _parts(found: list[Member], now: StackAnnouncement) -> dict[str, StackPart]:
    """By slot: the model version that most devices run which may get the stack."""
    counted: dict[str, dict[str, int]] = {}
    for member in found:
        if member.device.cohort is None or member.device.cohort.hardware != now.hardware:
            continue
        for slot, model in member.models.items():
            if not now.wanted or slot in now.wanted:
                of_slot = counted.setdefault(slot, {})
                of_slot[model] = of_slot.get(model, 0) + 1
    parts = {}
    for slot, models in counted.items():
        model = max(models, key=lambda name: (models[name], name))
        known = now.parts.get(slot)
        parts[slot] = StackPart(model=model, releases=known.releases if known else ())
    return parts


def _work(context: Context, now: StackAnnouncement) -> tuple[StackAnnouncement, dict[str, Seen]]:
    """The state's work in every slot; what was begun is stored before it is looked at again."""
    work = WORK.get(now.state)
    seen: dict[str, Seen] = {}
    for slot in sorted(now.parts) if work is not None else ():
        with context.store.transaction():
            part, seen[slot] = work(context, now, slot, now.parts[slot])  # type: ignore[misc]
            if part != now.parts[slot]:
                now = replace(now, parts={**now.parts, slot: part})
                context.store.stacks.put(now)
    return now, seen


def _fit(
    context: Context, now: StackAnnouncement, _slot: str, part: StackPart
) -> tuple[StackPart, Seen]:
    if now.cohort is None:
        return part, Seen()
    if not part.job:
        job = fitting.start(context, part.model, now.cohort)
        return replace(part, job=job.id), Seen(waits="its fit begins")
    found = context.store.jobs.get(part.job)
    if found is None or found.status is JobStatus.FAILED:
        why = found.error if found is not None else "it is gone"
        return part, Seen(progress=Progress.FAILED, reason=f"the fit failed: {why}")
    if found.status is not JobStatus.DONE or found.choice is None:
        return part, Seen(waits=found.step or "its fit has not begun")
    if not found.choice.chosen:
        return part, Seen(progress=Progress.FAILED, reason=found.choice.reason)
    best = next(v for v in found.variants if v.bundle.variant == found.choice.chosen)
    part = replace(part, chosen=found.choice.chosen, name=best.name, reason=found.choice.reason)
    return part, Seen(progress=Progress.DONE, reason=f"{best.name}: {found.choice.reason}")


def _test(
    context: Context, now: StackAnnouncement, slot: str, part: StackPart
) -> tuple[StackPart, Seen]:
    """A device that has the stack takes it like any other release, checked as all are."""
    for deployment in _at_home(context, now, slot, part):
        if deployment.outcome is Outcome.COMMITTED:
            words = f"{deployment.device} took {part.name}{numbers(deployment.measurement)}"
            taken = deployment.measurement
            part = replace(part, tested=words, coverage=taken.integer_coverage if taken else None)
            return part, Seen(progress=Progress.DONE, reason=words)
    asked = _trigger(context, now, part)
    if asked is not None:
        how = asked.waits or "it is under way"
        return part, Seen(waits=f"trigger {asked.id} of {asked.device} tries it out: {how}")
    if not part.test_release:
        made = releasing.create(context, part.model, jobs=(part.job,), trigger=True)
        return replace(part, test_release=made.id), Seen(waits="its release for the trial is made")
    waits = _unapproved(context, part.test_release, slot)
    if waits:
        return part, Seen(waits=waits)
    if not part.test_rollout:
        asked_for = rolling.RolloutPlan(
            devices=(now.device,), waves=(1.0,), gate=fleet.Gate(latency_ratio_max=None)
        )
        try:
            began = rolling.create(
                context, part.test_release, asked_for, trigger=f"{STACK}{now.id}"
            )
        except UserError as error:
            return part, Seen(progress=Progress.FAILED, reason=str(error))
        return replace(part, test_rollout=began.id), Seen(waits=f"{now.device} tries it out")
    return part, _tried(context, now, part)


def _tried(context: Context, now: StackAnnouncement, part: StackPart) -> Seen:
    made = context.store.rollouts.get(part.test_rollout)
    if made is None:
        return Seen(progress=Progress.FAILED, reason="the rollout of its trial is gone")
    if made.state not in _OVER or made.pending:
        words = made.asks or f"{now.device} tries it out (rollout {made.id})"
        return Seen(waits=words if not made.pending else f"{now.device} has to come online")
    ended = context.store.deployments.find(rollout=made.id)
    last = ended[-1] if ended else None
    why = "; ".join(last.reasons) if last is not None else "; ".join(made.reasons[-1:])
    shown = numbers(last.measurement) if last is not None else ""
    outcome = last.outcome.value if last is not None and last.outcome else made.state.value
    return Seen(
        progress=Progress.FAILED, reason=f"{now.device} did not take {part.name} ({outcome})"
        f"{shown}: {why}"
    )  # fmt: skip


def _at_home(
    context: Context, now: StackAnnouncement, slot: str, part: StackPart
) -> list[fleet.Deployment]:
    """Deployments of what was chosen on devices that have the stack."""
    if now.cohort is None:
        return []
    found = []
    for device in cohorts.members(context, now.cohort):
        own = plan.own(device, context.store.deployments.find(device=device.name))
        found += [
            d for d in own
            if d.slot == slot and d.variant == part.chosen and d.cohort == now.cohort
        ]  # fmt: skip
    return found


def _trigger(context: Context, now: StackAnnouncement, part: StackPart) -> fleet.Trigger | None:
    """One of the same cohort that is under way: its rollout is a trial, too."""
    known = context.store.triggers.find(model=part.model, closed_at=0.0)
    return next((t for t in known if t.cohort == now.cohort), None)


def numbers(taken: Measurement | None) -> str:
    """What a device measured, in words."""
    if taken is None:
        return ""
    parts = []
    if taken.latency is not None:
        parts.append(f"{taken.latency.p50_ms:.3f} ms p50")
        if taken.latency.p95_ms is not None:
            parts.append(f"{taken.latency.p95_ms:.3f} ms p95")
    if taken.agreement is not None:
        parts.append(f"agreement {taken.agreement:.4f}")
    if taken.integer_coverage is not None:
        parts.append(f"integer coverage {taken.integer_coverage:.2f}")
    return f" ({', '.join(parts)}; {taken.verdict.value})" if parts else ""


def _unapproved(context: Context, release_id: str, slot: str) -> str:
    """Approve where the policy says so; else who has to, and how. Empty: it is approved."""
    release = context.store.releases.get(release_id)
    if release is None:
        raise Conflict("its release is gone: withdraw the stack, and announce it again")
    if release.approved_at:
        return ""
    may = policies.of(context, slot)
    if may is Policy.PROPOSE:
        return f"an operator approves it (policy: {may.value}): fitment model approve {slot}"
    try:
        releasing.approve(context, release_id, actor="controller")
    except TrustError as error:
        return f"{error}; then: fitment model approve {slot}"
    return ""


def _ship(
    context: Context, now: StackAnnouncement, slot: str, part: StackPart
) -> tuple[StackPart, Seen]:
    """A release that holds both, to those that do not hold both yet."""
    if part.rollout:
        return part, Seen(progress=Progress.DONE, reason=f"rollout {part.rollout}")
    if not part.release:
        made = holding_both(context, now, slot, part)
        if made is None:
            words = "every device that can holds what it needs, or needs nothing else"
            return part, Seen(progress=Progress.DONE, reason=words)
        part = replace(part, release=made.id, releases=(*part.releases, made.id))
        return part, Seen(waits="its release is made")
    waits = _unapproved(context, part.release, slot)
    if waits:
        return part, Seen(waits=waits)
    release = context.store.releases.get(part.release)
    names = _unserved(context, now, slot, release) if release is not None else ()
    if not names:
        return replace(part, release=""), Seen(waits="its devices changed meanwhile")
    may = policies.of(context, slot)
    asked = rolling.RolloutPlan(
        devices=names, waves=policy.waves(len(names)), gate=fleet.Gate(latency_ratio_max=None),
        **optimising.windows_of(context, names[0], slot),
    )  # fmt: skip
    began = rolling.create(context, part.release, asked, trigger=f"{STACK}{now.id}")
    if policy.asks_after(may, len(names)) >= 0:
        ask = replace(began, asks_after=policy.asks_after(may, len(names)))
        context.store.rollouts.put(ask)
    words = f"release {part.release} goes to {len(names)} devices"
    return replace(part, rollout=began.id), Seen(progress=Progress.DONE, reason=words)


def _unserved(
    context: Context, now: StackAnnouncement, slot: str, release: fleet.Release
) -> tuple[str, ...]:
    """Devices that lack it and of whose cohort the release leaves the variant as it is."""
    late = {s.device for s in picture(context, now) if slot in s.unserved}
    return tuple(
        m.device.name for m in members(context, now)
        if m.device.name in late and m.device.cohort is not None
        and release.variants.get(m.device.cohort.key) == m.running[slot].variant
    )  # fmt: skip


def _watch(
    context: Context, now: StackAnnouncement, _slot: str, part: StackPart
) -> tuple[StackPart, Seen]:
    made = context.store.rollouts.get(part.rollout) if part.rollout else None
    if made is None:
        return part, Seen(progress=Progress.DONE, reason="nothing had to be sent")
    if made.state not in _OVER:
        how = f"{made.asks}; answer: fitment rollout resume {made.id}" if made.asks else ""
        return part, Seen(waits=how or f"rollout {made.id} is {made.state.value}")
    if count := _fetching(context, now, made):
        return part, Seen(waits=f"{count} devices fetch what they will need")
    last = f": {made.reasons[-1]}" if made.reasons else ""
    return part, Seen(progress=Progress.DONE, reason=f"rollout {made.state.value}{last}")


def _fetching(context: Context, now: StackAnnouncement, made: fleet.Rollout) -> int:
    """Devices that took the release a moment ago and do not hold the second variant yet.

    It comes after the commit. Who has not got it after a while is shown with the reason, and
    holds up nobody.
    """
    ended = {
        d.device: d.ended_at
        for d in context.store.deployments.find(rollout=made.id)
        if d.outcome is Outcome.COMMITTED
    }
    recent = {name for name, at in ended.items() if context.clock() - at < _FETCH_S}
    if not recent:
        return 0
    late = {s.device for s in picture(context, now) if s.standing is stacks.Standing.NOT_READY}
    there = (context.store.devices.get(name) for name in sorted(recent & late))
    return sum(device is not None and device.online for device in there)


WORK: Mapping[StackState, Work] = {
    StackState.FITTING: _fit,
    StackState.TESTING: _test,
    StackState.QUALIFIED: _ship,
    StackState.ROLLING_OUT: _watch,
}
"""What is done in a state for each slot; in the others there is nothing to do."""


def _move(context: Context, now: StackAnnouncement, move: stacks.Move) -> None:
    """Enter the next state, and say so in the audit log, with the numbers."""
    if move.state not in stacks.OPENS[now.state]:
        raise Conflict(f"the stack is {now.state.value}; it cannot become {move.state.value}")
    parts = now.parts
    if move.state is StackState.ANNOUNCED:
        parts = {}
    elif move.state is StackState.FITTING and now.state is StackState.PREPARED:
        parts = _parts(members(context, now), now)
    elif move.state is StackState.QUALIFIED:
        parts = {s: replace(part, release="", rollout="") for s, part in parts.items()}
    moved = replace(now, state=move.state, parts=parts, waits="")
    if move.state is StackState.ANNOUNCED and now.facts:  # whoever is like that stands in
        moved = replace(moved, device="", stack="", hardware="")
    if not stacks.OPENS[move.state]:
        moved = replace(moved, closed_at=context.clock(), result=move.reason)
    details = {"stack": now.name, "profile": now.profile, "reason": move.reason}
    if move.state in stacks.HELD:
        details |= stacks.counts(picture(context, moved))
    with context.store.transaction():
        context.store.stacks.put(moved)
        context.record("controller", f"stack_{move.state.value}", now.id, details)
