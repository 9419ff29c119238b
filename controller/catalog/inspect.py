"""The registration worker: ``python -m controller.catalog.inspect JOB.json``.

Loads the snapshot in the job and validates it; the result is `controller.catalog.check.Facts`.
"""

from __future__ import annotations

import sys
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from controller.catalog import check, process, workload
from fitment.core import plain


@dataclass(frozen=True, slots=True, kw_only=True)
class InspectJob:
    """Validate the workload whose snapshot is in ``folder``."""

    folder: str
    threads: int = 1


def handle(job: Any, _folder: Path, progress: process.Progress) -> check.Facts:
    """Validate one snapshot."""
    asked = plain.from_plain(InspectJob, job)
    progress("loading the workload", 0.1)
    loaded = workload.load(Path(asked.folder))
    progress("validating", 0.3)
    return check.validate(loaded, threads=asked.threads)


def inspect(
    snapshot: Path, folder: Path, *, report: process.Progress, threads: int = 1
) -> check.Facts:
    """Validate a snapshot in a worker process with the job folder ``folder``.

    Raises:
        WorkloadError: the workload cannot be used.
    """
    facts: check.Facts = process.run(
        "controller.catalog.inspect",
        folder,
        InspectJob(folder=str(snapshot), threads=threads),
        check.Facts,
        report=report,
        threads=threads,
    )
    return facts


if __name__ == "__main__":
    raise SystemExit(process.serve(sys.argv, handle))
