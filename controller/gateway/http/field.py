"""Routes for labels from the field, and for how variants answer there."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from fastapi import APIRouter, Request
from fastapi.responses import JSONResponse

from controller.domain.field import Count
from controller.domain.labels import Posted
from controller.domain.shares import wilson
from controller.errors import UserError
from controller.gateway.http.api import Api, body, filters, one_of, reply
from controller.gateway.http.document import asks, takes
from controller.gateway.http.document import one_of as enumerated
from controller.gateway.views import FieldRow, FieldView, RolloutField
from controller.reconcile import mixing, rolling

NAMES = ("device", "release", "variant")
BY = ("device", "release", "variant", "slice")
TALLIES_MAX = 50_000
"""Added up for one answer; each is an hour of a device and slice."""


@dataclass(frozen=True, slots=True, kw_only=True)
class LabelsRequest:
    """``POST /v1/devices/{name}/field-labels``; what a label has is `controller.domain.labels`."""

    labels: tuple[Mapping[str, Any], ...]


def router(api: Api) -> APIRouter:
    """All of them."""
    routes = APIRouter()

    # No key is needed here: a label that comes again under its id is the one that is there.
    @routes.post(
        "/devices/{name}/field-labels",
        response_model=Posted,
        openapi_extra=takes(LabelsRequest, keyed=False),
    )
    async def post_labels(name: str, request: Request) -> JSONResponse:
        asked = await body(request, LabelsRequest)
        return reply(await api.ask(lambda: api.controller.post_labels(name, asked.labels)))

    @routes.get(
        "/field",
        response_model=FieldView,
        openapi_extra=asks(*NAMES, "slice", by=enumerated(BY)),
    )
    async def show_field(request: Request) -> JSONResponse:
        given = filters(request, *NAMES, "slice", "by")
        by = one_of("by", given.pop("by", "variant"), BY)
        return reply(await api.ask(lambda: _field(api, given, by)))

    @routes.get("/rollouts/{key}/field", response_model=RolloutField)
    async def show_rollout_field(key: str) -> JSONResponse:
        return reply(await api.ask(lambda: _of_rollout(api, key)))

    return routes


def _field(api: Api, given: dict[str, Any], by: str) -> FieldView:
    wanted = given.pop("slice", None)
    counts: dict[str, Count] = {}
    tallies = api.controller.store.tallies.page(TALLIES_MAX + 1, **given)
    if len(tallies) > TALLIES_MAX:
        raise UserError(
            f"more than {TALLIES_MAX} hours answer this: name a device, a release or a variant"
        )
    for _, tally in tallies:
        inside = bool(tally.slice) if by == "slice" else tally.slice == (wanted or "")
        if inside and (wanted is None or tally.slice == wanted):
            name = str(getattr(tally, by))
            counts[name] = counts.get(name, Count()).plus(tally)
    rows = tuple(_row(name, counts[name]) for name in sorted(counts))
    return FieldView(by=by, rows=rows)


def _row(name: str, counted: Count) -> FieldRow:
    low, high = wilson(counted.right, counted.count)
    return FieldRow(
        name=name,
        count=counted.count,
        right=counted.right,
        accuracy=counted.accuracy,
        low=low,
        high=high,
        must=counted.must,
        must_wrong=counted.must_wrong,
        corrections=counted.corrections,
    )


def _of_rollout(api: Api, key: str) -> RolloutField:
    context = api.controller.context
    made = rolling.get(context, key)
    return RolloutField(
        rollout=key,
        rows=api.controller.field_of(made),
        mix=mixing.of(context, made),
    )
