"""The link over an MQTT broker, with the device's certificate. Needs no more than MQTT 3.1.1.

The session is clean on purpose: the desired state is retained, acks and commands are repeated
by whoever needs them, telemetry waits in the outbox, so the broker need remember nothing of us.
Our own thread connects, not paho's, so that waits are scattered: a fleet that lost its broker
must not come back in one second.
"""

from __future__ import annotations

import logging
import queue
import ssl
import threading
import time
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

from paho.mqtt.enums import CallbackAPIVersion
from paho.mqtt.reasoncodes import ReasonCode

from agent.transport.link import Kept, LinkDown, LinkEvent, LinkUp, Pacer, Passed, field_of
from agent.transport.papers import Papers, explain
from agent.transport.thin_paho import paho
from fitment.core.link import Downlink, Uplink
from fitment.core.telemetry import Presence
from fitment.wire import codec, topics

log = logging.getLogger(__name__)

KEEPALIVE_S: Final = 30
CONNECT_TIMEOUT_S: Final = 10.0
MESSAGE_LIMIT: Final = 1 << 20
"""Bytes; longer ones are not ours."""
_GOODBYE_S: Final = 2.0
_LOOK_S: Final = 1.0


@dataclass(frozen=True, slots=True, kw_only=True)
class Broker:
    """Where it is, and who we are to it. ``ca`` None: no TLS, which is for loopback only."""

    host: str
    port: int
    ca: Path | None = None
    certificate: Path | None = None
    key: Path | None = None


