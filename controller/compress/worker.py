"""The fit worker: ``python -m controller.compress.worker JOB.json``.

The job's folder holds ``job.json`` (a `FitRequest`), and while it runs ``lock`` and
``progress.json``; it ends with ``result.json`` (a `FitResult`) or ``error.json``. The worker
dies with its parent; starting the same folder again goes on after the last finished rung.
"""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path
from typing import Any

from controller.catalog import process
from controller.compress.fit import FitRequest, FitResult, fit
from fitment.core import plain

MODULE = "controller.compress.worker"


def handle(job: Any, _folder: Path, progress: process.Progress) -> FitResult:
    """Run one fit."""
    return fit(plain.from_plain(FitRequest, job), progress)


def start(folder: Path, request: FitRequest) -> subprocess.Popen[bytes]:
    """Start a fit and return at once; see `controller.catalog.process` for how it reports."""
    return process.start(MODULE, folder, request, threads=request.threads)


def result(folder: Path) -> FitResult:
    """What a finished worker left.

    Raises:
        WorkloadError, FitError: what it ended with, or that it died without a word.
    """
    found: FitResult = process.outcome(folder, FitResult)
    return found


def run(folder: Path, request: FitRequest, *, report: process.Progress) -> FitResult:
    """Start a fit and wait for it, passing progress on.

    Raises:
        WorkloadError, FitError: see `result`.
    """
    found: FitResult = process.run(
        MODULE, folder, request, FitResult, report=report, threads=request.threads
    )
    return found


if __name__ == "__main__":
    raise SystemExit(process.serve(sys.argv, handle))
