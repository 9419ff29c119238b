"""Serve: keep one model loaded, answer on a Unix socket, swap models without closing it.

Requests of all connections take turns at the model: one stream, as it was measured. The wire is
described in the charter of this room, so that C, Kotlin and Swift can speak it.
"""

from __future__ import annotations

import collections
import os
import signal
import socketserver
import threading
import time
from collections.abc import Callable, Mapping
from pathlib import Path
from types import FrameType
from typing import Any

from agent import durable
from agent.jobs import RuntimeOptions, ServeJob, ServeResult
from agent.workers import child, frames, goldens, installed, io_check, statistics
from agent.workers.child import JobError
from agent.workers.frames import Frame
from agent.workers.goldens import Answer
from agent.workers.installed import Loaded
from agent.workers.runtimes.base import Array

_REMEMBERED = 1024  # latencies, for the statistics
_SOCKET_PATH_MAX = 100  # bytes; the kernel takes 107
_POLL_S = 0.1  # until a signal is noticed

Reply = tuple[Mapping[str, Any], list[Array]]


class Service:
    """The loaded model and what its requests cost; every method may be called by any thread."""

    def __init__(self, folder: str, overlay: str, options: RuntimeOptions) -> None:
        """Load and check.

        Raises:
            JobError: the bundle cannot be loaded, or ``golden_failed``.
        """
        self._options = options
        self._lock = threading.Lock()  # over the session and the counters
        self._latencies_ns: collections.deque[int] = collections.deque(maxlen=_REMEMBERED)
        self.requests = 0
        self.errors = 0
        self.swaps = 0
        self._loaded = self._load(folder, overlay)
        self._ops: Mapping[str, Callable[[Frame], Reply]] = {
            "infer": self._infer,
            "io": self._io,
            "check": self._check,
            "stats": self._stats,
            "swap": self._swap,
        }

    @property
    def loaded(self) -> Loaded:
        """What answers now."""
        return self._loaded

    def answer(self, frame: Frame) -> Reply:
        """Do what a frame asks; a failure becomes an answer, so that the connection lives on."""
        operation = self._ops.get(str(frame.header.get("op")), self._unknown)
        try:
            header, tensors = operation(frame)
        except JobError as error:
            with self._lock:
                self.errors += 1
            return {"ok": False, "code": error.code, "message": error.message}, []
        return {"ok": True, "variant": self._loaded.bundle.variant, **header}, tensors

    def _unknown(self, frame: Frame) -> Reply:
        known = ", ".join(self._ops)
        raise JobError("op_unknown", f"no operation {frame.header.get('op')!r}; there are {known}")

    def _infer(self, frame: Frame) -> Reply:
        with self._lock:
            started = time.perf_counter_ns()
            io_check.require(frame.header.get("expects"), self._loaded)  # a swap may have come
            session = self._loaded.session
            if len(frame.tensors) != len(session.inputs):
                raise JobError(
                    "input_mismatch",
                    f"{len(frame.tensors)} tensors, the model takes {len(session.inputs)}",
                )
            outputs: list[Array] = [*session.run(frame.tensors)]
            self._latencies_ns.append(time.perf_counter_ns() - started)
            self.requests += 1
            latency_ms = self._latencies_ns[-1] / 1e6
            variant = self._loaded.bundle.variant  # a swap may come before the answer is sent
        return {"latency_ms": latency_ms, "variant": variant}, outputs

    def _io(self, frame: Frame) -> Reply:
        with self._lock:
            loaded = self._loaded
        io_check.require(frame.header.get("expects"), loaded)
        return {"io": io_check.describe(loaded), "variant": loaded.bundle.variant}, []

    def _check(self, frame: Frame) -> Reply:
        del frame
        with self._lock:
            answer = self._answer_goldens(self._loaded)
        return {
            "golden_ok": answer.golden_ok,
            "worst_error": answer.worst_error,
            "reason": answer.reason,
        }, []

    def _stats(self, frame: Frame) -> Reply:
        del frame
        with self._lock:
            latencies, loaded = sorted(self._latencies_ns), self._loaded
            header: dict[str, Any] = {
                "name": loaded.bundle.manifest.name,
                "overlay": loaded.overlay,
                "runtime": loaded.runtime,
                "requests": self.requests,
                "errors": self.errors,
                "swaps": self.swaps,
                "latency": None,
            }
        if latencies:
            found = statistics.summarise(latencies)
            header["latency"] = {
                "count": found.count,
                "p50_ms": found.p50_ms,
                "p95_ms": found.p95_ms,
                "max_ms": latencies[-1] / 1e6,
            }
        return header, []

    def _swap(self, frame: Frame) -> Reply:
        """Load beside the running model, check, then switch: a bad bundle changes nothing."""
        folder, overlay = frame.header.get("folder"), frame.header.get("overlay", "")
        if not isinstance(folder, str) or not isinstance(overlay, str):
            raise JobError("invalid", "swap needs 'folder', and 'overlay' as a path or empty")
        loaded = self._load(folder, overlay)
        with self._lock:
            before, self._loaded = self._loaded, loaded
            self._latencies_ns.clear()
            self.swaps += 1
        before.session.close()
        return {"overlay": loaded.overlay}, []

    def _load(self, folder: str, overlay: str) -> Loaded:
        loaded = installed.load(installed.read(folder), self._options, overlay=overlay)
        answer = self._answer_goldens(loaded)
        if not answer.golden_ok:
            raise JobError("golden_failed", f"{folder} answers wrong: {answer.reason}")
        return loaded

    def _answer_goldens(self, loaded: Loaded) -> Answer:
        known = installed.goldens(loaded.bundle)
        return goldens.evaluate_pristine(loaded, known, self._options)


