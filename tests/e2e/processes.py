"""Real processes of Fitment: started, asked, watched from outside, and ended by their ids."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest

PATIENCE_S = 120.0


def environment(data: Path) -> dict[str, str]:
    """Variables for a controller on ``data`` that takes free ports, and for who asks it."""
    ports = {f"FITMENT_{name}_PORT": "0" for name in ("ENROLL", "GATEWAY", "MQTT", "REST")}
    return {**os.environ, **ports, "FITMENT_DATA_DIR": str(data), "OMP_NUM_THREADS": "1"}


def start(command: list[str], log: Path, env: dict[str, str]) -> subprocess.Popen[bytes]:
    """Start ``python -m command``; what it says is added to ``log``."""
    with log.open("ab") as out:
        return subprocess.Popen(
            [sys.executable, "-m", *command], stdout=out, stderr=out, env=env,
            stdin=subprocess.DEVNULL,
        )  # fmt: skip


def stop(process: subprocess.Popen[bytes]) -> None:
    """End it in order; one that does not listen is killed."""
    process.terminate()
    try:
        process.wait(20)
    except subprocess.TimeoutExpired:
        process.kill()
        process.wait()


@contextmanager
def running(command: list[str], log: Path, env: dict[str, str]) -> Iterator[None]:
    process = start(command, log, env)
    try:
        yield
    finally:
        stop(process)


def call(env: dict[str, str], *command: str) -> Any:
    """What ``python -m command --json`` answers."""
    done = subprocess.run(
        [sys.executable, "-m", *command, "--json"],
        env=env, capture_output=True, text=True, timeout=240, check=False,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    return json.loads(done.stdout)


def wait_for(
    what: str, look: Callable[[], Any], *, every_s: float = 0.3, within_s: float = PATIENCE_S
) -> Any:
    """The first true answer of ``look``; the test fails when there is none for long."""
    deadline = time.monotonic() + within_s
    while time.monotonic() < deadline:
        found = look()
        if found:
            return found
        time.sleep(every_s)
    return pytest.fail(f"{what} did not happen within {within_s:.0f} s")


def slot(env: dict[str, str]) -> dict[str, Any]:
    """What the device ``edge-1`` says of its first slot."""
    device = call(env, "controller", "device", "show", "edge-1")
    slots = (device.get("reported") or {}).get("slots") or [{}]
    return dict(slots[0])


def children(parent: int) -> dict[int, str]:
    """Process id to command line of each child of a process that lives, from ``/proc``."""
    found = {}
    for pid in _processes():
        try:
            # The name in brackets may hold spaces; the state and the parent come after it.
            state, ppid = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[:2]
        except OSError:
            continue  # it ended meanwhile
        if int(ppid) == parent and state != "Z":
            found[pid] = _command_line(pid)
    return found


def mentioning(text: str) -> dict[int, str]:
    """Processes whose command line holds ``text``."""
    every = {pid: _command_line(pid) for pid in _processes()}
    return {pid: line for pid, line in every.items() if text in line}


def _processes() -> list[int]:
    return [int(path.name) for path in Path("/proc").iterdir() if path.name.isdigit()]


def _command_line(pid: int) -> str:
    try:
        return Path(f"/proc/{pid}/cmdline").read_bytes().replace(b"\0", b" ").decode().strip()
    except OSError:
        return ""
