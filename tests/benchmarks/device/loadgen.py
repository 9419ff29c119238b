"""The benchmark worker beside MLCommons' LoadGen: the same file, machine, thread and minutes.

Single stream. Rounds of ours and of LoadGen's alternate (A B B A), so that a slow change of the
machine weighs on both alike; what is compared is the ratio within a round, and its spread over
rounds. LoadGen calls back into Python for each query: what that costs is measured with a system
that does nothing, and shown beside the difference.
"""

from __future__ import annotations

import re
import statistics
import tempfile
import time
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

from agent.jobs import BenchmarkJob, RuntimeOptions, Setting
from agent.workers import benchmark, installed
from fitment.core.deployment import BenchmarkPlan
from tests.benchmarks.compression.subjects import packages

PACKAGE = "mlcommons-loadgen==6.0.17"
ROUNDS, ROUND_S, MIN_RUNS = 10, 3.0, 700  # p99 needs 662
FIGURES = {
    "p50_ms": "50.00 percentile latency (ns)",
    "mean_ms": "Mean latency (ns)",
    "p90_ms": "Early stopping 90.0th percentile estimate",
}
OPTIONS = RuntimeOptions(threads=1)


def measure(out: Path, bundles: Mapping[str, Path], say: Callable[[str], None]) -> dict[str, Any]:
    """Each bundle, in turn, and LoadGen's own share of a query."""
    packages.installed(out / "loadgen", PACKAGE)
    found: dict[str, Any] = {"package": PACKAGE, "rounds": ROUNDS, "round_s": ROUND_S}
    found["loadgen_per_query_ms"] = _loadgen(lambda: None)["p50_ms"]
    for name, folder in bundles.items():
        say(f"loadgen: {name}")
        found[name] = _compare(folder)
    return found


def _compare(folder: Path) -> dict[str, Any]:
    bundle = installed.read(str(folder))
    loaded = installed.load(bundle, OPTIONS, overlay="")
    known = installed.goldens(bundle)
    feeds = [loaded.session.prepare(f) for f in installed.feeds(loaded.session, known.inputs)]
    turn = iter(range(1 << 62))
    inside_ns: list[int] = []

    def query() -> None:
        feed = feeds[next(turn) % len(feeds)]
        began = time.perf_counter_ns()
        loaded.session.raw(feed)
        inside_ns.append(time.perf_counter_ns() - began)

    ours: list[dict[str, float]] = []
    theirs: list[dict[str, float]] = []
    spent_s = timed_s = 0.0
    verdicts = []
    for number in range(ROUNDS):
        for mine in (True, False) if number % 2 == 0 else (False, True):
            if not mine:
                theirs.append(_loadgen(query))
                continue
            began = time.perf_counter()
            latency, verdict = _worker(folder)
            spent_s += time.perf_counter() - began
            timed_s += latency["count"] * latency["mean_ms"] / 1e3
            verdicts.append(verdict)
            ours.append(latency)
    return {
        "ours": _middle(ours),
        "loadgen": _middle(theirs),
        "inside_loadgen_p50_ms": statistics.median(inside_ns) / 1e6,  # the same call, our clock
        "ratios": {name: _ratios(ours, theirs, name) for name in FIGURES},
        "verdicts": verdicts,
        "worker_s_per_timed_s": spent_s / timed_s,
    }


def _worker(folder: Path) -> tuple[dict[str, float], str]:
    """What a device would report: load, goldens, warm-up, timing."""
    plan = BenchmarkPlan(min_runs=MIN_RUNS, min_seconds=ROUND_S)
    job = BenchmarkJob(
        result="", id="loadgen", folder=str(folder), plan=plan, setting=Setting(options=OPTIONS)
    )
    found = benchmark.handle(job).measurement
    latency = found.latency
    assert latency is not None
    assert latency.p90_ms is not None
    figures = {"p50_ms": latency.p50_ms, "mean_ms": latency.mean_ms, "p90_ms": latency.p90_ms}
    return {**figures, "count": float(latency.count)}, found.verdict.value


def _loadgen(query: Callable[[], object]) -> dict[str, float]:
    """One run of LoadGen's single stream over ``query``; its own summary, in ms."""
    import mlperf_loadgen as lg  # type: ignore[import-not-found]  # in a folder of the benchmark's

    settings = lg.TestSettings()
    settings.scenario, settings.mode = lg.TestScenario.SingleStream, lg.TestMode.PerformanceOnly
    settings.single_stream_expected_latency_ns = 20_000  # how many queries are made beforehand
    settings.min_duration_ms, settings.min_query_count = round(ROUND_S * 1e3), MIN_RUNS

    def issue(samples: list[Any]) -> None:
        for sample in samples:
            query()
            lg.QuerySamplesComplete([lg.QuerySampleResponse(sample.id, 0, 0)])

    system = lg.ConstructSUT(issue, lambda: None)
    library = lg.ConstructQSL(64, 64, lambda _: None, lambda _: None)
    with tempfile.TemporaryDirectory() as folder:
        log = lg.LogSettings()
        log.log_output.outdir = folder
        log.log_output.copy_summary_to_stdout = False
        log.enable_trace = False
        lg.StartTestWithLogSettings(system, library, settings, log)
        summary = (Path(folder) / "mlperf_log_summary.txt").read_text()
    lg.DestroyQSL(library)
    lg.DestroySUT(system)
    return {name: _figure(summary, line) for name, line in FIGURES.items()}


def _figure(summary: str, line: str) -> float:
    found = re.search(rf"{re.escape(line)}\s*:\s*(\d+)", summary)
    if found is None:
        raise RuntimeError(f"LoadGen's summary has no '{line}':\n{summary}")
    return int(found[1]) / 1e6


def _middle(rounds: list[dict[str, float]]) -> dict[str, float]:
    return {name: statistics.median(one[name] for one in rounds) for name in FIGURES}


def _ratios(ours: list[dict[str, float]], theirs: list[dict[str, float]], name: str) -> list[float]:
    """Least, median and most of ours over theirs, round by round."""
    pairs = zip(ours, theirs, strict=True)
    ratios = sorted(mine[name] / other[name] for mine, other in pairs)
    return [ratios[0], statistics.median(ratios), ratios[-1]]
