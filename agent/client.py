"""A small client for applications: the standard library alone, so it may be copied beside them.

Two ways to a slot's model:

- `Slot` asks the slot's server (``fitment-agent serve``) for answers;
- `Lease` is for an application that loads the model file itself: it is told which bundle serves,
  says which it has loaded and how that goes. No variant is committed that it does not acknowledge.

The wire is in ``agent/APPLICATIONS.md``, for C, Kotlin and Swift.
"""

from __future__ import annotations

import contextlib
import json
import os
import socket
import struct
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

_LENGTH = struct.Struct(">I")
_MOST_HEADER_BYTES = 64 * 1024
_FORMATS = {
    "float32": "f", "float16": "e", "int8": "b", "uint8": "B", "int16": "h", "uint16": "H",
    "int32": "i", "int64": "q", "bool": "?",
}  # fmt: skip
_DTYPES = {**{code: name for name, code in _FORMATS.items()}, "l": "int64"}
_RETRY_S = 1.0  # at the earliest, after the agent was found away


class ClientError(Exception):
    """The other side refuses; ``code`` says what, the message what to do."""

    def __init__(self, code: str, message: str) -> None:
        super().__init__(message)
        self.code = code


class AwayError(ConnectionError):
    """Nobody answers at the socket: go on with what is loaded, and ask again later."""


@dataclass(frozen=True)
class Tensor:
    """A tensor as it travels: little endian, C order."""

    dtype: str  # numpy's name, "float32"
    shape: tuple[int, ...]
    data: bytes

    @classmethod
    def of(cls, values: Any) -> Tensor:
        """From a tensor, or from whatever has a buffer: a numpy array, an ``array.array``.

        Raises:
            ValueError: its elements are of a type that does not travel.
        """
        if isinstance(values, Tensor):
            return values
        view = memoryview(values)
        dtype = _DTYPES.get(view.format.lstrip("<=@"))
        if dtype is None:
            raise ValueError(f"elements of format {view.format!r} do not travel: {list(_FORMATS)}")
        return cls(dtype, tuple(view.shape or ()), view.tobytes())

    def values(self) -> list[Any]:
        """All elements, in C order."""
        count = len(self.data) // struct.calcsize(f"<{_FORMATS[self.dtype]}")
        return list(struct.unpack(f"<{count}{_FORMATS[self.dtype]}", self.data))


class _Connection:
    """Frames to a socket and back."""

    def __init__(self, path: Path, timeout_s: float) -> None:
        self._path = path
        self._socket = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
        self._socket.settimeout(timeout_s)
        try:
            self._socket.connect(os.fspath(path))
        except OSError as error:
            self._socket.close()
            raise AwayError(f"nobody answers at {path}: {error}") from error
        self._stream = self._socket.makefile("rb")

    def ask(
        self, header: Mapping[str, Any], tensors: Sequence[Tensor] = ()
    ) -> tuple[dict[str, Any], list[Tensor]]:
        described = [{"dtype": one.dtype, "shape": list(one.shape)} for one in tensors]
        text = json.dumps({**header, "tensors": described}).encode()
        try:
            self._socket.sendall(_LENGTH.pack(len(text)) + text)
            for one in tensors:
                self._socket.sendall(one.data)
            answer = json.loads(self._read(self._length()))
            found = [self._tensor(item) for item in answer.get("tensors", ())]
        except OSError as error:
            raise AwayError(f"{self._path} does not answer: {error}") from error
        if not answer.get("ok"):
            raise ClientError(str(answer.get("code", "")), str(answer.get("message", "")))
        return answer, found

    def say(self, header: Mapping[str, Any]) -> None:
        """Without waiting for an answer; to one that is gone there is nothing to say."""
        text = json.dumps({**header, "tensors": []}).encode()
        with contextlib.suppress(OSError):
            self._socket.sendall(_LENGTH.pack(len(text)) + text)

    def close(self) -> None:
        self._stream.close()
        self._socket.close()

    def _length(self) -> int:
        (length,) = _LENGTH.unpack(self._read(_LENGTH.size))
        if length > _MOST_HEADER_BYTES:
            raise AwayError(f"{self._path} speaks another language: a header of {length} bytes")
        return int(length)

    def _tensor(self, item: Mapping[str, Any]) -> Tensor:
        dtype, shape = str(item["dtype"]), tuple(int(size) for size in item["shape"])
        size = struct.calcsize(f"<{_FORMATS[dtype]}")
        for length in shape:
            size *= length
        return Tensor(dtype, shape, self._read(size))

    def _read(self, count: int) -> bytes:
        data = self._stream.read(count)
        if len(data) < count:
            raise ConnectionResetError("it closed the connection")
        return bytes(data)


