"""The fit runner with real child processes (of a worker that needs no torch)."""

from __future__ import annotations

import json
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from controller.reconcile import fitrunner
from controller.reconcile.fitrunner import FitProgress, WorkerFitRunner

WORKER = """
import os, sys, time
from controller.catalog import process
from controller.errors import FitError

def handle(job, folder, progress):
    progress("half way", 0.5)
    if job.get("wait"):
        while not os.path.exists(job["wait"]):
            time.sleep(0.02)
    if job.get("error"):
        raise FitError(job["error"])
    if job.get("die"):
        os._exit(9)
    return {"variants": [], "out": job["out"], "threads": os.environ["OMP_NUM_THREADS"]}

if __name__ == "__main__":
    raise SystemExit(process.serve(sys.argv, handle))
"""


@pytest.fixture
def runner(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[WorkerFitRunner]:
    (tmp_path / "lone_worker.py").write_text(WORKER)
    monkeypatch.setenv("PYTHONPATH", str(tmp_path))
    monkeypatch.setattr(fitrunner, "FIT_WORKER", "lone_worker")
    made = WorkerFitRunner(tmp_path / "jobs", threads=1)
    yield made
    made.stop()


def finished(runner: WorkerFitRunner, job: str) -> FitProgress:
    for _ in range(600):
        progress = runner.poll(job)
        if progress.done:
            return progress
        time.sleep(0.05)
    pytest.fail("it never ended")


def test_a_job_ends_with_its_result(runner: WorkerFitRunner, tmp_path: Path) -> None:
    assert not runner.known("one")
    runner.start("one", {})
    assert runner.known("one")
    done = finished(runner, "one")
    assert done.error == ""
    assert done.result["out"] == str(tmp_path / "jobs" / "one" / "out")
    assert done.result["threads"] == "1"


def test_one_fit_at_a_time(runner: WorkerFitRunner, tmp_path: Path) -> None:
    gate = tmp_path / "gate"
    runner.start("one", {"wait": str(gate)})
    runner.start("two", {})
    assert runner.poll("two").step == "waiting for another fit"
    assert not runner.poll("one").done
    gate.touch()
    assert finished(runner, "one").done
    assert finished(runner, "two").done


def test_what_is_cancelled_makes_way(runner: WorkerFitRunner, tmp_path: Path) -> None:
    for job in ("one", "two", "three"):
        runner.start(job, {"wait": str(tmp_path / "never") if job == "one" else ""})
    runner.cancel("two")
    runner.cancel("one")
    runner.cancel("none")
    assert not runner.known("one")
    assert not runner.known("two")
    assert finished(runner, "three").error == ""


def test_an_error_is_said_in_the_workers_words(runner: WorkerFitRunner) -> None:
    runner.start("one", {"error": "no such split"})
    assert finished(runner, "one").error == "no such split"


def test_a_worker_that_dies_is_no_result(runner: WorkerFitRunner) -> None:
    runner.start("one", {"die": True})
    assert "died without a result" in finished(runner, "one").error


def test_a_restarted_runner_finds_what_was_finished_and_restarts_what_was_not(
    runner: WorkerFitRunner, tmp_path: Path
) -> None:
    gate = tmp_path / "gate"
    runner.start("one", {})
    finished(runner, "one")
    runner.start("two", {"wait": str(gate)})
    while runner.poll("two").step != "half way":
        time.sleep(0.02)
    runner.stop()
    again = WorkerFitRunner(tmp_path / "jobs", threads=1)
    assert again.known("one")
    assert again.poll("one").done
    assert not again.known("two")
    gate.touch()
    again.start("two", {"wait": str(gate)})
    assert finished(again, "two").error == ""
    again.stop()
    assert json.loads((tmp_path / "jobs" / "two" / "result.json").read_text())["variants"] == []
