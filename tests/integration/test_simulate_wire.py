"""Modelled devices on the real wire: a controller's process, mosquitto, TLS, and a clean end."""

from __future__ import annotations

import os
import queue
import signal
import subprocess
import sys
import threading
from dataclasses import replace
from pathlib import Path

import pytest

from controller.domain import fleet
from controller.gateway.broker import find_mosquitto
from controller.reconcile.rolling import RolloutPlan
from controller.simulator import seed, wire
from controller.simulator.traits import SCENARIOS
from controller.simulator.wire import Progress, Wire, WireWorld
from fitment.core import plain
from tests.integration.gateway_peers import wait_for

pytestmark = pytest.mark.skipif(
    find_mosquitto().program is None, reason=find_mosquitto().reason or "there is mosquitto"
)

DEVICES = 50
SHAKEN = replace(
    SCENARIOS["good-release"], name="shaken", crashes=0.0, silent=0.0, skewed=0.2, flaky=0.1,
    up_s=120.0, down_s=20.0, repeats=0.3, late=0.1,
)  # fmt: skip
PLAN = RolloutPlan(
    waves=(0.2, 1.0), soak_s=5.0, deadline_s=1800.0,
    gate=fleet.Gate(max_failure_share=0.02, agreement_min=0.95),
)  # fmt: skip


ASKED = {
    "devices", "completed", "halted", "exposed_at_halt", "exposure_bound", "seconds",
    "messages_per_s", "controller_cpu_share", "controller_rss_bytes_per_device", "tick_ms",
}  # fmt: skip
"""What scripts read of ``--json``."""


def processes(word: str) -> list[str]:
    """Command lines of all processes that have a word in theirs."""
    found = []
    for path in Path("/proc").glob("[0-9]*/cmdline"):
        try:
            line = path.read_bytes().replace(b"\0", b" ").decode(errors="replace")
        except OSError:  # it ended meanwhile
            continue
        if word in line:
            found.append(line)
    return found


def test_a_rollout_over_a_broker_that_is_late_and_repeats_itself(
    tmp_path: Path, root: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("PYTHONPATH", f"{root}:{root / 'protos'}")
    said: list[Progress] = []
    driven = Wire(
        telemetry_interval_s=1.0, pace=30.0, switched_on_per_s=200.0, settle_s=1.0, most_s=120.0,
        plan=PLAN,
    )  # fmt: skip
    world = WireWorld(
        seed.Fleet(devices=DEVICES, scenario=SHAKEN, seed=1), driven, tmp_path / "w", said.append
    )
    found = world.run()
    assert (found.completed, found.halted, found.failed, found.still_open) == (True, False, 0, 0)
    # Who was away when it completed is named, and nobody else.
    named = found.reason.partition("never reached: ")[2].split(", ")
    assert found.committed + len([name for name in named if name]) == DEVICES
    assert found.committed > DEVICES // 2
    told = plain.to_plain(found)
    assert set(told) >= ASKED
    assert found.messages_per_s > 0
    assert found.telemetry_rows_per_s > 0
    assert found.ack_p50_ms is not None
    assert 0 < found.controller_cpu_share < 2
    assert found.controller_rss_bytes > found.controller_rss_bytes_per_device >= 0
    assert found.tick_ms > 0
    assert found.tick_cpu_ms > 0
    assert {one.what for one in said} == {"enrolled", "connecting", "settling", "rolling out"}
    assert said[-1].counts.ups >= DEVICES
    log = (tmp_path / "w" / "fitment.log").read_text()
    assert "Traceback" not in log, log
    assert processes(str(tmp_path)) == []


def test_ctrl_c_leaves_nothing_behind(tmp_path: Path, root: Path) -> None:
    command = [
        sys.executable, "-m", "controller", "simulate", "--wire", "--devices", "5",
        "--telemetry-interval", "1", "--settle", "600",
    ]  # fmt: skip
    environment = {**os.environ, "PYTHONPATH": f"{root}:{root / 'protos'}", "TMPDIR": str(tmp_path)}
    process = subprocess.Popen(
        command, cwd=root, env=environment, stdout=subprocess.DEVNULL, stderr=subprocess.PIPE,
        text=True,
    )  # fmt: skip
    lines: queue.Queue[str] = queue.Queue()
    assert process.stderr is not None
    reader = threading.Thread(
        target=lambda: [lines.put(line) for line in process.stderr or ()], daemon=True
    )
    reader.start()
    told = ""
    try:
        while "settling" not in told:
            told = lines.get(timeout=90)
        assert "connected" in told
        assert any("mosquitto" in line for line in processes(str(tmp_path)))
        process.send_signal(signal.SIGINT)
        assert process.wait(60) == 130
    finally:
        process.kill()  # its controller and its broker end with it
        process.wait()
    reader.join(20)
    process.stderr.close()
    assert wait_for(lambda: processes(str(tmp_path)) == [], 20)
    assert list(tmp_path.iterdir()) == []
    rest = [lines.get() for _ in range(lines.qsize())]
    assert "Traceback" not in "".join(rest), rest


def test_without_a_broker_it_says_what_to_do(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(wire, "find_mosquitto", lambda: find_mosquitto(""))
    with pytest.raises(wire.UserError, match="apt-get install mosquitto"):
        wire.simulate(seed.Fleet(devices=1, scenario=SHAKEN), Wire(), lambda _progress: None)
