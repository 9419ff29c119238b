"""The whole loop with real processes: enrol, probe, fit, roll out, change the device, fit again."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest

from controller.gateway.broker import find_mosquitto

pytestmark = pytest.mark.e2e
PATIENCE_S = 120.0


def environment(data: Path) -> dict[str, str]:
    ports = {f"FITMENT_{name}_PORT": "0" for name in ("ENROLL", "GATEWAY", "MQTT", "REST")}
    return {**os.environ, **ports, "FITMENT_DATA_DIR": str(data), "OMP_NUM_THREADS": "1"}


@contextmanager
def running(command: list[str], log: Path, env: dict[str, str]) -> Iterator[None]:
    with log.open("wb") as out:
        process = subprocess.Popen(
            [sys.executable, "-m", *command], stdout=out, stderr=out, env=env,
            stdin=subprocess.DEVNULL,
        )  # fmt: skip
    try:
        yield
    finally:
        process.terminate()
        try:
            process.wait(20)
        except subprocess.TimeoutExpired:
            process.kill()
            process.wait()


def call(env: dict[str, str], *command: str) -> Any:
    done = subprocess.run(
        [sys.executable, "-m", *command, "--json"],
        env=env, capture_output=True, text=True, timeout=240, check=False,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    return json.loads(done.stdout)


def wait_for(what: str, look: Callable[[], Any]) -> Any:
    deadline = time.monotonic() + PATIENCE_S
    while time.monotonic() < deadline:
        found = look()
        if found:
            return found
        time.sleep(0.3)
    return pytest.fail(f"{what} did not happen within {PATIENCE_S:.0f} s")


def slot(env: dict[str, str]) -> dict[str, Any]:
    device = call(env, "controller", "device", "show", "edge-1")
    slots = (device.get("reported") or {}).get("slots") or [{}]
    return dict(slots[0])


@pytest.mark.parametrize("link", ["mqtt", "grpc"])
def test_a_device_gets_its_variant_and_another_when_it_changes(tmp_path: Path, link: str) -> None:
    if link == "mqtt" and find_mosquitto().program is None:
        pytest.skip(find_mosquitto().reason)
    data, edge = tmp_path / "fleet", tmp_path / "edge-1"
    env = environment(data) | {"FITMENT_LINK": link, "FITMENT_AUTO_APPROVE": "true"}
    edge.mkdir()
    settings = edge / "config.toml"
    settings.write_text("[agent]\nfingerprint_interval_s = 1.0\n")
    with running(["controller", "serve"], tmp_path / "serve.log", env):
        where = wait_for("serving", lambda: _addresses(data / "controller.json"))
        assert where["link"] == link
        token = call(env, "controller", "token", "create")["text"]
        call(
            env, "agent", "enroll", "--controller", where["enroll"], "--token", token,
            "--device", "edge-1", "--data-dir", str(edge),
        )  # fmt: skip
        with running(["agent", "run", "--data-dir", str(edge)], tmp_path / "agent.log", env):
            wait_for(
                "a profile", lambda: call(env, "controller", "device", "show", "edge-1")["profile"]
            )
            call(env, "controller", "model", "register", "onnx_only")
            (job,) = call(env, "controller", "fit", "onnx_only")
            assert job["choice"]["chosen"]
            release = call(env, "controller", "release", "create", "onnx_only")
            call(env, "controller", "rollout", "create", release["id"])
            first = wait_for("a commit", lambda: _committed(slot(env), job["choice"]["chosen"]))
            assert first["golden_ok"] is True
            runtimes = {v["bundle"]["variant"]: v["runtime"] for v in job["variants"]}
            assert runtimes[first["variant"]] == "litert"  # twice as fast on so small a network

            settings.write_text(settings.read_text() + '[runtime]\nenabled = ["onnx"]\n')
            triggers = wait_for("a closed trigger", lambda: _closed(env))
            assert triggers[0]["kind"] == "stack_changed"
            assert "runtime.litert" in triggers[0]["reason"]
            second = slot(env)
            assert runtimes.get(second["variant"]) != "litert"
            assert second["counter"] > first["counter"]


def _addresses(path: Path) -> dict[str, Any] | None:
    return json.loads(path.read_text()) if path.exists() else None


def _committed(found: dict[str, Any], variant: str) -> dict[str, Any] | None:
    return found if found.get("variant") == variant else None


def _closed(env: dict[str, str]) -> list[dict[str, Any]]:
    found: list[dict[str, Any]] = call(env, "controller", "trigger", "list")
    return [trigger for trigger in found if trigger["closed_at"]]
