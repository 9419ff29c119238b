"""The ladder with real parts: an agent, a serving process under load, and a board that gets hot."""

from __future__ import annotations

import json
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from onnx import TensorProto, helper, numpy_helper

from agent.hardware import boards
from agent.slots import Slots
from agent.workers import io_check
from agent.workers.child import JobError
from controller.artifacts.packing import pack_into
from fitment.core.bundle import BundleManifest, IoSpec, TensorSpec
from fitment.core.deployment import BundleRef, Lesser, Outcome, Pressure, SlotReport
from fitment.core.telemetry import TelemetryBatch
from fitment.oip import open_inference_pb2 as pb
from tests.integration.serving_models import Client, offered, output
from tests.integration.test_agent_process import DEVICE, FOUND, PLAN, Place
from tests.integration.test_serving_swaps import Load
from tests.integration.test_workers_serve import Client as Frames
from tests.integration.worker_models import (
    Affine,
    affine_bundle,
    affine_inputs,
    affine_models,
    onnx_scaled,
    write_bundle,
)

pytestmark = pytest.mark.skipif(FOUND.program is None, reason=FOUND.reason)

ZONE = "sys/class/thermal/thermal_zone0/temp"
BOARD = "raspberry-pi-5-live"
EXACT = 1e-9  # so that goldens see that a fusion is gone
CHOSEN = Affine("onnx", "onnx", "chosen", onnx_scaled(3.7), EXACT, 0.0)
NARROW = Affine("onnx", "onnx", "narrow", onnx_scaled(0.37), EXACT, 0.0)
PORTABLE = affine_models()[2]  # LiteRT, in floating point
BROKEN = "[runtime]\ndisabled_optimizers = ['ConvMulFusion']\n"
"""An option that changes which kernels run: the goldens of both ONNX files see it."""
WAIT_S = 60.0


def serve(root: Path, data_dir: Path, slot: str = "shoes") -> tuple[subprocess.Popen[str], str]:
    """``fitment-agent serve``, and its address once it answers."""
    process = subprocess.Popen(
        [sys.executable, "-m", "agent", "serve", "--slot", slot, "--json",
         "--data-dir", str(data_dir)],
        cwd=root, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True,
    )  # fmt: skip
    assert process.stdout is not None
    told = json.loads("".join(iter(process.stdout.readline, "}\n")) + "}")
    return process, str(told["open_inference"])


class Stage:
    """A place whose device is a board of files, with a ladder of three variants."""

    def __init__(self, place: Place, root: Path, folder: Path) -> None:
        self.place, self.root, self.board = place, root, folder / "board"
        archive = boards.parse((root / f"tests/fixtures/boards/{BOARD}.tree").read_text(), BOARD)
        for name, data in archive.files.items():
            (self.board / name).parent.mkdir(parents=True, exist_ok=True)
            (self.board / name).write_bytes(data)
        place.enroll()
        config = place.data_dir / "config.toml"
        config.write_text(
            config.read_text()
            + f"[hardware]\nroot = '{self.board}'\n"
            + f"[serving]\nsockets = '{folder / 'run'}'\n"
            + "[ladder]\ninterval_s = 0.1\ndwell_s = 0.2\ncalm_s = 0.5\n"
        )
        self.chosen = self._sign("chosen", CHOSEN, EXACT)
        self.narrow = self._sign("narrow", NARROW, EXACT)
        self.portable = self._sign("portable", PORTABLE, 1e-4)
        self.serving: list[subprocess.Popen[str]] = []

    def _sign(self, name: str, model: Affine, tolerance: float) -> BundleRef:
        folder = self.place.folder / "bundles" / name
        affine_bundle(folder, model, tolerance=tolerance)
        packed = pack_into(folder, self.place.controller.blobs, self.place.folder)
        return self.place.controller.sign(packed, name)

    def deploy(self) -> None:
        """Until the chosen variant is committed and both rungs stand ready."""
        ladder = (
            Lesser(bundle=self.narrow, relieves=(Pressure.HEAT,)),
            Lesser(bundle=self.portable, portable=True),
        )
        order = self.place.controller.assignment(
            self.chosen, counter=1, device=DEVICE, ladder=ladder
        )
        self.place.wish(
            replace(order, deployment="d-1", benchmark=PLAN, trial_s=0.1, throttle_c=85.0)
        )
        assert self.place.outcome("d-1", WAIT_S) is Outcome.COMMITTED
        self.until(lambda: [r.ready for r in self.slot.ladder] == [True, True])

    def serve(self) -> str:
        """Start ``fitment-agent serve``; its address once it answers."""
        process, address = serve(self.root, self.place.data_dir)
        self.serving.append(process)
        return address

    def stop_serving(self) -> dict[str, Any]:
        process = self.serving[-1]
        process.send_signal(signal.SIGTERM)
        out, errors = process.communicate(timeout=30)
        assert process.returncode == 0, errors
        return dict(json.loads(out))

    @property
    def slot(self) -> SlotReport:
        return self.place.reported[-1].slots[0]

    def sample(self) -> TelemetryBatch:
        """The newest; acknowledged, since a device sends only so many without an answer."""
        newest = self.place.telemetry[-1]
        self.place.ack(newest)
        return newest

    def heat(self, degrees: float) -> None:
        path = self.board / ZONE
        new = path.with_name("new")
        new.write_text(f"{degrees * 1000:.0f}\n")
        new.replace(path)

    def until(self, holds: Callable[[], bool]) -> None:
        end = time.monotonic() + WAIT_S
        while not holds():
            assert time.monotonic() < end, self.place.reported[-1]
            time.sleep(0.02)

    def close(self) -> None:
        for process in self.serving:
            if process.poll() is None:
                process.kill()
            process.communicate()


