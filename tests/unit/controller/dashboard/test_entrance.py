"""The entrance while the controller behind it has lost its lease."""

from __future__ import annotations

import asyncio
from types import SimpleNamespace
from typing import Any

import httpx
import pytest

from controller.dashboard.entrance import Entrance
from controller.dashboard.sessions import Sessions
from controller.errors import LeaseLost
from controller.gateway.http.identities import Identities

WHY = "another controller took over: it is at 192.0.2.7"
OPERATORS = "fito1." + "a" * 43


async def _nobody(scope: Any, receive: Any, send: Any) -> None:
    raise AssertionError("nobody gets as far as this")


async def _lost(_look: object) -> None:
    raise LeaseLost(WHY)


@pytest.fixture
def entrance(monkeypatch: pytest.MonkeyPatch) -> Entrance:
    monkeypatch.setattr("controller.reconcile.operators.is_token", lambda _text: True)
    return Entrance(
        rest=_nobody, pages=_nobody, sessions=Sessions(b"local"), port=80,
        desk=SimpleNamespace(),  # type: ignore[arg-type]
        identities=Identities(SimpleNamespace(ask=_lost), "local"),  # type: ignore[arg-type]
    )  # fmt: skip


def ask(entrance: Entrance, method: str, path: str, **more: Any) -> httpx.Response:
    async def asked() -> httpx.Response:
        transport = httpx.ASGITransport(app=entrance)
        async with httpx.AsyncClient(transport=transport, base_url="http://here") as client:
            return await client.request(method, path, **more)

    return asyncio.run(asked())


def test_logging_in_says_what_is_the_matter(entrance: Entrance) -> None:
    answer = ask(entrance, "POST", "/login", data={"token": OPERATORS, "next": "/devices"})
    assert answer.status_code == 503
    assert WHY in answer.text
    assert "<form" in answer.text


def test_a_session_opens_nothing_and_leads_to_the_login(entrance: Entrance) -> None:
    cookie = f"fitment_session_80={Sessions(b'local').issue('ann')}"
    headers = {"accept": "text/html", "cookie": cookie}
    answer = ask(entrance, "GET", "/devices", headers=headers)
    assert (answer.status_code, answer.headers["location"]) == (303, "/login?next=%2Fdevices")
