"""Routes for groups of devices."""

from __future__ import annotations

from dataclasses import dataclass

from fastapi import APIRouter, Request
from fastapi.responses import JSONResponse, Response

from controller.domain.belonging import DeviceGroup
from controller.gateway.http.answers import once, page, tagged
from controller.gateway.http.api import Api, body, filters, reply
from controller.gateway.http.document import lists, shows, takes
from controller.gateway.views import GroupView
from controller.reconcile import grouping


@dataclass(frozen=True, slots=True, kw_only=True)
class GroupRequest:
    """``POST /v1/groups``."""

    name: str
    where: str  # an expression over what devices are and report


@dataclass(frozen=True, slots=True, kw_only=True)
class ChangeRequest:
    """``POST /v1/groups/{name}``."""

    where: str


def router(api: Api) -> APIRouter:
    """All of them."""
    routes = APIRouter()
    context = api.controller.context

    @routes.get("/groups", response_model=tuple[DeviceGroup, ...], openapi_extra=lists())
    async def list_groups(request: Request) -> JSONResponse:
        return await page(api, request, context.store.groups, filters(request))

    @routes.post(
        "/groups", status_code=201, response_model=GroupView, openapi_extra=takes(GroupRequest)
    )
    async def create_group(request: Request) -> JSONResponse:
        asked = await body(request, GroupRequest)
        return await once(
            api, request, lambda: view(api, grouping.create(context, asked.name, asked.where))
        )

    @routes.get("/groups/{name}", response_model=GroupView, openapi_extra=shows())
    async def show_group(name: str, request: Request) -> Response:
        return tagged(request, await api.ask(lambda: view(api, grouping.get(context, name))))

    # The same change again is no other: it needs no key.
    @routes.post(
        "/groups/{name}",
        response_model=GroupView,
        openapi_extra=takes(ChangeRequest, keyed=False),
    )
    async def change_group(name: str, request: Request) -> JSONResponse:
        asked = await body(request, ChangeRequest)
        changed = await api.ask(lambda: view(api, grouping.change(context, name, asked.where)))
        return reply(changed)

    @routes.delete("/groups/{name}", response_model=DeviceGroup)
    async def delete_group(name: str) -> JSONResponse:
        return reply(await api.ask(lambda: grouping.delete(context, name)))

    return routes


def view(api: Api, group: DeviceGroup) -> GroupView:
    """A group with whom it takes now."""
    context = api.controller.context
    found = grouping.members(context, group.where)
    note = "" if found else grouping.why_nobody(context, group.where)
    online = sum(device.online for device in found)
    return GroupView(group=group, members=len(found), online=online, note=note)