class MqttLink:
    """One device's connection."""

    def __init__(
        self, broker: Broker, *, device: str, boot_id: str, jitter_s: float = 1.0,
        retry_base_s: float = 1.0,
    ) -> None:  # fmt: skip
        self.events: queue.Queue[LinkEvent] = queue.Queue()
        self.jitter_s = jitter_s
        self.passed = Passed()
        self._broker = broker
        self._device = device
        self._boot_id = boot_id
        self._kept = Kept()
        self._pacer = Pacer(base_s=retry_base_s)
        self._thread: threading.Thread | None = None
        self._client: paho.Client | None = None
        self._up = threading.Event()
        self._ended = threading.Event()
        self._failing = False
        self._why = ""

    def start(self) -> None:
        self._thread = threading.Thread(target=self._run, name="mqtt-link", daemon=True)
        self._thread.start()

    def send(self, uplink: Uplink) -> None:
        field_of(uplink)
        self._kept.put(uplink)
        client = self._client
        if client is not None and self._up.is_set():
            self._publish(client, uplink)

    def stop(self) -> None:
        self._pacer.stop()
        self._ended.set()
        if self._thread is not None:
            self._thread.join()
            self._thread = None

    def describe(self) -> str:
        scheme = "mqtts" if self._broker.ca is not None else "mqtt"
        return f"MQTT at {scheme}://{self._broker.host}:{self._broker.port}"

    # Our thread

    def _run(self) -> None:
        while not self._pacer.stopped:
            begun_s = time.monotonic()
            self._why, self._ended = "", threading.Event()
            client = self._make_client()
            try:
                if self._broker.ca is not None:
                    client.tls_set_context(self._tls())
                client.connect(self._broker.host, self._broker.port, keepalive=KEEPALIVE_S)
                self._client = client
                self._serve(client)
            except (OSError, ValueError) as error:
                # ValueError: ssl says so of some names and certificates.
                self._why = str(error) or type(error).__name__
            finally:
                self._client = None
                was_up = self._up.is_set()
                self._up.clear()
                _release(client)
            if not self._pacer.stopped:
                self._down(was_up=was_up)
                self._pacer.connected(time.monotonic() - begun_s if was_up else 0.0)
                self._pacer.wait(self.jitter_s)

    def _serve(self, client: paho.Client) -> None:
        """Until the connection ends, or we do; paho's thread moves the bytes."""
        client.loop_start()
        while not (self._ended.wait(_LOOK_S) or self._pacer.stopped):
            continue  # looked at now and then: `stop` may have come before the event was made
        if self._pacer.stopped and self._up.is_set():
            # The will is for falling silent; who leaves says so.
            goodbye = self._publish(client, Uplink(presence=self._presence(online=False)))
            try:
                goodbye.wait_for_publish(_GOODBYE_S)
            except (RuntimeError, ValueError):
                log.debug("action=goodbye_lost")  # the line was cut this very moment
        client.disconnect()
        client.loop_stop()

    def _make_client(self) -> paho.Client:
        client = paho.Client(
            CallbackAPIVersion.VERSION2, client_id=self._device, clean_session=True,
            protocol=paho.MQTTv311, reconnect_on_failure=False,
        )  # fmt: skip
        client.connect_timeout = CONNECT_TIMEOUT_S
        will = Uplink(presence=self._presence(online=False))
        client.will_set(
            topics.topic(self._device, topics.PRESENCE), codec.encode(will),
            qos=topics.PRESENCE.qos, retain=topics.PRESENCE.retain,
        )  # fmt: skip
        client.on_connect = self._on_connect
        client.on_subscribe = self._on_subscribe
        client.on_disconnect = self._on_disconnect
        client.on_message = self._on_message
        return client

    def _tls(self) -> ssl.SSLContext:
        """Read anew for each connection: the certificate may have been renewed."""
        context = ssl.create_default_context(cafile=str(self._broker.ca))
        context.load_cert_chain(str(self._broker.certificate), str(self._broker.key))
        return context

    def _explained(self, why: str) -> str:
        ca, certificate, key = self._broker.ca, self._broker.certificate, self._broker.key
        if ca is None or certificate is None or key is None:
            return why
        papers = Papers(ca=ca, certificate=certificate, key=key)
        return explain(why, papers, f"{self._broker.host}:{self._broker.port}")

    def _presence(self, *, online: bool) -> Presence:
        return Presence(online=online, boot_id=self._boot_id)

    def _publish(self, client: paho.Client, uplink: Uplink) -> paho.MQTTMessageInfo:
        kind = topics.UP[field_of(uplink)]
        topic, payload = topics.topic(self._device, kind), codec.encode(uplink)
        self.passed.add(len(payload))
        return client.publish(topic, payload, qos=kind.qos, retain=kind.retain)

    def _down(self, *, was_up: bool) -> None:
        if not self._failing:
            self._why = self._explained(self._why)
        if not self._failing:  # one line when it begins, one when it is over
            log.warning("action=link_down link=%s reason=%s", self.describe(), self._why)
        if was_up or not self._failing:
            self.events.put(LinkDown(reason=self._why or "the connection ended"))
        self._failing = True

    # Called by paho, on its thread

    def _on_connect(
        self, client: paho.Client, _data: Any, _flags: Any, reason: ReasonCode, _properties: Any
    ) -> None:
        if reason.is_failure:
            self._why = f"the broker refused: {reason}"
            self._ended.set()
            return
        client.subscribe(topics.down_filter(self._device), qos=1)

    def _on_subscribe(self, client: paho.Client, *_arguments: Any) -> None:
        self._publish(client, Uplink(presence=self._presence(online=True)))
        self._up.set()  # before the kept state is read: what is sent meanwhile goes out twice
        kept = self._kept.get()
        if kept is not None:
            self._publish(client, kept)
        self._failing = False
        log.info("action=link_up link=%s", self.describe())
        self.events.put(LinkUp())

    def _on_disconnect(
        self, _client: paho.Client, _data: Any, _flags: Any, reason: ReasonCode, _properties: Any
    ) -> None:
        self._why = self._why or str(reason)
        self._ended.set()

    def _on_message(self, _client: paho.Client, _data: Any, message: paho.MQTTMessage) -> None:
        self.passed.add(len(message.payload))
        if not 0 < len(message.payload) <= MESSAGE_LIMIT:
            return  # an empty payload clears a retained message; too long ones are not ours
        try:
            downlink = codec.decode(Downlink, bytes(message.payload))
        except codec.WireError as error:
            log.warning("action=message_dropped topic=%s reason=%s", message.topic, error)
            return
        self.events.put(downlink)


def _release(client: paho.Client) -> None:
    """Paho closes its wake-up sockets when it is finalized; free it of the cycle with us now."""
    client.on_connect = client.on_subscribe = client.on_disconnect = client.on_message = None
