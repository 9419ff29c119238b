"""Waves and gates: what a rollout does next, as a pure function of what is known.

A wave is a share of each cohort: so many of its devices may be admitted, at least one. The
first one of a cohort is its canary: until it has ended well, the cohort stays at the first
wave's share, also when the cohort turns up late. Within its share a cohort has no more devices
under way than have ended in it (or `Gate.open_most`), so that a bad variant is seen before it has
reached the whole share. Which devices fill the share is decided by who
is online, in admission order; so offline devices neither hold up a wave nor count as success,
and late joiners enter the wave that runs. Those that are still away at the end are named, stay
pending, and are admitted when they come back.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field

from controller.domain import gates, holding, sequential, staying
from controller.domain.eligible import Bar, held_up
from controller.domain.field import Word
from controller.domain.fleet import Deployment, Device, Gate, Rollout, RolloutState
from controller.domain.judgement import Exposure, GateReport, TooFew
from controller.domain.plan import own
from controller.domain.quotas import quota, room
from fitment.core.deployment import Outcome


@dataclass(frozen=True, slots=True, kw_only=True)
class Admit:
    """Give one device its deployment."""

    device: str
    wave: int


@dataclass(frozen=True, slots=True, kw_only=True)
class TimeOut:
    """End the deployment of a device that fell silent."""

    deployment: str
    reason: str


@dataclass(frozen=True, slots=True, kw_only=True)
class NextWave:
    """The gate held."""

    wave: int
    reason: str


@dataclass(frozen=True, slots=True, kw_only=True)
class Halt:
    """A gate failed; nothing more is admitted."""

    reason: str


@dataclass(frozen=True, slots=True, kw_only=True)
class Complete:
    """Every device that could be reached has ended."""

    reason: str
    pending: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True, kw_only=True)
class Ask:
    """Statistics say nothing of this wave; an operator must."""

    reason: str


@dataclass(frozen=True, slots=True, kw_only=True)
class LetGo:
    """The control group has done its part: its devices get the release, too."""

    reason: str


Step = Admit | TimeOut | NextWave | Halt | Complete | Ask | LetGo


@dataclass(frozen=True, slots=True, kw_only=True)
class View:
    """All that a decision looks at; ``targets`` in admission order."""

    rollout: Rollout
    targets: Sequence[Device]
    deployments: Mapping[str, Deployment]  # device name -> its newest deployment in this rollout
    now: float
    grouped: Mapping[str, Sequence[Device]] | None = None  # `cohorts`, where it is known already
    words: Mapping[str, Word] = field(default_factory=dict)  # what labels say of devices, by name
    earlier: Mapping[str, Sequence[Deployment]] = field(default_factory=dict)
    """Attempts before the newest, of devices that were tried again, oldest first."""
    control: Sequence[staying.Kept] = ()  # what devices that stay behind said, as often as asked

    def cohorts(self) -> Mapping[str, Sequence[Device]]:
        """Targets by cohort key; a device that never reported is a cohort of its own."""
        return group(self.targets) if self.grouped is None else self.grouped

    def its(self, device: Device) -> Deployment | None:
        """A device's newest deployment here; none that another had under its name before."""
        found = self.deployments.get(device.name)
        return found if found is not None and own(device, (found,)) else None

    def reached(self, device: Device) -> bool:
        """Whether it has had its turn.

        One that was held back before its window has not, nor one that is to be tried again.
        """
        found = self.its(device)
        if found is None or found.id in self.rollout.retried:
            return False
        return not (found.held_back and found.outcome is Outcome.CANCELLED)

    def of(self, members: Sequence[Device]) -> list[Deployment]:
        """Their deployments, in admission order."""
        return [found for d in members if (found := self.its(d)) is not None]

    def taken(self, deployments: Iterable[Deployment]) -> int:
        """How many of them take a place of their share; one that is tried again keeps its own."""
        return sum(not gates.is_void(d) for d in deployments)

    def again(self, device: Device) -> bool:
        """Whether it has a place already, and another turn."""
        found = self.its(device)
        return found is not None and found.id in self.rollout.retried and not gates.is_void(found)

    def judged(self) -> list[Deployment]:
        """What gates look at: of each device its first attempt that no operator has accepted.

        So another attempt mends no gate: a failure counts until it is acknowledged, and a device
        counts once.
        """
        accepted = set(self.rollout.acknowledged)
        return [
            next((d for d in (*self.earlier.get(n, ()), newest) if d.id not in accepted), newest)
            for n, newest in self.deployments.items()
        ]


def attempts(
    deployments: Iterable[Deployment],
) -> tuple[dict[str, Deployment], dict[str, tuple[Deployment, ...]]]:
    """Of a rollout's deployments, oldest first: each device's newest, and its attempts before."""
    newest: dict[str, Deployment] = {}
    earlier: dict[str, tuple[Deployment, ...]] = {}
    for deployment in deployments:
        known = newest.get(deployment.device)
        if known is not None and known.attempt < deployment.attempt:
            earlier[known.device] = (*earlier.get(known.device, ()), known)
        newest[deployment.device] = deployment
    return newest, earlier


