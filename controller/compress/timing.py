"""Time candidates on this machine, interleaved: ``python -m controller.compress.timing JOB.json``.

One sample at a time, A/B/A/B in short blocks, so that a disturbance meets every candidate alike.
What is found holds for this machine only; a verdict says whether it may be believed.
"""

from __future__ import annotations

import math
import sys
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from controller.catalog import process
from controller.catalog.foreign import translated
from controller.errors import FitError
from fitment.core import plain
from fitment.core.measurement import Latency, Verdict

MODULE = "controller.compress.timing"
BLOCK_S = 0.02  # of one block: caches are warm for most of it, drift between blocks is small
WARMUP_RUNS = 20
CPU_SHARE_MIN = 0.9  # of wall-clock time; below, other work took the processor
DRIFT_MAX = 0.05  # of the last third's median against the first third's
MIN_RUNS = 130  # fewer support no 95th percentile
Z95, Z99 = 1.959964, 2.326348

Runner = Callable[[], object]


@dataclass(frozen=True, slots=True, kw_only=True)
class Timeable:
    """One runtime file on disk."""

    path: str
    runtime: str  # "onnx", "litert"


@dataclass(frozen=True, slots=True, kw_only=True)
class TimingJob:
    """Time these, each for at least ``seconds``."""

    artifacts: Mapping[str, Timeable]
    input_shape: tuple[int, ...]  # of one sample, as the workload says
    seconds: float = 1.0
    threads: int = 1


@dataclass(frozen=True, slots=True, kw_only=True)
class Timing:
    """What was found for one candidate."""

    latency: Latency
    verdict: Verdict
    reasons: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True, kw_only=True)
class TimingResult:
    """By name, and why some could not be timed."""

    timings: Mapping[str, Timing]
    failed: Mapping[str, str] = field(default_factory=dict)


def handle(job: Any, _folder: Path, progress: process.Progress) -> TimingResult:
    """Time the artifacts of one job."""
    asked = plain.from_plain(TimingJob, job)
    runners: dict[str, Runner] = {}
    failed: dict[str, str] = {}
    for name, artifact in asked.artifacts.items():
        found = _runner(artifact, asked)
        if isinstance(found, str):
            failed[name] = found
        else:
            runners[name] = found
    progress("timing", 0.2)
    timings = interleave(runners, seconds=asked.seconds, single=asked.threads == 1)
    return TimingResult(timings=timings, failed=failed)


def interleave(
    runners: Mapping[str, Runner], *, seconds: float, single: bool = True
) -> dict[str, Timing]:
    """Run all in turns until each has had ``seconds`` and `MIN_RUNS`, ten times as long at most.

    ``single``: the runs use the calling thread alone, so that its share of the processor tells
    whether other work took it.
    """
    durations: dict[str, list[int]] = {name: [] for name in runners}
    shares: dict[str, list[int]] = {name: [0, 0] for name in runners}
    blocks = {name: _warm_up(run) for name, run in runners.items()}
    deadline = time.monotonic() + 10 * seconds * max(1, len(runners))

    def enough(name: str) -> bool:
        return sum(durations[name]) >= seconds * 1e9 and len(durations[name]) >= MIN_RUNS

    while not all(map(enough, runners)) and time.monotonic() < deadline:
        for name, run in runners.items():
            _block(run, blocks[name], durations[name], shares[name])
    return {name: _judged(durations[name], shares[name] if single else None) for name in runners}


def _warm_up(run: Runner) -> int:
    """Runs of one block."""
    for _ in range(WARMUP_RUNS):
        run()
    started = time.perf_counter()
    run()
    return max(1, round(BLOCK_S / max(time.perf_counter() - started, 1e-7)))


def _block(run: Runner, count: int, durations: list[int], share: list[int]) -> None:
    clock = time.perf_counter_ns
    wall, processor = clock(), time.thread_time_ns()
    for _ in range(count):
        started = clock()
        run()
        durations.append(clock() - started)
    share[0] += clock() - wall
    share[1] += time.thread_time_ns() - processor


