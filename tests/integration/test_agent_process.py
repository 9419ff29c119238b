"""The agent as what it is: a process with real workers, a real gateway and a real broker."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import paho.mqtt.client as paho
import pytest
from paho.mqtt.enums import CallbackAPIVersion

from agent.cli import main
from controller.artifacts.packing import pack_into
from controller.gateway.broker import find_mosquitto, free_port
from fitment.core import digest
from fitment.core.deployment import (
    Assignment,
    BenchmarkPlan,
    DesiredState,
    Outcome,
    ReportedState,
    Study,
    StudyKind,
)
from fitment.core.link import Downlink, Uplink
from fitment.core.telemetry import Ack, TelemetryBatch
from fitment.wire import codec, topics
from tests.integration.gateway_peers import wait_for
from tests.integration.trust_server import Controller
from tests.integration.worker_models import affine_bundle, affine_models, probe_bundle

FOUND = find_mosquitto()
pytestmark = pytest.mark.skipif(FOUND.program is None, reason=FOUND.reason)

DEVICE = "cam-1"
PLAN = BenchmarkPlan(min_runs=50, min_seconds=0.05, max_seconds=2.0, warmup_max_seconds=0.2)
RUN = """
import json, sys
from agent.cli import main
code = main(sys.argv[1:])
print(json.dumps(sorted(sys.modules)))
sys.exit(code)
"""
NEVER = (
    "grpc", "numpy", "cryptography", "tuf", "onnxruntime", "ai_edge_litert", "torch",
    "agent.workers",
)  # fmt: skip


class Place:
    """A controller's end: broker, gateway, and what the device said."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.controller = Controller(folder / "controller")
        self.port = free_port("127.0.0.1")
        config = folder / "mosquitto.conf"
        config.write_text(f"listener {self.port} 127.0.0.1\nallow_anonymous true\nuser root\n")
        assert FOUND.program is not None
        self._broker = subprocess.Popen(
            [FOUND.program, "-c", str(config)], stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL
        )
        self.reported: list[ReportedState] = []
        self.telemetry: list[TelemetryBatch] = []
        self.presences: list[bool] = []
        self._ready = threading.Event()
        client = paho.Client(CallbackAPIVersion.VERSION2, client_id="ctl.1", protocol=paho.MQTTv311)
        client.reconnect_delay_set(1, 1)
        client.on_connect = lambda c, *_: c.subscribe(topics.ALL_UP, qos=1)
        client.on_subscribe = lambda *_: self._ready.set()
        client.on_message = self._take
        self._client = client
        client.connect_async("127.0.0.1", self.port)
        client.loop_start()
        assert self._ready.wait(60)
        self.data_dir = folder / "agent"
        self.generation = 0
        self.agents: list[subprocess.Popen[str]] = []

    def _take(self, _client: Any, _data: Any, message: Any) -> None:
        uplink = codec.decode(Uplink, bytes(message.payload))
        if uplink.reported is not None:
            self.reported.append(uplink.reported)
        if uplink.telemetry is not None:
            self.telemetry.append(uplink.telemetry)
        if uplink.presence is not None:
            self.presences.append(uplink.presence.online)

    def enroll(self) -> None:
        self.data_dir.mkdir()
        (self.data_dir / "config.toml").write_text(
            f"[agent]\nmqtt = 'mqtt://127.0.0.1:{self.port}'\nfingerprint_interval_s = 0.5\n"
        )
        code = main([
            "enroll", "--data-dir", str(self.data_dir), "--device", DEVICE, "--json",
            "--controller", self.controller.enroll_address, "--token", self.controller.token(),
        ])  # fmt: skip
        assert code == 0

    def run(self) -> subprocess.Popen[str]:
        agent = subprocess.Popen(
            [sys.executable, "-c", RUN, "run", "--data-dir", str(self.data_dir)],
            stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, cwd="/",
            env={**os.environ, "OMP_NUM_THREADS": "1"},
        )  # fmt: skip
        self.agents.append(agent)
        return agent

    def order(self, name: str, model: int, *, counter: int) -> Assignment:
        """Sign and approve a bundle with a real model."""
        folder = self.folder / "bundles" / name
        affine_bundle(folder, affine_models()[model])
        ref = self.controller.sign(pack_into(folder, self.controller.blobs, self.folder), name)
        order = self.controller.assignment(ref, counter=counter, device=DEVICE)
        return replace(order, deployment=f"d-{counter}", benchmark=PLAN, trial_s=0.1)

    def study(self) -> Study:
        folder = self.folder / "bundles" / "probe"
        probe_bundle(folder)
        ref = self.controller.sign(pack_into(folder, self.controller.blobs, self.folder), "probe")
        return Study(id="s-1", kind=StudyKind.PROBE, device=DEVICE, bundle=ref, benchmark=PLAN)

    def wish(self, *orders: Assignment | Study) -> None:
        self.generation += 1
        sign = self.controller.trust.director.sign
        desired = DesiredState(
            generation=self.generation, telemetry_interval_s=0.2, reconnect_jitter_s=0.0,
            assignments=tuple(sign(o) for o in orders if isinstance(o, Assignment)),
            studies=tuple(sign(o) for o in orders if isinstance(o, Study)),
        )  # fmt: skip
        topic = topics.topic(DEVICE, topics.DESIRED)
        self._client.publish(topic, codec.encode(Downlink(desired=desired)), qos=1, retain=True)

    def ack(self, batch: TelemetryBatch) -> None:
        ack = Downlink(ack=Ack(outbox=batch.outbox, sequence=batch.sequence))
        self._client.publish(topics.topic(DEVICE, topics.ACK), codec.encode(ack), qos=1)

    def outcome(self, deployment: str, timeout_s: float = 40.0) -> Outcome | None:
        def ended() -> Outcome | None:
            reports = (r for state in reversed(self.reported) for r in state.deployments)
            return next((r.outcome for r in reports if r.deployment == deployment), None)

        wait_for(lambda: ended() is not None, timeout_s)
        return ended()

    def states(self, deployment: str) -> set[str]:
        reports = (r for state in self.reported for r in state.deployments)
        return {r.state.value for r in reports if r.deployment == deployment}

    def close(self) -> None:
        for agent in self.agents:
            if agent.poll() is None:
                agent.kill()
            agent.communicate()
        self._client.disconnect()
        self._client.loop_stop()
        self._client.on_connect = self._client.on_subscribe = self._client.on_message = None
        self._broker.terminate()
        self._broker.wait()
        self.controller.stop()


