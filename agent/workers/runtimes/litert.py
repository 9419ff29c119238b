"""LiteRT (``ai_edge_litert``), or ``tflite_runtime`` on boards that are stuck on it."""

from __future__ import annotations

import importlib.metadata
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from agent.jobs import RuntimeOptions
from agent.workers.runtimes import base
from agent.workers.runtimes.base import Array, Float, Model, Tensor
from fitment.core.bundle import IoSpec

try:
    from ai_edge_litert.interpreter import Interpreter

    _PACKAGE = "ai-edge-litert"
except ImportError:
    from tflite_runtime.interpreter import Interpreter

    _PACKAGE = "tflite-runtime"

_WEIGHTS: Mapping[str, int] = {
    # heavy operator -> position of its weights among its inputs
    "CONV_2D": 1,
    "DEPTHWISE_CONV_2D": 1,
    "CONV_3D": 1,
    "TRANSPOSE_CONV": 1,
    "FULLY_CONNECTED": 1,
    "BATCH_MATMUL": 1,
    "UNIDIRECTIONAL_SEQUENCE_LSTM": 1,
    "SVDF": 1,
}


class LitertSession:
    """One ``Interpreter`` with its tensors allocated."""

    coverage_by = "operator types, not by what ran"

    def __init__(self, model: Model, options: RuntimeOptions) -> None:
        source: dict[str, Any] = (
            {"model_content": model} if isinstance(model, bytes) else {"model_path": str(model)}
        )
        try:
            self._interpreter = Interpreter(num_threads=options.threads, **source)
            self._interpreter.allocate_tensors()
        except (RuntimeError, ValueError) as error:
            raise base.load_error(f"{_PACKAGE} {_version()}", error) from error
        inputs = self._interpreter.get_input_details()
        outputs = self._interpreter.get_output_details()
        self.inputs = tuple(_tensor(item) for item in inputs)
        self.outputs = tuple(_tensor(item) for item in outputs)
        self._input_indices = [int(item["index"]) for item in inputs]
        self._output_indices = [int(item["index"]) for item in outputs]

    @property
    def version(self) -> str:
        return _version()

    def prepare(self, inputs: Sequence[Array]) -> list[Array]:
        pairs = zip(self.inputs, inputs, strict=True)
        return [base.to_native(tensor, values) for tensor, values in pairs]

    def raw(self, feeds: Sequence[Array]) -> list[Array]:
        interpreter = self._interpreter
        for index, values in zip(self._input_indices, feeds, strict=True):
            interpreter.set_tensor(index, values)
        interpreter.invoke()
        return [interpreter.get_tensor(index) for index in self._output_indices]

    def run(self, inputs: Sequence[Array]) -> list[Float]:
        pairs = zip(self.outputs, self.raw(self.prepare(inputs)), strict=True)
        return [base.to_real(tensor, values) for tensor, values in pairs]

    def integer_coverage(self) -> float | None:
        """From the types of the operators' weights.

        A float input with integer weights counts: LiteRT quantizes that input on the fly and
        multiplies integers. Weights that are only stored small pass through DEQUANTIZE first, so
        that their operator sees float ones and does not count.
        """
        list_operators = getattr(self._interpreter, "_get_ops_details", None)
        if list_operators is None:
            return None
        try:
            operators = list_operators()
        except ValueError:
            return None  # some releases trip over optional inputs here
        heavy = [_is_integer(item) for item in operators if item["op_name"] in _WEIGHTS]
        return sum(heavy) / len(heavy) if heavy else None

    def close(self) -> None:
        del self._interpreter


class LitertRuntime:
    """Loads ``.tflite`` files. These tell their scales themselves, so ``io`` is not needed."""

    @property
    def version(self) -> str:
        return _version()

    def load(
        self,
        model: Model,
        options: RuntimeOptions,
        *,
        io: IoSpec | None = None,  # noqa: ARG002 - part of the protocol
    ) -> LitertSession:
        return LitertSession(model, options)


def _version() -> str:
    return importlib.metadata.version(_PACKAGE)


def _is_integer(operator: Mapping[str, Any]) -> bool:
    types = operator["operand_types"]
    position = _WEIGHTS[operator["op_name"]]
    return len(types) > position and np.dtype(types[position]).kind in "iu"


def _tensor(details: Mapping[str, Any]) -> Tensor:
    scale, zero_point = details["quantization"]
    return Tensor(
        name=str(details["name"]),
        dtype=np.dtype(details["dtype"]).name,
        shape=tuple(int(size) for size in details["shape"]),
        scale=float(scale) if scale else None,
        zero_point=int(zero_point),
    )
