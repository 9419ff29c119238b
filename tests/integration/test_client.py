"""The Python client as a notebook uses it, against a real controller: retries, waits, exports."""

from __future__ import annotations

import contextlib
import csv
import json
import math
import socket
import threading
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from urllib.parse import urlsplit

import pytest

from controller.calls import Broken
from controller.client import Client, Unreachable
from controller.domain import fleet
from controller.errors import Temporary, UserError
from controller.trust import Trust
from fitment.core.telemetry import Column, TelemetryBatch
from tests.integration.gateway_stage import NOW, TOKEN, Stage, staged
from tests.integration.test_gateway_http import MODEL


@pytest.fixture(scope="module")
def stage(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Stage]:
    folder = tmp_path_factory.mktemp("stage")
    with staged(Trust.create(folder / "trust", folder / "offline"), folder) as made:
        for name in ("device-a", "device-b"):
            made.join(name)
        yield made


@dataclass
class Cutter:
    """A relay that hands requests on and, so often, hangs up instead of handing the answer back."""

    target: str
    cuts: int
    asked: list[str] = field(default_factory=list)

    def __enter__(self) -> str:
        self._listener = socket.create_server(("127.0.0.1", 0))
        threading.Thread(target=self._accept, daemon=True).start()
        return f"http://127.0.0.1:{self._listener.getsockname()[1]}"

    def __exit__(self, *_: object) -> None:
        self._listener.close()

    def _accept(self) -> None:
        while True:
            try:
                caller, _ = self._listener.accept()
            except OSError:
                return
            threading.Thread(target=self._relay, args=(caller,), daemon=True).start()

    def _relay(self, caller: socket.socket) -> None:
        url = urlsplit(self.target)
        reset = contextlib.suppress(OSError)  # either side may hang up at any moment
        with reset, caller, socket.create_connection((url.hostname or "", url.port or 0)) as there:
            threading.Thread(target=self._hand_on, args=(caller, there), daemon=True).start()
            while answer := there.recv(65536):
                if self.cuts > 0:
                    self.cuts -= 1
                    caller.shutdown(socket.SHUT_RDWR)
                    return
                caller.sendall(answer)

    def _hand_on(self, caller: socket.socket, there: socket.socket) -> None:
        with contextlib.suppress(OSError):
            while part := caller.recv(65536):
                self.asked.append(part.split(b"\r\n", 1)[0].decode(errors="replace"))
                there.sendall(part)


def test_what_is_made_is_made_once_though_answers_are_lost(stage: Stage) -> None:
    stage.engine.call(lambda: stage.controller.register_model(MODEL)).result(5)
    relay = Cutter(target=stage.url, cuts=2)
    with relay as url, Client(url, TOKEN) as client:
        (job,) = client.start_fits("m", device="device-a", effort="quick")
        assert sum(line.startswith("POST /v1/fits") for line in relay.asked) == 3
        assert [found.id for found in client.fits()] == [job.id]
        relay.cuts = 9
        with pytest.raises(Broken):
            client.status()
        relay.cuts = 1
        with pytest.raises(Broken):
            client.change_rollout("none", "pause")  # no one knows if it was done: not again
        relay.cuts = 0
    assert client.server == url
    with pytest.raises(Unreachable):
        Client("http://127.0.0.1:1", TOKEN).status()


def test_it_waits_and_says_what_it_sees(stage: Stage) -> None:
    with Client(stage.url, TOKEN) as client:
        stage.engine.call(lambda: stage.controller.register_model(MODEL)).result(5)
        (job,) = client.start_fits("m", device="device-a")
        stage.until(lambda: client.fit(job.id).status is fleet.JobStatus.DONE)
        assert client.wait_fit(job.id).status is fleet.JobStatus.DONE
        release = client.approve_release(client.create_release("m").id)
        made = client.create_rollout(release.id, devices=["device-a"], waves=[1.0])
        with pytest.raises(Temporary, match=r"is not over after 0\.1 s"):
            client.wait_rollout(made.rollout.id, timeout_s=0.1, every_s=0.05)
        seen: list[fleet.RolloutState] = []
        stage.until(lambda: not stage.controller.store.deployments.find(outcome=None)
                    and bool(stage.controller.store.deployments.find()))  # fmt: skip
        view = client.wait_rollout(
            made.rollout.id, every_s=0.05, timeout_s=60.0,
            told=lambda look: seen.append(look.rollout.state),
        )  # fmt: skip
        assert view.rollout.state is fleet.RolloutState.COMPLETED
        assert seen[-1] is fleet.RolloutState.COMPLETED
        assert [d.device for d in client.each_deployment(rollout=made.rollout.id)] == ["device-a"]
        assert [d.name for d in client.each_device()] == ["device-a", "device-b"]


