"""The unmodified agent as real arm64 processes on two boards, with a real controller on x86.

Enrol, fetch, verify, stage, calibrate, benchmark, commit, serve. What the boards answer is compared
with this machine's answers by tolerance: floating point differs in its last digits from one
instruction set to the next, and an integer layer turns some of that into whole steps.
"""

from __future__ import annotations

import json
import os
import shutil
import subprocess
from collections.abc import Iterator
from contextlib import ExitStack, closing
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest

from agent.desk import Folders
from agent.jobs import RuntimeOptions
from agent.slots import OVERLAY
from agent.workers import installed
from controller.cli.common import connect
from controller.client import Client
from controller.domain import fleet
from controller.domain.fleet import JobStatus
from controller.examples.onnx_only import workload as example
from controller.gateway.broker import find_mosquitto
from fitment.core.deployment import Outcome
from fitment.core.measurement import Verdict
from tests.e2e import arm64
from tests.e2e.processes import children, environment, running, stop, wait_for
from tests.integration.test_workers_serve import Client as Application

pytestmark = pytest.mark.e2e

SLOT = "onnx_only"
LONG_S = 400.0
"""An emulated process takes ten times as long to begin, and this machine does other things too."""
IMAGE = (1, 14, 14)
ASKED = 64
"""Inputs that each board is asked for answers to."""
SAME_CLASS = 62
CLOSE = 0.1  # of the answers' standard deviation: a few steps of an int8 layer


@dataclass(frozen=True, kw_only=True)
class Device:
    """One board of the test."""

    name: str
    board: str  # and the profile that must be matched
    runtime: str
    gain: float  # of its camera

    @property
    def calibrates(self) -> bool:
        return self.gain != 1.0


PI = Device(name="pi", board="raspberry-pi-5", runtime="onnx", gain=0.35)
JETSON = Device(name="jetson", board="jetson-orin-nano", runtime="litert", gain=1.0)
DEVICES = (PI, JETSON)


@dataclass(frozen=True, kw_only=True)
class World:
    """A controller on this machine and the boards that it looks after."""

    folder: Path
    env: dict[str, str]
    root: Path
    userland: arm64.Userland
    client: Client

    def folders(self, device: Device) -> Folders:
        return Folders(data_dir=self.folder / device.name / "data")

    def board(self, device: Device) -> arm64.Board:
        return arm64.Board(root=self.folder / device.name / "root", userland=self.userland)

    def start(self, device: Device, *command: str) -> subprocess.Popen[bytes]:
        """One of the agent's commands, on the board; what it answers is in a file of its name."""
        board, data = self.board(device), self.folders(device).data_dir
        with (data.parent / f"{command[0]}.log").open("wb") as log:
            return subprocess.Popen(
                [board.python, "-m", "agent", *command, "--data-dir", data],
                env=board.environment(self.root, self.env), stdin=subprocess.DEVNULL,
                stdout=log, stderr=log,
            )  # fmt: skip

    def said(self, device: Device, command: str) -> str:
        return (self.folder / device.name / f"{command}.log").read_text()


