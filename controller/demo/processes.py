"""The processes of the demo: all real, all logged, all ended with it."""

from __future__ import annotations

import contextlib
import os
import subprocess
import sys
import time
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path

from controller.errors import FitmentError

STOP_S = 20.0
CALL_S = 120.0
ENDS_S = 1.0
"""How long after a failed step a program that ended is looked for."""
_PARENT = "FITMENT_PARENT_PID"


class DemoFailed(FitmentError):
    """A step of the demo did not come to its end."""

    code = "demo_failed"


@dataclass(frozen=True, slots=True, kw_only=True)
class Program:
    """One process that runs for as long as the demo."""

    name: str
    process: subprocess.Popen[bytes]
    log: Path

    def check(self) -> None:
        """Whether it still runs.

        Raises:
            DemoFailed: it ended; with its last words.
        """
        code = self.process.poll()
        if code is not None:
            raise DemoFailed(f"{self.name} ended with {code}: {last_line(self.log)}")

    def stop(self) -> None:
        """Ask it to end, and insist."""
        if self.process.poll() is None:
            self.process.terminate()
            try:
                self.process.wait(STOP_S)
            except subprocess.TimeoutExpired:
                self.process.kill()
                self.process.wait()


@dataclass(frozen=True, slots=True, kw_only=True)
class Crew:
    """Starts programs and calls commands with one environment, in one folder."""

    logs: Path  # also where they start: settings files of the user are elsewhere
    environment: Mapping[str, str]
    programs: dict[str, Program] = field(default_factory=dict)

    def start(self, name: str, command: Sequence[str]) -> Program:
        """Start ``python -m COMMAND`` with its output in ``logs/NAME.log``."""
        log = self.logs / f"{name}.log"
        launched = [sys.executable, "-m", "controller.demo.launch", *command]
        with log.open("ab") as out:
            process = subprocess.Popen(
                launched, stdin=subprocess.DEVNULL, stdout=out, stderr=out,
                cwd=self.logs, env={**self.environment, _PARENT: str(os.getpid())},
            )  # fmt: skip
        program = Program(name=name, process=process, log=log)
        self.programs[name] = program
        return program

    def call(self, name: str, command: Sequence[str]) -> str:
        """Run a command to its end; gives its output.

        Raises:
            DemoFailed: it failed or took too long; with what it said.
        """
        try:
            done = subprocess.run(
                [sys.executable, *command], env=dict(self.environment), cwd=self.logs,
                capture_output=True, text=True, timeout=CALL_S, check=False,
                stdin=subprocess.DEVNULL,
            )  # fmt: skip
        except subprocess.TimeoutExpired as error:
            raise DemoFailed(f"{name} took longer than {CALL_S:.0f} s") from error
        if done.returncode != 0:
            words = (done.stderr or done.stdout).strip().splitlines() or ["it said nothing"]
            raise DemoFailed(f"{name} ended with {done.returncode}: {words[-1]}")
        return done.stdout

    def check(self) -> None:
        """Whether all programs still run; see `Program.check`."""
        for program in self.programs.values():
            program.check()

    def ended(self, within_s: float) -> str:
        """Which program ended, and its last words; nothing where all still run.

        A connection is refused a moment before its program counts as ended, hence the wait.
        """
        until = time.monotonic() + within_s
        while True:
            try:
                self.check()
            except DemoFailed as error:
                return str(error)
            if time.monotonic() > until:
                return ""
            time.sleep(0.05)

    def stop(self) -> None:
        """End all programs, the last started first."""
        for program in reversed(self.programs.values()):
            program.stop()
        self.programs.clear()


@contextlib.contextmanager
def crew(logs: Path, environment: Mapping[str, str]) -> Iterator[Crew]:
    """A crew whose programs end with the block."""
    made = Crew(logs=logs, environment=environment)
    try:
        yield made
    finally:
        made.stop()


def last_line(log: Path) -> str:
    """What a program said last."""
    lines = log.read_text(errors="replace").strip().splitlines()
    return lines[-1] if lines else "it said nothing"


def memory_bytes(pid: int) -> dict[str, int]:
    """Memory of one process in bytes, from ``/proc/PID/smaps_rollup``; empty where there is none.

    ``pss`` shares what is mapped by several processes among them, ``anonymous`` is its own.
    """
    names = {"Pss": "pss", "Anonymous": "anonymous", "Rss": "rss"}
    try:
        lines = Path(f"/proc/{pid}/smaps_rollup").read_text().splitlines()
    except OSError:
        return {}
    pairs = (line.split(":", 1) for line in lines if ":" in line)
    return {names[k]: int(v.split()[0]) * 1024 for k, v in pairs if k in names}