def _judged(durations_ns: list[int], share: list[int] | None) -> Timing:
    ordered = sorted(durations_ns)
    third = len(ordered) // 3
    reasons = []
    verdict = Verdict.VALID
    if len(ordered) < MIN_RUNS:
        verdict = Verdict.TOO_SHORT
        reasons.append(f"{len(ordered)} runs, {MIN_RUNS} are needed")
    drift = 0.0
    if third > 0:
        drift = float(np.median(durations_ns[-third:]) / np.median(durations_ns[:third]) - 1)
    if abs(drift) > DRIFT_MAX:
        verdict = Verdict.DRIFTING
        reasons.append(f"the last third is {100 * drift:+.0f} % off the first")
    used = share[1] / max(share[0], 1) if share else 1.0
    if used < CPU_SHARE_MIN:
        verdict = Verdict.CONTENDED
        reasons.append(f"the thread had the processor for {100 * used:.0f} % of the time")
    return Timing(latency=summarise(ordered), verdict=verdict, reasons=tuple(reasons))


def summarise(ordered_ns: list[int]) -> Latency:
    """Percentiles of sorted durations; those that the count cannot support are None.

    The median's interval is by order statistics, 95 %; p90 to p99 are upper bounds at 99 %
    confidence (normal approximation of the binomial order).
    """
    count = len(ordered_ns)
    reach = Z95 * math.sqrt(count) / 2

    def at(rank: float) -> float:
        return ordered_ns[min(max(round(rank), 0), count - 1)] / 1e6

    def bound(share: float) -> float | None:
        rank = share * count + Z99 * math.sqrt(count * share * (1 - share))
        return at(math.ceil(rank)) if math.ceil(rank) < count else None

    return Latency(
        count=count,
        mean_ms=sum(ordered_ns) / count / 1e6,
        min_ms=ordered_ns[0] / 1e6,
        p50_ms=float(np.median(ordered_ns)) / 1e6,
        p50_low_ms=at(count / 2 - reach - 1),
        p50_high_ms=at(count / 2 + reach),
        p90_ms=bound(0.90),
        p95_ms=bound(0.95),
        p99_ms=bound(0.99),
    )


def _runner(artifact: Timeable, job: TimingJob) -> Runner | str:
    """Something to time, or why there is nothing."""
    random = np.random.default_rng(0)
    sample = random.random((1, *job.input_shape), np.float32)
    make = {"onnx": _onnx, "litert": _litert}.get(artifact.runtime)
    if make is None:
        return f"runtime '{artifact.runtime}' is not known; use onnx or litert"
    try:
        with translated(FitError, f"{artifact.runtime} cannot run {Path(artifact.path).name}"):
            run = make(artifact.path, sample, job.threads)
            run()
    except FitError as error:
        return str(error)
    return run


def _onnx(path: str, sample: NDArray[np.float32], threads: int) -> Runner:
    import onnxruntime

    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads, options.inter_op_num_threads = threads, 1
    options.log_severity_level = 4
    session = onnxruntime.InferenceSession(path, options, providers=["CPUExecutionProvider"])
    feed = {session.get_inputs()[0].name: sample}
    return lambda: session.run(None, feed)


def _litert(path: str, sample: NDArray[np.float32], threads: int) -> Runner:
    from ai_edge_litert.interpreter import Interpreter

    interpreter = Interpreter(model_path=path, num_threads=threads)
    entry = interpreter.get_input_details()[0]
    shape = tuple(int(n) for n in entry["shape"])
    if shape != sample.shape:
        interpreter.resize_tensor_input(entry["index"], _layout(entry, sample))
    interpreter.allocate_tensors()
    entry = interpreter.get_input_details()[0]
    stored = sample.reshape(tuple(int(n) for n in entry["shape"])).astype(entry["dtype"])
    interpreter.set_tensor(entry["index"], stored)
    return interpreter.invoke  # type: ignore[no-any-return]


def _layout(entry: Mapping[str, Any], sample: NDArray[np.float32]) -> list[int]:
    """The file's own shape at batch 1: it may have the channels last."""
    signature = [int(n) for n in entry["shape_signature"]]
    pairs = zip(signature[1:], sample.shape[1:], strict=True)
    return [1, *(known if known > 0 else size for known, size in pairs)]


def run(folder: Path, job: TimingJob, *, report: process.Progress) -> TimingResult:
    """Time in a worker process.

    Raises:
        FitError: the worker died.
    """
    found: TimingResult = process.run(
        MODULE, folder, job, TimingResult, report=report, threads=job.threads
    )
    return found


if __name__ == "__main__":
    raise SystemExit(process.serve(sys.argv, handle))
