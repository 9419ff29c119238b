"""``python -m tests.benchmarks.compression.distillation``: what training here gives, and costs.

The shipped network, pruned, and 6,000 training images unless said otherwise; one thread. Seconds
are those of the processor, so that other work on the machine counts little; what is compared is
trained alternately in this one run. Accuracy is on the workload's whole test set, which chooses
nothing.
"""

from __future__ import annotations

import argparse
import copy
import json
import os
import statistics
import sys
import time
from collections.abc import Callable
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

IMAGES, EPOCHS = 6_000, 3
NO_LIMIT = 1e6  # seconds: a busy machine must not cut a training short that is compared
RATIOS = (0.5, 0.65)
METHODS = ("hinton", "label_free", "hints", "attention", "similarity", "labels")


def say(text: str) -> None:
    """Progress, apart from the results."""
    print(text, file=sys.stderr, flush=True)


@dataclass(slots=True)
class Bench:
    """The workload with its data, the networks to train, and the test set."""

    context: Any
    network: Any
    images: int

    def pruned(self, ratio: float) -> Any:
        """The shipped network without ``ratio`` of its channels, not yet trained."""
        from controller.compress.passes.prune_structured import PruneStructured

        step = PruneStructured(ratio=ratio, multiple_of=8)
        return step.run(self.candidate(self.network), self.context).payload

    def candidate(self, module: Any) -> Any:
        """A candidate that starts from ``module``."""
        from controller.compress.base import Candidate, Form

        return Candidate(form=Form.TORCH, payload=module)

    def accuracy(self, module: Any) -> float:
        """On the test set."""
        import torch

        split = self.context.splits["test"]
        with torch.inference_mode():
            parts = [
                module(torch.from_numpy(self.context.workload.real(split.inputs[i : i + 500])))
                for i in range(0, len(split), 500)
            ]
        return float(self.context.workload.metric(torch.cat(parts).numpy(), split.labels))

    def ran(self, step: Any, module: Any, *, seed: int = 0) -> dict[str, Any]:
        """Run a pass on ``module``: its seconds, the test accuracy, the pass's own numbers."""
        context = replace(self.context, memory={}, seed=seed)
        began = time.process_time()
        found = step.run(self.candidate(module), context)
        seconds = time.process_time() - began
        numbers = dict(found.evidence[-1].numbers)
        accuracy = self.accuracy(found.payload)
        say(f"  {step.text[:100]}: {100 * accuracy:.2f} %, {seconds:.0f} s")
        return {
            "cpu_seconds": seconds,
            "accuracy": accuracy,
            "steps": numbers.get("steps"),
            "features": numbers.get("features"),
            "payload": found.payload,
        }


def prepare(images: int) -> Bench:
    """Load the shipped workload."""
    import torch

    from controller.catalog import workload
    from controller.compress.base import Context
    from controller.examples.fashion_mnist import workload as example

    torch.set_num_threads(1)
    loaded = workload.load(Path(example.__file__).parent)
    names = ("calibration_a", "calibration_b", "train", "test")
    splits = {name: loaded.data(name) for name in names}
    network = loaded.source()
    return Bench(Context(workload=loaded, splits=splits, teacher=network), network, images)


def step_times(bench: Bench, ratio: float, *, rounds: int = 5) -> list[dict[str, Any]]:
    """Microseconds per image and step of the four ways to compute, interleaved."""
    from controller.compress.distillation import methods, training

    inputs = bench.context.training.inputs[:256]
    real = bench.context.workload.real
    answers = training.answers_of(bench.network, inputs, real)
    ways = [(p, c) for p in ("float32", "bfloat16") for c in (False, True)]
    taken: dict[tuple[str, bool], list[float]] = {way: [] for way in ways}
    module = bench.pruned(ratio)
    for _ in range(rounds + 1):
        for way in (*ways, *reversed(ways)):
            plan = training.Schedule(epochs=1, samples=256, precision=way[0], channels_last=way[1])
            lesson = training.Lesson(
                inputs=inputs, real=real, answers=answers, teacher=bench.network
            )
            student = copy.deepcopy(module)
            began = time.process_time()
            training.train(student, lesson, methods.make("hinton", alpha=1.0), plan)
            taken[way].append((time.process_time() - began) / len(inputs) * 1e6)
    warm = {way: statistics.median(values[2:]) for way, values in taken.items()}
    usual = warm["float32", False]
    return [
        {
            "ratio": ratio,
            "precision": way[0],
            "channels_last": way[1],
            "us_per_image": value,
            "times_as_fast": usual / value,
        }
        for way, value in warm.items()
    ]


