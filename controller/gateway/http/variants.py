"""The route that sets two variants beside each other."""

from __future__ import annotations

from fastapi import APIRouter, Request
from fastapi.responses import Response

from controller.domain.comparison import Comparison
from controller.errors import UserError
from controller.gateway.http.answers import tagged
from controller.gateway.http.api import Api, filters
from controller.gateway.http.document import shows


def router(api: Api) -> APIRouter:
    """All of them."""
    routes = APIRouter()

    @routes.get(
        "/variants/compare", response_model=Comparison, openapi_extra=shows("a", "b", "model")
    )
    async def compare(request: Request) -> Response:
        asked = filters(request, "a", "b", "model")
        a, b = asked.get("a", ""), asked.get("b", "")
        if not a or not b:
            raise UserError("'a' and 'b' are two variants, each a name or a digest")
        model = asked.get("model", "")
        return tagged(request, await api.ask(lambda: api.controller.compare(a, b, model)))

    return routes
