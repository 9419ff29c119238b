"""Serve: keep one model loaded, answer on a Unix socket, swap models without closing it.

Requests of all connections share one stream to the model, as it was measured. Two wires lead to
it: frames, described in the charter of this room so that C, Kotlin and Swift can speak them, and
where it is asked for the Open Inference Protocol.
"""

from __future__ import annotations

import contextlib
import os
import signal
import socketserver
import sys
import threading
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from types import FrameType
from typing import Any, Final

import numpy as np

from agent import durable
from agent.jobs import ServeJob, ServeResult, ServingOptions
from agent.workers import child, frames, io_check
from agent.workers.child import JobError
from agent.workers.frames import Frame
from agent.workers.runtimes.base import Array, Tensor
from agent.workers.serving import follow
from agent.workers.serving.service import Service

_SOCKET_PATH_MAX = 100  # bytes; the kernel takes 107
_POLL_S = 0.1  # until a signal is noticed
_STACK_BYTES = 1024 * 1024  # of a thread that handles a request; the limit on memory counts it
_SWITCH_S = 0.0005  # the model's thread must not wait 5 ms for a handler to let go of Python

Reply = tuple[Mapping[str, Any], list[Array]]
_OURS: Final = frozenset({"swap", "shadow"})
"""What no caller asked for: a candidate that does not load is no request that failed."""


class Framed:
    """What the frames of the socket ask of the service."""

    def __init__(self, service: Service) -> None:
        self._service = service
        self._ops: Mapping[str, Callable[[Frame], Reply]] = {
            "infer": self._infer,
            "io": self._io,
            "check": self._check,
            "stats": self._stats,
            "swap": self._swap,
            "shadow": self._shadow,
        }

    def answer(self, frame: Frame) -> Reply:
        """Do what a frame asks; a failure becomes an answer, so that the connection lives on."""
        name = str(frame.header.get("op"))
        operation = self._ops.get(name, self._unknown)
        try:
            header, tensors = operation(frame)
        except JobError as error:
            if name not in _OURS:
                self._service.failed(error.code)
            return {"ok": False, "code": error.code, "message": error.message}, []
        return {"ok": True, "variant": self._service.loaded.bundle.variant, **header}, tensors

    def _unknown(self, frame: Frame) -> Reply:
        known = ", ".join(self._ops)
        raise JobError("op_unknown", f"no operation {frame.header.get('op')!r}; there are {known}")

    def _infer(self, frame: Frame) -> Reply:
        with self._service.bound() as served:
            io_check.require(frame.header.get("expects"), served.loaded)  # a swap may have come
            if len(frame.tensors) != len(served.inputs):
                raise JobError(
                    "input_mismatch",
                    f"{len(frame.tensors)} tensors, the model takes {len(served.inputs)}",
                )
            pairs = zip(served.inputs, frame.tensors, strict=True)
            done, outputs = self._service.infer(served, [_real(t, values) for t, values in pairs])
            header = {"latency_ms": done.run_ns / 1e6, "variant": served.loaded.bundle.variant}
        return header, [np.asarray(values, dtype=np.float32) for values in outputs]

    def _io(self, frame: Frame) -> Reply:
        with self._service.bound() as served:
            io_check.require(frame.header.get("expects"), served.loaded)
            variant = served.loaded.bundle.variant
            return {"io": io_check.describe(served.loaded), "variant": variant}, []

    def _check(self, frame: Frame) -> Reply:
        del frame
        answer = self._service.check()
        return {
            "golden_ok": answer.golden_ok,
            "worst_error": answer.worst_error,
            "reason": answer.reason,
        }, []

    def _stats(self, frame: Frame) -> Reply:
        del frame
        service = self._service
        with service.bound() as served:
            return {
                "name": served.loaded.bundle.manifest.name,
                "overlay": served.loaded.overlay,
                "runtime": served.loaded.runtime,
                "rung": served.rung,
                "requests": service.requests,
                "errors": service.errors,
                "swaps": service.swaps,
                "refused": service.refused,
                "latency": served.meter.latency(),
                "serving": service.report(),
            }, []

    def _swap(self, frame: Frame) -> Reply:
        served = self._service.swap(*_bundle_of(frame))
        return {"overlay": served.loaded.overlay, "variant": served.loaded.bundle.variant}, []

    def _shadow(self, frame: Frame) -> Reply:
        candidate = self._service.shadow(*_bundle_of(frame))
        return {"shadow": candidate.loaded.bundle.variant if candidate is not None else ""}, []


