"""What pages read and do: always on the engine's thread, and never much of its time."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Awaitable, Callable, Hashable, Mapping
from dataclasses import dataclass, field, replace
from typing import Any, TypeVar

from controller.dashboard.views.beside import Asked
from controller.dashboard.views.beside import names_of as variant_names
from controller.dashboard.views.overview import JOB_ENDED, ROLLOUT_ENDED, FleetRecords
from controller.dashboard.views.planned import Wish
from controller.dashboard.views.twin import COLUMNS, SAMPLES_MOST, DeviceRecords, names_of
from controller.dashboard.views.waves import ACTS, RolloutRecords
from controller.dashboard.views.workbench import ModelRecords
from controller.domain import fleet
from controller.domain.belonging import Applicant, Note
from controller.domain.roles import Identity, Role, covers
from controller.domain.stacks import DeviceStanding, StackAnnouncement
from controller.domain.tickets import Ticket
from controller.errors import UserError
from controller.gateway.http import access
from controller.gateway.http.api import Api, found
from controller.gateway.http.variants import compared
from controller.reconcile import applying, keepsakes
from controller.reconcile.context import ACTING
from controller.reconcile.rolling import RolloutPlan

T = TypeVar("T")

FRESH_S = 2.0
"""What was read this long ago is still shown; every page shares it."""
SHARE = 20.0
"""Reading waits so many times as long as it took: at most a twentieth of the engine's time."""
FORGOTTEN_S = 60.0
CHANGES_ROLLOUTS = access.role_of("POST", "/v1/rollouts/{key}/{act}")
"""The role that the buttons of a rollout need: that of the same act over REST."""
WRITES_NOTES = access.role_of("POST", "/v1/devices/{name}/notes")
ANSWERS_APPLICANTS = access.role_of("POST", "/v1/applicants/{name}/approve")


@dataclass(frozen=True, slots=True, kw_only=True)
class Visit:
    """One request of somebody who logged in."""

    desk: Desk
    who: Identity
    is_open: Callable[[], Awaitable[bool]]
    """Whether the session still runs, with the same role; a page that stands asks again."""

    def may(self, needed: Role) -> bool:
        """Whether to offer what needs this role."""
        return covers(self.who.role, needed)


@dataclass(frozen=True, slots=True, kw_only=True)
class Journal:
    """What the pages of triggers, tickets and audit are made from."""

    triggers: tuple[fleet.Trigger, ...] = ()
    tickets: tuple[Ticket, ...] = ()
    stacks: tuple[StackAnnouncement, ...] = ()
    standings: Mapping[str, tuple[DeviceStanding, ...]] = field(
        default_factory=dict
    )  # of open ones
    audit: tuple[fleet.AuditEntry, ...] = ()
    names: Mapping[str, str] | None = None  # model id -> name and version
    pages: Mapping[str, tuple[str, ...]] | None = None  # subject -> its page


@dataclass(frozen=True, slots=True, kw_only=True)
class Applying:
    """Devices that ask without a token, and whether they may."""

    applicants: tuple[Applicant, ...] = ()
    open_: bool = False


