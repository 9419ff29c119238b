"""The small agent's other link: MQTT 3.1.1, with what `small_agent` wrote at its enrolment."""

from __future__ import annotations

import queue
import threading
from collections.abc import Callable
from pathlib import Path
from typing import Any

import paho.mqtt.client as paho

from fitment.core.link import Downlink, Uplink
from fitment.wire import codec, topics


def connect(
    folder: Path, papers: dict[str, str], outgoing: queue.Queue[Uplink | None],
    heard: Callable[[Downlink], None],
) -> None:  # fmt: skip
    """One connection, until it ends: send what is in ``outgoing``, hand on what comes."""
    for name in ("ca", "certificate", "key"):
        (folder / f"{name}.pem").write_text(papers[name])
    device = papers["device"]
    client = paho.Client(
        paho.CallbackAPIVersion.VERSION2, client_id=device, protocol=paho.MQTTv311,
        reconnect_on_failure=False,
    )  # fmt: skip
    client.tls_set(*(str(folder / f"{name}.pem") for name in ("ca", "certificate", "key")))

    def send() -> None:
        while (uplink := outgoing.get()) is not None:
            fields = ("presence", "reported", "telemetry")
            kind = topics.UP[next(f for f in fields if getattr(uplink, f) is not None)]
            topic = topics.topic(device, kind)
            client.publish(topic, codec.encode(uplink), qos=kind.qos, retain=kind.retain)

    def receive(_client: Any, _data: Any, message: paho.MQTTMessage) -> None:
        try:
            heard(codec.decode(Downlink, message.payload))
        except codec.WireError:
            return

    client.on_connect = lambda *_: client.subscribe(topics.down_filter(device), qos=1)
    client.on_subscribe = lambda *_: threading.Thread(target=send, daemon=True).start()
    client.on_message = receive
    host, _, port = papers["mqtt"].rpartition(":")
    client.connect(host, int(port))
    client.loop_forever()
