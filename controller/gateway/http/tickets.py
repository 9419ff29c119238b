"""Routes for service tickets, and for how far the loop may go by itself."""

from __future__ import annotations

from dataclasses import dataclass

from fastapi import APIRouter, Request
from fastapi.responses import JSONResponse, Response

from controller.domain.tickets import Ticket
from controller.errors import UserError
from controller.gateway.http.answers import page, tagged
from controller.gateway.http.api import Api, body, filters, reply
from controller.gateway.http.api import one_of as checked
from controller.gateway.http.document import choices, lists, one_of, shows, takes
from controller.gateway.views import PolicyView

OPEN = "open"
STATES = (OPEN, "all")
"""What tickets can be told apart by; an acknowledged one is still open."""


@dataclass(frozen=True, slots=True, kw_only=True)
class TicketRequest:
    """``POST /v1/tickets/{key}/{act}``."""

    result: str = ""  # what was done about it, with ``close``


@dataclass(frozen=True, slots=True, kw_only=True)
class PolicyRequest:
    """``POST /v1/policies``."""

    policy: str = ""  # "propose", "canary", "auto"; empty: as for all models
    model: str = ""  # a name; empty: all models that have none of their own


def router(api: Api) -> APIRouter:
    """All of them."""
    routes = APIRouter()
    store, controller = api.controller.store, api.controller

    @routes.get(
        "/tickets",
        response_model=tuple[Ticket, ...],
        openapi_extra=lists("device", "model", state=one_of(STATES)),
    )
    async def list_tickets(request: Request) -> JSONResponse:
        wanted = filters(request, "device", "model", "state")
        if checked("state", wanted.pop("state", "all"), STATES) == OPEN:
            wanted["closed_at"] = 0.0
        return await page(api, request, store.tickets, wanted)

    @routes.get("/tickets/{key}", response_model=Ticket, openapi_extra=shows())
    async def show_ticket(key: str, request: Request) -> Response:
        return tagged(request, await api.ask(lambda: controller.ticket(key)))

    @routes.post(
        "/tickets/{key}/{act}",
        response_model=Ticket,
        openapi_extra=takes(TicketRequest, keyed=False) | choices(act=("acknowledge", "close")),
    )
    async def change_ticket(key: str, act: str, request: Request) -> JSONResponse:
        asked = await body(request, TicketRequest)
        if act == "acknowledge":
            return reply(await api.ask(lambda: controller.acknowledge_ticket(key)))
        if act == "close":
            return reply(await api.ask(lambda: controller.close_ticket(key, asked.result)))
        raise UserError(f"a ticket cannot '{act}'; it can acknowledge, close")

    @routes.get("/policies", response_model=tuple[PolicyView, ...])
    async def list_policies(request: Request) -> JSONResponse:
        filters(request)
        return reply(await api.ask(lambda: _policies(api)))

    @routes.post(
        "/policies",
        response_model=tuple[PolicyView, ...],
        openapi_extra=takes(PolicyRequest, keyed=False),
    )
    async def set_policy(request: Request) -> JSONResponse:
        asked = await body(request, PolicyRequest)
        await api.ask(lambda: controller.set_policy(asked.model, asked.policy))
        return reply(await api.ask(lambda: _policies(api)))

    return routes


def _policies(api: Api) -> tuple[PolicyView, ...]:
    """That of all models first, then each model's."""
    controller = api.controller
    names = dict.fromkeys(model.name for model in controller.store.models.find())
    return tuple(
        PolicyView(model=name, policy=controller.policy(name), own=controller.policy_said(name))
        for name in ("", *names)
    )
