"""The REST application: who may enter, and errors as ``application/problem+json`` (RFC 9457)."""

from __future__ import annotations

import hmac
import logging
from typing import Any

from fastapi import Depends, FastAPI, Request
from fastapi.responses import JSONResponse
from starlette.exceptions import HTTPException
from starlette.types import ASGIApp, Receive, Scope, Send

from controller.domain.roles import Identity
from controller.errors import FitmentError, LeaseLost, disk_error
from controller.gateway import errors
from controller.gateway.http import (
    access,
    applicants,
    devices,
    export,
    field,
    groups,
    keepsakes,
    models,
    operators,
    releases,
    rollouts,
    stacks,
    system,
    telemetry,
    tickets,
    variants,
)
from controller.gateway.http.api import Api
from controller.gateway.http.document import PROBLEM_TYPE, describe
from controller.gateway.http.identities import METRICS, Identities
from controller.reconcile.context import ACTING

log = logging.getLogger(__name__)

OPEN_PATHS = frozenset({"/healthz"})
"""Paths without a token: a load balancer has none, and they tell nothing."""
METRICS_PATH = "/metrics"


class OperatorsOnly:
    """Lets nobody pass without a token, whatever the path, and says to the rest whose it is.

    Default deny; what a role may do is `access`. Prometheus has a token of its own, which opens
    ``/metrics`` and nothing else: what watches the fleet must not be able to change it.
    """

    def __init__(self, app: ASGIApp, identities: Identities, metrics_token: str = "") -> None:
        self._app = app
        self._identities = identities
        self._metrics_token = metrics_token.encode()

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http" or scope["path"] in OPEN_PATHS:
            await self._app(scope, receive, send)
            return
        try:
            who = await self._who(scope)
        except FitmentError as error:  # the controller stops, or lost its lease
            await _answer(error)(scope, receive, send)
            return
        if who is None:
            await _unknown()(scope, receive, send)
            return
        ACTING.set(who.name)  # each request is a task with a context of its own
        await self._app({**scope, "state": {**scope.get("state", {}), "who": who}}, receive, send)

    async def _who(self, scope: Scope) -> Identity | None:
        given: bytes = dict(scope["headers"]).get(b"authorization", b"")
        scheme, _, token = given.partition(b" ")
        if scheme.lower() != b"bearer":
            return None
        watching = scope["path"] == METRICS_PATH and scope["method"] == "GET"
        known = self._metrics_token
        if watching and known and hmac.compare_digest(token.strip(), known):
            return METRICS
        return await self._identities.of(token.decode("latin-1"))


def _unknown() -> JSONResponse:
    refused = problem(
        401,
        "unauthenticated",
        "Token needed",
        "send 'Authorization: Bearer …' with the token in data_dir/operator.token, or with one"
        " that an admin made: fitment operator create",
    )
    refused.headers["www-authenticate"] = "Bearer"
    return refused


def make_app(api: Api, token: str, metrics_token: str = "") -> FastAPI:
    """The application; it holds no state of its own."""
    app = FastAPI(title="Fitment", docs_url=None, redoc_url=None, openapi_url=None)
    rooms = (
        applicants,
        devices,
        export,
        field,
        groups,
        keepsakes,
        models,
        operators,
        releases,
        rollouts,
        stacks,
        system,
        telemetry,
        tickets,
        variants,
    )
    included = [("/v1", room.router(api)) for room in rooms] + [("", system.metrics_route(api))]
    for prefix, routes in included:
        access.cover_all(routes.routes, prefix)
        guarded = [Depends(access.guard(prefix))]
        app.include_router(routes, prefix=prefix, dependencies=guarded)

    @app.get("/healthz", response_model=dict[str, str])
    async def healthz() -> JSONResponse:
        if api.lost():
            raise LeaseLost(api.lost())
        return JSONResponse({"status": "ok"})

    described = describe(tuple(app.routes), api.addresses.version)

    @app.get("/v1/openapi.json", include_in_schema=False)
    async def openapi() -> JSONResponse:
        return JSONResponse(described())

    app.add_exception_handler(FitmentError, _ours)
    app.add_exception_handler(HTTPException, _http)
    app.add_exception_handler(OSError, _refused_by_the_system)
    app.add_exception_handler(Exception, _unexpected)
    identities = Identities(api, token)
    app.add_middleware(OperatorsOnly, identities=identities, metrics_token=metrics_token)
    return app


def problem(status: int, code: str, title: str, detail: str, **more: Any) -> JSONResponse:
    """One problem document."""
    content = {"type": "about:blank", "status": status, "code": code, "title": title}
    return JSONResponse(
        {**content, "detail": detail, **more}, status_code=status, media_type=PROBLEM_TYPE
    )


async def _ours(_request: Request, error: Exception) -> JSONResponse:
    assert isinstance(error, FitmentError)
    return _answer(error)


def _answer(error: FitmentError) -> JSONResponse:
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
