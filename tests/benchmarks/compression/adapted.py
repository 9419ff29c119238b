"""Widths from the kernel table (NetAdapt) against one ratio for all layers, at equal latency.

    python -m tests.benchmarks.compression.adapted --out DIR

On the shipped network, for int8 in onnxruntime on this machine: each uniform ratio has a predicted
latency; NetAdapt cuts until it predicts no more. With ``--macs`` a third network gets as many
multiply-accumulates as the uniform one, by NetAdapt without a table. All are distilled alike and
made int8; files are timed interleaved. Trials are judged on guard images, test images are only
reported.
"""

from __future__ import annotations

import argparse
import json
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from controller.compress import execute
from controller.compress.graph import model as graphs
from controller.compress.passes.bias_correct import BiasCorrect
from controller.compress.passes.distil import Distil
from controller.compress.passes.prune_adapted import PruneAdapted
from controller.compress.passes.prune_structured import PruneStructured
from controller.compress.passes.quantize_static import QuantizeStatic
from controller.compress.predict import predict
from controller.compress.timing import TimingJob, kernel_table
from tests.benchmarks.compression.bench import Bench, Clock, say

RATIOS = (0.5, 0.65)
SCHEME = "u8s8"
JUDGED = 1024  # guard images that judge a trial
NEVER = 1e9  # seconds: training must not be cut short by a busy machine
DISTIL = Distil(epochs=3, samples=12_000, max_seconds=NEVER)
ROUNDS, RUNS = 24, 20


def measure(out: Path, ways: tuple[str, ...]) -> list[dict[str, Any]]:
    """One row a network, without their measured latencies."""
    import torch

    torch.set_num_threads(1)
    saved = out / "adapted.json"
    known = {r["name"]: r for r in (json.loads(saved.read_text()) if saved.exists() else [])}
    bench = Bench(out, known=known)
    table = _table(out)
    whole = predict(graphs.layers(bench.plain.payload), table, SCHEME).value
    rows = list(known.values())
    for ratio in RATIOS:
        steps = _steps(bench, table, whole, ratio)
        for row in _made(bench, table, {w: steps[w] for w in ways}, ratio, out):
            rows.append(row)
            saved.write_text(json.dumps(rows, indent=1) + "\n")
    return rows


def timed(out: Path, rows: list[dict[str, Any]]) -> list[dict[str, Any]]:
    """The rows with what their files take, in one interleaved run."""
    from controller.catalog import workload as catalog
    from controller.catalog.check import load_splits
    from controller.catalog.workload import GUARD
    from controller.examples.fashion_mnist import workload

    loaded = catalog.load(Path(workload.__file__).parent)
    inputs = loaded.real(load_splits(loaded)[GUARD].inputs[:16])
    files = {r["name"]: ((out / f"{r['name']}.onnx").read_bytes(), "onnx") for r in rows}
    found = execute.time_interleaved(files, inputs, rounds=ROUNDS, runs=RUNS)
    return [
        {**r, "p50_ms": found[r["name"]].p50_ms, "verdict": found[r["name"]].verdict.value}
        for r in rows
    ]


def _table(out: Path) -> Any:
    """This machine's kernels, timed once, so that a run can be gone on with."""
    from fitment.core import plain
    from fitment.core.kernels import KernelTable

    kept = out / "table.json"
    if not kept.exists():
        found = kernel_table("onnx", out / "probe", TimingJob())
        kept.write_text(json.dumps(plain.to_plain(found)) + "\n")
    return plain.from_plain(KernelTable, json.loads(kept.read_text()))


def _steps(bench: Any, table: Any, whole: float, ratio: float) -> dict[str, Any]:
    """The uniform cut, and both adapted ones that may cost as much."""
    uniform = PruneStructured(ratio=ratio, criterion="l2")
    plain = bench.run(bench.start, (uniform,)).payload
    share = predict(graphs.layers(plain), table, SCHEME).value / whole
    macs = graphs.macs(plain) / bench.fp32["macs"]
    target = {"table": round(share + 5e-5, 4), "macs": round(macs + 5e-5, 4)}
    return {
        "uniform": uniform,
        "table": PruneAdapted(target=target["table"], judged=JUDGED, table=table, scheme=SCHEME),
        "macs": PruneAdapted(target=target["macs"], judged=JUDGED),
    }


def _made(
    bench: Any, table: Any, steps: dict[str, Any], ratio: float, out: Path
) -> Iterator[dict[str, Any]]:
    """Cut, distilled and made int8, unless an earlier run did."""
    for way, step in steps.items():
        name = f"{way}-{ratio}"
        if name in bench.known:
            continue
        clock = Clock()
        cut = step.run(bench.start, bench.context)
        seconds = clock.lap()
        made = bench.run(cut, (DISTIL,))
        whole_row = bench.measure(f"{name}-fp32", made)
        cost = predict(graphs.layers(made.payload), table, SCHEME).value
        int8 = bench.run(made, (QuantizeStatic(scheme=SCHEME), BiasCorrect()))
        (out / f"{name}.onnx").write_bytes(int8.payload.SerializeToString(deterministic=True))
        row = bench.measure(name, int8, SCHEME)
        yield {**row, "way": way, "ratio": ratio, "predicted_ms": cost, "prune_s": seconds,
               "fp32": whole_row["accuracy"], "notes": list(cut.evidence[-1].notes)}  # fmt: skip


def shown(rows: list[dict[str, Any]]) -> str:
    """The rows as Markdown."""
    lines = ["| widths | as | predicted | measured | int8 accuracy | MACs | transfer | CPU s |"]
    lines += ["|---|---|---|---|---|---|---|---|"]
    for r in rows:
        lines.append(
            f"| {r['way']} | {r['ratio']:.0%} cut | {r['predicted_ms']:.3f} ms | "
            f"{r['p50_ms']:.4f} ms ({r['verdict']}) | {100 * r['accuracy']:.2f} % | "
            f"{r['macs'] / 1e6:.1f} M | {r['wire_bytes'] / 1e3:.0f} kB | {r['prune_s']:.0f} |"
        )
    return "\n".join(lines)


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--out", type=Path, required=True)
    parser.add_argument("--macs", action="store_true", help="Also adapt by arithmetic alone.")
    asked = parser.parse_args()
    asked.out.mkdir(parents=True, exist_ok=True)
    ways = ("uniform", "table", "macs") if asked.macs else ("uniform", "table")
    rows = timed(asked.out, measure(asked.out, ways))
    (asked.out / "timed.json").write_text(json.dumps(rows, indent=1) + "\n")
    say("done")
    print(shown(rows))
    return 0


if __name__ == "__main__":
    sys.exit(main())