@pytest.fixture
def place(tmp_path: Path) -> Iterator[Place]:
    made = Place(tmp_path)
    yield made
    made.close()


def stop(agent: subprocess.Popen[str]) -> list[str]:
    """End it in order; returns the modules that it had loaded."""
    agent.send_signal(signal.SIGTERM)
    out, errors = agent.communicate(timeout=20)
    assert agent.returncode == 0, errors
    modules: list[str] = json.loads(out.splitlines()[-1])
    return modules


def test_from_a_token_to_a_committed_variant_and_its_successor(
    place: Place, capsys: pytest.CaptureFixture[str]
) -> None:
    place.enroll()
    assert json.loads(capsys.readouterr().out)["device"] == DEVICE
    agent = place.run()
    first = place.order("first", 0, counter=1)
    place.wish(first)
    assert place.outcome("d-1") is Outcome.COMMITTED, [r.deployments for r in place.reported[-1:]]
    second = place.order("second", 1, counter=2)
    place.wish(second, place.study())
    assert place.outcome("d-2") is Outcome.COMMITTED
    assert wait_for(lambda: place.reported[-1].studies_done == ("s-1",), 30)
    state = place.reported[-1]
    (slot,) = state.slots
    assert (slot.variant, slot.counter, slot.serving) == (second.bundle.variant, 2, True)
    report = next(r for r in state.deployments if r.deployment == "d-2")
    assert report.delta_base == first.bundle.variant, report.reasons
    assert 0 < report.fetched_bytes < second.bundle.archive_bytes
    measured = report.measurement
    assert measured is not None
    assert measured.latency is not None
    assert measured.baseline == first.bundle.variant
    assert [bool(s.kernels.timings) for s in place.controller.book.submitted] == [True]
    active = place.data_dir / "slots" / "shoes" / "active" / "bundle.json"
    assert digest.digest_bytes(active.read_bytes()) == second.bundle.variant
    modules = stop(agent)
    assert [name for name in NEVER if name in modules] == []
    assert "paho.mqtt.client" in modules
    assert wait_for(lambda: place.presences[-1] is False)
    assert state.supervisor_anonymous_bytes is not None
    assert state.supervisor_anonymous_bytes <= 20 * 2**20
    assert main(["status", "--data-dir", str(place.data_dir), "--json"]) == 0
    shown = json.loads(capsys.readouterr().out)
    assert [d["outcome"] for d in shown["deployments"]] == ["committed", "committed"]


