"""A controller with its broker and one enrolled agent, as processes, for what is measured of it."""

from __future__ import annotations

import json
import os
import sqlite3
import subprocess
from contextlib import closing
from pathlib import Path
from types import TracebackType
from typing import Any, Self

from agent.sensors import process_memory
from tests.e2e.processes import call, environment, start, stop, wait_for

DEVICE = "edge-1"
MIB = 2.0**20


class Alone:
    """A fleet of one over MQTT, in a folder of its own; ``agent`` is the module to run."""

    def __init__(self, folder: Path, *, interval_s: float, agent: str = "agent") -> None:
        self.folder, self.data, self.edge = folder, folder / "fleet", folder / DEVICE
        more = {"FITMENT_LINK": "mqtt", "FITMENT_AUTO_APPROVE": "true"}
        self.env = environment(self.data) | more
        self._controller = self._start_controller(interval_s)
        where = self._where()
        for name in ("enroll", "gateway", "mqtt", "rest"):
            self.env[f"FITMENT_{name.upper()}_PORT"] = where[name].rpartition(":")[2]
        self._enroll(where["enroll"])
        self._agent = start(
            [agent, "run", "--data-dir", str(self.edge)], folder / "agent.log", self.env
        )
        wait_for("a profile", lambda: self.device()["profile"])

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:  # fmt: skip
        stop(self._agent)
        stop(self._controller)

    def end_agent(self) -> None:
        """Stop the agent in order; its data stays."""
        stop(self._agent)

    @property
    def pid(self) -> int:
        """Of the supervisor."""
        return self._agent.pid

    def device(self) -> dict[str, Any]:
        """What the controller has on record of it."""
        found: dict[str, Any] = call(self.env, "controller", "device", "show", DEVICE)
        return found

    def restart_controller(self, *, interval_s: float) -> None:
        """Stop it in order and start it at the same addresses with another sampling interval."""
        stop(self._controller)
        self._controller = self._start_controller(interval_s)
        self._where()
        wait_for("the device", lambda: self.device()["online"])

    def batches(self) -> tuple[int, int]:
        """Telemetry batches made so far, and those that wait for the controller's word."""
        with closing(sqlite3.connect(f"file:{self.edge / 'journal.db'}?mode=ro", uri=True)) as db:
            made = db.execute("SELECT value FROM settings WHERE name = 'sequence'").fetchone()
            (waiting,) = db.execute("SELECT count(*) FROM outbox").fetchone()
        return int(made[0]) if made else 0, int(waiting)

    def memory(self) -> dict[str, float]:
        """MiB of the supervisor by the kernel's word."""
        found = process_memory(self.pid)
        assert found.anonymous_bytes is not None, found.reason
        assert found.pss_bytes is not None, found.reason
        return {"anonymous_mib": found.anonymous_bytes / MIB, "pss_mib": found.pss_bytes / MIB}

    def cpu_s(self) -> tuple[float, float]:
        """Processor seconds of the supervisor, and of its children that have ended."""
        fields = Path(f"/proc/{self.pid}/stat").read_text().rpartition(")")[2].split()
        ticks = os.sysconf("SC_CLK_TCK")
        own, children = sum(map(int, fields[11:13])), sum(map(int, fields[13:15]))
        return own / ticks, children / ticks

    def _start_controller(self, interval_s: float) -> subprocess.Popen[bytes]:
        env = {**self.env, "FITMENT_TELEMETRY_INTERVAL_S": str(interval_s)}
        (self.data / "controller.json").unlink(missing_ok=True)
        return start(["controller", "serve"], self.folder / "controller.log", env)

    def _where(self) -> dict[str, str]:
        path = self.data / "controller.json"
        wait_for("serving", path.exists)
        found: dict[str, str] = json.loads(path.read_text())
        return found

    def _enroll(self, address: str) -> None:
        self.edge.mkdir()
        token = call(self.env, "controller", "token", "create")["text"]
        call(
            self.env, "agent", "enroll", "--controller", address, "--token", token,
            "--device", DEVICE, "--data-dir", str(self.edge),
        )  # fmt: skip
