"""Start, watch and stop the demonstration's processes, by process id.

Each process writes to its own log, so that a failed step can point at the words behind it.
"""

from __future__ import annotations

import os
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Mapping, Sequence
from pathlib import Path

from controller.errors import FitmentError

_TAIL_LINES = 15


class DemoError(FitmentError):
    """A step of the demonstration failed; the message says which and why."""

    code = "demo"


def console(name: str) -> str:
    """Path of one of our console scripts, beside the interpreter that runs this.

    Raises:
        DemoError: it is not installed there.
    """
    beside = Path(sys.executable).parent / name
    found = str(beside) if beside.exists() else shutil.which(name)
    if found is None:
        raise DemoError(f"the program '{name}' is not installed: pip install 'fitment[controller]'")
    return found


class Process:
    """One long-running process with its log."""

    def __init__(
        self, name: str, command: Sequence[str], *, log: Path, env: Mapping[str, str] | None = None
    ) -> None:
        self.name = name
        self.log = log
        self._command = list(command)
        self._env = {**os.environ, "OMP_NUM_THREADS": "1", "PYTHONUNBUFFERED": "1", **(env or {})}
        self._process: subprocess.Popen[bytes] | None = None

    @property
    def pid(self) -> int:
        """Its process id; 0 when it was never started."""
        return self._process.pid if self._process else 0

    @property
    def alive(self) -> bool:
        """Whether it runs now."""
        return self._process is not None and self._process.poll() is None

    def start(self) -> None:
        """Start it, appending to its log."""
        self.log.parent.mkdir(parents=True, exist_ok=True)
        with self.log.open("ab") as log:
            self._process = subprocess.Popen(
                self._command, stdout=log, stderr=subprocess.STDOUT, env=self._env,
                stdin=subprocess.DEVNULL, start_new_session=True,
            )  # fmt: skip

    def stop(self, grace_s: float = 10.0) -> None:
        """Ask it to stop; kill it when it does not within ``grace_s``."""
        if self._process is None or self._process.poll() is not None:
            return
        self._process.send_signal(signal.SIGTERM)
        try:
            self._process.wait(grace_s)
        except subprocess.TimeoutExpired:
            self.kill()

    def kill(self) -> None:
        """Kill it at once, as a power cut would."""
        if self._process is not None and self._process.poll() is None:
            self._process.kill()
            self._process.wait()

    def tail(self) -> str:
        """The last lines of its log."""
        if not self.log.exists():
            return "(no log)"
        return "\n".join(self.log.read_text(errors="replace").splitlines()[-_TAIL_LINES:])

    def require_alive(self) -> None:
        """Raise when it died.

        Raises:
            DemoError: with the end of its log.
        """
        if not self.alive:
            code = self._process.returncode if self._process else None
            raise DemoError(f"{self.name} stopped (exit {code}); {self.log}:\n{self.tail()}")


def run_once(name: str, command: Sequence[str], *, log: Path, timeout_s: float) -> str:
    """Run a command to its end and return what it printed.

    Raises:
        DemoError: it failed or took longer than ``timeout_s``.
    """
    log.parent.mkdir(parents=True, exist_ok=True)
    try:
        done = subprocess.run(
            list(command), capture_output=True, text=True, timeout=timeout_s, check=False,
            stdin=subprocess.DEVNULL,
        )  # fmt: skip
    except subprocess.TimeoutExpired as error:
        raise DemoError(f"{name} took longer than {timeout_s:.0f} s") from error
    with log.open("a") as file:
        file.write(done.stdout + done.stderr)
    if done.returncode != 0:
        raise DemoError(f"{name} failed (exit {done.returncode}): {done.stderr.strip()[-600:]}")
    return done.stdout


def wait_for_file(path: Path, *, process: Process, timeout_s: float) -> None:
    """Wait until ``path`` is there, while ``process`` lives.

    Raises:
        DemoError: the process died or the time is up.
    """
    deadline = time.monotonic() + timeout_s
    while not path.exists():
        process.require_alive()
        if time.monotonic() > deadline:
            raise DemoError(f"{process.name} did not write {path.name} within {timeout_s:.0f} s")
        time.sleep(0.05)
