"""Starts workers and waits for them without waiting.

A worker is a process of its own, in a session of its own: it may crash, hang or be killed for
memory without taking the supervisor along, and when its deadline passes all of its session is
killed. Its result is a file, so a worker that died has none.
"""

from __future__ import annotations

import contextlib
import json
import os
import signal
import subprocess
import sys
from collections.abc import Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, Final, Protocol

import agent
from agent import durable
from agent.jobs import JOBS, PARENT_VARIABLE, WorkerFailure
from fitment.core import plain

_TAIL_BYTES: Final = 2048
PACKAGE_PARENT: Final = Path(agent.__file__).resolve().parent.parent
"""Working folder of workers: ``python -m`` searches it first, and there is only ours in it."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Finished:
    """How a job ended: exactly one of the two is set."""

    result: Any = None  # of the type that `agent.jobs.JOBS` names
    failure: WorkerFailure | None = None
    timed_out: bool = False  # it was killed at its deadline; ``failure`` says so


class Running(Protocol):
    """A job that was started."""

    def poll(self, now_s: float) -> Finished | None:
        """Its end, or None while it runs. Returns at once."""
        ...

    def kill(self) -> None:
        """End it and forget it; safe after its end."""
        ...


class Runner(Protocol):
    """Starts jobs."""

    def start(self, worker: str, job: Any, *, deadline_s: float, threads: int = 1) -> Running:
        """Start ``agent.workers.<worker>``; ``job.result`` is chosen by the runner.

        ``deadline_s`` is a moment of the clock that `Running.poll` is given.
        """
        ...


class ProcessRunner:
    """Workers as child processes, with their files in one folder."""

    def __init__(self, folder: Path, *, python: str = sys.executable) -> None:
        self._folder = folder
        self._python = python
        self._count = 0

    def start(self, worker: str, job: Any, *, deadline_s: float, threads: int = 1) -> Running:
        durable.make_folder(self._folder, mode=0o700)
        self._count += 1
        stem = self._folder / f"{os.getpid()}-{self._count}-{worker}"
        files = _Files(
            job=stem.with_suffix(".json"),
            result=stem.with_suffix(".result.json"),
            errors=stem.with_suffix(".stderr"),
        )
        text = json.dumps(plain.to_plain(replace(job, result=str(files.result))))
        try:
            durable.write_scratch(files.job, text.encode())
            with files.errors.open("wb") as errors:
                process = subprocess.Popen(
                    [self._python, "-m", f"agent.workers.{worker}", str(files.job)],
                    stdin=subprocess.DEVNULL, stdout=errors, stderr=errors,
                    env=environment(threads), cwd=PACKAGE_PARENT, start_new_session=True,
                )  # fmt: skip
        except OSError as error:  # a full disk, mostly
            files.remove()
            raise OSError(error.errno, error.strerror, str(files.job)) from error
        return _Process(process, worker, files, deadline_s=deadline_s)

    def sweep(self) -> None:
        """Remove files that a killed supervisor left."""
        for path in self._folder.glob("*-*-*.*"):
            durable.remove(path)


@dataclass(frozen=True, slots=True, kw_only=True)
class _Files:
    """Of one worker's run."""

    job: Path
    result: Path
    errors: Path

    def remove(self) -> None:
        for path in (self.job, self.result, self.errors):
            durable.remove_written(path)  # with what a killed worker left half done


class _Process:
    def __init__(
        self, process: subprocess.Popen[bytes], worker: str, files: _Files, *, deadline_s: float
    ) -> None:
        self._process = process
        self._worker = worker
        self._files = files
        self._deadline_s = deadline_s

    def poll(self, now_s: float) -> Finished | None:
        if self._process.poll() is None:
            if now_s < self._deadline_s:
                return None
            self.kill()
            message = f"{self._worker} was still running at its deadline and was killed"
            failure = WorkerFailure(code="deadline", message=message)
            return Finished(failure=failure, timed_out=True)
        finished = self._read()
        self._files.remove()
        return finished

    def kill(self) -> None:
        with contextlib.suppress(ProcessLookupError, PermissionError):
            os.killpg(self._process.pid, signal.SIGKILL)
        self._process.wait()
        self._files.remove()

    def _read(self) -> Finished:
        try:
            value = json.loads(self._files.result.read_bytes())
            # What the file says counts, not the exit status: no result has a code and a message.
            if "code" in value and "message" in value:
                return Finished(failure=plain.from_plain(WorkerFailure, value))
            return Finished(result=plain.from_plain(JOBS[self._worker][1], value))
        except (OSError, ValueError) as error:
            why = self._last_words() or str(error)
            return Finished(
                failure=WorkerFailure(
                    code="died", message=f"{self._worker} {self._how()} without a result: {why}"
                )
            )

    def _how(self) -> str:
        code = self._process.returncode
        if code >= 0:
            return f"ended with {code}"
        name = signal.Signals(-code).name if -code in {s.value for s in signal.Signals} else -code
        return f"was killed by {name}"

    def _last_words(self) -> str:
        """The end of what it wrote; the last line of a traceback says most."""
        try:
            with self._files.errors.open("rb") as file:
                file.seek(0, os.SEEK_END)
                file.seek(max(0, file.tell() - _TAIL_BYTES))
                text = file.read().decode("utf-8", "replace")
        except OSError:
            return ""
        return " | ".join(line.strip() for line in text.splitlines()[-3:] if line.strip())


def environment(threads: int) -> Mapping[str, str]:
    """Thread variables must be set before a library is imported, hence here."""
    parent = {PARENT_VARIABLE: str(os.getpid())}
    count = str(threads)
    names = ("OMP_NUM_THREADS", "OPENBLAS_NUM_THREADS", "MKL_NUM_THREADS", "NUMEXPR_NUM_THREADS")
    return {**os.environ, **dict.fromkeys(names, count), **parent}