class Slot:
    """A slot's server. For one thread; a broken connection is opened again by the next request."""

    def __init__(
        self, path: Path | str, *, expects: Mapping[str, Any] | None = None, timeout_s: float = 30.0
    ) -> None:
        self._path, self._timeout_s = Path(path), timeout_s
        self._expects = dict(expects) if expects is not None else None
        self._connection: _Connection | None = None
        self.variant = ""  # digest of what answered last

    @classmethod
    def open(
        cls, path: Path | str, *, expects: Mapping[str, Any] | None = None, timeout_s: float = 30.0
    ) -> Slot:
        """Connect to ``SLOT.sock``, and hold the model against what is expected.

        Args:
            path: of the socket.
            expects: any part of what `io` gives; it is sent with every request, so that it holds
                across a change of the model as well.
            timeout_s: for each answer.

        Raises:
            AwayError: nobody answers there.
            ClientError: ``io_mismatch``; the model is not what is expected.
        """
        slot = cls(path, expects=expects, timeout_s=timeout_s)
        slot.io()
        return slot

    def io(self) -> dict[str, Any]:
        """What the model takes and answers: inputs, outputs, layout, labels, decision and so on."""
        return dict(self._ask("io")[0]["io"])

    def infer(self, *inputs: Any) -> list[Tensor]:
        """The model's outputs, as float32.

        Args:
            inputs: one an input, in the model's order: a `Tensor`, or anything with a buffer.

        Raises:
            AwayError: the server is away.
            ClientError: it refuses: ``io_mismatch``, ``input_mismatch``, ``busy``, ``run_failed``.
        """
        return self._ask("infer", [Tensor.of(one) for one in inputs])[1]

    def stats(self) -> dict[str, Any]:
        """What the server says of itself."""
        return self._ask("stats")[0]

    def shadow(self, folder: Path | str, overlay: Path | str = "") -> str:
        """Let a bundle see what is served, unheard; an empty folder ends it. Its digest."""
        answer, _ = self._ask("shadow", folder=str(folder), overlay=str(overlay))
        return str(answer["shadow"])

    def close(self) -> None:
        """Close the connection."""
        if self._connection is not None:
            self._connection.close()
        self._connection = None

    def _ask(
        self, operation: str, tensors: Sequence[Tensor] = (), **more: str
    ) -> tuple[dict[str, Any], list[Tensor]]:
        header: dict[str, Any] = {"op": operation, **more}
        if self._expects is not None:
            header["expects"] = self._expects
        if self._connection is None:
            self._connection = _Connection(self._path, self._timeout_s)
        try:
            answer, found = self._connection.ask(header, tensors)
        except AwayError:
            self.close()
            raise
        self.variant = str(answer.get("variant", ""))
        return answer, found


