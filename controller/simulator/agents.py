"""Modelled devices on a real broker: what an agent says over MQTT, and when it connects again.

One `Agent` joins a `SimDevice` to a socket. Its hardware's seconds are modelled, and may pass
faster than ours (`Pace`); connections, messages, keep-alives and telemetry are in real time.
"""

from __future__ import annotations

import random
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path

from agent.domain import patience
from controller.simulator import mqtt311
from controller.simulator.device import NEVER, Answer, SimDevice
from controller.simulator.outbox import Outbox
from controller.simulator.physics import surroundings_c
from controller.simulator.seed import SLOT
from controller.simulator.sockets import Connection, Loop, Tls
from controller.simulator.traits import Scenario
from fitment.core.deployment import Outcome
from fitment.core.link import Downlink, Uplink
from fitment.core.telemetry import CommandKind, Presence
from fitment.wire import codec, topics

KEEPALIVE_S = 30
PING_AFTER_S = 20.0
ONLINE, OFFLINE = (
    codec.encode(Uplink(presence=Presence(online=online, boot_id="boot")))
    for online in (True, False)
)


@dataclass(frozen=True, slots=True, kw_only=True)
class Pace:
    """How modelled seconds follow ours."""

    factor: float  # modelled seconds in one of ours
    began: float  # monotonic
    wall_s: float  # modelled time then

    def modelled(self, now: float) -> float:
        """Modelled time at a moment of ours."""
        return self.wall_s + (now - self.began) * self.factor

    def ours(self, modelled: float) -> float:
        """Our moment at a modelled time."""
        return self.began + (modelled - self.wall_s) / self.factor


@dataclass(slots=True, kw_only=True)
class Counts:
    """What passed between the fleet and the broker, and how it is."""

    up: int = 0  # connections that stand
    asked: int = 0  # devices that were told what is desired of them
    ups: int = 0  # connections that came to stand, ever
    lost: int = 0  # that ended without being asked to
    sent: int = 0  # messages to the broker
    taken: int = 0  # of them, acknowledged by the broker
    heard: int = 0  # messages from the controller
    stored: int = 0  # telemetry batches that the controller has on its disk
    committed: int = 0
    ended: int = 0  # deployments, by the devices' word
    ack_s: list[float] = field(default_factory=list)  # from a batch's first sending to its ack
    why: dict[str, int] = field(default_factory=dict)  # reasons of lost connections


@dataclass(frozen=True, slots=True, kw_only=True)
class Crowd:
    """What all agents share."""

    loop: Loop
    tls: Tls
    address: tuple[str, int]
    papers: Path  # a file a device
    scenario: Scenario
    pace: Pace
    chance: random.Random
    counts: Counts


