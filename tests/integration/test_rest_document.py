"""The OpenAPI document against the routes: what it says is what they take and answer."""

from __future__ import annotations

import json
import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any

import httpx
import pytest
from fastapi.routing import APIRoute
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from controller.client import Client
from controller.domain import fleet
from controller.domain.belonging import Applicant, Note
from controller.domain.roles import Role
from controller.domain.stacks import StackAnnouncement
from controller.domain.tickets import Ticket
from controller.gateway.http import (
    applicants,
    devices,
    export,
    field,
    groups,
    keepsakes,
    models,
    operators,
    releases,
    rollouts,
    stacks,
    system,
    telemetry,
    tickets,
    variants,
)
from controller.gateway.http.api import Api
from controller.gateway.http.document import PROBLEM_TYPE
from controller.trust import Trust
from fitment.core.link import Uplink
from fitment.core.telemetry import Column, TelemetryBatch
from tests.integration.gateway_stage import ADDRESSES, NOW, TOKEN, Stage, staged
from tests.integration.json_schema import faults
from tests.integration.json_values import STRANGE, beside, fitting

ROOMS = (
    applicants,
    devices,
    export,
    field,
    groups,
    keepsakes,
    models,
    operators,
    releases,
    rollouts,
    stacks,
    system,
    telemetry,
    tickets,
    variants,
)
HEADERS = {"authorization": f"Bearer {TOKEN}"}
EXAMPLES = 200
LEFT_OUT = {("/v1/devices/{name}/model", "get"), ("/v1/models", "post")}
"""Those that read files: the twin has no model's, and no workload may be made up."""


@pytest.fixture(scope="module")
def stage(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Stage]:
    """A fleet with one of everything."""
    folder = tmp_path_factory.mktemp("stage")
    with staged(Trust.create(folder / "trust", folder / "offline"), folder) as made:
        made.join("device-a")
        _fill(made)
        yield made


def _fill(stage: Stage) -> None:
    model = fleet.ModelVersion(
        id="model-1", name="m", version="1", digest="sha256:m", snapshot="/none", registered_at=1.0
    )
    batch = TelemetryBatch(
        outbox="o", sequence=1, first_available=1, boot_id="b", monotonic_ns=(0,),
        wall_unix_ns=(int(NOW) * 10**9,), columns={"last_latency_p50_ms": Column(values=(1.0,))},
    )  # fmt: skip
    controller = stage.controller
    stage.engine.call(lambda: controller.register_model(model)).result(5)
    stage.engine.call(lambda: controller.on_uplink("device-a", Uplink(telemetry=batch))).result(5)
    stage.engine.call(lambda: controller.store.telemetry.roll_up("", 9)).result(5)
    with Client(stage.url, TOKEN) as client:
        client.create_operator("ann", Role.VIEWER)
        client.create_group("lab", "online")
        client.note("device-a", "its fan was replaced")
        (job,) = client.start_fits("m")
        stage.until(lambda: client.fit(job.id).status is fleet.JobStatus.DONE)
        release = client.create_release("m")
        client.approve_release(release.id)
        key = client.create_rollout(release.id, waves=[1.0]).rollout.id
        stage.until(lambda: client.rollout(key).rollout.state is fleet.RolloutState.COMPLETED)
        trigger = fleet.Trigger(
            id="t", kind=fleet.TriggerKind.NEW_PROFILE, device="device-a", model="model-1",
            cohort=job.cohort, reason="r", created_at=1.0, closed_at=2.0,
        )  # fmt: skip
    ticket = Ticket(
        id="t", device="device-a", model="model-1", slot="m", variant="v", cohort=job.cohort,
        opened_at=1.0,
    )  # fmt: skip
    stack = StackAnnouncement(id="s", name="os-8", profile="generic-x86_64", created_at=1.0)
    stage.engine.call(lambda: controller.store.stacks.add(stack)).result(5)
    waiting = Applicant(name="new", key_hash="sha256:k", code="A-B", asked_at=NOW, seen_at=NOW)
    stage.engine.call(lambda: controller.store.triggers.add(trigger)).result(5)
    stage.engine.call(lambda: controller.store.tickets.add(ticket)).result(5)
    stage.engine.call(lambda: controller.store.applicants.add(waiting)).result(5)
    note = Note(id="n", device="device-a", at=NOW, author="operator:ann", text="t")
    stage.engine.call(lambda: controller.store.notes.add(note)).result(5)


