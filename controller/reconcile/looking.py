"""What the loop holds of the store between two ticks, so that a tick reads what changed.

Nothing here is known that the store does not say: it is read anew at start, and each record again
when the store tells that it was written.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace

from controller.domain import fleet, ledger, plan, rollout
from controller.domain.eligible import Bar, barred, has_begun, is_target
from controller.domain.field import Word
from controller.domain.fleet import RolloutState
from controller.domain.ledger import Ledger
from controller.domain.rollout import Step, View, attempts
from controller.domain.staying import Kept
from controller.reconcile.labelling import Words, asks
from controller.store.base import Store


@dataclass(slots=True, kw_only=True)
class Held:
    """One rollout, its devices, and when it is worth deciding again."""

    rollout: fleet.Rollout
    release: fleet.Release
    targets: dict[str, fleet.Device]
    deployments: dict[str, fleet.Deployment]  # device -> its newest
    earlier: dict[str, tuple[fleet.Deployment, ...]] = field(default_factory=dict)
    left: dict[str, str] = field(default_factory=dict)  # no longer selected -> why; not told yet
    next_at: float = 0.0
    stirred: bool = True
    _ledger: Ledger | None = None  # what all of it comes to

    def steps(
        self, now: float, words: Mapping[str, Word], control: Sequence[Kept] = ()
    ) -> tuple[Step, ...]:
        """What the rollout does next."""
        made = self.rollout
        if ledger.follows(made):
            return self._sums().steps(made, now)
        view = View(
            rollout=made, targets=tuple(self.targets.values()), deployments=self.deployments,
            now=now, earlier=self.earlier, words=words, control=control,
        )  # fmt: skip
        return rollout.steps(view)

    def _sums(self) -> Ledger:
        if self._ledger is None:
            self._ledger = Ledger(
                rollout=self.rollout, targets=self.targets, deployments=self.deployments,
                earlier=self.earlier,
            )  # fmt: skip
        return self._ledger

    def _look(self, name: str) -> None:
        if self._ledger is not None:
            self._ledger.look(name)

    def goes_on(self, made: fleet.Rollout) -> None:
        """The rollout as it is now."""
        if not ledger.same_settings(self.rollout, made):
            self._ledger = None
        self.rollout, self.stirred = made, True

    def take(self, found: fleet.Deployment) -> None:
        """A deployment as it is now; another attempt takes the place of the one before."""
        known = self.deployments.get(found.device)
        if known is None or known.id == found.id or found.created_at >= known.created_at:
            if known is not None and known.attempt < found.attempt:
                before = self.earlier.get(found.device, ())
                self.earlier[found.device] = (*before, known)
            self.deployments[found.device] = found
        elif found.device in self.earlier:
            of_it = self.earlier[found.device]
            self.earlier[found.device] = tuple(found if d.id == found.id else d for d in of_it)
        self._look(found.device)

    def put(self, device: fleet.Device) -> None:
        """A device as it is now."""
        self.targets[device.name] = device
        self._look(device.name)

    def drop(self, name: str) -> None:
        """A device that it is not for any more."""
        del self.targets[name]
        self._look(name)

    def rest(self, now: float, until: float) -> None:
        """Nothing is to be done until something is written, or one of these moments comes."""
        self.stirred = False
        made = self.rollout
        if ledger.follows(made):
            self.next_at = min(until, self._sums().next_at(made, now))
            return
        moments = [until, *([made.windows_end] if made.windows_end else [])]
        for deployment in self.deployments.values():
            if deployment.outcome is None:
                moments.append(deployment.created_at + made.deadline_s)
            else:
                waits = {made.soak_s, plan.SETTLE_S, made.control_s or made.soak_s}
                moments += [deployment.ended_at + s for s in waits]
        # A deadline holds once it is past, so the moment itself is looked at again.
        self.next_at = min((at for at in moments if at > now - 1.0), default=float("inf"))


@dataclass(slots=True, kw_only=True)
class Looks:
    """Everything that is held, and what was written since the last tick."""

    store: Store
    open: dict[str, fleet.Deployment] = field(default_factory=dict)  # without an end, by id
    open_in: Counter[str] = field(default_factory=Counter)  # how many of them, by rollout
    held: dict[str, Held] = field(default_factory=dict)
    asked: set[str] = field(default_factory=set)  # devices whose desired state may have changed
    words: Words = field(init=False)  # what labels say
    _devices: set[str] = field(default_factory=set)
    _deployments: set[str] = field(default_factory=set)
    _studies: set[str] = field(default_factory=set)

    def __post_init__(self) -> None:
        self.words = Words.of(self.store)

    @classmethod
    def of(cls, store: Store) -> Looks:
        """Begin to watch a store; every device is to be looked at."""
        made = cls(store=store)
        store.devices.watch(made._devices.add)
        store.deployments.watch(made._deployments.add)
        store.studies.watch(made._studies.add)
        made.open = {d.id: d for d in store.deployments.find(outcome=None)}
        made.open_in = Counter(d.rollout for d in made.open.values())
        made.asked = {d.name for d in store.devices.find()}
        return made

    def read(self) -> None:
        """Read again what was written since the last time."""
        with self.store.transaction():  # one, and not one a record
            self._read()

    def _read(self) -> None:
        # Deployments first: who was admitted stays, though it may no longer match.
        written, self._deployments = set(self._deployments), _emptied(self._deployments)
        for key in sorted(written):
            found = self.store.deployments.get(key)
            if found is not None:
                self._deployment(found)
        devices, self._devices = set(self._devices), _emptied(self._devices)
        for name in devices:
            self._device(name, self.store.devices.get(name))
        if self.words.news():
            for held in self.held.values():
                held.stirred |= asks(held.rollout.gate)
        studies, self._studies = set(self._studies), _emptied(self._studies)
        for key in studies:
            study = self.store.studies.get(key)
            if study is not None:
                self.asked.add(study.device)
                for held in self.held.values() if study.control is not None else ():
                    held.stirred |= study.id in held.rollout.control_studies

    def _device(self, name: str, device: fleet.Device | None) -> None:
        for held in self.held.values():
            begun = device is not None and has_begun(device, held.deployments)
            known = held.targets.get(name)
            why = barred(held.rollout, held.release, device, begun=begun) if device else None
            if device is not None and why is None:
                held.stirred |= known is None or _differs(known, device)
                held.put(device)
            elif known is not None:
                held.drop(name)
                held.stirred = True
                if why is not None and why.bar is Bar.NOT_SELECTED:
                    held.left[name] = why.reason

    def _deployment(self, found: fleet.Deployment) -> None:
        before = found.id in self.open
        if found.outcome is None:
            self.open[found.id] = found
        else:
            self.open.pop(found.id, None)
        self.open_in[found.rollout] += (found.outcome is None) - before
        if not self.open_in[found.rollout]:
            del self.open_in[found.rollout]
        if before != (found.outcome is None):
            self.asked.add(found.device)  # how far one has come changes nothing that is asked
        held = self.held.get(found.rollout)
        if held is not None:
            held.take(found)
            held.stirred = True

    def due(self, made: fleet.Rollout, release: fleet.Release, now: float) -> Held | None:
        """A rollout to decide about; None while nothing can have changed."""
        held = self.held.get(made.id)
        if held is None or held.release != release or not _alike(held.rollout, made):
            newest, earlier = attempts(self.store.deployments.find(rollout=made.id))
            targets = self._targets(made, release, newest)
            held = Held(
                rollout=made, release=release, targets=targets, deployments=newest, earlier=earlier
            )
            self.held[made.id] = held
        if held.rollout != made:
            held.goes_on(made)
        return held if held.stirred or now >= held.next_at else None

    def _targets(
        self, made: fleet.Rollout, release: fleet.Release, newest: Mapping[str, fleet.Deployment]
    ) -> dict[str, fleet.Device]:
        if made.devices:
            named = [self.store.devices.get(name) for name in made.devices]
            devices = [d for d in named if d is not None]
        else:
            devices = list(self.store.devices.find(revoked=False))
        return {
            d.name: d for d in devices if is_target(made, release, d, begun=has_begun(d, newest))
        }

    def drop(self, kept: set[str]) -> None:
        """Forget rollouts that are over."""
        for key in set(self.held) - kept:
            del self.held[key]


def _emptied(told: set[str]) -> set[str]:
    told.clear()  # the store goes on telling this very set
    return told


def _alike(before: fleet.Rollout, after: fleet.Rollout) -> bool:
    """Whether both are for the same devices."""
    same = (before.devices, before.selector, before.where, before.control_ended_at) == (
        after.devices, after.selector, after.where, after.control_ended_at,
    )  # fmt: skip
    return same and after.state in (RolloutState.RUNNING, before.state)


def _differs(before: fleet.Device, after: fleet.Device) -> bool:
    """Whether a decision could tell the two apart; when it was last seen and asked is no matter.

    Reports beyond slots and fingerprint are in the deployments.
    """
    if (before.reported is None) != (after.reported is None):
        return True
    then, now = before.reported, after.reported
    told = then is not None and now is not None and (
        then.slots, then.fingerprint, then.understands, then.time_zone, then.quarantined,
    ) != (now.slots, now.fingerprint, now.understands, now.time_zone, now.quarantined)  # fmt: skip
    still = replace(
        before, last_seen=after.last_seen, generation=after.generation, reported=after.reported,
        desired_key=after.desired_key,
    )  # fmt: skip
    return told or still != after
