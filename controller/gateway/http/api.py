"""What the routes share: the controller behind them, strict bodies, plain answers."""

from __future__ import annotations

import dataclasses
import json
import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TypeVar

from fastapi import Request
from fastapi.responses import JSONResponse

from controller.domain.lease import Lease
from controller.errors import NotFound, UserError
from controller.gateway.ports import ask
from controller.gateway.views import Addresses
from controller.reconcile.controller import Controller
from controller.reconcile.engine import Engine
from fitment.core import plain

T = TypeVar("T")
BODY_MAX_BYTES = 256 * 1024


@dataclass(frozen=True, slots=True, kw_only=True)
class Api:
    """The controller as the routes see it."""

    controller: Controller
    engine: Engine
    addresses: Addresses
    link: str  # one line for people
    data_dir: Path
    shut_out: Callable[[], None]
    """Bring brokers and open sessions in line with who is revoked; call it off the event loop."""
    link_up: Callable[[], bool] = lambda: True  # a link within this process always is

    lease: Callable[[], Lease | None] = lambda: None
    lost: Callable[[], str] = lambda: ""
    """Why this controller does nothing any more; empty: it acts."""

    async def ask(self, fn: Callable[[], T]) -> T:
        """Run ``fn`` on the engine's thread."""
        return await ask(self.engine, fn)


async def body(request: Request, kind: type[T]) -> T:
    """The request's JSON as a ``kind``; an empty body is an empty object.

    Raises:
        UserError: it is no JSON object, has unknown keys, or a value does not fit.
    """
    data = await request.body()
    if len(data) > BODY_MAX_BYTES:
        raise UserError(f"the body has {len(data)} bytes; at most {BODY_MAX_BYTES} are read")
    try:
        value = json.loads(data or b"{}", parse_constant=_number, parse_float=_number)
        json.dumps(value, ensure_ascii=False).encode()
    except UnicodeEncodeError as error:  # "\\ud800": no answer could hold it
        raise UserError("the body has half a character (a lone surrogate)") from error
    except (ValueError, RecursionError) as error:
        raise UserError(f"the body is no JSON: {error}") from error
    known = [field.name for field in dataclasses.fields(kind)]  # type: ignore[arg-type]
    if not isinstance(value, dict):
        raise UserError("the body must be a JSON object")
    unknown = sorted(set(value) - set(known))
    if unknown:
        raise UserError(f"unknown key '{unknown[0]}'; known are {', '.join(known)}")
    try:
        return plain.from_plain(kind, value)
    except plain.PlainError as error:
        raise UserError(str(error)) from error


def _number(text: str) -> float:
    """A number of JSON; what has no end is none, and no answer could hold it."""
    value = float(text)
    if not math.isfinite(value):
        raise ValueError(f"{text} is no number of JSON")
    return value


def reply(value: object, status: int = 200) -> JSONResponse:
    """Records and containers of them, as JSON."""
    return JSONResponse(plain.to_plain(value), status_code=status)


def number(request: Request, name: str, default: int, *, most: int) -> int:
    """A whole number of the query string.

    Raises:
        UserError: it is none, or not between 1 and ``most``.
    """
    text = request.query_params.get(name, str(default))
    if not text.isdecimal() or not 1 <= int(text) <= most:
        raise UserError(f"'{name}' is a whole number between 1 and {most}, not {text!r}")
    return int(text)


def seconds(request: Request, name: str, default: float) -> float:
    """A moment of the query string, in seconds since the epoch.

    Raises:
        UserError: it is no number.
    """
    text = request.query_params.get(name)
    if text is None:
        return default
    try:
        value = float(text)
    except ValueError:
        value = math.nan
    if not math.isfinite(value):
        raise UserError(f"'{name}' is a moment in seconds since 1970, not {text!r}")
    return value


def one_of(name: str, text: str, known: Sequence[str]) -> str:
    """The text, if it is one of those.

    Raises:
        UserError: it is not.
    """
    if text not in known:
        raise UserError(f"'{name}' is one of {', '.join(filter(None, known))}, not {text!r}")
    return text


def filters(request: Request, *names: str) -> dict[str, Any]:
    """The given ones of some filters of the query string; no others are allowed.

    Raises:
        UserError: an unknown one.
    """
    unknown = sorted(set(request.query_params) - set(names) - {"limit", "cursor"})
    if unknown:
        raise UserError(f"unknown filter '{unknown[0]}'; known are {', '.join(names) or 'none'}")
    return {key: value for key, value in request.query_params.items() if key in names}


def found(record: T | None, what: str, key: str, see: str) -> T:
    """The record.

    Raises:
        NotFound: there is none; the message says where to look.
    """
    if record is None:
        raise NotFound(f"no {what} '{key}'; see: {see}")
    return record
