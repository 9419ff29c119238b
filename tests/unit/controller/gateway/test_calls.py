"""What the client asks again, and what the document says that can be done."""

from __future__ import annotations

import datetime as dt
import json
from types import SimpleNamespace
from typing import Any, cast

import httpx
import numpy as np
import pytest

from controller import calls
from controller.errors import UserError
from controller.gateway.http import rollouts


@pytest.mark.parametrize(
    ("route", "keyed"),
    [
        ("/v1/fits", True), ("/v1/rollouts", True), ("/v1/groups", True),
        ("/v1/devices/pi/notes", True), ("/v1/groups/lab", False), ("/v1/tokens", False),
        ("/v1/operators", False), ("/v1/devices/pi/labels", False),
    ],
)  # fmt: skip
def test_what_makes_something_has_a_key_but_secrets(route: str, keyed: bool) -> None:
    assert calls._is_keyed(route) is keyed


def asked(answer: httpx.Response) -> calls.Calls:
    return calls.Calls("http://c", "t", transport=httpx.MockTransport(lambda _: answer), retries=0)


def test_a_number_that_is_none_is_not_sent() -> None:
    with pytest.raises(UserError, match="NaN"):
        asked(httpx.Response(200, json={}))._post(dict, "/v1/groups", waves=[float("nan")])


def test_what_a_notebook_has_at_hand_is_sent() -> None:
    moment = dt.datetime(2026, 11, 25, tzinfo=dt.timezone.utc)
    given = {"time": moment, "predicted": np.int64(3), "label": np.array([1, 2])}
    sent = json.loads(calls._text(given))
    assert sent == {"time": "2026-11-25T00:00:00+00:00", "predicted": 3, "label": [1, 2]}
    with pytest.raises(UserError, match="a set cannot be sent"):
        calls._text({"labels": {1, 2}})


def test_what_is_no_controller_is_said() -> None:
    page = asked(httpx.Response(200, text="<html>a router's page</html>"))
    for ask in (lambda: page._get(dict, "/v1/status"), lambda: page._all(dict, "/v1/devices")):
        with pytest.raises(calls.Unreachable, match="is no controller"):
            ask()


def test_the_document_names_every_act() -> None:
    class Any_:
        def __getattr__(self, name: str) -> Any:
            return name

    api = cast("Any", SimpleNamespace(controller=Any_()))
    with pytest.raises(UserError, match=", ".join(rollouts.ACTS) + "$"):
        rollouts._change(api, "dance")
