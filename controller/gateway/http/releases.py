"""Routes for releases."""

from __future__ import annotations

from dataclasses import dataclass

from fastapi import APIRouter, Request
from fastapi.responses import JSONResponse, Response

from controller.domain import fleet
from controller.gateway.http.answers import once, page, tagged
from controller.gateway.http.api import Api, body, filters, found, reply
from controller.gateway.http.document import lists, shows, takes

_SEE = "fitment release list"


@dataclass(frozen=True, slots=True, kw_only=True)
class ReleaseRequest:
    """``POST /v1/releases``."""

    model: str  # id, or name: its newest version
    with_fallback: bool = False  # lesser variants below each choice


def router(api: Api) -> APIRouter:
    """All of them."""
    routes = APIRouter()
    store, controller = api.controller.store, api.controller

    @routes.get(
        "/releases",
        response_model=tuple[fleet.Release, ...],
        openapi_extra=lists("model", "slot"),
    )
    async def list_releases(request: Request) -> JSONResponse:
        return await page(api, request, store.releases, filters(request, "model", "slot"))

    @routes.post(
        "/releases",
        status_code=201,
        response_model=fleet.Release,
        openapi_extra=takes(ReleaseRequest),
    )
    async def create_release(request: Request) -> JSONResponse:
        asked = await body(request, ReleaseRequest)
        return await once(
            api,
            request,
            lambda: controller.create_release(
                controller.find_model(asked.model).id, with_fallback=asked.with_fallback
            ),
        )

    @routes.get("/releases/{key}", response_model=fleet.Release, openapi_extra=shows())
    async def show_release(key: str, request: Request) -> Response:
        release = await api.ask(lambda: found(store.releases.get(key), "release", key, _SEE))
        return tagged(request, release)

    @routes.post("/releases/{key}/approve", response_model=fleet.Release)
    async def approve_release(key: str) -> JSONResponse:
        return reply(await api.ask(lambda: controller.approve_release(key)))

    return routes
