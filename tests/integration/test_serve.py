"""``fitment serve`` as a process: addresses, enrolment, a desired state, and a clean end."""

from __future__ import annotations

import json
import os
import queue
import signal
import subprocess
import sys
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import grpc
import httpx
import pytest

from controller.client import Client
from controller.gateway.broker import find_mosquitto
from controller.gateway.views import Addresses
from fitment.core import plain
from fitment.core.link import Downlink, Uplink
from fitment.core.telemetry import Presence
from fitment.v1 import gateway_pb2, gateway_pb2_grpc
from fitment.wire import codec, topics
from tests.integration.gateway_peers import Papers, key_and_csr, mqtt_client, wait_for

FITMENT = [sys.executable, "-m", "controller"]
ONLINE = Uplink(presence=Presence(online=True, boot_id="boot"))


@dataclass
class Running:
    """A controller's process."""

    data_dir: Path
    process: subprocess.Popen[bytes]
    addresses: Addresses

    def client(self) -> Client:
        return Client(self.addresses.rest, (self.data_dir / "operator.token").read_text())

    def stop(self) -> int:
        self.process.send_signal(signal.SIGTERM)
        return self.process.wait(20)


def start(data_dir: Path, root: Path, *more: str) -> Running:
    ports = [f"--{name}-port=0" for name in ("enroll", "gateway", "mqtt", "rest")]
    data_dir.mkdir(parents=True, exist_ok=True)
    with (data_dir / "log").open("wb") as log:
        process = subprocess.Popen(
            [*FITMENT, "serve", "--data-dir", str(data_dir), *ports, *more],
            stdout=log, stderr=log, cwd=root,
            env={**os.environ, "PYTHONPATH": f"{root}:{root / 'protos'}"},
        )  # fmt: skip
    path = data_dir / "controller.json"
    text = f'"pid": {process.pid}'
    assert wait_for(
        lambda: process.poll() is not None or (path.exists() and text in path.read_text()), 30
    )
    assert process.poll() is None, (data_dir / "log").read_text()
    addresses = plain.from_plain(Addresses, json.loads(path.read_text()))
    return Running(data_dir=data_dir, process=process, addresses=addresses)


@pytest.fixture(params=["grpc", "mqtt"])
def running(request: pytest.FixtureRequest, tmp_path: Path, root: Path) -> Iterator[Running]:
    found = find_mosquitto()
    if request.param == "mqtt" and found.program is None:
        pytest.skip(found.reason)
    made = start(tmp_path / "data", root, "--link", request.param)
    yield made
    if made.process.poll() is None:
        made.stop()


def enrol(running: Running, folder: Path, name: str) -> gateway_pb2.AdmitResponse:
    """What an agent does on first contact, with raw parts."""
    with running.client() as client:
        token = client.create_token(60.0, {"site": "lab"})
    assert token.enroll == running.addresses.enroll
    key, csr = key_and_csr(name)
    ca = (running.data_dir / "trust" / "ca.crt").read_bytes()
    credentials = grpc.ssl_channel_credentials(root_certificates=ca)
    with grpc.secure_channel(token.enroll, credentials) as channel:
        stub = gateway_pb2_grpc.EnrollStub(channel)
        request = gateway_pb2.AdmitRequest(token=token.text, device=name, csr_pem=csr)
        answer = stub.Admit(request, timeout=10)
        with pytest.raises(grpc.RpcError) as again:
            stub.Admit(request, timeout=10)
    assert again.value.code() is grpc.StatusCode.PERMISSION_DENIED
    (folder / f"{name}.key").write_bytes(key)
    (folder / f"{name}.crt").write_bytes(answer.certificate_pem)
    (folder / "ca.crt").write_bytes(answer.ca_pem)
    return answer


def generation_over_session(folder: Path, name: str, address: str) -> int:
    outgoing: queue.Queue[Any] = queue.Queue()
    request: Any = gateway_pb2.SessionRequest()
    request.uplink.CopyFrom(codec.to_message(ONLINE))
    outgoing.put(request)
    with Papers.channel_of(folder, name, address) as channel:
        call = gateway_pb2_grpc.GatewayStub(channel).Session(iter(outgoing.get, None), timeout=20)
        first = codec.from_message(Downlink, next(call).downlink)
        outgoing.put(None)
    assert first.desired is not None
    return first.desired.generation


def generation_over_mqtt(folder: Path, name: str, address: str) -> int:
    host, port = address.split(":")
    received: queue.Queue[Downlink] = queue.Queue()
    client = mqtt_client(folder, name)
    client.on_message = lambda _c, _d, m: received.put(codec.decode(Downlink, bytes(m.payload)))
    client.on_connect = lambda c, *_: c.subscribe(topics.down_filter(name), qos=1)
    client.on_subscribe = lambda c, *_: c.publish(
        topics.topic(name, topics.PRESENCE), codec.encode(ONLINE), qos=1, retain=True
    )
    client.connect_async(host, int(port))
    client.loop_start()
    first = received.get(timeout=20)
    client.disconnect()
    client.loop_stop()
    client.on_message = client.on_connect = client.on_subscribe = None
    assert first.desired is not None
    return first.desired.generation


