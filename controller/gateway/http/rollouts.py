"""Routes for rollouts and deployments."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field

from fastapi import APIRouter, Request
from fastapi.responses import JSONResponse, Response

from controller.domain import fleet
from controller.domain.preview import Preview
from controller.errors import UserError
from controller.gateway.http.answers import once, page, tagged
from controller.gateway.http.api import Api, body, filters, found, reply
from controller.gateway.http.api import one_of as checked
from controller.gateway.http.document import choices, lists, one_of, shows, takes
from controller.gateway.views import RolloutView
from controller.reconcile.rolling import RolloutPlan
from fitment.core.deployment import Outcome

OPEN = "open"
OUTCOMES = (OPEN, *(outcome.value for outcome in Outcome))
"""What deployments can be told apart by; an open one has no outcome yet."""
ACTS = ("pause", "resume", "cancel", "revert", "let-go")
_SEE = "fitment rollout list"


@dataclass(frozen=True, slots=True, kw_only=True)
class RetryRequest:
    """``POST /v1/rollouts/{key}/retry``."""

    devices: tuple[str, ...] = ()  # empty: all that failed


@dataclass(frozen=True, slots=True, kw_only=True)
class RolloutRequest:
    """``POST /v1/rollouts``."""

    release: str
    selector: Mapping[str, str] = field(default_factory=dict)  # labels, profile, name: equal
    where: str = ""  # an expression over what devices are and report
    group: str = ""  # a stored expression's name
    devices: tuple[str, ...] = ()
    waves: tuple[float, ...] = (0.1, 0.5, 1.0)
    soak_s: float = 0.0
    deadline_s: float = 3600.0
    gate: fleet.Gate = field(default_factory=fleet.Gate)
    windows: tuple[str, ...] = ()  # "Mon-Fri 02:00 +2h Europe/Berlin"; empty: at any time
    metered: bool = False  # it may come over metered links
    control_share: float = 0.0  # of devices that stay on what they run, to compare with
    control_by: str = ""  # label whose devices stay together; empty: each device by itself
    control_s: float = 0.0  # for so long after the last wave; then they get the release, too

    def plan(self) -> RolloutPlan:
        """The part that the controller takes."""
        return RolloutPlan(
            selector=self.selector,
            where=self.where,
            group=self.group,
            devices=self.devices,
            waves=self.waves,
            soak_s=self.soak_s,
            deadline_s=self.deadline_s,
            gate=self.gate,
            windows=self.windows,
            metered=self.metered,
            control_share=self.control_share,
            control_by=self.control_by,
            control_s=self.control_s,
        )


def router(api: Api) -> APIRouter:
    """All of them."""
    routes = APIRouter()
    _listed(routes, api)
    _asked(routes, api)
    return routes


def _listed(routes: APIRouter, api: Api) -> None:
    store = api.controller.store

    @routes.get(
        "/deployments",
        response_model=tuple[fleet.Deployment, ...],
        openapi_extra=lists("rollout", "device", "release", outcome=one_of(OUTCOMES)),
    )
    async def list_deployments(request: Request) -> JSONResponse:
        wanted = filters(request, "rollout", "device", "release", "outcome")
        if "outcome" in wanted:
            text = checked("outcome", wanted["outcome"], OUTCOMES)
            wanted["outcome"] = None if text == OPEN else Outcome(text)
        return await page(api, request, store.deployments, wanted)

    @routes.get(
        "/rollouts", response_model=tuple[fleet.Rollout, ...], openapi_extra=lists("release")
    )
    async def list_rollouts(request: Request) -> JSONResponse:
        return await page(api, request, store.rollouts, filters(request, "release"))

    @routes.get("/rollouts/{key}", response_model=RolloutView, openapi_extra=shows())
    async def show_rollout(key: str, request: Request) -> Response:
        return tagged(request, await api.ask(lambda: _view(api, key)))


def _asked(routes: APIRouter, api: Api) -> None:
    controller = api.controller

    @routes.post(
        "/rollouts",
        status_code=201,
        response_model=RolloutView,
        openapi_extra=takes(RolloutRequest),
    )
    async def create_rollout(request: Request) -> JSONResponse:
        asked = await body(request, RolloutRequest)
        return await once(
            api,
            request,
            lambda: _view(api, controller.create_rollout(asked.release, asked.plan()).id),
        )

    # It keeps nothing, so it needs no key.
    @routes.post(
        "/rollouts/preview",
        response_model=Preview,
        openapi_extra=takes(RolloutRequest, keyed=False),
    )
    async def preview_rollout(request: Request) -> JSONResponse:
        asked = await body(request, RolloutRequest)
        plan = asked.plan()
        return reply(await api.ask(lambda: controller.preview_rollout(asked.release, plan)))

    @routes.post(
        "/rollouts/{key}/retry",
        response_model=RolloutView,
        openapi_extra=takes(RetryRequest, keyed=False),
    )
    async def retry_rollout(key: str, request: Request) -> JSONResponse:
        asked = await body(request, RetryRequest)
        await api.ask(lambda: controller.retry(key, asked.devices))
        return reply(await api.ask(lambda: _view(api, key)))

    @routes.post(
        "/rollouts/{key}/{act}", response_model=RolloutView, openapi_extra=choices(act=ACTS)
    )
    async def change_rollout(key: str, act: str) -> JSONResponse:
        change = _change(api, act)
        await api.ask(lambda: change(key))
        return reply(await api.ask(lambda: _view(api, key)))


def _change(api: Api, act: str) -> Callable[[str], fleet.Rollout]:
    controller = api.controller
    changes: Mapping[str, Callable[[str], fleet.Rollout]] = {
        "pause": controller.pause,
        "resume": controller.resume,
        "cancel": controller.cancel,
        "revert": controller.revert,
        "let-go": controller.let_go,
    }
    if act not in changes:
        raise UserError(f"a rollout cannot '{act}'; it can {', '.join(changes)}")
    return changes[act]


def _view(api: Api, key: str) -> RolloutView:
    store = api.controller.store
    rollout = found(store.rollouts.get(key), "rollout", key, _SEE)
    gates, exposure = api.controller.judged(key)
    return RolloutView(
        rollout=rollout,
        deployments=store.deployments.find(rollout=key),
        gates=gates,
        exposure=exposure,
        left=api.controller.left(key),
        control=api.controller.control_of(rollout),
    )
