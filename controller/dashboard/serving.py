"""One application of REST and pages, where NiceGUI is installed."""

from __future__ import annotations

import contextlib
import functools
import importlib.util
from collections.abc import AsyncIterator
from urllib.parse import urlsplit

from fastapi import FastAPI
from starlette.types import ASGIApp

from controller.dashboard.desk import Desk
from controller.dashboard.entrance import Entrance
from controller.dashboard.sessions import Sessions
from controller.gateway.http.api import Api
from controller.gateway.http.identities import Identities

MISSING = (
    "there is no dashboard: NiceGUI is not installed; for one: pip install 'fitment[dashboard]'"
)


def is_available() -> bool:
    """Whether pages can be served."""
    return importlib.util.find_spec("nicegui") is not None


@contextlib.asynccontextmanager
async def opened(rest: ASGIApp, api: Api, token: str) -> AsyncIterator[ASGIApp]:
    """The application that serves both, until it is left."""
    pages, identities = _pages(), Identities(api, token)
    async with pages.router.lifespan_context(pages):
        yield Entrance(
            rest=rest,
            pages=pages,
            sessions=Sessions(identities.key),
            identities=identities,
            desk=Desk(api),
            port=urlsplit(api.addresses.rest).port or 0,
        )


@functools.cache
def _pages() -> FastAPI:
    """NiceGUI's own application is one a process, so it is set up once."""
    from nicegui import ui

    importlib.import_module("controller.dashboard.pages")
    host = FastAPI(docs_url=None, redoc_url=None, openapi_url=None)
    ui.run_with(
        host, title="Fitment", dark=None, language="en-US", tailwind=False, favicon="📦",
        binding_refresh_interval=None, show_welcome_message=False, message_history_length=100,
        reconnect_timeout=10.0,
    )  # fmt: skip
    return host