class Agent:
    """One modelled device with a connection of its own."""

    def __init__(self, device: SimDevice, crowd: Crowd) -> None:
        self.device = device
        self.outbox = Outbox(f"outbox-{device.name}")
        self._crowd = crowd
        self._topics = {name: topics.topic(device.name, k) for name, k in topics.UP.items()}
        self._connection: Connection | None = None
        self._wanted = False  # off: its link is down, as the scenario has it
        self._begun = False
        self._tries = 0
        self._number = 1  # the last packet id; 1 is the subscription's
        self._woken_at = NEVER
        self._interval_s = 10.0
        self._jitter_s = 1.0
        self._told = False
        self._samples = False
        self._up_at = 0.0

    @property
    def is_up(self) -> bool:
        """Whether its connection stands."""
        return self._connection is not None and self._connection.up

    @property
    def is_settled(self) -> bool:
        """Whether it was told what is desired of it, or its link is down as the scenario has it."""
        return self._told or (self._begun and not self._wanted)

    def switch_on(self) -> None:
        """Connect, and again whenever that fails."""
        self._wanted = self._begun = True
        self._plan_link()
        self._connect()
        if self.device.traits.upgrades_at is not None:
            at = self._crowd.pace.wall_s + self.device.traits.upgrades_at
            self._crowd.loop.at(self._crowd.pace.ours(at), self._upgrade)

    def switch_off(self, *, goodbye: bool) -> None:
        """End the connection; without a goodbye the broker publishes the will."""
        self._wanted = False
        connection, self._connection, self._up_at = self._connection, None, 0.0
        if connection is None:
            return
        self._crowd.counts.up -= connection.up
        if goodbye and connection.up:
            connection.send(self._packet("presence", OFFLINE))
        connection.close(goodbye=mqtt311.DISCONNECT if goodbye else b"")

    def ping(self, now: float) -> None:
        """Show that it lives, when it was silent for long."""
        if self._connection and self.is_up and now - self._connection.sent_at > PING_AFTER_S:
            self._connection.send(mqtt311.PING)

    # Told by the connection

    def on_up(self) -> None:
        counts = self._crowd.counts
        counts.up, counts.ups = counts.up + 1, counts.ups + 1
        self._up_at = self._crowd.loop.now()
        self._publish("presence", ONLINE)
        self._publish("reported", codec.encode(self.device.reported()))
        if not self._samples:
            self._samples = True
            self._after(self._crowd.chance.uniform(0.0, self._interval_s), self._sample)
        self.outbox.resend()
        self._send_telemetry()

    def on_packet(self, packet: mqtt311.Packet) -> None:
        counts = self._crowd.counts
        if isinstance(packet, mqtt311.Puback):
            counts.taken += 1
        elif isinstance(packet, mqtt311.Publish) and packet.payload:
            counts.heard += 1
            downlink = codec.decode(Downlink, packet.payload)
            self._shaken(partial(self._receive, downlink))

    def on_end(self, reason: str) -> None:
        counts = self._crowd.counts
        was_up = self._connection is not None and self._up_at > 0
        counts.lost += 1
        counts.why[reason] = counts.why.get(reason, 0) + 1
        if was_up:
            counts.up -= 1
            lasted = self._crowd.loop.now() - self._up_at
            self._tries = 0 if lasted >= patience.STEADY_S else self._tries
        self._connection, self._up_at = None, 0.0
        if self._wanted:
            self._crowd.loop.at(self._crowd.loop.now() + self._wait_s(), self._connect)

    # What it does

    def _wait_s(self) -> float:
        chances = (self._crowd.chance.random(), self._crowd.chance.random())
        wait_s = patience.reconnect_s(self._tries, self._jitter_s, chances)
        self._tries += 1
        return wait_s

    def _connect(self) -> None:
        if not self._wanted or self._connection is not None:
            return
        crowd, name = self._crowd, self.device.name
        papers = crowd.papers / f"{name}.pem"
        self._up_at = 0.0
        self._connection = Connection(crowd.loop, crowd.tls, crowd.address, papers, self)
        hello = mqtt311.connect(
            name, keepalive_s=KEEPALIVE_S, will_topic=self._topics["presence"], will=OFFLINE
        )
        self._connection.open(hello, topics.down_filter(name))

    def _receive(self, downlink: Downlink) -> None:
        now = self._crowd.loop.now()
        if downlink.ack is not None:
            took = self.outbox.acknowledge(downlink.ack, now)
            self._crowd.counts.stored += len(took)
            self._crowd.counts.ack_s += took
            self._send_telemetry()
        if downlink.command is not None and downlink.command.kind is CommandKind.REPORT:
            self._publish("reported", codec.encode(self.device.reported()))
        desired = downlink.desired
        if desired is None:
            return
        self._interval_s = desired.telemetry_interval_s
        self._jitter_s = desired.reconnect_jitter_s
        self._crowd.counts.asked += not self._told
        self._told = True
        self.device.receive(downlink, self._crowd.pace.modelled(now))
        self._plan()

    def _wake(self) -> None:
        now = self._crowd.pace.modelled(self._crowd.loop.now())
        self._woken_at = NEVER
        if now >= self.device.due:
            before = set(self.device.ended)
            for said in self.device.wake(now):
                if self.is_up and not isinstance(said, Answer):
                    self._shaken(partial(self._publish, "reported", codec.encode(said)))
            for key in set(self.device.ended) - before:
                self._crowd.counts.ended += 1
                outcome = self.device.ended[key].outcome
                self._crowd.counts.committed += outcome is Outcome.COMMITTED
        self._plan()

    def _plan(self) -> None:
        at = self._crowd.pace.ours(self.device.due) if self.device.due < NEVER else NEVER
        if at < self._woken_at:
            self._woken_at = at
            self._crowd.loop.at(at, self._wake)

    def _upgrade(self) -> None:
        self.device.upgrade()
        if self.is_up:
            self._publish("reported", codec.encode(self.device.reported()))

    def _plan_link(self) -> None:
        scenario, battery_s = self._crowd.scenario, self.device.machine.board.battery_s
        mean_s = NEVER
        if self.device.traits.flaky:
            mean_s = scenario.up_s if self._wanted else scenario.down_s
        elif battery_s is not None:
            mean_s = battery_s if self._wanted else 3600.0
        if mean_s < NEVER:
            self._after(
                self._crowd.chance.expovariate(1 / mean_s) / self._crowd.pace.factor, self._flip
            )

    def _flip(self) -> None:
        if self._wanted:
            self.switch_off(goodbye=False)
        else:
            self._wanted = True
            self._connect()
        self._plan_link()

    # Telemetry

    def _sample(self) -> None:
        now = self._crowd.loop.now()
        running = self.device.slots.get(SLOT)
        tags = {"slot": SLOT, "variant": running.variant} if running is not None else {}
        modelled = self._crowd.pace.modelled(now)
        wall_s = time.time() + self.device.traits.skew_s
        self.outbox.append(self._columns(modelled), tags, now=now, wall_s=wall_s)
        self._send_telemetry()
        self._after(self._interval_s, self._sample)

    def _columns(self, modelled: float) -> dict[str, float]:
        machine = self.device.machine
        chip_c = machine.chip_c(surroundings_c(modelled, self._crowd.scenario.warmer_c))
        return {
            "supervisor_anonymous_mib": 12.0, "supervisor_pss_mib": 16.0,
            "cpu_pressure_avg10_percent": self._crowd.chance.uniform(0.0, 5.0),
            "cpu_mhz": 2000.0 / machine.slowed(chip_c), "temperature_c": chip_c,
            "last_latency_p50_ms": machine.latency_ms("int8", chip_c),
        }  # fmt: skip

    def _send_telemetry(self) -> None:
        if self.is_up:
            for batch in self.outbox.due(self._crowd.loop.now()):
                payload = codec.encode(Uplink(telemetry=batch))
                self._shaken(partial(self._publish, "telemetry", payload))

    # Bytes

    def _shaken(self, act: Callable[[], None]) -> None:
        """Do it; where the scenario has a bad broker, late or twice."""
        scenario, chance = self._crowd.scenario, self._crowd.chance
        pace = self._crowd.pace.factor
        if scenario.repeats and chance.random() < scenario.repeats:
            self._after(chance.uniform(0.1, 5.0) / pace, act)
        if scenario.late and chance.random() < scenario.late:
            self._after(chance.uniform(0.1, 60.0) / pace, act)
        else:
            act()

    def _after(self, seconds: float, act: Callable[[], None]) -> None:
        self._crowd.loop.at(self._crowd.loop.now() + seconds, act)

    def _publish(self, field_name: str, payload: bytes) -> None:
        if self._connection is not None and self.is_up:
            self._crowd.counts.sent += 1
            self._connection.send(self._packet(field_name, payload))

    def _packet(self, field_name: str, payload: bytes) -> bytes:
        self._number = self._number % 65_535 + 1
        kind = topics.UP[field_name]
        return mqtt311.publish(
            self._topics[field_name], payload, packet_id=self._number, retain=kind.retain
        )
