"""Where the bytes of an initializer lie in a serialized ONNX model.

The protobuf wire format is walked by hand: the library gives values, not places. Only the path
``ModelProto.graph (7) / GraphProto.initializer (5) / TensorProto.name (8), raw_data (9)`` is
followed; everything else is skipped by its length.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

from controller.errors import FitError

_GRAPH, _INITIALIZER, _NAME, _RAW_DATA = 7, 5, 8, 9
_VARINT, _FIXED64, _BYTES, _FIXED32 = 0, 1, 2, 5


@dataclass(frozen=True, slots=True, kw_only=True)
class Extent:
    """A run of bytes of the file."""

    offset: int
    size: int


def initializer_extents(data: bytes) -> dict[str, Extent]:
    """Place of each initializer's ``raw_data``, by name.

    Initializers that keep their values in typed fields have no place and are left out.

    Raises:
        FitError: ``data`` is not in protobuf's wire format.
    """
    found = {}
    for graph in _fields(data, Extent(offset=0, size=len(data)), _GRAPH):
        for tensor in _fields(data, graph, _INITIALIZER):
            names = list(_fields(data, tensor, _NAME))
            raws = list(_fields(data, tensor, _RAW_DATA))
            if names and raws:
                name = data[names[-1].offset : names[-1].offset + names[-1].size].decode()
                found[name] = raws[-1]
    return found


def _fields(data: bytes, inside: Extent, wanted: int) -> Iterator[Extent]:
    """Extents of the length-delimited fields of one number within a message."""
    position, end = inside.offset, inside.offset + inside.size
    while position < end:
        key, position = _varint(data, position, end)
        number, kind = key >> 3, key & 7
        if kind == _BYTES:
            size, position = _varint(data, position, end)
            if position + size > end:
                raise FitError(f"no serialized model: a field runs past byte {end}")
            if number == wanted:
                yield Extent(offset=position, size=size)
            position += size
        elif kind == _VARINT:
            _, position = _varint(data, position, end)
        elif kind in (_FIXED32, _FIXED64):
            position += 4 if kind == _FIXED32 else 8
        else:
            raise FitError(f"no serialized model: wire type {kind} at byte {position}")
    if position != end:
        raise FitError(f"no serialized model: a field runs past byte {end}")


def _varint(data: bytes, position: int, end: int) -> tuple[int, int]:
    """A variable-length integer and the position behind it."""
    value, shift = 0, 0
    while position < end and shift < 70:
        byte = data[position]
        value |= (byte & 0x7F) << shift
        position += 1
        if not byte & 0x80:
            return value, position
        shift += 7
    raise FitError(f"no serialized model: a number does not end at byte {position}")