def earlier_recipe(bench: Bench, module: Any, seed: int) -> dict[str, Any]:
    """The training of before: float32, the usual layout, the teacher's answers likewise."""
    import numpy as np
    import torch

    from controller.compress.distillation import methods, training

    split = bench.context.training
    chosen = np.random.default_rng(seed).permutation(len(split))[: bench.images]
    inputs, labels = split.inputs[chosen], split.labels[chosen]
    real, student = bench.context.workload.real, copy.deepcopy(module)
    began = time.process_time()
    with torch.inference_mode():
        parts = [
            bench.network(torch.from_numpy(real(inputs[i : i + 256])))
            for i in range(0, len(inputs), 256)
        ]
    lesson = training.Lesson(
        inputs=inputs,
        real=real,
        labels=torch.from_numpy(labels.astype(np.int64)),
        teacher=bench.network,
        answers=torch.cat(parts).clone(),
    )
    plan = training.Schedule(
        epochs=EPOCHS, samples=bench.images, precision="float32", channels_last=False,
        max_seconds=NO_LIMIT, seed=seed,
    )  # fmt: skip
    numbers = training.train(student, lesson, methods.make("hinton"), plan)
    seconds = time.process_time() - began
    accuracy = bench.accuracy(student)
    say(f"  earlier recipe, seed {seed}: {100 * accuracy:.2f} %, {seconds:.0f} s")
    return {"cpu_seconds": seconds, "accuracy": accuracy, "steps": numbers["steps"]}


def equal_seconds(bench: Bench, ratio: float, seeds: tuple[int, ...]) -> dict[str, Any]:
    """The earlier recipe, today's at equal steps, and today's at about equal seconds."""
    from controller.compress.passes.distil import Distil

    module = bench.pruned(ratio)
    plans = {
        "equal steps": Distil(epochs=EPOCHS, samples=bench.images, max_seconds=NO_LIMIT),
        "equal seconds": Distil(epochs=EPOCHS + 1, samples=2 * bench.images, max_seconds=NO_LIMIT),
    }
    found: dict[str, Any] = {"ratio": ratio, "untrained": bench.accuracy(module)}
    runs: dict[str, list[dict[str, Any]]] = {"earlier": [], **{name: [] for name in plans}}
    for seed in seeds:
        runs["earlier"].append(earlier_recipe(bench, module, seed))
        for name, step in plans.items():
            runs[name].append(_plain(bench.ran(step, module, seed=seed)))
    found["runs"] = runs
    return found


def by_method(bench: Bench, ratio: float) -> list[dict[str, Any]]:
    """Every method at the same steps from the same pruned weights, and the controls."""
    from controller.compress.passes.born_again import BornAgain
    from controller.compress.passes.distil import Distil

    module = bench.pruned(ratio)
    short: dict[str, Any] = {
        "epochs": EPOCHS, "samples": bench.images, "max_seconds": NO_LIMIT
    }  # fmt: skip
    listed: list[tuple[str, Any, Any]] = [
        (name, Distil(method=name, **short), module) for name in METHODS
    ]
    listed += [
        ("hinton, mirrored and shifted", Distil(mirror=True, shift=1, **short), module),
        ("born again twice, from the pruned weights", BornAgain(fresh=False, **short), module),
        ("born again twice, from fresh weights", BornAgain(**short), module),
        (
            "fp32 control: the whole network, labels",
            Distil(method="labels", **short),
            bench.network,
        ),
    ]
    return [{"name": n, **_plain(bench.ran(step, start))} for n, step, start in listed]


def _plain(found: dict[str, Any]) -> dict[str, Any]:
    return {key: value for key, value in found.items() if key != "payload"}


PARTS: dict[str, Callable[[Bench], Any]] = {
    "step_times": lambda b: [row for ratio in RATIOS for row in step_times(b, ratio)],
    "equal_seconds": lambda b: [equal_seconds(b, ratio, (0,)) for ratio in RATIOS],
    "methods": lambda b: by_method(b, RATIOS[1]),
    "slimmable": lambda b: _dynamic().slimmable(b, say),
    "early_exit": lambda b: _dynamic().early_exit(b, say),
}


def _dynamic() -> Any:
    from tests.benchmarks.compression import dynamic

    return dynamic


def main() -> int:
    """Measure all parts, or those asked for, and write them into one JSON file."""
    parser = argparse.ArgumentParser(prog="python -m tests.benchmarks.compression.distillation")
    parser.add_argument("--out", type=Path, default=Path("bench-out/distillation.json"))
    parser.add_argument("--images", type=int, default=IMAGES)
    parser.add_argument("--only", nargs="*", choices=tuple(PARTS), default=tuple(PARTS))
    arguments = parser.parse_args()
    os.environ["OMP_NUM_THREADS"] = os.environ["MKL_NUM_THREADS"] = "1"  # before torch starts
    bench = prepare(arguments.images)
    began = time.process_time()
    shipped = json.loads((bench.context.workload.folder / "weights.json").read_text())
    found: dict[str, Any] = {
        "training_images": arguments.images,
        "test_images": len(bench.context.splits["test"]),
        "fp32_accuracy": shipped["test_accuracy"],
    }
    arguments.out.parent.mkdir(parents=True, exist_ok=True)
    for name in arguments.only:
        say(name)
        found[name] = PARTS[name](bench)
        found["cpu_seconds"] = time.process_time() - began
        arguments.out.write_text(json.dumps(found, indent=2) + "\n")
    print(json.dumps(found, indent=2))
    return 0


if __name__ == "__main__":
    sys.exit(main())
