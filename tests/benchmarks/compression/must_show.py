"""The small variants of a finished fit beside fp32 in onnxruntime and eager PyTorch.

``python -m tests.benchmarks.compression.must_show --fit DIR`` times, in one interleaved run of one
thread, every variant of at most ``--share`` of fp32's bytes on the wire, and prints the table that
the README has. DIR is what ``fitment fit fashion_mnist --thorough --out DIR`` wrote.
"""

from __future__ import annotations

import argparse
import json
import os
import sys
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

FP32, EAGER = "fp32 onnxruntime", "fp32 eager PyTorch"


def main() -> int:
    """Time and print."""
    parser = argparse.ArgumentParser(prog="python -m tests.benchmarks.compression.must_show")
    parser.add_argument("--fit", type=Path, required=True, help="the folder of a finished fit")
    parser.add_argument("--share", type=float, default=0.05, help="most bytes, of fp32's file")
    arguments = parser.parse_args()
    os.environ["OMP_NUM_THREADS"] = os.environ["MKL_NUM_THREADS"] = "1"
    if not (arguments.fit / "variants.json").is_file():
        print(f"{arguments.fit} holds no variants.json: fit there first", file=sys.stderr)
        return 2
    found = measure(arguments.fit, arguments.share)
    (arguments.fit / "must_show.json").write_text(json.dumps(found, indent=2) + "\n")
    print("\n".join(table(found)))
    return 0


def measure(fit: Path, share: float) -> dict[str, Any]:
    """Figures of every small variant; ratios are medians over rounds of one run."""
    import numpy as np

    from controller.examples.fashion_mnist import workload
    from tests.benchmarks import variants

    rows = json.loads((fit / "variants.json").read_text())["variants"]
    fp32 = next(row for row in rows if (row["name"], row["runtime"]) == ("fp32", "onnx"))
    small = [row for row in rows if row["wire_bytes"] <= share * fp32["file_bytes"]]
    images = workload.data("test")[0][: variants.RUNS] * np.float32(workload.input_scale)
    contenders = {
        FP32: variants.model_file(fit / fp32["path"], "onnx", images),
        EAGER: variants.eager(images),
        **{_name(r): variants.model_file(fit / r["path"], r["runtime"], images) for r in small},
    }
    timed = variants.interleave(contenders)
    points = [
        {
            "name": _name(row),
            "accuracy": row["accuracy"],
            "points": 100 * (row["accuracy"] - fp32["accuracy"]),
            "wire_bytes": row["wire_bytes"],
            "wire_share": row["wire_bytes"] / fp32["file_bytes"],
            "p50_ms": timed[_name(row)]["p50_ms"],
            "verdict": timed[_name(row)]["verdict"],
            "times_as_fast": variants.ratio(timed[FP32], timed[_name(row)]),
            "times_as_fast_as_eager": variants.ratio(timed[EAGER], timed[_name(row)]),
        }
        for row in small
    ]
    plain = {name: {k: timed[name][k] for k in ("p50_ms", "verdict")} for name in (FP32, EAGER)}
    return {"fp32": {"accuracy": fp32["accuracy"], "bytes": fp32["file_bytes"]},
            "plain": plain, "points": sorted(points, key=lambda p: -p["accuracy"])}  # fmt: skip


def table(found: Mapping[str, Any]) -> Iterator[str]:
    """Markdown."""
    yield (
        "| variant | points | on the wire | times smaller | p50 | as fast as fp32 | as eager"
        " | verdict |"
    )
    yield "|---|---|---|---|---|---|---|---|"
    for name, figures in found["plain"].items():
        yield f"| {name} | | | | {figures['p50_ms']:.3f} ms | | | {figures['verdict']} |"
    for p in found["points"]:
        yield (
            f"| `{p['name']}` | {p['points']:+.2f} | {p['wire_bytes'] / 1000:.1f} kB"
            f" ({100 * p['wire_share']:.1f} %) | {1 / p['wire_share']:.0f} | {p['p50_ms']:.4f} ms"
            f" | {_span(p['times_as_fast'])} | {_span(p['times_as_fast_as_eager'])}"
            f" | {p['verdict']} |"
        )


def _name(row: Mapping[str, Any]) -> str:
    return row["name"] + ("" if row["runtime"] == "onnx" else f"@{row['runtime']}")


def _span(found: Mapping[str, float]) -> str:
    return f"{found['median']:.1f} ({found['low']:.1f} to {found['high']:.1f})"


if __name__ == "__main__":
    sys.exit(main())