def _real(tensor: Tensor, values: Array) -> Array:
    """Frames carry real values, so integers for a quantized input are no stored ones."""
    return values if tensor.scale is None else np.asarray(values, dtype=np.float32)


def _bundle_of(frame: Frame) -> tuple[str, str]:
    folder, overlay = frame.header.get("folder"), frame.header.get("overlay", "")
    if not isinstance(folder, str) or not isinstance(overlay, str):
        what = frame.header.get("op")
        raise JobError("invalid", f"{what} needs 'folder', and 'overlay' as a path or empty")
    return folder, overlay


class _Handler(socketserver.StreamRequestHandler):
    """One connection."""

    server: Server

    def handle(self) -> None:
        """Answer frames until the other side closes or breaks the framing."""
        try:
            while (frame := frames.read(self.rfile)) is not None:
                frames.write(self.wfile, *self.server.framed.answer(frame))
        except frames.FrameError as error:
            frames.write(self.wfile, {"ok": False, "code": "frame", "message": str(error)})
        except ConnectionError:
            return  # an application that went away is no error of ours


class Server(socketserver.ThreadingMixIn, socketserver.UnixStreamServer):
    """The socket, bound under another name and renamed when it accepts connections."""

    daemon_threads = True
    block_on_close = False  # an idle application must not hold up our end

    def __init__(self, path: Path, service: Service) -> None:
        check_path(path)
        self.framed = Framed(service)
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


def check_path(path: Path) -> None:
    """Refuse a path that the kernel would.

    Raises:
        JobError: ``socket_path``.
    """
    if len(os.fsencode(path)) > _SOCKET_PATH_MAX:
        raise JobError(
            "socket_path",
            f"the socket's path {path} is longer than {_SOCKET_PATH_MAX} bytes: "
            "choose a shorter data directory",
            permanent=True,
        )


def handle(job: ServeJob) -> ServeResult:
    """Serve until SIGTERM or SIGINT."""
    stopping = threading.Event()

    def stop(_signal: int, _frame: FrameType | None) -> None:
        stopping.set()

    signal.signal(signal.SIGTERM, stop)
    signal.signal(signal.SIGINT, stop)
    sys.setswitchinterval(_SWITCH_S)
    service, at, failed = _open(job)
    threading.stack_size(_STACK_BYTES)  # from here on; the model's own thread has started
    with contextlib.ExitStack() as stack:
        stack.callback(service.close)
        if job.serving.grpc_socket:
            stack.callback(_open_inference(service, job.serving).close)
        stack.enter_context(_framed(Path(job.socket), service))
        if job.follow:
            follow.until(stopping, service, job.folder, at, failed)
        stopping.wait()
    return ServeResult(
        variant=service.loaded.bundle.variant,
        overlay=service.loaded.overlay,
        requests=service.requests,
        errors=service.errors,
        swaps=service.swaps,
    )


def _open(job: ServeJob) -> tuple[Service, follow.Place, follow.Place | None]:
    """Load what is to serve; where that does not run, another rung of its slot.

    Returns:
        The service, what it loaded, and what could not be loaded.

    Raises:
        JobError: nothing can be loaded; it says why of the first.
    """
    wanted = follow.resolve(job.folder) if job.follow else follow.Place(job.folder, job.overlay)
    try:
        return _service(job, wanted), wanted, None
    except JobError as error:
        for place in follow.others(job.folder, wanted) if job.follow else ():
            with contextlib.suppress(JobError):
                service = _service(job, place)
                sys.stderr.write(
                    f"action=open code={error.code} reason={error.message} instead={place.folder}\n"
                )
                return service, place, wanted
        raise


def _service(job: ServeJob, at: follow.Place) -> Service:
    return Service(
        at.folder, at.overlay, job.setting.options, name=job.name, serving_options=job.serving
    )


def _open_inference(service: Service, options: ServingOptions) -> Any:
    """Loads gRPC for those who ask for it."""
    check_path(Path(options.grpc_socket))
    os.environ.setdefault("GRPC_VERBOSITY", "NONE")  # its log has lines for every stranger's slip
    from agent.workers.serving import open_inference

    return open_inference.Server(service, options)


@contextlib.contextmanager
def _framed(path: Path, service: Service) -> Iterator[None]:
    with Server(path, service) as server:
        thread = threading.Thread(target=server.serve_forever, args=(_POLL_S,), daemon=True)
        thread.start()
        try:
            yield
        finally:
            server.shutdown()
            thread.join()


if __name__ == "__main__":
    raise SystemExit(child.run("serve", handle))
