"""What serving costs, counted."""

from __future__ import annotations

from agent.workers.serving.meter import BOUNDS_MS, Meter


def test_it_counts_requests_runs_and_samples() -> None:
    meter = Meter()
    meter.ran(3, 2_000_000)
    for latency_ns in (3_000_000, 3_000_000, 40_000_000):
        meter.answered(latency_ns=latency_ns, queue_ns=1_000_000, run_ns=2_000_000)
    meter.failed()
    report = meter.report()
    assert (report["samples"], report["runs"], report["batch_sizes"]) == (3, 1, {"3": 1})
    assert (report["queue_mean_ms"], report["run_mean_ms"]) == (1.0, 2.0)
    counts = meter.counts()
    assert (counts.success.count, counts.success.ns, counts.fail.count) == (3, 46_000_000, 1)
    assert counts.last_unix_ms > 0


def test_latencies_fall_into_the_bin_below_their_bound() -> None:
    meter = Meter()
    for latency_ms in (0.05, 0.1, 0.11, 5000.0, 5001.0):
        meter.answered(latency_ns=int(latency_ms * 1e6), queue_ns=0, run_ns=0)
    bins = meter.report()["latency_histogram"]["counts"]
    assert len(bins) == len(BOUNDS_MS) + 1
    assert (bins[0], bins[1], bins[-2], bins[-1], sum(bins)) == (2, 1, 1, 1, 5)


def test_a_percentile_needs_enough_requests() -> None:
    meter = Meter()
    assert meter.latency() is None
    for number in range(1000):
        meter.answered(latency_ns=(number + 1) * 1_000_000, queue_ns=0, run_ns=0)
        if number == 9:
            few = meter.latency()
            assert few is not None
            assert few["p99_ms"] is None
    found = meter.latency()
    assert found is not None
    assert found["count"] == 1000
    assert 985 <= found["p99_ms"] <= 1000
