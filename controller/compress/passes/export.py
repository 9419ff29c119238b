"""From a source to an fp32 ONNX model: a free batch axis, where it has one input.

torch's legacy exporter is tried first: it is twenty times faster for small networks and, unlike
the newer one in the locked release, exports without side messages. What it cannot do, or once
it is gone, the newer one does. Metadata that names files and lines of the exporting machine is
stripped, so that equal weights give equal bytes.
"""

from __future__ import annotations

import contextlib
import io
import logging
import warnings
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, ClassVar

import numpy as np

from controller.catalog import program, samples
from controller.catalog.foreign import translated
from controller.compress.base import Applied, Candidate, Context, Form, Numbers, Pass
from controller.compress.passes import onnx_tidy
from controller.errors import FitError

if TYPE_CHECKING:
    import onnx
    from torch import nn

GOLDEN = 8
TOLERANCE = 1e-3  # relative to the largest output
OUTPUT_NAME = "output"
_MAX_BATCH = 65_536


@dataclass(frozen=True, slots=True, kw_only=True)
class ExportOnnx(Pass):
    """Export a torch module; constants are folded and unused parts removed."""

    name: ClassVar[str] = "export"
    takes: ClassVar[Form] = Form.TORCH
    gives: ClassVar[Form] = Form.ONNX

    opset: int = 17  # the lowest that vendor toolchains and old runtimes all read

    def apply(self, candidate: Candidate, context: Context) -> Applied:
        import torch

        torch.set_num_threads(context.threads)
        module = candidate.payload.eval()
        example = context.calibration[:2].copy()
        try:
            model = _legacy(module, example, context.workload.input_name, self.opset)
        except (RuntimeError, TypeError, ValueError, AttributeError):
            model = _exported_program(module, example, context.workload.input_name)
        return Applied(payload=onnx_tidy.tidy(model), numbers={})

    def check(self, before: Candidate, after: Applied, context: Context) -> Numbers:
        import torch

        inputs = context.calibration[:GOLDEN].copy()
        with torch.inference_mode():
            expected = before.payload(torch.from_numpy(inputs)).numpy()
        return _same(expected, after.payload, inputs)


@dataclass(frozen=True, slots=True, kw_only=True)
class AcceptOnnx(Pass):
    """Take the user's own ONNX model: fold constants, free the batch axis where that holds."""

    name: ClassVar[str] = "accept_onnx"
    takes: ClassVar[Form] = Form.ONNX
    gives: ClassVar[Form] = Form.ONNX

    def apply(self, candidate: Candidate, context: Context) -> Applied:
        model = onnx_tidy.tidy(candidate.payload)
        if samples.names(context.calibration):  # each is what one run takes
            return Applied(payload=model, numbers={"batch_free": 0.0})
        freed = onnx_tidy.free_batch(model)
        if onnx_tidy.answers_batches(freed, context.calibration[:3]):
            return Applied(payload=freed, numbers={"batch_free": 1.0})
        return Applied(payload=model, numbers={"batch_free": 0.0})

    def check(self, before: Candidate, after: Applied, context: Context) -> Numbers:
        inputs = context.calibration[:1].copy()
        expected = onnx_tidy.answer(before.payload, inputs)
        return _same(expected, after.payload, inputs)


def load_onnx(path: Path) -> onnx.ModelProto:
    """The user's ONNX file, or his exported program as one.

    Raises:
        WorkloadError: it is neither.
        FitError: torch's exporter cannot write the program as ONNX.
    """
    from controller.compress.graph import model

    if path.suffix == program.SUFFIX:
        return _of_program(program.load(path))
    loaded: onnx.ModelProto = model.load(path)
    return loaded


def _of_program(exported: Any) -> onnx.ModelProto:
    import torch

    with (
        warnings.catch_warnings(), _quiet("torch.onnx"),
        translated(FitError, "the exported program cannot be written as ONNX"),
    ):  # fmt: skip
        warnings.simplefilter("ignore")
        made = torch.onnx.export(exported, dynamo=True, verbose=False)
    if made is None:
        raise FitError("torch's exporter returned nothing")
    return made.model_proto


def _same(expected: Any, model: onnx.ModelProto, inputs: Any) -> Numbers:
    found = onnx_tidy.answer(model, inputs)
    if found.shape != expected.shape:
        raise FitError(f"the exported model answers with shape {found.shape}, not {expected.shape}")
    error = float(np.abs(expected - found).max() / max(float(np.abs(expected).max()), 1e-12))
    if not error <= TOLERANCE:
        raise FitError(f"the exported model's outputs differ by {error:.2e} of their largest")
    return {"golden_error": error}


def _legacy(module: nn.Module, example: Any, input_name: str, opset: int) -> onnx.ModelProto:
    import onnx
    import torch

    buffer = io.BytesIO()
    axes = {input_name: {0: "batch"}, OUTPUT_NAME: {0: "batch"}}
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # it announces its own retirement
        torch.onnx.export(
            module,
            (torch.from_numpy(example),),
            buffer,  # type: ignore[arg-type]  # the legacy exporter writes to files and buffers
            dynamo=False,
            opset_version=opset,
            input_names=[input_name],
            output_names=[OUTPUT_NAME],
            dynamic_axes=axes,
        )
    return onnx.load_from_string(buffer.getvalue())


def _exported_program(module: nn.Module, example: Any, input_name: str) -> onnx.ModelProto:
    import torch

    batch = torch.export.Dim("batch", min=1, max=_MAX_BATCH)
    with warnings.catch_warnings(), _quiet("torch.onnx"):
        warnings.simplefilter("ignore")
        program = torch.onnx.export(
            module,
            (torch.from_numpy(example),),
            dynamo=True,
            dynamic_shapes=({0: batch},),
            input_names=[input_name],
            output_names=[OUTPUT_NAME],
            verbose=False,
        )
    if program is None:
        raise FitError("torch's exporter returned nothing")
    return program.model_proto


@contextlib.contextmanager
def _quiet(name: str) -> Iterator[None]:
    logger = logging.getLogger(name)
    level = logger.level
    logger.setLevel(logging.ERROR)
    try:
        yield
    finally:
        logger.setLevel(level)
