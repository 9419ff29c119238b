"""The device's links keep the same promises: a real broker, a real gRPC server, the twin."""

from __future__ import annotations

import queue
import threading
from collections.abc import Callable, Iterator
from concurrent import futures
from pathlib import Path
from typing import Any, Protocol

import grpc
import paho.mqtt.client as paho
import pytest

from agent.transport.link import AgentLink, LinkDown, LinkUp
from agent.transport.memory import MemoryLink
from agent.transport.mqtt import Broker as Endpoint
from agent.transport.mqtt import MqttLink
from agent.transport.session import SessionLink, tls_credentials
from controller.gateway.broker import Broker, find_mosquitto, free_port
from fitment.core.deployment import DesiredState, ReportedState
from fitment.core.fingerprint import Facet, Fingerprint
from fitment.core.link import Downlink, Uplink
from fitment.core.telemetry import Ack, Column, Command, CommandKind, Presence, TelemetryBatch
from fitment.v1 import gateway_pb2, gateway_pb2_grpc
from fitment.wire import codec, topics
from tests.integration.gateway_peers import Papers, wait_for

FOUND = find_mosquitto()
DEVICE = "device-a"


def reported(generation: int) -> Uplink:
    empty = Facet.of({})
    return Uplink(
        reported=ReportedState(
            boot_id="boot", agent_version="1", observed_generation=generation,
            fingerprint=Fingerprint(chassis=empty, hardware=empty, stack=empty, condition=empty),
        )
    )  # fmt: skip


def telemetry(sequence: int) -> Uplink:
    return Uplink(
        telemetry=TelemetryBatch(
            outbox="o", sequence=sequence, first_available=1, boot_id="boot", monotonic_ns=(1,),
            wall_unix_ns=(1,), columns={"x": Column(values=(1.0,))},
        )
    )  # fmt: skip


class Stage(Protocol):
    """A link, and the controller's end of it."""

    link: AgentLink

    def ups(self) -> list[Uplink]: ...
    def say(self, downlink: Downlink) -> None: ...
    def garbage(self) -> None: ...
    def cut(self) -> None: ...
    def mend(self) -> None: ...
    def close(self) -> None: ...


class MemoryStage:
    def __init__(self) -> None:
        self.link = MemoryLink()
        self.say = self.link.deliver
        self.cut = self.link.disconnect
        self.mend = self.link.connect

    def ups(self) -> list[Uplink]:
        return list(self.link.received)

    def garbage(self) -> None:
        """Nothing but messages fits through."""

    def close(self) -> None:
        self.link.stop()


class MqttStage:
    def __init__(self, papers: Papers, folder: Path) -> None:
        assert FOUND.program is not None
        self._broker = Broker(
            FOUND.program, folder / "broker", host="127.0.0.1", port=0, identity=papers.identity()
        )
        self._broker.start()
        self._ups: list[Uplink] = []
        self._ready = threading.Event()
        client = papers.mqtt_client("ctl.1")
        client.reconnect_delay_set(1, 1)
        client.on_connect = lambda c, *_: c.subscribe(topics.ALL_UP, qos=1)
        client.on_subscribe = lambda *_: self._ready.set()
        client.on_message = self._on_message
        self._client = client
        client.connect_async("127.0.0.1", self._broker.port, keepalive=10)
        client.loop_start()
        assert self._ready.wait(10)
        endpoint = Endpoint(
            host="127.0.0.1", port=self._broker.port, ca=papers.folder / "ca.crt",
            certificate=papers.folder / f"{DEVICE}.crt", key=papers.folder / f"{DEVICE}.key",
        )  # fmt: skip
        self.link = MqttLink(
            endpoint, device=DEVICE, boot_id="boot", jitter_s=0.0, retry_base_s=0.2
        )

    def _on_message(self, _client: Any, _data: Any, message: paho.MQTTMessage) -> None:
        self._ups.append(codec.decode(Uplink, bytes(message.payload)))

    def ups(self) -> list[Uplink]:
        return list(self._ups)

    def say(self, downlink: Downlink) -> None:
        (field,) = [name for name in topics.DOWN if getattr(downlink, name) is not None]
        kind = topics.DOWN[field]
        topic = topics.topic(DEVICE, kind)
        self._client.publish(topic, codec.encode(downlink), qos=1, retain=kind.retain)

    def garbage(self) -> None:
        topic = topics.topic(DEVICE, topics.COMMAND)
        for payload in (b"\xff\xff", b"", b"\x0a\xff"):
            self._client.publish(topic, payload, qos=1)

    def cut(self) -> None:
        self._ready.clear()
        self._broker.stop()

    def mend(self) -> None:
        self._broker.start()
        assert self._ready.wait(10)

    def close(self) -> None:
        self.link.stop()
        self._client.disconnect()
        self._client.loop_stop()
        self._client.on_connect = self._client.on_subscribe = self._client.on_message = None
        self._broker.stop()


