"""A month in virtual time: the loop with telemetry, beside never fitting again and always.

What decides is the product: `reconcile` on the store's twin, with its own rollups, tickets,
triggers, fits on a device, releases and rollouts. The two other policies are the same controller,
with the loop switched off, and with a trigger raised at every report whatever it says.
"""

from __future__ import annotations

import enum
import random
import time
from collections.abc import Callable
from dataclasses import dataclass, field, replace
from pathlib import Path

from controller.domain import fleet, plan
from controller.domain.telemetry import Bound, Retention
from controller.reconcile import optimising
from controller.reconcile.context import ReconcileSettings
from controller.reconcile.ingest import Heard
from controller.reconcile.rolling import RolloutPlan
from controller.simulator import climate, seed
from controller.simulator.device import SimDevice
from controller.simulator.fits import ModelledFits, bundle, variant
from controller.simulator.physics import BOARDS, DAY_S, Machine
from controller.simulator.traits import SCENARIOS, Traits
from controller.simulator.world import BEGIN_S, OVER, World, trusted
from fitment.core.deployment import BundleRef
from fitment.core.fingerprint import Facet, Fingerprint
from fitment.core.link import Uplink
from fitment.core.measurement import Energy, Latency, Measurement, ReadingStatus, Verdict
from fitment.core.telemetry import Column, TelemetryBatch

HOUR_S = 3600.0
SLOT = seed.SLOT
MODEL = replace(
    seed.MODEL,
    budget=fleet.Budget(accuracy_drop_max=0.01, prefer="accuracy"),
    profile_budgets={
        name: fleet.Budget(latency_p95_max_ms=limit) for name, limit in climate.LIMIT_MS.items()
    },
)
_QUIET = replace(
    SCENARIOS["good-release"], name="month", crashes=0.0, flaky=0.0, silent=0.0, skewed=0.0,
    says="weather, drivers and dust, for thirty days",
)  # fmt: skip
_ENDED = frozenset({fleet.JobStatus.DONE, fleet.JobStatus.FAILED})


class Policy(enum.Enum):
    """When to fit again."""

    OURS = "ours"  # the controller as it is
    NEVER = "never"  # what was chosen on the first day stays
    ALWAYS = "every report"  # at each hour's report of each cohort


@dataclass(slots=True)
class MonthDevice(SimDevice):
    """A device whose truth `climate` tells."""

    number: int = 0  # among its class
    profile: str = ""
    coming: list[tuple[float, str]] = field(default_factory=list)  # day and driver
    sequence: int = 0

    def truth(self, now: float) -> climate.State:
        """How it is."""
        stack = self.seen.stack.facts["runtime.onnx"]
        return climate.state(
            self.machine, self.profile, self.number, stack, at_s=now, day=(now - BEGIN_S) / DAY_S
        )

    def next_driver(self, now: float) -> bool:
        """Take the driver that is due; says whether there was one."""
        if not self.coming or now < BEGIN_S + self.coming[0][0] * DAY_S:
            return False
        _, version = self.coming.pop(0)
        facts = {**self.seen.stack.facts, "runtime.onnx": version}
        self.seen = replace(self.seen, stack=Facet.of(facts))
        return True

    def report(self, now: float) -> Uplink:
        """An hour's telemetry."""
        how, runs = self.truth(now), self.slots[SLOT]
        self.sequence += 1
        columns = {
            f"serving.{SLOT}.latency_p50_ms": how.ms[runs.name] * self._noise(),
            "temperature_c": how.chip_c + self.chance.gauss(0.0, 0.5),
            "cpu_mhz": 2000.0 / how.slowed, "throttled": float(how.slowed > 1.0),
            "memory_pressure_avg10_percent": how.memory_pressure * self._noise(),
        }  # fmt: skip
        wall = int(now * 1e9)
        return Uplink(telemetry=TelemetryBatch(
            outbox=self.name, sequence=self.sequence, first_available=self.sequence,
            boot_id="boot", monotonic_ns=(wall,), wall_unix_ns=(wall,),
            columns={name: Column(values=(value,)) for name, value in columns.items()},
            tags={"slot": SLOT, "variant": runs.variant, "rung": "0"},
        ))  # fmt: skip

    def _noise(self) -> float:
        return self.chance.lognormvariate(0.0, 0.03)

    def _measure(self, ref: BundleRef, slot: str, now: float) -> Measurement:
        how, running = self.truth(now), self.slots.get(slot)
        return Measurement(
            id=f"{self.name}-{ref.name}", bundle=ref.variant, runtime="onnx modelled", threads=1,
            verdict=Verdict.THROTTLED if how.slowed > 1 else Verdict.VALID,
            latency=self._taken(how, ref.name), baseline=running.variant if running else "",
            baseline_latency=self._taken(how, running.name) if running else None,
            energy=Energy(status=ReadingStatus.UNAVAILABLE, reason="modelled without a sensor"),
            agreement=0.99, golden_ok=True, hardware=self.seen.hardware.hash,
            stack=self.seen.stack.hash, emulated=True, conditions={"temperature_c": how.chip_c},
            wall_unix_ns=int(now * 1e9),
        )  # fmt: skip

    def _taken(self, how: climate.State, name: str) -> Latency:
        ms = how.ms[name] * self._noise()
        return Latency(
            count=300, mean_ms=1.02 * ms, min_ms=0.95 * ms, p50_ms=ms, p50_low_ms=0.99 * ms,
            p50_high_ms=1.01 * ms, p95_ms=climate.TAIL * ms,
        )  # fmt: skip


