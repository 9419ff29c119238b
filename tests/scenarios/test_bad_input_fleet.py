"""The matrix of bad input, second part: what devices and applications show.

Tokens, certificates, applications: each against real processes on loopback. The list of rows that
other tests hold is in `test_bad_input`.
"""

from __future__ import annotations

import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from agent import cli as agent_cli
from agent.jobs import EnrollJob, FetchJob
from agent.workers import enroll
from controller.gateway.broker import find_mosquitto
from fitment.core.bundle import BundleManifest, IoSpec, TensorSpec
from tests.integration import worker_models as models
from tests.integration.gateway_peers import wait_for
from tests.integration.test_serve import Running, start
from tests.integration.test_trust_workers import run as run_worker
from tests.integration.test_workers_serve import Client, Worker
from tests.integration.trust_server import Controller

from .bad_world import one_line, records, serving

MOSQUITTO = find_mosquitto()
needs_broker = pytest.mark.skipif(MOSQUITTO.program is None, reason=MOSQUITTO.reason)


@pytest.fixture(scope="module")
def running(tmp_path_factory: pytest.TempPathFactory, root: Path) -> Iterator[Running]:
    with serving(tmp_path_factory.mktemp("fleet") / "data", root) as made:
        yield made
        assert "Traceback" not in (made.data_dir / "log").read_text()


@pytest.fixture(scope="module")
def other(tmp_path_factory: pytest.TempPathFactory, root: Path) -> Iterator[Running]:
    """A controller of somebody else."""
    with serving(tmp_path_factory.mktemp("other") / "data", root) as made:
        yield made


def token(running: Running, ttl_s: float = 60.0) -> str:
    with running.client() as client:
        return client.create_token(ttl_s, {}).text


def enrol(running: Running, text: str, device: str, data_dir: Path) -> int:
    return agent_cli.main([
        "enroll", "--controller", running.addresses.enroll, "--token", text,
        "--device", device, "--data-dir", str(data_dir),
    ])  # fmt: skip


# --- tokens --------------------------------------------------------------------------------------


def _used(running: Running, _other: Running, spare: Path) -> str:
    text = token(running)
    assert enrol(running, text, "used-by", spare) == 0
    with running.client() as client:
        client.revoke("used-by")
    return text


def _expired(running: Running, _other: Running, _spare: Path) -> str:
    text = token(running, 0.2)
    time.sleep(0.3)
    return text


def _unknown(running: Running, _other: Running, _spare: Path) -> str:
    secret = token(running).split(".")
    return f"fit1.{secret[1][::-1]}.{secret[2]}"


Make = Callable[[Running, Running, Path], str]
TOKENS: Mapping[str, tuple[Make, tuple[str, ...]]] = {
    "none at all": (lambda *_: "let-me-in", ("no enrolment token", "copy the whole line")),
    "cut": (lambda a, *_: token(a)[:-5], ("no enrolment token", "copy the whole line")),
    "used": (_used, ("used already, by 'used-by'", "make a new one: fitment token create")),
    "expired": (_expired, ("this token has expired", "make a new one: fitment token create")),
    "unknown": (_unknown, ("this token is not known here", "fitment token create")),
    "another controller's": (
        lambda _a, b, _s: token(b),
        ("is not the controller that made this token", "check the address"),
    ),
}


@pytest.mark.parametrize("name", TOKENS)
def test_a_wrong_token_admits_nobody(
    name: str, running: Running, other: Running, tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
) -> None:  # fmt: skip
    make, words = TOKENS[name]
    text = make(running, other, tmp_path / "spare")
    before = records(running)
    capsys.readouterr()
    assert enrol(running, text, "stranger", tmp_path / "device") == 2
    said = one_line(capsys.readouterr().err, "fitment-agent")
    assert [part for part in words if part not in said] == [], said
    assert records(running) == before
    # At most the key is there, which a better token certifies.
    keys = tmp_path / "device" / "keys"
    assert {path.name for path in keys.iterdir()} <= {"device.key"}
    if name == "unknown":
        made = (keys / "device.key").read_bytes()
        assert enrol(running, token(running), "mended", tmp_path / "device") == 0
        assert (keys / "device.key").read_bytes() == made