def test_telemetry_arrives_and_leaves_the_outbox_when_acknowledged(place: Place) -> None:
    place.enroll()
    agent = place.run()
    place.wish()
    assert wait_for(lambda: len(place.telemetry) >= 3)
    batch = place.telemetry[2]
    assert batch.columns["supervisor_anonymous_mib"].values[0] > 1.0
    place.ack(batch)
    assert wait_for(lambda: place.telemetry[-1].first_available == batch.sequence + 1)
    stop(agent)


@pytest.mark.parametrize("state", ["fetching", "trial"])
def test_a_killed_agent_goes_on_where_it_was(state: str, place: Place) -> None:
    place.enroll()
    order = place.order("first", 0, counter=1)
    agent = place.run()
    place.wish(replace(order, trial_s=1.5))
    assert wait_for(lambda: state in place.states("d-1"), 30)
    agent.kill()
    agent.communicate()
    workers = _workers_of(place.data_dir)
    assert wait_for(lambda: not _workers_of(place.data_dir), 5), workers
    place.run()
    assert place.outcome("d-1") is Outcome.COMMITTED
    assert place.presences[:2] == [True, False]


def test_a_changed_setting_is_a_changed_stack_and_is_checked_first(place: Place) -> None:
    place.enroll()
    place.run()
    place.wish(place.order("first", 0, counter=1))
    assert place.outcome("d-1") is Outcome.COMMITTED
    before = place.reported[-1]
    config = place.data_dir / "config.toml"
    config.write_text(config.read_text() + "[runtime]\nthreads = 2\n")

    def again() -> bool:
        state = place.reported[-1]
        changed = state.fingerprint.stack.hash != before.fingerprint.stack.hash
        return changed and state.slots[0].serving

    assert wait_for(again, 30)
    states = place.reported[place.reported.index(before) :]
    changed = [s for s in states if s.fingerprint != before.fingerprint]
    assert changed[0].slots[0].serving is False


def test_two_agents_on_one_device_are_one_too_many(
    place: Place, capsys: pytest.CaptureFixture[str]
) -> None:
    place.enroll()
    place.run()
    assert wait_for(lambda: place.presences == [True])
    assert main(["run", "--data-dir", str(place.data_dir)]) == 1
    assert "another agent runs" in capsys.readouterr().err


def test_a_gateway_that_is_down_burns_nothing(place: Place) -> None:
    place.enroll()
    order = place.order("first", 0, counter=1)
    place.controller.faults.busy_s = 0.5
    place.run()
    place.wish(order)
    assert wait_for(lambda: "fetching" in place.states("d-1"), 30)
    time.sleep(3.0)
    assert place.states("d-1") == {"fetching"}
    place.controller.faults.busy_s = None
    assert place.outcome("d-1") is Outcome.COMMITTED


def _workers_of(data_dir: Path) -> list[str]:
    """Command lines of workers whose job lies in this data directory."""
    found = []
    for path in Path("/proc").glob("[0-9]*/cmdline"):
        try:
            words = path.read_bytes().decode().replace("\0", " ")
        except OSError:
            continue
        if "agent.workers." in words and str(data_dir) in words:
            found.append(words)
    return found
