"""Every link keeps the same promises: MQTT on a real broker, gRPC on a real server, the twin."""

from __future__ import annotations

import queue
import threading
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, Protocol

import grpc
import paho.mqtt.client as paho
import pytest

from controller.artifacts.memory import MemoryBlobs
from controller.gateway.broker import Broker, find_mosquitto
from controller.gateway.grpc import GrpcServers
from controller.gateway.grpc_enroll import EnrollService, Welcome
from controller.gateway.grpc_gateway import GatewayService, Stock
from controller.gateway.link import Link
from controller.gateway.memory import MemoryLink
from controller.gateway.mqtt import Endpoint, MqttLink
from controller.gateway.session import SessionLink
from fitment.core.deployment import DesiredState
from fitment.core.link import Downlink, Uplink
from fitment.core.telemetry import Ack, Presence, TelemetryBatch
from fitment.v1 import gateway_pb2, gateway_pb2_grpc
from fitment.wire import codec, topics
from tests.integration.gateway_peers import LoopThread, Papers, TwinEngine, TwinFleet, wait_for

FOUND = find_mosquitto()
ONLINE = Uplink(presence=Presence(online=True, boot_id="boot"))


def batch(sequence: int) -> Uplink:
    return Uplink(
        telemetry=TelemetryBatch(
            outbox="o", sequence=sequence, first_available=1, boot_id="boot",
            monotonic_ns=(), wall_unix_ns=(),
        )
    )  # fmt: skip


def desired(generation: int) -> Downlink:
    return Downlink(desired=DesiredState(generation=generation))


class Handler:
    """What a controller does with a link, reduced: it remembers, and answers `on_online`."""

    def __init__(self) -> None:
        self.ups: list[tuple[str, Uplink]] = []
        self.events: list[tuple[str, str]] = []
        self.wanted: dict[str, Downlink] = {}
        self.link: Link | None = None

    def on_up(self, device: str, uplink: Uplink) -> None:
        self.ups.append((device, uplink))

    def on_online(self, device: str) -> None:
        self.events.append(("online", device))
        if self.link is not None and device in self.wanted:
            self.link.publish(device, self.wanted[device])

    def on_offline(self, device: str) -> None:
        self.events.append(("offline", device))

    def sequences(self, device: str) -> list[int]:
        return [up.telemetry.sequence for name, up in self.ups if name == device and up.telemetry]


class DevicePeer(Protocol):
    """A device's end of the link."""

    received: queue.Queue[Downlink]

    def send(self, uplink: Uplink) -> None: ...
    def send_garbage(self) -> None: ...
    def close(self) -> None: ...
    def die(self) -> None: ...


class Stage(Protocol):
    """A link with its surroundings, and how devices reach it."""

    link: Link

    def device(self, name: str) -> DevicePeer: ...


class MemoryPeer:
    def __init__(self, link: MemoryLink, name: str) -> None:
        self.received: queue.Queue[Downlink] = queue.Queue()
        self._link, self._name = link, name
        link.connect(name, self.received.put)
        link.send(name, ONLINE)

    def send(self, uplink: Uplink) -> None:
        self._link.send(self._name, uplink)

    def send_garbage(self) -> None:
        with pytest.raises(ValueError, match="exactly one"):
            self._link.send(self._name, Uplink())

    def close(self) -> None:
        self._link.disconnect(self._name)

    die = close


class MemoryStage:
    def __init__(self) -> None:
        self.link = MemoryLink()

    def device(self, name: str) -> MemoryPeer:
        return MemoryPeer(self.link, name)


class MqttPeer:
    def __init__(self, papers: Papers, name: str, port: int) -> None:
        self.received: queue.Queue[Downlink] = queue.Queue()
        self._name = name
        offline = Uplink(presence=Presence(online=False, boot_id="boot"))
        client = papers.mqtt_client(name)
        presence = topics.topic(name, topics.PRESENCE)
        client.will_set(presence, codec.encode(offline), qos=1, retain=True)
        client.on_message = self._on_message
        client.on_connect = self._on_connect
        subscribed = threading.Event()
        client.on_subscribe = lambda *_: subscribed.set()
        self._client = client
        client.connect_async("127.0.0.1", port, keepalive=10)
        client.loop_start()
        assert subscribed.wait(10)
        self.send(ONLINE)

    def _on_connect(self, client: paho.Client, *_arguments: Any) -> None:
        client.subscribe(topics.down_filter(self._name), qos=1)

    def _on_message(self, _client: Any, _data: Any, message: paho.MQTTMessage) -> None:
        self.received.put(codec.decode(Downlink, bytes(message.payload)))

    def send(self, uplink: Uplink) -> None:
        (field,) = [name for name in topics.UP if getattr(uplink, name) is not None]
        kind = topics.UP[field]
        topic = topics.topic(self._name, kind)
        sent = self._client.publish(topic, codec.encode(uplink), qos=kind.qos, retain=kind.retain)
        sent.wait_for_publish(5)

    def send_garbage(self) -> None:
        topic = topics.topic(self._name, topics.TELEMETRY)
        self._client.publish(topic, b"\xff\xff\xff", qos=1)
        self._client.publish(topic, codec.encode(Uplink()), qos=1)
        self._client.publish(topic, codec.encode(ONLINE), qos=1)
        self._client.publish(f"fitment/v1/{self._name}/up/unknown", codec.encode(batch(9)), qos=1)

    def close(self) -> None:
        self.send(Uplink(presence=Presence(online=False, boot_id="boot")))
        self._client.disconnect()
        self._end()

    def die(self) -> None:
        # Without DISCONNECT the broker publishes the will.
        self._client.socket().close()  # type: ignore[union-attr]
        self._client.disconnect()
        self._end()

    def _end(self) -> None:
        self._client.loop_stop()
        self._client.on_message = self._client.on_connect = self._client.on_subscribe = None


