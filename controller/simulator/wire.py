"""A rollout on the real wire: a controller's own process, its mosquitto, and modelled devices.

Real: the controller with its store, trust, loop and REST; mosquitto with its access list; TLS with
a certificate a device; MQTT; the messages. Modelled: what a device's hardware does, and fetching
(it takes as long as its link would, and moves no bytes). Fits are off: there is nothing to fit.
"""

from __future__ import annotations

import json
import os
import signal
import tempfile
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from pathlib import Path

from controller.build import open_trust
from controller.client import Client
from controller.config import LinkChoice, Settings
from controller.demo.processes import Crew, Program, crew
from controller.domain import fleet
from controller.errors import FitmentError, UserError
from controller.gateway.broker import find_mosquitto
from controller.gateway.views import Addresses
from controller.reconcile.rolling import RolloutPlan
from controller.simulator import seed
from controller.simulator.agents import Counts
from controller.simulator.crowd import Fleet, make_room
from controller.simulator.gauges import Between, Gauges, Reading
from controller.simulator.provision import opened, provision
from controller.simulator.result import WireResult, result_of
from controller.simulator.watch import Watch
from controller.simulator.world import PLAN
from fitment.core import plain

START_S = 60.0
WIRE_PLAN = replace(PLAN, soak_s=10.0)


@dataclass(frozen=True, slots=True, kw_only=True)
class Wire:
    """How it is driven."""

    telemetry_interval_s: float = 10.0
    pace: float = 1.0  # modelled seconds in one of ours: of hardware, soaking and deadlines
    switched_on_per_s: float = 200.0  # devices that connect for the first time
    settle_s: float = 20.0  # without a rollout, once everybody is there
    most_s: float = 3600.0  # until everybody is there, and then for the rollout
    plan: RolloutPlan = WIRE_PLAN

    def paced(self) -> RolloutPlan:
        """The plan in our seconds."""
        plan = self.plan
        return replace(plan, soak_s=plan.soak_s / self.pace, deadline_s=plan.deadline_s / self.pace)


@dataclass(frozen=True, slots=True, kw_only=True)
class Progress:
    """What is shown while it runs."""

    what: str
    devices: int
    done: int = 0  # of what is counted before devices connect
    counts: Counts = field(default_factory=Counts)
    rollout: fleet.Rollout | None = None


Say = Callable[[Progress], None]


@dataclass(frozen=True, slots=True, kw_only=True)
class _Readings:
    """Before the devices, when all are there, before and after the rollout."""

    empty: Reading
    there: Reading
    begin: Reading
    end: Reading
    taken: int  # messages that the broker took while the rollout ran
    ack_s: list[float]