@dataclass(slots=True, kw_only=True)
class Ledger:
    """What a month cost. Regret is in points of accuracy times device-hours."""

    regret: float = 0.0  # of devices that nothing ails
    of_ill: float = 0.0
    over_hours: int = 0  # device-hours above the latency budget, of devices that nothing ails
    by_day: list[float] = field(default_factory=lambda: [0.0] * climate.DAYS)

    def add(self, device: MonthDevice, now: float) -> None:
        """An hour of a device."""
        how, name = device.truth(now), device.slots[SLOT].name
        limit = climate.LIMIT_MS[device.profile]
        lost = climate.regret(name, how, limit)
        if climate.is_ill(device.profile, device.number):
            self.of_ill += lost
            return
        self.regret += lost
        self.over_hours += how.tail_ms(name) > limit
        self.by_day[min(int((now - BEGIN_S) / DAY_S), climate.DAYS - 1)] += lost


@dataclass(frozen=True, slots=True, kw_only=True)
class MonthResult:
    """One policy over one fleet; everything but ``wall_seconds`` is modelled."""

    policy: str
    seed: int
    devices: int
    regret: float  # points of accuracy times device-hours, of devices that nothing ails
    regret_of_ill: float  # of those that fall ill, which no fit mends
    over_hours: int  # device-hours above the latency budget, of devices that nothing ails
    fits: int  # variants made for a cohort, the first ones left out
    refits: int  # asked a device again, or made variants
    triggers: int
    studies: int  # timings and probes that devices did for it, the first ones left out
    updates: int  # variants switched on devices, the first ones left out
    fetched_mb: float
    tickets: tuple[str, ...]  # devices
    ill: tuple[str, ...]  # devices that truly are
    refits_by_day: tuple[int, ...]
    regret_by_day: tuple[float, ...]
    settled: bool  # no refit began later than four days after the last event
    wall_seconds: float


SETTLES_DAYS = 4.0


