"""The link over one gRPC stream on the gateway: for places without a broker.

Importing this file imports grpc (15 MiB), so it is done only when a session is wanted.
"""

from __future__ import annotations

import logging
import queue
import threading
import time
from collections.abc import Callable, Iterator
from typing import Any, Final

import grpc

from agent.transport.link import Kept, LinkDown, LinkEvent, LinkUp, Pacer, Passed, field_of
from agent.transport.papers import Papers, explain
from fitment.core.link import Downlink, Uplink
from fitment.core.telemetry import Presence
from fitment.v1 import gateway_pb2, gateway_pb2_grpc
from fitment.wire import codec

log = logging.getLogger(__name__)

_OPTIONS: Final = (
    ("grpc.enable_http_proxy", 0),  # a proxy cannot pass mutual TLS on
    ("grpc.keepalive_time_ms", 30_000),
    ("grpc.keepalive_timeout_ms", 10_000),
    ("grpc.max_receive_message_length", 4 << 20),
)
_GOODBYE_S: Final = 1.0
_QUEUE_LIMIT: Final = 256
"""Messages that wait for a slow line; beyond it telemetry is dropped, the outbox has it."""

MakeCredentials = Callable[[], Any]
"""Channel credentials, read anew for each connection: the certificate may have been renewed."""


class _Stream:
    """What one call sends: an iterator over a queue that a sentinel ends."""

    def __init__(self, first: Uplink, came_up: Callable[[], None], passed: Passed) -> None:
        self.up = False
        self._passed = passed
        self._first = first
        self._came_up = came_up
        self._queue: queue.Queue[Uplink | None] = queue.Queue()

    def put(self, uplink: Uplink) -> None:
        if uplink.telemetry is None or self._queue.qsize() < _QUEUE_LIMIT:
            self._queue.put(uplink)

    def close(self) -> None:
        self._queue.put(None)

    def requests(self) -> Iterator[Any]:
        yield self._request(self._first)
        # gRPC asks for the second message when the first has left: then the connection stands.
        # (Its own future for that leaves a thread behind that complains of a closed channel.)
        self.up = True
        self._came_up()
        while (uplink := self._queue.get()) is not None:
            yield self._request(uplink)

    def _request(self, uplink: Uplink) -> Any:
        request: Any = gateway_pb2.SessionRequest()
        request.uplink.CopyFrom(codec.to_message(uplink))
        self._passed.add(request.ByteSize())
        return request


class SessionLink:
    """One device's stream, opened again whenever it ends."""

    def __init__(
        self, address: str, credentials: MakeCredentials, *, boot_id: str,
        papers: Papers | None = None, jitter_s: float = 1.0, retry_base_s: float = 1.0,
    ) -> None:  # fmt: skip
        """``papers`` are looked at when nobody lets us in, to say why."""
        self.events: queue.Queue[LinkEvent] = queue.Queue()
        self.jitter_s = jitter_s
        self.passed = Passed()
        self._address = address
        self._credentials = credentials
        self._boot_id = boot_id
        self._papers = papers
        self._kept = Kept()
        self._pacer = Pacer(base_s=retry_base_s)
        self._thread: threading.Thread | None = None
        self._lock = threading.Lock()
        self._stream: _Stream | None = None
        self._call: Any = None
        self._failing = False

    def start(self) -> None:
        self._thread = threading.Thread(target=self._run, name="session-link", daemon=True)
        self._thread.start()

    def send(self, uplink: Uplink) -> None:
        field_of(uplink)
        with self._lock:
            self._kept.put(uplink)
            if self._stream is not None:
                self._stream.put(uplink)

    def stop(self) -> None:
        self._pacer.stop()
        with self._lock:
            if self._stream is not None:
                self._stream.put(self._presence(online=False))
                self._stream.close()
        if self._thread is not None:
            self._thread.join(_GOODBYE_S)
            with self._lock:
                if self._call is not None:
                    self._call.cancel()
            self._thread.join()
            self._thread = None

    def describe(self) -> str:
        return f"gRPC session at {self._address}"

    def _run(self) -> None:
        while not self._pacer.stopped:
            begun_s = time.monotonic()
            stream = _Stream(self._presence(online=True), self._came_up, self.passed)
            try:
                with self._channel() as channel:
                    why = self._serve(channel, stream)
            except (OSError, ValueError) as error:
                why = str(error)  # a key file is missing or none
            if not self._pacer.stopped:
                self._down(why, was_up=stream.up)
                self._pacer.connected(time.monotonic() - begun_s if stream.up else 0.0)
                self._pacer.wait(self.jitter_s)

    def _channel(self) -> Any:
        return grpc.secure_channel(self._address, self._credentials(), options=_OPTIONS)

    def _serve(self, channel: Any, stream: _Stream) -> str:
        """Until the stream ends; says why it did."""
        with self._lock:
            kept = self._kept.get()
            if kept is not None:
                stream.put(kept)
            stub = gateway_pb2_grpc.GatewayStub(channel)  # type: ignore[no-untyped-call]
            call = stub.Session(stream.requests())
            self._stream, self._call = stream, call
        if self._pacer.stopped:
            stream.close()
        try:
            for response in call:
                self._receive(response)
        except grpc.RpcError as error:
            return _reason(error)
        finally:
            with self._lock:
                self._stream = self._call = None
            stream.close()
            call.cancel()
        return "the controller ended the session"

    def _came_up(self) -> None:
        self._failing = False
        log.info("action=link_up link=%s", self.describe())
        self.events.put(LinkUp())

    def _receive(self, response: Any) -> None:
        self.passed.add(response.ByteSize())
        try:
            downlink = codec.from_message(Downlink, response.downlink)
        except codec.WireError as error:
            log.warning("action=message_dropped reason=%s", error)
            return
        self.events.put(downlink)

    def _down(self, why: str, *, was_up: bool) -> None:
        if not self._failing:  # one line when it begins, one when it is over
            why = explain(why, self._papers, self._address) if self._papers is not None else why
            log.warning("action=link_down link=%s reason=%s", self.describe(), why)
        if was_up or not self._failing:
            self.events.put(LinkDown(reason=why))
        self._failing = True

    def _presence(self, *, online: bool) -> Uplink:
        return Uplink(presence=Presence(online=online, boot_id=self._boot_id))


def _reason(error: Any) -> str:
    return f"{error.code().name.lower()}: {error.details() or 'no details'}"


def tls_credentials(ca: bytes, certificate: bytes, key: bytes) -> Any:
    """Credentials of a device: its CA, its certificate, its key, all PEM."""
    return grpc.ssl_channel_credentials(
        root_certificates=ca, private_key=key, certificate_chain=certificate
    )
