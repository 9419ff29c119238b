"""The README's walk, command by command, with free ports in place of the usual ones."""

from __future__ import annotations

import json
import os
import re
import shlex
import subprocess
import sys
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path

import pytest

from tests.integration.gateway_peers import wait_for

# A walk is one user's: its steps stay together where tests run side by side.
pytestmark = [pytest.mark.e2e, pytest.mark.xdist_group("readme")]

STAYS = ("fitment serve", "fitment-agent run")
"""What a user leaves running in its shell."""
ID = re.compile(r"[0-9a-f]{8}-[0-9a-f]{4}-7[0-9a-f-]{21}")
PATIENCE_S = 120


@dataclass
class Walk:
    """Shells of one user in one folder."""

    folder: Path
    env: dict[str, str]
    names: dict[str, str] = field(default_factory=dict)  # placeholder -> what it stands for
    left_running: list[subprocess.Popen[bytes]] = field(default_factory=list)
    said: dict[str, str] = field(default_factory=dict)  # command -> its output

    def run(self, line: str) -> None:
        """One line of a shell block, as a user would type it."""
        for placeholder, value in self.names.items():
            line = line.replace(placeholder, value)
        if line.startswith("export "):
            name, _, value = line.removeprefix("export ").partition("=")
            self.env[name] = value
        elif line.startswith(STAYS):
            self._leave_running(line)
        else:
            self._call(line)

    def _leave_running(self, line: str) -> None:
        words = shlex.split(line)
        with (self.folder / f"{len(self.left_running)}.log").open("wb") as log:
            process = subprocess.Popen(
                words, cwd=self.folder, env=self.env, stdout=log, stderr=log,
                stdin=subprocess.DEVNULL,
            )  # fmt: skip
        self.left_running.append(process)
        if words[1] == "serve":
            where = self.folder / words[words.index("--data-dir") + 1] / "controller.json"
            assert wait_for(where.exists, 30), (self.folder / "0.log").read_text()
            enroll = json.loads(where.read_text())["enroll"]
            for spelled in ("127.0.0.1:9443", "localhost:9443"):
                self.names[spelled] = enroll

    def _call(self, line: str) -> None:
        done = subprocess.run(
            ["/bin/sh", "-c", line], cwd=self.folder, env=self.env, capture_output=True, text=True,
            timeout=PATIENCE_S, check=False,
        )  # fmt: skip
        assert done.returncode == 0, f"{line}: {done.stderr}{done.stdout}"
        self.said[" ".join(shlex.split(line)[:3])] = done.stdout
        if line.startswith("fitment token create"):
            self.names["TOKEN"] = done.stdout.splitlines()[0]
        elif line.startswith(("fitment release create", "fitment rollout create")):
            found = ID.search(done.stdout)
            assert found, done.stdout
            self.names[line.split()[1].upper()] = found[0]

    def until(self, line: str, words: str) -> str:
        """Type a command again and again until its output has ``words``."""

        def seen() -> bool:
            self.run(line)
            return words in self.said[" ".join(shlex.split(line)[:3])]

        assert wait_for(seen, PATIENCE_S), f"{line} never said '{words}'"
        return self.said[" ".join(shlex.split(line)[:3])]

    def stop(self) -> None:
        for process in reversed(self.left_running):
            process.terminate()
        gone = wait_for(lambda: all(p.poll() is not None for p in self.left_running), 20)
        for process in self.left_running:
            process.kill()
            process.wait()
        assert gone, "a process did not end when it was told to"


@pytest.fixture
def walk(tmp_path: Path) -> Iterator[Walk]:
    ports = {f"FITMENT_{name}_PORT": "0" for name in ("ENROLL", "GATEWAY", "MQTT", "REST")}
    scripts = Path(sys.executable).parent
    env = {k: v for k, v in os.environ.items() if not k.startswith("FITMENT_")}
    made = Walk(
        folder=tmp_path,
        env={
            **env,
            **ports,
            "PATH": f"{scripts}:{env['PATH']}",
            "OMP_NUM_THREADS": "1",
            "FITMENT_AGENT_FINGERPRINT_INTERVAL_S": "1",  # a minute is long for a test
        },
    )
    yield made
    made.stop()


def blocks(root: Path, heading: str) -> list[list[str]]:
    """The shell blocks below a heading, line by line."""
    text = (root / "README.md").read_text()
    section = text.split(f"\n{heading}\n")[1].split("\n##")[0]
    return [
        block.strip().splitlines() for block in re.findall(r"```sh\n(.*?)```", section, re.DOTALL)
    ]


def test_the_five_minutes(root: Path, walk: Walk) -> None:
    serve, device, fleet, change = blocks(root, "## Five minutes with a fleet of one")
    for line in (*serve, *device):
        walk.run(line)
    walk.env["FITMENT_DATA_DIR"] = "fleet"
    walk.until("fitment device list", "generic-x86_64")
    for line in fleet:
        if line.startswith("fitment device pull"):
            walk.until("fitment device show edge-1", "onnx_only: ")  # it takes a moment to commit
        if line.startswith("fitment rollout status"):
            walk.until(line, "edge-1")  # a moment to be admitted
        else:
            walk.run(line)
    first = walk.said["fitment device show"]
    assert list((walk.folder / "running").glob("edge-1-*.tflite"))
    for line in change:
        walk.run(line)
    triggers = walk.until("fitment trigger list", "rollout completed")
    assert "runtime.litert" in triggers
    walk.run("fitment device show edge-1")
    assert walk.said["fitment device show"] != first
    walk.run("fitment audit")
    assert "trigger_closed" in walk.said["fitment audit"]


def test_the_second_machine(root: Path, walk: Walk) -> None:
    """Under a name; on loopback, since tests talk to nobody else."""
    serve, device = blocks(root, "### On a second machine")
    walk.names |= {"--host 0.0.0.0": "--host 127.0.0.1", "NAME": "localhost"}
    for line in (*serve, *device):
        walk.run(line)
    walk.env["FITMENT_DATA_DIR"] = "fleet"
    shown = walk.until("fitment device list", "generic-x86_64")
    assert "edge-2" in shown


def test_make_has_what_the_readme_says(root: Path) -> None:
    text = (root / "README.md").read_text()
    targets = set(re.findall(r"^([a-z]+):", (root / "Makefile").read_text(), re.MULTILINE))
    assert set(re.findall(r"`make ([a-z]+)`", text)) | {"demo"} <= targets
    (first,) = blocks(root, "## Try it")[0]
    assert first == "make demo"
