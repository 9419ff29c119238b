"""A quick fit with each family of passes switched off: ``python -m …ablation --work DIR``.

Every row is the whole quick ladder for onnxruntime without one family; what the others share is
made once. The choice is Fitment's own rule (guard figures, the times of this one run).
"""

from __future__ import annotations

import argparse
import json
import os
import sys
import time
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

NETS = ("fashion_mnist", "depthwise")
BUDGET = {"accuracy_drop_max": 0.03}  # the example's own
FAMILIES = (
    "nothing",
    "distillation",
    "pruning and distillation",
    "static quantization",
    "all quantization",
    "few-bit reconstruction",
    "bias correction",
)


def main() -> int:
    """Make every row, time all files in one run, write ``ablation-NET.json``, print a table."""
    parser = argparse.ArgumentParser(prog="python -m tests.benchmarks.compression.ablation")
    parser.add_argument("--work", type=Path, required=True)
    parser.add_argument("--net", choices=NETS, default=NETS[0])
    arguments = parser.parse_args()
    os.environ["OMP_NUM_THREADS"] = os.environ["MKL_NUM_THREADS"] = "1"
    work = arguments.work.absolute()
    found = _measure(work, arguments.net)
    path = work / f"ablation-{arguments.net}.json"
    path.write_text(json.dumps(found, indent=2) + "\n")
    print(text(found))
    print(f"\nAll of it: {path}")
    return 0


def say(text: str) -> None:
    print(text, file=sys.stderr, flush=True)


def _measure(work: Path, net: str) -> dict[str, Any]:
    import torch

    from controller.catalog import workload as catalog
    from controller.compress.cache import FitCache
    from controller.compress.rungs import RungMaker, Settings
    from tests.benchmarks.compression import score
    from tests.benchmarks.compression import subject as subjects
    from tests.benchmarks.compression.peers import tools

    torch.set_num_threads(1)
    subject = subjects.prepare(work, net)
    shared = work / "made" / net / "training-allowed" / tools.OURS / "cache"
    maker = RungMaker(catalog.load(subject.torch), FitCache(shared), Settings(threads=1))
    out = work / "made" / net / "ablation"
    out.mkdir(parents=True, exist_ok=True)
    rows, files, failed = _rows(maker, out)
    files["fp32"] = score.File(path=subject.peer / "model.onnx", runtime="onnx")
    scored, _ = score.score(files, "fp32", subject.test(), say, work / "answers")
    return {
        "net": net,
        "budget": BUDGET,
        "rows": {family: _choice(members, scored) for family, members in rows.items()},
        "failed": failed,
        "scored": scored,
    }


def _rows(maker: Any, out: Path) -> tuple[dict[str, Any], dict[str, Any], dict[str, str]]:
    """Members of every row by file name, all files, and what could not be made."""
    from controller.compress.search import ladder
    from controller.errors import FitmentError
    from tests.benchmarks.compression.score import File

    target = ladder.RuntimeTarget(
        runtime="onnx", format="onnx", schemes=("fp32", "u8s8", "s8s8", "dynamic")
    )
    plan = ladder.Plan(
        targets=(target,), effort="quick", torch_source=True, recover=maker.workload.recover
    )
    plain, built = ladder.plain_head(plan), {}
    rows: dict[str, Any] = {}
    files: dict[str, Any] = {}
    failed: dict[str, str] = {}
    for family in FAMILIES:
        rows[family] = {}
        for rung in ladder.build(plan).rungs:
            changed = without(family, rung)
            if changed is None:
                continue
            key = changed.recipe.digest
            if key not in built:
                say(f"{family}: {changed.name}")
                began = time.process_time()
                try:
                    made = maker.cached(changed) or maker.make(changed, plain)
                except FitmentError as error:
                    failed[f"{family}/{changed.name}"] = str(error)
                    continue
                name = f"{changed.name}-{key[-8:]}"
                path = out / f"{name}.onnx"
                path.write_bytes((made.folder / "model.onnx").read_bytes())
                built[key] = (name, made.variant, time.process_time() - began)
                files[name] = File(path=path, runtime="onnx")
            name, variant, seconds = built[key]
            rows[family][name] = (variant, seconds)
    return rows, files, failed


def without(family: str, rung: Any) -> Any:
    """A rung of the quick ladder without one family of passes; None: it is nothing without it."""
    from controller.compress.recipe import Recipe

    drops: dict[str, Callable[[], bool]] = {
        "nothing": lambda: False,
        "distillation": lambda: False,
        "pruning and distillation": lambda: bool(rung.pruned),
        "static quantization": lambda: rung.calibrator != "",
        "all quantization": lambda: rung.scheme != "fp32",
        "few-bit reconstruction": lambda: rung.weight_bits < 8,
        "bias correction": lambda: False,
    }
    if drops[family]():
        return None
    step = {"distillation": "distil", "bias correction": "bias_correct"}.get(family)
    kept = tuple(s for s in rung.recipe.steps if s.name != step)
    return replace(rung, recipe=Recipe(steps=kept))


def _choice(members: Any, scored: Any) -> dict[str, Any]:
    from controller.domain.choice import choose
    from controller.domain.fleet import Budget
    from fitment.core import plain
    from tests.benchmarks.compression.peers.report import measurement

    measured = {
        variant.bundle.variant: measurement(variant, scored[name]["latency"])
        for name, (variant, _) in members.items()
    }
    choice = choose([v for v, _ in members.values()], plain.from_plain(Budget, BUDGET), measured)
    name = next((n for n, (v, _) in members.items() if v.bundle.variant == choice.chosen), "")
    return {"chosen": name, "reason": choice.reason, "members": list(members)}


def text(found: Any) -> str:
    """A Markdown table."""
    lines = [
        "| switched off | chosen | accuracy | against fp32 | file | xz | p50 |",
        "|---|---|---|---|---|---|---|",
    ]
    for family, row in found["rows"].items():
        if not row["chosen"]:
            lines.append(f"| {family} | none: {row['reason']} | | | | | |")
            continue
        s = found["scored"][row["chosen"]]
        low, high = s["change_interval"]
        lines.append(
            f"| {family} | {row['chosen'][:-9]} | {100 * s['accuracy']:.2f} % "
            f"| {100 * s['change']:+.2f} ({100 * low:+.2f} to {100 * high:+.2f}) "
            f"| {s['file_bytes'] / 1000:.0f} kB | {s['wire_bytes'] / 1000:.0f} kB "
            f"| {s['latency']['p50_ms']:.3f} ms, {s['latency']['verdict']} |"
        )
    lines += [f"\n{name}: could not be made: {why}" for name, why in found["failed"].items()]
    return "\n".join(lines)


if __name__ == "__main__":
    sys.exit(main())
