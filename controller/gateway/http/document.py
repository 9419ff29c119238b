"""The OpenAPI document: what routes say of themselves, and the schemas of the records they answer.

Routes read their own query and body, strictly (`api`); here they only say which. A test holds the
two together.
"""

from __future__ import annotations

import dataclasses
import functools
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from fastapi.openapi.utils import get_openapi
from pydantic import TypeAdapter
from starlette.routing import BaseRoute

from controller.domain.roles import Role
from controller.gateway.http.access import ACCESS

PROBLEM_TYPE = "application/problem+json"
PAGE_MAX = 1000
ROLE_KEY = "x-fitment-role"
"""Where an operation says which role it needs."""
_REF = "#/components/schemas/{model}"
_CHOICES = "x-fitment-choices"
"""Where a route says what a part of its path is one of, until the document says it there."""
_INNER = "x-fitment-inner"
"""Where a body keeps the schemas inside it until the document takes them among its components."""
_NOT_OURS = ("HTTPValidationError", "ValidationError")
"""Components of a validation that the routes do not use."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Problem:
    """What went wrong (RFC 9457)."""

    type: str
    status: int
    code: str  # for scripts: "invalid", "not_found", "conflict", …
    title: str
    detail: str


Extra = dict[str, Any]


def asks(*names: str, **schemas: Mapping[str, Any]) -> Extra:
    """A route that takes these in its query: names are texts, the others have schemas."""
    texts: dict[str, Mapping[str, Any]] = {name: {"type": "string"} for name in names}
    return {"parameters": [_parameter(name, s) for name, s in {**texts, **schemas}.items()]}


def lists(*names: str, most: int = PAGE_MAX, **schemas: Mapping[str, Any]) -> Extra:
    """A route that answers in pages, filtered by these."""
    limit = {"type": "integer", "minimum": 1, "maximum": most}
    cursor = {"type": "string", "pattern": "^[1-9][0-9]{0,17}$"}
    return asks(*names, **schemas, limit=limit, cursor=cursor)


def choices(**parts: Sequence[str]) -> Extra:
    """A route of whose path these parts are one of some."""
    return {_CHOICES: {name: list(known) for name, known in parts.items()}}


def one_of(names: Sequence[str]) -> Mapping[str, Any]:
    """The schema of a text that is one of some."""
    return {"type": "string", "enum": list(names)}


MOMENT: Mapping[str, Any] = {"type": "number", "description": "seconds since 1970"}
WHERE: Mapping[str, Any] = {
    "type": "string", "maxLength": 1000, "examples": ["online"],
    "description": "an expression over what devices are and report",
}  # fmt: skip
_TAG_ASKED = {"type": "string", "description": "an ETag that is known: 304 where it still holds"}
_KEY_ASKED = {
    "type": "string", "minLength": 1, "maxLength": 200, "pattern": "^[!-~]+$",
    "description": "asking again with the same key within a day makes nothing again",
}  # fmt: skip


def shows(*names: str) -> Extra:
    """A route that answers one record with an ETag."""
    extra = asks(*names)
    extra["parameters"].append(_parameter("If-None-Match", _TAG_ASKED, where="header"))
    extra["responses"] = {"304": {"description": "It is as it was"}}
    return extra


def takes(kind: type, *, keyed: bool = True) -> Extra:
    """A route that makes something from a body of this kind, ``keyed``: once for a key."""
    schema = TypeAdapter(kind).json_schema(ref_template=_REF)
    inner = schema.pop("$defs", {})
    schema["additionalProperties"] = False
    content = {"application/json": {"schema": schema}}
    return {
        "requestBody": {"required": _needs_something(kind), "content": content, _INNER: inner},
        "parameters": [_parameter("Idempotency-Key", _KEY_ASKED, where="header")] if keyed else [],
    }


def describe(routes: Sequence[BaseRoute], version: str) -> Callable[[], dict[str, Any]]:
    """The document of these routes, made when it is first asked for."""

    @functools.cache
    def document() -> dict[str, Any]:
        made = get_openapi(title="Fitment", version=version, routes=list(routes))
        schemas = made["components"]["schemas"]
        for name in _NOT_OURS:
            schemas.pop(name, None)
        schemas["Problem"] = TypeAdapter(Problem).json_schema(ref_template=_REF)
        made["components"]["securitySchemes"] = {"token": {"type": "http", "scheme": "bearer"}}
        made["security"] = [{"token": []}]
        for path, operations in made["paths"].items():
            for method, operation in operations.items():
                _finish(operation, ACCESS.get((method.upper(), path)))
                for name, inner in operation.get("requestBody", {}).pop(_INNER, {}).items():
                    schemas.setdefault(name, inner)
        return made

    return document


def _finish(operation: dict[str, Any], needed: Role | None) -> None:
    """``needed``: the role; None: the call is open to all."""
    responses = operation["responses"]
    responses.pop("422", None)
    chosen = operation.pop(_CHOICES, {})
    for parameter in operation.get("parameters", ()):
        if parameter["name"] in chosen:
            parameter["schema"]["enum"] = chosen[parameter["name"]]
    problem = {PROBLEM_TYPE: {"schema": {"$ref": _REF.format(model="Problem")}}}
    responses["default"] = {"description": "A problem", "content": problem}
    if needed is None:
        operation["security"] = []
        return
    operation[ROLE_KEY] = needed.value
    operation["description"] = f"Needs the role '{needed.value}'."
    responses["401"] = {"description": "Token needed", "content": problem}
    responses["403"] = {"description": f"Role '{needed.value}' needed", "content": problem}


def _parameter(name: str, schema: Mapping[str, Any], where: str = "query") -> Extra:
    return {"name": name, "in": where, "required": False, "schema": dict(schema)}


def _needs_something(kind: Any) -> bool:
    missing = dataclasses.MISSING
    return any(
        field.default is missing and field.default_factory is missing
        for field in dataclasses.fields(kind)
    )
