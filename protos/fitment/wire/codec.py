"""Shared types to and from generated messages, by one rule instead of one function a type.

A message and its dataclass have the same field names; enum members have the same names behind
the enum's prefix. A contract test walks every pair and fails on a field that only one has.
"""

from __future__ import annotations

import dataclasses
import enum
import functools
import operator
import re
import types
import typing
from collections.abc import Callable, Mapping
from typing import Any, TypeVar

from google.protobuf import message_factory
from google.protobuf.message import DecodeError, Message

from fitment.core import deployment, kernels, link, measurement
from fitment.v1 import deployment_pb2, device_pb2, measurement_pb2

T = TypeVar("T")

FieldDescriptor = Any
"""A field of a descriptor; its class differs between protobuf's implementations."""
EnumDescriptor = Any
_LABEL_REPEATED = 3  # FieldDescriptor.LABEL_REPEATED, which newer releases drop

PAIRS: Mapping[type, type[Message]] = {
    link.Uplink: device_pb2.Uplink,
    link.Downlink: deployment_pb2.Downlink,
    measurement.Measurement: measurement_pb2.Measurement,
    kernels.KernelTable: measurement_pb2.KernelTable,
    deployment.CalibrationReport: deployment_pb2.CalibrationReport,
}
"""The types that travel on their own; what they hold is found from them."""


class WireError(ValueError):
    """Bytes from the other side do not make sense."""


def encode(value: object) -> bytes:
    """Serialize one of the types in `PAIRS`."""
    return bytes(to_message(value).SerializeToString())


def decode(kind: type[T], data: bytes) -> T:
    """Parse bytes into ``kind``.

    Raises:
        WireError: the bytes are no such message, or hold an enum value unknown to this side.
    """
    message = PAIRS[kind]()
    try:
        message.ParseFromString(data)
    except DecodeError as error:
        raise WireError(f"not a {kind.__name__}: {error}") from error
    return from_message(kind, message)


def to_message(value: object) -> Message:
    """The generated message that says the same as ``value``."""
    return _write(PAIRS[type(value)], value)


def from_message(kind: type[T], message: Message) -> T:
    """The ``kind`` that says the same as ``message``."""
    return typing.cast("T", _read(kind, message))


def _write(made: Any, value: Any) -> Message:
    plan = _WRITES.get(made)
    if plan is None:
        plan = _WRITES[made] = tuple((f.name, _writer(f)) for f in made.DESCRIPTOR.fields)
    given: dict[str, Any] = {}
    for name, write in plan:
        item = getattr(value, name)
        if item is not None:
            given[name] = item if write is None else write(item)
    return typing.cast("Message", made(**given))


_Write = Callable[[Any], Any]
_WRITES: dict[type[Message], tuple[tuple[str, _Write | None], ...]] = {}
"""How each field of a message is written, worked out at the first one; None: as it is."""


def _writer(field: FieldDescriptor) -> _Write | None:
    is_map = _is_map(field)
    one = _one_writer(field.message_type.fields_by_name["value"] if is_map else field)
    if one is None:
        return None
    write = one  # of which the type checker knows that it is there
    if is_map:
        return lambda items: {key: write(item) for key, item in items.items()}
    return (lambda items: [write(item) for item in items]) if _is_repeated(field) else write


def _one_writer(field: FieldDescriptor) -> _Write | None:
    if field.enum_type is not None:
        return functools.partial(_number, field.enum_type)
    if field.message_type is not None:
        return functools.partial(_write, message_factory.GetMessageClass(field.message_type))
    return None


def _number(enum_type: EnumDescriptor, item: enum.Enum) -> int:
    return int(enum_type.values_by_name[_prefix(enum_type) + item.name].number)


@functools.cache
def _hints(kind: type) -> dict[str, Any]:
    return typing.get_type_hints(kind)


def _read(kind: type, message: Message) -> Any:
    plan = _PLANS.get(kind)
    if plan is None:
        plan = _PLANS[kind] = _plan(kind, message)
    return kind(**{name: read(message) for name, read in plan})


_Read = Callable[[Any], Any]
_PLANS: dict[type, tuple[tuple[str, _Read], ...]] = {}
"""How each field of a type is read, worked out at its first message: the hints and descriptors
that say so never change, and looking at them took most of a message's time."""


def _plan(kind: type, message: Message) -> tuple[tuple[str, _Read], ...]:
    hints, fields = _hints(kind), message.DESCRIPTOR.fields_by_name
    names = [field.name for field in dataclasses.fields(kind)]
    return tuple((name, _reader(hints[name], fields[name])) for name in names)


def _reader(hint: Any, field: FieldDescriptor) -> _Read:
    """Reads one field of a message."""
    name, inner = field.name, _without_none(hint)
    value = operator.attrgetter(name)
    if _is_map(field):
        item = _item(typing.get_args(hint)[1], field.message_type.fields_by_name["value"])
        return lambda message: {key: item(part) for key, part in value(message).items()}
    if _is_repeated(field):
        item = _item(typing.get_args(hint)[0], field)
        if item is _as_it_is:
            return lambda message: tuple(value(message))
        return lambda message: tuple(map(item, value(message)))
    item = _item(inner, field)
    if field.has_presence and inner is not hint:
        return lambda message: item(value(message)) if message.HasField(name) else None
    return value if item is _as_it_is else lambda message: item(value(message))


def _item(kind: Any, field: FieldDescriptor) -> _Read:
    """Reads one value as what it is."""
    if field.enum_type is not None:
        return functools.partial(_read_enum, kind, enum_type=field.enum_type)
    if field.message_type is not None:
        return functools.partial(_read, kind)
    return _as_it_is


def _as_it_is(item: Any) -> Any:
    return item


def _read_enum(kind: type[enum.Enum], number: int, enum_type: EnumDescriptor) -> enum.Enum:
    value = enum_type.values_by_number.get(number)
    name = value.name.removeprefix(_prefix(enum_type)) if value else ""
    if name not in kind.__members__:
        raise WireError(f"{enum_type.name}: value {number} is unknown to this side")
    return kind[name]


def _is_map(field: FieldDescriptor) -> bool:
    message_type = field.message_type
    return message_type is not None and bool(message_type.GetOptions().map_entry)


def _is_repeated(field: FieldDescriptor) -> bool:
    # Newer protobuf has `is_repeated` and drops `label`; 5.29 has only the latter.
    if hasattr(field, "is_repeated"):
        return bool(field.is_repeated)
    return bool(field.label == _LABEL_REPEATED)


@functools.cache
def _prefix(enum_type: EnumDescriptor) -> str:
    return re.sub(r"(?<!^)(?=[A-Z])", "_", enum_type.name).upper() + "_"


def _without_none(hint: Any) -> Any:
    if isinstance(hint, types.UnionType):
        inner = [a for a in typing.get_args(hint) if a is not type(None)]
        return inner[0] if len(inner) == 1 else hint
    return hint
