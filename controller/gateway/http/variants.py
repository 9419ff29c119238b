"""The route that sets two variants beside each other."""

from __future__ import annotations

from fastapi import APIRouter, Request
from fastapi.responses import Response

from controller.domain.comparison import Comparison
from controller.gateway.http.answers import tagged
from controller.gateway.http.api import Api, filters
from controller.gateway.http.document import shows

PLAIN = "fp32"
"""What a variant is compared with where nothing else is asked for: what fits begin with."""


def router(api: Api) -> APIRouter:
    """All of them."""
    routes = APIRouter()

    @routes.get(
        "/variants/{key}", response_model=Comparison, openapi_extra=shows("against", "model")
    )
    async def compare(key: str, request: Request) -> Response:
        asked = filters(request, "against", "model")
        against, model = asked.get("against", PLAIN), asked.get("model", "")
        found = await api.ask(lambda: api.controller.compare(against, key, model))
        return tagged(request, found)

    return routes
