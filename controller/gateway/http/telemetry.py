"""Routes for telemetry: the newest values of a device, and rollups of any part of the fleet."""

from __future__ import annotations

import math

from fastapi import APIRouter, Request
from fastapi.responses import JSONResponse

from controller.domain.telemetry import GROUPS, Period, Query, pooled
from controller.errors import UserError
from controller.gateway.http import document
from controller.gateway.http.api import Api, filters, found, number, one_of, reply, seconds
from controller.gateway.http.document import MOMENT, asks
from controller.gateway.views import RollupView, SeriesView, TelemetryView

COLUMN = "last_latency_p50_ms"
ROLLUPS_MAX = 20_000
"""Taken into one answer; reading and adding up so many takes the loop a fifth of a second."""
_NAMES = tuple(name for name in GROUPS if name)
_PERIODS = tuple(period.value for period in Period)
_LIMIT = {"type": "integer", "minimum": 1, "maximum": 10_000}
_BACK_S = {Period.HOUR: 86400.0, Period.DAY: 30 * 86400.0}
"""How far an answer goes back that was not asked from when."""


def router(api: Api) -> APIRouter:
    """All of them."""
    routes = APIRouter()

    @routes.get(
        "/devices/{name}/telemetry",
        response_model=TelemetryView,
        openapi_extra=asks("column", since=MOMENT, limit=_LIMIT),
    )
    async def newest(name: str, request: Request) -> JSONResponse:
        column = filters(request, "column", "since").get("column", COLUMN)
        since = seconds(request, "since", 0.0)
        limit = number(request, "limit", 20, most=10_000)
        return reply(await api.ask(lambda: _newest(api, name, column, limit, since)))

    @routes.get(
        "/telemetry",
        response_model=SeriesView,
        openapi_extra=asks(
            "column",
            *_NAMES,
            period=document.one_of(_PERIODS),
            by=document.one_of(_NAMES),
            since=MOMENT,
            until=MOMENT,
        ),
    )
    async def series(request: Request) -> JSONResponse:
        given = filters(request, "column", "period", "by", "since", "until", *_NAMES)
        period = Period(one_of("period", given.get("period", "hour"), _PERIODS))
        by = one_of("by", given.get("by", ""), GROUPS)
        query = Query(
            quantity=given.get("column", COLUMN),
            period=period,
            since_s=seconds(request, "since", api.controller.context.clock() - _BACK_S[period]),
            until_s=seconds(request, "until", math.inf),
            limit=ROLLUPS_MAX + 1,
            **{name: given.get(name, "") for name in _NAMES},
        )
        return reply(await api.ask(lambda: _series(api, query, by)))

    return routes


def _newest(api: Api, name: str, column: str, limit: int, since: float) -> TelemetryView:
    store = api.controller.store
    found(store.devices.get(name), "device", name, "fitment device list")
    return TelemetryView(
        device=name,
        column=column,
        samples=store.telemetry.count(name),
        values=store.telemetry.latest(name, column, limit, since),
    )


def _series(api: Api, query: Query, by: str) -> SeriesView:
    rollups = api.controller.store.telemetry.rollups(query)
    if len(rollups) > ROLLUPS_MAX:
        raise UserError(
            f"more than {ROLLUPS_MAX} rollups answer this: ask for a shorter time, by day, or for"
            " one device, profile, variant or release"
        )
    rows = tuple(RollupView.of(rollup, by) for rollup in pooled(rollups, by))
    return SeriesView(column=query.quantity, period=query.period.value, by=by, rows=rows)
