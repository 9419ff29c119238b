"""Runs fit jobs in worker processes, one at a time, in folders that survive a restart.

A job's folder holds what the worker needs and leaves; the worker dies with the controller, and
starting the same folder again goes on after the last finished rung. Nothing of this module
imports torch: it speaks to the worker through files.
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Protocol

from controller.errors import FitError
from fitment.core.deployment import BundleRef

_WORKER = "controller.compress.worker"
_PROBE_WORKER = "controller.compress.probe_worker"


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
    """A probe bundle that devices can fetch."""

    ref: BundleRef
    archive: Path


class FitRunner(Protocol):
    """What the loop asks of the fit side."""

    def start(self, job: str, request: Mapping[str, Any]) -> None: ...
    def poll(self, job: str) -> FitProgress: ...
    def probe_bundle(self, runtime: str) -> BuiltProbe | None: ...
    def stop(self) -> None: ...


class WorkerFitRunner:
    """Worker processes below one folder; at most one runs, the others wait their turn."""

    def __init__(self, folder: Path, *, threads: int = 2) -> None:
        self._folder = folder
        self._threads = threads
        self._running: dict[str, subprocess.Popen[bytes]] = {}
        self._waiting: list[str] = []

    def start(self, job: str, request: Mapping[str, Any]) -> None:
        """Queue a job; one whose folder has a result already costs nothing."""
        folder = self._folder / job
        folder.mkdir(parents=True, exist_ok=True)
        defaults = {
            "out": str(folder / "out"), "cache": str(self._folder / "cache"),
            "threads": self._threads,
        }  # fmt: skip
        _write(folder / "job.json", {**defaults, **request})
        if job not in self._waiting and job not in self._running:
            self._waiting.append(job)
        self._next()

    def poll(self, job: str) -> FitProgress:
        """Look at one job; a worker that died without a word is an error."""
        self._next()
        folder = self._folder / job
        if (folder / "result.json").exists():
            return FitProgress(step="done", fraction=1.0, done=True, result=_result(folder))
        if (folder / "error.json").exists():
            return FitProgress(done=True, error=_error(_read(folder / "error.json")))
        process = self._running.get(job)
        if process is not None and process.poll() is not None:
            return FitProgress(done=True, error=f"the worker died: {_tail(folder / 'worker.log')}")
        if process is None and job not in self._waiting:
            if not (folder / "job.json").exists():
                return FitProgress(done=True, error=f"the job's folder {folder} is gone")
            self._waiting.append(job)  # the controller was restarted: go on
            self._next()
        progress = _read(folder / "progress.json")
        return FitProgress(
            step=str(progress.get("step", "waiting")), fraction=float(progress.get("fraction", 0))
        )

    def probe_bundle(self, runtime: str) -> BuiltProbe | None:
        """The probe bundle of a runtime; None while a worker still makes it.

        Raises:
            FitError: it cannot be made.
        """
        folder = self._folder / f"probe-{runtime}"
        found = _read(folder / "result.json")
        if found:
            ref = BundleRef(**found["ref"])
            return BuiltProbe(ref=ref, archive=Path(found["archive"]))
        process = self._running.get(folder.name)
        if process is None:
            folder.mkdir(parents=True, exist_ok=True)
            _write(folder / "job.json", {"runtime": runtime, "out": str(folder / "out")})
            self._running[folder.name] = self._spawn(_PROBE_WORKER, folder)
        elif process.poll() is not None and not (folder / "result.json").exists():
            del self._running[folder.name]
            raise FitError(f"no probe for '{runtime}': {_tail(folder / 'worker.log')}")
        return None

    def stop(self) -> None:
        """Kill what runs; it goes on at the last rung next time."""
        for process in self._running.values():
            if process.poll() is None:
                process.kill()
                process.wait()
        self._running.clear()

    def _next(self) -> None:
        busy = any(
            process.poll() is None and not name.startswith("probe-")
            for name, process in self._running.items()
        )
        if busy or not self._waiting:
            return
        job = self._waiting.pop(0)
        folder = self._folder / job
        if not (folder / "result.json").exists():
            (folder / "error.json").unlink(missing_ok=True)
            self._running[job] = self._spawn(_WORKER, folder)

    def _spawn(self, module: str, folder: Path) -> subprocess.Popen[bytes]:
        threads = str(self._threads)
        names = ("OMP_NUM_THREADS", "OPENBLAS_NUM_THREADS", "MKL_NUM_THREADS")
        environment = {**os.environ, **dict.fromkeys(names, threads)}
        with (folder / "worker.log").open("ab") as log:
            return subprocess.Popen(
                [sys.executable, "-m", module, str(folder / "job.json")],
                stdin=subprocess.DEVNULL, stdout=log, stderr=log, env=environment,
            )  # fmt: skip


def _write(path: Path, value: Mapping[str, Any]) -> None:
    partial = path.with_suffix(".part")
    partial.write_text(json.dumps(value, sort_keys=True))
    partial.replace(path)


def _read(path: Path) -> dict[str, Any]:
    try:
        value: dict[str, Any] = json.loads(path.read_text())
    except (OSError, ValueError):
        return {}
    return value


def _result(folder: Path) -> Mapping[str, Any]:
    return _read(folder / "result.json")


def _error(document: Mapping[str, Any]) -> str:
    return str(document.get("message") or document.get("error") or document)


def _tail(path: Path) -> str:
    if not path.exists():
        return "it left no log"
    lines = path.read_text(errors="replace").strip().splitlines()
    return " / ".join(lines[-3:]) or "its log is empty"