def children(pid: int) -> list[int]:
    path = Path(f"/proc/{pid}/task/{pid}/children")
    listed = [int(p) for t in path.parent.parent.glob("*/children") for p in t.read_text().split()]
    return sorted(set(listed))


def test_a_device_enrols_and_is_told_what_is_wanted(running: Running, tmp_path: Path) -> None:
    answer = enrol(running, tmp_path, "device-a")
    assert answer.device == "device-a"
    assert answer.gateway_address == running.addresses.gateway
    assert answer.mqtt_address == running.addresses.mqtt
    assert len(answer.director_public_key) == 32
    assert json.loads(answer.tuf_root)["signed"]["_type"] == "root"
    if running.addresses.link == "grpc":
        assert answer.mqtt_address == ""
        generation = generation_over_session(tmp_path, "device-a", answer.gateway_address)
    else:
        generation = generation_over_mqtt(tmp_path, "device-a", answer.mqtt_address)
    assert generation >= 0
    with running.client() as client:
        device = client.device("device-a")
        assert device.labels == {"site": "lab"}
        assert device.last_seen > 0
        assert client.status().devices == 1
        actions = [entry.action for entry in client.audit()]
    assert {"token_created", "admitted"} <= set(actions)
    started = children(running.process.pid)
    assert bool(started) == (running.addresses.link == "mqtt")
    assert running.stop() == 0
    assert not (running.data_dir / "controller.json").exists()
    assert wait_for(lambda: not any(Path(f"/proc/{pid}").exists() for pid in started))
    log = (running.data_dir / "log").read_text()
    assert "Traceback" not in log, log


def test_a_revoked_device_is_out_and_a_new_token_lets_it_in_again(
    running: Running, tmp_path: Path
) -> None:
    answer = enrol(running, tmp_path, "device-a")
    over_session = running.addresses.link == "grpc"
    generation = generation_over_session if over_session else generation_over_mqtt
    address = answer.gateway_address if over_session else answer.mqtt_address
    generation(tmp_path, "device-a", address)
    with running.client() as client:
        assert client.revoke("device-a").revoked
    with Papers.channel_of(tmp_path, "device-a", answer.gateway_address) as channel:
        stub = gateway_pb2_grpc.GatewayStub(channel)
        with pytest.raises(grpc.RpcError) as refused:
            stub.FetchMetadata(gateway_pb2.FetchMetadataRequest(path="timestamp.json"), timeout=10)
    assert refused.value.code() is grpc.StatusCode.PERMISSION_DENIED
    enrol(running, tmp_path, "device-a")
    assert generation(tmp_path, "device-a", address) >= 0


def test_one_controller_a_data_directory(tmp_path: Path, root: Path) -> None:
    first = start(tmp_path / "data", root, "--link", "grpc")
    command = [*FITMENT, "serve", "--data-dir", str(first.data_dir), "--link", "grpc"]
    second = subprocess.run(command, cwd=root, capture_output=True, text=True, check=False)
    assert second.returncode == 2
    assert "another controller uses" in second.stderr
    assert "Traceback" not in second.stderr
    # What was made is found again, and a killed controller is no obstacle.
    token = (first.data_dir / "operator.token").read_text()
    first.process.kill()
    first.process.wait()
    assert (first.data_dir / "controller.json").exists()
    again = start(first.data_dir, root, "--link", "grpc")
    assert (first.data_dir / "operator.token").read_text() == token
    assert again.stop() == 0


def test_the_private_is_private_and_the_command_line_gets_in(tmp_path: Path, root: Path) -> None:
    running = start(tmp_path / "data", root, "--link", "grpc")
    for name in ("operator.token", "controller.json"):
        assert (running.data_dir / name).stat().st_mode & 0o077 == 0
    assert (running.data_dir / "offline").stat().st_mode & 0o077 == 0
    assert httpx.get(f"{running.addresses.rest}/v1/devices").status_code == 401
    assert httpx.get(f"{running.addresses.rest}/healthz").json() == {"status": "ok"}
    _the_command_line_speaks_to_it(running, root)
    assert running.stop() == 0


def _the_command_line_speaks_to_it(running: Running, root: Path) -> None:
    base = ["--data-dir", str(running.data_dir)]

    def run(*command: str) -> subprocess.CompletedProcess[str]:
        line = [*FITMENT, *command]
        return subprocess.run(line, cwd=root, capture_output=True, text=True, check=False)

    status = run("status", *base, "--json")
    assert json.loads(status.stdout)["addresses"]["pid"] == running.process.pid
    token = run("token", "create", "--ttl", "5m", "--label", "site=lab", *base)
    assert token.stdout.startswith("fit1.")
    missing = run("device", "show", "nobody", *base)
    assert (missing.returncode, missing.stdout) == (2, "")
    assert missing.stderr == "fitment: no device 'nobody'; see: fitment device list\n"
    assert "No device is enrolled" in run("device", "list", *base).stdout
