"""Fits in real worker processes: all rungs, cached, resumed, guarded, reproducible."""

from __future__ import annotations

import json
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest

from controller.artifacts import packing
from controller.catalog import process
from controller.catalog.snapshot import snapshot
from controller.compress import execute, worker
from controller.compress.fit import FitRequest, FitResult
from controller.compress.search.ladder import RuntimeTarget
from controller.domain import lesser
from controller.domain.fleet import Budget
from controller.errors import FitError, WorkloadError
from fitment.core import digest, plain
from fitment.core.deployment import Pressure
from fitment.core.patch import PatchManifest

from .fit_workloads import textures

ONNX = RuntimeTarget(runtime="onnx", format="onnx", schemes=("u8s8", "fp32", "dynamic"))
LITERT = RuntimeTarget(runtime="litert", format="tflite", schemes=("s8s8", "fp32"))


def _request(workload: Path, base: Path, **changes: object) -> FitRequest:
    taken = snapshot(workload, base / "snapshots")
    fields = {
        "workload_folder": str(taken.folder), "runtimes": (ONNX, LITERT), "model_id": "m1",
        "out": str(base / "out"), "cache": str(base / "cache"), "threads": 1,
        "calibratable": True, "machine": "x86_64", **changes,
    }  # fmt: skip
    return FitRequest(**fields)  # type: ignore[arg-type]


def _silent(_step: str, _fraction: float) -> None:
    pass


