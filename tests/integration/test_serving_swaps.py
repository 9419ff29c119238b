"""The serving worker as a process that follows a slot, under load, while the slot switches."""

from __future__ import annotations

import collections
import json
import math
import os
import signal
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import grpc
import numpy as np
import pytest

from agent import served
from agent.jobs import ServeJob, ServingOptions
from agent.slots import Slots
from fitment.core import digest
from tests.integration import serving_models as shop
from tests.integration import worker_models as models
from tests.integration.serving_models import Client, output
from tests.integration.test_workers_serve import Client as Frames
from tests.scenarios.bad_world import full, remount, small_disk

CALLERS, SWAPS = 6, 8


class Worker:
    """``python -m agent.workers.serve`` on a slot of a data directory."""

    def __init__(self, folder: Path, slots: Slots, root: Path) -> None:
        self.result, self.log = folder / "result.json", folder / "log"
        self.grpc, self.socket = folder / "g", folder / "s"
        job = ServeJob(
            result=str(self.result), folder=str(slots.link("shoes")), socket=str(self.socket),
            name="shoes", follow=True, serving=ServingOptions(grpc_socket=str(self.grpc)),
        )  # fmt: skip
        (folder / "job.json").write_bytes(digest.canonical(job))
        command = [sys.executable, "-m", "agent.workers.serve", str(folder / "job.json")]
        with self.log.open("wb") as log:
            self.process = subprocess.Popen(command, cwd=root, stderr=log)
        self.wait(self.socket.exists)

    def wait(self, holds: Any, seconds: float = 20.0) -> None:
        end = time.monotonic() + seconds
        while not holds():
            assert self.process.poll() is None, (self.result.read_text(), self.log.read_text())
            assert time.monotonic() < end, self.log.read_text()
            time.sleep(0.01)

    def stop(self) -> dict[str, Any]:
        self.process.send_signal(signal.SIGTERM)
        assert self.process.wait(timeout=20) == 0
        return json.loads(self.result.read_bytes())


@pytest.fixture
def slots(tmp_path: Path) -> Slots:
    made = Slots(tmp_path / "slots")
    made.prepare("shoes")
    return made


@pytest.fixture
def worker(tmp_path: Path, slots: Slots, root: Path) -> Iterator[Worker]:
    models.affine_bundle(slots.folder("shoes", "a"), shop.FLOAT)
    slots.switch("shoes", "a")
    made = Worker(tmp_path, slots, root)
    yield made
    if made.process.poll() is None:
        made.process.kill()
        made.process.wait()


class Load:
    """Callers that ask without a pause, and keep every answer's version and every failure."""

    def __init__(self, address: str, callers: int = CALLERS, model: str = "shoes") -> None:
        self.versions: collections.Counter[str] = collections.Counter()
        self.failures: list[str] = []
        self._address, self._stop, self._lock = address, threading.Event(), threading.Lock()
        self._model = model
        self._threads = [threading.Thread(target=self._ask, args=(n,)) for n in range(callers)]
        for thread in self._threads:
            thread.start()

    def end(self) -> None:
        self._stop.set()
        for thread in self._threads:
            thread.join()

    def _ask(self, number: int) -> None:
        client = Client(self._address)
        inputs = models.affine_inputs(CALLERS)[number : number + 1]
        while not self._stop.is_set():
            version, problem = "", ""
            try:
                answer = client.infer(inputs, model=self._model)
            except grpc.RpcError as error:
                problem = repr(error)
            else:
                version = answer.model_version
                if not np.allclose(output(answer), models.affine(inputs), atol=0.2):
                    problem = f"a wrong answer of {version}"
            with self._lock:
                self.versions[version] += 1
                if problem:
                    self.failures.append(problem)
        client.channel.close()


def wait_for_version(worker: Worker, client: Client, variant: str) -> None:
    inputs = models.affine_inputs(1)
    worker.wait(lambda: client.infer(inputs).model_version == variant)


def test_no_request_fails_while_the_slot_switches(
    worker: Worker, slots: Slots, tmp_path: Path
) -> None:
    """Between a float and an int8 file of onnxruntime, under callers that never pause."""
    first = digest.digest_bytes((slots.folder("shoes", "a") / "bundle.json").read_bytes())
    second = models.affine_bundle(slots.folder("shoes", "b"), shop.DYNAMIC)
    names = {"a": first, "b": second}
    load, client = Load(f"unix:{worker.grpc}"), Client(f"unix:{worker.grpc}")
    try:
        for count in range(SWAPS):
            letter = "ba"[count % 2]
            slots.switch("shoes", letter)
            wait_for_version(worker, client, names[letter])
    finally:
        load.end()
        client.channel.close()
    assert load.failures == []
    assert set(load.versions) == {first, second}
    assert min(load.versions.values()) > 10
    result = worker.stop()
    assert (result["swaps"], result["errors"]) == (SWAPS, 0)
    assert result["requests"] >= sum(load.versions.values())
    assert not worker.grpc.exists()


