"""Workers as processes: their ends, their limits, and what they leave."""

from __future__ import annotations

import contextlib
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from agent.jobs import Connection, StageJob, StageResult, SubmitJob
from agent.runner import Finished, ProcessRunner, Running
from controller.artifacts.blobs import FolderBlobs
from controller.artifacts.packing import pack_into
from tests.integration.trust_server import make_bundle


@pytest.fixture
def runner(tmp_path: Path) -> ProcessRunner:
    return ProcessRunner(tmp_path / "jobs")


def ended(running: Running, timeout_s: float = 30.0) -> Finished:
    until_s = time.monotonic() + timeout_s
    while time.monotonic() < until_s:
        finished = running.poll(0.0)
        if finished is not None:
            return finished
        time.sleep(0.02)
    raise AssertionError("it did not end")


def stage_job(tmp_path: Path, archive: Path) -> StageJob:
    return StageJob(
        result="", archive_path=str(archive), folder=str(tmp_path / "slot"), variant="sha256:x"
    )


def test_a_result_comes_back_and_no_file_is_left(runner: ProcessRunner, tmp_path: Path) -> None:
    blobs = FolderBlobs(tmp_path / "blobs")
    packed = pack_into(make_bundle(tmp_path / "bundle"), blobs, tmp_path)
    job = StageJob(
        result="", archive_path=str(blobs.path(packed.archive)), folder=str(tmp_path / "slot"),
        variant=packed.variant,
    )  # fmt: skip
    finished = ended(runner.start("stage", job, deadline_s=1e9))
    assert isinstance(finished.result, StageResult), finished.failure
    assert list((tmp_path / "jobs").iterdir()) == []


_KILLED = """
import os, signal, sys
from pathlib import Path
from agent.jobs import StageJob
from agent.runner import ProcessRunner
archive, folder, variant = sys.argv[1:]
job = StageJob(result="", archive_path=archive, folder=str(Path(folder) / "slot"), variant=variant)
running = ProcessRunner(Path(folder) / "jobs").start("stage", job, deadline_s=1e9)
os.kill(running._process.pid, signal.SIGSTOP)  # a busy machine may not get to the next line soon
os.kill(os.getpid(), signal.SIGKILL)
"""


@pytest.mark.skipif(not sys.platform.startswith("linux"), reason="Linux tells of a lost parent")
def test_a_worker_whose_supervisor_died_before_it_began_does_nothing(
    tmp_path: Path, root: Path
) -> None:
    """Its imports take longer than a supervisor needs to be killed and to be back."""
    blobs = FolderBlobs(tmp_path / "blobs")
    packed = pack_into(make_bundle(tmp_path / "bundle"), blobs, tmp_path)
    arguments = [str(blobs.path(packed.archive)), str(tmp_path), packed.variant]
    parent = subprocess.run([sys.executable, "-c", _KILLED, *arguments], cwd=root, check=False)
    assert parent.returncode == -signal.SIGKILL
    for worker in _working_on(tmp_path / "jobs"):
        os.kill(worker, signal.SIGCONT)
    until_s = time.monotonic() + 30
    while _working_on(tmp_path / "jobs") and time.monotonic() < until_s:
        time.sleep(0.02)
    assert not _working_on(tmp_path / "jobs")
    assert not (tmp_path / "slot").exists()
    assert not list((tmp_path / "jobs").glob("*.result.json"))


def _working_on(folder: Path) -> list[int]:
    found = []
    for process in Path("/proc").glob("[0-9]*"):
        with contextlib.suppress(OSError):
            if str(folder) in (process / "cmdline").read_bytes().decode(errors="replace"):
                found.append(int(process.name))
    return found


def test_a_failure_keeps_its_code(runner: ProcessRunner, tmp_path: Path) -> None:
    finished = ended(runner.start("stage", stage_job(tmp_path, tmp_path / "none"), deadline_s=1e9))
    assert finished.failure is not None
    assert finished.failure.code == "disk"
    assert not finished.timed_out
    permanent = ended(
        runner.start(
            "submit", SubmitJob(result="", connection=_connection(tmp_path)), deadline_s=1e9
        )
    )
    assert permanent.failure is not None
    assert (permanent.failure.code, permanent.failure.permanent) == ("empty", True)


def _connection(folder: Path) -> Connection:
    return Connection(gateway="localhost:1", ca=str(folder), certificate="", key="")


def test_a_worker_that_dies_leaves_its_last_words(tmp_path: Path) -> None:
    broken = tmp_path / "python"
    broken.write_text("#!/bin/sh\necho 'Segmentation: sorry' >&2\nexit 139\n")
    broken.chmod(0o755)
    runner = ProcessRunner(tmp_path / "jobs", python=str(broken))
    finished = ended(runner.start("stage", stage_job(tmp_path, tmp_path), deadline_s=1e9))
    assert finished.failure is not None
    assert finished.failure.code == "died"
    assert "ended with 139" in finished.failure.message
    assert "sorry" in finished.failure.message
    assert not finished.failure.permanent


def test_a_worker_that_is_killed_says_by_what(tmp_path: Path) -> None:
    broken = tmp_path / "python"
    broken.write_text("#!/bin/sh\nkill -9 $$\n")
    broken.chmod(0o755)
    runner = ProcessRunner(tmp_path / "jobs", python=str(broken))
    finished = ended(runner.start("stage", stage_job(tmp_path, tmp_path), deadline_s=1e9))
    assert finished.failure is not None
    assert "SIGKILL" in finished.failure.message


def test_a_worker_that_hangs_is_killed_with_its_children(tmp_path: Path) -> None:
    mark = tmp_path / "mark"
    slow = tmp_path / "python"
    slow.write_text(f"#!/bin/sh\n(sleep 2; touch {mark}) &\nsleep 60\n")
    slow.chmod(0o755)
    runner = ProcessRunner(tmp_path / "jobs", python=str(slow))
    running = runner.start("stage", stage_job(tmp_path, tmp_path), deadline_s=50.0)
    assert running.poll(49.0) is None
    finished = running.poll(50.0)
    assert finished is not None
    assert finished.timed_out
    assert finished.failure is not None
    assert "deadline" in finished.failure.message
    time.sleep(2.2)
    assert not mark.exists()
    assert list((tmp_path / "jobs").iterdir()) == []
    running.kill()


def test_what_a_killed_supervisor_left_is_swept(runner: ProcessRunner, tmp_path: Path) -> None:
    folder = tmp_path / "jobs"
    folder.mkdir()
    for name in ("1-1-stage.json", "1-1-stage.result.json", "1-1-stage.stderr"):
        (folder / name).write_text("")
    runner.sweep()
    assert list(folder.iterdir()) == []
