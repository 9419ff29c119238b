"""The route for telemetry as a file: streamed, so that neither side holds all of it."""

from __future__ import annotations

import asyncio
import math
from collections.abc import AsyncIterator
from dataclasses import dataclass

from fastapi import APIRouter, Request
from fastapi.responses import Response, StreamingResponse

from controller.domain.telemetry import Sample
from controller.errors import UserError
from controller.gateway.http import document, writing
from controller.gateway.http.api import Api, filters, found, one_of, seconds
from controller.gateway.http.document import MOMENT, asks
from controller.store.base import Store

_A_FILE = {"schema": {"type": "string", "format": "binary"}}
SPAN_S = 1200.0
"""Read at once, of one device: a step of the engine that nobody notices."""


class JsonLines(Response):
    """JSON lines."""

    media_type = writing.MEDIA["jsonl"]


@dataclass(frozen=True, slots=True, kw_only=True)
class Asked:
    """What is to be written."""

    form: str
    devices: tuple[str, ...]
    quantities: tuple[str, ...]
    since_s: float
    until_s: float


def router(api: Api) -> APIRouter:
    """It alone."""
    routes = APIRouter()

    @routes.get(
        "/telemetry/export",
        response_class=JsonLines,
        responses={200: {"content": dict.fromkeys(writing.MEDIA.values(), _A_FILE)}},
        openapi_extra=asks(
            "device",
            "columns",
            format=document.one_of(tuple(writing.MEDIA)),
            since=MOMENT,
            until=MOMENT,
        ),
    )
    async def export(request: Request) -> StreamingResponse:
        given = filters(request, "device", "columns", "format", "since", "until")
        form = one_of("format", given.get("format", "jsonl"), tuple(writing.MEDIA))
        since, until = seconds(request, "since", 0.0), seconds(request, "until", math.inf)
        columns = [name for name in given.get("columns", "").split(",") if name]
        if set(columns) & set(writing.FIXED) or len(columns) != len(set(columns)):
            raise UserError("'columns' are quantities, each once, such as temperature_c")
        devices = await api.ask(lambda: _devices(api.controller.store, given.get("device", "")))
        known = tuple(columns) or await _quantities(api, devices)
        asked = Asked(form=form, devices=devices, quantities=known, since_s=since, until_s=until)
        made = writing.writer(form, known)
        return StreamingResponse(_written(api, asked, made), media_type=writing.MEDIA[form])

    return routes


def _devices(store: Store, name: str) -> tuple[str, ...]:
    if name:
        return (found(store.devices.get(name), "device", name, "fitment device list").name,)
    return tuple(sorted(device.name for device in store.devices.find()))


async def _quantities(api: Api, devices: tuple[str, ...]) -> tuple[str, ...]:
    names: set[str] = set()
    for device in devices:
        names.update(await _known(api, device))
    return tuple(sorted(names - set(writing.FIXED)))  # a device names its own


async def _known(api: Api, device: str) -> tuple[str, ...]:
    return await api.ask(lambda: api.controller.store.telemetry.quantities(device))


async def _written(api: Api, asked: Asked, made: writing.Writer) -> AsyncIterator[bytes]:
    for device in asked.devices:
        at: float | None = asked.since_s
        while at is not None:
            samples, at = await _span(api, asked, device, at)
            yield await asyncio.to_thread(made.rows, samples)
    yield await asyncio.to_thread(made.end)


async def _span(
    api: Api, asked: Asked, device: str, at: float
) -> tuple[tuple[Sample, ...], float | None]:
    """The next span that has samples, and where to go on."""
    telemetry = api.controller.store.telemetry

    def read() -> tuple[tuple[Sample, ...], float | None]:
        begins = telemetry.next_sample_s(device, at)
        if begins is None or begins >= asked.until_s:
            return (), None
        ends = min(begins + SPAN_S, asked.until_s)
        return telemetry.samples(device, begins, ends), ends

    return await api.ask(read)
