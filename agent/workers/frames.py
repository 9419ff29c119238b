"""Frames of the serving socket: a length, a JSON header, the bytes of the tensors it names.

4 bytes, big endian: length of the header
header, UTF-8 JSON:  {"op": …, "tensors": [{"dtype": "float32", "shape": [1, 4]}, …]}
the tensors' bytes, little endian, C order, one after the other
"""

from __future__ import annotations

import json
import struct
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from io import BufferedIOBase
from typing import Any

import numpy as np

from agent.workers.runtimes.base import Array

MAX_HEADER_BYTES = 64 * 1024
MAX_TENSOR_BYTES = 256 * 1024 * 1024
_LENGTH = struct.Struct(">I")
_DTYPES = ("float32", "float16", "int8", "uint8", "int16", "uint16", "int32", "int64", "bool")


class FrameError(ValueError):
    """The other side broke the framing: nothing after it can be understood."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Frame:
    """One message, either way."""

    header: Mapping[str, Any]
    tensors: tuple[Array, ...] = field(default=())


def read(stream: BufferedIOBase) -> Frame | None:
    """The next frame; None when the other side closed between frames.

    Raises:
        FrameError: too long, cut off, or no JSON object.
    """
    prefix = stream.read(_LENGTH.size)
    if not prefix:
        return None
    if len(prefix) < _LENGTH.size:
        raise FrameError("the stream ends within a length")
    (length,) = _LENGTH.unpack(prefix)
    if length > MAX_HEADER_BYTES:
        raise FrameError(f"a header of {length} bytes, at most {MAX_HEADER_BYTES} are read")
    try:
        header = json.loads(_exactly(stream, length))
        tensors = tuple(_tensor(stream, item) for item in header.get("tensors", ()))
    except (UnicodeDecodeError, json.JSONDecodeError, AttributeError, KeyError, TypeError) as error:
        raise FrameError(f"no frame header: {error}") from error
    return Frame(header=header, tensors=tensors)


def write(stream: BufferedIOBase, header: Mapping[str, Any], tensors: Sequence[Array] = ()) -> None:
    """Send one frame."""
    described = [{"dtype": item.dtype.name, "shape": list(item.shape)} for item in tensors]
    text = json.dumps({**header, "tensors": described}).encode()
    stream.write(_LENGTH.pack(len(text)) + text)
    stream.writelines(np.ascontiguousarray(item).tobytes() for item in tensors)
    stream.flush()


def _tensor(stream: BufferedIOBase, description: Mapping[str, Any]) -> Array:
    name, shape = description["dtype"], [int(size) for size in description["shape"]]
    if name not in _DTYPES or any(size < 0 for size in shape):
        raise FrameError(f"a tensor of {name!r} and shape {shape}")
    dtype = np.dtype(name).newbyteorder("<")
    size = dtype.itemsize
    for length in shape:
        size *= length
    if size > MAX_TENSOR_BYTES:
        raise FrameError(f"a tensor of {size} bytes, at most {MAX_TENSOR_BYTES} are read")
    return np.frombuffer(_exactly(stream, size), dtype=dtype).reshape(shape)


def _exactly(stream: BufferedIOBase, count: int) -> bytes:
    data = stream.read(count)
    if len(data) < count:
        raise FrameError(f"the stream ends {count - len(data)} bytes early")
    return data
