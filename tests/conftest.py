"""Rules for every test: loopback only, and chance is told from a bug."""

from __future__ import annotations

import gc
import os
import socket
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

# One thread each: suites share two cores, and timings are not what tests are about.
os.environ.setdefault("OMP_NUM_THREADS", "1")

_REAL_PARTS = frozenset({"e2e", "integration", "scenarios"})
"""Folders whose tests wait for real processes on a machine that does other things too."""

_connect = socket.socket.connect


def _loopback_only(self: socket.socket, address: Any) -> None:
    if isinstance(address, tuple) and not _is_loopback(str(address[0])):
        raise AssertionError(f"a test tried to reach {address[0]}; tests talk to loopback only")
    _connect(self, address)


def _is_loopback(host: str) -> bool:
    return host == "localhost" or host.startswith("127.") or host == "::1"


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Run a failed test of real parts once more.

    A bug fails twice. What failed once is named in the summary as ``RERUN``, with its trace: it is
    a race in the test or in Fitment, and to be fixed like any other.
    """
    for item in items:
        if item.path.relative_to(Path(__file__).parent).parts[0] in _REAL_PARTS:
            item.add_marker(pytest.mark.flaky(reruns=1, reruns_delay=2))


def pytest_terminal_summary(terminalreporter: pytest.TerminalReporter) -> None:
    """Show why a test had to be run again, also where it passed then."""
    for report in terminalreporter.stats.get("rerun", []):
        terminalreporter.section(f"first run of {report.nodeid}")
        terminalreporter.line(report.longreprtext)


@pytest.fixture(autouse=True)
def _thawed() -> Iterator[None]:
    """What a supervisor froze (`agent.tidy`), open journals too, is garbage after its test."""
    yield
    gc.unfreeze()


@pytest.fixture(autouse=True, scope="session")
def loopback_only() -> Iterator[None]:
    """Refuse any connection that leaves this machine."""
    patch = pytest.MonkeyPatch()
    patch.setattr(socket.socket, "connect", _loopback_only)
    yield
    patch.undo()


@pytest.fixture(scope="session")
def root() -> Path:
    """The repository's folder."""
    return Path(__file__).resolve().parent.parent
