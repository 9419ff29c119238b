"""Routes for models and fits."""

from __future__ import annotations

import asyncio
from dataclasses import dataclass
from pathlib import Path

from fastapi import APIRouter, Request
from fastapi.responses import JSONResponse

from controller.domain import fleet
from controller.errors import Conflict, UserError
from controller.gateway.http.api import Api, body, filters, found, reply
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


def router(api: Api) -> APIRouter:
    """All of them."""
    routes = APIRouter()
    store, controller = api.controller.store, api.controller

    @routes.get("/models")
    async def list_models(request: Request) -> JSONResponse:
        wanted = filters(request, "name")
        return reply(await api.ask(lambda: store.models.find(**wanted)))

    @routes.post("/models")
    async def register_model(request: Request) -> JSONResponse:
        asked = await body(request, ModelRequest)
        return reply(await asyncio.to_thread(register, api, Path(asked.path)), 201)

    @routes.get("/models/{key}")
    async def show_model(key: str) -> JSONResponse:
        return reply(await api.ask(lambda: controller.find_model(key)))

    @routes.post("/models/{key}/approve")
    async def approve_model(key: str) -> JSONResponse:
        return reply(await api.ask(lambda: _approve(api, key)))

    @routes.get("/fits")
    async def list_fits(request: Request) -> JSONResponse:
        wanted = filters(request, "model")
        return reply(await api.ask(lambda: store.jobs.find(**wanted)))

    @routes.post("/fits")
    async def start_fits(request: Request) -> JSONResponse:
        asked = await body(request, FitRequest)
        return reply(await api.ask(lambda: _start(api, asked)), 201)

    @routes.get("/fits/{key}")
    async def show_fit(key: str) -> JSONResponse:
        return reply(await api.ask(lambda: found(store.jobs.get(key), "fit", key, "/v1/fits")))

    return routes


def _start(api: Api, asked: FitRequest) -> tuple[fleet.FitJob, ...]:
    if asked.effort not in EFFORTS:
        raise UserError(f"'effort' is 'quick' or 'thorough', not '{asked.effort}'")
    model = api.controller.find_model(asked.model)
    return api.controller.start_fits(model.id, device=asked.device, effort=asked.effort)


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
