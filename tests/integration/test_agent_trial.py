"""Who bears a variant on trial out: a real server and real applications beside a real agent."""

from __future__ import annotations

import contextlib
import json
import os
import subprocess
import sys
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import pytest

from agent import client
from agent.slots import Slots
from controller.artifacts.packing import pack_into
from fitment.core import digest
from fitment.core.deployment import Outcome, ShadowPlan
from tests.integration.test_agent_process import DEVICE, FOUND, PLAN, Place
from tests.integration.test_ladder import CHOSEN, EXACT, NARROW
from tests.integration.test_serving_swaps import Load
from tests.integration.worker_models import affine_bundle

pytestmark = pytest.mark.skipif(FOUND.program is None, reason=FOUND.reason)

OTHER_STACK = {"FITMENT_AGENT_RUNTIME_DISABLED_OPTIMIZERS": "ConvMulFusion"}
"""The goldens of both files see it: a process with it refuses what the agent finds right."""


class Trials:
    """One agent, whose slot ``shoes`` gets one variant after the other."""

    def __init__(self, place: Place, root: Path) -> None:
        self.place, self.root, self.counter = place, root, 0
        place.enroll()
        self.sockets = place.folder / "run"
        self._given = (place.data_dir / "config.toml").read_text()
        self.settings(takeover_s=60.0)
        place.run()
        self.slots = Slots(place.data_dir / "slots")
        self.processes: list[subprocess.Popen[str]] = []

    def settings(self, *, takeover_s: float) -> None:
        config = self.place.data_dir / "config.toml"
        new = config.with_name("config.new")
        new.write_text(
            f"{self._given}[serving]\nsockets = '{self.sockets}'\ntakeover_s = {takeover_s}\n"
        )
        new.replace(config)

    def run(self, name: str, how: str) -> subprocess.Popen[str]:
        """An application that has loaded what serves."""
        path = str(self.sockets / "applications")
        process = self.start("-c", APPLICATION, name, path, how)
        assert process.stdout is not None
        assert process.stdout.readline() == "ready\n"
        return process

    def deploy(
        self, tolerance: float, shadow: ShadowPlan | None = None
    ) -> tuple[Outcome | None, str]:
        """Another variant; how it ended, and why."""
        deployment = self.order(tolerance, shadow)
        outcome = self.place.outcome(deployment, 60.0)
        reports = [r for state in self.place.reported for r in state.deployments]
        return outcome, " ".join(
            reason for r in reports if r.deployment == deployment for reason in r.reasons
        )

    def order(self, tolerance: float, shadow: ShadowPlan | None = None) -> str:
        self.counter += 1
        name, place = f"v{self.counter}", self.place
        folder = place.folder / "bundles" / name
        model = replace((CHOSEN, NARROW)[self.counter % 2], name=name)
        affine_bundle(folder, model, tolerance=tolerance)
        ref = place.controller.sign(pack_into(folder, place.controller.blobs, place.folder), name)
        order = place.controller.assignment(ref, counter=self.counter, device=DEVICE)
        deployment = f"d-{self.counter}"
        changed = replace(order, deployment=deployment, benchmark=PLAN, shadow=shadow, trial_s=0.1)
        place.wish(changed)
        return deployment

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


SEEN = ShadowPlan(seconds=2.0, inputs=20, agreement_min=0.99, needed=True)
APPLICATION = """
import sys, time
import onnxruntime
from agent.client import AwayError, register

name, path, obeys = sys.argv[1], sys.argv[2], sys.argv[3] == "obeys"
lease = register(name, "shoes", path)

def load():
    return onnxruntime.InferenceSession(lease.folder + "/model.onnx")

session = load()
lease.loaded(lease.variant)
print("ready", flush=True)
given = lease.variant
while True:
    if lease.renew() and obeys:
        session = load()
        lease.loaded(lease.variant)
    if lease.variant != given:
        given = lease.variant
        print(given, flush=True)
    lease.report([0.1])
    time.sleep(0.05)
"""


def test_a_variant_is_committed_only_when_those_who_run_it_bear_it_out(trials: Trials) -> None:
    assert trials.deploy(1e-3)[0] is Outcome.COMMITTED
    _a_server_that_refuses_it(trials)
    server, obedient = trials.serve(), trials.run("cam", "obeys")
    load = Load(f"unix:{trials.sockets / 'shoes.grpc'}", callers=1)
    try:
        outcome, why = trials.deploy(EXACT, SEEN)
    finally:
        load.end()
    assert (outcome, load.failures) == (Outcome.COMMITTED, []), why
    notes = " ".join(note for state in trials.place.reported for note in state.notes)
    assert "in the shadow: 2 s of live inputs are asked" in notes
    committed = digest.digest_bytes((trials.slots.link("shoes") / "bundle.json").read_bytes())
    with contextlib.closing(client.Slot.open(trials.sockets / "shoes.sock")) as slot:
        assert slot.stats()["variant"] == committed
    assert obedient.stdout is not None
    assert obedient.stdout.readline().strip() == committed
    trials.end(server)
    trials.end(obedient)
    _an_application_that_keeps_the_old_one(trials, committed)
    _an_application_that_dies(trials)


def _a_server_that_refuses_it(trials: Trials) -> None:
    server = trials.serve(**OTHER_STACK)
    outcome, why = trials.deploy(EXACT)  # right for the agent's own check, wrong for the server's
    assert outcome is Outcome.ROLLED_BACK, why
    assert "on trial: the server of slot 'shoes' has sha256:" in why
    assert "answers wrong" in why
    trials.end(server)


def _an_application_that_keeps_the_old_one(trials: Trials, committed: str) -> None:
    stubborn = trials.run("stubborn", "keeps")
    trials.settings(takeover_s=2.0)
    outcome, why = trials.deploy(EXACT)
    assert outcome is Outcome.ROLLED_BACK, why
    assert f"on trial: application 'stubborn' has {committed[:19]} and not sha256:" in why
    assert "application 'cam'" not in why
    trials.end(stubborn)
    trials.settings(takeover_s=60.0)


def _an_application_that_dies(trials: Trials) -> None:
    """One that ends with what is on trial may have ended by it: that is not committed."""
    mortal = trials.run("mortal", "keeps")
    deployment = trials.order(EXACT)
    assert mortal.stdout is not None
    assert mortal.stdout.readline().startswith("sha256:")  # it was given what is on trial
    assert "committing" not in trials.place.states(deployment)
    trials.end(mortal)
    trials.settings(takeover_s=2.0)
    assert trials.place.outcome(deployment, 60.0) is Outcome.ROLLED_BACK
    reports = [r for state in trials.place.reported for r in state.deployments]
    why = " ".join(why for r in reports if r.deployment == deployment for why in r.reasons)
    assert "on trial: application 'mortal' does not answer" in why
