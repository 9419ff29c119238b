"""Pages, tags and keys over REST."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import httpx
import pytest

from controller.client import Client
from controller.domain import fleet
from controller.gateway.http import answers
from controller.trust import Trust
from tests.integration.gateway_stage import TOKEN, Stage, staged

MODEL = fleet.ModelVersion(
    id="model-1", name="m", version="1", digest="sha256:m", snapshot="/none", registered_at=1.0
)


@pytest.fixture(scope="module")
def trust(tmp_path_factory: pytest.TempPathFactory) -> Trust:
    folder = tmp_path_factory.mktemp("trust")
    return Trust.create(folder / "trust", folder / "offline")


@pytest.fixture
def stage(trust: Trust, tmp_path: Path) -> Iterator[Stage]:
    with staged(trust, tmp_path) as made:
        yield made


@pytest.fixture
def http(stage: Stage) -> Iterator[httpx.Client]:
    headers = {"authorization": f"Bearer {TOKEN}"}
    with httpx.Client(base_url=stage.url, headers=headers) as made:
        yield made


def enrolled(stage: Stage, *names: str) -> None:
    def act() -> None:
        for name in names:
            stage.controller.store.devices.add(fleet.Device(name=name))

    stage.engine.call(act).result(5)


def test_pages_lead_on_and_stay_right_while_devices_come(
    stage: Stage, http: httpx.Client, monkeypatch: pytest.MonkeyPatch
) -> None:
    enrolled(stage, "c", "a", "d")
    first = http.get("/v1/devices?limit=2")
    assert [device["name"] for device in first.json()] == ["c", "a"]
    enrolled(stage, "b")
    rest = http.get(first.links["next"]["url"])
    assert [device["name"] for device in rest.json()] == ["d", "b"]
    assert "next" not in rest.links
    usual = {**answers.page.__kwdefaults__, "usual": 1}
    monkeypatch.setattr(answers.page, "__kwdefaults__", usual)
    with Client(stage.url, TOKEN) as client:
        assert [device.name for device in client.devices()] == ["c", "a", "d", "b"]
    for query in ("cursor=0", "cursor=x", "cursor=-1", "limit=0", "limit=1001"):
        assert http.get(f"/v1/devices?{query}").status_code == 400


def test_the_audit_begins_with_the_newest_and_leads_back(stage: Stage, http: httpx.Client) -> None:
    for number in range(5):
        stage.engine.call(
            lambda number=number: stage.controller.context.record("o", "act", f"s{number}")
        ).result(5)
    pages, url = [], "/v1/audit?limit=2&action=act"
    while url:
        answer = http.get(url)
        pages.append([entry["subject"] for entry in answer.json()])
        url = answer.links.get("next", {}).get("url", "")
    assert pages == [["s3", "s4"], ["s1", "s2"], ["s0"]]


def test_a_record_that_is_known_is_not_sent_again(stage: Stage, http: httpx.Client) -> None:
    enrolled(stage, "a")
    answer = http.get("/v1/devices/a")
    tag = answer.headers["etag"]
    for asked in (tag, f"W/{tag}", f'"other", {tag}', "*"):
        same = http.get("/v1/devices/a", headers={"if-none-match": asked})
        assert (same.status_code, same.content, same.headers["etag"]) == (304, b"", tag)
    store = stage.controller.store
    changed = replace(fleet.Device(name="a"), online=True)
    stage.engine.call(lambda: store.devices.put(changed)).result(5)
    other = http.get("/v1/devices/a", headers={"if-none-match": tag})
    assert (other.status_code, other.json()["online"]) == (200, True)
    assert other.headers["etag"] != tag
    nobody = http.get("/v1/devices/nobody", headers={"if-none-match": "*"})
    assert nobody.status_code == 404


def test_a_key_makes_one_thing_once(stage: Stage, http: httpx.Client) -> None:
    stage.join("device-a")
    stage.engine.call(lambda: stage.controller.register_model(MODEL)).result(5)

    def post(key: str, **body: Any) -> httpx.Response:
        return http.post("/v1/fits", json=body, headers={"idempotency-key": key})

    refused = post("k1", model="nothing")
    assert refused.status_code == 404  # nothing was made, so the key is still free
    first, again = post("k1", model="m"), post("k1", model="m")
    assert (first.status_code, again.status_code) == (201, 201)
    assert first.json() == again.json()
    assert "idempotency-replayed" not in first.headers
    assert again.headers["idempotency-replayed"] == "true"
    assert post("k1", model="m", effort="quick").status_code == 409
    assert post("no spaces", model="m").status_code == 400
    assert len(stage.controller.store.jobs.find()) == 1


def test_a_secret_is_not_kept_to_be_told_again(stage: Stage, http: httpx.Client) -> None:
    headers = {"idempotency-key": "k"}
    first = http.post("/v1/tokens", headers=headers)
    assert first.status_code == 201
    again = http.post("/v1/tokens", headers=headers)
    assert (again.status_code, again.json()["code"]) == (409, "conflict")
    store = stage.controller.store
    assert len(store.tokens.find()) == 1
    assert first.json()["text"] not in str(store.answers.find())


def test_keys_are_forgotten_after_a_day(
    stage: Stage, http: httpx.Client, monkeypatch: pytest.MonkeyPatch
) -> None:
    for key in ("k1", "k2"):
        assert http.post("/v1/tokens", headers={"idempotency-key": key}).status_code == 201
    monkeypatch.setattr(answers, "KEPT_S", -1.0)
    assert http.post("/v1/tokens", headers={"idempotency-key": "k1"}).status_code == 201
    assert [answer.key for answer in stage.controller.store.answers.find()] == ["k1"]


def test_deployments_are_listed_by_what_they_are_of(stage: Stage, http: httpx.Client) -> None:
    stage.join("device-a")
    stage.engine.call(lambda: stage.controller.register_model(MODEL)).result(5)
    with Client(stage.url, TOKEN) as client:
        (job,) = client.start_fits("m")
        stage.until(lambda: client.fit(job.id).status is fleet.JobStatus.DONE)
        release = client.create_release("m")
        client.approve_release(release.id)
        key = client.create_rollout(release.id, waves=[1.0]).rollout.id
        stage.until(lambda: client.rollout(key).rollout.state is fleet.RolloutState.COMPLETED)
        (found,) = client.deployments(rollout=key, device="device-a", outcome="committed")
        assert found == client.rollout(key).deployments[0]
        assert client.deployments(outcome="open") == client.deployments(release="other") == ()
    assert http.get("/v1/deployments?outcome=fine").status_code == 400