class _Handler(socketserver.StreamRequestHandler):
    """One connection."""

    server: Server

    def handle(self) -> None:
        """Answer frames until the other side closes or breaks the framing."""
        try:
            while (frame := frames.read(self.rfile)) is not None:
                frames.write(self.wfile, *self.server.service.answer(frame))
        except frames.FrameError as error:
            frames.write(self.wfile, {"ok": False, "code": "frame", "message": str(error)})
        except ConnectionError:
            return  # an application that went away is no error of ours


class Server(socketserver.ThreadingMixIn, socketserver.UnixStreamServer):
    """The socket, bound under another name and renamed when it accepts connections."""

    daemon_threads = True
    block_on_close = False  # an idle application must not hold up our end

    def __init__(self, path: Path, service: Service) -> None:
        if len(os.fsencode(path)) > _SOCKET_PATH_MAX:
            raise JobError(
                "socket_path",
                f"the socket's path {path} is longer than {_SOCKET_PATH_MAX} bytes: "
                "choose a shorter data directory",
                permanent=True,
            )
        self.service = service
        self._path = path
        temporary = path.with_name(path.name + ".new")
        durable.remove(temporary)
        super().__init__(str(temporary), _Handler)
        temporary.chmod(0o660)  # applications share a group with the agent
        durable.replace(temporary, path)

    def server_close(self) -> None:
        """Stop listening and take the name away."""
        super().server_close()
        durable.remove(self._path)


def handle(job: ServeJob) -> ServeResult:
    """Serve until SIGTERM or SIGINT."""
    stopping = threading.Event()

    def stop(_signal: int, _frame: FrameType | None) -> None:
        stopping.set()

    signal.signal(signal.SIGTERM, stop)
    signal.signal(signal.SIGINT, stop)
    service = Service(job.folder, job.overlay, job.setting.options)
    with Server(Path(job.socket), service) as server:
        thread = threading.Thread(target=server.serve_forever, args=(_POLL_S,), daemon=True)
        thread.start()
        stopping.wait()
        server.shutdown()
        thread.join()
    return ServeResult(
        variant=service.loaded.bundle.variant,
        overlay=service.loaded.overlay,
        requests=service.requests,
        errors=service.errors,
        swaps=service.swaps,
    )


if __name__ == "__main__":
    raise SystemExit(child.run("serve", handle))
