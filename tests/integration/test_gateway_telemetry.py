"""Telemetry over REST and on the command line: raw since a moment, and rolled up."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path

import httpx
import pytest

from controller import cli
from controller.client import Client
from controller.errors import UserError
from controller.gateway.http import telemetry
from controller.trust import Trust
from fitment.core.link import Uplink
from fitment.core.telemetry import Column, TelemetryBatch
from tests.integration.gateway_stage import NOW, TOKEN, Stage, staged


@pytest.fixture(scope="module")
def trust(tmp_path_factory: pytest.TempPathFactory) -> Trust:
    folder = tmp_path_factory.mktemp("trust")
    return Trust.create(folder / "trust", folder / "offline")


@pytest.fixture
def stage(trust: Trust, tmp_path: Path) -> Iterator[Stage]:
    with staged(trust, tmp_path) as made:
        yield made


@pytest.fixture
def client(stage: Stage) -> Iterator[Client]:
    with Client(stage.url, TOKEN) as made:
        yield made


def send(stage: Stage, name: str, values: tuple[float, float]) -> None:
    """Two hours ago, and now."""
    batch = TelemetryBatch(
        outbox="o", sequence=1, first_available=1, boot_id="b", monotonic_ns=(0, 7200 * 10**9),
        wall_unix_ns=(int(NOW - 7200) * 10**9, int(NOW) * 10**9),
        columns={"x_ms": Column(values=values)}, tags={"slot": "m", "variant": f"v-{name}"},
    )  # fmt: skip
    controller = stage.controller
    stage.engine.call(lambda: controller.on_uplink(name, Uplink(telemetry=batch))).result(5)
    stage.engine.call(lambda: controller.store.telemetry.roll_up("", 99)).result(5)


def test_a_part_of_the_fleet_over_time(stage: Stage, client: Client) -> None:
    for name, values in (("device-a", (1.0, 3.0)), ("device-b", (8.0, 8.0))):
        stage.join(name)
        send(stage, name, values)
    hours = client.series("x_ms")
    assert [(row.start_s, row.count, row.min, row.max) for row in hours.rows] == [
        (1_799_992_800, 2, 1.0, 8.0), (1_800_000_000, 2, 3.0, 8.0),
    ]  # fmt: skip
    by = client.series("x_ms", "day", by="variant", profile=client.device("device-a").profile)
    assert {(r.name, r.count, r.mean) for r in by.rows} == {
        ("v-device-a", 2, 2.0), ("v-device-b", 2, 8.0),
    }  # fmt: skip
    assert client.series("x_ms", device="device-a", since=NOW - 60).rows[0].p50 == 3.0
    assert client.series("x_ms", release="none").rows == ()
    assert len(client.telemetry("device-a", "x_ms").values) == 2
    assert len(client.telemetry("device-a", "x_ms", since=NOW - 60).values) == 1


@pytest.mark.parametrize(
    ("query", "words"),
    [
        ("period=week", "hour, day"),
        ("by=colour", "profile, variant"),
        ("since=nan", "seconds"),
        ("since=yesterday", "seconds since 1970"),
        ("colour=red", "unknown filter"),
    ],
)
def test_what_cannot_be_asked_is_named(stage: Stage, query: str, words: str) -> None:
    headers = {"authorization": f"Bearer {TOKEN}"}
    refused = httpx.get(f"{stage.url}/v1/telemetry?{query}", headers=headers)
    assert refused.status_code == 400
    assert words in refused.json()["detail"]


def test_an_answer_that_would_take_long_is_refused(
    stage: Stage, client: Client, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(telemetry, "ROLLUPS_MAX", 1)
    stage.join("device-a")
    send(stage, "device-a", (1.0, 1.0))
    with pytest.raises(UserError, match="shorter time"):
        client.series("x_ms")


def test_the_command_line_shows_it(
    stage: Stage, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    stage.join("device-b")
    send(stage, "device-b", (8.0, 8.0))
    monkeypatch.setenv("FITMENT_SERVER", stage.url)
    monkeypatch.setenv("FITMENT_TOKEN", TOKEN)
    monkeypatch.setattr("time.time", lambda: NOW + 1)  # the stage's controller lives in 2027
    command = ["device", "telemetry", "device-b", "x_ms"]
    assert cli.run([*command, "--period", "hour", "--since", "3h", "--json"]) == 0
    assert [row["p95"] for row in json.loads(capsys.readouterr().out)["rows"]] == [8.0, 8.0]
    assert cli.run([*command, "--period", "hour"]) == 0
    assert "hour from" in capsys.readouterr().out
    assert cli.run([*command, "--since", "30m", "--json"]) == 0
    assert json.loads(capsys.readouterr().out)["values"] == [[NOW, 8.0]]
    assert cli.run([*command, "--since", "soon"]) == cli.USER_ERROR
    command[2] = "nobody"
    assert cli.run([*command, "--period", "day"]) == cli.USER_ERROR
