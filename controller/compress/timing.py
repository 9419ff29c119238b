"""Time variants on this machine: ``python -m controller.compress.timing JOB.json``.

What is found holds for this machine alone; where it stands in for a device, whoever asked must
say so. Candidates are timed interleaved, so that a disturbance meets all alike.
"""

from __future__ import annotations

import json
import sys
from collections.abc import Mapping
from dataclasses import dataclass, field
from importlib import metadata
from pathlib import Path
from typing import Any

import numpy as np

from controller.catalog import process
from controller.catalog.foreign import translated
from controller.compress import execute, probe
from controller.compress.kernels import Kernel
from controller.compress.latency import Timing
from controller.errors import FitError
from fitment.core import plain
from fitment.core.bundle import MANIFEST_NAME, BundleManifest, ProbeGraph
from fitment.core.kernels import KernelTable, KernelTiming
from fitment.core.measurement import Verdict

MODULE = "controller.compress.timing"
DISTRIBUTIONS: Mapping[str, str] = {"onnx": "onnxruntime", "litert": "ai-edge-litert"}
PROBE_ROUNDS, PROBE_RUNS = 4, 10
FEEDS = 16  # different inputs, fed in turn


@dataclass(frozen=True, slots=True, kw_only=True)
class Timeable:
    """One runtime file on disk."""

    path: str
    runtime: str  # "onnx", "litert"


@dataclass(frozen=True, slots=True, kw_only=True)
class TimingJob:
    """What to time. Probing gives kernel tables of this machine."""

    artifacts: Mapping[str, Timeable] = field(default_factory=dict)
    inputs: str = ""  # .npy of real inputs [N, …] in the source's layout
    rounds: int = 16  # of two blocks for each artifact
    runs: int = 20  # in a block
    threads: int = 1
    probe: tuple[str, ...] = ()  # runtimes


@dataclass(frozen=True, slots=True, kw_only=True)
class TimingResult:
    """By the names of the job; what could not be timed says why."""

    timings: Mapping[str, Timing] = field(default_factory=dict)
    failed: Mapping[str, str] = field(default_factory=dict)
    tables: tuple[KernelTable, ...] = ()


def handle(job: Any, folder: Path, progress: process.Progress) -> TimingResult:
    """Do one job."""
    asked = plain.from_plain(TimingJob, job)
    progress("timing", 0.2)
    tables = tuple(kernel_table(name, folder / f"probe-{name}", asked) for name in asked.probe)
    loaded: dict[str, tuple[bytes, str]] = {}
    failed: dict[str, str] = {}
    inputs = np.load(asked.inputs, allow_pickle=False) if asked.inputs else np.empty(0)
    for name, artifact in asked.artifacts.items():
        content = Path(artifact.path).read_bytes()
        why = _refusal(content, artifact.runtime, inputs)
        if why:
            failed[name] = why
        else:
            loaded[name] = (content, artifact.runtime)
    timings = execute.time_interleaved(
        loaded, inputs, rounds=asked.rounds, runs=asked.runs, threads=asked.threads
    )
    return TimingResult(timings=timings, failed=failed, tables=tables)


def kernel_table(runtime: str, folder: Path, job: TimingJob) -> KernelTable:
    """Time the probe graphs of a runtime here, as the agent does on a device.

    Graphs of one kernel are timed against each other: what counts is their ratio to fp32.

    Raises:
        FitError: there is no probe for this runtime.
    """
    built = probe.build_probe_bundle(runtime, folder)
    manifest = plain.from_plain(
        BundleManifest, json.loads((built.folder / MANIFEST_NAME).read_text())
    )
    by_kernel: dict[str, list[ProbeGraph]] = {}
    for graph in manifest.probes:
        by_kernel.setdefault(graph.kernel, []).append(graph)
    timings: list[KernelTiming] = []
    verdicts: list[Verdict] = []
    for kernel, graphs in by_kernel.items():
        shape = (FEEDS, *Kernel.parse(kernel).input_shape)
        timed = execute.time_interleaved(
            {g.scheme: ((built.folder / g.path).read_bytes(), runtime) for g in graphs},
            np.random.default_rng(0).random(shape, np.float32),
            rounds=PROBE_ROUNDS,
            runs=PROBE_RUNS,
            threads=job.threads,
        )
        verdicts += [timing.verdict for timing in timed.values()]
        timings += [_entry(graph, timed[graph.scheme]) for graph in graphs]
    contended = verdicts.count(Verdict.CONTENDED) > len(verdicts) / 2
    return KernelTable(
        runtime=runtime,
        runtime_version=metadata.version(DISTRIBUTIONS[runtime]),
        hardware="",
        stack="",
        threads=job.threads,
        verdict=Verdict.CONTENDED if contended else Verdict.VALID,
        emulated=False,
        timings=tuple(timings),
    )


def _entry(graph: ProbeGraph, timed: Timing) -> KernelTiming:
    return KernelTiming(
        kernel=graph.kernel,
        scheme=graph.scheme,
        macs=graph.macs,
        p50_us=timed.p50_ms * 1000.0,
        count=timed.count,
    )


def _refusal(content: bytes, runtime: str, inputs: np.ndarray) -> str:
    """Why a file cannot be timed, or nothing."""
    try:
        with translated(FitError, f"{runtime} cannot run it"):
            execute.outputs(content, runtime, inputs[:1])
    except FitError as error:
        return str(error)
    return ""


def run(folder: Path, job: TimingJob, *, report: process.Progress) -> TimingResult:
    """Time in a worker process.

    Raises:
        FitError: the worker ended with an error, or died.
    """
    found: TimingResult = process.run(
        MODULE, folder, job, TimingResult, report=report, threads=job.threads
    )
    return found


if __name__ == "__main__":
    raise SystemExit(process.serve(sys.argv, handle))