@pytest.fixture(scope="module")
def document(stage: Stage) -> dict[str, Any]:
    answer = httpx.get(f"{stage.url}/v1/openapi.json", headers=HEADERS)
    assert answer.status_code == 200
    made = answer.json()
    assert isinstance(made, dict)
    return made


@pytest.fixture(scope="module")
def names(stage: Stage) -> Mapping[str, str]:
    """What stands for each part of a path, by the list that it is in."""
    with Client(stage.url, TOKEN) as client:
        return {
            "devices": "device-a", "operators": "ann", "models": "m", "fits": client.fits()[0].id,
            "releases": client.releases()[0].id, "rollouts": client.rollouts()[0].id,
            "variants": "int8", "tickets": "t", "groups": "lab", "applicants": "new",
            "stacks": "os-8",
        }  # fmt: skip


def operations(document: dict[str, Any], method: str) -> list[tuple[str, dict[str, Any]]]:
    return [(path, ways[method]) for path, ways in document["paths"].items() if method in ways]


def filled(path: str, names: Mapping[str, str]) -> str:
    kind = path.split("/")[2] if path.startswith("/v1/") else ""
    return re.sub(r"\{act\}", "pause", re.sub(r"\{(name|key)\}", names.get(kind, ""), path))


def query_of(operation: dict[str, Any]) -> dict[str, Any]:
    given = operation.get("parameters", [])
    return {p["name"]: p["schema"] for p in given if p["in"] == "query"}


def example(schema: dict[str, Any]) -> str:
    if "examples" in schema:
        return str(schema["examples"][0])
    if "enum" in schema:
        return str(schema["enum"][0])
    return "x" if schema["type"] == "string" and "pattern" not in schema else "1"


def test_it_needs_the_token_and_is_what_it_claims(stage: Stage, document: dict[str, Any]) -> None:
    assert httpx.get(f"{stage.url}/v1/openapi.json").status_code == 401
    assert document["openapi"].startswith("3.1")
    assert document["security"] == [{"token": []}]
    references = set(re.findall(r'"#/components/schemas/([^"]+)"', json.dumps(document)))
    assert references == set(document["components"]["schemas"])


def test_it_has_every_route_and_no_other(stage: Stage, document: dict[str, Any]) -> None:
    api = Api(
        controller=stage.controller, engine=stage.engine, addresses=ADDRESSES, link="",
        data_dir=stage.folder, shut_out=lambda: None,
    )  # fmt: skip
    rooms = [("/v1", room.router(api)) for room in ROOMS]
    rooms.append(("", system.metrics_route(api)))
    routes = {("/healthz", "get")} | {
        (prefix + route.path, method.lower())
        for prefix, room in rooms
        for route in room.routes
        if isinstance(route, APIRoute)
        for method in route.methods
    }
    told = {(path, method) for path, ways in document["paths"].items() for method in ways}
    assert told == routes


def test_what_is_answered_is_what_it_says(
    stage: Stage, document: dict[str, Any], names: Mapping[str, str]
) -> None:
    seen = 0
    for path, operation in operations(document, "get"):
        answer = httpx.get(stage.url + filled(path, names), headers=HEADERS)
        content = operation["responses"]["200"].get("content", {})
        assert answer.headers["content-type"].partition(";")[0] in content or path.endswith(
            "/model"
        )
        if path.endswith("/model"):
            continue  # the twin runs no file; `test_gateway_pull` has one that does
        assert answer.status_code == 200, (path, answer.text)
        if "application/json" in content:
            value, schema = answer.json(), content["application/json"]["schema"]
            assert faults(value, schema, document) == [], path
            assert value != [], f"{path} has nothing to check"
            seen += 1
    assert seen > 15


def test_every_question_is_taken_and_others_are_refused(
    stage: Stage, document: dict[str, Any], names: Mapping[str, str]
) -> None:
    for path, operation in operations(document, "get"):
        url = stage.url + filled(path, names)
        query = query_of(operation)
        for name, schema in query.items():
            answer = httpx.get(url, params={name: example(schema)}, headers=HEADERS)
            assert answer.status_code in {200, 404, 409}, (path, name, answer.text)
            if schema["type"] != "string" or {"enum", "pattern"} & set(schema):
                wrong = httpx.get(url, params={name: "!?"}, headers=HEADERS)
                assert wrong.status_code == 400, (path, name)
        if query:
            unknown = httpx.get(url, params={"colour": "red"}, headers=HEADERS)
            assert unknown.status_code == 400, path