@pytest.fixture
def stage(tmp_path: Path, root: Path) -> Iterator[Stage]:
    place = Place(tmp_path)
    made = Stage(place, root, tmp_path)
    yield made
    made.close()
    place.close()


def test_down_and_back_under_load_and_over_a_changed_stack(stage: Stage, tmp_path: Path) -> None:
    """No request fails while heat comes and goes, nor when an update breaks the chosen variant."""
    place, inputs = stage.place, affine_inputs(1)
    place.run()
    stage.deploy()
    address = stage.serve()
    client, load = Client(address), Load(address, callers=2)

    def serves(wanted: BundleRef, rung: int) -> None:
        stage.until(lambda: client.infer(inputs).model_version == wanted.variant)
        stage.until(lambda: stage.slot.rung == rung)

    try:
        serves(stage.chosen, 0)
        stage.heat(84.5)
        serves(stage.narrow, 1)
        assert stage.slot.rung_reason == "heat: 84.5 °C, clocks are cut at 85.0"
        assert client.infer(inputs).parameters["rung"].int64_param == 1
        stage.until(lambda: stage.sample().tags.get("rung") == "1")
        assert place.telemetry[-1].tags["variant"] == stage.narrow.variant
        stage.heat(60.0)
        serves(stage.chosen, 0)
        _break_the_stack(stage)
        serves(stage.portable, 2)
        versions = {ref.variant for ref in (stage.chosen, stage.narrow, stage.portable)}
        stage.until(lambda: set(load.versions) == versions)
    finally:
        load.end()
        client.channel.close()
    assert load.failures == []
    assert stage.slot.golden_ok is False
    assert "rung 0 gave way: it answers the golden inputs wrongly" in _reasons(stage)
    assert stage.stop_serving()["errors"] == 0
    _what_starts_anew_serves_it_too(stage, tmp_path)


def _break_the_stack(stage: Stage) -> None:
    config = stage.place.data_dir / "config.toml"
    new = config.with_name("config.new")
    new.write_text(config.read_text() + BROKEN)
    new.replace(config)


def _reasons(stage: Stage) -> str:
    return " ".join(s.rung_reason for state in stage.place.reported for s in state.slots)


def _what_starts_anew_serves_it_too(stage: Stage, tmp_path: Path) -> None:
    client = Client(stage.serve())
    answer = client.infer(affine_inputs(1))
    assert answer.model_version == stage.portable.variant
    _, call = client.stub.ModelMetadata.with_call(pb.ModelMetadataRequest(name="shoes"), timeout=20)
    assert dict(call.trailing_metadata())["fitment-rung"] == "2"
    client.channel.close()
    frames = Frames(tmp_path / "run" / "shoes.sock")
    assert frames.ask({"op": "stats"}).header["rung"] == 2
    frames.close()
    told = "serving.shoes.rung"
    stage.until(lambda: told in (row := stage.sample().columns) and row[told].values == (2.0,))
    stage.stop_serving()


def test_a_worker_that_starts_on_a_broken_stack_waits_for_no_supervisor(
    tmp_path: Path, root: Path
) -> None:
    """After a boot with an update: the first rung whose goldens hold answers at once."""
    slots = Slots(tmp_path / "slots")
    models = ("shoes", CHOSEN, EXACT), ("shoes~1", NARROW, EXACT), ("shoes~2", PORTABLE, 1e-4)
    for slot, model, tolerance in models:
        slots.prepare(slot)
        variant = affine_bundle(slots.folder(slot, "a"), model, tolerance=tolerance)
        slots.switch(slot, "a")
    (tmp_path / "config.toml").write_text(BROKEN + f"[serving]\nsockets = '{tmp_path / 'run'}'\n")
    process, address = serve(root, tmp_path)
    try:
        client = Client(address)
        answer = client.infer(affine_inputs(1))
        assert (answer.model_version, answer.parameters["rung"].int64_param) == (variant, 2)
        client.channel.close()
    finally:
        process.send_signal(signal.SIGTERM)
        _, errors = process.communicate(timeout=30)
    assert "code=golden_failed" in errors
    assert process.returncode == 0


