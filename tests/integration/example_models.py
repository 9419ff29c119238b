"""The shipped example as a folded float ONNX model, with its images."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import numpy as np
import onnx
from numpy.typing import NDArray

from controller.catalog import workload
from controller.compress.base import Candidate, Context, Form
from controller.compress.passes.export import ExportOnnx
from controller.compress.passes.fold import FoldBatchNorm
from controller.compress.recipe import Recipe

FOLDER = Path(__file__).parents[2] / "controller" / "examples" / "fashion_mnist"
TEST_IMAGES = 1500


@dataclass(frozen=True, slots=True, kw_only=True)
class Example:
    """The model, real calibration and test inputs, and the test labels."""

    model: onnx.ModelProto
    calibration: NDArray[np.float32]
    test: NDArray[np.float32]
    labels: NDArray[np.int64]


def fashion_mnist() -> Example:
    """Load the checkpoint, fold and export it."""
    taken = workload.load(FOLDER)
    splits = {name: taken.data(name) for name in ("calibration_a", "test")}
    context = Context(workload=taken, splits=splits)
    recipe = Recipe(steps=(FoldBatchNorm(), ExportOnnx()))
    made = recipe.run(Candidate(form=Form.TORCH, payload=taken.source()), context)
    test = splits["test"]
    return Example(
        model=made.payload,
        calibration=taken.real(splits["calibration_a"].inputs),
        test=taken.real(test.inputs[:TEST_IMAGES]),
        labels=np.asarray(test.labels[:TEST_IMAGES]),
    )
