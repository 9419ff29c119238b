"""``fitment-agent serve``: a serving worker for one slot, beside the supervisor or without one.

The worker follows the slot's link by itself, so the two need not know each other: what the
supervisor switches to is what answers next. Job and result go through pipes, so that a disk that is
full or has become read-only keeps no model from answering.
"""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from dataclasses import dataclass, replace
from pathlib import Path
from typing import IO, Final

from agent import durable, runner
from agent.config import Settings
from agent.desk import Folders
from agent.domain.plan import safe_name
from agent.errors import SlotError, WorkerError
from agent.jobs import PIPES, Limits, ServeJob, ServeResult, Setting, WorkerFailure
from agent.slots import Slots
from fitment.core import plain

_LOOK_S: Final = 0.05
_RUNTIME_FOLDER: Final = "RUNTIME_DIRECTORY"
"""Set by systemd to folders below /run that the unit asked for."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Place:
    """Where a slot's model answers."""

    slot: str
    socket: str  # frames, as described in agent/workers/README.md
    open_inference: str  # address for a gRPC client
    port: int | None  # of 127.0.0.1, where it was asked for


class Served:
    """A worker that was started."""

    def __init__(
        self, process: subprocess.Popen[bytes], answer: IO[bytes], place: Place
    ) -> None:  # fmt: skip
        self.place = place
        self._process = process
        self._answer = answer

    def wait_until_ready(self) -> None:
        """Until the model is loaded and checked.

        Raises:
            WorkerError: it cannot be.
        """
        while not Path(self.place.socket).exists():
            if self._process.poll() is not None:
                self.wait()
            time.sleep(_LOOK_S)

    def end(self) -> None:
        """Ask it to answer what it has and to end; `wait` returns when it did."""
        self._process.send_signal(signal.SIGTERM)

    def wait(self) -> ServeResult:
        """What was served, when it has ended.

        Raises:
            WorkerError: it failed, or died.
        """
        with self._answer:
            data = self._answer.read()  # until it ends; the kernel closes its side
        code = self._process.wait()
        try:
            value = json.loads(data)
        except ValueError as error:
            raise WorkerError(f"the serving worker died ({code}): start it again") from error
        if "code" in value and "message" in value:
            raise WorkerError(plain.from_plain(WorkerFailure, value).message)
        return plain.from_plain(ServeResult, value)


def start(folders: Folders, settings: Settings, slot: str) -> Served:
    """Start the worker; its messages go to standard error.

    Raises:
        SlotError: there is no such slot, nothing was committed in it, or no socket can be made.
    """
    slots = Slots(folders.slots)
    if not safe_name(slot) or not slots.active(slot):
        there = ", ".join(name for name in slots.names() if slots.active(name)) or "none"
        raise SlotError(f"slot '{slot}' holds no model; slots that do: {there}")
    sockets = _sockets(folders, settings)
    socket, grpc_socket = sockets / f"{slot}.sock", sockets / f"{slot}.grpc"
    for left in (socket, grpc_socket):  # by a worker that was killed
        durable.remove(left)
    job = ServeJob(
        result="", folder=str(slots.link(slot)), socket=str(socket), name=slot,
        follow=True, setting=Setting(options=settings.options, root=settings.hardware.root),
        serving=replace(settings.serving, grpc_socket=str(grpc_socket)),
        limits=Limits(memory_bytes=settings.memory_bytes),
    )  # fmt: skip
    place = Place(
        slot=slot, socket=str(socket), open_inference=f"unix:{grpc_socket}",
        port=settings.serving.port,
    )  # fmt: skip
    process, answer = _run(job, threads=settings.options.threads)
    return Served(process, answer, place)


def _sockets(folders: Folders, settings: Settings) -> Path:
    """The folder for sockets. On a disk that takes none, what systemd made for us in memory.

    Raises:
        SlotError: no socket can be made.
    """
    place = (settings.sockets or folders.serving).absolute()
    try:
        durable.make_folder(place, mode=0o750)
    except OSError as error:
        why = error.strerror or str(error)
    else:
        if os.access(place, os.W_OK):
            return place
        why = "it may not be written to, or its disk is read-only"
    spare = os.environ.get(_RUNTIME_FOLDER, "").partition(":")[0]
    if not settings.sockets and spare and os.access(spare, os.W_OK):
        return Path(spare)
    raise SlotError(
        f"no socket can be made in {place} ({why}): set [serving] sockets to a folder in memory,"
        " such as /run/fitment"
    )


def _run(job: ServeJob, *, threads: int) -> tuple[subprocess.Popen[bytes], IO[bytes]]:
    """The worker, and where its answer will come."""
    job_in, job_out = os.pipe()
    answer_in, answer_out = os.pipe()
    with os.fdopen(job_out, "wb") as file:  # a pipe takes 64 KiB before anybody reads
        job = replace(job, result=str(PIPES / str(answer_out)))
        file.write(json.dumps(plain.to_plain(job)).encode())
    process = subprocess.Popen(
        [sys.executable, "-m", "agent.workers.serve", str(PIPES / str(job_in))],
        stdin=subprocess.DEVNULL, cwd=runner.PACKAGE_PARENT, pass_fds=(job_in, answer_out),
        env=runner.environment(threads), start_new_session=True,
    )  # fmt: skip
    for ours in (job_in, answer_out):
        os.close(ours)
    return process, os.fdopen(answer_in, "rb")


def render(place: Place) -> str:
    """For people."""
    also = "" if place.port is None else f" and 127.0.0.1:{place.port}"
    return (
        f"Slot {place.slot} answers by the Open Inference Protocol at {place.open_inference}{also},"
        f" and in frames at {place.socket}."
    )
