"""What every worker has in common: limits, one job in, one result out.

``python -m agent.workers.<name> JOB.json``. The result is written whole or not at all
(temporary file, fsync, rename, fsync of the folder), so that a supervisor that lost power reads
either the answer or nothing.
"""

from __future__ import annotations

import ctypes
import json
import os
import resource
import signal
import sys
import traceback
from collections.abc import Callable
from pathlib import Path
from typing import Any

from agent import durable
from agent.jobs import JOBS, PARENT_VARIABLE, PIPES, Limits, WorkerFailure
from agent.workers import memory_use
from fitment.core import digest, plain

EXIT_OK = 0
EXIT_FAILED = 1
EXIT_USAGE = 2

_PR_SET_PDEATHSIG = 1  # from linux/prctl.h
_THREAD_VARIABLES = ("OMP_NUM_THREADS", "OPENBLAS_NUM_THREADS", "MKL_NUM_THREADS")


class JobError(Exception):
    """A job cannot be done, for a reason that is known.

    ``permanent``: trying again cannot help. ``retry_after_s`` is set by a busy server.
    """

    def __init__(
        self,
        code: str,
        message: str,
        *,
        permanent: bool = False,
        retry_after_s: float | None = None,
    ) -> None:
        super().__init__(message)
        self.code = code
        self.message = message
        self.permanent = permanent
        self.retry_after_s = retry_after_s

    def failure(self) -> WorkerFailure:
        """The same, as it is written to the result's path."""
        return WorkerFailure(
            code=self.code,
            message=self.message,
            permanent=self.permanent,
            retry_after_s=self.retry_after_s,
        )


def run(name: str, handle: Callable[[Any], Any]) -> int:
    """Read the job named on the command line, do it, write its result.

    Returns:
        The exit status: 0 with a result, 1 with a `WorkerFailure` in its place, 2 when there is
        no readable job and so no place for an answer.
    """
    die_with_parent(int(os.environ.pop(PARENT_VARIABLE, os.getppid())))
    if name != "serve":  # applications wait for that one
        memory_use.go_first()
    job = _read_job(name)
    if job is None:
        return EXIT_USAGE
    answer = _answer(job, handle)
    write_result(Path(job.result), answer)
    return EXIT_FAILED if isinstance(answer, WorkerFailure) else EXIT_OK


def _read_job(name: str) -> Any:
    if len(sys.argv) != 2:
        sys.stderr.write(f"usage: python -m agent.workers.{name} JOB.json\n")
        return None
    path = Path(sys.argv[1])
    try:
        return plain.from_plain(JOBS[name][0], json.loads(path.read_bytes()))
    except (OSError, ValueError) as error:
        sys.stderr.write(f"{path} holds no readable job of the kind '{name}': {error}\n")
        return None


def _answer(job: Any, handle: Callable[[Any], Any]) -> Any:
    """The job's result, or the failure to write in its place. Nothing escapes but signals."""
    try:
        limit_memory(job.limits)
        set_thread_variables(_threads(job))
        return handle(job)
    except JobError as error:
        return error.failure()
    except MemoryError:
        # The traceback may not fit any more; what the job was is known to the supervisor.
        return WorkerFailure(
            code="out_of_memory", message=f"{type(job).__name__} needs more memory than it may use"
        )
    except Exception as error:  # noqa: BLE001 - the outermost frame of a worker
        sys.stderr.write(traceback.format_exc())
        if is_out_of_memory(error):
            return WorkerFailure(code="out_of_memory", message=str(error))
        return WorkerFailure(code="crashed", message=f"{type(error).__name__}: {error}")


def is_out_of_memory(error: BaseException) -> bool:
    """Whether a runtime's own exception says that an allocation failed."""
    text = str(error).lower()
    return "bad_alloc" in text or "failed to allocate memory" in text


def _threads(job: Any) -> int:
    setting = getattr(job, "setting", None)
    return setting.options.threads if setting is not None else 1


def set_thread_variables(threads: int) -> None:
    """Ask numeric libraries for ``threads``; has no effect on those that are loaded already."""
    for variable in _THREAD_VARIABLES:
        os.environ.setdefault(variable, str(threads))


def limit_memory(limits: Limits) -> None:
    """Set RLIMIT_DATA (heap and private anonymous memory), never above the hard limit."""
    if limits.memory_bytes is None:
        return
    _, hard = resource.getrlimit(resource.RLIMIT_DATA)
    wished = limits.memory_bytes
    if hard != resource.RLIM_INFINITY:
        wished = min(wished, hard)
    resource.setrlimit(resource.RLIMIT_DATA, (wished, hard))


def die_with_parent(parent: int) -> None:
    """Ask the kernel for SIGKILL when process ``parent`` ends; Linux only, elsewhere nothing.

    A parent that ended before the request leaves us with another one: then we end at once.
    """
    if not sys.platform.startswith("linux"):
        return
    # The C library is loaded already; looking for it by name would start processes of its own.
    ctypes.CDLL(None).prctl(_PR_SET_PDEATHSIG, signal.SIGKILL, 0, 0, 0)
    if os.getppid() != parent:
        os.kill(os.getpid(), signal.SIGKILL)


def write_result(path: Path, value: Any) -> None:
    """Write canonical JSON of ``value`` so that it survives a power loss, whole or not at all.

    A pipe just takes it: who reads it is there now, or never.
    """
    if path.parent == PIPES:
        with path.open("wb") as pipe:
            pipe.write(digest.canonical(value))
        return
    durable.make_folder(path.parent)
    durable.write(path, digest.canonical(value))
