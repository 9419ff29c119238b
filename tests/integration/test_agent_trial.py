"""Who bears a variant on trial out: a real server and real applications beside a real agent."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import pytest

from agent.slots import Slots
from controller.artifacts.packing import pack_into
from fitment.core.deployment import Outcome
from tests.integration.test_agent_process import DEVICE, FOUND, PLAN, Place
from tests.integration.test_ladder import CHOSEN, EXACT, NARROW
from tests.integration.worker_models import affine_bundle

pytestmark = pytest.mark.skipif(FOUND.program is None, reason=FOUND.reason)

OTHER_STACK = {"FITMENT_AGENT_RUNTIME_DISABLED_OPTIMIZERS": "ConvMulFusion"}
"""The goldens of both files see it: a process with it refuses what the agent finds right."""
TAKEOVER_S = 20.0


class Trials:
    """One agent, whose slot ``shoes`` gets one variant after the other."""

    def __init__(self, place: Place, root: Path) -> None:
        self.place, self.root, self.counter = place, root, 0
        place.enroll()
        self.sockets = place.folder / "run"
        config = place.data_dir / "config.toml"
        config.write_text(
            config.read_text()
            + f"[serving]\nsockets = '{self.sockets}'\ntakeover_s = {TAKEOVER_S}\n"
        )
        place.run()
        self.slots = Slots(place.data_dir / "slots")
        self.processes: list[subprocess.Popen[str]] = []

    def deploy(self, tolerance: float) -> tuple[Outcome | None, str]:
        """Another variant; how it ended, and why."""
        self.counter += 1
        name, place = f"v{self.counter}", self.place
        folder = place.folder / "bundles" / name
        model = replace((CHOSEN, NARROW)[self.counter % 2], name=name)
        affine_bundle(folder, model, tolerance=tolerance)
        ref = place.controller.sign(pack_into(folder, place.controller.blobs, place.folder), name)
        order = place.controller.assignment(ref, counter=self.counter, device=DEVICE)
        deployment = f"d-{self.counter}"
        place.wish(replace(order, deployment=deployment, benchmark=PLAN, trial_s=0.1))
        outcome = place.outcome(deployment, 60.0)
        reports = [r for state in place.reported for r in state.deployments]
        return outcome, " ".join(
            reason for r in reports if r.deployment == deployment for reason in r.reasons
        )

    def start(self, *command: str, **environment: str) -> subprocess.Popen[str]:
        process = subprocess.Popen(
            [sys.executable, *command], cwd=self.root, env={**os.environ, **environment},
            stdout=subprocess.PIPE, stdin=subprocess.PIPE, text=True,
        )  # fmt: skip
        self.processes.append(process)
        return process

    def serve(self, **environment: str) -> subprocess.Popen[str]:
        process = self.start(
            "-m", "agent", "serve", "--slot", "shoes", "--json",
            "--data-dir", str(self.place.data_dir), **environment,
        )  # fmt: skip
        assert process.stdout is not None
        assert json.loads("".join(iter(process.stdout.readline, "}\n")) + "}")["slot"] == "shoes"
        return process

    def end(self, process: subprocess.Popen[str]) -> None:
        process.terminate()
        process.communicate(timeout=30)

    def close(self) -> None:
        for process in self.processes:
            if process.poll() is None:
                process.kill()
            process.communicate()


@pytest.fixture
def trials(tmp_path: Path, root: Path) -> Iterator[Trials]:
    place = Place(tmp_path)
    made = Trials(place, root)
    yield made
    made.close()
    place.close()


def test_no_variant_is_committed_that_its_server_refuses(trials: Trials) -> None:
    assert trials.deploy(1e-3)[0] is Outcome.COMMITTED
    server = trials.serve(**OTHER_STACK)
    outcome, why = trials.deploy(EXACT)  # right for the agent's own check, wrong for the server's
    assert outcome is Outcome.ROLLED_BACK, why
    assert "on trial: the server of slot 'shoes' has sha256:" in why
    assert "answers wrong" in why
    assert trials.slots.active("shoes") == "a"
    assert trials.deploy(1e-3)[0] is Outcome.COMMITTED
    trials.end(server)