def test_a_bundle_that_cannot_serve_leaves_the_old_one_serving(
    worker: Worker, slots: Slots
) -> None:
    client = Client(f"unix:{worker.grpc}")
    inputs = models.affine_inputs(1)
    before = client.infer(inputs).model_version
    models.affine_bundle(slots.folder("shoes", "b"), shop.FLOAT, wrong=True)
    slots.switch("shoes", "b")
    worker.wait(lambda: b"code=golden_failed" in worker.log.read_bytes())
    assert client.infer(inputs).model_version == before
    slots.deactivate("shoes")  # as a roll-back does where there is nothing to go back to
    worker.wait(lambda: b"code=slot_empty" in worker.log.read_bytes())
    assert client.infer(inputs).model_version == before
    slots.switch("shoes", "a")
    assert client.infer(inputs).model_version == before
    client.channel.close()
    assert worker.stop()["swaps"] == 0


def test_both_wires_lead_to_one_model(worker: Worker) -> None:
    client, frames = Client(f"unix:{worker.grpc}"), Frames(worker.socket)
    inputs = models.affine_inputs(3)
    over_frames = frames.ask({"op": "infer"}, inputs)
    assert np.array_equal(output(client.infer(inputs)), over_frames.tensors[0])
    told = frames.ask({"op": "stats"}).header
    assert (told["requests"], told["serving"]["runs"], told["latency"]["count"]) == (2, 2, 2)
    assert told["serving"]["batching"]["cut"] == "together"
    assert told["serving"]["inputs"]["x"]["samples"] == 3
    row = served.columns(worker.socket.parent)
    assert row == {}  # sockets of slots are called SLOT.sock
    worker.socket.rename(worker.socket.with_name("shoes.sock"))
    row = served.columns(worker.socket.parent)
    assert row["serving.shoes.requests"] == 2
    assert row["serving.shoes.input.x.mean"] == pytest.approx(float(inputs.mean()), abs=1e-6)
    assert math.isnan(row["serving.shoes.latency_p99_ms"])  # two requests tell no percentile
    assert math.isnan(row["serving.shoes.shadow_agreement"])
    frames.close()
    client.channel.close()
    worker.stop()


def test_a_candidate_is_shown_over_the_frames(worker: Worker, slots: Slots, tmp_path: Path) -> None:
    candidate = models.affine_bundle(tmp_path / "c", shop.DYNAMIC)
    frames = Frames(worker.socket)
    shown = frames.ask({"op": "shadow", "folder": str(tmp_path / "c")}).header
    assert shown["shadow"] == candidate
    frames.ask({"op": "infer"}, models.affine_inputs(3))

    def seen() -> Any:
        return frames.ask({"op": "stats"}).header["serving"]["shadow"]

    worker.wait(lambda: seen()["samples"] == 3)
    assert (seen()["variant"], seen()["agreement"]) == (candidate, 1.0)
    assert frames.ask({"op": "shadow", "folder": ""}).header["shadow"] == ""
    assert seen() is None
    assert frames.ask({"op": "shadow"}).header["code"] == "invalid"
    frames.close()
    _the_command_compares(worker, tmp_path, candidate)
    worker.stop()


def _the_command_compares(worker: Worker, folder: Path, candidate: str) -> None:
    """``fitment-agent shadow``, beside callers that never pause."""
    worker.socket.rename(folder / "shoes.sock")
    (folder / "config.toml").write_text(f'[serving]\nsockets = "{folder}"\n')
    load = Load(f"unix:{worker.grpc}", callers=2)
    try:
        command = [sys.executable, "-m", "agent", "shadow", "--data-dir", str(folder), "--json",
                   "--slot", "shoes", "--bundle", str(folder / "c"), "--inputs", "20"]  # fmt: skip
        done = subprocess.run(command, capture_output=True, text=True, check=False, timeout=60)
    finally:
        load.end()
    assert done.returncode == 0, done.stderr
    found = json.loads(done.stdout)
    assert found["good"]
    assert (found["shadow"]["variant"], found["shadow"]["agreement"]) == (candidate, 1.0)
    assert found["shadow"]["samples"] >= 20
    assert "of 20 inputs" in done.stderr
    assert load.failures == []
    assert served.ask(folder / "shoes.sock")["serving"]["shadow"] is None  # type: ignore[index]


