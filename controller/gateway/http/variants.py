"""The route that sets two variants beside each other."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from functools import partial

from fastapi import APIRouter, Request
from fastapi.responses import Response

from controller.domain.comparison import Comparison
from controller.domain.paired import Taken
from controller.gateway.http.answers import tagged
from controller.gateway.http.api import Api, filters
from controller.gateway.http.document import shows
from controller.reconcile import comparing

Reader = Callable[[int], tuple[list[Taken], int]]
"""From a place to what is there, and the next place; 0: that was all."""
PLAIN = "fp32"
"""What a variant is compared with where nothing else is asked for: what fits begin with."""


async def compared(api: Api, a: str, b: str, model: str = "") -> Comparison:
    """Two variants beside each other; between parts of it the engine does other things.

    Raises:
        FitmentError: see `comparing.begin`.
    """
    context = api.controller.context
    pair = await api.ask(lambda: comparing.begin(context, a, b, model=model))
    readers: list[Reader] = [partial(comparing.studied, context, pair)]
    readers += [partial(comparing.deployed, context, pair, release) for release in pair.releases]
    taken: list[Taken] = []
    for reader in readers:
        after, more = 0, True
        while more:
            part, after = await api.ask(partial(reader, after))
            taken += part
            more = after > 0
    return await asyncio.to_thread(comparing.finish, pair, taken)


def router(api: Api) -> APIRouter:
    """All of them."""
    routes = APIRouter()

    @routes.get(
        "/variants/{key}", response_model=Comparison, openapi_extra=shows("against", "model")
    )
    async def compare(key: str, request: Request) -> Response:
        asked = filters(request, "against", "model")
        against, model = asked.get("against", PLAIN), asked.get("model", "")
        return tagged(request, await compared(api, against, key, model))

    return routes
