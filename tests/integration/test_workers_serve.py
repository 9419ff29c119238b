"""The serving worker: as a process, over its socket."""

from __future__ import annotations

import json
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from agent.jobs import RuntimeOptions, ServeJob
from agent.workers import frames, serve
from agent.workers.child import JobError
from agent.workers.frames import Frame
from fitment.core import digest
from tests.integration import worker_models as models

_MODELS = models.affine_models()


class Client:
    """What an application writes against the charter."""

    def __init__(self, path: Path) -> None:
        self._socket = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
        self._socket.settimeout(20)
        self._socket.connect(str(path))
        self.stream = self._socket.makefile("rwb")

    def ask(self, header: dict[str, Any], *tensors: np.ndarray) -> Frame:
        frames.write(self.stream, header, tensors)  # type: ignore[arg-type]
        answer = frames.read(self.stream)  # type: ignore[arg-type]
        assert answer is not None
        return answer

    def close(self) -> None:
        self.stream.close()
        self._socket.close()


class Worker:
    """A running ``python -m agent.workers.serve``."""

    def __init__(self, folder: Path, bundle: Path, root: Path) -> None:
        self.result = folder / "result.json"
        self.socket = folder / "s"
        job = ServeJob(result=str(self.result), folder=str(bundle), socket=str(self.socket))
        (folder / "job.json").write_bytes(digest.canonical(job))
        command = [sys.executable, "-m", "agent.workers.serve", str(folder / "job.json")]
        self.process = subprocess.Popen(command, cwd=root)
        deadline = time.monotonic() + 20
        while not self.socket.exists() and time.monotonic() < deadline:
            assert self.process.poll() is None, self.result.read_text()
            time.sleep(0.02)

    def stop(self) -> dict[str, Any]:
        self.process.send_signal(signal.SIGTERM)
        assert self.process.wait(timeout=20) == 0
        return json.loads(self.result.read_bytes())


@pytest.fixture
def served(tmp_path: Path, root: Path) -> Iterator[tuple[Worker, str]]:
    variant = models.affine_bundle(tmp_path / "a", _MODELS[0])
    worker = Worker(tmp_path, tmp_path / "a", root)
    yield worker, variant
    if worker.process.poll() is None:
        worker.process.kill()
        worker.process.wait()


def test_it_answers_swaps_and_ends(served: tuple[Worker, str], tmp_path: Path) -> None:
    worker, variant = served
    client = Client(worker.socket)
    inputs = models.affine_inputs(1)
    answer = client.ask({"op": "infer"}, inputs)
    assert answer.header["ok"], answer.header
    assert answer.header["variant"] == variant
    assert answer.header["latency_ms"] > 0
    assert np.allclose(answer.tensors[0], models.affine(inputs), atol=1e-5)

    assert client.ask({"op": "check"}).header["golden_ok"] is True
    stats = client.ask({"op": "stats"}).header
    assert (stats["requests"], stats["errors"], stats["latency"]["count"]) == (1, 0, 1)

    successor = models.affine_bundle(tmp_path / "b", _MODELS[3])
    swapped = client.ask({"op": "swap", "folder": str(tmp_path / "b")}).header
    assert (swapped["ok"], swapped["variant"]) == (True, successor)
    second = Client(worker.socket)
    assert second.ask({"op": "infer"}, inputs).header["variant"] == successor
    second.close()
    client.close()

    result = worker.stop()
    assert result == {"variant": successor, "overlay": "", "requests": 2, "errors": 0, "swaps": 1}
    assert not worker.socket.exists()


def test_mistakes_are_answers_and_the_connection_lives_on(
    served: tuple[Worker, str], tmp_path: Path
) -> None:
    worker, variant = served
    client = Client(worker.socket)
    wrong_shape = np.zeros((1, 5), dtype=np.float32)
    assert client.ask({"op": "infer"}, wrong_shape).header["code"] == "input_mismatch"
    assert client.ask({"op": "infer"}).header["code"] == "input_mismatch"
    assert client.ask({"op": "dance"}).header["code"] == "op_unknown"
    models.affine_bundle(tmp_path / "wrong", _MODELS[0], wrong=True)
    refused = client.ask({"op": "swap", "folder": str(tmp_path / "wrong")}).header
    assert refused["code"] == "golden_failed"
    assert client.ask({"op": "swap"}).header["code"] == "invalid"
    shadowed = {"op": "shadow", "folder": str(tmp_path / "wrong")}
    assert client.ask(shadowed).header["code"] == "golden_failed"
    stats = client.ask({"op": "stats"}).header  # three requests of callers; the rest is ours
    assert (stats["variant"], stats["errors"], stats["latency"]) == (variant, 3, None)
    client.close()


def test_broken_framing_ends_only_its_own_connection(served: tuple[Worker, str]) -> None:
    worker, _ = served
    for garbage in (b"\xff\xff\xff\xff", b"\x00\x00\x00\x02[]", b"\x00\x00\x00\x03{x}"):
        client = Client(worker.socket)
        client.stream.write(garbage)
        client.stream.flush()
        answer = frames.read(client.stream)  # type: ignore[arg-type]
        assert answer is not None
        assert answer.header["code"] == "frame"
        assert client.stream.read() == b""
        client.close()
    client = Client(worker.socket)
    assert client.ask({"op": "stats"}).header["ok"]
    client.close()


def test_an_idle_connection_does_not_hold_up_the_end(served: tuple[Worker, str]) -> None:
    worker, _ = served
    client = Client(worker.socket)
    client.ask({"op": "stats"})
    worker.stop()
    client.close()


def test_a_model_that_answers_wrong_is_never_ready(tmp_path: Path) -> None:
    models.affine_bundle(tmp_path, _MODELS[0], wrong=True)
    with pytest.raises(JobError, match="answers wrong"):
        serve.Service(str(tmp_path), "", RuntimeOptions())


def test_a_long_socket_path_says_what_to_do(tmp_path: Path) -> None:
    models.affine_bundle(tmp_path, _MODELS[0])
    service = serve.Service(str(tmp_path), "", RuntimeOptions())
    with pytest.raises(JobError, match="shorter data directory"):
        serve.Server(tmp_path / ("x" * 100), service)
