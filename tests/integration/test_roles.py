"""Roles over REST: what each token opens, what it does not, and who the audit log says it was."""

from __future__ import annotations

import asyncio
from collections.abc import Iterator, Mapping
from dataclasses import replace
from typing import Any

import httpx
import pytest

from controller.cli import run
from controller.client import Client
from controller.dashboard.desk import Desk
from controller.domain.roles import Identity, Role, covers
from controller.errors import Conflict, Forbidden, NotFound, UserError
from controller.gateway.http import access
from controller.gateway.http.api import Api
from controller.gateway.http.document import ROLE_KEY
from controller.trust import Trust
from tests.integration.gateway_stage import ADDRESSES, METRICS_TOKEN, NOW, TOKEN, Stage, staged


@pytest.fixture(scope="module")
def stage(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Stage]:
    folder = tmp_path_factory.mktemp("stage")
    with staged(Trust.create(folder / "trust", folder / "offline"), folder) as made:
        made.join("device-a")
        yield made


@pytest.fixture(scope="module")
def admin(stage: Stage) -> Iterator[Client]:
    with Client(stage.url, TOKEN) as client:
        yield client


@pytest.fixture(scope="module")
def tokens(admin: Client) -> Mapping[Role, str]:
    return {role: admin.create_operator(f"the-{role.value}", role).text for role in Role}


def ask(stage: Stage, method: str, path: str, token: str, **more: Any) -> httpx.Response:
    headers = {"authorization": f"Bearer {token}"}
    return httpx.request(method, stage.url + path, headers=headers, **more)


def filled(path: str) -> str:
    """A path to nothing: where a role lets pass, there is nothing to be changed."""
    return path.replace("{name}", "nobody").replace("{key}", "none").replace("{act}", "pause")


@pytest.mark.parametrize("call", access.ACCESS, ids="{0[0]} {0[1]}".format)
@pytest.mark.parametrize("role", Role)
def test_every_call_with_every_role(
    stage: Stage, tokens: Mapping[Role, str], call: tuple[str, str], role: Role
) -> None:
    (method, path), needed = call, access.ACCESS[call]
    body = {"name": "!"} if path == "/v1/operators" else {"path": "x", "ttl_s": -1}
    more = {"json": body} if method == "POST" else {}
    answer = ask(stage, method, filled(path), tokens[role], **more)
    if covers(role, needed):
        assert answer.status_code not in (401, 403), answer.text
        return
    problem = answer.json()
    assert (answer.status_code, problem["code"]) == (403, "forbidden")
    assert answer.headers["content-type"] == "application/problem+json"
    assert f"the role '{needed.value}'" in problem["detail"]
    assert f"'the-{role.value}' has '{role.value}'" in problem["detail"]


def test_a_refused_call_changes_nothing(stage: Stage, tokens: Mapping[Role, str]) -> None:
    assert ask(stage, "POST", "/v1/tokens", tokens[Role.VIEWER]).status_code == 403
    refused = ask(stage, "POST", "/v1/devices/device-a/revoke", tokens[Role.OPERATOR])
    assert refused.status_code == 403
    device = stage.engine.call(lambda: stage.controller.store.devices.get("device-a")).result(5)
    assert device is not None
    assert not device.revoked
    assert stage.engine.call(stage.controller.store.tokens.find).result(5) == ()


def test_the_document_says_which_role_each_call_needs(stage: Stage, admin: Client) -> None:
    document = ask(stage, "GET", "/v1/openapi.json", TOKEN).json()
    said = {
        (method.upper(), path): operation.get(ROLE_KEY)
        for path, operations in document["paths"].items()
        for method, operation in operations.items()
    }
    assert said.pop(("GET", "/healthz")) is None
    assert said == {call: role.value for call, role in access.ACCESS.items()}
    refused = document["paths"]["/v1/tokens"]["post"]["responses"]["403"]
    assert "application/problem+json" in refused["content"]


def test_the_audit_log_says_who_it_was(stage: Stage, tokens: Mapping[Role, str]) -> None:
    with Client(stage.url, tokens[Role.OPERATOR]) as operator:
        assert operator.whoami().name == "the-operator"
        operator.create_token(labels={"by": "operator"})
        with pytest.raises(Forbidden, match="needs the role 'admin'"):
            operator.revoke("device-a")
    with Client(stage.url, TOKEN) as local:
        assert (local.whoami().name, local.whoami().role) == ("local", Role.ADMIN)
        local.create_token()
        said = [entry.actor for entry in local.audit(action="token_created")]
        made = [entry.actor for entry in local.audit(action="operator_created")]
    assert said == ["operator:the-operator", "operator:local"]
    assert set(made) == {"operator:local"}
    matched = [e.actor for e in _audit(stage) if e.action == "profile_matched"]
    assert matched == ["device:device-a"]


