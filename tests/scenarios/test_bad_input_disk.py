"""The matrix of bad input, third part: artifacts that are not what was signed, and full disks.

Full disks are real ones: a file system of a few MiB that is filled to the last block. What a
transfer does when its disk fills up on the way is held by `tests/integration/test_fetch.py`.
"""

from __future__ import annotations

import json
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from agent import cli as agent_cli
from agent.errors import JournalError
from agent.jobs import EnrollJob, FetchJob, StageJob, StageResult, WorkerFailure
from agent.workers import enroll
from controller import cli
from controller.artifacts.blobs import FolderBlobs
from controller.gateway.broker import find_mosquitto
from fitment.core import digest
from fitment.core.deployment import Outcome
from tests.integration.gateway_peers import wait_for
from tests.integration.test_agent_process import Place
from tests.integration.test_trust_workers import run as run_worker
from tests.integration.trust_server import Controller

from .agent_world import World, assignment
from .bad_world import (
    Terminal,
    full,
    grow,
    kept,
    one_line,
    records,
    serving,
    small_disk,
    unfinished,
    write_workload,
)

MOSQUITTO = find_mosquitto()
needs_broker = pytest.mark.skipif(MOSQUITTO.program is None, reason=MOSQUITTO.reason)


@pytest.fixture
def place(tmp_path: Path) -> Iterator[Place]:
    made = Place(tmp_path)
    yield made
    made.close()


@pytest.fixture
def controller(tmp_path: Path) -> Iterator[Controller]:
    made = Controller(tmp_path / "controller")
    yield made
    made.stop()


@pytest.fixture
def terminal(capsys: pytest.CaptureFixture[str]) -> Terminal:
    return Terminal(capsys)


def active(place: Place) -> str:
    """The variant in the folder that applications read."""
    manifest = place.data_dir / "slots" / "shoes" / "active" / "bundle.json"
    return digest.digest_bytes(manifest.read_bytes())


def reasons(place: Place, deployment: str) -> str:
    """What the device last said of a deployment."""
    reports = (r for state in reversed(place.reported) for r in state.deployments)
    found = next((r.reasons for r in reports if r.deployment == deployment), ())
    return " | ".join(found)


# --- artifacts -----------------------------------------------------------------------------------


@needs_broker
def test_an_artifact_that_is_not_what_was_signed_is_never_run(place: Place) -> None:
    place.enroll()
    place.run()
    good = place.order("model-1", 0, counter=1)
    place.wish(good)
    assert place.outcome("d-1") is Outcome.COMMITTED
    for counter, damage in enumerate(("altered", "truncated"), 2):
        order = place.order(f"model-{counter}", counter % 2, counter=counter)
        path = place.controller.blobs.path(order.bundle.archive)
        data = path.read_bytes()
        middle = len(data) // 2
        altered = data[:middle] + bytes([data[middle] ^ 1]) + data[middle + 1 :]
        path.write_bytes(altered if damage == "altered" else data[:middle])
        asked = len(place.controller.book.offsets)
        place.wish(order)
        early = f"the transfer ended {len(data) - middle} bytes early"
        words = "the received file has digest" if damage == "altered" else early
        assert wait_for(lambda: words in reasons(place, order.deployment), 20), words  # noqa: B023
        (slot,) = place.reported[-1].slots
        assert (slot.variant, slot.serving) == (good.bundle.variant, True)
        assert active(place) == good.bundle.variant
        # Mended on the other side, the deployment that was waiting for it goes on: no second one.
        path.write_bytes(data)
        assert place.outcome(order.deployment) is Outcome.COMMITTED
        assert active(place) == order.bundle.variant
        # Altered bytes were asked for again from the start, cut ones from where they end.
        again = 0 if damage == "altered" else middle
        offsets = place.controller.book.offsets[asked:]
        assert (offsets[0], set(offsets[1:])) == (0, {again})
        ended = {r.deployment: r.outcome for r in place.reported[-1].deployments}
        assert ended == {order.deployment: Outcome.COMMITTED}
        assert unfinished(place.data_dir) == []
        good = order


# --- full disks of a device ----------------------------------------------------------------------


