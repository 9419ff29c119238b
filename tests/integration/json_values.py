"""Values by the OpenAPI document's schemas, and beside them, for hypothesis."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from hypothesis import strategies as st

Schema = Mapping[str, Any]
_TEXT = st.text(max_size=20)
STRANGE: st.SearchStrategy[Any] = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False) | _TEXT
    | st.sampled_from([10**400, -1, 1e308, "\x00", "é" * 300, "../..", "NaN", "online", "-inf"]),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(_TEXT, inner, max_size=3),
    max_leaves=5,
)  # fmt: skip
"""Any JSON."""


def fitting(schema: Schema, root: Schema) -> st.SearchStrategy[Any]:
    """What the schema says."""
    if "$ref" in schema:
        return fitting(_resolved(schema["$ref"], root), root)
    if "anyOf" in schema:
        return st.one_of([fitting(inner, root) for inner in schema["anyOf"]])
    if "enum" in schema:
        return st.sampled_from(schema["enum"])
    return _KINDS[schema.get("type", "null")](schema, root)


def beside(schema: Schema, root: Schema) -> st.SearchStrategy[Any]:
    """What the schema says with something else in one place, or anything at all."""
    names = sorted(schema.get("properties", {}))
    if not names:
        return STRANGE

    def changed(pair: tuple[Any, tuple[str, Any]]) -> Any:
        value, (name, other) = pair
        return {**value, name: other}

    place = st.tuples(st.sampled_from([*names, "colour"]), STRANGE)
    return st.tuples(fitting(schema, root), place).map(changed) | STRANGE


def _resolved(reference: str, root: Schema) -> Schema:
    target: Any = root
    for part in reference.removeprefix("#/").split("/"):
        target = target[part]
    found: Schema = target
    return found


def _object(schema: Schema, root: Schema) -> st.SearchStrategy[Any]:
    more = schema.get("additionalProperties")
    if "properties" not in schema and isinstance(more, dict):
        return st.dictionaries(_TEXT, fitting(more, root), max_size=3)
    every = {name: fitting(s, root) for name, s in schema.get("properties", {}).items()}
    needed = {name: every.pop(name) for name in schema.get("required", ())}
    return st.fixed_dictionaries(needed, optional=every)


def _array(schema: Schema, root: Schema) -> st.SearchStrategy[Any]:
    if "prefixItems" in schema:
        return st.tuples(*(fitting(s, root) for s in schema["prefixItems"])).map(list)
    return st.lists(fitting(schema["items"], root), max_size=3)


def _text(schema: Schema, _root: Schema) -> st.SearchStrategy[Any]:
    if "pattern" in schema:
        return st.from_regex(schema["pattern"], fullmatch=True)
    known = st.sampled_from(
        ["", "m", "device-a", "lab", "online", "0", *schema.get("examples", ())]
    )
    return known | st.text(min_size=schema.get("minLength", 0), max_size=30)


def _number(schema: Schema, _root: Schema) -> st.SearchStrategy[Any]:
    low, high = schema.get("minimum"), schema.get("maximum")
    return st.floats(low, high, allow_nan=False, allow_infinity=False)


def _integer(schema: Schema, _root: Schema) -> st.SearchStrategy[Any]:
    return st.integers(schema.get("minimum"), schema.get("maximum"))


_KINDS = {
    "object": _object, "array": _array, "string": _text, "number": _number, "integer": _integer,
    "boolean": lambda _s, _r: st.booleans(), "null": lambda _s, _r: st.none(),
}  # fmt: skip
