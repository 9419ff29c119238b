"""Routes for the whole: status, triggers, audit, metrics."""

from __future__ import annotations

from dataclasses import dataclass

from fastapi import APIRouter, Request
from fastapi.responses import JSONResponse, PlainTextResponse, Response

from controller.domain import fleet
from controller.domain.fleet import JobStatus, RolloutState
from controller.gateway import metrics
from controller.gateway.http.answers import page
from controller.gateway.http.api import Api, body, filters, reply
from controller.gateway.http.document import lists, takes
from controller.gateway.views import Status

AUDIT_MAX = 100_000
_JOB_ENDED = frozenset({JobStatus.DONE, JobStatus.FAILED})
_ROLLOUT_ACTIVE = frozenset(
    {RolloutState.RUNNING, RolloutState.PAUSED, RolloutState.REVERTING}
    | {RolloutState.AWAITING_APPROVAL}
)


@dataclass(frozen=True, slots=True, kw_only=True)
class TriggerRequest:
    """``POST /v1/triggers/{key}/close``."""

    reason: str  # why nobody wants it


def router(api: Api) -> APIRouter:
    """All of them."""
    routes = APIRouter()
    store = api.controller.store

    @routes.get("/status", response_model=Status)
    async def status() -> JSONResponse:
        return reply(await api.ask(lambda: _status(api)))

    @routes.get(
        "/triggers",
        response_model=tuple[fleet.Trigger, ...],
        openapi_extra=lists("device", "model"),
    )
    async def triggers(request: Request) -> JSONResponse:
        return await page(api, request, store.triggers, filters(request, "device", "model"))

    @routes.post(
        "/triggers/{key}/close",
        response_model=fleet.Trigger,
        openapi_extra=takes(TriggerRequest, keyed=False),
    )
    async def close_trigger(key: str, request: Request) -> JSONResponse:
        asked = await body(request, TriggerRequest)
        return reply(await api.ask(lambda: api.controller.close_trigger(key, asked.reason)))

    @routes.get(
        "/audit",
        response_model=tuple[fleet.AuditEntry, ...],
        openapi_extra=lists("action", "subject", most=AUDIT_MAX),
    )
    async def audit(request: Request) -> JSONResponse:
        wanted = filters(request, "action", "subject")
        return await page(api, request, store.audit, wanted, newest=True, most=AUDIT_MAX, usual=200)

    return routes


def metrics_route(api: Api) -> APIRouter:
    """``/metrics``, which is not below ``/v1`` because Prometheus looks for it there."""
    routes = APIRouter()

    @routes.get("/metrics", response_class=PlainTextResponse)
    async def tell() -> Response:
        families = await api.ask(lambda: metrics.collect(api.controller.store, _facts(api)))
        return Response(metrics.write(families), media_type=metrics.CONTENT_TYPE)

    return routes


def _facts(api: Api) -> metrics.Facts:
    addresses = api.addresses
    return metrics.Facts(
        version=addresses.version, link=addresses.link, link_up=api.link_up(),
        ticks=api.engine.ticks,
    )  # fmt: skip


def _status(api: Api) -> Status:
    store = api.controller.store
    devices = store.devices.find(revoked=False)
    return Status(
        addresses=api.addresses,
        link=api.link,
        devices=len(devices),
        online=sum(device.online for device in devices),
        models=len(store.models.find()),
        jobs_active=sum(job.status not in _JOB_ENDED for job in store.jobs.find()),
        rollouts_active=sum(r.state in _ROLLOUT_ACTIVE for r in store.rollouts.find()),
        triggers_open=len(store.triggers.find(closed_at=0.0)),
        tickets_open=len(store.tickets.find(closed_at=0.0)),
        lease=api.lease(),
        notes=_notes(api),
    )


def _notes(api: Api) -> tuple[str, ...]:
    unknown = api.controller.strangers()
    names = ", ".join(unknown[:5]) + (" …" if len(unknown) > 5 else "")
    told = (
        f"not on record, with certificates of this controller: {names}; to take back what was"
        " enrolled after the backup: fitment device readmit NAME"
    )
    repository = api.controller.context.trust.repository
    waiting = sum(one.waits for one in api.controller.store.applicants.find())
    asks = f"{waiting} devices ask to be let in: fitment device pending"
    return (
        *api.addresses.notes,
        *repository.notes(),
        *([told] if unknown else []),
        *([asks] if waiting else []),
    )