class MqttStage:
    def __init__(self, papers: Papers, broker: Broker) -> None:
        self._papers, self._broker = papers, broker
        self.link = MqttLink(
            Endpoint(
                host="127.0.0.1", port=broker.port, ca=papers.folder / "ca.crt",
                certificate=papers.folder / "ctl.1.crt", key=papers.folder / "ctl.1.key",
            )
        )  # fmt: skip

    def device(self, name: str) -> MqttPeer:
        return MqttPeer(self._papers, name, self._broker.port)


class SessionPeer:
    def __init__(self, papers: Papers, name: str, port: int) -> None:
        self.received: queue.Queue[Downlink] = queue.Queue()
        self.status: grpc.StatusCode | None = None
        self._outgoing: queue.Queue[Any] = queue.Queue()
        self._channel = papers.channel(name, port)
        self.send(ONLINE)
        stub = gateway_pb2_grpc.GatewayStub(self._channel)
        self._call = stub.Session(iter(self._outgoing.get, None))
        self._thread = threading.Thread(target=self._receive)
        self._thread.start()

    def _receive(self) -> None:
        try:
            for response in self._call:
                self.received.put(codec.from_message(Downlink, response.downlink))
        except grpc.RpcError:
            self.status = self._call.code()

    def send(self, uplink: Uplink) -> None:
        request: Any = gateway_pb2.SessionRequest()
        request.uplink.CopyFrom(codec.to_message(uplink))
        self._outgoing.put(request)

    def send_garbage(self) -> None:
        self._outgoing.put(gateway_pb2.SessionRequest())

    def close(self) -> None:
        self._outgoing.put(None)
        self._thread.join(5)
        self._channel.close()

    def die(self) -> None:
        self._call.cancel()
        self.close()


class SessionStage:
    def __init__(self, papers: Papers, port: int, link: SessionLink) -> None:
        self.link = link
        self._papers, self._port = papers, port

    def device(self, name: str) -> SessionPeer:
        return SessionPeer(self._papers, name, self._port)


@pytest.fixture
def papers(tmp_path: Path) -> Papers:
    made = Papers.make(tmp_path)
    made.device("device-a")
    made.device("device-b")
    return made


def session_stage(papers: Papers) -> Iterator[SessionStage]:
    link = SessionLink()
    engine, fleet, loop = TwinEngine(), TwinFleet(), LoopThread()
    welcome = Welcome(
        ca_pem=b"", tuf_root=b"", director_public_key=b"", director_key_id="",
        gateway_address="", mqtt_address="",
    )  # fmt: skip
    gateway = GatewayService(
        engine, fleet, sessions=link, ca_pem=b"",
        stock=Stock(blobs=MemoryBlobs(), read_metadata=lambda _: None),
    )  # fmt: skip

    async def begin() -> GrpcServers:
        servers = GrpcServers("127.0.0.1", papers.server_files())
        servers.bind(enroll_port=0, gateway_port=0)
        enroll = EnrollService(engine, fleet, welcome=welcome)
        await servers.start(engine, fleet, enroll=enroll, gateway=gateway)
        return servers

    servers = loop.run(begin())
    yield SessionStage(papers, servers.gateway_port, link)
    link.stop()
    loop.run(servers.stop())
    loop.stop()
    engine.stop()


def mqtt_stage(papers: Papers, folder: Path) -> Iterator[MqttStage]:
    if FOUND.program is None:
        pytest.skip(FOUND.reason)
    broker = Broker(
        FOUND.program, folder / "broker", host="127.0.0.1", port=0, identity=papers.identity()
    )
    broker.start()
    stage = MqttStage(papers, broker)
    yield stage
    stage.link.stop()
    broker.stop()


@pytest.fixture(params=["memory", "session", "mqtt"])
def stage(request: pytest.FixtureRequest, papers: Papers, tmp_path: Path) -> Iterator[Stage]:
    if request.param == "memory":
        yield MemoryStage()
    elif request.param == "session":
        yield from session_stage(papers)
    else:
        yield from mqtt_stage(papers, tmp_path)


