"""Benchmark: time one bundle, interleaved with the running one, and say what it is worth.

Order: load (timed), first run (timed), peak memory, golden answers, integer coverage, warm-up,
timing in ABBA blocks, energy. A model that answers wrong is not timed. No run is thrown away as
an outlier: a disturbed run gets a verdict that says so.
"""

from __future__ import annotations

import time
from dataclasses import dataclass, replace

from agent.jobs import BenchmarkJob, BenchmarkResult
from agent.sensors import find_meter
from agent.workers import child, consumption, goldens, installed, statistics, verdicts
from agent.workers.child import JobError
from agent.workers.goldens import Answer
from agent.workers.installed import Goldens, Loaded
from agent.workers.memory_use import PeakMeter
from agent.workers.runtimes import registry
from agent.workers.timing import Stream, Watch, warm_up
from fitment.core.deployment import BenchmarkPlan
from fitment.core.measurement import Energy, Measurement, ReadingStatus, Verdict


@dataclass(frozen=True, slots=True, kw_only=True)
class Baseline:
    """The running variant, ready to be timed."""

    variant: str
    stream: Stream


@dataclass(frozen=True, slots=True, kw_only=True)
class Opened:
    """The candidate and what was found before timing."""

    loaded: Loaded
    first_ms: float
    peak_memory_bytes: int | None
    answer: Answer
    integer_coverage: float | None
    stream: Stream


def handle(job: BenchmarkJob) -> BenchmarkResult:
    """Measure ``job.folder``.

    Raises:
        JobError: the bundle or its runtime cannot be loaded at all.
    """
    opened = _open(job)
    if not opened.answer.golden_ok:
        return BenchmarkResult(measurement=_untimed(job, opened))
    baseline, note = _open_baseline(job)
    return BenchmarkResult(measurement=_time(job, opened, baseline, note))


def _open(job: BenchmarkJob) -> Opened:
    """Load and look at the candidate. Memory is read before anything else is loaded beside it."""
    bundle = installed.read(job.folder)
    known = installed.goldens(bundle)
    registry.get(bundle.manifest.runtime)  # the library itself is no memory of the model
    peak = PeakMeter()
    loaded = installed.load(bundle, job.setting.options, overlay=job.overlay)
    first = loaded.session.prepare(installed.feeds(loaded.session, known.inputs)[0])
    started = time.perf_counter_ns()
    loaded.session.raw(first)
    first_ms = (time.perf_counter_ns() - started) / 1e6
    peak_bytes = peak.peak_bytes()
    return Opened(
        loaded=loaded,
        first_ms=first_ms,
        peak_memory_bytes=peak_bytes,
        answer=goldens.evaluate_pristine(loaded, known, job.setting.options),
        integer_coverage=loaded.session.integer_coverage(),
        stream=_stream(loaded, known),
    )


def _open_baseline(job: BenchmarkJob) -> tuple[Baseline | None, str]:
    """The running variant. One that no longer loads must not keep its successor out."""
    if not job.baseline_folder:
        return None, ""
    try:
        bundle = installed.read(job.baseline_folder)
        loaded = installed.load(bundle, job.setting.options, overlay=job.baseline_overlay)
        # It is fed its own golden inputs, for its input may have another layout.
        stream = _stream(loaded, installed.goldens(bundle))
    except JobError as error:
        return None, f"the running variant cannot be timed beside it: {error.message}"
    return Baseline(variant=bundle.variant, stream=stream), ""


def _stream(loaded: Loaded, known: Goldens) -> Stream:
    session = loaded.session
    feeds = installed.feeds(session, known.inputs)
    return Stream(session=session, feeds=tuple(session.prepare(feed) for feed in feeds))


def _time(job: BenchmarkJob, opened: Opened, baseline: Baseline | None, note: str) -> Measurement:
    plan, candidate = job.plan, opened.stream
    warm_up(candidate, max_seconds=plan.warmup_max_seconds)
    if baseline is not None:
        warm_up(baseline.stream, max_seconds=plan.warmup_max_seconds)
    watch = Watch(job.setting)
    _interleave(plan, watch, candidate, baseline)
    signals = watch.signals()
    verdict, reasons = verdicts.judge(
        plan,
        runs=len(candidate.durations_ns),
        seconds=candidate.seconds,
        drift=statistics.drift(candidate.durations_ns),
        signals=signals,
    )
    meter = find_meter(job.setting.root)
    energy = consumption.measure(meter, candidate, max_seconds=plan.max_seconds)
    latency = statistics.summarise(candidate.durations_ns)
    by = opened.loaded.session.coverage_by
    about = f"integer coverage is told by {by}" if by and opened.integer_coverage else ""
    notes = (*reasons, *statistics.not_told(latency), *filter(None, (about, note)))
    found = _found(job, opened, verdict, reasons=notes)
    return replace(
        found,
        energy=energy,
        latency=latency,
        baseline=baseline.variant if baseline else "",
        baseline_latency=statistics.summarise(baseline.stream.durations_ns) if baseline else None,
        conditions={**signals.numbers(), "warm": float(candidate.warm)},
    )


def _interleave(
    plan: BenchmarkPlan, watch: Watch, candidate: Stream, baseline: Baseline | None
) -> None:
    """Blocks in the order A B B A until the plan is met or time is up.

    A slow change of the device (heat, clocks) then weighs on both alike. Blocks of both take the
    same time, so that a slow baseline does not eat a fast candidate's.
    """
    other = baseline.stream if baseline is not None else None
    order = [candidate] if other is None else [candidate, other, other, candidate]
    started = time.monotonic()
    while True:
        for stream in order:
            with watch.block():
                stream.run(stream.block_runs)
        met = len(candidate.durations_ns) >= plan.min_runs
        met = met and candidate.seconds >= plan.min_seconds
        if met or time.monotonic() - started >= plan.max_seconds:
            return


def _untimed(job: BenchmarkJob, opened: Opened) -> Measurement:
    reason = f"not timed, for it answers wrong: {opened.answer.reason}"
    found = _found(job, opened, Verdict.TOO_SHORT, reasons=(reason,))
    return replace(found, energy=Energy(status=ReadingStatus.UNAVAILABLE, reason=reason))


def _found(
    job: BenchmarkJob, opened: Opened, verdict: Verdict, *, reasons: tuple[str, ...]
) -> Measurement:
    """Everything but what timing gives."""
    setting = job.setting
    return Measurement(
        id=job.id,
        bundle=opened.loaded.bundle.variant,
        runtime=opened.loaded.runtime,
        threads=setting.options.threads,
        verdict=verdict,
        energy=Energy(status=ReadingStatus.UNAVAILABLE),
        reasons=reasons,
        agreement=opened.answer.agreement,
        sqnr_db=opened.answer.sqnr_db,
        integer_coverage=opened.integer_coverage,
        golden_ok=opened.answer.golden_ok,
        peak_memory_bytes=opened.peak_memory_bytes,
        load_ms=opened.loaded.load_ms,
        first_ms=opened.first_ms,
        hardware=setting.hardware,
        stack=setting.stack,
        emulated=setting.emulated,
        wall_unix_ns=time.time_ns(),
    )


if __name__ == "__main__":
    raise SystemExit(child.run("benchmark", handle))