def register(
    application: str, slot: str, socket_path: Path | str, *,
    expects: Mapping[str, Any] | None = None, timeout_s: float = 10.0,
) -> Lease:  # fmt: skip
    """A lease on a slot's bundle, for an application that loads the model file itself.

    Args:
        application: a name of its own for each process, ``[A-Za-z0-9_-]``.
        slot: whose model.
        socket_path: ``applications`` in the agent's folder of sockets.
        expects: any part of ``io`` of the bundle's manifest; a variant that does not fit is neither
            given nor committed.
        timeout_s: for each answer; the agent takes up to half a second.

    Raises:
        AwayError: no agent answers there.
        ClientError: ``io_mismatch``, ``slot_empty``, ``taken``.
    """
    lease = Lease(application, slot, Path(socket_path), expects, timeout_s)
    lease.open()
    return lease


class Lease:
    """What an application was given, and what it says it has loaded. For one thread.

    Call `renew` now and then, more often than every `lease_s` seconds; when it gives True, load
    what is in `folder` and call `loaded`. Until then the agent waits with the commit, and the
    folder with what is loaded stays as it is. An application that ends, or stays silent for
    `lease_s`, has no lease any more; where it was given what is on trial and did not `release`, it
    must come back in time, or the variant is not committed.
    """

    def __init__(
        self, application: str, slot: str, path: Path, expects: Mapping[str, Any] | None,
        timeout_s: float,
    ) -> None:  # fmt: skip
        self._wish = {"application": application, "slot": slot, "expects": expects}
        self._path, self._timeout_s = path, timeout_s
        self._connection: _Connection | None = None
        self._not_before_s = 0.0
        self._acknowledged = ("", "")  # folder, variant
        self.folder = ""  # of the bundle that it was given
        self.variant = ""  # its digest
        self.overlay = ""  # what calibration changed in it; empty: nothing
        self.lease_s = 0.0

    def open(self) -> None:
        """Register, or once more after the agent was away.

        Raises:
            AwayError: no agent answers.
            ClientError: it refuses.
        """
        self._connection = _Connection(self._path, self._timeout_s)
        try:
            self._take(self._ask("register", **self._wish))
        except ClientError:
            self._close()
            raise
        if (self.folder, self.variant) == self._acknowledged:
            self._ask("loaded", variant=self.variant)

    def renew(self) -> bool:
        """Whether there is another bundle to load than the acknowledged one.

        An agent that is away has nothing to say; the next call looks for it again.

        Raises:
            ClientError: it gives no lease any more; the message says why.
        """
        try:
            if self._connection is not None:
                self._take(self._ask("lease"))
            elif time.monotonic() >= self._not_before_s:
                self._not_before_s = time.monotonic() + _RETRY_S
                self.open()
        except AwayError:
            pass
        return (self.folder, self.variant) != self._acknowledged

    def loaded(self, variant: str) -> None:
        """Acknowledge that this digest answers in the application now.

        Raises:
            AwayError: the agent is away; `renew` tells it again.
            ClientError: ``not_given``; the slot leads elsewhere by now: `renew`, and load that.
        """
        self._ask("loaded", variant=variant)
        self._acknowledged = (self.folder, variant)

    def report(self, latencies_ms: Sequence[float], errors: int = 0) -> None:
        """What happened since the last report: times of answered requests, and failed ones.

        Raises:
            AwayError: the agent is away; what was reported is lost.
            ClientError: ``invalid``.
        """
        self._ask("report", latencies_ms=list(latencies_ms), errors=errors)

    def release(self) -> None:
        """Give the lease back. Who ends without it during a trial counts as failed by it."""
        if self._connection is not None:
            self._connection.say({"op": "release"})
        self._close()

    def _close(self) -> None:
        if self._connection is not None:
            self._connection.close()
        self._connection = None

    def _take(self, answer: Mapping[str, Any]) -> None:
        self.folder, self.variant = str(answer["folder"]), str(answer["variant"])
        self.overlay, self.lease_s = str(answer["overlay"]), float(answer["lease_s"])

    def _ask(self, operation: str, **more: Any) -> dict[str, Any]:
        if self._connection is None:
            raise AwayError(f"the agent at {self._path} is away: renew the lease first")
        try:
            return self._connection.ask({"op": operation, **more})[0]
        except AwayError:
            self._close()
            raise
