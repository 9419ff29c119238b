"""What systemd is told, over a real socket: that the agent is ready, and that its loop turns."""

from __future__ import annotations

import contextlib
import os
import socket
import threading
from collections.abc import Iterator
from pathlib import Path

import pytest

from agent.clock import SystemClock
from agent.errors import JournalError
from agent.notify import Notifier, from_environment
from tests.scenarios.agent_world import World


@pytest.fixture(params=["path", "abstract"])
def heard(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[socket.socket]:
    """A bound socket, as systemd has one."""
    abstract = request.param == "abstract"
    with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as bound:
        bound.bind(f"\0fitment-{os.getpid()}" if abstract else str(tmp_path / "notify"))
        bound.settimeout(10)
        yield bound


def address(bound: socket.socket) -> str:
    name = bound.getsockname()
    return f"@{name[1:].decode()}" if isinstance(name, bytes) else str(name)


def words(bound: socket.socket) -> set[str]:
    return set(bound.recv(1000).decode().splitlines())


def silent(bound: socket.socket, *, for_s: float = 0.0) -> bool:
    bound.settimeout(for_s or 1e-6)
    try:
        with contextlib.suppress(TimeoutError, BlockingIOError):
            bound.recv(1000)
            return False
        return True
    finally:
        bound.settimeout(10)


def test_ready_once_then_signs_of_life_at_a_pace(heard: socket.socket) -> None:
    now = [0.0]
    environment = {"NOTIFY_SOCKET": address(heard), "WATCHDOG_USEC": "40000000", "HOME": "/"}
    beat = from_environment(environment, lambda: now[0])
    assert environment == {"HOME": "/"}  # workers are not asked
    said = []
    for second in range(35):
        now[0] = float(second)
        beat()
        if not silent(heard):
            said.append(second)
    assert said == [0, 10, 20, 30]


def test_what_is_said(heard: socket.socket) -> None:
    now = [0.0]
    beat = Notifier(address(heard), every_s=1.0, monotonic_s=lambda: now[0])
    beat()
    assert words(heard) == {"READY=1", "WATCHDOG=1"}
    now[0] = 1.0
    beat()
    assert words(heard) == {"WATCHDOG=1"}
    unwatched = Notifier(address(heard), every_s=None, monotonic_s=lambda: now[0])
    unwatched()
    assert words(heard) == {"READY=1"}
    now[0] = 99.0
    unwatched()
    assert silent(heard)


@pytest.mark.parametrize("environment", [{}, {"NOTIFY_SOCKET": "/nobody/here"}])
def test_nobody_who_listens_is_no_trouble(environment: dict[str, str]) -> None:
    from_environment(environment, lambda: 1.0)()


def test_a_watchdog_of_another_process_is_not_ours(heard: socket.socket) -> None:
    environment = {
        "NOTIFY_SOCKET": address(heard), "WATCHDOG_USEC": "1", "WATCHDOG_PID": str(os.getpid() + 1),
    }  # fmt: skip
    from_environment(environment, lambda: 1.0)()
    assert words(heard) == {"READY=1"}


def test_a_step_that_hangs_sends_no_sign_of_life_and_one_that_fails_does(
    heard: socket.socket, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    world, stop = World(tmp_path), threading.Event()
    hangs, goes_on = threading.Event(), threading.Event()
    rounds = iter(range(10**9))

    def step() -> float:
        number = next(rounds)
        if number == 0:
            raise JournalError("the disk refuses")
        if number == 3:
            hangs.set()
            goes_on.wait()
        return 0.0

    world.supervisor._parts.clock.monotonic_s = SystemClock().monotonic_s  # type: ignore[method-assign]
    monkeypatch.setattr("agent.loop.TROUBLE_S", 0.0)
    monkeypatch.setattr(world.supervisor, "step", step)
    beat = Notifier(address(heard), every_s=0.0, monotonic_s=SystemClock().monotonic_s)
    thread = threading.Thread(target=world.supervisor.run, args=(stop, beat))
    thread.start()
    try:
        assert hangs.wait(20)
        said = [words(heard) for _ in range(3)]
        assert said == [{"READY=1", "WATCHDOG=1"}, {"WATCHDOG=1"}, {"WATCHDOG=1"}]
        assert silent(heard, for_s=0.3)
        goes_on.set()
        assert words(heard) == {"WATCHDOG=1"}
    finally:
        goes_on.set()
        stop.set()
        thread.join(20)
    assert not thread.is_alive()
