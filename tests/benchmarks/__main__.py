"""``make bench``: a table, and ``bench.json`` beside it."""

from __future__ import annotations

import argparse
import json
import math
import os
import platform
import sys
from pathlib import Path
from typing import Any


def main() -> int:
    """Measure all, or one of them."""
    parser = argparse.ArgumentParser(prog="python -m tests.benchmarks")
    parser.add_argument("--out", type=Path, default=Path("bench-out"))
    parts = (
        "variants", "loop", "serving", "calibration", "fleet", "wire", "month", "device", "soak",
    )  # fmt: skip
    parser.add_argument("--only", choices=parts)
    parser.add_argument("--images", type=int, default=10_000, help="test images for calibration")
    parser.add_argument("--rollouts", type=int, default=1000, help="of each story, for fleet")
    parser.add_argument("--devices", default="100,1000,10000", help="fleets, for wire")
    parser.add_argument("--month-devices", type=int, default=30, help="for month")
    parser.add_argument("--seeds", type=int, default=3, help="for month")
    parser.add_argument("--link", choices=("auto", "mqtt", "grpc"), default="auto")
    arguments = parser.parse_args()
    # Before any library starts its threads.
    os.environ["OMP_NUM_THREADS"] = os.environ["MKL_NUM_THREADS"] = "1"
    from tests.benchmarks import calibration, loop, serving, variants

    out = arguments.out.absolute()
    out.mkdir(parents=True, exist_ok=True)
    found: dict[str, Any] = {"machine": platform.machine(), "cores": os.cpu_count()}
    if arguments.only == "fleet":  # asked for alone: it takes minutes, and no device
        found["fleet"] = _fleet(arguments.rollouts)
        (out / "fleet.json").write_text(json.dumps(found, indent=2) + "\n")
        print(json.dumps(found["fleet"], indent=2))
        return 0
    if arguments.only == "month":
        from tests.benchmarks.fleet import month

        found["month"] = month.measure(arguments.month_devices, arguments.seeds, out, say)
        (out / "month.json").write_text(json.dumps(found, indent=2) + "\n")
        return 0
    if arguments.only == "wire":
        from tests.benchmarks.fleet import wire

        sizes = tuple(int(size) for size in arguments.devices.split(","))
        found["wire"] = wire.measure(sizes, say)
        (out / "wire.json").write_text(json.dumps(found, indent=2) + "\n")
        print(json.dumps(found["wire"], indent=2))
        return 0
    if arguments.only in ("device", "soak"):
        found[arguments.only] = _device(arguments.only, out)
        (out / f"{arguments.only}.json").write_text(json.dumps(found, indent=2) + "\n")
        print(json.dumps(found[arguments.only], indent=2))
        return 0
    if arguments.only in (None, "variants"):
        found["variants"] = variants.measure(out, say)
    if arguments.only in (None, "loop"):
        found["loop"] = loop.measure(out, say, arguments.link)
    if arguments.only in (None, "serving"):
        found["serving"] = serving.measure(out, say)
    if arguments.only in (None, "calibration"):
        bundles = serving.bundles(out, say)
        found["calibration"] = calibration.measure(out, bundles, say, images=arguments.images)
    (out / "bench.json").write_text(json.dumps(found, indent=2) + "\n")
    show(found)
    print(f"\nAll of it: {out / 'bench.json'}")
    return 0


def _fleet(rollouts: int) -> dict[str, Any]:
    from tests.benchmarks.fleet import rollouts as statistics
    from tests.benchmarks.fleet import ticks

    return {
        "rollouts": statistics.measure(rollouts, say),
        "tick_memory": ticks.measure((100, 1000), say, "memory"),
        "tick_sqlite": ticks.measure((100, 1000, 10_000), say),
    }


def _device(part: str, out: Path) -> dict[str, Any]:
    """What an agent takes and how it measures: minutes; ``soak`` over an hour."""
    from tests.benchmarks import serving
    from tests.benchmarks.device import footprint, loadgen, soak

    if part == "soak":
        return soak.measure(say)
    return {
        "footprint": footprint.measure(out, say),
        "loadgen": loadgen.measure(out, serving.bundles(out, say), say),
    }


def say(text: str) -> None:
    """Progress, apart from the results."""
    print(text, file=sys.stderr, flush=True)


def show(found: dict[str, Any]) -> None:
    """The results for people."""
    if "variants" in found:
        _show_variants(found["variants"])
    if "loop" in found:
        _show_loop(found["loop"])
    if "serving" in found:
        _show_serving(found["serving"])
    if "calibration" in found:
        _show_calibration(found["calibration"])


