"""A real worker behind a real link of the kernel: one that goes down and comes back, and drops.

The worker is a process in a network namespace of its own, at the other end of a pair of virtual
Ethernet devices. That takes root and a kernel that has them; elsewhere the tests are skipped and
say why. Packets are lost by a queue that holds a few of them before a slow line (``tc … tbf``).
"""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import pytest

from agent.jobs import EnrollJob, FetchJob
from fitment.core import digest, plain
from tests.integration.trust_server import Controller

HERE, THERE = "198.51.100.1", "198.51.100.2"  # of documentation (RFC 5737): nobody's network
BYTES = 2_000_000
SLOW = "tbf rate 8mbit burst 8kb limit 40kb"  # two seconds for all of it


def run(*command: str) -> str:
    """What it says.

    Raises:
        OSError: it failed, with its words.
    """
    done = subprocess.run(command, capture_output=True, text=True, check=False, timeout=20)
    if done.returncode:
        raise OSError(f"{' '.join(command)}: {done.stderr.strip()}")
    return done.stdout


@dataclass(frozen=True)
class Worker:
    """One that runs, and where its answer will be."""

    process: subprocess.Popen[bytes]
    result: str

    def answer(self) -> dict[str, Any]:
        """When it has ended."""
        self.process.wait(60)
        found: dict[str, Any] = json.loads(Path(self.result).read_bytes())
        return found


@dataclass(frozen=True, kw_only=True)
class Link:
    """A namespace and the device on our side of the line to it."""

    name: str

    def up(self) -> None:
        run("ip", "link", "set", self.name, "up")

    def down(self) -> None:
        run("ip", "link", "set", self.name, "down")

    def shape(self, how: str) -> None:
        """Of what goes to the namespace."""
        run("tc", "qdisc", "replace", "dev", self.name, "root", *how.split())

    def dropped(self) -> int:
        """Packets that the queue had no room for."""
        shown = run("tc", "-s", "qdisc", "show", "dev", self.name)
        return int(shown.partition("dropped ")[2].split(",")[0])

    def start(self, worker: str, job: FetchJob | EnrollJob) -> Worker:
        """A worker at the other end."""
        path = Path(job.result).with_suffix(".job")
        path.write_text(json.dumps(plain.to_plain(job)))
        command = [sys.executable, "-m", f"agent.workers.{worker}", str(path)]
        return Worker(subprocess.Popen(["ip", "netns", "exec", self.name, *command]), job.result)


@pytest.fixture(scope="module")
def link() -> Iterator[Link]:
    if os.geteuid() != 0:
        pytest.skip("a network namespace takes root")
    if shutil.which("ip") is None or shutil.which("tc") is None:
        pytest.skip("ip and tc (Debian: iproute2) are not installed")
    name = f"fit{os.getpid()}"[:14]
    inside = ("ip", "-n", name)
    try:
        run("ip", "netns", "add", name)
        run("ip", "link", "add", name, "type", "veth", "peer", "name", "inside", "netns", name)
        run("ip", "addr", "add", f"{HERE}/30", "dev", name)
        run(*inside, "addr", "add", f"{THERE}/30", "dev", "inside")
        run(*inside, "link", "set", "inside", "up")
        made = Link(name=name)
        made.up()
        run("ip", "link", "set", name, "gso_max_segs", "1")  # else one burst is a whole queue
        made.shape(SLOW)
    except OSError as error:
        _remove(name)
        pytest.skip(f"no network namespaces here: {error}")
    yield made
    _remove(name)


def _remove(name: str) -> None:
    for command in (("ip", "netns", "del", name), ("ip", "link", "del", name)):
        subprocess.run(command, capture_output=True, check=False)


@pytest.fixture(scope="module")
def job(link: Link, tmp_path_factory: pytest.TempPathFactory) -> Iterator[FetchJob]:
    folder = tmp_path_factory.mktemp("namespace")
    controller = Controller(folder / "controller", host=HERE)
    keys = folder / "keys"
    enrolled = EnrollJob(
        result=str(folder / "enrolled"), controller=controller.enroll_address,
        token=controller.token(), device="cam-1", keys=str(keys),
    )  # fmt: skip
    answer = link.start("enroll", enrolled).answer()
    assert answer.get("device") == "cam-1", answer
    bundle = controller.publish(os.urandom(BYTES))
    yield FetchJob(
        result="", connection=controller.connection(keys), archive=bundle.archive,
        archive_bytes=bundle.archive_bytes, target="",
        stall_window_s=2.0,
    )  # fmt: skip
    controller.stop()


def wait_for(what: Callable[[], bool]) -> None:
    until_s = time.monotonic() + 60
    while not what():
        assert time.monotonic() < until_s, "it does not come about"
        time.sleep(0.02)


def test_a_link_that_goes_down_and_comes_back(job: FetchJob, link: Link, tmp_path: Path) -> None:
    """What came stays, the worker ends by itself, and the next one goes on from there."""
    target = tmp_path / "work" / "part"
    job = replace(job, target=str(target))
    worker = link.start("fetch", replace(job, result=str(tmp_path / "first")))
    wait_for(lambda: target.exists() and target.stat().st_size > BYTES // 10)
    link.down()
    first = worker.answer()
    assert first["code"] in ("stalled", "unavailable"), first
    assert not first["permanent"]
    came = target.stat().st_size
    assert BYTES // 10 < came < job.archive_bytes
    link.up()
    again = replace(job, result=str(tmp_path / "second"))
    second = link.start("fetch", again).answer()
    assert second.get("resumed_from") == came, second
    assert digest.digest_bytes(target.read_bytes()) == job.archive
    assert link.dropped() > 0  # and not for want of lost packets
