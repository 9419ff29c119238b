"""The supervisor: one plain loop that looks, decides, acts, reports.

`Supervisor.step` does a little and returns how long nothing will be due; `run` calls it until it
is told to stop. At most one worker runs at a time, so that nothing disturbs a benchmark; what
its driver loses by a pause it does again.
"""

from __future__ import annotations

import collections
import logging
import queue
import threading
from collections.abc import Callable
from dataclasses import replace
from typing import Final

from agent import reporting, served, trial
from agent.deployer import Deployer
from agent.desk import Desk
from agent.domain import plan
from agent.domain.events import Event
from agent.errors import AgentError
from agent.identity import connection
from agent.jobs import Limits, Setting
from agent.ladder import Ladders
from agent.ledger import Ledger
from agent.outbox import Outbox
from agent.parts import Driver, Parts
from agent.rechecks import Rechecks
from agent.renewal import Renewal
from agent.studies import Studies
from agent.submissions import Submissions
from agent.telemetry import LastRun, Telemetry
from agent.tidy import Tidy
from agent.transport.link import LinkDown, LinkEvent, LinkUp
from fitment.core.deployment import ReportedState
from fitment.core.link import Downlink, Uplink
from fitment.core.telemetry import Command, CommandKind

log = logging.getLogger(__name__)

BUSY_S: Final = 0.05
"""Between two looks at a running worker."""
IDLE_S: Final = 0.5
"""Between two looks when nothing runs; what comes over the link wakes the loop at once."""
TROUBLE_S: Final = 5.0
"""After the disk refused: trying again at once would only fill the log."""
_STEPS_AT_ONCE: Final = 32