def test_a_token_admits_exactly_one_of_many_and_a_taken_name_burns_none(
    running: Running, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    text = token(running)
    base = ["-m", "agent", "enroll", "--controller", running.addresses.enroll, "--token", text]
    racing = [
        subprocess.Popen(
            [sys.executable, *base, "--device", f"racer-{n}", "--data-dir", str(tmp_path / str(n))],
            stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True,
        )
        for n in range(3)
    ]  # fmt: skip
    said = [process.communicate(timeout=60)[1] for process in racing]
    codes = [process.returncode for process in racing]
    assert sorted(codes) == [0, 2, 2], said
    winner = f"racer-{codes.index(0)}"
    assert [f"by '{winner}'" in text for text in said] == [code != 0 for code in codes]
    with running.client() as client:
        devices = [device.name for device in client.devices()]
    assert [name for name in devices if name.startswith("racer")] == [winner]

    second = token(running)
    capsys.readouterr()
    assert enrol(running, second, winner, tmp_path / "late") == 2
    assert f"named '{winner}' is enrolled already" in capsys.readouterr().err
    assert enrol(running, second, "racer-late", tmp_path / "late") == 0


# --- certificates --------------------------------------------------------------------------------


class Agent:
    """``fitment-agent run`` as a process, with its log."""

    def __init__(self, data_dir: Path, root: Path) -> None:
        self.log = data_dir / "log"
        self.log.parent.mkdir(exist_ok=True)
        with self.log.open("wb") as out:
            self.process = subprocess.Popen(
                [sys.executable, "-m", "agent", "run", "--data-dir", str(data_dir)],
                stdout=out, stderr=out, cwd=root,
            )  # fmt: skip

    def said(self, action: str) -> list[str]:
        return [line for line in self.log.read_text().splitlines() if f"action={action} " in line]

    def stop(self) -> None:
        self.process.send_signal(signal.SIGTERM)
        assert self.process.wait(20) == 0, self.log.read_text()
        assert "Traceback" not in self.log.read_text()


@contextmanager
def agents(root: Path, *data_dirs: Path) -> Iterator[list[Agent]]:
    made = [Agent(data_dir, root) for data_dir in data_dirs]
    try:
        yield made
        for agent in made:
            agent.stop()
    finally:
        for agent in made:
            if agent.process.poll() is None:
                agent.process.kill()
                agent.process.wait()


def _swap_papers(keys: Path, others: Path, names: tuple[str, ...]) -> dict[str, bytes]:
    """Put another device's files in place; gives the right ones."""
    right = {name: (keys / name).read_bytes() for name in names}
    for name in names:
        (keys / name).write_bytes((others / name).read_bytes())
    return right


FOREIGN: Mapping[str, tuple[tuple[str, ...], tuple[str, ...]]] = {
    "certificate": (
        ("device.crt", "device.key"),
        ("keys/device.crt is not valid by the authority in", "enrol this device again"),
    ),
    "authority": (
        ("device.crt", "device.key", "ca.crt"),
        ("is not certified by the authority in", "check the address, or enrol again"),
    ),
    "key": (("device.key",), ("device.key is not the key of", "enrol this device again")),
}


@pytest.mark.parametrize("link", ["grpc", pytest.param("mqtt", marks=needs_broker)])
def test_foreign_papers_do_not_get_in_and_the_right_ones_do(
    link: str, other: Running, tmp_path: Path, root: Path
) -> None:
    stranger = tmp_path / "stranger"
    assert enrol(other, token(other), f"stranger-{link}", stranger) == 0
    running = start(tmp_path / "data", root, "--link", link)
    try:
        folders = [tmp_path / kind for kind in FOREIGN]
        for kind, folder in zip(FOREIGN, folders, strict=True):
            assert enrol(running, token(running), kind, folder) == 0
        right = [
            _swap_papers(folder / "keys", stranger / "keys", names)
            for folder, (names, _) in zip(folders, FOREIGN.values(), strict=True)
        ]
        before = records(running)
        with agents(root, *folders) as started:
            for agent, (_, words) in zip(started, FOREIGN.values(), strict=True):
                assert wait_for(lambda a=agent: a.said("link_down"), 20)
                (said,) = agent.said("link_down")
                assert [part for part in words if part not in said] == [], said
            assert records(running) == before
            for folder, papers in zip(folders, right, strict=True):
                for name, data in papers.items():
                    (folder / "keys" / name).write_bytes(data)
            assert all(wait_for(lambda a=a: a.said("link_up"), 20) for a in started)
            with running.client() as client:
                assert wait_for(lambda: all(d.online for d in client.devices()), 10)
    finally:
        assert running.stop() == 0


@pytest.fixture
def controller(tmp_path: Path) -> Iterator[Controller]:
    made = Controller(tmp_path / "controller")
    yield made
    made.stop()


def _enrolled(controller: Controller, keys: Path) -> None:
    enroll.handle(
        EnrollJob(
            result="", controller=controller.enroll_address, token=controller.token(),
            device="cam-1", keys=str(keys),
        )
    )  # fmt: skip


def test_a_worker_with_a_foreign_certificate_says_so_and_waits(
    controller: Controller, other: Running, tmp_path: Path, root: Path
) -> None:
    keys, ref = tmp_path / "keys", controller.publish()
    _enrolled(controller, keys)
    assert enrol(other, token(other), "stranger-worker", tmp_path / "stranger") == 0
    names = ("device.crt", "device.key")
    right = _swap_papers(keys, tmp_path / "stranger" / "keys", names)
    job = FetchJob(
        result=str(tmp_path / "result"), connection=controller.connection(keys),
        archive=ref.archive, archive_bytes=ref.archive_bytes, target=str(tmp_path / "part"),
    )  # fmt: skip
    failure = run_worker(job, root)
    assert (failure.code, failure.permanent) == ("unavailable", False)
    assert f"{keys}/device.crt is not valid by the authority in {keys}/ca.crt" in failure.message
    assert controller.book.offsets == []
    for name, data in right.items():
        (keys / name).write_bytes(data)
    assert run_worker(job, root).total_bytes == ref.archive_bytes


# --- applications --------------------------------------------------------------------------------

IO = IoSpec(
    inputs=(TensorSpec(name="x", dtype="float32", shape=(-1, 4)),),
    outputs=(TensorSpec(name="y", dtype="float32", shape=(-1, 3)),),
    layout="NC", labels=("shoe", "shirt", "bag"), preprocessing={"mean": "0.5"},
)  # fmt: skip
EXPECTED = {
    "inputs": [{"name": "x", "shape": [1, 4]}], "outputs": [{"shape": [-1, 3]}], "layout": "NC",
    "labels": ["shoe", "shirt", "bag"], "preprocessing": {"mean": "0.5"},
}  # fmt: skip
OTHERS: Mapping[str, tuple[Any, str, str]] = {
    "shape": (
        {"inputs": [{"shape": [1, 5]}]}, "io_mismatch",
        "inputs[0] shape is [-1, 4], expected [1, 5]",
    ),
    "rank": ({"outputs": [{"shape": [3]}]}, "io_mismatch", "outputs[0] shape is [-1, 3]"),
    "count": ({"inputs": [{}, {}]}, "io_mismatch", "it has 1 inputs, expected 2"),
    "name": ({"inputs": [{"name": "z"}]}, "io_mismatch", "inputs[0] name is 'x', expected 'z'"),
    "layout": ({"layout": "NCHW"}, "io_mismatch", "layout is 'NC', expected 'NCHW'"),
    "labels": (
        {"labels": ["shirt", "shoe", "bag"]}, "io_mismatch",
        "labels is ['shoe', 'shirt', 'bag'], expected ['shirt', 'shoe', 'bag']",
    ),
    "preprocessing": (
        {"preprocessing": {"mean": "0"}}, "io_mismatch",
        "preprocessing 'mean' is '0.5', expected '0'",
    ),
    "a key that is none": ({"shape": [1, 4]}, "invalid", "'expects' has no key 'shape'"),
    "no object": (["x"], "invalid", "'expects' holds ['x']; a JSON object is expected"),
    "no list": ({"inputs": {"x": 1}}, "invalid", "'inputs' is a list of tensors"),
}  # fmt: skip


def _bundle(folder: Path, io: IoSpec | None) -> str:
    """A real model with the description that an application goes by."""
    model, inputs = models.affine_models()[0], models.affine_inputs()
    manifest = BundleManifest(
        name="fp32", model="shoes", version="2", runtime="onnx", artifact="model.onnx", io=io
    )
    answers = models.affine(inputs)
    return models.write_bundle(folder, manifest, model.data, goldens=(inputs, answers, answers))


@pytest.fixture(scope="module")
def served(tmp_path_factory: pytest.TempPathFactory, root: Path) -> Iterator[tuple[Client, Path]]:
    folder = tmp_path_factory.mktemp("serve")
    _bundle(folder / "a", IO)
    _bundle(folder / "b", replace(IO, labels=("bag", "shirt", "shoe")))
    worker = Worker(folder, folder / "a", root)
    client = Client(worker.socket)
    yield client, folder
    client.close()
    worker.stop()


@pytest.mark.parametrize("name", OTHERS)
def test_an_application_that_expects_another_io_spec_is_refused(
    name: str, served: tuple[Client, Path]
) -> None:
    client, _ = served
    expects, code, words = OTHERS[name]
    inputs = models.affine_inputs(1)
    before = client.ask({"op": "stats"}).header
    for op, tensors in (("io", ()), ("infer", (inputs,))):
        answer = client.ask({"op": op, "expects": expects}, *tensors)
        assert (answer.header["ok"], answer.header["code"]) == (False, code)
        assert answer.tensors == ()
        said = answer.header["message"]
        assert words in said
        assert "\n" not in said
        if code == "io_mismatch":
            assert "(shoes 2) is not what the application expects" in said
            assert "update the application, or roll out a release" in said
    after = client.ask({"op": "stats"}).header
    assert (after["variant"], after["requests"]) == (before["variant"], before["requests"])
    right = client.ask({"op": "infer", "expects": EXPECTED}, inputs)
    assert np.allclose(right.tensors[0], models.affine(inputs), atol=1e-5)


def test_a_swap_to_another_io_spec_does_not_answer_who_expects_the_old_one(
    served: tuple[Client, Path],
) -> None:
    client, folder = served
    inputs = models.affine_inputs(1)
    shown = client.ask({"op": "io"}).header["io"]
    assert shown["inputs"] == [{"name": "x", "dtype": "float32", "shape": [-1, 4]}]
    assert shown["labels"] == ["shoe", "shirt", "bag"]
    assert client.ask({"op": "infer", "expects": EXPECTED}, inputs).header["ok"]
    assert client.ask({"op": "swap", "folder": str(folder / "b")}).header["ok"]
    refused = client.ask({"op": "infer", "expects": EXPECTED}, inputs).header
    assert refused["code"] == "io_mismatch"
    assert "labels is ['bag', 'shirt', 'shoe']" in refused["message"]
    assert client.ask({"op": "infer"}, inputs).header["ok"]  # who states nothing is answered
    assert client.ask({"op": "swap", "folder": str(folder / "a")}).header["ok"]
    assert client.ask({"op": "infer", "expects": EXPECTED}, inputs).header["ok"]
