"""Thousands of TLS connections on one thread: an epoll loop, its timers, and a client's socket.

A select() takes 1,024 sockets at most, asyncio's TLS some 290 KB a connection (measured); a plain
socket under OpenSSL takes what OpenSSL does.
"""

from __future__ import annotations

import heapq
import itertools
import selectors
import socket
import ssl
import time
from collections.abc import Callable
from pathlib import Path
from typing import Protocol

from controller.simulator import mqtt311
from controller.simulator.mqtt311 import Connack, Packet, Publish, Suback

_CHUNK = 16_384
_MOST_EVENTS = 512


class Loop:
    """Waits for sockets and moments; everything happens on the caller's thread."""

    def __init__(self) -> None:
        self._selector = selectors.EpollSelector()
        self._due: list[tuple[float, int, Callable[[], None]]] = []
        self._numbers = itertools.count()

    def now(self) -> float:
        """Monotonic seconds."""
        return time.monotonic()

    def at(self, when: float, act: Callable[[], None]) -> None:
        """Do something once, at a moment or soon after."""
        heapq.heappush(self._due, (when, next(self._numbers), act))

    def run(self, until: float) -> None:
        """Let happen what happens until a moment."""
        while (now := self.now()) < until:
            first = self._due[0][0] if self._due else until
            for key, mask in self._selector.select(max(0.0, min(first, until) - now)):
                key.data(mask)
            now = self.now()
            for _ in range(_MOST_EVENTS):
                if not self._due or self._due[0][0] > now:
                    break
                heapq.heappop(self._due)[2]()

    def watch(self, sock: socket.socket, ready: Callable[[int], None], *, writing: bool) -> None:
        """Have told when a socket can be read, and when it can be written where asked."""
        events = selectors.EVENT_READ | (selectors.EVENT_WRITE if writing else 0)
        if sock in self._selector.get_map():
            self._selector.modify(sock, events, ready)
        else:
            self._selector.register(sock, events, ready)

    def forget(self, sock: socket.socket) -> None:
        """Watch a socket no more."""
        if sock in self._selector.get_map():
            self._selector.unregister(sock)

    def close(self) -> None:
        """Let go of the kernel's part."""
        self._due.clear()
        self._selector.close()


class Tls:
    """One context for all devices: OpenSSL copies the certificate when a connection is made."""

    def __init__(self, ca: Path, host: str) -> None:
        self._context = ssl.create_default_context(cafile=str(ca))
        self._host = host

    def wrap(self, sock: socket.socket, papers: Path) -> ssl.SSLSocket:
        """A connection as the device whose certificate and key are in one file."""
        self._context.load_cert_chain(str(papers))
        return self._context.wrap_socket(
            sock, server_hostname=self._host, do_handshake_on_connect=False
        )


class Owner(Protocol):
    """Whom a connection tells what happens."""

    def on_up(self) -> None:
        """The subscription stands."""
        ...

    def on_packet(self, packet: Packet) -> None:
        """A message came, or was taken."""
        ...

    def on_end(self, reason: str) -> None:
        """It is over, and closed."""
        ...


class Connection:
    """One MQTT client over one TLS socket, from the first byte to the last."""

    def __init__(
        self, loop: Loop, tls: Tls, address: tuple[str, int], papers: Path, owner: Owner
    ) -> None:
        self.sent_at = loop.now()
        self.up = False
        self._loop = loop
        self._tls = tls
        self._papers = papers
        self._owner = owner
        self._reader = mqtt311.Reader()
        self._out = bytearray()
        self._hello = b""
        self._filter = ""
        self._secured = False
        self._ended = False
        self._waits_to_write = False
        self._sock = socket.socket(socket.AF_INET6 if ":" in address[0] else socket.AF_INET)
        self._sock.settimeout(0.0)
        self._sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        self._sock.connect_ex(address)

    def open(self, hello: bytes, topic_filter: str) -> None:
        """Begin: connect, shake hands, say hello, subscribe."""
        self._hello, self._filter = hello, topic_filter
        self._loop.watch(self._sock, self._connected, writing=True)

    def send(self, data: bytes) -> None:
        """Send, or keep until the socket takes it."""
        self.sent_at = self._loop.now()
        self._out += data
        self._flush()

    def close(self, *, goodbye: bytes = b"") -> None:
        """End it without telling the owner; what still fits leaves."""
        if goodbye and self.up:
            self.send(goodbye)  # which may find that it is over already
        if self._ended:
            return
        self._ended, self.up = True, False
        self._loop.forget(self._sock)
        self._sock.close()

    def _fail(self, reason: str) -> None:
        if not self._ended:
            self.close()
            self._owner.on_end(reason)

    def _connected(self, _mask: int) -> None:
        code = self._sock.getsockopt(socket.SOL_SOCKET, socket.SO_ERROR)
        if code:
            self._fail(f"connect: error {code}")
            return
        self._loop.forget(self._sock)
        try:
            self._sock = self._tls.wrap(self._sock, self._papers)
        except OSError as error:
            self._fail(str(error))
            return
        self._ready(0)

    def _ready(self, _mask: int) -> None:
        try:
            if not self._secured:
                self._shake_hands()
            if self._secured:
                self._receive()
        except OSError as error:  # of TLS, too
            self._fail(str(error) or type(error).__name__)
        except mqtt311.ProtocolError as error:
            self._fail(str(error))

    def _shake_hands(self) -> None:
        assert isinstance(self._sock, ssl.SSLSocket)
        try:
            self._sock.do_handshake()
        except ssl.SSLWantReadError:
            self._loop.watch(self._sock, self._ready, writing=False)
        except ssl.SSLWantWriteError:
            self._loop.watch(self._sock, self._ready, writing=True)
        else:
            self._secured = True
            self._loop.watch(self._sock, self._ready, writing=False)
            self.send(self._hello)

    def _receive(self) -> None:
        if self._out:
            self._flush()
        while not self._ended:
            try:
                data = self._sock.recv(_CHUNK)
            except (ssl.SSLWantReadError, BlockingIOError):
                return
            if not data:
                self._fail("the broker closed the connection")
                return
            for packet in self._reader.feed(data):
                self._take(packet)

    def _take(self, packet: Packet) -> None:
        if self._ended:
            return
        match packet:
            case Connack(code=0):
                self.send(mqtt311.subscribe(1, self._filter))
            case Connack(code=code):
                self._fail(f"the broker refused: {code}")
            case Suback():
                self.up = True
                self._owner.on_up()
            case Publish(packet_id=number) if number:
                self.send(mqtt311.puback(number))
                self._owner.on_packet(packet)
            case _:
                self._owner.on_packet(packet)

    def _flush(self) -> None:
        if not self._secured or self._ended:
            return
        full = False
        try:
            while self._out:
                del self._out[: self._sock.send(self._out)]
        except (ssl.SSLWantWriteError, BlockingIOError):
            full = True
        except ssl.SSLWantReadError:
            return
        except OSError as error:
            self._fail(str(error) or type(error).__name__)
            return
        if full != self._waits_to_write:
            self._waits_to_write = full
            self._loop.watch(self._sock, self._ready, writing=full)
