"""``fitment fit MODEL``: follow the fits of a fleet to their end."""

from __future__ import annotations

import time
from collections.abc import Sequence
from typing import TYPE_CHECKING

from controller.cli.common import print_json, print_table
from controller.domain.fleet import FitJob, JobStatus
from controller.errors import FitError
from fitment.core import digest

if TYPE_CHECKING:
    from controller.client import Client

ENDED = frozenset({JobStatus.DONE, JobStatus.FAILED})
POLL_S = 0.5


def follow(client: Client, jobs: Sequence[FitJob]) -> tuple[FitJob, ...]:
    """Show progress until every job has ended; interrupting it leaves the jobs running."""
    from rich.console import Console
    from rich.progress import BarColumn, Progress, TextColumn, TimeElapsedColumn

    columns = (BarColumn(), TextColumn("{task.description}"), TimeElapsedColumn())
    console = Console(stderr=True)
    # Where nobody watches, it would leave an empty line before what is said.
    shown = console.is_terminal
    with Progress(*columns, console=console, transient=True, disable=not shown) as progress:
        tasks = {job.id: progress.add_task(job.cohort.key, total=1.0) for job in jobs}
        current = tuple(jobs)
        while True:
            for job in current:
                text = f"{job.cohort.profile}: {job.step or job.status.value}"
                done = 1.0 if job.status in ENDED else job.fraction
                progress.update(tasks[job.id], description=text, completed=done)
            if all(job.status in ENDED for job in current):
                return current
            time.sleep(POLL_S)
            current = tuple(client.fit(job.id) for job in current)


def answer(jobs: Sequence[FitJob], *, as_json: bool) -> None:
    """What each cohort got.

    Raises:
        FitError: every one of them failed, or nothing keeps to the budget anywhere.
    """
    if as_json:
        print_json(jobs)
    else:
        rows = [(job.cohort.key, _state(job), _chosen(job), _reason(job)) for job in jobs]
        print_table(("cohort", "state", "chosen", "because"), rows, empty="Nothing to fit.")
        for note in dict.fromkeys(note for job in jobs for note in job.remarks):
            print(f"note: {note}")
        done = [job for job in jobs if job.choice is not None and job.choice.chosen]
        if done:
            print(f"Release it: fitment release create {done[0].model}")
    if jobs and all(job.status is JobStatus.FAILED for job in jobs):
        raise FitError(f"no fit came to an end: {jobs[0].error.splitlines()[0]}")
    choices = [job.choice for job in jobs if job.choice is not None]
    if choices and len(choices) == len(jobs) and not any(choice.chosen for choice in choices):
        raise FitError(f"{choices[0].reason}: raise that limit, or try --thorough")


def _state(job: FitJob) -> str:
    return f"{job.status.value} (from the cache)" if job.cached else job.status.value


def _chosen(job: FitJob) -> str:
    if job.choice is None or not job.choice.chosen:
        return "-"
    names = {variant.bundle.variant: variant.name for variant in job.variants}
    return names.get(job.choice.chosen, digest.short(job.choice.chosen))


def _reason(job: FitJob) -> str:
    return job.error or (job.choice.reason if job.choice is not None else job.step)
