"""A TCP proxy in user space that does to a connection what bad networks do, at a chosen byte.

It stands before a real port and knows nothing of what passes, so TLS stays whole: an altered or
doubled byte is one that the network altered. Faults are on the way to the client only, on the
first connection that comes as far as their byte; later connections pass untouched.
"""

from __future__ import annotations

import contextlib
import enum
import socket
import struct
import threading
from dataclasses import dataclass
from types import TracebackType

_READ_BYTES = 4096


class Kind(enum.Enum):
    """What happens at the byte."""

    CUT = "cut"  # reset, as when a router forgets the connection
    TRUNCATE = "truncate"  # an orderly end, too early
    STALL = "stall"  # nothing more comes, and nobody says so
    CORRUPT = "corrupt"  # a bit is another
    DUPLICATE = "duplicate"  # some bytes come twice
    SLOW = "slow"  # the rest comes at ``rate``


@dataclass(frozen=True, kw_only=True)
class Fault:
    """One thing that goes wrong."""

    kind: Kind
    at: int  # bytes to the client before it
    rate: float = 0.0  # bytes a second


class ChaosProxy:
    """Use as a context manager; ``address`` is where clients connect."""

    def __init__(self, port: int, fault: Fault | None = None) -> None:
        self.fault = fault
        self.to_client = 0  # bytes, of all connections
        self.connections = 0
        self._port = port
        self._closed = threading.Event()
        self._sockets: list[socket.socket] = []
        self._threads: list[threading.Thread] = []
        self._listener = socket.create_server(("127.0.0.1", 0))
        self.address = f"127.0.0.1:{self._listener.getsockname()[1]}"

    def __enter__(self) -> ChaosProxy:  # noqa: PYI034 - Self is not in Python 3.10
        self._start(self._accept)
        return self

    def __exit__(
        self, _kind: type[BaseException] | None, _error: BaseException | None,
        _trace: TracebackType | None,
    ) -> None:  # fmt: skip
        self._closed.set()
        for open_socket in (self._listener, *self._sockets):
            with contextlib.suppress(OSError):
                open_socket.shutdown(socket.SHUT_RDWR)
            open_socket.close()
        for thread in self._threads:
            thread.join(10)

    def _start(self, run: object, *arguments: object) -> None:
        thread = threading.Thread(target=run, args=arguments, daemon=True)  # type: ignore[arg-type]
        self._threads.append(thread)
        thread.start()

    def _accept(self) -> None:
        while not self._closed.is_set():
            try:
                client, _ = self._listener.accept()
                server = socket.create_connection(("127.0.0.1", self._port))
            except OSError:
                return
            self.connections += 1
            self._sockets += [client, server]
            self._start(self._up, client, server)
            self._start(self._down, server, client)

    def _up(self, client: socket.socket, server: socket.socket) -> None:
        with contextlib.suppress(OSError):
            while data := client.recv(_READ_BYTES):
                server.sendall(data)
        with contextlib.suppress(OSError):
            server.shutdown(socket.SHUT_RDWR)

    def _down(self, server: socket.socket, client: socket.socket) -> None:
        passed = 0
        with contextlib.suppress(OSError):
            while data := server.recv(_READ_BYTES):
                fault = self.fault
                if fault is not None and passed + len(data) > fault.at:
                    cut = max(0, fault.at - passed)
                    self._send(client, data[:cut])
                    data = self._strike(fault, client, data[cut:])
                    passed += cut
                self._send(client, data)
                passed += len(data)
        with contextlib.suppress(OSError):
            client.shutdown(socket.SHUT_RDWR)

    def _strike(self, fault: Fault, client: socket.socket, rest: bytes) -> bytes:
        """Do it; what comes back passes.

        Raises:
            OSError: the connection is over.
        """
        if fault.kind is Kind.SLOW:
            self._closed.wait(len(rest) / fault.rate)
            return rest
        self.fault = None
        if fault.kind is Kind.CORRUPT:
            return bytes([rest[0] ^ 1]) + rest[1:]
        if fault.kind is Kind.DUPLICATE:
            return rest[:64] + rest
        if fault.kind is Kind.STALL:
            self._closed.wait()
        if fault.kind is Kind.CUT:
            linger = struct.pack("ii", 1, 0)  # a close that is a reset
            client.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, linger)
            client.shutdown(socket.SHUT_RD)  # or `_up`, which reads there, would keep it open
            client.close()
        raise OSError(fault.kind.value)

    def _send(self, client: socket.socket, data: bytes) -> None:
        client.sendall(data)
        self.to_client += len(data)
