"""The part of JSON Schema 2020-12 that the OpenAPI document uses, checked strictly.

A word that is not known here fails, so a new one cannot pass unchecked.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import Any

_TYPES: Mapping[str, tuple[type, ...]] = {
    "object": (dict,), "array": (list,), "string": (str,), "integer": (int,),
    "number": (int, float), "boolean": (bool,), "null": (type(None),),
}  # fmt: skip
_SAID = {"title", "description", "default"}


def faults(
    value: Any, schema: Mapping[str, Any], root: Mapping[str, Any], at: str = "$"
) -> list[str]:
    """What of a value does not fit; empty when it does."""
    found: list[str] = []
    for word, rule in schema.items():
        if word not in _SAID:
            found += _CHECKS[word](value, rule, schema, root, at)
    return found


def _ref(value: Any, rule: str, _schema: Any, root: Any, at: str) -> list[str]:
    target = root
    for part in rule.removeprefix("#/").split("/"):
        target = target[part]
    return faults(value, target, root, at)


def _type(value: Any, rule: str, _schema: Any, _root: Any, at: str) -> list[str]:
    fits = isinstance(value, _TYPES[rule]) and (rule == "boolean" or not isinstance(value, bool))
    return [] if fits else [f"{at}: {value!r} is no {rule}"]


def _properties(value: Any, rule: Any, schema: Any, root: Any, at: str) -> list[str]:
    if not isinstance(value, dict):
        return []
    unknown = [] if "additionalProperties" in schema else sorted(set(value) - set(rule))
    found = [f"{at}: '{name}' is not in the document" for name in unknown]
    for name, inner in rule.items():
        if name in value:
            found += faults(value[name], inner, root, f"{at}.{name}")
    return found


def _additional(value: Any, rule: Any, schema: Any, root: Any, at: str) -> list[str]:
    more = set(value) - set(schema.get("properties", {})) if isinstance(value, dict) else set()
    if rule is False:
        return [f"{at}: '{name}' is one too many" for name in sorted(more)]
    inner = {} if rule is True else rule
    return [
        fault for name in sorted(more) for fault in faults(value[name], inner, root, f"{at}.{name}")
    ]


def _required(value: Any, rule: Any, _schema: Any, _root: Any, at: str) -> list[str]:
    missing = [name for name in rule if isinstance(value, dict) and name not in value]
    return [f"{at}: '{name}' is missing" for name in missing]


def _items(value: Any, rule: Any, _schema: Any, root: Any, at: str) -> list[str]:
    listed = value if isinstance(value, list) else []
    return [
        f for place, item in enumerate(listed) for f in faults(item, rule, root, f"{at}[{place}]")
    ]


def _prefix(value: Any, rule: Any, _schema: Any, root: Any, at: str) -> list[str]:
    pairs = zip(value, rule, strict=False) if isinstance(value, list) else ()
    return [f for item, inner in pairs for f in faults(item, inner, root, at)]


def _any_of(value: Any, rule: Any, _schema: Any, root: Any, at: str) -> list[str]:
    tried = [faults(value, inner, root, at) for inner in rule]
    return [] if any(not found for found in tried) else [f for found in tried for f in found]


def _enum(value: Any, rule: Any, _schema: Any, _root: Any, at: str) -> list[str]:
    return [] if value in rule else [f"{at}: {value!r} is not one of {rule}"]


def _length(value: Any, rule: int, schema: Any, _root: Any, at: str) -> list[str]:
    wrong = isinstance(value, (list, str)) and not (
        schema.get("minItems", schema.get("minLength", 0))
        <= len(value)
        <= schema.get("maxItems", schema.get("maxLength", len(value)))
    )
    return [f"{at}: {len(value)} is not the length ({rule})"] if wrong else []


def _bounds(value: Any, _rule: Any, schema: Any, _root: Any, at: str) -> list[str]:
    low, high = schema.get("minimum", value), schema.get("maximum", value)
    return [] if low <= value <= high else [f"{at}: {value} is out of bounds"]


def _pattern(value: Any, rule: str, _schema: Any, _root: Any, at: str) -> list[str]:
    return [] if re.search(rule, str(value)) else [f"{at}: {value!r} is not like {rule}"]


_CHECKS = {
    "$ref": _ref, "type": _type, "properties": _properties, "required": _required,
    "additionalProperties": _additional, "items": _items, "prefixItems": _prefix, "anyOf": _any_of,
    "enum": _enum, "minItems": _length, "maxItems": _length, "minLength": _length,
    "maxLength": _length, "minimum": _bounds, "maximum": _bounds, "pattern": _pattern,
}  # fmt: skip