def _audit(stage: Stage) -> Any:
    return stage.engine.call(stage.controller.store.audit.find).result(5)


def test_a_token_ends_at_once_and_its_name_is_not_given_again(stage: Stage, admin: Client) -> None:
    made = admin.create_operator("ann@site", Role.VIEWER)
    with Client(stage.url, made.text) as ann:
        ann.status()
        assert admin.revoke_operator("ann@site").revoked_at == NOW
        with pytest.raises(UserError, match="does not accept this operator token"):
            ann.status()
    with pytest.raises(Conflict, match="not used twice"):
        admin.create_operator("ann@site", Role.ADMIN)


def test_a_token_with_an_end(stage: Stage, admin: Client) -> None:
    made = admin.create_operator("for-an-hour", Role.VIEWER, 3600.0)
    assert made.operator.expires_at == NOW + 3600.0
    assert ask(stage, "GET", "/v1/status", made.text).status_code == 200
    known = stage.controller.store.operators

    def age() -> None:
        found = known.get("for-an-hour")
        assert found is not None
        known.put(replace(found, expires_at=NOW))

    stage.engine.call(age).result(5)
    assert ask(stage, "GET", "/v1/status", made.text).status_code == 401


def test_only_the_hash_is_kept_and_never_told(stage: Stage, admin: Client) -> None:
    made = admin.create_operator("secret", Role.VIEWER)
    record = stage.engine.call(lambda: stage.controller.store.operators.get("secret")).result(5)
    assert made.text not in str(record)
    answer = ask(stage, "GET", "/v1/operators", TOKEN)
    assert "sha256:" not in answer.text
    assert made.text not in answer.text
    assert any(found["name"] == "secret" for found in answer.json())


@pytest.mark.parametrize(
    "body",
    [
        {"name": "local", "role": "admin"}, {"name": "", "role": "admin"},
        {"name": "a b", "role": "viewer"}, {"name": "x", "role": "owner"}, {"name": "x"},
        {"name": "x", "role": "viewer", "ttl_s": -1},
    ],
)  # fmt: skip
def test_operators_that_cannot_be(stage: Stage, body: dict[str, Any]) -> None:
    answer = ask(stage, "POST", "/v1/operators", TOKEN, json=body)
    assert (answer.status_code, answer.json()["code"]) == (400, "invalid")


def test_a_key_is_its_askers_own(stage: Stage, tokens: Mapping[Role, str]) -> None:
    headers = {"idempotency-key": "one"}
    url = f"{stage.url}/v1/tokens"
    for token, status in ((tokens[Role.OPERATOR], 201), (tokens[Role.ADMIN], 409)):
        sent = {**headers, "authorization": f"Bearer {token}"}
        assert httpx.post(url, headers=sent).status_code == status


def test_prometheus_token_opens_its_page_alone(stage: Stage, tokens: Mapping[Role, str]) -> None:
    assert ask(stage, "GET", "/metrics", METRICS_TOKEN).status_code == 200
    assert ask(stage, "GET", "/metrics", tokens[Role.VIEWER]).status_code == 200
    assert ask(stage, "GET", "/v1/whoami", METRICS_TOKEN).status_code == 401


def test_the_command_line(
    stage: Stage, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("FITMENT_SERVER", stage.url)
    monkeypatch.setenv("FITMENT_TOKEN", TOKEN)
    assert run(["operator", "create", "bob", "--role", "viewer", "--ttl", "8h"]) == 0
    text = capsys.readouterr().out.splitlines()[0]
    assert run(["operator", "list"]) == 0
    assert "bob" in capsys.readouterr().out
    monkeypatch.setenv("FITMENT_TOKEN", text)
    assert run(["operator", "whoami"]) == 0
    assert capsys.readouterr().out == "bob: viewer\n"
    assert run(["device", "revoke", "device-a"]) == 1
    assert "needs the role 'admin', and 'bob' has 'viewer'" in capsys.readouterr().err
    monkeypatch.setenv("FITMENT_TOKEN", TOKEN)
    assert run(["operator", "revoke", "bob"]) == 0


def test_the_dashboards_desk_asks_for_the_role_itself(stage: Stage) -> None:
    """A button that is not drawn is no lock: what it would do is refused, too."""
    api = Api(
        controller=stage.controller, engine=stage.engine, addresses=ADDRESSES, link="",
        data_dir=stage.folder, shut_out=lambda: None,
    )  # fmt: skip
    desk = Desk(api)
    with pytest.raises(Forbidden, match="needs the role 'operator'"):
        asyncio.run(desk.change_rollout(Identity(name="v", role=Role.VIEWER), "none", "pause"))
    with pytest.raises(NotFound):
        asyncio.run(desk.change_rollout(Identity(name="o", role=Role.OPERATOR), "none", "pause"))