def _show_variants(found: dict[str, Any]) -> None:
    low, high = found["accuracy_interval"]
    print(f"\n{found['variant']} on {found['runtime']}, chosen for {found['profile']}")
    print(
        f"  accuracy {100 * found['accuracy']:.2f} % ({100 * low:.2f} to {100 * high:.2f}),"
        f" fp32 {100 * found['fp32_accuracy']:.2f} %,"
        f" {100 * found['accuracy_change']:+.2f} points on {found['test_images']} test images"
    )
    print(
        f"  bytes of the fp32 ONNX file: {100 * found['file_share_of_fp32']:.1f} % as a file,"
        f" {100 * found['wire_share_of_fp32']:.1f} % on the wire"
    )
    for name, entry in found["latency"].items():
        ratio = entry.get("times_as_long_as_chosen")
        shown = "" if ratio is None else (
            f", {ratio['median']:.1f} times as long as chosen"
            f" ({ratio['low']:.1f} to {ratio['high']:.1f})"
        )  # fmt: skip
        print(f"  {name:<20} p50 {entry['p50_ms']:.3f} ms, {entry['verdict']}{shown}")
    print(f"  the fit took {found['fit_s']:.0f} s")


def _show_loop(found: dict[str, Any]) -> None:
    print(f"\nThe loop over {found['link']}: the demo took {found['demo_s']:.0f} s")
    print(f"  from a change to the commit, fitted anew     {found['change_to_commit_s']:.1f} s")
    print(
        f"  … and from the cache                         {found['change_to_commit_cached_s']:.1f} s"
    )
    for name, memory in found["supervisor_memory_bytes"].items():
        if memory:
            print(
                f"  supervisor of {name:<12} PSS {memory['pss'] / 2**20:.1f} MiB,"
                f" anonymous {memory['anonymous'] / 2**20:.1f} MiB"
            )


def _show_serving(found: dict[str, Any]) -> None:
    print(
        f"\nServing to {found['client']} over a Unix socket, p99 limit {found['p99_limit_ms']} ms"
    )
    for name, variant in found["variants"].items():
        for row in variant["throughput"]["table"]:
            print(
                f"  {name:<10} {row['mode']:<10} {row['callers']:>2} callers"
                f" {row['requests_s']:7.0f} requests/s, p50 {row['p50_ms']:.2f} ms,"
                f" p99 {row['p99_ms']:.2f} ms, {row['verdict']}"
            )
        for callers, ratio in variant["throughput"]["ratios"].items():
            print(
                f"  {name:<10} batched over one by one, {callers:>2} callers:"
                f" {ratio['median']:.2f} ({ratio['low']:.2f} to {ratio['high']:.2f})"
            )
        gain = variant["throughput"]["gain"]
        shown = "none within the limit" if gain is None else f"{gain:.2f} times one by one"
        print(f"  {name:<10} batched, at the limit: {shown}")
        alone = ", ".join(f"{ms:.3f} at {rows}" for rows, ms in variant["a_sample_ms"].items())
        print(f"  {name:<10} the runtime alone, ms a sample: {alone}")
        for way, entry in variant["overhead"].items():
            print(f"  {name:<10} {way:<15} p50 {entry['p50_ms']:.3f} ms")
    swaps = found["swaps"]
    print(
        f"  {swaps['swaps']} swaps under {swaps['callers']} callers:"
        f" {swaps['requests']} requests, {swaps['failed']} failed, p99 {swaps['p99_ms']:.1f} ms"
        f" (without swaps {swaps['p99_ms_without_swaps']:.1f} ms)"
    )


def _show_calibration(found: dict[str, Any]) -> None:
    for name, subject in found["subjects"].items():
        print(
            f"\nCalibrating {name} on {subject['test_inputs']} test inputs, {found['seeds']} seeds,"
            " % right (mean; least and most of the seeds)"
        )
        print("  sensor           samples              fp32 shipped  range moments  input  gated")
        for row in subject["table"]:
            base = subject["base"][row["sensor"]]
            ways = [row.get(f"{mode}_always") for mode in ("range", "moments", "input")]
            means = [math.nan if way is None else way["mean"] for way in ways]
            gated = row["input_gated"]
            numbers = (base["fp32"], base["as_shipped"], *means, gated["mean"])
            shown = " ".join(f"{100 * number:6.2f}" for number in numbers)
            applied = "/".join(
                str(row.get(f"{m}_applied", "-")) for m in ("input", "moments", "range")
            )
            print(
                f"  {row['sensor']:<16} {row['samples']:<19} {shown} ({100 * gated['low']:.2f} to"
                f" {100 * gated['high']:.2f}) applied {applied}"
            )
        for mode, gate in subject["gate"].items():
            print(
                f"  gate, {mode}: {gate['harmful_accepted']} of {gate['harmful']} harmful accepted,"
                f" {gate['helpful_refused']} of {gate['helpful']} helpful refused,"
                f" surely {gate['surely_harmful_accepted']} of {gate['surely_harmful']} and"
                f" {gate['surely_helpful_refused']} of {gate['surely_helpful']},"
                f" worst change {100 * gate['worst_change']:+.2f} points"
                f" (at least {100 * gate['worst_low']:+.2f}), {gate['applied']} of"
                f" {gate['cases']} applied"
            )
    for name, cost in found["costs"].items():
        if isinstance(cost, dict):
            print(
                f"  {name:<16} {cost['cpu_s']:.2f} CPU s, {cost['wall_s']:.2f} s,"
                f" {cost['peak_bytes'] / 2**20:.0f} MiB, {cost['made_bytes']} bytes"
            )


if __name__ == "__main__":
    sys.exit(main())