# --- the command --------------------------------------------------------------------------------


def serve(
    root: Path, data_dir: Path, *more: str, env: Mapping[str, str] | None = None
) -> subprocess.Popen[str]:
    command = [sys.executable, "-m", "agent", "serve", "--data-dir", str(data_dir), *more]
    return subprocess.Popen(
        command, cwd=root, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, env=env
    )


def free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


def test_the_command_serves_a_slot_until_it_is_told_to_end(
    tmp_path: Path, slots: Slots, root: Path
) -> None:
    variant = models.affine_bundle(slots.folder("shoes", "a"), shop.FLOAT)
    slots.switch("shoes", "a")
    port = free_port()
    (tmp_path / "config.toml").write_text(f'[serving]\nsockets = "{tmp_path / "run"}"\n')
    process = serve(root, tmp_path, "--slot", "shoes", "--json", "--port", str(port))
    assert process.stdout is not None
    told = json.loads("".join(iter(process.stdout.readline, "}\n")) + "}")
    assert told == {
        "slot": "shoes", "socket": str(tmp_path / "run" / "shoes.sock"), "port": port,
        "open_inference": f"unix:{tmp_path / 'run' / 'shoes.grpc'}",
    }  # fmt: skip
    for address in (told["open_inference"], f"127.0.0.1:{port}"):
        client = Client(address)
        assert client.infer(models.affine_inputs(1)).model_version == variant
        client.channel.close()
    process.send_signal(signal.SIGTERM)
    out, errors = process.communicate(timeout=20)
    assert (process.returncode, errors) == (0, "")
    assert json.loads(out)["requests"] == 2


def test_a_disk_that_takes_nothing_keeps_no_model_from_answering(
    tmp_path: Path, root: Path
) -> None:
    """After a restart, too: full, then read-only, with the sockets in memory or on that disk."""
    with small_disk(tmp_path / "disk", "4m") as disk:
        data, run = disk / "data", tmp_path / "run"
        run.mkdir()
        slots = Slots(data / "slots")
        slots.prepare("shoes")
        variant = models.affine_bundle(slots.folder("shoes", "a"), shop.FLOAT)
        slots.switch("shoes", "a")
        (data / "config.toml").write_text(f'[serving]\nsockets = "{run}"\n')
        with full(disk):
            asked_once(serve(root, data, "--slot", "shoes", "--json"), variant)
        remount(disk, "ro")
        asked_once(serve(root, data, "--slot", "shoes", "--json"), variant)
        remount(disk, "rw")
        (data / "config.toml").write_text("")
        remount(disk, "ro")
        lost = serve(root, data, "--slot", "shoes")
        _, errors = lost.communicate(timeout=20)
        assert (lost.returncode, len(errors.splitlines())) == (1, 1)
        assert "set [serving] sockets to a folder in memory" in errors
        systemd = {**os.environ, "RUNTIME_DIRECTORY": str(run)}
        asked_once(serve(root, data, "--slot", "shoes", "--json", env=systemd), variant)


def asked_once(process: subprocess.Popen[str], variant: str) -> None:
    assert process.stdout is not None
    lines = [process.stdout.readline() for _ in range(6)]  # empty ones where it ended instead
    if not lines[-1]:
        pytest.fail(process.communicate(timeout=20)[1])
    client = Client(json.loads("".join(lines))["open_inference"])
    assert client.infer(models.affine_inputs(1)).model_version == variant
    client.channel.close()
    process.send_signal(signal.SIGTERM)
    out, errors = process.communicate(timeout=20)
    assert (process.returncode, errors, json.loads(out)["requests"]) == (0, "", 1)


@pytest.mark.parametrize("wrong", ["no such slot", "wrong goldens", "port taken"])
def test_the_command_says_why_it_cannot_serve(
    tmp_path: Path, slots: Slots, root: Path, wrong: str
) -> None:
    models.affine_bundle(slots.folder("shoes", "a"), shop.FLOAT, wrong=wrong == "wrong goldens")
    slots.switch("shoes", "a")
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        taken.listen()
        port = str(taken.getsockname()[1])
        process = serve(
            root, tmp_path, "--slot", "hats" if wrong == "no such slot" else "shoes",
            *(["--port", port] if wrong == "port taken" else []),
        )  # fmt: skip
        out, errors = process.communicate(timeout=20)
    says = {
        "no such slot": "slot 'hats' holds no model; slots that do: shoes",
        "wrong goldens": "answers wrong",
        "port taken": "choose another port",
    }[wrong]
    assert (process.returncode, out) == (1, "")
    assert says in errors
    assert errors.startswith("fitment-agent: ")
    assert len(errors.splitlines()) == 1
