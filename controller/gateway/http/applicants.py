"""Routes for devices that wait to be let in."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field

from fastapi import APIRouter, Request
from fastapi.responses import JSONResponse

from controller.domain.belonging import Applicant
from controller.gateway.http.answers import page
from controller.gateway.http.api import Api, body, filters, reply
from controller.gateway.http.document import lists, takes
from controller.reconcile import applying


@dataclass(frozen=True, slots=True, kw_only=True)
class ApprovalRequest:
    """``POST /v1/applicants/{name}/approve``."""

    code: str  # that the device shows: only the key with this code is let in
    labels: Mapping[str, str] = field(default_factory=dict)


def router(api: Api) -> APIRouter:
    """All of them."""
    routes = APIRouter()
    context = api.controller.context

    @routes.get("/applicants", response_model=tuple[Applicant, ...], openapi_extra=lists())
    async def list_applicants(request: Request) -> JSONResponse:
        await api.ask(lambda: applying.forget(context))
        return await page(api, request, context.store.applicants, filters(request))

    # A second answer to the same device is refused, so no key is needed.
    @routes.post(
        "/applicants/{name}/approve",
        response_model=Applicant,
        openapi_extra=takes(ApprovalRequest, keyed=False),
    )
    async def approve_applicant(name: str, request: Request) -> JSONResponse:
        asked = await body(request, ApprovalRequest)
        act = lambda: applying.approve(context, name, asked.code, asked.labels)  # noqa: E731
        return reply(await api.ask(act))

    @routes.post("/applicants/{name}/reject", response_model=Applicant)
    async def reject_applicant(name: str) -> JSONResponse:
        return reply(await api.ask(lambda: applying.reject(context, name)))

    return routes
