"""The whole loop with real processes: enrol, probe, fit, roll out, change the device, fit again."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from controller.gateway.broker import find_mosquitto
from tests.e2e.processes import call, environment, running, slot, wait_for

pytestmark = pytest.mark.e2e


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
            rollout = call(env, "controller", "rollout", "create", release["id"])
            first = wait_for("a commit", lambda: _committed(slot(env), job["choice"]["chosen"]))
            assert first["golden_ok"] is True
            runtimes = {v["bundle"]["variant"]: v["runtime"] for v in job["variants"]}
            assert runtimes[first["variant"]] == "litert"  # twice as fast on so small a network

            whole = {v["bundle"]["variant"]: v["wire_bytes"] for v in job["variants"]}
            told = _deployment(env, rollout["rollout"]["id"])
            assert (told["fetched_bytes"], told["delta_base"]) == (whole[first["variant"]], "")

            settings.write_text(settings.read_text() + '[runtime]\nenabled = ["onnx"]\n')
            triggers = wait_for("a closed trigger", lambda: _closed(env))
            assert triggers[0]["kind"] == "stack_changed"
            assert "runtime.litert" in triggers[0]["reason"]
            second = slot(env)
            assert runtimes.get(second["variant"]) != "litert"
            assert second["counter"] > first["counter"]
            again = _deployment(env, triggers[0]["rollout"])
            assert again["fetched_bytes"] > 0
            assert again["delta_base"] in ("", first["variant"])


def _deployment(env: dict[str, str], rollout: str) -> dict[str, Any]:
    (only,) = call(env, "controller", "rollout", "status", rollout)["deployments"]
    return dict(only)


def _addresses(path: Path) -> dict[str, Any] | None:
    return json.loads(path.read_text()) if path.exists() else None


def _committed(found: dict[str, Any], variant: str) -> dict[str, Any] | None:
    return found if found.get("variant") == variant else None


def _closed(env: dict[str, str]) -> list[dict[str, Any]]:
    found: list[dict[str, Any]] = call(env, "controller", "trigger", "list")
    return [trigger for trigger in found if trigger["closed_at"]]
