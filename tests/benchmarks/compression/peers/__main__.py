"""Fitment beside its peers: ``python -m tests.benchmarks.compression.peers --work DIR``.

Two leagues, never mixed: *post-training* (no training, no labels but where a point says so) and
*training allowed* (every peer gets the CPU seconds that Fitment's own training rung took). All
files are then scored by one harness, in one interleaved run.
"""

from __future__ import annotations

import argparse
import json
import os
import platform
import sys
from pathlib import Path
from typing import Any

NETS = ("fashion_mnist", "depthwise", "spam")
TRAINED = "fp32-pruned50-kd"  # Fitment's training rung: its CPU seconds are everybody's


def main() -> int:
    """Run what has not run yet, score everything, write ``peers-NET.json`` and print a table."""
    parser = argparse.ArgumentParser(prog="python -m tests.benchmarks.compression.peers")
    parser.add_argument("--work", type=Path, required=True)
    parser.add_argument("--net", choices=NETS, default=NETS[0])
    parser.add_argument("--only", nargs="*", default=(), help="names of tools; Fitment always runs")
    parser.add_argument("--leagues", nargs="*", default=("post-training", "training allowed"))
    arguments = parser.parse_args()
    os.environ["OMP_NUM_THREADS"] = os.environ["MKL_NUM_THREADS"] = "1"
    from tests.benchmarks.compression.peers import report

    work = arguments.work.absolute()
    found = _measure(work, arguments.net, tuple(arguments.only), tuple(arguments.leagues))
    path = work / f"peers-{arguments.net}.json"
    path.write_text(json.dumps(found, indent=2) + "\n")
    print(report.text(found))
    print(f"\nAll of it: {path}")
    return 0


def say(text: str) -> None:
    print(text, file=sys.stderr, flush=True)


def _measure(
    work: Path, net: str, only: tuple[str, ...], leagues: tuple[str, ...]
) -> dict[str, Any]:
    import torch

    from tests.benchmarks.compression import score
    from tests.benchmarks.compression import subject as subjects
    from tests.benchmarks.compression.peers import report, tools

    torch.set_num_threads(1)
    subject = subjects.prepare(work, net)
    records: dict[str, dict[str, Any]] = {}
    budget: float | None = None
    for tool in tools.TOOLS:
        if tool.league not in leagues or (only and tool.name not in (*only, tools.OURS)):
            continue
        record = tools.run(tool, subject, work, say, budget)
        records[f"{tool.league}/{tool.name}"] = record
        if tool.name == tools.OURS and tool.league == tools.TRAINING:
            budget = next(p["cpu_s"] for p in record["points"] if p["name"] == TRAINED)
    files = {"fp32": score.File(path=subject.peer / "model.onnx", runtime="onnx")}
    for key, record in records.items():
        for point in record.get("points", ()):
            path = Path(record["folder"]) / point["file"]
            files[f"{key}/{point['name']}"] = score.File(path=path, runtime=point["runtime"])
    scored, right = score.score(files, "fp32", subject.test(), say, work / "answers")
    found = {
        "net": net,
        "machine": platform.machine(),
        "cores": os.cpu_count(),
        "load_1min": os.getloadavg()[0],
        "training_cpu_seconds": budget,
        "tools": records,
        "scored": scored,
    }
    return {**found, "comparison": report.compare(found, right)}


if __name__ == "__main__":
    sys.exit(main())
