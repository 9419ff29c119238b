"""Routes for stacks that are announced: what devices will have before they have it."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field

from fastapi import APIRouter, Request
from fastapi.responses import JSONResponse, Response

from controller.domain.stacks import StackAnnouncement
from controller.gateway.http.answers import once, page, tagged
from controller.gateway.http.api import Api, body, filters, reply
from controller.gateway.http.api import one_of as checked
from controller.gateway.http.document import lists, one_of, shows, takes
from controller.gateway.views import StackView
from controller.reconcile.announcing import Announced

OPEN = "open"
STATES = (OPEN, "all")
"""What announcements can be told apart by: those that go on, or the ended ones, too."""


@dataclass(frozen=True, slots=True, kw_only=True)
class StackRequest:
    """``POST /v1/stacks``."""

    name: str
    profile: str = ""  # empty: that of the device
    device: str = ""  # that has the stack already
    runtimes: tuple[str, ...] = ()  # "onnxruntime=1.25.0": what it will bring, to know it by
    facts: Mapping[str, str] = field(default_factory=dict)  # the same, as facts of a fingerprint
    slots: tuple[str, ...] = ()  # models by name; empty: all that devices of the profile run


@dataclass(frozen=True, slots=True, kw_only=True)
class WithdrawRequest:
    """``POST /v1/stacks/{key}/withdraw``."""

    reason: str


def router(api: Api) -> APIRouter:
    """All of them."""
    routes = APIRouter()
    store, controller = api.controller.store, api.controller

    @routes.get(
        "/stacks",
        response_model=tuple[StackAnnouncement, ...],
        openapi_extra=lists("profile", state=one_of(STATES)),
    )
    async def list_stacks(request: Request) -> JSONResponse:
        wanted = filters(request, "profile", "state")
        if checked("state", wanted.pop("state", "all"), STATES) == OPEN:
            wanted["closed_at"] = 0.0
        return await page(api, request, store.stacks, wanted)

    @routes.post(
        "/stacks", status_code=201, response_model=StackView, openapi_extra=takes(StackRequest)
    )
    async def announce_stack(request: Request) -> JSONResponse:
        asked = await body(request, StackRequest)
        made = Announced(
            name=asked.name, profile=asked.profile, device=asked.device, runtimes=asked.runtimes,
            facts=asked.facts, slots=asked.slots,
        )  # fmt: skip
        return await once(api, request, lambda: view(api, controller.announce_stack(made)))

    @routes.get("/stacks/{key}", response_model=StackView, openapi_extra=shows())
    async def show_stack(key: str, request: Request) -> Response:
        return tagged(request, await api.ask(lambda: view(api, controller.stack(key))))

    # Taking it back again is refused by itself: it needs no key.
    @routes.post(
        "/stacks/{key}/withdraw",
        response_model=StackView,
        openapi_extra=takes(WithdrawRequest, keyed=False),
    )
    async def withdraw_stack(key: str, request: Request) -> JSONResponse:
        asked = await body(request, WithdrawRequest)
        ended = await api.ask(lambda: view(api, controller.withdraw_stack(key, asked.reason)))
        return reply(ended)

    return routes


def view(api: Api, found: StackAnnouncement) -> StackView:
    """An announcement with where each device stands now."""
    return StackView(stack=found, devices=api.controller.stack_standings(found.id))