@pytest.fixture(scope="module")
def base(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("fit")


@pytest.fixture(scope="module")
def fitted(base: Path) -> FitResult:
    request = _request(textures(base / "given"), base)
    return worker.run(base / "job", request, report=_silent)


def test_every_rung_of_both_runtimes_is_made(fitted: FitResult) -> None:
    assert fitted.failed == {}
    assert [(v.name, v.runtime) for v in fitted.variants] == [
        ("fp32", "onnx"),
        ("int8-u8s8", "onnx"),
        ("int8-u8s8-w4", "onnx"),
        ("int8-dynamic", "onnx"),
        ("fp32-pruned50-kd", "onnx"),
        ("int8-u8s8-pruned50-kd", "onnx"),
        ("int8-u8s8-w4-pruned50-kd", "onnx"),
        ("fp32", "litert"),
        ("int8-s8s8", "litert"),
        ("int8-s8s8-w4", "litert"),
        ("fp32-pruned50-kd", "litert"),
        ("int8-s8s8-pruned50-kd", "litert"),
        ("int8-s8s8-w4-pruned50-kd", "litert"),
    ]
    assert fitted.skipped == {}
    assert "a hint for x86_64" in fitted.reasons["onnx"]


def test_the_evidence_is_sane(fitted: FitResult) -> None:
    by_name = {(v.name, v.runtime): v for v in fitted.variants}
    fp32 = by_name["fp32", "onnx"]
    assert fp32.accuracy == fitted.fp32_accuracy > 0.9
    assert (fp32.agreement, fp32.sqnr_db, fp32.guard_accuracy_drop) == (1.0, None, 0.0)
    assert (fp32.integer_coverage, fp32.calibratable) == (0.0, True)
    for (name, runtime), variant in by_name.items():
        assert variant.model == "m1"
        low, high = variant.accuracy_interval or (1.0, 0.0)
        assert low <= (variant.accuracy or 0.0) <= high
        assert variant.guard_accuracy_drop is not None
        assert variant.guard_accuracy_drop < 0.1, name
        if name.startswith("int8"):
            assert variant.integer_coverage == 1.0
        if "pruned" in name:
            assert variant.macs < 0.5 * fp32.macs
        if "-w4" in name:
            whole = by_name[name.replace("-w4", ""), runtime]
            assert variant.wire_bytes < whole.wire_bytes
            assert variant.file_bytes == pytest.approx(whole.file_bytes, rel=0.01)
        assert variant.calibratable  # its inputs can be corrected, whatever the runtime
        static = name.startswith("int8") and variant.scheme != "dynamic"
        assert variant.patchable == (static and runtime == "onnx")


def test_bundles_are_whole_and_answer_their_goldens(fitted: FitResult) -> None:
    for variant in fitted.variants:
        archive = Path(fitted.archives[variant.bundle.archive])
        assert digest.digest_bytes(archive.read_bytes()) == variant.bundle.archive
        folder = Path(fitted.folders[variant.bundle.variant])
        manifest = packing.read_manifest(folder)
        assert manifest.golden is not None
        assert manifest.io is not None
        stored = np.load(folder / manifest.golden.inputs)
        assert stored.dtype == np.uint8
        assert stored.shape[1:] == manifest.io.inputs[0].shape[1:]
        real = stored.astype(np.float32) * np.float32(manifest.golden.inputs_scale)
        if manifest.io.layout == "NHWC":
            real = real.transpose(0, 3, 1, 2)
        found = execute.outputs(
            (folder / manifest.artifact).read_bytes(), variant.runtime, np.ascontiguousarray(real)
        )
        recorded = np.load(folder / manifest.golden.outputs)
        assert np.abs(found - recorded).max() <= manifest.golden.tolerance
        assert (found.argmax(1) == recorded.argmax(1)).all()
        content = json.loads((folder / manifest.calibration).read_bytes())
        patch = plain.from_plain(PatchManifest, content)
        assert patch.texture is not None
        assert (patch.stem is not None) == variant.patchable
        assert patch.artifact_sha256 == digest.digest_bytes(
            (folder / manifest.artifact).read_bytes()
        )


def test_widths_of_one_network_are_rungs_below_the_choice(base: Path, fitted: FitResult) -> None:
    budget = Budget(lesser_accuracy_drop_max=0.9)
    request = _request(base / "given", base, runtimes=(ONNX,), rungs=("slimmable",), budget=budget)
    found = worker.run(base / "slim", request, report=_silent)
    assert found.failed == {}
    by_name = {v.name: v for v in found.variants}
    widths = [by_name[f"int8-u8s8-slim{width}"] for width in (100, 50, 25)]
    assert len({v.lineage["family"] for v in widths}) == 1
    assert [v.macs for v in widths] == sorted((v.macs for v in widths), reverse=True)
    assert {v.name for v in fitted.variants if v.runtime == "onnx"} <= set(found.cached)
    made = lesser.ladder(widths[0], widths, lesser.Case(budget=budget))
    told = [by_name[name] for name in ("int8-u8s8-slim50", "int8-u8s8-slim25")]
    assert {rung.variant for rung in made.rungs} <= {v.bundle.variant for v in told}
    assert made.rungs
    assert Pressure.HEAT in made.rungs[0].relieves


def test_a_second_fit_costs_nothing(base: Path, fitted: FitResult) -> None:
    request = _request(base / "given", base, model_id="m2", out=str(base / "out2"))
    again = worker.run(base / "job2", request, report=_silent)
    assert len(again.cached) == len(again.variants) == len(fitted.variants)
    assert [v.bundle for v in again.variants] == [v.bundle for v in fitted.variants]
    assert {v.model for v in again.variants} == {"m2"}


def test_the_same_seed_gives_the_same_bytes_elsewhere(base: Path, fitted: FitResult) -> None:
    request = _request(
        base / "given", base, cache=str(base / "cache3"), out=str(base / "out3"), runtimes=(ONNX,)
    )
    again = worker.run(base / "job3", request, report=_silent)
    known = {v.name: v.bundle for v in fitted.variants if v.runtime == "onnx"}
    assert {v.name: v.bundle for v in again.variants} == known


def test_a_killed_worker_goes_on_at_the_last_rung(base: Path, fitted: FitResult) -> None:
    request = _request(base / "given", base, cache=str(base / "cache4"), seed=5, runtimes=(ONNX,))
    folder = base / "job4"
    running = worker.start(folder, request)
    deadline = time.monotonic() + 60
    while time.monotonic() < deadline:
        shown = process.progress(folder)
        if shown is not None and shown.step == "fp32-pruned50-kd":
            break
        time.sleep(0.01)
    running.kill()
    running.wait()
    assert not (folder / "result.json").exists()
    with pytest.raises(FitError, match="died without a result"):
        worker.result(folder)
    finished = worker.run(folder, request, report=_silent)
    assert finished.cached[:2] == ("fp32", "int8-u8s8")
    assert len(finished.variants) == 7


def test_a_rung_that_cannot_be_made_is_recorded_and_the_ladder_goes_on(base: Path) -> None:
    odd = textures(base / "odd", ("nn.AdaptiveAvgPool2d(1)", "nn.LPPool2d(2, 6)"))
    result = worker.run(base / "job5", _request(odd, base, out=str(base / "out5")), report=_silent)
    assert {v.name for v in result.variants if v.runtime == "onnx"} >= {"fp32", "int8-u8s8"}
    assert "fp32@litert" in result.failed


def test_errors_of_the_workload_cross_the_process(base: Path) -> None:
    broken = textures(base / "broken", ("return network\n", "raise OSError('disk full')\n"))
    with pytest.raises(WorkloadError, match="OSError: disk full"):
        worker.run(base / "job6", _request(broken, base), report=_silent)
    assert json.loads((base / "job6" / "error.json").read_text())["code"] == "workload"


def test_a_job_has_one_worker(base: Path, fitted: FitResult) -> None:
    import fcntl

    folder = base / "job"
    with (folder / "lock").open("a") as held:
        fcntl.flock(held, fcntl.LOCK_EX)
        second = subprocess.run([sys.executable, "-m", worker.MODULE, str(folder)], check=False)
    assert second.returncode == 3


def test_a_worker_dies_with_its_parent(base: Path, root: Path) -> None:
    slow = textures(base / "slow", ("torch.manual_seed(0)", "import time; time.sleep(60)"))
    request = _request(slow, base)
    folder = base / "job7"
    folder.mkdir()
    process.write_json(folder / "job.json", request)
    command = [sys.executable, "-m", worker.MODULE, str(folder)]
    script = (
        f"import subprocess, time\nchild = subprocess.Popen({command!r})\n"
        "print(child.pid, flush=True)\ntime.sleep(60)"
    )
    parent = subprocess.Popen([sys.executable, "-c", script], stdout=subprocess.PIPE, cwd=root)
    assert parent.stdout is not None
    child = int(parent.stdout.readline())
    _wait(lambda: process.progress(folder) is not None)
    parent.send_signal(signal.SIGKILL)
    parent.wait()
    parent.stdout.close()
    _wait(lambda: not _alive(child))


def _wait(holds: Callable[[], bool], seconds: float = 30.0) -> None:
    deadline = time.monotonic() + seconds
    while not holds():
        assert time.monotonic() < deadline
        time.sleep(0.02)


def _alive(pid: int) -> bool:
    try:
        state = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0]
    except (FileNotFoundError, ProcessLookupError):
        return False
    return state != "Z"
