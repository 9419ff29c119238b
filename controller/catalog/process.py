"""Workers of the controller: ``python -m MODULE FOLDER`` or ``… FOLDER/job.json``.

A job is a folder. ``job.json`` says what to do; the worker holds ``lock`` while it works,
writes ``progress.json`` now and then, and ends with ``result.json`` or ``error.json``, each
written whole and renamed. It dies with its parent. Starting the same folder again goes on.
"""

from __future__ import annotations

import contextlib
import ctypes
import fcntl
import json
import os
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from controller import errors
from controller.catalog.foreign import translated
from fitment.core import plain

JOB, PROGRESS, RESULT, ERROR, LOCK = (
    "job.json",
    "progress.json",
    "result.json",
    "error.json",
    "lock",
)
_PARENT = "FITMENT_PARENT_PID"
_PR_SET_PDEATHSIG = 1
_LEAST_BYTES = 64 * 1024  # free; a job's small files need a few blocks

Progress = Callable[[str, float], None]
Handler = Callable[[Any, Path, Progress], object]


@dataclass(frozen=True, slots=True, kw_only=True)
class JobError:
    """``error.json``: the code and message of what ended the job."""

    code: str
    message: str


@dataclass(frozen=True, slots=True, kw_only=True)
class JobProgress:
    """``progress.json``."""

    step: str
    fraction: float  # 0..1


def serve(argv: list[str], handler: Handler) -> int:
    """The whole of a worker's ``main``: run ``handler(job, folder, progress)`` once.

    Returns the exit status: 0 with a result, 1 with an error, 3 when another worker has the job.
    """
    die_with_parent()
    # Idle threads sleep instead of spinning. Spinning is a fifth faster on a quiet machine, and
    # three times slower (measured) when the cores are shared, as a controller's are.
    os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")
    given = Path(argv[1])
    folder = given if given.is_dir() else given.parent
    with _locked(folder / LOCK) as held:
        if not held:
            return 3
        for stale in (RESULT, ERROR):
            (folder / stale).unlink(missing_ok=True)
        try:
            job = json.loads((folder / JOB).read_text())
            with translated(errors.FitError, "the worker failed"):
                result = handler(job, folder, _reporter(folder))
        except errors.FitmentError as error:
            write_json(folder / ERROR, JobError(code=error.code, message=str(error)))
            return 1
        write_json(folder / RESULT, result)
    return 0


def die_with_parent() -> None:
    """Ask the kernel to kill this process when its parent ends (Linux; elsewhere a no-op).

    The signal follows the *thread* that started us, so start workers from a thread that lasts.
    """
    expected = os.environ.pop(_PARENT, "")
    if not sys.platform.startswith("linux"):
        return
    ctypes.CDLL(None).prctl(_PR_SET_PDEATHSIG, signal.SIGKILL)
    if expected and os.getppid() != int(expected):
        sys.exit(4)  # the parent ended before the kernel knew


def start(module: str, folder: Path, job: object, *, threads: int = 1) -> subprocess.Popen[bytes]:
    """Write the job and start its worker; thread variables are set before its imports."""
    folder.mkdir(parents=True, exist_ok=True)
    write_json(folder / JOB, job)
    for stale in (RESULT, ERROR, PROGRESS):
        (folder / stale).unlink(missing_ok=True)
    count = str(max(1, threads))
    environment = {
        **os.environ,
        _PARENT: str(os.getpid()),
        "OMP_NUM_THREADS": count,
        "OPENBLAS_NUM_THREADS": count,
        "MKL_NUM_THREADS": count,
    }
    with (folder / "worker.log").open("ab") as log:
        return subprocess.Popen(
            [sys.executable, "-m", module, str(folder / JOB)],
            stdin=subprocess.DEVNULL,
            stdout=log,
            stderr=log,
            env=environment,
        )


def outcome(folder: Path, kind: type[Any]) -> Any:
    """The result in ``folder`` as a ``kind``.

    Raises:
        WorkloadError, FitError: what the worker ended with, or that it left nothing.
    """
    try:
        return plain.from_plain(kind, json.loads((folder / RESULT).read_text()))
    except FileNotFoundError:
        pass
    try:
        failure = plain.from_plain(JobError, json.loads((folder / ERROR).read_text()))
    except FileNotFoundError:
        if shutil.disk_usage(folder).free < _LEAST_BYTES:
            # Then it could not say so itself: its words would have to lie on the same disk.
            raise errors.FitError(
                f"the worker died without a result: the disk of {folder} is full; make room there"
                " and start it again"
            ) from None
        raise errors.FitError(
            f"the worker died without a result; its last words: {_last_words(folder)}"
        ) from None
    known = {e.code: e for e in (errors.WorkloadError, errors.FitError, errors.NotFound)}
    raise known.get(failure.code, errors.FitError)(failure.message)


def progress(folder: Path) -> JobProgress | None:
    """The newest progress, or None before there is any."""
    try:
        return plain.from_plain(JobProgress, json.loads((folder / PROGRESS).read_text()))
    except FileNotFoundError:
        return None


def run(
    module: str, folder: Path, job: object, kind: type[Any], *, report: Progress, threads: int = 1
) -> Any:
    """Start a worker, pass its progress on, and give its result.

    Raises:
        WorkloadError, FitError: see `outcome`. The worker is ended when this is interrupted.
    """
    worker = start(module, folder, job, threads=threads)
    shown: JobProgress | None = None
    try:
        while worker.poll() is None:
            time.sleep(0.05)
            newest = progress(folder)
            if newest is not None and newest != shown:
                shown = newest
                report(newest.step, newest.fraction)
    finally:
        if worker.poll() is None:
            worker.kill()
            worker.wait()
    return outcome(folder, kind)


def write_json(path: Path, value: object) -> None:
    """Write whole, sync, rename: a reader sees the old or the new file, never half of one."""
    temporary = path.with_name(f".{path.name}.{os.getpid()}")
    try:
        with temporary.open("w", encoding="utf-8") as stream:
            json.dump(plain.to_plain(value), stream, allow_nan=False)
            stream.flush()
            os.fsync(stream.fileno())
        temporary.replace(path)
    except OSError as error:  # a full disk does not say which file it was
        temporary.unlink(missing_ok=True)
        raise OSError(error.errno, error.strerror, str(path)) from error


def _reporter(folder: Path) -> Progress:
    def report(step: str, fraction: float) -> None:
        write_json(folder / PROGRESS, JobProgress(step=step, fraction=round(float(fraction), 4)))

    return report


@contextlib.contextmanager
def _locked(path: Path) -> Iterator[bool]:
    with path.open("a") as stream:
        try:
            fcntl.flock(stream, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            yield False
            return
        yield True


def _last_words(folder: Path) -> str:
    try:
        lines = (folder / "worker.log").read_text(errors="replace").strip().splitlines()
    except FileNotFoundError:
        return "none"
    return " / ".join(lines[-3:]) or "none (it was killed, perhaps for memory)"
