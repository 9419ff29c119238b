"""The frame around every worker: one job in, one result out, whatever happens."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from agent.jobs import SubmitJob, SubmitResult
from agent.workers import child, memory_use
from agent.workers.child import JobError


@pytest.fixture
def run(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Callable[..., tuple[int, Any]]:
    """Run a handler on a submit job (the smallest one) in this process, without its signals."""
    monkeypatch.setattr(child, "die_with_parent", lambda _parent: None)
    monkeypatch.setattr(memory_use, "go_first", lambda: None)
    result = tmp_path / "out" / "result.json"
    connection = {"gateway": "g", "ca": "c", "certificate": "c", "key": "k"}
    job = {"result": str(result), "connection": connection}

    def start(handle: Callable[[SubmitJob], Any]) -> tuple[int, Any]:
        path = tmp_path / "job.json"
        path.write_text(json.dumps(job))
        monkeypatch.setattr(sys, "argv", ["worker", str(path)])
        status = child.run("submit", handle)
        assert [item.name for item in result.parent.iterdir()] == ["result.json"]
        return status, json.loads(result.read_bytes())

    return start


Run = Callable[[Callable[[SubmitJob], Any]], tuple[int, Any]]


def _raise(error: BaseException) -> Callable[[SubmitJob], Any]:
    def handle(_job: SubmitJob) -> Any:
        raise error

    return handle


def test_a_result_is_written(run: Run) -> None:
    assert run(lambda _job: SubmitResult()) == (0, {"accepted": True})


def test_a_known_failure_is_written_as_it_is(run: Run) -> None:
    error = JobError("busy", "come back later", retry_after_s=7.0)
    expected = {
        "code": "busy",
        "message": "come back later",
        "permanent": False,
        "retry_after_s": 7.0,
    }
    assert run(_raise(error)) == (1, expected)


@pytest.mark.parametrize(("worker", "taken"), [("check", True), ("serve", False)])
def test_the_kernel_takes_a_worker_first_but_the_one_that_serves(
    tmp_path: Path, root: Path, worker: str, *, taken: bool
) -> None:
    before = int(Path("/proc/self/oom_score_adj").read_text())
    code = (
        f"from agent.workers import child; print(child.run({worker!r}, print),"
        " open('/proc/self/oom_score_adj').read())"
    )
    done = subprocess.run(
        [sys.executable, "-c", code, str(tmp_path / "no-job")],
        cwd=root, capture_output=True, text=True, check=True,
    )  # fmt: skip
    assert done.stdout.split() == ["2", str(max(500, before) if taken else before)]


def test_a_crash_is_told_and_logged(run: Run, capsys: pytest.CaptureFixture[str]) -> None:
    status, failure = run(_raise(KeyError("odd")))
    assert (status, failure["code"], failure["permanent"]) == (1, "crashed", False)
    assert failure["message"] == "KeyError: 'odd'"
    assert "Traceback" in capsys.readouterr().err


@pytest.mark.parametrize("error", [MemoryError(), RuntimeError("std::bad_alloc")])
def test_memory_that_ran_out_has_its_own_code(run: Run, error: Exception) -> None:
    assert run(_raise(error))[1]["code"] == "out_of_memory"


@pytest.mark.parametrize("content", ["", "{}", '{"result": 1}'])
def test_no_readable_job_is_a_matter_of_usage(
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
    content: str,
) -> None:
    monkeypatch.setattr(child, "die_with_parent", lambda _parent: None)
    path = tmp_path / "job.json"
    path.write_text(content)
    monkeypatch.setattr(sys, "argv", ["worker", str(path)])
    assert child.run("submit", _raise(AssertionError())) == child.EXIT_USAGE
    assert "no readable job" in capsys.readouterr().err
    monkeypatch.setattr(sys, "argv", ["worker"])
    assert child.run("submit", _raise(AssertionError())) == child.EXIT_USAGE


_PARENT = """
import subprocess, sys
worker = "import os, time; from agent.workers import child; child.die_with_parent(os.getppid())\\n"
worker += "print(os.getpid(), flush=True); time.sleep(60)"
child = subprocess.Popen([sys.executable, "-c", worker], stdout=subprocess.PIPE)
sys.stdout.buffer.write(child.stdout.readline()); sys.stdout.flush()
child.wait()
"""


@pytest.mark.skipif(not sys.platform.startswith("linux"), reason="Linux's parent-death signal")
def test_a_worker_dies_with_its_parent(root: Path) -> None:
    parent = subprocess.Popen([sys.executable, "-c", _PARENT], stdout=subprocess.PIPE, cwd=root)
    assert parent.stdout is not None
    worker = int(parent.stdout.readline())
    parent.send_signal(signal.SIGKILL)
    parent.wait()
    parent.stdout.close()
    deadline = time.monotonic() + 5
    while _alive(worker) and time.monotonic() < deadline:
        time.sleep(0.01)
    assert not _alive(worker)


def _alive(pid: int) -> bool:
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return False
    status = Path(f"/proc/{pid}/stat").read_text()
    return status.rpartition(")")[2].split()[0] != "Z"
