"""A rollout that is taken back: the device runs what it ran before, under a higher counter."""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from typing import Any

import pytest

from tests.e2e.processes import call, environment, running, slot, wait_for

pytestmark = pytest.mark.e2e

BUDGET = 'budget = {"accuracy_drop_max": 0.02, "agreement_min": 0.9}'
STRICT = 'budget = {"agreement_min": 1.0}'
SMALL = 'budget = {"accuracy_drop_max": 0.02, "file_bytes_max": 60_000}'


def workload(root: Path, folder: Path, version: str, budget: str) -> Path:
    """The ONNX-only example as another version, with another budget."""
    shutil.copytree(root / "controller" / "examples" / "onnx_only", folder)
    path = folder / "workload.py"
    text = path.read_text()
    assert BUDGET in text
    path.write_text(text.replace(BUDGET, budget).replace('"1.0.0"', f'"{version}"'))
    return path


def roll_out(env: dict[str, str], path: Path) -> tuple[str, dict[str, Any]]:
    """Register, fit, release and roll out; gives the rollout's id and what the device then runs."""
    model = call(env, "controller", "model", "register", str(path))
    (job,) = call(env, "controller", "fit", model["id"])
    release = call(env, "controller", "release", "create", model["id"])
    made = call(env, "controller", "rollout", "create", release["id"])
    wanted = job["choice"]["chosen"]
    found = wait_for(
        "a commit", lambda: slot(env) if slot(env).get("variant") == wanted else None
    )  # fmt: skip
    return made["rollout"]["id"], found


def test_the_device_runs_again_what_it_ran_before(root: Path, tmp_path: Path) -> None:
    data, edge = tmp_path / "fleet", tmp_path / "edge-1"
    env = environment(data) | {"FITMENT_LINK": "grpc", "FITMENT_AUTO_APPROVE": "true"}
    first = workload(root, tmp_path / "first", "1.0.0", STRICT)
    second = workload(root, tmp_path / "second", "2.0.0", SMALL)
    edge.mkdir()
    (edge / "config.toml").write_text('[runtime]\nenabled = ["onnx"]\n')
    with running(["controller", "serve"], tmp_path / "serve.log", env):
        wait_for("serving", (data / "controller.json").exists)
        where = json.loads((data / "controller.json").read_text())
        token = call(env, "controller", "token", "create")["text"]
        call(
            env, "agent", "enroll", "--controller", where["enroll"], "--token", token,
            "--device", "edge-1", "--data-dir", str(edge),
        )  # fmt: skip
        with running(["agent", "run", "--data-dir", str(edge)], tmp_path / "agent.log", env):
            wait_for(
                "a profile", lambda: call(env, "controller", "device", "show", "edge-1")["profile"]
            )
            _, before = roll_out(env, first)
            rollout, after = roll_out(env, second)
            assert before["name"] == "fp32"
            assert after["name"].startswith("int8")
            call(env, "controller", "rollout", "revert", rollout)
            back = wait_for(
                "the way back",
                lambda: slot(env) if slot(env).get("variant") == before["variant"] else None,
            )
            assert back["counter"] > after["counter"] > before["counter"]
            assert back["golden_ok"] is True
            ended = wait_for("the end of the revert", lambda: _reverted(env, rollout))
            assert ended["rollout"]["revert_release"]
            pulled = call(
                env, "controller", "device", "pull", "edge-1", "--out", str(tmp_path / "pulled")
            )
            assert Path(pulled["path"]).name == "edge-1-fp32.onnx"


def _reverted(env: dict[str, str], rollout: str) -> dict[str, Any] | None:
    found: dict[str, Any] = call(env, "controller", "rollout", "status", rollout)
    return found if found["rollout"]["state"] == "reverted" else None
