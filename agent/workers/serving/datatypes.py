"""Datatypes of the Open Inference Protocol, and arrays from and to their bytes."""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping, Sequence
from typing import Final

import numpy as np

from agent.workers.child import JobError
from agent.workers.runtimes.base import Array, Tensor

NUMPY: Final[Mapping[str, str]] = {
    # datatype -> numpy name
    "BOOL": "bool",
    "UINT8": "uint8",
    "UINT16": "uint16",
    "UINT32": "uint32",
    "UINT64": "uint64",
    "INT8": "int8",
    "INT16": "int16",
    "INT32": "int32",
    "INT64": "int64",
    "FP16": "float16",
    "FP32": "float32",
    "FP64": "float64",
}
CONTENTS: Final[Mapping[str, str]] = {
    # datatype -> field of InferTensorContents; FP16 has none and must be raw
    "BOOL": "bool_contents",
    "UINT8": "uint_contents",
    "UINT16": "uint_contents",
    "UINT32": "uint_contents",
    "UINT64": "uint64_contents",
    "INT8": "int_contents",
    "INT16": "int_contents",
    "INT32": "int_contents",
    "INT64": "int64_contents",
    "FP32": "fp32_contents",
    "FP64": "fp64_contents",
}
_NAMES: Final[Mapping[str, str]] = {name: datatype for datatype, name in NUMPY.items()}
_REAL: Final = ("FP32", "FP16", "FP64")
_LITTLE: Final[Mapping[str, np.dtype[np.generic]]] = {
    datatype: np.dtype(name).newbyteorder("<") for datatype, name in NUMPY.items()
}


def of(tensor: Tensor) -> str:
    """The datatype under which a tensor is offered: FP32 for real values, else its own."""
    real = tensor.scale is not None or np.dtype(tensor.dtype).kind == "f"
    return "FP32" if real else _NAMES[tensor.dtype]


def taken(tensor: Tensor) -> tuple[str, ...]:
    """Datatypes that an input may have: the one offered, other widths of it, and its own."""
    first = of(tensor)
    others = _REAL if first == "FP32" else ()
    return tuple(dict.fromkeys((first, *others, _NAMES[tensor.dtype])))


def named(array: Array) -> str:
    """The datatype of an array."""
    return _NAMES[array.dtype.name]


def check(tensor: Tensor, datatype: str) -> None:
    """Refuse what the model does not take.

    Raises:
        JobError: ``input_mismatch``.
    """
    if datatype in taken(tensor):
        return
    what = f"input '{tensor.name}' takes {', '.join(taken(tensor))}, got {datatype or 'none'}"
    if datatype == "BYTES":
        what += ": texts and other elements of no fixed size are not served"
    elif datatype not in NUMPY:
        what += f", which is no datatype that is served; there are {', '.join(NUMPY)}"
    raise JobError("input_mismatch", what, permanent=True)


def from_bytes(name: str, datatype: str, shape: Sequence[int], data: bytes) -> Array:
    """An array over raw contents: row-major, little endian.

    Raises:
        JobError: ``input_mismatch``; the number of bytes is not that of the shape.
    """
    dtype = _LITTLE[datatype]
    wanted = math.prod(shape) * dtype.itemsize
    if len(data) != wanted:
        raise JobError(
            "input_mismatch",
            f"input '{name}' of {datatype} and shape {list(shape)} is {wanted} bytes, "
            f"got {len(data)}",
            permanent=True,
        )
    return np.frombuffer(data, dtype=dtype).reshape(shape)


def from_values(name: str, datatype: str, shape: Sequence[int], values: Sequence[object]) -> Array:
    """An array from typed contents.

    Raises:
        JobError: ``input_mismatch``; their number is not that of the shape, or one does not fit.
    """
    if len(values) != math.prod(shape):
        raise JobError(
            "input_mismatch",
            f"input '{name}' of shape {list(shape)} has {math.prod(shape)} elements, "
            f"got {len(values)} in '{CONTENTS[datatype]}'",
            permanent=True,
        )
    try:
        return np.array(values, dtype=NUMPY[datatype]).reshape(shape)
    except OverflowError as error:  # 300 as INT8, which comes in a field of 32 bits
        raise JobError(
            "input_mismatch", f"input '{name}' is {datatype}: {error}", permanent=True
        ) from error


def to_bytes(array: Array) -> bytes:
    """Raw contents of an array."""
    return np.ascontiguousarray(array, dtype=array.dtype.newbyteorder("<")).tobytes()


def to_values(array: Array) -> Iterable[object]:
    """Typed contents of an array."""
    values: Iterable[object] = array.ravel().tolist()
    return values