@pytest.fixture
def world(root: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[World]:
    tmp_path = tmp_path_factory.mktemp("arm")  # short: a socket's path has at most 100 bytes
    userland = arm64.userland(root)
    data = tmp_path / "fleet"
    link = "mqtt" if find_mosquitto().program else "grpc"
    env = environment(data) | {"FITMENT_LINK": link, "FITMENT_AUTO_APPROVE": "true"}
    with ExitStack() as ends:
        ends.enter_context(running(["controller", "serve"], tmp_path / "serve.log", env))
        wait_for("serving", (data / "controller.json").exists)
        client = ends.enter_context(connect("", data))
        made = World(folder=tmp_path, env=env, root=root, userland=userland, client=client)
        for device in DEVICES:
            prepare(made, device)
        enrol(made)
        for device in DEVICES:
            ends.callback(stop, made.start(device, "run"))
        yield made


def prepare(world: World, device: Device) -> None:
    """A board with its agent's settings, which name no board and no emulation, and its samples."""
    arm64.make(world.userland, device.board, world.folder / device.name / "root")
    data = world.folders(device).data_dir
    samples = data / "samples"
    samples.mkdir(parents=True)
    np.save(samples / "seen.npy", np.rint(pictures()[:256] * device.gain).astype(np.uint8))
    (data / "config.toml").write_text(
        "[agent]\nfingerprint_interval_s = 10.0\n"
        f'[runtime]\nenabled = ["{device.runtime}"]\n[samples]\n{SLOT} = "{samples}"\n'
    )


def pictures() -> Any:
    """Test images uint8 [N, 1, 14, 14] of the example."""
    found = example.data("test")
    assert found is not None
    return found[0].reshape(-1, *IMAGE)


def enrol(world: World) -> None:
    started = {}
    for device in DEVICES:
        token = world.client.create_token()
        started[device] = world.start(
            device, "enroll", "--controller", token.enroll, "--token", token.text,
            "--device", device.name, "--json",
        )  # fmt: skip
    for device, process in started.items():
        assert process.wait(LONG_S) == 0, world.said(device, "enroll")
        assert json.loads(world.said(device, "enroll"))["device"] == device.name


def test_boards_of_another_architecture_go_all_the_way(world: World) -> None:
    register(world)
    for device in DEVICES:
        wait_for(
            f"the profile of {device.name}", lambda d=device: profile(world, d), within_s=LONG_S
        )
        it_says_what_it_is(world.client.device(device.name), device)
    jobs = world.client.start_fits(SLOT)
    wait_for("the fits", lambda: all(fitted(world, job.id) for job in jobs), within_s=LONG_S)
    for job in jobs:
        no_time_was_asked_for(world.client.fit(job.id))
    release = world.client.create_release(SLOT)
    world.client.create_rollout(release.id, waves=[1.0])
    for device in DEVICES:
        ended = wait_for(
            f"the end on {device.name}", lambda d=device: outcome(world, d), within_s=LONG_S
        )
        it_committed(ended, device)
        it_answers_as_this_machine_does(world, device)


def register(world: World) -> None:
    """The example without training, with calibration for one of the boards.

    Only convolutions are calibrated, so its first layer is written as the one that it is equal to:
    14x14 pixels under a window of 14x14.
    """
    folder = world.folder / "workload"
    shutil.copytree(Path(example.__file__).parent, folder)
    model = onnx.load(folder / "model.onnx")
    first, weights = model.graph.node[0], model.graph.initializer[0]
    assert (first.op_type, list(first.input)[1]) == ("Gemm", weights.name)
    weights.dims[:] = [weights.dims[0], *IMAGE]
    conv = onnx.helper.make_node("Conv", first.input, ["windows"])
    flat = onnx.helper.make_node("Flatten", ["windows"], first.output)
    model.graph.node.remove(first)
    for place, node in enumerate((conv, flat)):
        model.graph.node.insert(place, node)
    shape = model.graph.input[0].type.tensor_type.shape
    del shape.dim[1:]
    for size in IMAGE:
        shape.dim.add(dim_value=size)
    onnx.checker.check_model(model, full_check=True)
    onnx.save(model, folder / "model.onnx")
    path, text = folder / "workload.py", Path(example.__file__).read_text()
    calibrated = [device.board for device in DEVICES if device.calibrates]
    for old, new in (
        ("(196,)", f"{IMAGE}\ncalibrate_profiles = {calibrated}"),
        ('_inputs"]', f'_inputs"].reshape(-1, *{IMAGE})'),
    ):
        assert text.count(old) == 1
        text = text.replace(old, new)
    path.write_text(text)
    world.client.register_model(str(path))


def profile(world: World, device: Device) -> str:
    return world.client.device(device.name).profile


def it_says_what_it_is(known: fleet.Device, device: Device) -> None:
    assert known.profile == device.board, known.profile_reason
    assert known.reported is not None
    seen = known.reported.fingerprint
    assert seen.emulated
    assert seen.translated_on == os.uname().machine
    assert seen.hardware.facts["machine"] == "aarch64"
    assert seen.runtimes() == (device.runtime,)


def fitted(world: World, job: str) -> bool:
    found = world.client.fit(job)
    assert found.status is not JobStatus.FAILED, found.error
    return found.status is JobStatus.DONE


def no_time_was_asked_for(job: fleet.FitJob) -> None:
    """An emulator is asked for no kernel table and no confirmation."""
    assert job.studies == ()
    assert job.choice is not None
    assert job.choice.chosen, job.choice.reason
    assert "latency unknown" in job.choice.reason


def outcome(world: World, device: Device) -> fleet.Deployment | None:
    found = world.client.deployments(device=device.name)
    return found[0] if found and found[0].outcome is not None else None


def it_committed(ended: fleet.Deployment, device: Device) -> None:
    assert ended.outcome is Outcome.COMMITTED, ended.reasons
    taken = ended.measurement
    assert taken is not None
    assert taken.latency is not None
    assert (taken.verdict, taken.emulated) == (Verdict.EMULATED, True)
    assert taken.golden_ok
    assert taken.runtime.startswith(device.runtime)
    assert taken.agreement is not None
    assert taken.agreement >= 0.9
    if device.calibrates:
        assert ended.calibration is not None
        assert ended.calibration.applied, ended.calibration.reason


def it_answers_as_this_machine_does(world: World, device: Device) -> None:
    """An application on this machine asks the board's socket; the same files answer here."""
    serving = world.start(device, "serve", "--slot", SLOT, "--json")
    try:
        socket = world.folders(device).serving / f"{SLOT}.sock"
        wait_for("serving", lambda: serving.poll() is not None or socket.exists(), within_s=LONG_S)
        assert serving.poll() is None, world.said(device, "serve")
        every = [serving.pid, *children(serving.pid)]
        programs = {Path(f"/proc/{pid}/exe").resolve() for pid in every}
        assert (len(every), programs) == (2, {world.userland.qemu.resolve()})
        inputs, answers = ask(socket, device)
    finally:
        stop(serving)
    compare(answers, here(world, device, inputs))


def ask(socket: Path, device: Device) -> tuple[Any, Any]:
    """Inputs in the layout that the board's variant takes, and its answers."""
    seen = pictures()[-ASKED:].astype(np.float32) * np.float32(device.gain / 255.0)
    with closing(Application(socket)) as application:
        shape = application.ask({"op": "io"}).header["io"]["inputs"][0]["shape"]
        inputs = seen.reshape(-1, *shape[1:])  # of one channel, so nothing has to be moved
        answer = application.ask({"op": "infer"}, inputs)
    assert answer.header["ok"], answer.header
    return inputs, answer.tensors[0]


def here(world: World, device: Device, inputs: Any) -> Any:
    """This machine's answers with the files that the board serves."""
    link = world.folders(device).slots / SLOT / "active"
    overlay = link / OVERLAY
    assert overlay.exists() == device.calibrates
    bundle = installed.read(link.resolve())
    loaded = installed.load(
        bundle, RuntimeOptions(), overlay=str(overlay.resolve()) if device.calibrates else ""
    )
    return installed.answers(loaded.session, inputs)


def compare(theirs: Any, ours: Any) -> None:
    assert theirs.shape == ours.shape
    worst = float(np.abs(theirs - ours).max() / ours.std())
    same = int((theirs.argmax(axis=1) == ours.argmax(axis=1)).sum())
    print(f"worst difference {worst:.2e} of the spread, {same} of {ASKED} in the same class")
    assert worst <= CLOSE
    assert same >= SAME_CLASS
