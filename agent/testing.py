"""Twins for tests: a clock that is turned by hand, workers that answer by script."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any, Final

from agent.jobs import (
    BenchmarkJob,
    BenchmarkResult,
    CalibrateJob,
    CalibrateResult,
    CheckJob,
    CheckResult,
    FetchJob,
    FetchResult,
    ProbeJob,
    ProbeResult,
    RenewJob,
    RenewResult,
    StageJob,
    StageResult,
    SubmitJob,
    SubmitResult,
    VerifyJob,
    VerifyResult,
    WorkerFailure,
)
from agent.runner import Finished, Running
from fitment.core.bundle import MANIFEST_NAME
from fitment.core.deployment import CalibrationReport
from fitment.core.kernels import KernelTable
from fitment.core.measurement import Energy, Latency, Measurement, ReadingStatus, Verdict

Behaviour = Callable[[Any], Any]
"""From a job to its result or `WorkerFailure`."""


class FakeClock:
    """Time that passes when told to."""

    def __init__(self, now_s: float = 1000.0, wall_unix_s: float = 1_800_000_000.0) -> None:
        self.now_s = now_s
        self.wall_s = wall_unix_s

    def monotonic_s(self) -> float:
        return self.now_s

    def wall_unix_s(self) -> float:
        return self.wall_s

    def advance(self, seconds: float) -> None:
        """Let time pass."""
        self.now_s += seconds
        self.wall_s += seconds


class FakeRunner:
    """Workers that do their work by script, in no time.

    ``script`` maps a worker to what its next starts do; the last entry goes for all later ones.
    Workers that are not in it succeed.
    """

    def __init__(self, script: Mapping[str, Sequence[Behaviour]] | None = None) -> None:
        self.script: dict[str, list[Behaviour]] = {k: list(v) for k, v in (script or {}).items()}
        self.started: list[tuple[str, Any]] = []
        self.killed = 0

    def start(self, worker: str, job: Any, *, deadline_s: float, threads: int = 1) -> Running:
        del threads
        self.started.append((worker, job))
        behaviours = self.script.get(worker, [])
        act = behaviours.pop(0) if len(behaviours) > 1 else (behaviours or [DEFAULTS[worker]])[0]
        return _FakeJob(self, worker, job, act, deadline_s=deadline_s)

    def names(self) -> list[str]:
        """Workers in the order in which they were started."""
        return [worker for worker, _ in self.started]


class _FakeJob:
    def __init__(
        self, runner: FakeRunner, worker: str, job: Any, act: Behaviour, *, deadline_s: float
    ) -> None:
        self._runner = runner
        self._worker = worker
        self._job = job
        self._act = act
        self._deadline_s = deadline_s

    def poll(self, now_s: float) -> Finished | None:
        if self._act is hang:
            if now_s < self._deadline_s:
                return None
            failure = WorkerFailure(code="deadline", message=f"{self._worker} hung")
            return Finished(failure=failure, timed_out=True)
        answer = self._act(self._job)
        if answer is hang:  # it did something first
            self._act = hang
            return None
        if isinstance(answer, WorkerFailure):
            return Finished(failure=answer)
        return Finished(result=answer)

    def kill(self) -> None:
        self._runner.killed += 1


def hang(_job: Any) -> Any:
    """Never answer."""
    raise AssertionError("a job that hangs is not asked")


def fails(code: str, *, permanent: bool = False, retry_after_s: float | None = None) -> Behaviour:
    """Fail with this code."""
    failure = WorkerFailure(
        code=code, message=f"it is {code}", permanent=permanent, retry_after_s=retry_after_s
    )
    return lambda _job: failure


def fetched(job: FetchJob) -> FetchResult:
    """A transport file of the right length."""
    Path(job.target).parent.mkdir(parents=True, exist_ok=True)
    Path(job.target).write_bytes(b"x" * job.archive_bytes)
    if job.tally:
        Path(job.tally).write_text(f"{job.tally_id} {job.archive_bytes}\n")
    return FetchResult(total_bytes=job.archive_bytes, resumed_from=0, seconds=0.1)


def verified(job: VerifyJob) -> VerifyResult | WorkerFailure:
    """All signatures hold, where there is a file."""
    if not Path(job.archive_path).exists():
        return WorkerFailure(code="archive", message="it is not there")
    return VerifyResult(variant="", counter=job.lowest_counter + 1, timestamp_unix=1_800_000_100.0)


def staged(job: StageJob) -> StageResult:
    """A folder with a manifest that names the variant."""
    folder = Path(job.folder)
    folder.mkdir(parents=True, exist_ok=True)
    (folder / MANIFEST_NAME).write_text(job.variant)
    (folder / "overlay.json").unlink(missing_ok=True)
    return StageResult(variant=job.variant, name="int8-test", runtime="onnx", bytes=1)


def checked(job: CheckJob, *, golden_ok: bool = True) -> CheckResult:
    """Right answers, or wrong ones; from a folder that must be there."""
    assert (Path(job.folder) / MANIFEST_NAME).exists()
    return CheckResult(
        golden_ok=golden_ok, worst_error=0.01 if golden_ok else 9.0, agreement=0.99, sqnr_db=30.0,
        integer_coverage=1.0, runtime="onnx 1.20.0", reason="" if golden_ok else "far off",
    )  # fmt: skip


def answers_wrongly(job: CheckJob) -> CheckResult:
    """Wrong answers."""
    return checked(job, golden_ok=False)


def latency(p50_ms: float) -> Latency:
    """A distribution around ``p50_ms``."""
    return Latency(
        count=300, mean_ms=p50_ms, min_ms=p50_ms * 0.9, p50_ms=p50_ms, p50_low_ms=p50_ms * 0.98,
        p50_high_ms=p50_ms * 1.02, p90_ms=p50_ms * 1.1, p95_ms=p50_ms * 1.2,
    )  # fmt: skip


def measurement(
    *, p50_ms: float = 2.0, baseline_ms: float | None = None, verdict: Verdict = Verdict.VALID,
    bundle: str = "", hardware: str = "", stack: str = "",
) -> Measurement:  # fmt: skip
    """A measurement without an energy sensor."""
    return Measurement(
        id="m", bundle=bundle, runtime="onnx 1.20.0", threads=1, verdict=verdict,
        energy=Energy(status=ReadingStatus.UNAVAILABLE, reason="no sensor"),
        latency=latency(p50_ms), agreement=0.99, integer_coverage=1.0, golden_ok=True,
        baseline_latency=None if baseline_ms is None else latency(baseline_ms),
        peak_memory_bytes=50 << 20, hardware=hardware, stack=stack,
    )  # fmt: skip


def benchmarked(job: BenchmarkJob, *, p50_ms: float = 2.0) -> BenchmarkResult:
    """A valid measurement; where something runs already, that took 3 ms."""
    baseline_ms = 3.0 if job.baseline_folder else None
    return BenchmarkResult(
        measurement=measurement(
            p50_ms=p50_ms, baseline_ms=baseline_ms, stack=job.setting.stack,
            bundle=(Path(job.folder) / MANIFEST_NAME).read_text(),
        )
    )  # fmt: skip


def probed(job: ProbeJob) -> ProbeResult:
    """An empty kernel table."""
    table = KernelTable(
        runtime="onnx", runtime_version="1.20", hardware=job.setting.hardware,
        stack=job.setting.stack, threads=1, verdict=Verdict.VALID, emulated=False,
    )  # fmt: skip
    return ProbeResult(table=table)


def calibrated(job: CalibrateJob) -> CalibrateResult:
    """An overlay that was applied."""
    Path(job.overlay).write_text("{}")
    report = CalibrationReport(
        id="overlay-1", mode=job.plan.mode, applied=True, reason="drift", samples=64
    )
    return CalibrateResult(report=report)


def submitted(_job: SubmitJob) -> SubmitResult:
    """The controller has it."""
    return SubmitResult()


def renewed(_job: RenewJob) -> RenewResult:
    """A certificate for another year."""
    return RenewResult(expires_unix=1_800_000_000.0 + 365 * 86400)


DEFAULTS: Final[Mapping[str, Behaviour]] = {
    "fetch": fetched,
    "verify": verified,
    "stage": staged,
    "check": checked,
    "benchmark": benchmarked,
    "probe": probed,
    "calibrate": calibrated,
    "submit": submitted,
    "renew": renewed,
}
"""What workers do that no script speaks of."""