def key_of(device: Device) -> str:
    """Key of the cohort that a device is judged and admitted with."""
    cohort = device.cohort
    return cohort.key if cohort else f"device {device.name}"


def group(targets: Iterable[Device]) -> dict[str, list[Device]]:
    """Devices by cohort, cohorts by their first device."""
    found: dict[str, list[Device]] = {}
    for device in targets:
        found.setdefault(key_of(device), []).append(device)
    return found


def steps(view: View) -> tuple[Step, ...]:
    """What to do now; empty when there is nothing to do but to wait."""
    state = view.rollout.state
    if state is RolloutState.COMPLETED:
        return _silent(view) or _returned(view)
    if state is not RolloutState.RUNNING:
        return _silent(view)
    if not view.targets and not view.deployments:
        if view.rollout.control_below and not view.rollout.control_ended_at:
            return (LetGo(reason="only the control group is left"),)
        return (Complete(reason="no device of the selection is left"),)
    failed = gates.failed(reports(view))
    if failed:
        return (Halt(reason=failed),)
    return _silent(view) or admissions(view) or _advance(view)


def _silent(view: View) -> tuple[Step, ...]:
    """A deadline holds in every state, so that each deployment ends."""
    limit_s = view.rollout.deadline_s
    return tuple(
        TimeOut(deployment=d.id, reason=f"no end was reported within {limit_s:g} s")
        for d in view.deployments.values()
        if d.outcome is None and view.now - d.created_at > limit_s
    )


def _returned(view: View) -> tuple[Step, ...]:
    return tuple(
        Admit(device=d.name, wave=view.rollout.wave)
        for d in view.targets
        if d.name in view.rollout.pending and not view.reached(d) and _ready(view, d)
    )


def admissions(view: View) -> tuple[Admit, ...]:
    """Who may begin: a wave's share holds for the devices of each cohort, and for the cohorts.

    Without the second a release for twenty cohorts of one device each would reach all of them in
    its first wave.
    """
    cohorts = [(members, view.of(members)) for members in view.cohorts().values()]
    begun = sum(view.taken(there) > 0 for _, there in cohorts)
    openings = quota(len(cohorts), view.rollout.waves[view.rollout.wave]) - begun
    admitted: list[Admit] = []
    for members, there in cohorts:
        taken = view.taken(there)
        free = quota(len(members), view.rollout.waves[_reach(view, there)]) - taken
        places = max(0, _room(there, view.rollout.gate))
        if not places or (free <= 0 and not view.rollout.retried):
            continue
        waiting = [d for d in members if not view.reached(d) and _ready(view, d)]
        again = [d for d in waiting if view.again(d)]
        fresh = [d for d in waiting if not view.again(d)]
        chosen = (again + fresh[: max(0, free)])[:places]
        if chosen and not taken:
            openings -= 1
            if openings < 0:
                continue
        admitted += [Admit(device=d.name, wave=view.rollout.wave) for d in chosen]
    return tuple(admitted)


def _ready(view: View, device: Device) -> bool:
    """Whether it can be given an order: it is there, and would keep to the windows."""
    return device.online and _obstacle(view, device) is None


def _obstacle(view: View, device: Device) -> Bar | None:
    found = held_up(view.rollout, device, now=view.now)
    return None if found is None else found.bar


def _closed(view: View) -> bool:
    """Whether the last maintenance window is over for good."""
    return 0 < view.rollout.windows_end <= view.now


def _room(deployments: Iterable[Deployment], gate: Gate) -> int:
    """How many more may be under way: as many as have ended, at least `Gate.open_most`."""
    real = [d for d in deployments if not gates.is_void(d)]
    ended = sum(d.outcome is not None for d in real)
    return room(ended, len(real) - ended, gate)


def _reach(view: View, of_cohort: Sequence[Deployment]) -> int:
    """The wave whose share holds for a cohort: the first until its canary ended and soaked."""
    ended = [d for d in of_cohort if d.outcome is not None and not gates.is_void(d)]
    soaked = [d for d in ended if view.now - d.ended_at >= view.rollout.soak_s]
    return view.rollout.wave if soaked else 0


