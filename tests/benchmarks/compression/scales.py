"""One scale for all weights of a layer, and evener channels before it: SmoothQuant, equalization.

    python -m tests.benchmarks.compression.scales [--workload FOLDER ...]

Static int8 in u8s8 with guarded bias correction, ranges by minmax over the calibration inputs, of
the shipped network, a ResNet-8 and the workloads asked for. Test inputs are only reported. Nothing
is timed: all files of a network have the same layers.
"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np

from controller.catalog import workload as catalog
from controller.compress import execute
from controller.compress.base import Candidate, Context, Form, Pass
from controller.compress.passes.bias_correct import BiasCorrect
from controller.compress.passes.equalize import Equalize
from controller.compress.passes.quantize_static import QuantizeStatic
from controller.compress.passes.smooth import Smooth
from controller.compress.recipe import Recipe
from controller.errors import FitError
from controller.examples.fashion_mnist import workload as fashion
from tests.benchmarks.compression.foretold import context_of, exported, float_model
from tests.benchmarks.compression.resnet8 import trained

WAYS: dict[str, tuple[Pass, ...]] = {
    "as it is": (),
    "equalized": (Equalize(),),
    **{f"SmoothQuant, α = {alpha}": (Smooth(alpha=alpha),) for alpha in (0.3, 0.5, 0.7)},
}
Subject = tuple[str, Context, Any]


def subjects(folders: list[Path]) -> Iterator[Subject]:
    """Name, data and float model of each."""
    shipped = catalog.load(Path(fashion.__file__).parent)
    context = context_of(shipped)
    yield "shipped", context, float_model(shipped, context)
    yield "resnet8", context, exported(trained(), context)
    for folder in folders:
        loaded = catalog.load(folder)
        context = context_of(loaded)
        yield folder.parent.name, context, float_model(loaded, context)


def rows(subject: Subject) -> Iterator[str]:
    """Markdown rows of one network."""
    name, context, model = subject
    split = context.splits["test"]
    inputs = context.workload.real(split.inputs)
    expected = execute.outputs(model.SerializeToString(), "onnx", inputs)
    accuracy = context.workload.metric(expected, split.labels)
    yield f"| {name} | fp32 | {100 * accuracy:.2f} % | | |"
    for by_channel in (True, False):
        for way, steps in WAYS.items():
            tail = (*steps, QuantizeStatic(per_channel=by_channel), BiasCorrect())
            start = Candidate(form=Form.ONNX, payload=model)
            try:
                made = Recipe(steps=tail).run(start, context).payload
            except FitError as error:
                print(f"{name}, {way}: {error}", file=sys.stderr)
                continue
            found = execute.outputs(made.SerializeToString(), "onnx", inputs)
            agreement = float((found.argmax(-1) == expected.argmax(-1)).mean())
            noise = np.square(expected).sum() / np.square(expected - found).sum()
            accuracy = context.workload.metric(found, split.labels)
            scale = "each channel" if by_channel else "all"
            yield (
                f"| {name} | {scale}, {way} | {100 * accuracy:.2f} % | {100 * agreement:.2f} % | "
                f"{10 * np.log10(noise):.1f} dB |"
            )


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--workload", type=Path, action="append", default=[])
    asked = parser.parse_args()
    print("| network | a weight scale for | accuracy | agreement | SQNR |")
    print("|---|---|---|---|---|")
    for subject in subjects(asked.workload):
        for row in rows(subject):
            print(row, flush=True)
    return 0


if __name__ == "__main__":
    sys.exit(main())
