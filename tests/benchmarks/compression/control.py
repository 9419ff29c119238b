"""The trained variants beside controls: ``python -m …control --work DIR [--fit FOLDER]``.

For a cut of the thorough ladder, the network that it leaves is trained three ways for as many
steps of the same schedule, on the same images in the same order:

- *distilled*: as the ladder does it, from the pruned weights, taught by the user's network;
- *labels*: from the pruned weights, by labels alone;
- *fresh*: from newly drawn weights, by labels alone.

Weights are float32 (multiplied in bfloat16 where the processor has it); accuracy is on the 10,000
test images, and changes are paired. What was trained stays in DIR. ``--fit`` names the folder of
a finished thorough fit, whose own file is taken for the distilled network of seed 0.
"""

from __future__ import annotations

import argparse
import copy
import json
import os
import sys
import time
from dataclasses import replace
from pathlib import Path
from typing import Any

CUTS = ("-pruned65-kd", "-short40-pruned65-kd")
WAYS = ("distilled", "labels", "fresh")
NO_LIMIT = 1e6  # seconds: a busy machine must not cut a training short that is compared


def main() -> int:
    """Train what is not trained yet, write ``control.json`` and print a table."""
    parser = argparse.ArgumentParser(prog="python -m tests.benchmarks.compression.control")
    parser.add_argument("--work", type=Path, required=True)
    parser.add_argument("--fit", type=Path)
    parser.add_argument("--cuts", nargs="*", default=CUTS)
    parser.add_argument("--seeds", type=int, nargs="*", default=(0,))
    arguments = parser.parse_args()
    os.environ["OMP_NUM_THREADS"] = os.environ["MKL_NUM_THREADS"] = "1"
    arguments.work.mkdir(parents=True, exist_ok=True)
    found = [
        row
        for cut in arguments.cuts
        for seed in arguments.seeds
        for row in one(arguments.work, cut, seed, arguments.fit)
    ]
    (arguments.work / "control.json").write_text(json.dumps(found, indent=2) + "\n")
    print("| cut | seed | network | steps | CPU s | accuracy | against distilled |")
    print("|---|---|---|---|---|---|---|")
    for row in found:
        low, high = (100 * v for v in row["change_interval"])
        print(
            f"| {row['cut']} | {row['seed']} | {row['way']} | {row['steps']:.0f} "
            f"| {row['cpu_s']:.0f} | {100 * row['accuracy']:.2f} % "
            f"| {100 * row['change']:+.2f} ({low:+.2f} to {high:+.2f}) |"
        )
    return 0


def one(work: Path, cut: str, seed: int, fit: Path | None) -> list[dict[str, Any]]:
    """One cut and seed, all ways."""
    import numpy as np

    from tests.benchmarks.compression import score

    trained = {}
    for way in WAYS:
        kept = work / f"control{cut}-{seed}-{way}.npz"
        if not kept.is_file():
            _make(kept, cut, seed, way, fit)
        with np.load(kept, allow_pickle=False) as held:
            trained[way] = {key: held[key] for key in held.files}
    reference = trained["distilled"]["right"]
    return [
        {
            "cut": cut.strip("-"),
            "seed": seed,
            "way": way,
            "steps": float(held["steps"]),
            "cpu_s": float(held["cpu_s"]),
            **score.accuracy(held["right"], reference),
        }
        for way, held in trained.items()
    ]


def _make(kept: Path, cut: str, seed: int, way: str, fit: Path | None) -> None:
    """Which test images the trained network gets right, [N] bool, beside steps and seconds."""
    import numpy as np

    from tests.benchmarks.compression import distillation

    bench = distillation.prepare(0)
    labels = bench.context.splits["test"].labels
    if way == "distilled" and seed == 0 and fit is not None:
        right = _answers(fit / f"fp32{cut}.onnx", bench) == labels
        np.savez(kept, right=right, steps=np.nan, cpu_s=np.nan)
        return
    context = replace(bench.context, memory={}, seed=seed)
    before, distil = _recipe(bench, cut)
    module = before.run(bench.candidate(bench.network), context).payload
    step = replace(distil, max_seconds=NO_LIMIT)
    if way != "distilled":
        step = replace(step, method="labels")
    if way == "fresh":
        module = fresh(module, seed)
    print(f"{cut.strip('-')}, seed {seed}: {way}", file=sys.stderr, flush=True)
    began = time.process_time()
    made = step.run(bench.candidate(module), context)
    taken = time.process_time() - began
    steps = made.evidence[-1].numbers["steps"]
    right = _torch_answers(made.payload, bench) == labels
    np.savez(kept, right=right, steps=steps, cpu_s=taken)


def _recipe(bench: Any, cut: str) -> tuple[Any, Any]:
    """What the thorough ladder does before it distils, and how it distils."""
    from controller.compress.passes.distil import Distil
    from controller.compress.recipe import Recipe
    from controller.compress.search import ladder

    target = ladder.RuntimeTarget(runtime="onnx", format="onnx")
    plan = ladder.Plan(targets=(target,), effort="thorough", recover=bench.context.workload.recover)
    asked = next(c for c in ladder.THOROUGH_CUTS if c.text == cut)
    steps = ladder.pruned_head(plan, asked).steps
    at = next(i for i, step in enumerate(steps) if isinstance(step, Distil))
    return Recipe(steps=steps[:at]), steps[at]


def fresh(module: Any, seed: int) -> Any:
    """The same layers with weights drawn anew, as torch draws them."""
    import torch

    torch.manual_seed(seed)
    drawn = copy.deepcopy(module)
    for layer in drawn.modules():
        if hasattr(layer, "reset_parameters"):
            layer.reset_parameters()
    return drawn


def _answers(file: Path, bench: Any) -> Any:
    from controller.compress import execute

    real = bench.context.workload.real(bench.context.splits["test"].inputs)
    return execute.outputs(file.read_bytes(), "onnx", real).argmax(axis=1)


def _torch_answers(module: Any, bench: Any) -> Any:
    import torch

    stored, real = bench.context.splits["test"].inputs, bench.context.workload.real
    with torch.inference_mode():
        parts = [
            module(torch.from_numpy(real(stored[i : i + 500]))).argmax(1)
            for i in range(0, len(stored), 500)
        ]
    return torch.cat(parts).numpy()


if __name__ == "__main__":
    sys.exit(main())
