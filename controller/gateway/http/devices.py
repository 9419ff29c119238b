"""Routes for devices and tokens."""

from __future__ import annotations

import asyncio
from collections.abc import Mapping
from dataclasses import dataclass, field

from fastapi import APIRouter, Request
from fastapi.responses import JSONResponse, Response

from controller.domain import fleet, selection
from controller.gateway.http.answers import once, page, picked, tagged
from controller.gateway.http.api import Api, body, filters, found, reply
from controller.gateway.http.document import WHERE, asks, lists, shows, takes
from controller.gateway.views import FACT_HEADER, NewToken
from controller.reconcile import grouping


class OctetStream(Response):
    """A file."""

    media_type = "application/octet-stream"


_SEE = "fitment device list"


@dataclass(frozen=True, slots=True, kw_only=True)
class TokenRequest:
    """``POST /v1/tokens``."""

    ttl_s: float = 3600.0
    labels: Mapping[str, str] = field(default_factory=dict)


def router(api: Api) -> APIRouter:
    """All of them."""
    routes = APIRouter()
    store, controller = api.controller.store, api.controller

    @routes.get(
        "/devices",
        response_model=tuple[fleet.Device, ...],
        openapi_extra=lists("profile", "group", where=WHERE),
    )
    async def list_devices(request: Request) -> JSONResponse:
        wanted = filters(request, "profile", "where", "group")
        where, group = wanted.pop("where", ""), wanted.pop("group", "")
        if not (where or group):
            return await page(api, request, store.devices, wanted)
        text = await api.ask(lambda: grouping.selection_of(controller.context, where, group))
        wanted["revoked"] = False
        return await picked(api, request, store.devices, wanted, selection.parse(text).holds)

    @routes.get("/devices/{name}", response_model=fleet.Device, openapi_extra=shows())
    async def show_device(name: str, request: Request) -> Response:
        return tagged(request, await api.ask(lambda: _device(api, name)))

    @routes.get("/devices/{name}/model", response_class=OctetStream, openapi_extra=asks("slot"))
    async def pull_model(name: str, request: Request) -> Response:
        wanted = filters(request, "slot").get("slot", "")
        return _file(await api.ask(lambda: controller.pull(name, wanted)))

    @routes.post("/devices/{name}/revoke", response_model=fleet.Device)
    async def revoke_device(name: str) -> JSONResponse:
        await api.ask(lambda: controller.revoke(name))
        await asyncio.to_thread(api.shut_out)
        return reply(await api.ask(lambda: _device(api, name)))

    @routes.post("/devices/{name}/readmit", response_model=fleet.Device)
    async def readmit_device(name: str) -> JSONResponse:
        await api.ask(lambda: controller.readmit(name))
        return reply(await api.ask(lambda: _device(api, name)))

    @routes.post("/devices/{name}/decommission", response_model=fleet.Device)
    async def decommission_device(name: str) -> JSONResponse:
        gone = await api.ask(lambda: controller.decommission(name))
        await asyncio.to_thread(api.shut_out)
        return reply(gone)

    @routes.post(
        "/tokens", status_code=201, response_model=NewToken, openapi_extra=takes(TokenRequest)
    )
    async def create_token(request: Request) -> JSONResponse:
        asked = await body(request, TokenRequest)
        return await once(api, request, lambda: _token(api, asked), secret=True)

    return routes


def _token(api: Api, asked: TokenRequest) -> NewToken:
    text, token = api.controller.create_token(asked.ttl_s, asked.labels)
    return NewToken(
        text=text, expires_at=token.expires_at, enroll=api.addresses.enroll, labels=token.labels
    )


def _device(api: Api, name: str) -> fleet.Device:
    return found(api.controller.store.devices.get(name), "device", name, _SEE)


def _file(running: fleet.RunningModel) -> Response:
    facts = {
        "slot": running.slot,
        "variant": running.variant,
        "calibration": running.calibration,
        "file-name": running.file_name,
    }
    headers = {f"{FACT_HEADER}{name}": value for name, value in facts.items()}
    return OctetStream(running.data, headers=headers)
