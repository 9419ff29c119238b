"""Routes for what operators keep about devices: labels, notes, history, and importing them."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field

from fastapi import APIRouter, Request
from fastapi.responses import JSONResponse

from controller.domain import fleet
from controller.domain.belonging import DeviceLine, GroupLine, Imported, Note
from controller.domain.history import Event
from controller.gateway.http.answers import computed, once, page
from controller.gateway.http.api import Api, body, filters, reply
from controller.gateway.http.document import lists, takes
from controller.reconcile import keepsakes

HISTORY_USUAL = 200


@dataclass(frozen=True, slots=True, kw_only=True)
class NoteRequest:
    """``POST /v1/devices/{name}/notes``."""

    text: str


@dataclass(frozen=True, slots=True, kw_only=True)
class LabelRequest:
    """``POST /v1/devices/{name}/labels``."""

    give: Mapping[str, str] = field(default_factory=dict)
    take: tuple[str, ...] = ()  # keys


@dataclass(frozen=True, slots=True, kw_only=True)
class ImportRequest:
    """``POST /v1/import``."""

    devices: tuple[DeviceLine, ...] = ()
    groups: tuple[GroupLine, ...] = ()
    dry_run: bool = False


def router(api: Api) -> APIRouter:
    """All of them."""
    routes = APIRouter()
    context = api.controller.context

    @routes.get("/devices/{name}/history", response_model=tuple[Event, ...], openapi_extra=lists())
    async def device_history(name: str, request: Request) -> JSONResponse:
        filters(request)
        read = lambda: keepsakes.events(context, name)  # noqa: E731
        return await computed(api, request, read, usual=HISTORY_USUAL)

    @routes.post(
        "/devices/{name}/notes",
        status_code=201,
        response_model=Note,
        openapi_extra=takes(NoteRequest),
    )
    async def write_note(name: str, request: Request) -> JSONResponse:
        asked = await body(request, NoteRequest)
        return await once(api, request, lambda: keepsakes.note(context, name, asked.text))

    # The same labels again are the same: no key is needed.
    @routes.post(
        "/devices/{name}/labels",
        response_model=fleet.Device,
        openapi_extra=takes(LabelRequest, keyed=False),
    )
    async def label_device(name: str, request: Request) -> JSONResponse:
        asked = await body(request, LabelRequest)
        act = lambda: keepsakes.label(context, name, asked.give, asked.take)  # noqa: E731
        return reply(await api.ask(act))

    @routes.get("/notes", response_model=tuple[Note, ...], openapi_extra=lists("device"))
    async def list_notes(request: Request) -> JSONResponse:
        return await page(api, request, context.store.notes, filters(request, "device"))

    # What is there already is not doubled, so no key is needed.
    @routes.post(
        "/import", response_model=Imported, openapi_extra=takes(ImportRequest, keyed=False)
    )
    async def take_in(request: Request) -> JSONResponse:
        asked = await body(request, ImportRequest)
        done = await api.ask(
            lambda: keepsakes.take_in(context, asked.devices, asked.groups, dry_run=asked.dry_run)
        )
        return reply(done)

    return routes
