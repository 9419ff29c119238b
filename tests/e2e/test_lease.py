"""Two controllers on one data directory, one of them stopped past its lease: it acts no more."""

from __future__ import annotations

import json
import os
import signal
import sqlite3
import subprocess
import threading
from collections.abc import Iterator
from contextlib import closing
from pathlib import Path
from typing import Any

import httpx
import pytest

from controller.client import Client
from tests.e2e.processes import environment, start, stop, wait_for

pytestmark = pytest.mark.e2e


class Pair:
    """Controllers on one directory, each on ports of its own."""

    def __init__(self, folder: Path) -> None:
        self.folder, self.data = folder, folder / "fleet"
        more = {"FITMENT_LINK": "grpc", "FITMENT_LEASE_S": "3", "FITMENT_DASHBOARD": "false"}
        self.env = environment(self.data) | more
        self.processes: dict[str, subprocess.Popen[bytes]] = {}

    def begin(self, name: str, *more: str) -> subprocess.Popen[bytes]:
        made = start(["controller", "serve", *more], self.folder / f"{name}.log", self.env)
        self.processes[name] = made
        return made

    def serving(self, name: str) -> str:
        """Wait until it acts; gives its address."""
        pid = self.processes[name].pid

        def look() -> str:
            path = self.data / "controller.json"
            try:
                found: dict[str, Any] = json.loads(path.read_text())
            except FileNotFoundError:
                return ""
            return str(found["rest"]) if found["pid"] == pid else ""

        return str(wait_for(f"{name} serving", look, every_s=0.05))

    def log(self, name: str) -> str:
        return (self.folder / f"{name}.log").read_text()

    def token(self) -> str:
        return (self.data / "operator.token").read_text().strip()

    def close(self) -> None:
        for process in self.processes.values():
            if process.poll() is None:
                process.send_signal(signal.SIGCONT)
                stop(process)


@pytest.fixture
def pair(tmp_path: Path) -> Iterator[Pair]:
    made = Pair(tmp_path)
    yield made
    made.close()


def test_one_that_was_stopped_past_its_lease_acts_no_more(pair: Pair) -> None:
    first = pair.begin("first")
    old = pair.serving("first")
    standby = pair.begin("second", "--standby")
    wait_for("a standby", lambda: "lease_seen" in pair.log("second"), every_s=0.05)
    with Client(old, pair.token()) as client:
        client.create_token(labels={"by": "first"})
        lease = client.status().lease
        assert lease is not None
        assert (lease.number, lease.holder.rpartition(":")[2]) == (1, str(first.pid))

    os.kill(first.pid, signal.SIGSTOP)
    new = pair.serving("second")
    # Its kernel takes these in; it reads them once it goes on, and must not do them.
    asked = [Asking(f"{old}/v1/tokens", pair.token()) for _ in range(3)]
    with Client(new, pair.token()) as client:
        client.create_token(labels={"by": "second"})
        lease = client.status().lease
        assert lease is not None
        assert lease.number == 2
    os.kill(first.pid, signal.SIGCONT)

    assert first.wait(60) == 1
    for one in asked:
        one.join(30)
        assert one.status in (0, 503), one.status
        assert one.code in ("", "lease_lost", "busy")
    assert "action=lease_lost number=1" in pair.log("first")
    assert "fitment: another controller acts in place of" in pair.log("first")
    assert standby.poll() is None
    with Client(new, pair.token()) as client:  # it has not been disturbed
        client.create_token(labels={"by": "second"})
        assert json.loads((pair.data / "controller.json").read_text())["pid"] == standby.pid

    stop(standby)
    assert labels(pair.data) == ["first", "second", "second"]
    third = pair.begin("third")  # what was given back in order is had at once
    pair.serving("third")
    assert third.poll() is None


class Asking(threading.Thread):
    """One request for a token to whoever listens there."""

    def __init__(self, url: str, token: str) -> None:
        super().__init__()
        self._url, self._token = url, token
        self.status, self.code = 0, ""
        self.start()

    def run(self) -> None:
        headers = {"authorization": f"Bearer {self._token}"}
        try:
            answer = httpx.post(
                self._url, json={"labels": {"by": "late"}}, headers=headers, timeout=60
            )
        except httpx.HTTPError:
            return  # it hung up
        self.status, self.code = answer.status_code, answer.json().get("code", "")


def labels(data: Path) -> list[str]:
    """Whose tokens the database has."""
    with closing(sqlite3.connect(data / "fitment.db")) as database:
        rows = database.execute("SELECT document FROM token ORDER BY position").fetchall()
    return [json.loads(row[0])["labels"]["by"] for row in rows]