@pytest.fixture
def handler(stage: Stage) -> Handler:
    made = Handler()
    made.link = stage.link
    stage.link.start(made)
    return made


@pytest.fixture
def connect(stage: Stage, handler: Handler) -> Iterator[Callable[[str], DevicePeer]]:
    peers: list[DevicePeer] = []

    def connected(name: str) -> DevicePeer:
        before = handler.events.count(("online", name))
        peers.append(stage.device(name))
        assert wait_for(lambda: handler.events.count(("online", name)) > before)
        return peers[-1]

    yield connected
    while peers:
        peers.pop().close()


Connect = Callable[[str], DevicePeer]


def test_messages_go_both_ways_between_the_right_two(
    stage: Stage, handler: Handler, connect: Connect
) -> None:
    a, b = connect("device-a"), connect("device-b")
    a.send(batch(1))
    b.send(batch(2))
    assert wait_for(lambda: handler.sequences("device-a") == [1])
    assert wait_for(lambda: handler.sequences("device-b") == [2])
    stage.link.publish("device-a", Downlink(ack=Ack(outbox="o", sequence=1)))
    assert a.received.get(timeout=5) == Downlink(ack=Ack(outbox="o", sequence=1))
    assert b.received.empty()


def test_order_is_kept(handler: Handler, connect: Connect) -> None:
    a = connect("device-a")
    for sequence in range(1, 21):
        a.send(batch(sequence))
    assert wait_for(lambda: handler.sequences("device-a") == list(range(1, 21)))


def test_a_device_that_comes_gets_what_is_wanted_of_it(handler: Handler, connect: Connect) -> None:
    handler.wanted["device-a"] = desired(7)
    a = connect("device-a")
    assert a.received.get(timeout=5) == desired(7)


def test_presence_comes_through_as_a_message_too(handler: Handler, connect: Connect) -> None:
    connect("device-a")
    assert wait_for(lambda: ("device-a", ONLINE) in handler.ups)


@pytest.mark.parametrize("how", ["close", "die"])
def test_a_device_that_goes_is_offline(
    stage: Stage, handler: Handler, connect: Connect, how: str
) -> None:
    connect("device-b")
    peer = stage.device("device-a")
    assert wait_for(lambda: ("online", "device-a") in handler.events)
    getattr(peer, how)()
    assert wait_for(lambda: ("offline", "device-a") in handler.events)
    assert ("offline", "device-b") not in handler.events


def test_what_cannot_be_read_is_dropped_and_the_rest_goes_on(
    handler: Handler, connect: Connect
) -> None:
    a = connect("device-a")
    seen = len(handler.ups)
    a.send_garbage()
    a.send(batch(3))
    assert wait_for(lambda: handler.sequences("device-a") == [3])
    assert len([up for _, up in handler.ups[seen:] if up.telemetry is not None]) == 1


def test_publishing_to_nobody_is_no_error(stage: Stage, handler: Handler) -> None:
    stage.link.publish("device-b", desired(1))
    with pytest.raises(ValueError, match="exactly one"):
        stage.link.publish("device-b", Downlink())


def test_publish_is_safe_from_many_threads(
    stage: Stage, handler: Handler, connect: Connect
) -> None:
    a = connect("device-a")

    def send(thread: int) -> None:
        for number in range(10):
            ack = Ack(outbox=f"t{thread}", sequence=number)
            stage.link.publish("device-a", Downlink(ack=ack))

    threads = [threading.Thread(target=send, args=(n,)) for n in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    got = [a.received.get(timeout=5) for _ in range(40)]
    assert len({(d.ack.outbox, d.ack.sequence) for d in got if d.ack}) == 40


def test_it_says_what_it_is_and_stops_twice(stage: Stage, handler: Handler) -> None:
    assert stage.link.describe()
    assert stage.link.is_up()
    stage.link.stop()
    assert not stage.link.is_up()
    stage.link.stop()
    stage.link.publish("device-a", desired(1))


def test_a_newer_session_replaces_the_older(papers: Papers) -> None:
    stages = session_stage(papers)
    stage = next(stages)
    handler = Handler()
    handler.link = stage.link
    stage.link.start(handler)
    older = stage.device("device-a")
    assert wait_for(lambda: len(handler.events) == 1)
    newer = stage.device("device-a")
    assert wait_for(lambda: older.status is grpc.StatusCode.ABORTED)
    stage.link.publish("device-a", desired(3))
    assert newer.received.get(timeout=5) == desired(3)
    assert handler.events == [("online", "device-a")] * 2
    stage.link.evict("device-a")
    assert wait_for(lambda: newer.status is grpc.StatusCode.ABORTED)
    for peer in (older, newer):
        peer.close()
    assert next(stages, None) is None