class Supervisor:
    """One device's agent."""

    def __init__(self, parts: Parts) -> None:
        self._parts = parts
        self._link = parts.link
        self._held: collections.deque[LinkEvent] = collections.deque()
        self._online = False
        self._orders: plan.Orders | None = None
        self._last = LastRun()
        self._reported: ReportedState | None = None
        self._dirty = True
        self._replan = True
        self._held_rungs: frozenset[str] = frozenset()
        self._servers: dict[str, float] = {}  # slot -> when its server's socket was seen last
        self._resumed = False
        runner, jitter = parts.runner, parts.jitter
        self._deployer = Deployer(runner, jitter)
        self._studies = Studies(runner, jitter)
        self._rechecks = Rechecks(runner, jitter)
        self._submissions = Submissions(runner, jitter)
        self._ladders = Ladders(parts.sense)
        self._renewal = Renewal(
            runner, jitter, identity=parts.identity, wall_unix=parts.clock.wall_unix_s
        )
        self._ledger = Ledger(
            parts.folders.data_dir, metering=parts.metering, written=parts.written
        )
        outbox = Outbox(parts.journal)
        self._telemetry = Telemetry(outbox, boot_id=parts.boot_id, sample=parts.sample)
        self._tidy = Tidy()

    def run(self, stop: threading.Event, beat: Callable[[], None] = lambda: None) -> None:
        """Until ``stop`` is set; ``beat`` follows each step. A disk that refuses ends nothing."""
        self._link.start()
        if self._parts.applications is not None:
            self._parts.applications.listen()
        try:
            while not stop.is_set():
                try:
                    wait_s = self.step()
                except (AgentError, OSError) as error:
                    log.error("action=trouble reason=%s", error)  # noqa: TRY400 - said in full
                    wait_s = TROUBLE_S
                beat()
                self._await(stop, wait_s)
        finally:
            self.close()

    def close(self) -> None:
        """Stop workers and the link. What was going on is in the journal."""
        for driver in (self._rechecks, self._renewal, self._studies, self._submissions):
            driver.pause()
        try:
            self._deployer.stop(self._desk())
        except AgentError as error:
            log.error("action=trouble reason=%s", error)  # noqa: TRY400 - said in full
        self._link.stop()
        self._ledger.close(self._link.passed.count)
        if self._parts.applications is not None:
            self._parts.applications.close()
        self._parts.journal.close()

    def step(self) -> float:
        """Look, decide, act and report once; seconds until it should be called again."""
        self._receive()
        self._watch()
        if self._parts.fingerprint.fingerprint is None:
            return IDLE_S  # nothing can be decided about a device that is not known
        desk = self._desk()
        self._count(desk)
        if not self._resumed:
            if self._parts.journal.setting("boot_id") != self._parts.boot_id:
                # Nobody saw what became of the disk while the machine was off.
                self._doubt_slots()
                self._parts.journal.save_setting("boot_id", self._parts.boot_id)
            self._deployer.resume(desk)
            self._resumed = True
        if desk.applications is not None:
            desk.applications.tick(desk.journal, desk.slots, desk.now_s)
        self._dirty |= self._ladders.tick(
            desk, self._parts.settings.settings.ladder, moved=self._replan,
            wall_unix_s=self._parts.clock.wall_unix_s(),
        )  # fmt: skip
        self._decide(desk)
        moved = self._work(desk)
        self._sample(desk)
        self._report(desk)
        self._tidy.tick(desk.now_s)
        if moved or (self._replan and not self._rechecks.slot):
            return 0.0
        return BUSY_S if any(driver.running for driver in self._drivers()) else IDLE_S

    # Look

    def _count(self, desk: Desk) -> None:
        settings, before = self._parts.settings.settings, self._ledger.problem
        self._ledger.tick(
            settings.allowance, root=desk.setting.root, wall_unix=desk.wall_unix,
            floor_unix=desk.floor_unix, now_s=desk.now_s, link_bytes=self._link.passed.count,
        )  # fmt: skip
        self._dirty |= self._ledger.problem != before

    def _await(self, stop: threading.Event, wait_s: float) -> None:
        """Sleep, or until the first event comes."""
        until_s = self._parts.clock.monotonic_s() + wait_s
        while not stop.is_set():
            left_s = until_s - self._parts.clock.monotonic_s()
            if left_s <= 0:
                return
            try:
                self._held.append(self._link.events.get(timeout=min(left_s, IDLE_S)))
            except queue.Empty:
                continue
            return

    def _receive(self) -> None:
        """Take in what came. A disk that refuses must not lose it: then it stays held."""
        while True:
            while not self._link.events.empty():  # nobody else takes from it
                self._held.append(self._link.events.get_nowait())
            if not self._held:
                return
            self._on_event(self._held[0])
            self._held.popleft()

    def _on_event(self, event: LinkEvent) -> None:
        if isinstance(event, LinkUp):
            self._online = True
            self._renewal.line(up=True, now_s=self._parts.clock.monotonic_s())
            for driver in (self._deployer, self._studies, self._submissions):
                driver.hurry()
            self._telemetry.resend()
            self._reported = None  # whatever the other side remembers, it is told again
            self._dirty = True
        elif isinstance(event, LinkDown):
            self._online = False
            self._renewal.line(up=False, now_s=self._parts.clock.monotonic_s())
        else:
            self._on_downlink(event)

    def _on_downlink(self, downlink: Downlink) -> None:
        if downlink.ack is not None:
            self._telemetry.acknowledge(downlink.ack)
        if downlink.command is not None:
            self._on_command(downlink.command)
        if downlink.desired is not None:
            desired = downlink.desired
            self._orders = plan.decode(desired)
            self._parts.journal.see_generation(desired.generation)
            self._telemetry.interval_s = max(0.1, desired.telemetry_interval_s)
            self._link.jitter_s = max(0.0, desired.reconnect_jitter_s)
            self._dirty = self._replan = True

    def _on_command(self, command: Command) -> None:
        now_ns = self._parts.clock.wall_unix_s() * 1e9
        if command.deadline_unix_ns and now_ns > command.deadline_unix_ns:
            log.info("action=command_late id=%s kind=%s", command.id, command.kind.value)
            return
        log.info("action=command id=%s kind=%s", command.id, command.kind.value)
        if command.kind is CommandKind.REPORT:
            self._reported, self._dirty = None, True
        elif command.kind is CommandKind.PROBE:
            self._parts.fingerprint.soon()
            self._doubt_slots()
            self._dirty = self._replan = True
        elif command.kind is CommandKind.CANCEL:
            self._cancel(command.subject)

    def _doubt_slots(self) -> None:
        """Let every slot show anew that its files are whole and its answers right."""
        for facts in self._parts.journal.slots():
            self._parts.journal.save_slot(replace(facts, checked_stack=""))

    def _cancel(self, deployment: str) -> None:
        record = self._deployer.record
        if record is not None and record.id == deployment:
            self._deployer.interrupt(self._desk(), Event.CANCELLED, "an operator cancelled it")
            self._dirty = self._replan = True

    def _watch(self) -> None:
        """Settings first: they say how the fingerprint is read."""
        watch = self._parts.fingerprint
        if self._parts.settings.tick():
            watch.soon()
            self._deployer.hurry()  # an allowance may be another
            self._studies.hurry()
            self._dirty = True
        before = watch.fingerprint
        if not watch.tick(self._parts.settings.settings, self._parts.clock.monotonic_s()):
            return
        self._dirty = self._replan = True
        after = watch.fingerprint
        if before is not None and after is not None and before.stack != after.stack:
            log.info("action=stack_changed before=%s after=%s", before.stack.hash, after.stack.hash)
            self._deployer.pause()
            self._studies.pause()
            self._deployer.stack_changed(self._desk())

    def _desk(self) -> Desk:
        parts = self._parts
        settings, fingerprint = parts.settings.settings, parts.fingerprint.fingerprint
        setting = Setting(
            options=settings.options,
            hardware=fingerprint.hardware.hash if fingerprint else "",
            stack=fingerprint.stack.hash if fingerprint else "",
            emulated=fingerprint.emulated if fingerprint else False,
            translated_on=fingerprint.translated_on if fingerprint else "",
            root=settings.hardware.root,
        )
        now_s, sockets = parts.clock.monotonic_s(), settings.sockets or parts.folders.serving
        served.note(self._servers, sockets, now_s)
        return Desk(
            device=parts.identity.device,
            folders=parts.folders,
            connection=connection(parts.folders, parts.identity),
            slots=parts.slots,
            journal=parts.journal,
            setting=setting,
            ledger=self._ledger,
            now_s=now_s,
            floor_unix=max(parts.floor_unix, float(parts.journal.setting("time_floor", "0"))),
            wall_unix=parts.clock.wall_unix_s(),
            runtimes=fingerprint.runtimes() if fingerprint else (),
            samples=settings.samples,
            limits=Limits(memory_bytes=settings.memory_bytes),
            sockets=sockets,
            servers=self._servers,
            applications=parts.applications,
            takeover_s=settings.takeover_s,
        )

    # Decide

    def _decide(self, desk: Desk) -> None:
        """Ask the planner until it has nothing more to say."""
        held = trial.held_rungs(desk)
        self._replan |= held != self._held_rungs
        self._held_rungs = held
        if not self._replan:
            return
        for _ in range(_STEPS_AT_ONCE):
            if self._rechecks.slot:
                return  # what serves comes before all else
            step = plan.plan(self._situation(desk))
            if step is None:
                self._replan = False
                return
            self._perform(desk, step)
            self._dirty = True

    def _situation(self, desk: Desk) -> plan.Situation:
        journal = desk.journal
        waiting = (key.partition("/")[2] for key, _, _ in journal.submissions())
        return plan.Situation(
            orders=self._orders,
            stack=desk.stack,
            slots=journal.slots(),
            active=self._deployer.record,
            ended=journal.ended(),
            known=journal.known(),
            study=self._studies.study,
            studies_known=frozenset(journal.studies()) | frozenset(waiting),
            quarantine=journal.quarantine(),
            held=self._held_rungs,
        )

    def _perform(self, desk: Desk, step: plan.Step) -> None:
        if isinstance(step, plan.Recheck):
            for driver in self._drivers():
                driver.pause()
            self._rechecks.start(desk, step.slot)
        elif isinstance(step, plan.Acknowledge):
            self._deployer.acknowledge(desk, step.deployment)
        elif isinstance(step, plan.Interrupt):
            event = Event.SUPERSEDED if step.superseded else Event.CANCELLED
            self._deployer.interrupt(desk, event, step.reason)
        elif isinstance(step, plan.Start):
            self._studies.pause()  # a deployment does not wait for a study's transfer
            self._deployer.start(desk, step.order, step.assignment)
        elif isinstance(step, plan.Mend | plan.Prepare | plan.Clear | plan.GiveWay):
            self._keep_slots(desk, step)
        elif isinstance(step, plan.Refuse):
            self._deployer.refuse(desk, step.order, step.assignment, step.reason)
        elif isinstance(step, plan.BeginStudy):
            self._studies.start(desk, step.order, step.study)
        else:
            self._studies.drop(desk)

    def _keep_slots(
        self, desk: Desk, step: plan.Mend | plan.Prepare | plan.Clear | plan.GiveWay
    ) -> None:
        """What the device does of its own accord for what was committed."""
        if isinstance(step, plan.Mend):
            self._deployer.mend(desk, step.slot)
        elif isinstance(step, plan.GiveWay):
            self._deployer.give_way(desk)
        elif isinstance(step, plan.Prepare):
            self._deployer.prepare(desk, step.slot, step.rung)
        else:
            desk.slots.remove(step.slot)
            desk.journal.drop_slot(step.slot)

    # Act

    def _drivers(self) -> tuple[Driver, ...]:
        """Who may use the worker, most urgent first."""
        if self._rechecks.slot:
            return (self._rechecks,)
        return (self._renewal, self._deployer, self._studies, self._submissions)

    def _work(self, desk: Desk) -> bool:
        """Let the driver that has the worker go on, or the most urgent one take it."""
        moved = False
        drivers = self._drivers()
        busy = [driver for driver in drivers if driver.running]
        for driver in busy or drivers:
            moved = driver.tick(desk)
            if moved or driver.running:
                break
        if moved:
            self._remember_latency()
            self._dirty = self._replan = True
        return moved

    def _remember_latency(self) -> None:
        record = self._deployer.record
        measured = record.measurement if record is not None else None
        if record is None or record.rung:  # a rung's own run tells nothing of what serves
            return
        if measured is not None and measured.latency is not None and measured.tells_costs:
            self._last = LastRun(
                slot=record.assignment.slot, variant=measured.bundle, p50_ms=measured.latency.p50_ms
            )

    # Report

    def _sample(self, desk: Desk) -> None:
        self._telemetry.tick(
            self._link, online=self._online, root=desk.setting.root, last=self._last,
            serves=lambda: reporting.serves(desk.journal.slots(), self._ladders.stood),
            now_s=desk.now_s, wall_unix_s=self._parts.clock.wall_unix_s(),
            share=self._ledger.share(),
        )  # fmt: skip

    def _report(self, desk: Desk) -> None:
        """Send the state when it is not what was sent last."""
        fingerprint = self._parts.fingerprint.fingerprint
        if not self._dirty or fingerprint is None:
            return
        self._dirty = False
        state = reporting.build(
            desk, fingerprint, self._deployer.record,
            asked=self._orders.deployments() if self._orders is not None else frozenset(),
            boot_id=self._parts.boot_id, notes=self._notes(), stood=self._ladders.stood,
            time_zone=self._parts.time_zone(self._parts.settings.settings),
        )  # fmt: skip
        if state != self._reported:
            told = reporting.with_numbers(state, self._ledger.report())
            self._link.send(Uplink(reported=told))
            self._reported = state

    def _notes(self) -> list[str]:
        parts = self._parts
        problems = (
            parts.journal.lost, parts.settings.problem, parts.fingerprint.problem,
            self._renewal.problem, self._deployer.problem, self._deployer.held, self._studies.held,
            self._ledger.problem,
            parts.applications.problem if parts.applications is not None else "",
        )  # fmt: skip
        asked = self._orders.problems if self._orders is not None else ()
        return [problem for problem in (*problems, *asked) if problem]