def _advance(view: View) -> tuple[Step, ...]:
    rollout = view.rollout
    deployments = list(view.deployments.values())
    real = [d for d in deployments if not gates.is_void(d)]
    if any(d.outcome is None for d in deployments):
        return ()
    away = tuple(d.name for d in view.targets if not view.reached(d))
    if away and _closed(view):
        reason = f"the last maintenance window is over; not reached: {', '.join(away)}; cancel this"
        return (Ask(reason=f"{reason} rollout and create another for them"),)
    if not real and away:
        return ()  # not even a canary was there yet
    if real and view.now - max(d.ended_at for d in real) < rollout.soak_s:
        return ()
    if any(kept.open for kept in view.control):
        return ()
    found = reports(view, final=True)  # small samples are judged too, at the end of their wave
    failed = gates.failed(found)
    if failed:
        return (Halt(reason=failed),)
    words = gates.summary([d for d in view.judged() if not gates.is_void(d)], rollout, found)
    words += _again(view)
    asks = _asks(rollout, gates.unsure(found), words)
    if asks:
        return (Ask(reason=asks),)
    if rollout.wave < len(rollout.waves) - 1:
        return (NextWave(wave=rollout.wave + 1, reason=words),)
    return _over(view, real, away, words)


def _over(
    view: View, real: Sequence[Deployment], away: tuple[str, ...], words: str
) -> tuple[Step, ...]:
    """The last wave is over: the control group's turn comes, and then the end."""
    rollout = view.rollout
    if rollout.control_below and not rollout.control_ended_at:
        over_at = max(d.ended_at for d in real) if real else rollout.wave_started_at
        if view.now < holding.ends_at(rollout, over_at):
            return ()
        return (LetGo(reason=f"{words}; the control group gets it, too"),)
    if away:
        words += f"; never reached: {', '.join(away)}"
        old = [
            d.name
            for d in view.targets
            if d.name in away and d.online and _obstacle(view, d) is Bar.OLD_AGENT
        ]
        if old:
            words += f"; too old an agent for maintenance windows: {', '.join(old)}"
    return (Complete(reason=words, pending=away),)


def _asks(rollout: Rollout, unsure: str, words: str) -> str:
    """What an operator must say before the next wave, once; empty: nothing."""
    if rollout.answered >= rollout.wave:
        return ""
    if unsure and rollout.gate.too_few is TooFew.ASK:
        return f"wave {rollout.wave + 1} is over; no statistics say go on: {unsure}"
    if rollout.asks_after == rollout.wave < len(rollout.waves) - 1:
        return f"the canary is done, and the policy asks before the rest: {words}"
    return ""


def _again(view: View) -> str:
    """How those fared that were tried again; gates go by their first attempt."""
    again = [view.deployments[name] for name in view.earlier]
    if not again:
        return ""
    good = sum(d.outcome is Outcome.COMMITTED for d in again)
    return f"; {len(again)} tried again, {good} of them committed"


def reports(view: View, *, final: bool = False) -> tuple[GateReport, ...]:
    """How each gate of each cohort stands.

    A deployment is judged with the cohort that it was admitted in, wherever its device went.
    """
    cohorts = view.cohorts()
    devices = {d.name: d for d in view.targets}
    judged: dict[str, list[Deployment]] = {}
    for deployment in sorted(view.judged(), key=lambda d: (d.created_at, d.device)):
        name = deployment.device
        cohort = deployment.cohort
        if cohort is None:
            key = key_of(devices[name]) if name in devices else f"device {name}"
        else:
            key = cohort.key
        judged.setdefault(key, []).append(deployment)
    found = [
        gates.Cohort(
            key=key, deployments=of_cohort, devices=devices, place=place,
            members=max(len(cohorts.get(key, ())), len(of_cohort)), words=view.words,
            control=[kept for kept in view.control if kept.cohort == key],
        )
        for place, (key, of_cohort) in enumerate(judged.items())
    ]  # fmt: skip
    return gates.judge(found, view.rollout, now=view.now, final=final)


def exposure(view: View) -> Exposure:
    """How many devices the release has reached, and how many it can before the wave's gate.

    ``bound`` is what shares allow in this wave, for whatever variant. ``likely_bound`` is for one
    cohort of the first admitted, when devices end in about the order in which they began: a
    variant that fails on ``detects`` of them has then been halted, with 95 % confidence.
    """
    gate, share = view.rollout.gate, view.rollout.waves[view.rollout.wave]
    cohorts = [(view.taken(view.of(m)), quota(len(m), share)) for m in view.cohorts().values()]
    begun = [max(pair) for pair in cohorts if pair[0]]
    rest = sorted((allowed for taken, allowed in cohorts if not taken), reverse=True)
    openings = max(0, quota(len(cohorts), share) - len(begun)) if cohorts else 0
    names = {d.name for d in view.targets}
    gone = [d for d in view.deployments.values() if d.device not in names]
    detects = min(1.0, gate.max_failure_share + DETECTS)
    needed = 1 / (gates.part(0, gates.asked(gate)) * gate.false_halt_rate)
    seen_after = sequential.stops_after(gate.max_failure_share, detects, needed)
    likely = None if seen_after is None else seen_after + max(gate.open_most, seen_after)
    return Exposure(
        admitted=view.taken(view.deployments.values()),
        bound=sum(begun) + sum(rest[:openings]) + view.taken(gone),
        detects=detects, likely_bound=likely,
    )  # fmt: skip


DETECTS = 0.1
"""The bound that is likely is for a variant that fails this much more often than is allowed."""
