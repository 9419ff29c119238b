"""Frozen dataclasses to and from plain JSON values.

Every durable record (journal, store documents, worker jobs, signed payloads) goes through
these two functions, so that one rule decides how old readers meet new writers: unknown keys
are ignored, missing keys take the field's default.
"""

from __future__ import annotations

import base64
import dataclasses
import enum
import functools
import types
import typing
from collections.abc import Mapping
from typing import Any, TypeVar, Union

T = TypeVar("T")


class PlainError(ValueError):
    """A plain value does not fit the type it should become; the message names the path."""


_AS_THEY_ARE = frozenset({str, int, float, bool, type(None)})


@functools.cache
def _names(kind: type) -> tuple[str, ...] | None:
    """Fields of a dataclass; None of another type."""
    if not dataclasses.is_dataclass(kind):
        return None
    return tuple(field.name for field in dataclasses.fields(kind))


def to_plain(value: object) -> Any:
    """Turn a dataclass (or a container of them) into JSON values.

    Enums become their values, bytes become base64 text, tuples become lists.
    """
    kind: Any = type(value)
    if kind in _AS_THEY_ARE:
        return value
    names = _names(kind)
    if names is not None:
        return {name: to_plain(getattr(value, name)) for name in names}
    if isinstance(value, enum.Enum):
        return value.value
    if isinstance(value, bytes):
        return base64.b64encode(value).decode("ascii")
    if isinstance(value, Mapping):
        return {str(key): to_plain(item) for key, item in value.items()}
    if isinstance(value, (list, tuple)):
        return [to_plain(item) for item in value]
    return value


def from_plain(kind: type[T], value: object, path: str = "") -> T:
    """Build a ``kind`` from the JSON values that `to_plain` made.

    Raises:
        PlainError: a key without default is missing or a value has the wrong type.
    """
    return typing.cast("T", _build(kind, value, path or getattr(kind, "__name__", str(kind))))


def _build(kind: Any, value: Any, path: str) -> Any:
    origin = typing.get_origin(kind)
    if origin in (Union, types.UnionType):
        return _build_optional(kind, value, path)
    if origin in (tuple, list):
        return _build_sequence(kind, origin, value, path)
    if origin in (dict, Mapping) or origin is typing.get_origin(Mapping[str, str]):
        inner = typing.get_args(kind)[1]
        return {k: _build(inner, v, f"{path}.{k}") for k, v in _expect(value, dict, path).items()}
    if dataclasses.is_dataclass(kind):
        return _build_dataclass(kind, _expect(value, dict, path), path)
    return _build_scalar(kind, value, path)


def _build_optional(kind: Any, value: Any, path: str) -> Any:
    if value is None:
        return None
    inner = [a for a in typing.get_args(kind) if a is not type(None)]
    if len(inner) != 1:
        raise PlainError(f"{path}: unions of several types are not supported")
    return _build(inner[0], value, path)


def _build_sequence(kind: Any, origin: Any, value: Any, path: str) -> Any:
    arguments = typing.get_args(kind)
    items = _expect(value, (list, tuple), path)
    if origin is tuple and not (len(arguments) == 2 and arguments[1] is Ellipsis):
        if len(items) != len(arguments):
            raise PlainError(f"{path}: expected {len(arguments)} items, got {len(items)}")
        pairs = zip(arguments, items, strict=True)
        return tuple(_build(a, item, f"{path}[{i}]") for i, (a, item) in enumerate(pairs))
    return origin(_build(arguments[0], item, f"{path}[{i}]") for i, item in enumerate(items))


@functools.cache
def _hints(kind: type) -> dict[str, Any]:
    return typing.get_type_hints(kind)


def _build_dataclass(kind: Any, value: dict[str, Any], path: str) -> Any:
    hints = _hints(kind)
    arguments: dict[str, Any] = {}
    for field in dataclasses.fields(kind):
        if field.name in value:
            arguments[field.name] = _build(
                hints[field.name], value[field.name], f"{path}.{field.name}"
            )
        elif field.default is dataclasses.MISSING and field.default_factory is dataclasses.MISSING:
            raise PlainError(f"{path}: the key '{field.name}' is missing")
    return kind(**arguments)


def _build_scalar(kind: Any, value: Any, path: str) -> Any:
    if kind is Any or kind is object:
        return value
    if isinstance(kind, type) and issubclass(kind, enum.Enum):
        try:
            return kind(value)
        except ValueError as error:
            raise PlainError(
                f"{path}: {value!r} is not one of {[m.value for m in kind]}"
            ) from error
    if kind is bytes:
        return base64.b64decode(_expect(value, str, path))
    if kind is float and isinstance(value, int) and not isinstance(value, bool):
        try:
            return float(value)
        except OverflowError as error:
            raise PlainError(
                f"{path}: a number of {len(str(value))} digits is too large"
            ) from error
    if kind is int and isinstance(value, bool):
        raise PlainError(f"{path}: expected int, got bool")
    return _expect(value, kind, path)


def _expect(value: Any, kind: Any, path: str) -> Any:
    if not isinstance(value, kind):
        raise PlainError(f"{path}: expected {kind}, got {type(value).__name__}")
    return value
