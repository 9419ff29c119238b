"""Routes for models and fits."""

from __future__ import annotations

import asyncio
from dataclasses import dataclass
from pathlib import Path

from fastapi import APIRouter, Request
from fastapi.responses import JSONResponse, Response

from controller.domain import fleet
from controller.errors import Conflict, UserError
from controller.gateway.http.answers import once, page, tagged
from controller.gateway.http.api import Api, body, filters, found, reply
from controller.gateway.http.document import lists, shows, takes
from controller.gateway.http.registration import register

EFFORTS = ("", "quick", "thorough")


@dataclass(frozen=True, slots=True, kw_only=True)
class ModelRequest:
    """``POST /v1/models``."""

    path: str  # absolute, on the controller's machine


@dataclass(frozen=True, slots=True, kw_only=True)
class FitRequest:
    """``POST /v1/fits``."""

    model: str  # id, or name: its newest version
    device: str = ""  # empty: every cohort of the fleet
    effort: str = ""  # "quick", "thorough"; empty: the controller's own
    rungs: tuple[str, ...] = ()  # kinds asked for beside the effort's, of `fleet.EXTRA_RUNGS`


def router(api: Api) -> APIRouter:
    """All of them."""
    routes = APIRouter()
    store, controller = api.controller.store, api.controller

    @routes.get(
        "/models", response_model=tuple[fleet.ModelVersion, ...], openapi_extra=lists("name")
    )
    async def list_models(request: Request) -> JSONResponse:
        return await page(api, request, store.models, filters(request, "name"))

    # No key is needed here: the same files are the same version, however often they come.
    @routes.post(
        "/models",
        status_code=201,
        response_model=fleet.ModelVersion,
        openapi_extra=takes(ModelRequest, keyed=False),
    )
    async def register_model(request: Request) -> JSONResponse:
        asked = await body(request, ModelRequest)
        return reply(await asyncio.to_thread(register, api, Path(asked.path)), 201)

    @routes.get("/models/{key}", response_model=fleet.ModelVersion, openapi_extra=shows())
    async def show_model(key: str, request: Request) -> Response:
        return tagged(request, await api.ask(lambda: controller.find_model(key)))

    @routes.post("/models/{key}/approve", response_model=tuple[fleet.Release, ...])
    async def approve_model(key: str) -> JSONResponse:
        return reply(await api.ask(lambda: _approve(api, key)))

    @routes.get("/fits", response_model=tuple[fleet.FitJob, ...], openapi_extra=lists("model"))
    async def list_fits(request: Request) -> JSONResponse:
        return await page(api, request, store.jobs, filters(request, "model"))

    @routes.post(
        "/fits",
        status_code=201,
        response_model=tuple[fleet.FitJob, ...],
        openapi_extra=takes(FitRequest),
    )
    async def start_fits(request: Request) -> JSONResponse:
        asked = await body(request, FitRequest)
        return await once(api, request, lambda: _start(api, asked))

    @routes.get("/fits/{key}", response_model=fleet.FitJob, openapi_extra=shows())
    async def show_fit(key: str, request: Request) -> Response:
        job = await api.ask(lambda: found(store.jobs.get(key), "fit", key, "/v1/fits"))
        return tagged(request, job)

    return routes


def _start(api: Api, asked: FitRequest) -> tuple[fleet.FitJob, ...]:
    if asked.effort not in EFFORTS:
        raise UserError(f"'effort' is 'quick' or 'thorough', not '{asked.effort}'")
    unknown = sorted(set(asked.rungs) - set(fleet.EXTRA_RUNGS))
    if unknown:
        raise UserError(f"there are no rungs '{unknown[0]}', only: {', '.join(fleet.EXTRA_RUNGS)}")
    model = api.controller.find_model(asked.model)
    return api.controller.start_fits(
        model.id, device=asked.device, effort=asked.effort, rungs=asked.rungs
    )


def _approve(api: Api, key: str) -> tuple[fleet.Release, ...]:
    """Sign every release of a model version that waits for it."""
    model = api.controller.find_model(key)
    releases = api.controller.store.releases.find(model=model.id)
    waiting = [release for release in releases if not release.approved_at]
    if not waiting:
        raise Conflict(
            f"no release of {model.name} {model.version} waits for approval;"
            f" make one: fitment release create {model.name}"
        )
    return tuple(api.controller.approve_release(release.id) for release in waiting)