class Desk:
    """Reads records for pages, and carries out what operators ask."""

    def __init__(self, api: Api, clock: Callable[[], float] = time.monotonic) -> None:
        self._api = api
        self._clock = clock
        self._kept: dict[Hashable, tuple[float, Any]] = {}
        self._under_way: dict[Hashable, asyncio.Future[Any]] = {}
        self._names: Mapping[str, str] = {}

    async def _look(self, key: Hashable, read: Callable[[], T]) -> T:
        """What ``read`` gives on the engine's thread, or gave a moment ago."""
        return await self._share(key, lambda: self._timed(read))

    async def _share(self, key: Hashable, read: Callable[[], Awaitable[tuple[T, float]]]) -> T:
        """What ``read`` gives and how long it took the engine, once for all who ask."""
        until, kept = self._kept.get(key, (0.0, None))
        if self._clock() < until:
            value: T = kept
            return value
        if key not in self._under_way:
            reading = asyncio.ensure_future(self._read(key, read))
            self._under_way[key] = reading
            reading.add_done_callback(lambda _: self._under_way.pop(key, None))
        answer: T = await asyncio.shield(self._under_way[key])
        return answer

    async def _timed(self, read: Callable[[], T]) -> tuple[T, float]:
        def timed() -> tuple[T, float]:
            began = time.monotonic()
            value = read()
            return value, time.monotonic() - began

        return await self._api.ask(timed)

    async def _read(self, key: Hashable, read: Callable[[], Awaitable[tuple[T, float]]]) -> T:
        value, took_s = await read()
        now = self._clock()
        old = [k for k, (until, _) in self._kept.items() if until + FORGOTTEN_S < now]
        for gone in old:
            del self._kept[gone]
        self._kept[key] = (now + max(FRESH_S, SHARE * took_s), value)
        return value

    async def glance(self) -> FleetRecords:
        """For the fleet's page."""
        return await self._look("glance", self._glance)

    def _glance(self) -> FleetRecords:
        store = self._api.controller.store
        open_ = [state for state in fleet.RolloutState if state not in ROLLOUT_ENDED]
        rollouts = [r for state in open_ for r in store.rollouts.find(state=state)]
        running = [status for status in fleet.JobStatus if status not in JOB_ENDED]
        return FleetRecords(
            devices=store.devices.find(),
            models=store.models.find(),
            jobs=tuple(job for status in running for job in store.jobs.find(status=status)),
            rollouts=tuple(rollouts),
            deployments=tuple(d for r in rollouts for d in store.deployments.find(rollout=r.id)),
            triggers=store.triggers.find(closed_at=0.0),
            tickets=store.tickets.find(closed_at=0.0),
        )

    async def rollouts(self) -> FleetRecords:
        """For the list of rollouts; newest first."""
        return await self._look("rollouts", self._rollouts)

    def _rollouts(self) -> FleetRecords:
        store = self._api.controller.store
        newest = store.rollouts.find()[::-1][:100]
        return FleetRecords(
            devices=store.devices.find(),
            rollouts=newest,
            deployments=tuple(d for r in newest for d in store.deployments.find(rollout=r.id)),
        )

    async def models(self) -> tuple[fleet.ModelVersion, ...]:
        """For the list of models."""
        return await self._look("models", self._api.controller.store.models.find)

    async def device(self, name: str) -> DeviceRecords:
        """For a device's page.

        Raises:
            NotFound: there is no such device.
        """
        return await self._look(("device", name), lambda: self._device(name))

    def _device(self, name: str) -> DeviceRecords:
        store = self._api.controller.store
        device = found(store.devices.get(name), "device", name, "fitment device list")
        deployments = store.deployments.find(device=name)
        return DeviceRecords(
            device=device,
            deployments=deployments,
            names=self._named({d.variant for d in deployments}),
            series={c: store.telemetry.latest(name, c, SAMPLES_MOST) for c in COLUMNS},
            samples=store.telemetry.count(name),
            events=keepsakes.events(self._api.controller.context, name),
            tickets=store.tickets.find(device=name),
            notes=store.notes.find(device=name),
            tallies=store.tallies.find(device=name),
        )

    async def applicants(self) -> Applying:
        """For the page of devices that ask to be let in."""
        return await self._look("applicants", self._applicants)

    def _applicants(self) -> Applying:
        context = self._api.controller.context
        applying.waiting(context)  # which forgets those that came too long ago
        return Applying(
            applicants=context.store.applicants.find(),
            open_=context.settings.enrolment_by_approval,
        )

    async def model(self, key: str) -> ModelRecords:
        """For a model's page.

        Raises:
            NotFound: there is no such model.
        """
        return await self._look(("model", key), lambda: self._model(key))

    def _model(self, key: str) -> ModelRecords:
        store = self._api.controller.store
        model = self._api.controller.find_model(key)
        releases = store.releases.find(model=model.id)
        jobs = store.jobs.find(model=model.id)
        marked = {
            device.cohort.key
            for device in store.devices.find(revoked=False)
            if device.cohort and device.reported and device.reported.fingerprint.emulated
        }
        return ModelRecords(
            model=model,
            jobs=jobs,
            releases=releases,
            rollouts=tuple(r for made in releases for r in store.rollouts.find(release=made.id)),
            emulated=frozenset(marked),
        )

    async def rollout(self, key: str) -> RolloutRecords:
        """For a rollout's page.

        Raises:
            NotFound: there is no such rollout.
        """
        return await self._look(("rollout", key), lambda: self._rollout(key))

    def _rollout(self, key: str) -> RolloutRecords:
        store = self._api.controller.store
        made = found(store.rollouts.get(key), "rollout", key, "fitment rollout list")
        deployments = store.deployments.find(rollout=key)
        devices = [store.devices.get(d.device) for d in deployments]
        gates, exposure = self._api.controller.judged(key)
        return RolloutRecords(
            rollout=made,
            gates=gates,
            exposure=exposure,
            control=self._api.controller.control_of(made),
            field=self._api.controller.field_of(made),
            release=store.releases.get(made.release),
            deployments=deployments,
            devices={device.name: device for device in devices if device is not None},
            names=self._named({d.variant for d in deployments}),
            audit=store.audit.find(subject=key),
            now=self._api.controller.context.clock(),
        )

    async def compare(self, a: str, b: str, model: str) -> Asked:
        """For the page that sets two variants beside each other; what is wrong is in it."""
        return await self._share(("compare", a, b, model), lambda: self._compare(a, b, model))

    async def _compare(self, a: str, b: str, model: str) -> tuple[Asked, float]:
        began = time.monotonic()
        names = await self._api.ask(lambda: self._variants(model))
        asked = Asked(a=a, b=b, model=model, names=names)
        if a and b:
            try:
                asked = replace(asked, found=await compared(self._api, a, b, model))
            except UserError as error:
                asked = replace(asked, trouble=str(error))
        return asked, time.monotonic() - began

    async def preview(self, release: str, where: str, group: str) -> Wish:
        """For the page that says what a rollout would do; what is wrong is in it."""
        return await self._look(
            ("preview", release, where, group), lambda: self._preview(release, where, group)
        )

    def _preview(self, release: str, where: str, group: str) -> Wish:
        controller = self._api.controller
        names = tuple(found.name for found in controller.store.groups.find())
        wish = Wish(release=release, where=where, group=group, groups=names)
        if not release:
            return wish
        try:
            found_ = controller.preview_rollout(release, RolloutPlan(where=where, group=group))
        except UserError as error:
            return replace(wish, trouble=str(error))
        variants = {plan.variant for plan in found_.cohorts}
        return replace(wish, found=found_, names=self._named(variants))

    def _variants(self, model: str) -> tuple[str, ...]:
        store = self._api.controller.store
        known = {m.id for m in store.models.find() if model in (m.id, m.name)}
        return variant_names([j for j in store.jobs.find() if not model or j.model in known])

    async def journal(self) -> Journal:
        """For triggers and audit."""
        return await self._look("journal", self._journal)

    def _journal(self) -> Journal:
        store = self._api.controller.store
        names = {m.id: f"{m.name} {m.version}" for m in store.models.find()}
        pages = {key: ("models", key) for key in names}
        pages |= {d.name: ("devices", d.name) for d in store.devices.find()}
        pages |= {r.id: ("rollouts", r.id) for r in store.rollouts.find()}
        return Journal(
            triggers=store.triggers.find(),
            audit=store.audit.find(),
            names=names,
            pages=pages,
            tickets=store.tickets.find(),
            stacks=store.stacks.find(),
            standings={
                now.id: self._api.controller.stack_standings(now.id)
                for now in store.stacks.find(closed_at=0.0)
            },
        )

    def _named(self, digests: set[str]) -> Mapping[str, str]:
        """Names of variants; fits are read only when one is new."""
        if digests - set(self._names):
            self._names = names_of(self._api.controller.store.jobs.find())
        return self._names

    async def change_rollout(self, who: Identity, key: str, act: str) -> fleet.Rollout:
        """Carry out one of `ACTS`; the next look sees it.

        Raises:
            Forbidden: ``who`` may not.
            Conflict: it is in a state that does not allow it.
        """
        access.demand(who, CHANGES_ROLLOUTS)
        controller = self._api.controller
        verbs: Mapping[str, Callable[[str], fleet.Rollout]] = {
            "pause": controller.pause,
            "resume": controller.resume,
            "revert": controller.revert,
            "cancel": controller.cancel,
            "let-go": controller.let_go,
        }
        assert set(verbs) == set(ACTS)
        return await self._write(who, lambda: verbs[act](key))

    async def note(self, who: Identity, device: str, text: str) -> Note:
        """Keep a note about a device.

        Raises:
            Forbidden: ``who`` may not.
            NotFound: there is no such device.
            UserError: there is nothing in it, or too much.
        """
        access.demand(who, WRITES_NOTES)
        context = self._api.controller.context
        return await self._write(who, lambda: keepsakes.note(context, device, text))

    async def approve(self, who: Identity, name: str, code: str) -> Applicant:
        """Let a device in that shows this code.

        Raises:
            Forbidden: ``who`` may not.
            NotFound: nobody waits under that name.
            UserError: the code is another.
            Conflict: it was answered already.
        """
        access.demand(who, ANSWERS_APPLICANTS)
        context = self._api.controller.context
        return await self._write(who, lambda: applying.approve(context, name, code))

    async def reject(self, who: Identity, name: str) -> Applicant:
        """Refuse a device.

        Raises:
            Forbidden: ``who`` may not.
            NotFound: nobody waits under that name.
            Conflict: it was answered already.
        """
        access.demand(who, ANSWERS_APPLICANTS)
        context = self._api.controller.context
        return await self._write(who, lambda: applying.reject(context, name))

    async def _write(self, who: Identity, act: Callable[[], T]) -> T:
        """Do it in somebody's name; the next look sees it."""
        ACTING.set(who.name)
        done = await self._api.ask(act)
        self._kept.clear()
        return done
