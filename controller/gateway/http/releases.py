"""Routes for releases and rollouts."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field

from fastapi import APIRouter, Request
from fastapi.responses import JSONResponse

from controller.domain import fleet
from controller.errors import UserError
from controller.gateway.http.api import Api, body, filters, found, reply
from controller.gateway.views import RolloutView
from controller.reconcile.rolling import RolloutPlan

_SEE_RELEASES, _SEE_ROLLOUTS = "fitment release list", "fitment rollout list"


@dataclass(frozen=True, slots=True, kw_only=True)
class ReleaseRequest:
    """``POST /v1/releases``."""

    model: str  # id, or name: its newest version


@dataclass(frozen=True, slots=True, kw_only=True)
class RolloutRequest:
    """``POST /v1/rollouts``."""

    release: str
    selector: Mapping[str, str] = field(default_factory=dict)
    devices: tuple[str, ...] = ()
    waves: tuple[float, ...] = (0.1, 0.5, 1.0)
    soak_s: float = 0.0
    deadline_s: float = 3600.0
    gate: fleet.Gate = field(default_factory=fleet.Gate)

    def plan(self) -> RolloutPlan:
        """The part that the controller takes."""
        return RolloutPlan(
            selector=self.selector,
            devices=self.devices,
            waves=self.waves,
            soak_s=self.soak_s,
            deadline_s=self.deadline_s,
            gate=self.gate,
        )


def router(api: Api) -> APIRouter:
    """All of them."""
    routes = APIRouter()
    store, controller = api.controller.store, api.controller

    @routes.get("/releases")
    async def list_releases(request: Request) -> JSONResponse:
        wanted = filters(request, "model", "slot")
        return reply(await api.ask(lambda: store.releases.find(**wanted)))

    @routes.post("/releases")
    async def create_release(request: Request) -> JSONResponse:
        asked = await body(request, ReleaseRequest)
        made = await api.ask(
            lambda: controller.create_release(controller.find_model(asked.model).id)
        )
        return reply(made, 201)

    @routes.get("/releases/{key}")
    async def show_release(key: str) -> JSONResponse:
        return reply(
            await api.ask(lambda: found(store.releases.get(key), "release", key, _SEE_RELEASES))
        )

    @routes.post("/releases/{key}/approve")
    async def approve_release(key: str) -> JSONResponse:
        return reply(await api.ask(lambda: controller.approve_release(key)))

    @routes.get("/rollouts")
    async def list_rollouts(request: Request) -> JSONResponse:
        wanted = filters(request, "release")
        return reply(await api.ask(lambda: store.rollouts.find(**wanted)))

    @routes.post("/rollouts")
    async def create_rollout(request: Request) -> JSONResponse:
        asked = await body(request, RolloutRequest)
        made = await api.ask(lambda: controller.create_rollout(asked.release, asked.plan()))
        return reply(await api.ask(lambda: _view(api, made.id)), 201)

    @routes.get("/rollouts/{key}")
    async def show_rollout(key: str) -> JSONResponse:
        return reply(await api.ask(lambda: _view(api, key)))

    @routes.post("/rollouts/{key}/{act}")
    async def change_rollout(key: str, act: str) -> JSONResponse:
        change = _change(api, act)
        await api.ask(lambda: change(key))
        return reply(await api.ask(lambda: _view(api, key)))

    return routes


def _change(api: Api, act: str) -> Callable[[str], fleet.Rollout]:
    controller = api.controller
    changes: Mapping[str, Callable[[str], fleet.Rollout]] = {
        "pause": controller.pause,
        "resume": controller.resume,
        "cancel": controller.cancel,
        "revert": controller.revert,
    }
    if act not in changes:
        raise UserError(f"a rollout cannot '{act}'; it can {', '.join(changes)}")
    return changes[act]


def _view(api: Api, key: str) -> RolloutView:
    store = api.controller.store
    rollout = found(store.rollouts.get(key), "rollout", key, _SEE_ROLLOUTS)
    return RolloutView(rollout=rollout, deployments=store.deployments.find(rollout=key))
