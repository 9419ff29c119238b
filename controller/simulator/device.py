"""One modelled device: the agent's own state table, walked by a clock that it is given.

It never waits and never reads a clock; a driver (`world`, `wire`) hands it messages and moments,
and sends what it says.
"""

from __future__ import annotations

import json
import math
import random
from collections.abc import Mapping
from dataclasses import dataclass, field, replace

from agent.domain import transitions, verdict, window
from agent.domain.events import Event
from agent.domain.record import Checked, DeploymentRecord
from controller.simulator.physics import Machine, surroundings_c
from controller.simulator.traits import Scenario, Traits
from fitment.core import plain
from fitment.core.deployment import (
    UNDERSTANDS_INPUT,
    UNDERSTANDS_WINDOWS,
    Assignment,
    BundleRef,
    DeploymentReport,
    DesiredState,
    ReportedState,
    SignedPayload,
    SlotReport,
    Study,
    StudyKind,
)
from fitment.core.deployment import DeploymentState as State
from fitment.core.fingerprint import Facet, Fingerprint
from fitment.core.kernels import KernelTable, KernelTiming
from fitment.core.link import Downlink, Uplink
from fitment.core.measurement import Energy, Latency, Measurement, ReadingStatus, Verdict

NEVER = math.inf
UPGRADED = "2.0"
_TAKES_S: Mapping[State, tuple[float, float]] = {
    State.VERIFYING: (0.2, 0.6),
    State.STAGING: (0.5, 2.0),
    State.WAITING: (0.0, 0.0),
    State.CALIBRATING: (0.0, 0.0),
    State.BENCHMARKING: (4.0, 16.0),
    State.JUDGING: (0.0, 0.0),
    State.TRIAL: (1.0, 3.0),
    State.COMMITTING: (0.1, 0.5),
    State.ROLLING_BACK: (0.2, 1.0),
}
"""Seconds that the work of a state takes, from and to."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Answer:
    """What a device found out for a study; goes over gRPC, not the link."""

    study: str
    measurement: Measurement | None = None
    kernels: KernelTable | None = None


@dataclass(slots=True, kw_only=True)
class SimDevice:
    """Holds what an agent holds, and models what the world does to it."""

    name: str
    machine: Machine
    seen: Fingerprint
    traits: Traits
    scenario: Scenario
    chance: random.Random
    due: float = NEVER  # when it next has something to do
    desired: DesiredState | None = None
    record: DeploymentRecord | None = None
    slots: dict[str, SlotReport] = field(default_factory=dict)
    ended: dict[str, DeploymentReport] = field(default_factory=dict)
    studies_done: tuple[str, ...] = ()
    switched_at: float = 0.0  # when its last deployment ended
    lied: str = ""  # the variant that it says it runs

    def receive(self, downlink: Downlink, now: float) -> None:
        """Take a message; a desired state that is older than the last one is none."""
        given = downlink.desired
        if given is None or (self.desired and given.generation < self.desired.generation):
            return
        self.desired = given
        self.due = min(self.due, now + self.chance.uniform(0.05, 0.5))

    def wake(self, now: float) -> tuple[Uplink | Answer, ...]:
        """Do what is due; gives what it says."""
        self.due = NEVER
        said: list[Uplink | Answer] = list(self._answers(now))
        if self.record is None:
            self._begin(now)
        else:
            self._step(now)
        said.append(self.reported())
        return tuple(said)

    def upgrade(self) -> None:
        """Another driver from here on; the goldens are answered again before it says so."""
        facts = {**self.seen.stack.facts, "runtime.onnx": UPGRADED}
        self.seen = replace(self.seen, stack=Facet.of(facts))

    def reported(self) -> Uplink:
        """How it is, as it says."""
        going = [self.record.report()] if self.record is not None else []
        stack = self.seen.stack.hash
        slots = tuple(replace(s, checked_stack=stack) for s in self.slots.values())
        reported = ReportedState(
            boot_id="boot", agent_version="0", fingerprint=self.seen, slots=slots,
            observed_generation=self.desired.generation if self.desired else 0,
            deployments=(*self.ended.values(), *going), studies_done=self.studies_done,
            understands=(UNDERSTANDS_WINDOWS, UNDERSTANDS_INPUT),
        )  # fmt: skip
        return Uplink(reported=reported)

    def _orders(self) -> dict[str, tuple[SignedPayload, Assignment]]:
        found = {}
        for signed in self.desired.assignments if self.desired else ():
            order = plain.from_plain(Assignment, json.loads(signed.payload))
            found[order.deployment] = (signed, order)
        return found

    def _begin(self, now: float) -> None:
        orders = self._orders()
        self.ended = {key: report for key, report in self.ended.items() if key in orders}
        new = [pair for key, pair in orders.items() if key not in self.ended]
        if not new:
            return
        signed, order = new[0]
        record = DeploymentRecord(order=signed, assignment=order, started_at_s=now)
        self.record = transitions.step(record, Event.ASSIGNED, now_s=now)
        if not self.traits.silent:
            self.due = now + self._takes_s(order)

    def _step(self, now: float) -> None:
        """The work of a state is over: where that leads, by the agent's table."""
        record = self.record
        assert record is not None
        if record.assignment.deployment not in self._orders():
            self.record = None  # the controller takes it back, or knows how it ended
            self._begin(now)
            return
        if record.state is State.WAITING and not self._may_switch(record, now):
            opens = [s.opens_unix for s in record.assignment.windows if s.opens_unix > now]
            self.due = now + window.LOOK_S if not opens else opens[0] - self.traits.skew_s
            self.due = max(self.due, now + window.LOOK_S)
            return
        if record.state is State.BENCHMARKING:
            taken = self._measure(record.assignment.bundle, record.assignment.slot, now)
            record = replace(record, measurement=taken)
        event, reasons = self._event(record, now)
        record = transitions.step(record, event, now_s=now, reasons=reasons)
        if record.state is State.REPORTING:
            self._finish(record)
            self._begin(now)
            return
        self.record = record
        if not self.traits.silent:
            self.due = now + self._takes_s(record.assignment)

    def _may_switch(self, record: DeploymentRecord, now: float) -> bool:
        """By the device's own clock."""
        needs_s = record.assignment.trial_s + window.MARGIN_S
        return window.look(
            record.assignment.windows, wall_unix=now + self.traits.skew_s, floor_unix=0.0,
            needs_s=needs_s,
        ).open  # fmt: skip

    def _event(self, record: DeploymentRecord, now: float) -> tuple[Event, tuple[str, ...]]:
        """What comes of the work of a state."""
        match record.state:
            case State.STAGING if self.chance.random() < self.scenario.crashes:
                return Event.PERMANENT, ("the runtime could not load it",)
            case State.STAGING if not self._may_switch(record, now):
                return Event.HELD, ("outside its windows",)
            case State.WAITING:
                return (Event.DONE if record.measurement else Event.OPENED), ()
            case State.CALIBRATING:
                return Event.NOT_ASKED, ()
            case State.JUDGING:
                event, reasons = self._judge(record)
                held = event is Event.JUDGED_GOOD and not self._may_switch(record, now)
                return (Event.HELD if held else event), reasons
        return Event.DONE, ()

    def _judge(self, record: DeploymentRecord) -> tuple[Event, tuple[str, ...]]:
        assert record.measurement is not None
        checked = Checked(golden_ok=True, stack=self.seen.stack.hash)
        found = verdict.judge(record.measurement, record.assignment.gates, checked)
        return (Event.JUDGED_GOOD if found.good else Event.JUDGED_BAD), found.reasons

    def _finish(self, record: DeploymentRecord) -> None:
        self.record, report, order = None, record.report(), record.assignment
        self.switched_at = record.state_entered_at_s
        self.ended[order.deployment] = report
        if report.outcome is None or report.outcome.value != "committed" or self.traits.liar:
            return
        self.slots[order.slot] = SlotReport(
            slot=order.slot, variant=order.bundle.variant, name=order.bundle.name,
            release=order.release, counter=order.counter, golden_ok=True, serving=True,
        )  # fmt: skip

    def _takes_s(self, order: Assignment) -> float:
        state = self.record.state if self.record else State.IDLE
        if state is State.FETCHING:
            return self.chance.uniform(0.2, 2.0) + self.machine.fetch_s(order.bundle.archive_bytes)
        return self.chance.uniform(*_TAKES_S.get(state, (0.0, 0.0)))

    # what it finds out

    def _measure(self, bundle: BundleRef, slot: str, now: float) -> Measurement:
        """Timed in turns with what runs, so at one temperature."""
        chip_c = self.machine.chip_c(surroundings_c(now, self.scenario.warmer_c))
        running = self.slots.get(slot)
        ours = self._timed(bundle.name, chip_c)
        energy = self.machine.energy_mj(ours.p50_ms)
        hot = self.machine.slowed(chip_c) > 1
        return Measurement(
            id=f"{self.name}-{bundle.name}", bundle=bundle.variant, runtime="onnx modelled",
            threads=1, verdict=Verdict.THROTTLED if hot else Verdict.VALID, latency=ours,
            baseline=running.variant if running else "",
            baseline_latency=self._timed(running.name, chip_c) if running else None,
            energy=Energy(status=ReadingStatus.UNAVAILABLE, reason="modelled without a sensor")
            if energy is None
            else Energy(status=ReadingStatus.ESTIMATED, value_mj=energy, method="modelled"),
            agreement=min(1.0, self.scenario.agreement + self.chance.gauss(0.0, 0.002)),
            golden_ok=True, hardware=self.seen.hardware.hash, stack=self.seen.stack.hash,
            emulated=True, conditions={"temperature_c": chip_c},
            wall_unix_ns=int(max(0.0, now + self.traits.skew_s) * 1e9),
        )  # fmt: skip

    def _timed(self, name: str, chip_c: float) -> Latency:
        scheme = "fp32" if name == "fp32" else "int8"
        ms = self.machine.latency_ms(scheme, chip_c) * self.chance.lognormvariate(0.0, 0.03)
        if scheme == "int8":
            ms *= self.scenario.slower
            upgraded = self.seen.stack.facts.get("runtime.onnx") == UPGRADED
            ms *= self.scenario.upgrade_slower if upgraded else 1.0
        return Latency(
            count=300, mean_ms=1.02 * ms, min_ms=0.95 * ms, p50_ms=ms, p50_low_ms=0.99 * ms,
            p50_high_ms=1.01 * ms, p95_ms=1.1 * ms,
        )  # fmt: skip

    def _answers(self, now: float) -> tuple[Answer, ...]:
        found = []
        for signed in self.desired.studies if self.desired else ():
            study = plain.from_plain(Study, json.loads(signed.payload))
            if study.id in self.studies_done:
                continue
            self.studies_done = (*self.studies_done, study.id)
            if study.kind is StudyKind.PROBE:
                found.append(Answer(study=study.id, kernels=self._table()))
            else:
                found.append(
                    Answer(study=study.id, measurement=self._measure(study.bundle, "", now))
                )
        return tuple(found)

    def _table(self) -> KernelTable:
        timings = tuple(
            KernelTiming(
                kernel="gemm:c64:k64", scheme=scheme, macs=1_000_000, count=300,
                p50_us=self.machine.board.us_per_mmac[model] * self.machine.speed,
            )
            for scheme, model in (("fp32", "fp32"), ("u8s8", "int8"))
        )  # fmt: skip
        return KernelTable(
            runtime="onnx", runtime_version=self.seen.stack.facts["runtime.onnx"], threads=1,
            hardware=self.seen.hardware.hash, stack=self.seen.stack.hash, verdict=Verdict.VALID,
            emulated=True, timings=timings,
        )  # fmt: skip
