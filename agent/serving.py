"""``fitment-agent serve``: a serving worker for one slot, beside the supervisor or without one.

The worker follows the slot's link by itself, so the two need not know each other: what the
supervisor switches to is what answers next.
"""

from __future__ import annotations

import json
import signal
import subprocess
import sys
import time
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Final

from agent import durable, runner
from agent.config import Settings
from agent.desk import Folders
from agent.domain.plan import safe_name
from agent.errors import SlotError, WorkerError
from agent.jobs import Limits, ServeJob, ServeResult, Setting, WorkerFailure
from agent.slots import Slots
from fitment.core import plain

_LOOK_S: Final = 0.05


@dataclass(frozen=True, slots=True, kw_only=True)
class Place:
    """Where a slot's model answers."""

    slot: str
    socket: str  # frames, as described in agent/workers/README.md
    open_inference: str  # address for a gRPC client
    port: int | None  # of 127.0.0.1, where it was asked for


class Served:
    """A worker that was started."""

    def __init__(self, process: subprocess.Popen[bytes], job: ServeJob, place: Place) -> None:
        self.place = place
        self._process = process
        self._job = job

    def wait_until_ready(self) -> None:
        """Until the model is loaded and checked.

        Raises:
            WorkerError: it cannot be.
        """
        while not Path(self._job.socket).exists():
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
        code = self._process.wait()
        path = Path(self._job.result)
        try:
            value = json.loads(path.read_bytes())
        except (OSError, ValueError) as error:
            raise WorkerError(f"the serving worker died ({code}): start it again") from error
        durable.remove(path)
        if "code" in value and "message" in value:
            raise WorkerError(plain.from_plain(WorkerFailure, value).message)
        return plain.from_plain(ServeResult, value)


def start(folders: Folders, settings: Settings, slot: str) -> Served:
    """Start the worker; its messages go to standard error.

    Raises:
        SlotError: there is no such slot, or nothing was committed in it.
    """
    slots = Slots(folders.slots)
    if not safe_name(slot) or not slots.active(slot):
        there = ", ".join(name for name in slots.names() if slots.active(name)) or "none"
        raise SlotError(f"slot '{slot}' holds no model; slots that do: {there}")
    sockets = (settings.sockets or folders.serving).absolute()
    for folder in (folders.serving, sockets):
        durable.make_folder(folder, mode=0o750)
    socket, grpc_socket = sockets / f"{slot}.sock", sockets / f"{slot}.grpc"
    result, job_file = folders.serving / f"{slot}.result", folders.serving / f"{slot}.json"
    for left in (socket, grpc_socket, result):  # by a worker that was killed
        durable.remove(left)
    job = ServeJob(
        result=str(result), folder=str(slots.link(slot)), socket=str(socket), name=slot,
        follow=True, setting=Setting(options=settings.options, root=settings.hardware.root),
        serving=replace(settings.serving, grpc_socket=str(grpc_socket)),
        limits=Limits(memory_bytes=settings.memory_bytes),
    )  # fmt: skip
    durable.write_scratch(job_file, json.dumps(plain.to_plain(job)).encode())
    process = subprocess.Popen(
        [sys.executable, "-m", "agent.workers.serve", str(job_file)],
        stdin=subprocess.DEVNULL, cwd=runner.PACKAGE_PARENT,
        env=runner.environment(settings.options.threads), start_new_session=True,
    )  # fmt: skip
    place = Place(
        slot=slot, socket=str(socket), open_inference=f"unix:{grpc_socket}",
        port=settings.serving.port,
    )  # fmt: skip
    return Served(process, job, place)


def render(place: Place) -> str:
    """For people."""
    also = "" if place.port is None else f" and 127.0.0.1:{place.port}"
    return (
        f"Slot {place.slot} answers by the Open Inference Protocol at {place.open_inference}{also},"
        f" and in frames at {place.socket}."
    )
