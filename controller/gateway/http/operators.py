"""Routes for operators' tokens, and who one is."""

from __future__ import annotations

from dataclasses import dataclass

from fastapi import APIRouter, Request
from fastapi.responses import JSONResponse

from controller.domain.roles import Identity, Operator, Role
from controller.gateway.http.answers import once, page
from controller.gateway.http.api import Api, body, filters, reply
from controller.gateway.http.document import lists, takes
from controller.gateway.views import NewOperator, OperatorView
from controller.reconcile import operators


@dataclass(frozen=True, slots=True, kw_only=True)
class OperatorRequest:
    """``POST /v1/operators``."""

    name: str
    role: Role
    ttl_s: float = 0.0  # 0: until it is revoked


def router(api: Api) -> APIRouter:
    """All of them."""
    routes = APIRouter()
    context = api.controller.context

    @routes.get("/whoami", response_model=Identity)
    async def whoami(request: Request) -> JSONResponse:
        return reply(request.state.who)

    @routes.get("/operators", response_model=tuple[OperatorView, ...], openapi_extra=lists())
    async def list_operators(request: Request) -> JSONResponse:
        return await page(api, request, context.store.operators, filters(request), shown=view)

    @routes.post(
        "/operators",
        status_code=201,
        response_model=NewOperator,
        openapi_extra=takes(OperatorRequest),
    )
    async def create_operator(request: Request) -> JSONResponse:
        asked = await body(request, OperatorRequest)
        return await once(api, request, lambda: _create(api, asked), secret=True)

    @routes.post("/operators/{name}/revoke", response_model=OperatorView)
    async def revoke_operator(name: str) -> JSONResponse:
        return reply(await api.ask(lambda: view(operators.revoke(context, name))))

    return routes


def view(known: Operator) -> OperatorView:
    """An operator without the token's hash."""
    return OperatorView(
        name=known.name, role=known.role, created_at=known.created_at,
        expires_at=known.expires_at, revoked_at=known.revoked_at,
    )  # fmt: skip


def _create(api: Api, asked: OperatorRequest) -> NewOperator:
    text, made = operators.create(api.controller.context, asked.name, asked.role, asked.ttl_s)
    return NewOperator(text=text, operator=view(made))