class Month(World):
    """Thirty days of one policy."""

    def __init__(self, devices: int, number: int, policy: Policy, trust: object, folder: Path):
        self.policy = policy
        self.ledger = Ledger()
        self.members: list[MonthDevice] = []
        wanted = seed.Fleet(devices=devices, scenario=_QUIET, seed=number)
        super().__init__(wanted, trust, folder)  # type: ignore[arg-type]

    def _members(self) -> list[SimDevice]:
        chance = random.Random(self.wanted.seed)
        names = list(climate.LIMIT_MS)
        for place in range(self.wanted.devices):
            profile, number = names[place % len(names)], place // len(names)
            own = random.Random(chance.getrandbits(64))
            share = own.random()
            self.members.append(MonthDevice(
                name=f"sim-{place:03}", machine=Machine.drawn(BOARDS[profile], own),
                seen=_fingerprint(profile), traits=Traits(), scenario=_QUIET, chance=own,
                number=number, profile=profile, coming=climate.stacks(profile, share),
            ))  # fmt: skip
        return list(self.members)

    def _fill(self) -> fleet.Release:
        with self.store.transaction():
            for device in self.devices.values():
                known = fleet.Device(name=device.name, enrolled_at=self.now, serial="1")
                self.store.devices.add(known)
            self.store.models.add(MODEL)
        return fleet.Release(id="", model=MODEL.id, slot=SLOT, counter=0, created_at=self.now)

    def _fits(self, folder: Path) -> ModelledFits:
        made = [
            replace(
                variant(name, MODEL.id), guard_accuracy_drop=drop, guard_accuracy=0.9 - drop,
                accuracy=0.9 - drop,
            )
            for name, drop in climate.DROP.items()
        ]  # fmt: skip
        return ModelledFits(folder, MODEL.id, made)

    def _settings(self) -> ReconcileSettings:
        ours = self.policy is Policy.OURS
        kept = Bound(age_s=2 * DAY_S, rows=10**7)
        return ReconcileSettings(
            optimise=self.policy is not Policy.NEVER, auto_approve=True, confirm=True,
            levels_every_s=HOUR_S if ours else 10.0**9, gather_s=600.0 if ours else 0.0,
            retention=Retention(
                raw=Bound(age_s=HOUR_S, rows=10**7), hour=kept,
                day=Bound(age_s=60 * DAY_S, rows=10**7),
            ),
        )  # fmt: skip

    def live(
        self, say: Callable[[str], None] = lambda _: None, days: int = climate.DAYS
    ) -> MonthResult:
        """All of it, or the first days."""
        began = time.perf_counter()
        self._first_day()
        first = self._counts()
        until = BEGIN_S + days * DAY_S
        while self.now < until:
            self._hour(min(self.now + HOUR_S, until))
            if int((self.now - BEGIN_S) / HOUR_S) % (24 * 5) == 0:
                day = (self.now - BEGIN_S) / DAY_S
                say(f"{self.policy.value}, seed {self.wanted.seed}: day {day:.0f}")
        return self._result(first, time.perf_counter() - began)

    def _first_day(self) -> None:
        """Everything as an operator begins: a fit of each cohort, one release, one rollout."""
        jobs = [job.id for job in self.controller.start_fits(MODEL.id)]
        while any(self._job(job).status not in _ENDED for job in jobs):
            self.turn()
        made = self.controller.create_release(MODEL.id)
        asked = RolloutPlan(waves=(1.0,), gate=fleet.Gate(latency_ratio_max=None))
        rollout = self.controller.create_rollout(made.id, asked)
        while (self.store.rollouts.get(rollout.id) or rollout).state not in OVER:
            self.turn()
        for device in self.members:
            assert SLOT in device.slots, f"{device.name} runs nothing"

    def _job(self, key: str) -> fleet.FitJob:
        found = self.store.jobs.get(key)
        assert found is not None
        return found

    def _hour(self, until: float) -> None:
        """Devices report; the controller does what is due; then time passes."""
        self._drivers()
        self.controller.on_heard(
            [Heard(device=d.name, uplink=d.report(self.now)) for d in self.members]
        )
        while self.store.telemetry.roll_up("", 10_000) is not None:
            pass
        self.turn()
        self._settle(until)
        if self.policy is Policy.ALWAYS:  # last: an open trigger would hold up who changed
            self._ask_again()
            self._settle(until)
        while self._heap and self._heap[0].at <= until:
            self.pass_one()
        for device in self.members:
            self.ledger.add(device, self.now)
        self.now = max(self.now, until)

    def _settle(self, until: float) -> None:
        while self.now < until and self._is_busy():
            self.turn()

    def _drivers(self) -> None:
        for device in self.members:
            if device.next_driver(self.now):
                self._send(device, device.reported())

    def _is_busy(self) -> bool:
        return bool(
            self.controller.is_looking or self.store.triggers.find(closed_at=0.0)
            or self.store.deployments.find(outcome=None)
        )  # fmt: skip

    def _ask_again(self) -> None:
        """A trigger for every cohort that has none open, whatever was reported."""
        groups: dict[fleet.Cohort, list[str]] = {}
        for device in self.store.devices.find():
            ran = plan.running(self.store.deployments.find(device=device.name)).get(SLOT)
            if device.cohort is not None and ran is not None and ran.cohort == device.cohort:
                groups.setdefault(device.cohort, []).append(device.name)
        busy = {t.cohort for t in self.store.triggers.find(closed_at=0.0)}
        for cohort, names in groups.items():
            if cohort not in busy:
                optimising.raise_(self._context, fleet.Trigger(
                    id=self._context.new_id(), kind=fleet.TriggerKind.SHIFTED, device=names[0],
                    model=MODEL.id, cohort=cohort, reason="a report came", created_at=self.now,
                    devices=dict.fromkeys(names, self.now), by_level=True,
                ))  # fmt: skip

    def _counts(self) -> tuple[int, int, int]:
        studies = [s for s in self.store.studies.find() if s.done_at]
        ended = [d for d in self.store.deployments.find() if d.outcome is not None]
        return len(self.store.jobs.find()), len(studies), len(ended)

    def _result(self, first: tuple[int, int, int], wall_s: float) -> MonthResult:
        jobs = self.store.jobs.find()[first[0] :]
        refits = [j for j in jobs if not j.cached or j.fresh_since]
        days = [int((j.created_at - BEGIN_S) / DAY_S) for j in refits]
        last = max(((j.created_at - BEGIN_S) / DAY_S for j in refits), default=0.0)
        updates = self._counts()[2] - first[2]
        ill = [d.name for d in self.members if climate.is_ill(d.profile, d.number)]
        return MonthResult(
            policy=self.policy.value, seed=self.wanted.seed, devices=self.wanted.devices,
            regret=self.ledger.regret, regret_of_ill=self.ledger.of_ill,
            over_hours=self.ledger.over_hours,
            fits=sum(not j.cached for j in jobs), refits=len(refits),
            triggers=len(self.store.triggers.find()), studies=self._counts()[1] - first[1],
            updates=updates, fetched_mb=updates * bundle("exact").archive_bytes / 1e6,
            tickets=tuple(sorted({t.device for t in self.store.tickets.find()})),
            ill=tuple(sorted(ill)),
            refits_by_day=tuple(days.count(day) for day in range(climate.DAYS)),
            regret_by_day=tuple(self.ledger.by_day), wall_seconds=wall_s,
            settled=last <= climate.LAST_EVENT_DAY + SETTLES_DAYS,
        )  # fmt: skip


def _fingerprint(profile: str) -> Fingerprint:
    return Fingerprint(
        chassis=Facet.of({"board": "modelled"}), hardware=Facet.of(BOARDS[profile].facts),
        stack=Facet.of({"runtime.onnx": "1.0"}), condition=Facet.of({"governor": "modelled"}),
        emulated=True,
    )  # fmt: skip


def simulate(
    devices: int, number: int, policy: Policy, say: Callable[[str], None] = lambda _: None
) -> MonthResult:
    """One policy over one fleet."""
    with trusted() as (trust, folder):
        return Month(devices, number, policy, trust, folder).live(say)
