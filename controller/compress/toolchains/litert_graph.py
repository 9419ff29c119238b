"""The ``.tflite`` file under construction: tensors, buffers, operators.

A tensor of the ONNX graph has one of three forms here: float, int8 (between Q and DQ), or
constant. Dequantized names of the Q/DQ form are aliases of the integer tensor behind them, so that
operators read integers directly.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
from ai_edge_litert import schema_py_generated as schema
from numpy.typing import NDArray

from controller.compress.graph.model import View
from controller.errors import FitError

TYPES = {
    "float32": schema.TensorType.FLOAT32,
    "int8": schema.TensorType.INT8,
    "int32": schema.TensorType.INT32,
}


@dataclass(frozen=True, slots=True, kw_only=True)
class Quant:
    """Scale and zero point of a tensor; arrays of one, or one a channel along ``axis``."""

    scale: NDArray[np.float32]
    zero_point: NDArray[np.int64]
    axis: int = 0


class Emitter:
    """Collects the parts of one model."""

    def __init__(self, view: View, shapes: dict[str, tuple[int, ...]]) -> None:
        self.view = view
        self.shapes = shapes
        self.index: dict[str, int] = {}  # ONNX tensor -> tensor of the file
        self.nchw: set[str] = set()  # four-axis tensors, whose axes are moved
        self._tensors: list[Any] = []
        self._buffers: list[Any] = [schema.BufferT()]
        self._operators: list[Any] = []
        self._codes: dict[tuple[int, int], int] = {}
        self._inputs: list[int] = []
        self._outputs: list[int] = []

    def shape(self, name: str) -> tuple[int, ...]:
        """Shape of an ONNX tensor in the file's layout.

        Raises:
            FitError: shape inference does not know it.
        """
        if name not in self.shapes or any(n < 1 for n in self.shapes[name]):
            raise FitError(f"no LiteRT variant: the shape of '{name}' is not known")
        found = self.shapes[name]
        return (found[0], found[2], found[3], found[1]) if len(found) == 4 else found

    def tensor(
        self,
        name: str,
        shape: tuple[int, ...],
        dtype: str = "float32",
        quant: Quant | None = None,
        data: NDArray[Any] | None = None,
    ) -> int:
        """A new tensor of the file."""
        made = schema.TensorT()
        made.name = name.encode()
        made.shape = list(shape)
        made.type = TYPES[dtype]
        made.buffer = 0 if data is None else self._buffer(data)
        made.quantization = _parameters(quant)
        self._tensors.append(made)
        return len(self._tensors) - 1

    def operator(
        self,
        kind: str,
        inputs: list[int],
        outputs: list[int],
        *,
        version: int = 1,
        options: Any = None,
    ) -> None:
        """A new operator; ``options`` is one of the schema's ``…OptionsT``."""
        code = getattr(schema.BuiltinOperator, kind)
        key = (code, version)
        made = schema.OperatorT()
        made.opcodeIndex = self._codes.setdefault(key, len(self._codes))
        made.inputs, made.outputs = inputs, outputs
        if options is not None:
            name = type(options).__name__.removesuffix("T")
            made.builtinOptionsType = getattr(schema.BuiltinOptions, name)
            made.builtinOptions = options
        self._operators.append(made)

    def input(self, name: str) -> None:
        """The graph's input, in float."""
        self.index[name] = self.tensor(name, self.shape(name))
        self._inputs.append(self.index[name])

    def output(self, name: str) -> None:
        """A graph output, in float: an integer one gets a dequantize operator."""
        index = self.index[name]
        if self._tensors[index].type != schema.TensorType.FLOAT32:
            made = self.tensor(f"{name}_float", tuple(self._tensors[index].shape))
            self.operator(
                "DEQUANTIZE", [index], [made], version=2, options=schema.DequantizeOptionsT()
            )
            index = made
        self._outputs.append(index)

    def quant_of(self, index: int) -> Quant | None:
        """Quantization of a tensor of the file, None for a float one."""
        found = self._tensors[index].quantization
        if found is None or found.scale is None:
            return None
        return Quant(scale=np.asarray(found.scale), zero_point=np.asarray(found.zeroPoint))

    def is_integer(self, index: int) -> bool:
        return bool(self._tensors[index].type == schema.TensorType.INT8)

    def quantized_name(self, name: str) -> tuple[str, Quant] | None:
        """Where ONNX tensor ``name`` is quantized next: its Q node's output and parameters.

        Looks through one activation (fused there), so that a convolution writes integers.
        """
        reader = self.view.only_consumer(name)
        if reader is None or reader.op_type != "QuantizeLinear":
            return None
        return reader.output[0], self.parameters(list(reader.input[1:]))

    def parameters(self, names: list[str]) -> Quant:
        """Scale and zero point of a Q or DQ node as LiteRT wants them (int8).

        Raises:
            FitError: they are not constant, or unsigned.
        """
        scale, zero_point = self.view.constant(names[0]), self.view.constant(names[1])
        if scale is None or zero_point is None or zero_point.dtype not in (np.int8, np.int32):
            raise FitError("no LiteRT variant: LiteRT's kernels are signed, quantize in s8s8")
        return Quant(
            scale=np.atleast_1d(scale).astype(np.float32),
            zero_point=np.atleast_1d(zero_point).astype(np.int64),
        )

    def model(self) -> Any:
        """The whole file as the schema's object."""
        graph = schema.SubGraphT()
        graph.tensors, graph.operators = self._tensors, self._operators
        graph.inputs, graph.outputs = self._inputs, self._outputs
        graph.name = b"main"
        made = schema.ModelT()
        made.version = 3
        made.description = b"fitment"
        made.subgraphs, made.buffers = [graph], self._buffers
        made.operatorCodes = [_code(*key) for key in self._codes]
        return made

    def _buffer(self, data: NDArray[Any]) -> int:
        made = schema.BufferT()
        made.data = np.frombuffer(np.ascontiguousarray(data).tobytes(), np.uint8)
        self._buffers.append(made)
        return len(self._buffers) - 1


def _parameters(quant: Quant | None) -> Any:
    if quant is None:
        return None
    made = schema.QuantizationParametersT()
    made.scale = [float(s) for s in quant.scale]
    made.zeroPoint = [int(z) for z in quant.zero_point]
    made.quantizedDimension = quant.axis
    return made


def _code(kind: int, version: int) -> Any:
    made = schema.OperatorCodeT()
    made.builtinCode = kind
    made.deprecatedBuiltinCode = min(kind, 127)
    made.version = version
    return made
