"""Quantization-aware training beside rounding after training and an fp32 control.

    python -m tests.benchmarks.compression.qat --fit OUT --nets fp32-pruned65-kd

``OUT`` is the folder of ``fitment fit … --effort thorough --out OUT``. Every net is rounded
(`Reconstruct` and guarded `BiasCorrect`; no training), trained with its rounding (`Qat`), and
trained in float for as many epochs with the same loss, data, rate and seed (``fp32 control``). The
accuracies are of all test images, which choose nothing here; the settings were fixed before.
"""

from __future__ import annotations

import argparse
import json
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import onnx

from controller.catalog import workload as catalog
from controller.catalog.workload import CALIBRATION, GUARD, TEST, TRAIN, Split
from controller.compress import statistics
from controller.compress.base import Candidate, Context, Form
from controller.compress.passes.bias_correct import BiasCorrect
from controller.compress.passes.qat import Qat
from controller.compress.passes.quantize_static import QuantizeStatic
from controller.compress.passes.reconstruct import Reconstruct
from controller.compress.qat.network import GraphNet
from controller.compress.quantize import ranges, sensitivity, widths
from controller.compress.recipe import Recipe
from controller.examples.fashion_mnist import workload as example

CONTROL = 32  # "bits" of the control


def rows(net: Path, bits: list[int], qat: dict[str, Any]) -> Iterator[dict[str, Any]]:
    """One row for each kind of training and number of bits."""
    taken = catalog.load(Path(example.__file__).parent)
    splits = {name: taken.data(name) for name in (CALIBRATION, GUARD, TRAIN)}
    context = Context(workload=taken, splits=splits)
    test = taken.data(TEST)
    model = onnx.load(net)
    start = Candidate(form=Form.ONNX, payload=model)
    yield _row(net, "fp32 as it is", model, test, taken)
    for width in bits:
        began = time.process_time()
        if width == CONTROL:
            network = GraphNet(model, ranges.collect(model, context.calibration))
            numbers = Qat(**qat).train(network, context)
            found = network.fp32()
            yield _row(net, "fp32 control", found, test, taken) | _cost(began, numbers)
            continue
        few = () if width == 8 else (Reconstruct(bits=width),)
        rounded = Recipe(steps=(QuantizeStatic(), *few, BiasCorrect())).run(start, context)
        yield _row(net, f"w{width} rounded", rounded.payload, test, taken) | _cost(began, {})
        began = time.process_time()
        trained = Qat(bits=width, **qat).run(start, context)
        numbers = dict(trained.evidence[-1].numbers)
        yield _row(net, f"w{width} trained", trained.payload, test, taken) | _cost(began, numbers)


def _row(
    net: Path, kind: str, model: onnx.ModelProto, test: Split, taken: catalog.Workload
) -> dict[str, Any]:
    outputs = sensitivity.answers(model, taken.real(test.inputs))
    right = int((outputs.argmax(axis=1) == test.labels).sum())
    return {
        "net": net.stem,
        "kind": kind,
        "accuracy": right / len(outputs),
        "interval": statistics.wilson(right, len(outputs)),
        "test_images": len(outputs),
        "xz_bytes": widths.coded_bytes(model.SerializeToString(deterministic=True)),
    }


def _cost(began: float, numbers: dict[str, float]) -> dict[str, Any]:
    kept = ("loss_first", "loss_last", "steps", "stopped_early")
    cost = {"cpu_s": round(time.process_time() - began, 1)}
    return cost | {key: float(np.round(numbers[key], 4)) for key in kept if key in numbers}


def main() -> int:
    """Print one JSON line for each row."""
    parser = argparse.ArgumentParser(description="Quantization-aware training, measured.")
    parser.add_argument("--fit", type=Path, required=True, help="folder of a thorough fit")
    parser.add_argument("--nets", nargs="+", default=["fp32-pruned50-kd", "fp32-pruned65-kd"])
    parser.add_argument("--bits", nargs="+", type=int, default=[8, 4, 3, 2, CONTROL])
    parser.add_argument("--samples", type=int, default=12_000)
    parser.add_argument("--epochs", type=int, default=3)
    parser.add_argument("--learning-rate", type=float, default=0.01)
    chosen = parser.parse_args()
    qat = {
        "samples": chosen.samples,
        "epochs": chosen.epochs,
        "learning_rate": chosen.learning_rate,
        "max_seconds": 36_000.0,
    }
    for name in chosen.nets:
        for row in rows(chosen.fit / f"{name}.onnx", chosen.bits, qat):
            print(json.dumps(row), flush=True)
    return 0


if __name__ == "__main__":
    raise SystemExit(main())
