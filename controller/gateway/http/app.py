"""The REST application: who may enter, and errors as ``application/problem+json`` (RFC 9457)."""

from __future__ import annotations

import hmac
import logging
from typing import Any

from fastapi import FastAPI, Request
from fastapi.responses import JSONResponse
from starlette.exceptions import HTTPException
from starlette.types import ASGIApp, Receive, Scope, Send

from controller.errors import FitmentError, disk_error
from controller.gateway import errors
from controller.gateway.http import devices, models, releases, system, telemetry
from controller.gateway.http.api import Api

log = logging.getLogger(__name__)

OPEN_PATHS = frozenset({"/healthz"})
"""Paths without a token: a load balancer has none, and they tell nothing."""
PROBLEM = "application/problem+json"


class OperatorsOnly:
    """Lets nobody pass without the operator's token, whatever the path. Default deny."""

    def __init__(self, app: ASGIApp, token: str) -> None:
        self._app = app
        self._token = token.encode()

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http" or scope["path"] in OPEN_PATHS or self._holds(scope):
            await self._app(scope, receive, send)
            return
        refused = problem(
            401,
            "unauthenticated",
            "Token needed",
            "send 'Authorization: Bearer …' with the token in data_dir/operator.token",
        )
        refused.headers["www-authenticate"] = "Bearer"
        await refused(scope, receive, send)

    def _holds(self, scope: Scope) -> bool:
        given: bytes = dict(scope["headers"]).get(b"authorization", b"")
        scheme, _, token = given.partition(b" ")
        return scheme.lower() == b"bearer" and hmac.compare_digest(token.strip(), self._token)


def make_app(api: Api, token: str) -> FastAPI:
    """The application; it holds no state of its own."""
    app = FastAPI(title="Fitment", docs_url=None, redoc_url=None, openapi_url=None)
    for room in (devices, models, releases, system, telemetry):
        app.include_router(room.router(api), prefix="/v1")

    @app.get("/healthz")
    async def healthz() -> JSONResponse:
        return JSONResponse({"status": "ok"})

    app.add_exception_handler(FitmentError, _ours)
    app.add_exception_handler(HTTPException, _http)
    app.add_exception_handler(OSError, _refused_by_the_system)
    app.add_exception_handler(Exception, _unexpected)
    app.add_middleware(OperatorsOnly, token=token)
    return app


def problem(status: int, code: str, title: str, detail: str, **more: Any) -> JSONResponse:
    """One problem document."""
    content = {"type": "about:blank", "status": status, "code": code, "title": title}
    return JSONResponse(
        {**content, "detail": detail, **more}, status_code=status, media_type=PROBLEM
    )


async def _ours(_request: Request, error: Exception) -> JSONResponse:
    assert isinstance(error, FitmentError)
    public = errors.public(error)
    if public.code == "internal":
        log.error("action=request_failed", exc_info=error)
    answer = problem(public.entry.http, public.code, public.entry.title, public.text)
    if public.retry_after_s is not None:
        answer.headers["retry-after"] = str(max(1, round(public.retry_after_s)))
    return answer


async def _http(request: Request, error: Exception) -> JSONResponse:
    assert isinstance(error, HTTPException)
    detail = f"{request.method} {request.url.path}: {error.detail}"
    code = "not_found" if error.status_code == 404 else "invalid"
    return problem(error.status_code, code, str(error.detail), detail)


async def _refused_by_the_system(request: Request, error: Exception) -> JSONResponse:
    assert isinstance(error, OSError)
    return await _ours(request, disk_error(error))


async def _unexpected(_request: Request, _error: Exception) -> JSONResponse:
    entry = errors.CATALOGUE["internal"]
    return problem(entry.http, "internal", entry.title, entry.text)