def test_an_enrolment_without_room_burns_no_token(
    controller: Controller, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    text = controller.token()
    with small_disk(tmp_path / "device", "1m") as disk:
        arguments = [
            "enroll", "--controller", controller.enroll_address, "--token", text,
            "--device", "cam-1", "--data-dir", str(disk / "data"),
        ]  # fmt: skip
        for but, words in ((0, "No space left on device"), (64 * 1024, "the token is still good")):
            with full(disk, but=but):
                assert agent_cli.main(arguments) == 1
            said = one_line(capsys.readouterr().err, "fitment-agent")
            assert str(disk / "data") in said
            assert "make room on this disk" in said
            assert words in said
            assert controller.book.names == set()
            assert unfinished(disk) == []
            assert list((disk / "data" / "work" / "jobs").iterdir()) == []
        assert agent_cli.main(arguments) == 0
        assert controller.book.names == {"cam-1"}
        assert unfinished(disk) == []


def test_a_bundle_that_does_not_fit_is_not_begun(
    controller: Controller, tmp_path: Path, root: Path
) -> None:
    keys, ref = tmp_path / "keys", controller.publish(bytes(range(256)) * 4)
    enroll.handle(
        EnrollJob(
            result="", controller=controller.enroll_address, token=controller.token(),
            device="cam-1", keys=str(keys),
        )
    )  # fmt: skip
    with small_disk(tmp_path / "disk", "1m") as disk:
        job = FetchJob(
            result=str(tmp_path / "result"), connection=controller.connection(keys),
            archive=ref.archive, archive_bytes=ref.archive_bytes, target=str(disk / "work" / "a"),
        )  # fmt: skip
        failure = run_worker(job, root)
        assert (failure.code, failure.permanent) == ("disk_full", False)
        assert str(disk) in failure.message
        assert "make room on this disk" in failure.message
        assert controller.book.offsets == []
        assert list((disk / "work").iterdir()) == []


def test_a_bundle_that_fills_the_disk_leaves_nothing_behind(
    controller: Controller, tmp_path: Path, root: Path
) -> None:
    random = b"".join(bytes.fromhex(digest.digest_bytes(bytes([n]))[7:]) for n in range(64))
    ref = controller.publish(random * 200)  # 400 kB unpacked, little on the wire
    archive = tmp_path / "archive"
    archive.write_bytes(controller.blobs.path(ref.archive).read_bytes())
    with small_disk(tmp_path / "disk", "256k") as disk:
        (disk / "a").mkdir()
        (disk / "a" / "model.onnx").write_bytes(b"what serves")
        job = StageJob(
            result=str(tmp_path / "result"), archive_path=str(archive), folder=str(disk / "b"),
            variant=ref.variant,
        )  # fmt: skip
        failure = run_worker(job, root)
        assert isinstance(failure, WorkerFailure)
        assert (failure.code, failure.permanent) == ("disk_full", False)
        assert failure.message == f"no room to unpack into {disk / 'b'}: make room on this disk"
        assert [path.name for path in disk.iterdir()] == ["a"]
        assert (disk / "a" / "model.onnx").read_bytes() == b"what serves"
        grow(disk, "2m")
        assert isinstance(run_worker(job, root), StageResult)


def test_an_order_that_comes_while_the_journal_refuses_is_not_lost(tmp_path: Path) -> None:
    """The same without a small disk: SQLite itself refuses to write."""
    world = World(tmp_path)
    world.wish(assignment("d-1"))
    world.finish("d-1")
    world.run(10)  # until nothing is due: only what comes now can make it act
    world.journal.rows("PRAGMA query_only = ON")
    world.wish(assignment("d-2", name="v2", counter=2))
    for _ in range(2):
        with pytest.raises(JournalError, match="the journal cannot be written"):
            world.supervisor.step()
    assert world.serves() == "v1"
    world.journal.rows("PRAGMA query_only = OFF")
    assert world.finish("d-2").outcome is Outcome.COMMITTED
    assert world.serves() == "v2"
    assert world.states("d-2").count("fetching") == 1


@needs_broker
def test_an_agent_on_a_full_disk_serves_on_and_takes_the_next_when_there_is_room(
    tmp_path: Path,
) -> None:
    with small_disk(tmp_path / "agent", "24m") as disk:
        place = Place(tmp_path)
        place.data_dir = disk / "data"
        try:
            _fill_and_free(place, disk)
        finally:
            place.close()


def _fill_and_free(place: Place, disk: Path) -> None:
    place.enroll()
    agent = place.run()
    first, second = place.order("first", 0, counter=1), place.order("second", 1, counter=2)
    place.wish(first)
    assert place.outcome("d-1") is Outcome.COMMITTED
    with full(disk):
        place.wish(second)
        time.sleep(1.0)
        assert agent.poll() is None, agent.communicate()[1]
        assert active(place) == first.bundle.variant
    assert place.outcome("d-2") is Outcome.COMMITTED, reasons(place, "d-2")
    assert active(place) == second.bundle.variant
    (slot,) = place.reported[-1].slots
    assert (slot.variant, slot.counter, slot.serving) == (second.bundle.variant, 2, True)
    agent.terminate()
    _, log = agent.communicate(timeout=20)
    assert agent.returncode == 0
    assert "Traceback" not in log
    trouble = [line for line in log.splitlines() if "action=trouble" in line]
    assert any("journal" in line and "full" in line for line in trouble), log
    jobs = disk / "data" / "work" / "jobs"
    assert [path.name for path in jobs.iterdir()] == []


# --- full disks of a controller ------------------------------------------------------------------


def test_a_controller_on_a_full_disk_says_so_and_goes_on_when_there_is_room(
    terminal: Terminal, tmp_path: Path, root: Path
) -> None:
    good = write_workload(tmp_path / "given")
    with small_disk(tmp_path / "disk", "16m") as disk, serving(disk / "data", root) as running:
        data = str(running.data_dir)
        assert terminal.run("token", "create", "--data-dir", data).code == 0
        before, files = records(running), kept(running.data_dir)
        commands = (("token", "create"), ("model", "register", str(good)))
        with full(disk):
            for command in commands:
                said = terminal.refused(*command, "--data-dir", data, code=cli.FAILURE)
                assert "disk" in said
                assert "make room" in said
            assert records(running) == before  # it still answers
        assert kept(running.data_dir) == files
        assert records(running) == before
        for command in commands:
            done = terminal.run(*command, "--data-dir", data)
            assert done.code == 0, done.error
        with running.client() as client:
            actions = [entry.action for entry in client.audit()]
        assert (actions.count("token_created"), actions.count("model_registered")) == (2, 1)


def test_a_device_is_not_half_admitted_on_a_full_disk(
    tmp_path: Path, root: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    with small_disk(tmp_path / "disk", "16m") as disk, serving(disk / "data", root) as running:
        with running.client() as client:
            text = client.create_token(60.0).text
        arguments = [
            "enroll", "--controller", running.addresses.enroll, "--token", text,
            "--device", "edge-1", "--data-dir", str(tmp_path / "edge-1"),
        ]  # fmt: skip
        with full(disk):
            assert agent_cli.main(arguments) == 4
        said = one_line(capsys.readouterr().err, "fitment-agent")
        assert "disk" in said
        with running.client() as client:
            assert client.devices() == ()
        assert agent_cli.main(arguments) == 0
        with running.client() as client:
            assert [device.name for device in client.devices()] == ["edge-1"]


def test_a_blob_is_whole_or_not_there(tmp_path: Path) -> None:
    source = tmp_path / "source"
    source.write_bytes(bytes(range(256)) * 4096)  # 1 MiB
    with small_disk(tmp_path / "disk", "2m") as disk:
        blobs = FolderBlobs(disk / "blobs")
        known = blobs.put_bytes(b"known")
        with full(disk):
            for put in (lambda: blobs.put_file(source), lambda: blobs.put_bytes(b"more" * 4096)):
                with pytest.raises(OSError, match="No space left"):
                    put()
            assert unfinished(disk) == []
            assert blobs.read(known, 0, 10) == b"known"
        stored = blobs.put_file(source)
        assert digest.digest_bytes(blobs.read(stored, 0, 1 << 20)) == stored


def test_a_fit_without_room_says_so_and_can_be_run_again(
    terminal: Terminal, tmp_path: Path
) -> None:
    path = write_workload(tmp_path / "given")
    with small_disk(tmp_path / "disk", "4m") as disk:
        command = ("fit", str(path), "--profile", "generic-x86_64", "--out", str(disk / "out"))
        with full(disk):
            said = terminal.refused(*command, code=cli.FAILURE)
        assert "disk is full" in said
        assert str(disk) in said
        assert unfinished(disk) == []
        # Some room, but not enough: a worker cannot even write down why it ended.
        said = terminal.refused(*command, code=cli.FAILURE)
        assert f"the disk of {disk / 'out'}" in said
        assert "is full; make room there and start it again" in said
        assert not (disk / "out" / "variants.json").exists()
        grow(disk, "64m")
        assert terminal.run(*command).code == 0
        assert json.loads((disk / "out" / "variants.json").read_text())["chosen"]
        assert unfinished(disk) == []
