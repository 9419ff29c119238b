"""A controller with its broker and one agent, as real processes that may be killed at any moment.

Everything is looked at from outside: over REST, in the agent's journal, in ``/proc``.
"""

from __future__ import annotations

import json
import os
import signal
import subprocess
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path
from typing import Any

from agent import status
from agent.config import Settings
from agent.desk import Folders
from agent.errors import AgentError
from controller.cli.common import connect
from controller.client import Client
from controller.domain import fleet
from controller.errors import Temporary, UserError
from fitment.core.deployment import DeploymentState, SlotReport
from tests.e2e.processes import call, children, environment, mentioning, start, stop, wait_for

DEVICE = "edge-1"
LOOK_S = 0.02
"""Between two looks for a moment: the shortest ones last for some tenths of a second."""


class Stack:
    """One controller on one data directory, and one device."""

    def __init__(self, folder: Path) -> None:
        self.data, self.edge = folder / "fleet", folder / DEVICE
        self._folder = folder
        more = {"FITMENT_LINK": "mqtt", "FITMENT_AUTO_APPROVE": "true"}
        self._env = environment(self.data) | more
        self._processes: dict[str, subprocess.Popen[bytes]] = {}
        self._client: Client | None = None
        self.edge.mkdir()
        self._settings = self.edge / "config.toml"
        self._enable("litert")

    def close(self) -> None:
        """End both in order, the agent first."""
        for who in ("agent", "controller"):
            process = self._processes.pop(who, None)
            if process is not None:
                stop(process)
        if self._client is not None:
            self._client.close()

    @property
    def client(self) -> Client:
        assert self._client is not None
        return self._client

    # Starting and killing

    def start_controller(self) -> None:
        """Start it and wait until it says where; later ones take the ports of the first."""
        self.begin_controller()
        where = wait_for("serving", self._addresses, every_s=LOOK_S)
        if self._client is None:
            for name in ("enroll", "gateway", "mqtt", "rest"):
                self._env[f"FITMENT_{name.upper()}_PORT"] = where[name].rpartition(":")[2]
            self._client = connect("", self.data)

    def begin_controller(self) -> None:
        """Start it and wait for nothing."""
        self._processes["controller"] = self._start("controller", "serve")

    def start_agent(self) -> None:
        self._processes["agent"] = self._start("agent", "run", "--data-dir", str(self.edge))

    def enroll(self) -> None:
        token = self.client.create_token()
        call(
            self._env, "agent", "enroll", "--controller", token.enroll, "--token", token.text,
            "--device", DEVICE, "--data-dir", str(self.edge),
        )  # fmt: skip

    def change_device(self) -> None:
        """Let it use its other runtime only; the agent reads the file again by itself."""
        self._enable("onnx")

    def kill(self, who: str) -> None:
        """SIGKILL one of the processes, and wait until it is gone."""
        victim = self._processes.get(who)
        if victim is not None:
            victim.kill()
            victim.wait()
            return
        pid = wait_for(f"a {who}", lambda: self._strike(who), every_s=LOOK_S)
        wait_for(f"the end of the {who}", lambda: pid not in self.pids(who), every_s=LOOK_S)

    def _strike(self, who: str) -> int:
        """Kill a child, when there is one: a worker may have ended this moment."""
        for pid in self.pids(who):
            with suppress(ProcessLookupError):
                os.kill(pid, signal.SIGKILL)
                return pid
        return 0

    def save_broker(self) -> None:
        """Ask mosquitto to save what it knows, where it may: killed later, it would come back
        with just that, long after it has ceased to be so.
        """
        for pid in self.pids("broker"):
            os.kill(pid, signal.SIGUSR1)

    def start_again(self, who: str) -> None:
        """What an init system does; the broker and the workers are their parents' to start."""
        again = {"controller": self.start_controller, "agent": self.start_agent}
        if who in again:
            again[who]()
        elif who == "broker":
            wait_for("another broker", lambda: self.pids(who), every_s=LOOK_S)

    def pids(self, who: str) -> list[int]:
        """Of a child: the broker, the worker that the agent runs, or the one that fits."""
        parent, words = {
            "broker": ("controller", "mosquitto"),
            "agent-worker": ("agent", "agent.workers."),
            "fit-worker": ("controller", "controller.compress.worker"),
        }[who]
        below = children(self._processes[parent].pid)
        return [pid for pid, line in below.items() if words in line and "leash.py" not in line]

    def left_over(self) -> dict[int, str]:
        """Processes that still work on our folders."""
        return mentioning(str(self._folder))

    def _enable(self, runtime: str) -> None:
        """One runtime at a time: there is half as much to probe, and the next fit must differ."""
        text = f'[agent]\nfingerprint_interval_s = 1.0\n[runtime]\nenabled = ["{runtime}"]\n'
        new = self._settings.with_suffix(".new")
        new.write_text(text)
        new.replace(self._settings)  # the agent may look at any moment

    def _start(self, *command: str) -> subprocess.Popen[bytes]:
        return start(list(command), self._folder / f"{command[0]}.log", self._env)

    def _addresses(self) -> dict[str, Any] | None:
        process = self._processes["controller"]
        log = self._folder / "controller.log"
        assert process.poll() is None, f"the controller ended: {log.read_text()[-2000:]}"
        with suppress(FileNotFoundError):
            found: dict[str, Any] = json.loads((self.data / "controller.json").read_text())
            return found if found["pid"] == process.pid else None
        return None

    # Looking

    def sees(self, look: Callable[[Stack], Any]) -> Any:
        """What ``look`` finds; nothing while nobody answers."""
        try:
            return look(self)
        except (UserError, Temporary, AgentError):
            return None

    def wait(self, what: str, look: Callable[[Stack], Any]) -> Any:
        return wait_for(what, lambda: self.sees(look), every_s=LOOK_S)

    def device(self) -> fleet.Device:
        return self.client.device(DEVICE)

    def slot(self) -> SlotReport:
        """What the device says of its slot; its name is the model's."""
        reported = self.device().reported
        return reported.slots[0] if reported and reported.slots else SlotReport(slot="")

    def samples(self) -> int:
        return self.client.telemetry(DEVICE, "cpu_mhz", 1).samples

    def job(self) -> fleet.FitJob:
        """The newest fit."""
        return self.client.fits()[-1]

    def deployments(self) -> list[fleet.Deployment]:
        rollouts = [self.client.rollout(made.id) for made in self.client.rollouts()]
        return [deployment for view in rollouts for deployment in view.deployments]

    def on_device(self) -> tuple[int, DeploymentState]:
        """How many deployments the agent's journal has, and where the newest stands."""
        found = status.read(Folders(data_dir=self.edge), Settings()).deployments
        return len(found), found[0].state if found else DeploymentState.IDLE

    def counter_on_device(self) -> int:
        """Of the release that the journal says is committed."""
        slots = status.read(Folders(data_dir=self.edge), Settings()).slots
        return slots[0].counter if slots else 0