class Gateway(gateway_pb2_grpc.GatewayServicer):
    def __init__(self, ups: list[Uplink]) -> None:
        self.down: queue.Queue[Any] = queue.Queue()
        self._ups = ups

    def Session(self, request_iterator: Iterator[Any], context: Any) -> Iterator[Any]:
        def read() -> None:
            try:
                for request in request_iterator:
                    self._ups.append(codec.from_message(Uplink, request.uplink))
            except Exception:  # noqa: BLE001 - grpc raises a bare one when a stream is cancelled
                return  # the stream was cancelled
            finally:
                self.down.put(None)

        reader = threading.Thread(target=read)
        reader.start()
        yield from iter(self.down.get, None)
        reader.join()


class SessionStage:
    def __init__(self, papers: Papers) -> None:
        self._papers = papers
        self._port = free_port("127.0.0.1")
        self._ups: list[Uplink] = []
        self.mend()
        folder = papers.folder

        def credentials() -> Any:
            names = ("ca.crt", f"{DEVICE}.crt", f"{DEVICE}.key")
            ca, certificate, key = ((folder / name).read_bytes() for name in names)
            return tls_credentials(ca, certificate, key)

        self.link = SessionLink(
            f"localhost:{self._port}", credentials, boot_id="boot", jitter_s=0.0, retry_base_s=0.2
        )

    def mend(self) -> None:
        files = self._papers.server_files()
        credentials = grpc.ssl_server_credentials(
            [(files.key.read_bytes(), files.chain.read_bytes())],
            root_certificates=files.ca.read_bytes(), require_client_auth=True,
        )  # fmt: skip
        self._pool = futures.ThreadPoolExecutor(4)
        self._server = grpc.server(self._pool)
        self._service = Gateway(self._ups)
        gateway_pb2_grpc.add_GatewayServicer_to_server(self._service, self._server)
        assert self._server.add_secure_port(f"127.0.0.1:{self._port}", credentials)
        self._server.start()

    def ups(self) -> list[Uplink]:
        return list(self._ups)

    def say(self, downlink: Downlink) -> None:
        response: Any = gateway_pb2.SessionResponse()
        response.downlink.CopyFrom(codec.to_message(downlink))
        self._service.down.put(response)

    def garbage(self) -> None:
        response: Any = gateway_pb2.SessionResponse()
        response.downlink.command.kind = 99
        self._service.down.put(response)

    def cut(self) -> None:
        self._server.stop(0).wait()
        self._pool.shutdown()

    def close(self) -> None:
        self.link.stop()
        self.cut()