class WireWorld:
    """One rollout over one fleet."""

    def __init__(self, wanted: seed.Fleet, wire: Wire, folder: Path, say: Say) -> None:
        self.wanted = wanted
        self.wire = wire
        self.folder = folder
        self._say = say
        self._members = seed.devices(wanted)
        self._made: fleet.Rollout | None = None
        self._settings = Settings(data_dir=folder / "controller", link=LinkChoice.MQTT)

    def run(self) -> WireResult:
        """From enrolling the devices to the end of the rollout."""
        papers = self.folder / "papers"
        release = provision(self._settings, self._members, papers, self._enrolled)
        with crew(self.folder, self._environment()) as programs:
            program, addresses = self._start(programs)
            crowd = Fleet(
                self._members, scenario=self.wanted.scenario, chance=self.wanted.seed + 1,
                address=addresses.mqtt, papers=papers, pace=self.wire.pace,
                ca=self._settings.data_dir / "trust" / "ca.crt",
            )  # fmt: skip
            try:
                readings = self._drive(program, addresses, crowd, release)
            finally:
                crowd.close()
        return self._result(readings, crowd.counts)

    def _enrolled(self, done: int) -> None:
        self._say(Progress(what="enrolled", devices=self.wanted.devices, done=done))

    def _environment(self) -> dict[str, str]:
        own = {k: v for k, v in os.environ.items() if not k.startswith("FITMENT_")}
        return {**own, "OMP_NUM_THREADS": "1"}

    def _start(self, programs: Crew) -> tuple[Program, Addresses]:
        ports = [f"--{name}-port=0" for name in ("enroll", "gateway", "mqtt", "rest")]
        interval = f"--telemetry-interval-s={self.wire.telemetry_interval_s:g}"
        path = self._settings.data_dir / "controller.json"
        program = programs.start(
            "fitment", ["controller", "serve", f"--data-dir={self._settings.data_dir}", *ports,
                        "--link=mqtt", "--no-dashboard", "--no-optimise", interval],
        )  # fmt: skip
        until = time.monotonic() + START_S
        while not path.exists():
            program.check()
            if time.monotonic() > until:
                raise FitmentError(f"the controller did not start within {START_S:.0f} s")
            time.sleep(0.05)
        return program, plain.from_plain(Addresses, json.loads(path.read_text()))

    def _drive(
        self, program: Program, addresses: Addresses, crowd: Fleet, release: fleet.Release
    ) -> _Readings:
        """Everybody comes; then nothing runs; then the rollout."""
        data = self._settings.data_dir
        gauges = Gauges(
            controller=addresses.pid, metrics=f"{addresses.rest}/metrics",
            token=(data / "metrics.token").read_text().strip(),
        )  # fmt: skip

        def show(what: str) -> None:
            program.check()
            made = watch.rollout
            self._say(Progress(what=what, devices=len(crowd), counts=crowd.counts, rollout=made))

        with Client(addresses.rest, (data / "operator.token").read_text().strip()) as client:
            watch = Watch(client)
            try:
                empty = gauges.read()
                crowd.switch_on(self.wire.switched_on_per_s)
                crowd.run(lambda: show("connecting"), crowd.all_told, self.wire.most_s)
                there = gauges.read()
                crowd.run(lambda: show("settling"), lambda: False, self.wire.settle_s)
                begin, taken = gauges.read(), crowd.counts.taken
                crowd.counts.ack_s.clear()
                watch.start(release.id, self.wire.paced())
                crowd.run(lambda: show("rolling out"), watch.is_over, self.wire.most_s)
                self._made = watch.rollout
                return _Readings(
                    empty=empty, there=there, begin=begin, end=gauges.read(),
                    taken=crowd.counts.taken - taken, ack_s=crowd.counts.ack_s,
                )  # fmt: skip
            finally:
                watch.stop()

    def _result(self, readings: _Readings, counts: Counts) -> WireResult:
        """Judged on the controller's own records, once it has ended."""
        trust, _notes = open_trust(self._settings)
        context = opened(self._settings, trust)
        try:
            assert self._made is not None
            made = context.store.rollouts.get(self._made.id) or self._made
            ran = Between.of(readings.begin, readings.end)
            quiet = Between.of(readings.there, readings.begin)
            found = result_of(context, made, self.wanted, ran.seconds)
            still_open = len(context.store.deployments.find(rollout=made.id, outcome=None))
        finally:
            context.store.close()
        devices, acks = self.wanted.devices, sorted(readings.ack_s)
        return WireResult(
            **{name: getattr(found, name) for name in found.__dataclass_fields__
               if name not in ("still_open", "wall_seconds")},
            still_open=still_open, wall_seconds=readings.end.at - readings.empty.at,
            messages_per_s=readings.taken / ran.seconds,
            telemetry_rows_per_s=ran.rows_per_s,
            controller_cpu_share=ran.controller_cpu_share,
            controller_cpu_share_quiet=quiet.controller_cpu_share,
            controller_rss_bytes=readings.end.controller_rss,
            controller_rss_bytes_per_device=(
                max(0, readings.end.controller_rss - readings.empty.controller_rss) // devices
            ),
            broker_cpu_share=ran.broker_cpu_share,
            broker_rss_bytes_per_device=(
                max(0, readings.end.broker_rss - readings.empty.broker_rss) // devices
            ),
            simulator_cpu_share=ran.own_cpu_share,
            tick_ms=ran.tick_ms,
            tick_cpu_ms=ran.tick_cpu_ms,
            tick_most_ms=ran.tick_most_ms, tick_quiet_ms=quiet.tick_ms,
            tick_quiet_cpu_ms=quiet.tick_cpu_ms,
            connect_s=readings.there.at - readings.empty.at,
            ack_p50_ms=_quantile(acks, 0.5), ack_p95_ms=_quantile(acks, 0.95),
            lost_connections=counts.lost, pace=self.wire.pace,
        )  # fmt: skip


def _quantile(ordered: list[float], share: float) -> float | None:
    """In milliseconds; None of nothing."""
    return 1000 * ordered[int(share * (len(ordered) - 1))] if ordered else None


def simulate(wanted: seed.Fleet, wire: Wire, say: Say) -> WireResult:
    """One rollout on the wire; whatever it started has ended when this returns or raises.

    Raises:
        UserError: there is no mosquitto, or too few open files are allowed.
        FitmentError: the controller did not start, or ended.
    """
    found = find_mosquitto()
    if found.program is None:
        raise UserError(f"--wire needs a broker: {found.reason}")
    make_room(wanted.devices)
    with ended_by_signals(), tempfile.TemporaryDirectory(prefix="fitment-wire-") as name:
        return WireWorld(wanted, wire, Path(name), say).run()


@contextmanager
def ended_by_signals() -> Iterator[None]:
    """SIGTERM ends us as Ctrl-C does, by way of every ``finally``."""

    def interrupt(_number: int, _frame: object) -> None:
        raise KeyboardInterrupt

    before = signal.signal(signal.SIGTERM, interrupt)
    try:
        yield
    finally:
        signal.signal(signal.SIGTERM, before)