def test_problems_are_what_it_says(stage: Stage, document: dict[str, Any]) -> None:
    schema = {"$ref": "#/components/schemas/Problem"}
    for path, _ in operations(document, "get"):
        if "{" in path:
            answer = httpx.get(stage.url + re.sub(r"\{\w+\}", "nobody", path), headers=HEADERS)
            assert (answer.status_code, answer.headers["content-type"]) == (404, PROBLEM_TYPE)
            assert faults(answer.json(), schema, document) == []
    for path, operation in operations(document, "post"):
        if "requestBody" in operation:
            answer = httpx.post(stage.url + path, json={"colour": "red"}, headers=HEADERS)
            assert answer.status_code == 400, path
            assert faults(answer.json(), schema, document) == []


@pytest.mark.parametrize(
    "body",
    [
        '{"ttl_s": 1' + "0" * 400 + "}", '{"ttl_s": 1e999}', '{"ttl_s": Infinity}',
        '{"ttl_s": NaN}', '{"labels": {"a": "\\ud800"}}', "[" * 100_000, b"\xff", "null", "",
    ],
    ids=range(9),
)  # fmt: skip
def test_what_no_answer_could_hold_is_refused(stage: Stage, body: str | bytes) -> None:
    answer = httpx.post(f"{stage.url}/v1/tokens", content=body, headers=HEADERS)
    assert answer.status_code == (400 if body else 201), answer.text


@dataclass(frozen=True)
class Sent:
    """One request, made by the document and beside it."""

    method: str
    path: str  # as the document spells it
    place: str  # filled
    query: dict[str, str]
    headers: dict[str, str]
    body: str | None  # JSON; None: there is none
    fits: bool  # the body is what the document says


def requests(document: dict[str, Any], names: Mapping[str, str]) -> st.SearchStrategy[Sent]:
    """Any request to any operation but those that read files of this machine."""
    every = [
        (path, method, operation)
        for path, ways in document["paths"].items()
        for method, operation in ways.items()
        if (path, method) not in LEFT_OUT
    ]
    return st.sampled_from(every).flatmap(lambda one: _request(*one, document, names))


def _request(
    path: str, method: str, operation: dict[str, Any], document: dict[str, Any],
    names: Mapping[str, str],
) -> st.SearchStrategy[Sent]:  # fmt: skip
    told = {p["name"]: p for p in operation.get("parameters", ()) if p["in"] != "path"}

    def part(where: str) -> st.SearchStrategy[dict[str, str]]:
        given = {
            n: (fitting(p["schema"], document) | STRANGE).map(as_sent)
            for n, p in told.items()
            if p["in"] == where
        }
        return st.fixed_dictionaries({}, optional=given)

    content = operation.get("requestBody", {}).get("content", {}).get("application/json")
    bodies: st.SearchStrategy[tuple[str | None, bool]] = st.just((None, True))
    if content is not None:
        schema = content["schema"]
        bodies = fitting(schema, document).map(lambda value: (json.dumps(value), True)) | beside(
            schema, document
        ).map(lambda value: (json.dumps(value), faults(value, schema, document) == []))
    place = st.sampled_from([filled(path, names), re.sub(r"\{\w+\}", "nobody", path)])
    made = st.tuples(place, part("query"), part("header"), bodies)
    return made.map(lambda m: Sent(method, path, m[0], m[1], m[2], *m[3]))


def as_sent(value: Any) -> str:
    """As a header or a query can hold it."""
    return re.sub(r"[^ -~]", "~", str(value)).strip()


def test_whatever_is_asked_is_answered_as_it_says(
    stage: Stage, document: dict[str, Any], names: Mapping[str, str]
) -> None:
    """By the document and beside it: what is answered is told there, and never an answer of 500."""

    @settings(
        max_examples=EXAMPLES, deadline=None, database=None, derandomize=True,
        suppress_health_check=list(HealthCheck),
    )  # fmt: skip
    @given(sent=requests(document, names))
    def check(sent: Sent) -> None:
        answer = http.request(
            sent.method, sent.place, params=sent.query, headers=sent.headers, content=sent.body
        )
        assert answer.status_code < 500, answer.text
        told = document["paths"][sent.path][sent.method]["responses"]
        content = told.get(str(answer.status_code), told["default"]).get("content", {})
        kind = answer.headers.get("content-type", "").partition(";")[0]
        assert kind in content or not content, answer.text
        if kind in {"application/json", PROBLEM_TYPE}:  # not lines of it
            assert faults(answer.json(), content[kind]["schema"], document) == []
        if not sent.fits:
            assert answer.status_code >= 400, "a body that is none was taken"

    with httpx.Client(base_url=stage.url, headers=HEADERS) as http:
        check()