@pytest.fixture(params=["memory", "session", "mqtt"])
def stage(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[Stage]:
    made: Stage
    if request.param == "memory":
        made = MemoryStage()
    else:
        papers = Papers.make(tmp_path)
        papers.device(DEVICE)
        if request.param == "session":
            made = SessionStage(papers)
        elif FOUND.program is None:
            pytest.skip(FOUND.reason)
        else:
            made = MqttStage(papers, tmp_path)
    yield made
    made.close()


def event(stage: Stage, kind: type) -> Any:
    """The next event, which must be of this kind."""
    found = stage.link.events.get(timeout=15)
    assert isinstance(found, kind), found
    return found


def presences(stage: Stage) -> list[bool]:
    return [up.presence.online for up in stage.ups() if up.presence is not None]


def up_as(stage: Stage, wanted: Callable[[list[Uplink]], bool]) -> bool:
    return wait_for(lambda: wanted(stage.ups()))


def test_presence_comes_first_then_the_state_that_waited(stage: Stage) -> None:
    stage.link.send(reported(1))
    stage.link.send(reported(2))
    stage.link.send(telemetry(1))
    stage.link.start()
    event(stage, LinkUp)
    online = Uplink(presence=Presence(online=True, boot_id="boot"))
    assert up_as(stage, lambda ups: ups[:2] == [online, reported(2)])
    # Telemetry of the time before is in the outbox; the link does not keep it.
    assert all(up.telemetry is None for up in stage.ups())


def test_both_directions_carry_every_kind(stage: Stage) -> None:
    stage.link.start()
    event(stage, LinkUp)
    stage.link.send(reported(3))
    stage.link.send(telemetry(7))
    assert up_as(stage, lambda ups: ups[-2:] == [reported(3), telemetry(7)])
    said = (
        Downlink(desired=DesiredState(generation=4)),
        Downlink(command=Command(id="c", kind=CommandKind.CANCEL, subject="d")),
        Downlink(ack=Ack(outbox="o", sequence=7)),
    )
    for downlink in said:
        stage.say(downlink)
    heard = [stage.link.events.get(timeout=10) for _ in said]
    assert sorted(heard, key=repr) == sorted(said, key=repr)


def test_order_is_kept(stage: Stage) -> None:
    stage.link.start()
    event(stage, LinkUp)
    for sequence in range(100):
        stage.link.send(telemetry(sequence))
    assert up_as(
        stage, lambda ups: [u.telemetry.sequence for u in ups if u.telemetry] == list(range(100))
    )


def test_many_threads_may_send(stage: Stage) -> None:
    stage.link.start()
    event(stage, LinkUp)

    def send(first: int) -> None:
        for sequence in range(first, first + 25):
            stage.link.send(telemetry(sequence))

    threads = [threading.Thread(target=send, args=(first,)) for first in (0, 25, 50, 75)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert up_as(
        stage, lambda ups: {u.telemetry.sequence for u in ups if u.telemetry} == set(range(100))
    )


def test_a_cut_line_is_said_and_mended_by_itself(stage: Stage) -> None:
    stage.link.start()
    event(stage, LinkUp)
    stage.link.send(reported(1))
    assert up_as(stage, lambda ups: reported(1) in ups)
    stage.cut()
    assert event(stage, LinkDown).reason
    stage.link.send(reported(2))
    stage.link.send(reported(3))
    stage.link.send(telemetry(1))
    before = len(stage.ups())
    stage.mend()
    event(stage, LinkUp)
    assert up_as(stage, lambda ups: reported(3) in ups[before:])
    assert reported(2) not in stage.ups()
    assert all(up.telemetry is None for up in stage.ups())
    stage.say(Downlink(ack=Ack(outbox="o", sequence=1)))
    while not isinstance(stage.link.events.get(timeout=10), Downlink):
        continue


def test_what_cannot_be_read_is_dropped(stage: Stage) -> None:
    stage.link.start()
    event(stage, LinkUp)
    stage.garbage()
    stage.say(Downlink(ack=Ack(outbox="o", sequence=5)))
    assert event(stage, Downlink).ack == Ack(outbox="o", sequence=5)


def test_an_uplink_holds_one_thing(stage: Stage) -> None:
    for wrong in (Uplink(), Uplink(reported=reported(1).reported, presence=Presence(
        online=True, boot_id="b"
    ))):  # fmt: skip
        with pytest.raises(ValueError, match="exactly one"):
            stage.link.send(wrong)


def test_who_leaves_says_so(stage: Stage) -> None:
    stage.link.start()
    event(stage, LinkUp)
    assert wait_for(lambda: presences(stage) == [True])
    stage.link.stop()
    assert wait_for(lambda: presences(stage)[-1:] == [False])
    stage.link.stop()
    stage.link.send(reported(9))
    assert stage.link.describe()


def test_nobody_there_is_no_error_and_stopping_is_quick(stage: Stage) -> None:
    stage.cut()
    stage.link.start()
    stage.link.send(reported(1))
    stage.link.stop()
    assert reported(1) not in stage.ups()
