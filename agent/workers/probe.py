"""Probe: time tiny graphs into a kernel table, in about two seconds.

The graphs take turns in rounds, so that a slow change of the device weighs on all alike and the
schemes stay comparable; how far the last round is from the first says whether it drifted.
"""

from __future__ import annotations

import math
import sys
import time
from dataclasses import dataclass

import numpy as np

from agent.jobs import ProbeJob, ProbeResult, Setting
from agent.workers import child, installed, statistics, verdicts
from agent.workers.child import JobError
from agent.workers.installed import Bundle
from agent.workers.runtimes import registry
from agent.workers.runtimes.base import Float, Runtime, Tensor
from agent.workers.timing import Stream, Watch
from agent.workers.verdicts import Signals
from fitment.core.bundle import ProbeGraph
from fitment.core.deployment import BenchmarkPlan
from fitment.core.kernels import KernelTable, KernelTiming

BUDGET_S = 2.0  # for all graphs together, loading left out
_ROUNDS = 4  # after one that only warms up
_RUNS_PER_ROUND = 3  # at least, also for a graph that is slow
_SEED = 0


@dataclass(frozen=True, slots=True, kw_only=True)
class _Graph:
    spec: ProbeGraph
    stream: Stream
    integer_coverage: float | None


def handle(job: ProbeJob) -> ProbeResult:
    """Time the graphs of ``job.folder``.

    Raises:
        JobError: ``bundle_invalid`` (not a probe bundle), ``load_failed`` (no graph loads).
    """
    bundle = installed.read(job.folder)
    if bundle.manifest.kind != "probe" or not bundle.manifest.probes:
        raise JobError(
            "bundle_invalid", f"{job.folder} is no probe bundle with graphs", permanent=True
        )
    runtime = registry.get(bundle.manifest.runtime)
    graphs = _open(bundle, runtime, job.setting)
    signals = _run(graphs, job)
    return ProbeResult(table=_table(bundle, runtime, graphs, job.setting, signals))


def _open(bundle: Bundle, runtime: Runtime, setting: Setting) -> list[_Graph]:
    """Load what loads: a graph that this runtime refuses is a scheme that it does not have."""
    graphs, refused = [], []
    for spec in bundle.manifest.probes:
        try:
            session = runtime.load(bundle.folder / spec.path, setting.options)
        except JobError as error:
            refused.append(f"{spec.kernel} in {spec.scheme}: {error.message}")
            continue
        feed = session.prepare([_random(tensor) for tensor in session.inputs])
        graphs.append(
            _Graph(
                spec=spec,
                stream=Stream(session=session, feeds=(feed,)),
                integer_coverage=session.integer_coverage(),
            )
        )
    for line in refused:
        sys.stderr.write(f"left out: {line}\n")
    if not graphs:
        raise JobError("load_failed", f"no probe graph loads: {refused[0]}", permanent=True)
    return graphs


def _run(graphs: list[_Graph], job: ProbeJob) -> Signals:
    slice_s = min(BUDGET_S, job.plan.max_seconds) / ((_ROUNDS + 1) * len(graphs))
    for graph in graphs:
        _slice(graph.stream, slice_s)
        graph.stream.forget()
    watch = Watch(job.setting)
    for _ in range(_ROUNDS):
        for graph in graphs:
            with watch.block():
                _slice(graph.stream, slice_s)
    return watch.signals()


def _slice(stream: Stream, seconds: float) -> None:
    ends = time.monotonic() + seconds
    stream.run(_RUNS_PER_ROUND)
    while time.monotonic() < ends:
        stream.run(_RUNS_PER_ROUND)


def _table(
    bundle: Bundle, runtime: Runtime, graphs: list[_Graph], setting: Setting, signals: Signals
) -> KernelTable:
    asked = BenchmarkPlan(min_runs=_ROUNDS * _RUNS_PER_ROUND, min_seconds=0.0)
    verdict, reasons = verdicts.judge(
        asked,
        runs=min(len(graph.stream.durations_ns) for graph in graphs),
        seconds=signals.wall_s,
        drift=_drift(graphs),
        signals=signals,
    )
    for reason in reasons:
        sys.stderr.write(f"{verdict.value}: {reason}\n")
    return KernelTable(
        runtime=bundle.manifest.runtime,
        runtime_version=runtime.version,
        hardware=setting.hardware,
        stack=setting.stack,
        threads=setting.options.threads,
        verdict=verdict,
        emulated=setting.emulated,
        timings=tuple(_timing(graph) for graph in graphs),
    )


def _timing(graph: _Graph) -> KernelTiming:
    durations = sorted(graph.stream.durations_ns)
    return KernelTiming(
        kernel=graph.spec.kernel,
        scheme=graph.spec.scheme,
        macs=graph.spec.macs,
        p50_us=statistics.median(durations) / 1e3,
        count=len(durations),
        integer_coverage=graph.integer_coverage,
    )


def _drift(graphs: list[_Graph]) -> float:
    """Geometric mean over all graphs of how much slower the last third of the runs was."""
    logs = [math.log1p(statistics.drift(graph.stream.durations_ns)) for graph in graphs]
    return math.exp(sum(logs) / len(logs)) - 1.0


def _random(tensor: Tensor) -> Float:
    """Standard normal values, the same every time; any size becomes 1."""
    shape = [max(size, 1) for size in tensor.shape]
    return np.random.default_rng(_SEED).standard_normal(shape, dtype=np.float32)


if __name__ == "__main__":
    raise SystemExit(child.run("probe", handle))
