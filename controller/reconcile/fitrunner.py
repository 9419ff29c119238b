"""Runs fit jobs in worker processes, one at a time, in folders that survive a restart.

A job's folder holds what the worker needs and leaves; the worker dies with the controller, and
starting the same folder again goes on after the last finished rung (its results are in the
cache that all jobs share). Nothing of this module imports torch: it speaks through files.
"""

from __future__ import annotations

import subprocess
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Protocol

from controller.catalog import process
from controller.errors import FitError, UserError
from fitment.core.deployment import BundleRef

FIT_WORKER = "controller.compress.worker"
PROBE_WORKER = "controller.compress.probe_worker"


@dataclass(frozen=True, slots=True, kw_only=True)
class FitProgress:
    """How far a job is; ``result`` is a plain `controller.compress.fit.FitResult`."""

    step: str = ""
    fraction: float = 0.0
    done: bool = False
    error: str = ""
    result: Mapping[str, Any] = field(default_factory=dict)


@dataclass(frozen=True, slots=True, kw_only=True)
class BuiltProbe:
    """A probe bundle that devices can fetch; the result of the probe worker."""

    ref: BundleRef
    archive: str  # path


class FitRunner(Protocol):
    """What the loop asks of the fit side."""

    def start(self, job: str, request: Mapping[str, Any]) -> None:
        """Queue a job; starting one again changes nothing."""
        ...

    def known(self, job: str) -> bool:
        """Whether the job was started here; a restarted controller has started none."""
        ...

    def poll(self, job: str) -> FitProgress:
        """Look at one job that was started."""
        ...

    def probe_bundle(self, runtime: str) -> BuiltProbe | None:
        """The probe bundle of a runtime; None while it is still made."""
        ...

    def cancel(self, job: str) -> None:
        """End one job that nobody wants any more; of one that is not known or done, nothing."""
        ...

    def stop(self) -> None:
        """End what runs; it goes on at the last rung next time."""
        ...


class WorkerFitRunner:
    """Worker processes below one folder; at most one fit runs, the others wait their turn."""

    def __init__(self, folder: Path, *, threads: int = 2) -> None:
        self._folder = folder
        self._threads = threads
        self._running: dict[str, subprocess.Popen[bytes]] = {}
        self._waiting: dict[str, Mapping[str, Any]] = {}

    def start(self, job: str, request: Mapping[str, Any]) -> None:
        if job in self._waiting or job in self._running or self._done(job):
            return
        defaults = {
            "out": str(self._folder / job / "out"),
            "cache": str(self._folder / "cache"),
            "threads": self._threads,
        }
        self._waiting[job] = {**defaults, **request}
        self._next()

    def poll(self, job: str) -> FitProgress:
        self._next()
        folder = self._folder / job
        worker = self._running.get(job)
        if job in self._waiting:
            return FitProgress(step="waiting for another fit")
        if worker is not None and worker.poll() is None:
            newest = process.progress(folder)
            return FitProgress(
                step=newest.step if newest else "starting",
                fraction=newest.fraction if newest else 0.0,
            )
        return self._outcome(job, folder)

    def _outcome(self, job: str, folder: Path) -> FitProgress:
        self._running.pop(job, None)
        try:
            result = process.outcome(folder, dict[str, Any])
        except (FitError, UserError) as error:
            return FitProgress(done=True, error=str(error))
        return FitProgress(step="done", fraction=1.0, done=True, result=result)

    def known(self, job: str) -> bool:
        return job in self._waiting or job in self._running or self._done(job)

    def probe_bundle(self, runtime: str) -> BuiltProbe | None:
        name = f"probe-{runtime}"
        folder = self._folder / name
        worker = self._running.get(name)
        if worker is None and not self._done(name):
            request = {"runtime": runtime, "out": str(folder / "out")}
            self._running[name] = process.start(PROBE_WORKER, folder, request, threads=1)
            return None
        if worker is not None and worker.poll() is None:
            return None
        self._running.pop(name, None)
        built: BuiltProbe = process.outcome(folder, BuiltProbe)
        return built

    def cancel(self, job: str) -> None:
        self._waiting.pop(job, None)
        worker = self._running.pop(job, None)
        if worker is not None:
            _kill(worker)
        self._next()

    def stop(self) -> None:
        for worker in self._running.values():
            _kill(worker)
        self._running.clear()

    def _done(self, job: str) -> bool:
        return (self._folder / job / process.RESULT).exists()

    def _next(self) -> None:
        fits = [w for name, w in self._running.items() if not name.startswith("probe-")]
        if self._waiting and all(worker.poll() is not None for worker in fits):
            job = next(iter(self._waiting))
            # It waits on where it cannot be started now, as on a full disk.
            self._running[job] = process.start(
                FIT_WORKER, self._folder / job, self._waiting[job], threads=self._threads
            )
            del self._waiting[job]


def _kill(worker: subprocess.Popen[bytes]) -> None:
    if worker.poll() is None:
        worker.kill()
        worker.wait()
