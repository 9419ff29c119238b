"""Frames over a Unix socket without waiting: for a loop that has other work.

The frames are those of the serving socket, without tensors.
"""

from __future__ import annotations

import json
import os
import socket
import struct
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any, Final

from agent import durable

_LENGTH: Final = struct.Struct(">I")
_MOST_BYTES: Final = 64 * 1024
_AT_ONCE: Final = 64 * 1024
FRAMES_AT_ONCE: Final = 4
"""Of one connection, before all others and the loop have their turn; a frame may cost a write."""


class Broken(Exception):
    """The other side broke the framing: nothing after it can be understood."""


class Peer:
    """One connection."""

    def __init__(self, connection: socket.socket) -> None:
        connection.settimeout(0.0)
        self._connection = connection
        self._came = b""
        self._ended = False

    def headers(self) -> Iterator[Mapping[str, Any]]:
        """What has come whole so far, a few at a time: the rest waits for the next look.

        Raises:
            Broken: it is no frame.
            ConnectionError: the other side is gone.
        """
        if (
            len(self._came) < _LENGTH.size + _MOST_BYTES
        ):  # one that sends more than is answered is held back
            self._ended = not self._receive()
        for _ in range(FRAMES_AT_ONCE):
            header = self._next()
            if header is None:
                break
            yield _parsed(header)
        else:
            return
        if self._ended:
            raise ConnectionResetError("closed by the other side")

    def send(self, header: Mapping[str, Any]) -> None:
        """Send an answer; one that does not take it is closed.

        Raises:
            ConnectionError: it does not take it.
        """
        text = json.dumps({**header, "tensors": []}).encode()
        try:
            sent = self._connection.send(_LENGTH.pack(len(text)) + text)
        except BlockingIOError:
            sent = 0
        except OSError as error:
            raise ConnectionResetError(str(error)) from error
        if sent < _LENGTH.size + len(text):
            raise ConnectionResetError("it does not read its answers")

    def close(self) -> None:
        """Close the connection."""
        self._connection.close()

    def _next(self) -> bytes | None:
        """The next header, when it is there whole."""
        if len(self._came) < _LENGTH.size:
            return None
        (length,) = _LENGTH.unpack_from(self._came)
        if length > _MOST_BYTES:
            raise Broken(f"a header of {length} bytes, at most {_MOST_BYTES} are read")
        end = _LENGTH.size + length
        if len(self._came) < end:
            return None
        header, self._came = self._came[_LENGTH.size : end], self._came[end:]
        return header

    def _receive(self) -> bool:
        """Whether the other side is still there."""
        try:
            data = self._connection.recv(_AT_ONCE)
        except BlockingIOError:
            return True
        except OSError:
            return False
        self._came += data
        return bool(data)


def listener(path: Path) -> socket.socket:
    """A socket at ``path`` for the group, which does not wait; it appears when it is ready.

    Raises:
        OSError: it cannot be; the kernel takes 107 bytes of a path.
    """
    temporary = path.with_name(f".{path.name}.new")
    durable.remove(temporary)
    made = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
    try:
        made.bind(os.fspath(temporary))
        temporary.chmod(0o660)
        made.listen()
        made.settimeout(0.0)
        durable.replace(temporary, path)
    except OSError:
        made.close()
        raise
    return made


def _parsed(header: bytes) -> Mapping[str, Any]:
    try:
        value = json.loads(header)
    except ValueError as error:
        raise Broken(f"no frame header: {error}") from error
    except RecursionError as error:
        raise Broken("no frame header: it is nested too deeply") from error
    if not isinstance(value, dict) or value.get("tensors"):
        raise Broken("a header is a JSON object; this socket takes no tensors")
    return value
