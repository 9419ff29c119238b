"""The agent under test: two commands, and a process that is started, stopped and killed."""

from __future__ import annotations

import contextlib
import os
import shlex
import signal
import subprocess
import sys
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

from controller.errors import UserError

STOP_S = 20.0
OURS_ENROLL = (
    "{python} -m agent enroll --controller {controller} --token {token} --device {device}"
    " --data-dir {folder}"
)
OURS_RUN = "{python} -m agent run --data-dir {folder}"
TAIL_LINES = 3


@dataclass(frozen=True, slots=True, kw_only=True)
class Commands:
    """How an agent is enrolled (and then ends) and how it runs (until it is told to end).

    ``{controller}`` ``{token}`` ``{device}`` ``{folder}`` ``{python}`` are filled in.
    """

    enroll: str = OURS_ENROLL
    run: str = OURS_RUN


class Subject:
    """One agent in one folder."""

    def __init__(self, commands: Commands, folder: Path, *, within_s: float) -> None:
        self._commands = commands
        self._folder = folder
        self._within_s = within_s
        self._process: subprocess.Popen[bytes] | None = None
        folder.mkdir(parents=True, exist_ok=True)
        self.log = folder.with_name(f"{folder.name}.log")

    @property
    def running(self) -> bool:
        """Whether the process lives."""
        return self._process is not None and self._process.poll() is None

    def enroll(self, *, controller: str, token: str, device: str) -> int:
        """Enrol, and give the exit status; -1 when it did not end in time."""
        filled = self._fill(
            self._commands.enroll, {"controller": controller, "token": token, "device": device}
        )
        process = self._start(filled)
        try:
            return process.wait(self._within_s)
        except subprocess.TimeoutExpired:
            _kill(process)
            return -1

    def start(self) -> None:
        """Let it run, unless it does."""
        if not self.running:
            self._process = self._start(self._fill(self._commands.run, {}))

    def stop(self) -> None:
        """Ask it to end; one that does not is killed."""
        process, self._process = self._process, None
        if process is None or process.poll() is not None:
            return
        with contextlib.suppress(ProcessLookupError):
            os.killpg(process.pid, signal.SIGTERM)
        try:
            process.wait(STOP_S)
        except subprocess.TimeoutExpired:
            pass
        finally:
            _kill(process)

    def kill(self) -> None:
        """SIGKILL, as a power loss does it to processes."""
        process, self._process = self._process, None
        if process is not None:
            _kill(process)

    def last_words(self) -> str:
        """The end of what it printed."""
        try:
            lines = self.log.read_text(errors="replace").strip().splitlines()
        except OSError:
            return ""
        return " | ".join(lines[-TAIL_LINES:])

    def _fill(self, template: str, values: Mapping[str, str]) -> list[str]:
        known = {"python": sys.executable, "folder": str(self._folder), **values}
        try:
            return [word.format(**known) for word in shlex.split(template)]
        except (KeyError, IndexError, ValueError) as error:
            raise UserError(
                f"cannot fill {error} in the command {template!r}; known are"
                " {controller} {token} {device} {folder} {python} (the first three to enrol)"
            ) from error

    def _start(self, command: list[str]) -> subprocess.Popen[bytes]:
        try:
            with self.log.open("ab") as out:
                return subprocess.Popen(
                    command, stdin=subprocess.DEVNULL, stdout=out, stderr=out,
                    start_new_session=True,
                )  # fmt: skip
        except (OSError, IndexError) as error:
            raise UserError(f"the agent's command does not start: {error}") from error


def _kill(process: subprocess.Popen[bytes]) -> None:
    with contextlib.suppress(ProcessLookupError, PermissionError):
        os.killpg(process.pid, signal.SIGKILL)
    process.wait()
