"""Check, benchmark and probe on real runtimes; timings themselves are not what is tested."""

from __future__ import annotations

import json
import math
import os
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest

from agent.jobs import BenchmarkJob, CalibrateJob, CheckJob, Limits, ProbeJob, Setting
from agent.workers import benchmark, calibrate, check, probe
from agent.workers.child import JobError
from fitment.core import digest
from fitment.core.deployment import BenchmarkPlan, CalibrationMode, CalibrationPlan
from fitment.core.measurement import ReadingStatus, Verdict
from tests.integration import worker_models as models
from tests.integration.worker_models import Affine

_QUICK = BenchmarkPlan(min_runs=150, min_seconds=0.02, max_seconds=2.0, warmup_max_seconds=0.2)
_ONNX = models.affine_models()[0]


@pytest.fixture(params=models.affine_models(), ids=lambda model: f"{model.runtime}-{model.name}")
def model(request: pytest.FixtureRequest) -> Affine:
    return request.param


def benchmark_job(folder: Path, **changes: object) -> BenchmarkJob:
    arguments: dict[str, object] = {"result": "unused", "id": "m1", "folder": str(folder)}
    return BenchmarkJob(**{**arguments, "plan": _QUICK, **changes})  # type: ignore[arg-type]


def test_check_of_a_right_answer(model: Affine, tmp_path: Path) -> None:
    models.affine_bundle(tmp_path, model)
    result = check.handle(CheckJob(result="unused", folder=str(tmp_path)))
    assert result.golden_ok, result.reason
    assert result.worst_error == 0.0
    assert result.agreement is not None
    assert result.agreement >= 0.9
    assert result.sqnr_db is not None
    assert result.sqnr_db > 20
    assert result.integer_coverage == model.coverage
    assert result.runtime.startswith(f"{model.runtime} ")


def test_check_of_a_wrong_answer_says_how_wrong(tmp_path: Path) -> None:
    models.affine_bundle(tmp_path, _ONNX, wrong=True)
    result = check.handle(CheckJob(result="unused", folder=str(tmp_path)))
    assert not result.golden_ok
    assert result.worst_error == pytest.approx(1.0)
    assert "1 off" in result.reason


def test_check_of_a_calibrated_bundle_asks_the_pristine_file(tmp_path: Path) -> None:
    overlay = _calibrated(tmp_path)
    result = check.handle(CheckJob(result="unused", folder=str(tmp_path / "b"), overlay=overlay))
    assert result.golden_ok, result.reason


def test_benchmark_interleaves_with_the_running_variant(model: Affine, tmp_path: Path) -> None:
    variant = models.affine_bundle(tmp_path / "new", model)
    running = models.affine_bundle(tmp_path / "old", _ONNX)
    setting = Setting(hardware="sha256:h", stack="sha256:s")
    job = benchmark_job(tmp_path / "new", baseline_folder=str(tmp_path / "old"), setting=setting)
    found = benchmark.handle(job).measurement
    assert (found.id, found.bundle, found.baseline) == ("m1", variant, running)
    assert (found.hardware, found.stack, found.emulated) == ("sha256:h", "sha256:s", False)
    assert found.latency is not None
    assert found.baseline_latency is not None
    assert found.latency.count >= 150
    assert found.latency.p50_low_ms <= found.latency.p50_ms <= found.latency.p50_high_ms
    assert found.latency.p90_ms is not None
    assert (found.latency.p99_ms is None) == (found.latency.count < 662)
    assert found.golden_ok
    assert found.integer_coverage == model.coverage
    assert found.load_ms is not None
    assert found.first_ms is not None
    assert found.peak_memory_bytes is not None
    assert found.verdict is not Verdict.TOO_SHORT
    assert all(math.isfinite(value) for value in found.conditions.values())
    assert digest.canonical(found)


def test_benchmark_without_a_meter_gives_no_energy_but_a_reason(tmp_path: Path) -> None:
    models.affine_bundle(tmp_path / "new", _ONNX)
    empty = tmp_path / "no-sensors"
    empty.mkdir()
    job = benchmark_job(tmp_path / "new", setting=Setting(root=str(empty)))
    found = benchmark.handle(job).measurement
    assert found.energy.status is ReadingStatus.UNAVAILABLE
    assert found.energy.value_mj is None
    assert found.energy.reason
    assert "pressure" not in found.conditions  # nothing was read, so nothing is claimed


def test_a_wrong_model_is_not_timed(tmp_path: Path) -> None:
    models.affine_bundle(tmp_path / "new", _ONNX, wrong=True)
    found = benchmark.handle(benchmark_job(tmp_path / "new")).measurement
    assert found.golden_ok is False
    assert found.latency is None
    assert "answers wrong" in found.reasons[0]


def test_a_plan_that_time_does_not_allow_is_too_short(tmp_path: Path) -> None:
    models.affine_bundle(tmp_path / "new", _ONNX)
    plan = BenchmarkPlan(min_runs=10**6, max_seconds=0.05, warmup_max_seconds=0.05)
    found = benchmark.handle(benchmark_job(tmp_path / "new", plan=plan)).measurement
    assert found.verdict is Verdict.TOO_SHORT
    assert "the plan asks for 1000000" in found.reasons[0]


