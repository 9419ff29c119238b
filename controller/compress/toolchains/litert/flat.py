"""A ``.tflite`` file under construction: tensors, buffers, operators, then bytes.

The flatbuffer schema comes with the runtime, so what is written is what it reads. Equal models
give equal bytes.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import flatbuffers
import numpy as np
from ai_edge_litert import schema_py_generated as schema
from numpy.typing import NDArray

_SCHEMA_VERSION = 3
_IDENTIFIER = b"TFL3"
_ALIGNMENT = 16  # of buffers, as the schema asks: kernels read weights in place

_TYPES: Mapping[str, int] = {
    "float32": schema.TensorType.FLOAT32,
    "int8": schema.TensorType.INT8,
    "int32": schema.TensorType.INT32,
    "int64": schema.TensorType.INT64,
}


@dataclass(frozen=True, slots=True, kw_only=True)
class Quantization:
    """``real = scale * (q - zero_point)``; several scales run along ``axis``."""

    scale: NDArray[np.float32]  # 1-d
    zero_point: NDArray[np.int64]  # 1-d
    axis: int = 0

    def same_as(self, other: Quantization) -> bool:
        """Whether both read the same integers as the same numbers."""
        return np.array_equal(self.scale, other.scale) and np.array_equal(
            self.zero_point, other.zero_point
        )


@dataclass(frozen=True, slots=True, kw_only=True)
class TensorInfo:
    """What the emitter needs to know of a tensor again."""

    shape: tuple[int, ...]
    dtype: str
    quantization: Quantization | None


class _AlignedBuffer(schema.BufferT):  # type: ignore[misc]  # the schema is untyped
    """Packs its bytes on a 16-byte boundary; the generated class leaves them anywhere."""

    def Pack(self, builder: Any) -> Any:  # noqa: N802 - the generated name
        data = None
        if self.data is not None and len(self.data):
            raw = bytes(self.data)
            builder.StartVector(1, len(raw), _ALIGNMENT)
            builder.head -= len(raw)
            builder.Bytes[builder.head : builder.head + len(raw)] = raw
            data = builder.EndVector()
        schema.BufferStart(builder)
        if data is not None:
            schema.BufferAddData(builder, data)
        return schema.BufferEnd(builder)


class FlatModel:
    """Collects one subgraph."""

    def __init__(self, *, free_batch: bool) -> None:
        self._free_batch = free_batch
        self._buffers: list[Any] = [_AlignedBuffer()]  # number 0 is empty by convention
        self._tensors: list[Any] = []
        self._infos: list[TensorInfo] = []
        self._operators: list[Any] = []
        self._codes: dict[tuple[int, int], int] = {}

    def info(self, index: int) -> TensorInfo:
        """Shape, type and quantization of a tensor."""
        return self._infos[index]

    def activation(
        self,
        name: str,
        shape: Sequence[int],
        quantization: Quantization | None = None,
        *,
        dtype: str = "float32",
    ) -> int:
        """A tensor that an operator fills: int8 when it is quantized, else of ``dtype``."""
        dtype = dtype if quantization is None else "int8"
        info = TensorInfo(shape=tuple(shape), dtype=dtype, quantization=quantization)
        tensor = self._add(name, info, buffer=0)
        if self._free_batch and shape:
            tensor.shapeSignature = np.array([-1, *shape[1:]], np.int32)
        return len(self._tensors) - 1

    def constant(
        self, name: str, values: NDArray[Any], quantization: Quantization | None = None
    ) -> int:
        """A tensor whose values are in the file."""
        contiguous = np.ascontiguousarray(values)
        buffer = _AlignedBuffer()
        buffer.data = contiguous.astype(contiguous.dtype.newbyteorder("<")).tobytes()
        self._buffers.append(buffer)
        info = TensorInfo(
            shape=values.shape, dtype=contiguous.dtype.name, quantization=quantization
        )
        self._add(name, info, buffer=len(self._buffers) - 1)
        return len(self._tensors) - 1

    def operator(
        self,
        name: str,
        version: int,
        inputs: Sequence[int],
        output: int,
        options: tuple[str, Mapping[str, Any]] | None = None,
    ) -> int:
        """Append an operator; ``options`` names the schema's table and its fields."""
        code = int(getattr(schema.BuiltinOperator, name))
        operator = schema.OperatorT()
        operator.opcodeIndex = self._codes.setdefault((code, version), len(self._codes))
        operator.inputs = np.array(inputs, np.int32)
        operator.outputs = np.array([output], np.int32)
        if options is not None:
            table, fields = options
            operator.builtinOptionsType = getattr(schema.BuiltinOptions, table)
            operator.builtinOptions = getattr(schema, f"{table}T")()
            for key, value in fields.items():
                setattr(operator.builtinOptions, key, value)
        self._operators.append(operator)
        return output

    def pack(
        self,
        *,
        inputs: Mapping[str, int],
        outputs: Mapping[str, int],
        description: str,
        min_runtime: str,
    ) -> bytes:
        """The file, with a default signature of the given names."""
        graph = schema.SubGraphT()
        graph.name = "main"
        graph.tensors, graph.operators = self._tensors, self._operators
        graph.inputs = np.array(list(inputs.values()), np.int32)
        graph.outputs = np.array(list(outputs.values()), np.int32)
        model = schema.ModelT()
        model.version, model.description = _SCHEMA_VERSION, description
        model.subgraphs = [graph]
        model.operatorCodes = [_code(code, version) for code, version in self._codes]
        model.signatureDefs = [_signature(inputs, outputs)]
        model.metadata = [self._metadata("min_runtime_version", min_runtime)]
        model.buffers = self._buffers
        builder = flatbuffers.Builder(1024)
        builder.Finish(model.Pack(builder), _IDENTIFIER)
        return bytes(builder.Output())

    def _add(self, name: str, info: TensorInfo, *, buffer: int) -> Any:
        tensor = schema.TensorT()
        tensor.name, tensor.buffer = name, buffer
        tensor.type = _TYPES[info.dtype]
        tensor.shape = np.array(info.shape, np.int32)
        tensor.hasRank = True
        if info.quantization is not None:
            tensor.quantization = schema.QuantizationParametersT()
            tensor.quantization.scale = info.quantization.scale.astype(np.float32)
            tensor.quantization.zeroPoint = info.quantization.zero_point.astype(np.int64)
            tensor.quantization.quantizedDimension = info.quantization.axis
        self._tensors.append(tensor)
        self._infos.append(info)
        return tensor

    def _metadata(self, name: str, text: str) -> Any:
        buffer = _AlignedBuffer()
        buffer.data = text.encode().ljust(_ALIGNMENT, b"\0")
        self._buffers.append(buffer)
        entry = schema.MetadataT()
        entry.name, entry.buffer = name, len(self._buffers) - 1
        return entry


def _code(code: int, version: int) -> Any:
    entry = schema.OperatorCodeT()
    entry.builtinCode, entry.version = code, version
    entry.deprecatedBuiltinCode = min(code, 127)  # where readers before 2.4 look
    return entry


def _signature(inputs: Mapping[str, int], outputs: Mapping[str, int]) -> Any:
    signature = schema.SignatureDefT()
    signature.signatureKey, signature.subgraphIndex = "serving_default", 0
    signature.inputs = [_named(name, index) for name, index in inputs.items()]
    signature.outputs = [_named(name, index) for name, index in outputs.items()]
    return signature


def _named(name: str, index: int) -> Any:
    entry = schema.TensorMapT()
    entry.name, entry.tensorIndex = name, index
    return entry