def test_it_finds_a_controller_by_itself(
    stage: Stage, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    for name in ("FITMENT_SERVER", "FITMENT_TOKEN", "FITMENT_DATA_DIR"):
        monkeypatch.delenv(name, raising=False)
    (tmp_path / "controller.json").write_text(json.dumps({"rest": stage.url}))
    (tmp_path / "operator.token").write_text(f"{TOKEN}\n")
    with Client.of(data_dir=tmp_path) as client:
        assert client.whoami().name == "local"
    monkeypatch.setenv("FITMENT_SERVER", stage.url)
    monkeypatch.setenv("FITMENT_TOKEN", "wrong")
    with Client.of() as client, pytest.raises(UserError, match="does not accept"):
        client.status()
    monkeypatch.delenv("FITMENT_TOKEN")
    with pytest.raises(UserError, match="no operator token"):
        Client.of(stage.url, data_dir=tmp_path / "nothing")


def sent(stage: Stage, device: str, sequence: int, at: float, **columns: float) -> None:
    batch = TelemetryBatch(
        outbox="x", sequence=sequence, first_available=1, boot_id="boot", monotonic_ns=(0, 1),
        wall_unix_ns=(int(at * 1e9), int(at * 1e9) + 1_500_000_000),
        columns={name: Column(values=(value, math.nan)) for name, value in columns.items()},
        tags={"slot": "m", "variant": "sha256:v", "rung": "1"},
    )  # fmt: skip
    stage.engine.call(lambda: stage.controller.store.telemetry.ingest(device, batch)).result(5)


@pytest.fixture(scope="module")
def told(stage: Stage) -> Stage:
    """Samples of three hours, two devices, with different sensors."""
    for hour in range(3):
        sent(stage, "device-a", hour + 1, NOW + 7200 * hour, temperature_c=40.0 + hour)
    sent(stage, "device-b", 1, NOW + 60, energy_mj=2.5)
    return stage


COLUMNS = ("temperature_c", "energy_mj")


def test_telemetry_comes_as_csv_and_as_json_lines(told: Stage, tmp_path: Path) -> None:
    with Client(told.url, TOKEN) as client:
        client.export(tmp_path / "all.csv", since=NOW - 1, columns=COLUMNS)
        client.export(tmp_path / "some.jsonl", since=NOW + 1, until=NOW + 14000, device="device-a")
        with pytest.raises(UserError, match="'format' is one of jsonl, csv, parquet"):
            client.export(tmp_path / "all.xlsx")
        with pytest.raises(UserError, match="each once"):
            client.export(tmp_path / "all.csv", columns=("time",))
    rows = list(csv.DictReader((tmp_path / "all.csv").read_text().splitlines()))
    assert [(r["device"], r["temperature_c"], r["energy_mj"]) for r in rows] == [
        ("device-a", "40.0", ""), ("device-a", "", ""), ("device-a", "41.0", ""),
        ("device-a", "", ""), ("device-a", "42.0", ""), ("device-a", "", ""),
        ("device-b", "", "2.5"), ("device-b", "", ""),
    ]  # fmt: skip
    assert (rows[0]["time"], rows[0]["slot"]) == ("2027-01-15T08:00:00.000000Z", "m")
    lines = [json.loads(line) for line in (tmp_path / "some.jsonl").read_text().splitlines()]
    assert [line["temperature_c"] for line in lines] == [None, 41.0, None]
    assert lines[0]["time"] == "2027-01-15T08:00:01.500000Z"
    assert "energy_mj" not in lines[0], "a device's own columns alone were asked for"
    assert sorted(path.name for path in tmp_path.iterdir()) == ["all.csv", "some.jsonl"]


def test_telemetry_comes_as_parquet_with_types_and_nulls(told: Stage, tmp_path: Path) -> None:
    parquet = pytest.importorskip("pyarrow.parquet")
    path = tmp_path / "all.parquet"
    with Client(told.url, TOKEN) as client:
        assert client.export(path, since=NOW - 1, columns=COLUMNS) == path.stat().st_size
    table = parquet.read_table(path)
    types = {name: str(table.schema.field(name).type) for name in table.column_names}
    assert types["time"] == "timestamp[us, tz=UTC]"
    assert (types["temperature_c"], types["rung"], types["device"]) == ("double", "int32", "string")
    assert (
        table.column("temperature_c").to_pylist()
        == [40.0, None, 41.0, None, 42.0, None] + [None] * 2
    )
    assert table.column("energy_mj").null_count == 7
    assert table.column("release").null_count == 8
    assert table.column("rung").to_pylist() == [1] * 8