def test_a_running_variant_that_does_not_load_is_no_obstacle(tmp_path: Path) -> None:
    models.affine_bundle(tmp_path / "new", _ONNX)
    job = benchmark_job(tmp_path / "new", baseline_folder=str(tmp_path / "gone"))
    found = benchmark.handle(job).measurement
    assert found.latency is not None
    assert found.baseline == ""
    assert "cannot be timed beside it" in found.reasons[-1]


def test_benchmark_of_a_calibrated_bundle(tmp_path: Path) -> None:
    overlay = _calibrated(tmp_path)
    found = benchmark.handle(benchmark_job(tmp_path / "b", overlay=overlay)).measurement
    assert found.golden_ok
    assert found.latency is not None


def _busy_loops(count: int) -> list[subprocess.Popen[bytes]]:
    return [subprocess.Popen([sys.executable, "-c", "while True: pass"]) for _ in range(count)]


@pytest.fixture
def load() -> Iterator[None]:

    loops = _busy_loops(2 * (os.cpu_count() or 1))
    yield
    for loop in loops:
        loop.kill()
        loop.wait()


@pytest.mark.usefixtures("load")
def test_a_run_beside_other_load_is_contended(tmp_path: Path) -> None:
    models.affine_bundle(tmp_path / "new", _ONNX)
    plan = BenchmarkPlan(min_runs=100, min_seconds=0.3, max_seconds=3.0, warmup_max_seconds=0.1)
    found = benchmark.handle(benchmark_job(tmp_path / "new", plan=plan)).measurement
    assert found.verdict is Verdict.CONTENDED, found.reasons


def test_probe_fills_a_kernel_table_and_leaves_out_what_does_not_load(
    tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    models.probe_bundle(tmp_path)
    plan = BenchmarkPlan(max_seconds=0.3)
    setting = Setting(hardware="sha256:h", stack="sha256:s", emulated=True)
    job = ProbeJob(result="unused", folder=str(tmp_path), plan=plan, setting=setting)
    table = probe.handle(job).table
    assert [(t.kernel, t.scheme, t.integer_coverage) for t in table.timings] == [
        ("gemm:c4:k3", "fp32", 0.0),
        ("gemm:c4:k3", "dynamic", 1.0),
    ]
    assert all(t.p50_us > 0 and t.count >= 12 for t in table.timings)
    assert (table.runtime, table.hardware, table.emulated) == ("onnx", "sha256:h", True)
    assert table.schemes_by_speed()
    assert "u8u8" in capfd.readouterr().err


def test_probe_refuses_a_model_bundle(tmp_path: Path) -> None:
    models.affine_bundle(tmp_path, _ONNX)
    with pytest.raises(JobError, match="no probe bundle"):
        probe.handle(ProbeJob(result="unused", folder=str(tmp_path)))


def test_a_worker_process_from_job_to_result(tmp_path: Path, root: Path) -> None:
    models.affine_bundle(tmp_path / "new", _ONNX)
    job = benchmark_job(
        tmp_path / "new", result=str(tmp_path / "result.json"), limits=Limits(memory_bytes=1 << 30)
    )
    status, answer = _run_worker("benchmark", job, tmp_path, root)
    assert status == 0
    assert answer["measurement"]["golden_ok"] is True


def test_a_worker_process_that_may_not_have_the_memory(tmp_path: Path, root: Path) -> None:
    models.affine_bundle(tmp_path / "new", _ONNX)
    inputs = np.zeros((30_000_000, 4), dtype=np.uint8)
    np.save(tmp_path / "new" / "golden_inputs.npy", inputs)
    job = benchmark_job(
        tmp_path / "new",
        result=str(tmp_path / "result.json"),
        limits=Limits(memory_bytes=300 << 20),
    )
    status, answer = _run_worker("benchmark", job, tmp_path, root)
    assert status == 1
    assert answer["code"] == "out_of_memory"
    assert answer["permanent"] is False


def _run_worker(name: str, job: object, folder: Path, root: Path) -> tuple[int, dict[str, object]]:
    path = folder / "job.json"
    path.write_bytes(digest.canonical(job))
    command = [sys.executable, "-m", f"agent.workers.{name}", str(path)]
    done = subprocess.run(command, cwd=root, capture_output=True, check=False, timeout=60)
    result = folder / "result.json"
    assert result.exists(), done.stderr.decode()
    return done.returncode, json.loads(result.read_bytes())


def _calibrated(folder: Path) -> str:

    models.network_bundle(folder / "b")
    (folder / "samples").mkdir()
    np.save(folder / "samples" / "all.npy", 0.3 * models.pictures(96, seed=4))
    overlay = str(folder / "overlay.json")
    job = CalibrateJob(
        result="unused",
        folder=str(folder / "b"),
        samples=str(folder / "samples"),
        overlay=overlay,
        plan=CalibrationPlan(mode=CalibrationMode.MOMENTS),
    )
    assert calibrate.handle(job).report.applied
    return overlay
