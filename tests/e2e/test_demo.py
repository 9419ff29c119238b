"""``fitment demo``: all steps, all processes, over both links."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest

from controller.gateway.broker import find_mosquitto
from tests.integration.gateway_peers import wait_for

pytestmark = pytest.mark.e2e

LIMIT_S = 600
STATE = {
    "variant", "sha256", "runtime", "scheme", "accuracy", "agreement", "file_bytes", "wire_bytes",
    "measured", "energy",
}  # fmt: skip


def demo(out: Path, *arguments: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, "-m", "controller", "demo", "--out", str(out), *arguments],
        capture_output=True, text=True, timeout=LIMIT_S, check=False,
    )  # fmt: skip


def test_all_of_it_holds(tmp_path: Path) -> None:
    """Over one link: `test_loop` goes the same way over both, in a third of the time."""
    link = "grpc" if find_mosquitto().program is None else "mqtt"
    out = tmp_path / "out"
    done = demo(out, "--link", link)
    assert done.returncode == 0, done.stderr
    report = json.loads((out / "report.json").read_text())
    assert report["ok"]
    assert report["link"] == link
    assert report["fp32_accuracy"] > 0.925
    assert report["fp32_bytes"] > 1_000_000
    assert all(step["seconds"] >= 0 for step in report["steps"])
    server, pi, camera = report["devices"]
    _check_devices(server, pi, camera, fp32_bytes=report["fp32_bytes"])
    _check_change(server)
    _check_camera(camera)
    assert "edge-x86" in done.stdout
    assert _left_over(out) == []


def _check_devices(*devices: dict[str, Any], fp32_bytes: int) -> None:
    assert [d["profile"] for d in devices] == ["generic-x86_64", "raspberry-pi-5", "imx93"]
    assert [d["emulated"] for d in devices] == [False, True, True]
    assert [d["before"]["runtime"] for d in devices] == ["onnx", "litert", "onnx"]
    for device in devices:
        before = device["before"]
        assert set(before) >= STATE
        assert device["profile_reason"]
        assert before["variant"].startswith("int8")
        assert before["wire_bytes"] < 0.5 * fp32_bytes
        assert before["measured"]["p50_ms"] > 0
        assert before["measured"]["verdict"] in {"valid", "contended", "drifting", "throttled"}
        energy = before["energy"]
        assert (energy["value_mj"] is None) == (energy["status"] == "unavailable")
        assert energy["value_mj"] is not None or energy["reason"]
        rivals = {c["variant"] for c in device["candidates"]}
        assert "fp32" in rivals
        assert any("pruned" in name and "kd" in name for name in rivals)
        assert device["supervisor_memory_bytes"]["pss"] < 30 * 2**20
    assert {"int8-dynamic"} <= {c["variant"] for c in devices[0]["candidates"]}


def _check_change(changed: dict[str, Any]) -> None:
    before, after = changed["before"], changed["after"]
    assert "disabled_optimizers" in changed["trigger"]
    assert "golden answers right, integer coverage 0.00" in changed["trigger"]
    assert after["sha256"] != before["sha256"]
    assert after["scheme"] == "fp32", "without its fusions int8 is slower than fp32"
    assert after["measured"]["p50_ms"] < after["measured"]["before_p50_ms"]


def _check_camera(camera: dict[str, Any]) -> None:
    assert camera["after"] is None
    assert camera["trigger"] is None
    assert camera["before"]["file_bytes"] <= 120_000
    found = camera["calibration"]
    assert found["applied"]
    assert found["gain"] == pytest.approx(0.35, abs=0.02)
    seen = found["accuracy_on_its_sensor"]
    assert seen["calibrated"] > seen["as_shipped"] + 0.03
    assert seen["calibrated"] > seen["usual_sensor"] - 0.01


def _left_over(out: Path) -> list[str]:
    """Processes that still run on the demo's folders."""
    found = []
    for folder in Path("/proc").iterdir():
        if folder.name.isdecimal() and int(folder.name) != os.getpid():
            try:
                command = (folder / "cmdline").read_bytes()
            except OSError:
                continue
            if str(out).encode() in command:
                found.append(command.decode(errors="replace"))
    return found


def test_a_folder_of_somebody_else_is_left_alone(tmp_path: Path) -> None:
    (tmp_path / "thesis.tex").write_text("years of work")
    done = demo(tmp_path)
    assert done.returncode == 2
    assert "holds other files" in done.stderr
    assert [path.name for path in tmp_path.iterdir()] == ["thesis.tex"]


@contextmanager
def begun(out: Path) -> Iterator[tuple[subprocess.Popen[str], dict[str, Any]]]:
    """A demo whose controller is up, and where it is."""
    command = [sys.executable, "-m", "controller", "demo", "--out", str(out)]
    process = subprocess.Popen(
        command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, stdin=subprocess.DEVNULL
    )
    try:
        where = out / "controller" / "controller.json"
        assert wait_for(where.exists, timeout_s=30)
        yield process, json.loads(where.read_text())
    finally:
        process.kill()
        process.communicate()


def test_a_step_that_fails_says_which_and_why_and_leaves_the_logs(tmp_path: Path) -> None:
    out = tmp_path / "out"
    with begun(out) as (process, where):
        os.kill(where["pid"], signal.SIGKILL)
        _, words = process.communicate(timeout=60)
    assert process.returncode == 1
    assert "controller ended with -9" in words
    assert f"logs: {out / 'logs'}" in words
    assert (out / "logs" / "controller.log").read_text()
    report = json.loads((out / "report.json").read_text())
    assert (report["ok"], report["devices"][0]["before"]) == (False, None)
    assert "ended with -9" in report["steps"][-1]["result"]
    assert wait_for(lambda: not _left_over(out))


def test_nothing_outlives_a_demo_that_was_killed(tmp_path: Path) -> None:
    out = tmp_path / "out"
    with begun(out) as (process, _):
        assert wait_for(lambda: len(_left_over(out)) > 1, timeout_s=30)
        process.kill()
    assert wait_for(lambda: not _left_over(out))
