"""The link over an MQTT broker, as the client ``ctl.1``.

Needs no more than MQTT 3.1.1. The session is clean on purpose: reported state and presence are
retained, telemetry is repeated by the device until it is acknowledged, so the broker has to
remember nothing for us.
"""

from __future__ import annotations

import logging
import ssl
import threading
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import paho.mqtt.client as paho
from paho.mqtt.enums import CallbackAPIVersion
from paho.mqtt.reasoncodes import ReasonCode

from controller.errors import Temporary
from controller.gateway.link import LinkHandler, field_of
from fitment.core.link import Downlink, Uplink
from fitment.wire import codec, topics

log = logging.getLogger(__name__)

KEEPALIVE_S = 30
RECONNECT_MAX_S = 10
CONNECT_WAIT_S = 15.0
INFLIGHT = 1000
"""Messages on their way to the broker, as many as ours lets to us: with paho's own 20 the answers
to a fleet wait for one round trip to the broker after the other."""
MESSAGE_LIMIT = 1 << 20
"""Bytes; our broker refuses longer ones as well."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Endpoint:
    """A broker, and who we are to it."""

    host: str
    port: int
    ca: Path
    certificate: Path
    key: Path
    client_id: str = "ctl.1"


class MqttLink:
    """One connection to a broker; paho's thread receives and connects again by itself."""

    def __init__(self, endpoint: Endpoint) -> None:
        self._endpoint = endpoint
        self._handler: LinkHandler | None = None
        self._client: paho.Client | None = None
        self._ready = threading.Event()
        self._failing = False

    def start(self, handler: LinkHandler) -> None:
        """Connect and subscribe.

        Raises:
            Temporary: the broker did not let us in within `CONNECT_WAIT_S`.
        """
        self._handler = handler
        client = paho.Client(
            CallbackAPIVersion.VERSION2,
            client_id=self._endpoint.client_id,
            clean_session=True,
            protocol=paho.MQTTv311,
        )
        client.tls_set_context(self._tls())
        client.max_inflight_messages_set(INFLIGHT)
        client.reconnect_delay_set(min_delay=1, max_delay=RECONNECT_MAX_S)
        client.on_connect = self._on_connect
        client.on_connect_fail = self._on_connect_fail
        client.on_disconnect = self._on_disconnect
        client.on_subscribe = self._on_subscribe
        client.on_message = self._on_message
        self._client = client
        client.connect_async(self._endpoint.host, self._endpoint.port, keepalive=KEEPALIVE_S)
        client.loop_start()
        if not self._ready.wait(CONNECT_WAIT_S):
            self.stop()
            raise Temporary(
                f"the broker at {self._endpoint.host}:{self._endpoint.port} did not let"
                f" {self._endpoint.client_id} in within {CONNECT_WAIT_S:.0f} s; see its log",
                retry_after_s=5.0,
            )

    def publish(self, device: str, downlink: Downlink) -> None:
        kind = topics.DOWN[field_of(downlink)]
        topic = topics.topic(device, kind)
        if self._client is not None:
            self._client.publish(topic, codec.encode(downlink), qos=kind.qos, retain=kind.retain)

    def evict(self, device: str) -> None:
        """Clear what is retained of it; the broker's own lists keep it out."""
        for kind in (*topics.DOWN.values(), *topics.UP.values()):
            if kind.retain and self._client is not None:
                self._client.publish(topics.topic(device, kind), b"", qos=1, retain=True)

    def stop(self) -> None:
        client, self._client = self._client, None
        self._handler = None
        if client is not None:
            client.disconnect()
            client.loop_stop()
            # paho closes its wake-up sockets when it is finalized; free it of the cycle with us,
            # so that this is now.
            client.on_connect = client.on_connect_fail = client.on_disconnect = None
            client.on_subscribe = client.on_message = None

    def is_up(self) -> bool:
        return self._client is not None and self._ready.is_set() and not self._failing

    def describe(self) -> str:
        return f"MQTT at mqtts://{self._endpoint.host}:{self._endpoint.port}"

    def _tls(self) -> ssl.SSLContext:
        context = ssl.create_default_context(cafile=str(self._endpoint.ca))
        context.load_cert_chain(str(self._endpoint.certificate), str(self._endpoint.key))
        return context

    def _on_connect(
        self, client: paho.Client, _data: Any, _flags: Any, reason: ReasonCode, _properties: Any
    ) -> None:
        if reason.is_failure:
            self._fails(str(reason))
            return
        client.subscribe(topics.ALL_UP, qos=1)

    def _on_subscribe(self, *_arguments: Any) -> None:
        self._failing = False
        self._ready.set()
        log.info("action=link_up link=%s", self.describe())

    def _on_connect_fail(self, _client: paho.Client, _data: Any) -> None:
        self._fails("cannot connect")

    def _on_disconnect(
        self, _client: paho.Client, _data: Any, _flags: Any, reason: ReasonCode, _properties: Any
    ) -> None:
        if self._client is not None:
            self._fails(str(reason))

    def _fails(self, why: str) -> None:
        if not self._failing:  # one line when it begins, one when it is over
            log.warning("action=link_down link=%s reason=%s", self.describe(), why)
        self._failing = True

    def _on_message(self, _client: paho.Client, _data: Any, message: paho.MQTTMessage) -> None:
        device = topics.device_of(message.topic)
        handler = self._handler
        if device is None or handler is None or not message.payload:
            return  # an empty payload clears a retained message
        try:
            uplink = _read(message.topic, bytes(message.payload))
        except ValueError as error:
            log.warning("action=message_dropped topic=%s reason=%s", message.topic, error)
            return
        if uplink.presence is not None:
            (handler.on_online if uplink.presence.online else handler.on_offline)(device)
        handler.on_up(device, uplink)


def _read(topic: str, payload: bytes) -> Uplink:
    """Decode an uplink and check that it is what its topic says.

    Raises:
        ValueError: it is not; `codec.WireError` is one.
    """
    if len(payload) > MESSAGE_LIMIT:
        raise ValueError(f"{len(payload)} bytes are more than {MESSAGE_LIMIT}")
    uplink = codec.decode(Uplink, payload)
    kind = topics.UP[field_of(uplink)]
    if not topic.endswith("/" + kind.path):
        raise ValueError(f"a message for {kind.path} on another topic")
    return uplink