def image(folder: Path, layout: str, side: int = 4) -> str:
    """The same model of images in either layout, under the names that its tools give it."""
    rng = np.random.default_rng(5)
    pictures = rng.normal(size=(6, 2, side, side)).astype(np.float32)
    weights = rng.normal(size=(2 * side * side, 3)).astype(np.float32)
    turned = layout == "NHWC"
    shape = ("n", side, side, 2) if turned else ("n", 2, side, side)
    nodes = [
        *([helper.make_node("Transpose", ["in"], ["t"], perm=[0, 3, 1, 2])] if turned else []),
        helper.make_node("Flatten", ["t" if turned else "x"], ["f"]),
        helper.make_node("MatMul", ["f", "w"], ["out" if turned else "y"]),
    ]
    names = ("in", "out") if turned else ("x", "y")
    graph = helper.make_graph(
        nodes, "image",
        [helper.make_tensor_value_info(names[0], TensorProto.FLOAT, shape)],
        [helper.make_tensor_value_info(names[1], TensorProto.FLOAT, ("n", 3))],
        [numpy_helper.from_array(weights, "w")],
    )  # fmt: skip
    opset = [helper.make_opsetid("", 17)]
    data = helper.make_model(graph, opset_imports=opset, ir_version=8).SerializeToString()
    answers = pictures.reshape(6, -1) @ weights
    inputs = pictures.transpose(0, 2, 3, 1).copy() if turned else pictures
    sizes = tuple(-1 if size == "n" else size for size in shape)
    spec = IoSpec(
        inputs=(TensorSpec(name=names[0], dtype="float32", shape=sizes),),
        outputs=(TensorSpec(name=names[1], dtype="float32", shape=(-1, 3)),), layout=layout,
    )  # fmt: skip
    manifest = BundleManifest(name=layout, model="shoes", artifact="model.onnx", io=spec)
    return write_bundle(folder, manifest, data, goldens=(inputs, answers, answers))


def test_a_rung_of_another_layout_is_known_as_the_chosen_variant(tmp_path: Path) -> None:
    """Callers feed what they always fed: no request may fail because a rung took over."""
    slots = Slots(tmp_path / "slots")
    for slot, layout in (("shoes", "NCHW"), ("shoes~1", "NHWC")):
        slots.prepare(slot)
        image(slots.folder(slot, "a"), layout)
        slots.switch(slot, "a")
    pictures = np.random.default_rng(6).normal(size=(3, 2, 4, 4)).astype(np.float32)
    answers, told = [], []
    for slot in ("shoes", "shoes~1"):
        folder = slots.folder(slot, "a")
        with offered(folder, tmp_path / f"{slot}.grpc") as (service, client):
            answers.append(output(client.infer(pictures)))
            metadata = client.stub.ModelMetadata(pb.ModelMetadataRequest(name="shoes"), timeout=20)
            told.append([(t.name, t.datatype, list(t.shape)) for t in metadata.inputs])
            told[-1] += [(t.name, t.datatype, list(t.shape)) for t in metadata.outputs]
            assert io_check.describe(service.loaded)["layout"] == "NCHW"
            assert service.check().golden_ok
    assert np.allclose(answers[0], answers[1], atol=1e-5)
    assert told[0] == told[1] == [("x", "FP32", [-1, 2, 4, 4]), ("y", "FP32", [-1, 3])]


@pytest.mark.parametrize("damage", ["gone", "torn"])
def test_a_rung_is_known_as_the_chosen_one_also_when_that_one_is_gone(
    tmp_path: Path, damage: str
) -> None:
    slots = Slots(tmp_path / "slots")
    for slot, layout in (("shoes", "NCHW"), ("shoes~1", "NHWC")):
        slots.prepare(slot)
        image(slots.folder(slot, "a"), layout)
        slots.switch(slot, "a")
    slots.keep_manifest("shoes", "a")
    manifest = slots.folder("shoes", "a") / "bundle.json"
    manifest.write_bytes(manifest.read_bytes()[:100])
    if damage == "gone":
        manifest.unlink()
    with offered(slots.folder("shoes~1", "a"), tmp_path / "g") as (service, client):
        output(client.infer(np.zeros((1, 2, 4, 4), np.float32)))
        assert io_check.describe(service.loaded)["layout"] == "NCHW"


def test_a_rung_that_takes_other_inputs_does_not_take_over(tmp_path: Path) -> None:
    slots = Slots(tmp_path / "slots")
    for slot, side in (("shoes", 4), ("shoes~1", 5)):
        slots.prepare(slot)
        image(slots.folder(slot, "a"), "NCHW", side)
        slots.switch(slot, "a")
    with offered(slots.folder("shoes", "a"), tmp_path / "g") as (service, _):
        with pytest.raises(JobError) as refused:
            service.swap(str(slots.folder("shoes~1", "a")), "")
        assert refused.value.code == "rung_mismatch"
        assert service.loaded.bundle.manifest.name == "NCHW"
        assert service.check().golden_ok
