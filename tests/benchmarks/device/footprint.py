"""What an agent takes: bytes on disk, start-up and memory, beside Debian's ``mender-client``.

Ours is installed from its own wheel into a folder of its own, with nothing beside it but the
Python that the machine has; with no runtime, with onnxruntime and with LiteRT. Python itself is not
counted on our side, as the C library is not on theirs. Memory is of a process that is connected and
at rest; the peer has no server here, so its daemon waits for one.
"""

from __future__ import annotations

import os
import shutil
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Mapping
from contextlib import ExitStack
from pathlib import Path
from typing import Any

from agent.sensors import process_memory
from tests.benchmarks import serving
from tests.benchmarks.device.alone import MIB, Alone
from tests.e2e.processes import stop, wait_for

ROOT = Path(__file__).resolve().parents[3]
BASE = getattr(sys, "_base_executable", sys.executable)
FLAVOURS = {"no runtime": "", "onnxruntime": "[onnx]", "LiteRT": "[litert]"}
STARTS, SETTLE_S, LOOKS = 5, 60.0, 6
MENDER_CONFIG = (
    '{"ServerURL": "https://127.0.0.1:1", "UpdatePollIntervalSeconds": 1800,'
    ' "InventoryPollIntervalSeconds": 28800, "RetryPollIntervalSeconds": 30}'
)


def measure(out: Path, say: Callable[[str], None]) -> dict[str, Any]:
    """Everybody, one after the other; nothing of it is a ratio of times."""
    found: dict[str, Any] = {}
    for name, extra in FLAVOURS.items():
        say(f"footprint: ours, {name}")
        home = _installed(out / "footprint" / (extra.strip("[]") or "none"), extra)
        found[f"ours, {name}"] = {"disk_mb": _disk_mb(home), **_ours(home)}
    say("footprint: ours, serving")
    for name, folder in serving.bundles(out, say).items():
        found[f"ours, serving {name} in onnxruntime"] = _serving(out, folder)
    found["ours, serving int8-s8s8 in LiteRT"] = _serving(out, serving.litert_bundle(out))
    say("footprint: mender-client")
    found["mender-client"] = _mender() or "not installed: apt-get install mender-client"
    return found


def _installed(home: Path, extra: str) -> Path:
    """Our wheel with an extra, in a folder; byte-compiled as pip does."""
    if not home.is_dir():
        with tempfile.TemporaryDirectory() as folder:
            pip = [sys.executable, "-m", "pip", "--quiet", "--disable-pip-version-check"]
            made = [*pip, "wheel", "--no-deps", "--wheel-dir", folder, str(ROOT)]
            subprocess.run(made, check=True)
            (wheel,) = Path(folder).glob("fitment-*.whl")
            target = ["install", "--target", str(home), f"{wheel}{extra}"]
            subprocess.run([*pip, *target], check=True)
    return home


def _disk_mb(home: Path) -> float:
    return sum(path.lstat().st_size for path in home.rglob("*") if path.is_file()) / 1e6


def _environment(home: Path) -> dict[str, str]:
    return {"PATH": os.environ["PATH"], "PYTHONPATH": str(home), "HOME": os.environ["HOME"]}


def _ours(home: Path) -> dict[str, Any]:
    """The supervisor over MQTT: seconds until it says that the link is up, and its memory then."""
    with tempfile.TemporaryDirectory(prefix="foot-") as folder, ExitStack() as stack:
        fleet = stack.enter_context(Alone(Path(folder), interval_s=10.0))
        fleet.end_agent()
        command = [BASE, "-m", "agent", "run", "--data-dir", str(fleet.edge)]
        starts = [_until(command, _environment(home), "action=link_up") for _ in range(STARTS)]
        process = subprocess.Popen(
            command, env=_environment(home), cwd=folder,
            stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL,
        )  # fmt: skip
        stack.callback(stop, process)
        return {"start_s": statistics.median(starts), **_at_rest(process.pid)}


def _mender() -> dict[str, Any] | None:
    binary = shutil.which("mender")
    if binary is None:
        return None
    with tempfile.TemporaryDirectory(prefix="mender-") as folder:
        home = Path(folder)
        (home / "mender.conf").write_text(MENDER_CONFIG)
        (home / "artifact_info").write_text("artifact_name=release-1\n")
        (home / "device_type").write_text("device_type=bench\n")
        command = [
            binary, "--no-syslog", "--config", str(home / "mender.conf"),
            "--data", folder, "daemon",
        ]  # fmt: skip
        starts = [_until(command, dict(os.environ), "State transition") for _ in range(STARTS)]
        process = subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
        try:
            return {
                "disk_mb": _package_mb("mender-client"),
                "start_s": statistics.median(starts),
                **_at_rest(process.pid),
            }
        finally:
            stop(process)


def _package_mb(name: str) -> float:
    listed = subprocess.run(["dpkg", "-L", name], check=True, capture_output=True, text=True)
    paths = [Path(line) for line in listed.stdout.splitlines()]
    return sum(path.stat().st_size for path in paths if path.is_file()) / 1e6


def _until(command: list[str], env: Mapping[str, str], word: str) -> float:
    """Seconds from the start of a process until a line of its output holds ``word``."""
    began = time.monotonic()
    with subprocess.Popen(
        command, env=dict(env), stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True
    ) as process:
        assert process.stdout is not None
        said = []
        for line in process.stdout:
            said.append(line)
            if word in line:
                break
        else:
            raise RuntimeError(f"{command[0]} ended before '{word}': {''.join(said)[-2000:]}")
        seconds = time.monotonic() - began
        stop(process)  # type: ignore[arg-type]  # text or bytes is the same to it
    return seconds


def _at_rest(pid: int) -> dict[str, float]:
    """Medians of some looks, after a while."""
    time.sleep(SETTLE_S)
    looks = []
    for _ in range(LOOKS):
        found = process_memory(pid)
        assert found.anonymous_bytes is not None, found.reason
        assert found.pss_bytes is not None, found.reason
        looks.append((found.anonymous_bytes, found.pss_bytes, _resident(pid)))
        time.sleep(2.0)
    names = ("anonymous_mib", "pss_mib", "rss_mib")
    columns = zip(*looks, strict=True)
    return {n: statistics.median(c) / MIB for n, c in zip(names, columns, strict=True)}


def _resident(pid: int) -> int:
    pages = int(Path(f"/proc/{pid}/statm").read_text().split()[1])
    return pages * os.sysconf("SC_PAGE_SIZE")


def _serving(out: Path, bundle: Path) -> dict[str, float]:
    with ExitStack() as stack:
        folder = out / "footprint" / "served"
        shutil.rmtree(folder, ignore_errors=True)
        _, pid = stack.enter_context(serving.serving_on(folder, bundle))
        wait_for("the socket", (folder / "s").exists)
        return _at_rest(pid)
