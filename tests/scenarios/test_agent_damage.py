"""What lies on the disk is damaged while the device is off: it comes back, serves, and says so."""

from __future__ import annotations

import json
import os
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from agent.errors import JournalError
from agent.jobs import PARENT_VARIABLE, CheckJob, StageJob, WorkerFailure
from agent.runner import ProcessRunner
from agent.slots import Slots
from agent.testing import checked, fails, fetched, hang
from agent.workers import check
from agent.workers.child import JobError
from fitment.core.deployment import Outcome
from tests.integration.worker_models import affine_bundle, affine_models

from .agent_world import SLOT, World, assignment, bundle

Damage = Callable[[bytes], bytes]
DAMAGES: dict[str, Damage] = {
    "flipped": lambda data: bytes(b ^ 0x55 for b in data),
    "flipped in the middle": lambda data: (
        data[: len(data) // 2] + bytes(b ^ 0x55 for b in data[len(data) // 2 :][:64])
        + data[len(data) // 2 + 64 :]
    ),
    "truncated": lambda data: data[: len(data) // 2],
    "zeroed": lambda data: bytes(len(data)),
    "empty": lambda _data: b"",
}  # fmt: skip


def updated(folder: Path) -> World:
    """A device that runs v2 after v1, and lost its power without closing anything."""
    world = World(folder)
    for number, name in enumerate(("v1", "v2"), 1):
        world.wish(assignment(f"d-{number}", name=name, counter=number))
        world.finish(f"d-{number}")
    return world


def off(world: World, folder: Path, *, closed: bool) -> Path:
    """The disk as a power loss leaves it, with a write-ahead log; or as an orderly end does."""
    if closed:
        world.supervisor.close()
    shutil.copytree(world.folders.data_dir, folder, symlinks=True)
    world.kill()
    return folder


@pytest.mark.parametrize("damage", DAMAGES.values(), ids=DAMAGES)
@pytest.mark.parametrize("place", ["file", "log", "all", "closed"])
def test_a_damaged_journal_costs_no_model_and_no_counter(
    place: str, damage: Damage, tmp_path: Path
) -> None:
    before = updated(tmp_path / "before")
    folder = off(before, tmp_path / "after", closed=place == "closed")
    names = {"file": ["journal.db"], "log": ["journal.db-wal"], "closed": ["journal.db"],
             "all": ["journal.db", "journal.db-wal", "journal.db-shm"]}  # fmt: skip
    for name in names[place]:
        path = folder / name
        assert path.stat().st_size > 0
        path.write_bytes(damage(path.read_bytes()))
    world = World(folder)
    world.run(10)
    slot = world.slot()
    assert slot is not None
    assert (world.serves(), slot.variant, slot.counter) == ("v2", bundle("v2").variant, 2)
    assert slot.serving
    # The log has every page that the file had, unless an empty file makes it one of no database.
    whole = place == "file" and damage is not DAMAGES["empty"]
    assert ("journal" in " ".join(world.reported.notes)) is not whole
    world.wish(assignment("d-3", name="v3", counter=3))
    assert world.finish("d-3").outcome is Outcome.COMMITTED
    world.supervisor.close()
    again = World(folder)
    again.run(10)
    assert again.reported.notes == ()
    assert again.serves() == "v3"


def test_a_journal_that_is_a_day_old_does_not_bring_an_old_release_back(tmp_path: Path) -> None:
    world = World(tmp_path / "device")
    world.wish(assignment("d-1"))
    world.finish("d-1")
    world.supervisor.close()
    old = (tmp_path / "device" / "journal.db").read_bytes()
    world = World(tmp_path / "device")
    world.wish(assignment("d-2", name="v2", counter=2))
    world.finish("d-2")
    world.supervisor.close()
    (tmp_path / "device" / "journal.db").write_bytes(old)
    world = World(tmp_path / "device")
    world.run(10)
    assert world.serves() == "v2"
    assert world.journal.slot(SLOT).counter == 2
    assert "slots were read from disk" in " ".join(world.reported.notes)


def test_facts_of_a_commit_that_did_not_hold_are_taken_back(tmp_path: Path) -> None:
    world = World(tmp_path)
    world.wish(assignment("d-1"))
    world.finish("d-1")
    world.wish(assignment("d-2", name="v2", counter=2))
    world.until("trial", "d-2")
    save = world.journal.save_slot

    def refuse(_facts: object) -> None:
        raise OSError(5, "the disk is broken")

    world.journal.save_slot = refuse  # type: ignore[method-assign]
    report = world.finish("d-2")
    world.journal.save_slot = save  # type: ignore[method-assign]
    assert report.outcome is Outcome.ROLLED_BACK
    assert world.serves() == "v1"
    facts = json.loads((tmp_path / "slots" / SLOT / "facts.json").read_text())
    assert (facts["counter"], facts["last_good"]) == (1, "a")
    for path in tmp_path.glob("journal.db*"):
        path.unlink()
    world = World(tmp_path)
    world.run(5)
    assert world.serves() == "v1"
    assert world.journal.slot(SLOT).variant == bundle("v1").variant


def test_facts_that_name_a_lost_folder_do_not_hide_the_one_that_serves(tmp_path: Path) -> None:
    slots = Slots(updated(tmp_path).folders.slots)
    path = tmp_path / "slots" / SLOT / "facts.json"
    facts = json.loads(path.read_text())
    shutil.rmtree(slots.folder(SLOT, facts["last_good"]))
    slots.switch(SLOT, "a" if facts["last_good"] == "b" else "b")
    (slots.link(SLOT) / "bundle.json").write_text('{"name": "other"}')
    found = slots.restore(SLOT)
    assert (found.name, found.counter, found.last_good) == ("other", 2, slots.active(SLOT))


def damaged(job: CheckJob) -> Any:
    """What the real worker says of files that differ from their manifest, the spare one's not."""
    if job.folder.endswith("/b"):
        return WorkerFailure(code="bundle_damaged", message="model.onnx differs", permanent=True)
    return checked(job)


def booted_with_damage(folder: Path) -> World:
    """v2 runs in folder b, and is damaged while the machine is off."""
    world = updated(folder)
    world.wish()
    world.run(5)
    assert world.slots.active(SLOT) == "b"
    world.supervisor.close()
    world.boot_id = "another boot"
    world.runner.script = {"check": [damaged]}
    world.runner.started.clear()
    world.boot(reachable=False)
    return world


def test_a_damaged_slot_is_found_before_it_serves_and_fetched_again(tmp_path: Path) -> None:
    world = booted_with_damage(tmp_path)
    world.link.connect()
    world.steps(1)
    slot = world.slot()
    assert slot is not None
    assert not slot.serving
    assert world.runner.names() == ["check"]
    report = world.finish("d-2.mend-1")
    assert report.outcome is Outcome.COMMITTED
    assert "fetch" in world.runner.names()
    assert (world.serves(), world.slots.active(SLOT)) == ("v2", "a")
    slot = world.slot()
    assert slot is not None
    assert (slot.variant, slot.counter, slot.serving) == (bundle("v2").variant, 2, True)
    benchmark = next(job for name, job in world.runner.started if name == "benchmark")
    assert benchmark.baseline_folder == ""
    world.wish()
    world.run(60)
    assert world.reported.deployments == ()
    assert world.reported.notes == ()


def test_a_damaged_slot_waits_for_the_network_and_is_mended_once_a_boot(tmp_path: Path) -> None:
    world = booted_with_damage(tmp_path)
    world.runner.script["fetch"] = [fails("unavailable")]
    world.run(120)
    slot = world.journal.slot(SLOT)
    assert (slot.golden_ok, slot.damaged) == (False, False)
    assert "model.onnx differs" in slot.reason
    world.runner.script["fetch"] = [fails("disk", permanent=True)]
    world.link.connect()
    assert world.finish("d-2.mend-1").outcome is Outcome.FAILED
    world.run(300)
    assert world.states("d-2.mend-2") == []
    assert world.serves() == "v2"
    world.supervisor.close()
    world.boot_id = "a third boot"
    world.runner.script = {"check": [damaged]}
    world.boot()
    assert world.finish("d-2.mend-2").outcome is Outcome.COMMITTED


def test_an_order_of_the_controller_comes_before_mending(tmp_path: Path) -> None:
    world = booted_with_damage(tmp_path)
    world.runner.script["fetch"] = [hang]
    world.steps(50)
    assert world.supervisor._deployer.record is not None
    world.runner.script["fetch"] = [fetched]
    world.link.connect()
    world.wish(assignment("d-3", name="v3", counter=3))
    assert world.finish("d-3").outcome is Outcome.COMMITTED
    assert world.report("d-2.mend-1").outcome is Outcome.SUPERSEDED
    assert world.serves() == "v3"


def test_a_slot_whose_folder_is_gone_is_fetched_again(tmp_path: Path) -> None:
    world = updated(tmp_path)
    world.wish()
    world.run(5)
    world.supervisor.close()
    shutil.rmtree(world.slots.folder(SLOT, "b"))
    world.boot_id = "another boot"
    world.boot()
    assert world.finish("d-2.mend-1").outcome is Outcome.COMMITTED
    assert world.serves() == "v2"


def test_the_worker_finds_every_damage(tmp_path: Path) -> None:
    folder = tmp_path / "bundle"
    variant = affine_bundle(folder, affine_models()[0])
    job = CheckJob(result="", folder=str(folder), variant=variant)
    assert check.handle(job).golden_ok
    for path in sorted(folder.iterdir()):
        content = path.read_bytes()
        for damage in (*DAMAGES.values(), None):
            if damage is None:
                path.unlink()
            else:
                path.write_bytes(damage(content))
            with pytest.raises(JobError) as caught:
                check.handle(job)
            assert caught.value.code in ("bundle_damaged", "bundle_invalid"), path.name
        path.write_bytes(content)
    assert check.handle(job).golden_ok


# --- a disk that refuses, and workers that do ---


@pytest.mark.skipif(os.geteuid() != 0, reason="mounting needs root")
def test_a_read_only_disk_serves_on_and_goes_on_when_it_is_writable_again(tmp_path: Path) -> None:
    disk = tmp_path / "disk"
    disk.mkdir()
    if subprocess.run(["mount", "-t", "tmpfs", "none", disk], check=False).returncode:
        pytest.skip("this machine mounts nothing")
    try:
        world = World(disk / "device")
        world.wish(assignment("d-1"))
        world.finish("d-1")
        world.wish(assignment("d-2", name="v2", counter=2))
        world.until("staging", "d-2")
        world.kill()
        remount(disk, "ro")
        with pytest.raises(JournalError, match="read"):
            World(disk / "device").steps(5)
        assert world.serves() == "v1"
        remount(disk, "rw")
        world.boot()
        world.wish(assignment("d-2", name="v2", counter=2))
        assert world.finish("d-2").outcome is Outcome.COMMITTED
        assert world.serves() == "v2"
        world.supervisor.close()
    finally:
        subprocess.run(["umount", "-l", disk], check=True)


def remount(disk: Path, mode: str) -> None:
    subprocess.run(["mount", "-o", f"remount,{mode}", disk], check=True)


PYTHON = """#!/bin/sh
export PYTHONPATH={root}:{root}/protos
exec {python} -c 'import ctypes, resource, sys, time
from agent.jobs import StageResult
from agent.workers import child
def hangs(job): time.sleep(600)
def crashes(job): ctypes.string_at(0)
def eats(job):
    resource.setrlimit(resource.RLIMIT_DATA, (1 << 28, 1 << 28))
    return bytes(1 << 30)
def is_killed(job): import os; os.kill(os.getpid(), 9)
sys.argv[1:] = [sys.argv[-1]]
sys.exit(child.run("stage", {act}))' "$@"
"""


@pytest.mark.parametrize(
    ("act", "deadline_s", "code", "words"),
    [
        ("hangs", 0.5, "deadline", "still running"),
        ("crashes", 1e9, "died", "SIGSEGV"),
        ("eats", 1e9, "out_of_memory", "more memory than it may use"),
        ("is_killed", 1e9, "died", "SIGKILL"),
    ],
)
def test_a_worker_that_fails_is_told_from_others_and_leaves_nothing(
    act: str, deadline_s: float, code: str, words: str, tmp_path: Path, root: Path
) -> None:
    python = tmp_path / "python"
    python.write_text(PYTHON.format(root=root, python=sys.executable, act=act))
    python.chmod(0o755)
    runner = ProcessRunner(tmp_path / "jobs", python=str(python))
    job = StageJob(result="", archive_path="", folder=str(tmp_path / "slot"), variant="")
    running = runner.start("stage", job, deadline_s=deadline_s)
    started = time.monotonic()
    finished = None
    while finished is None and time.monotonic() < started + 30:
        time.sleep(0.02)
        finished = running.poll(time.monotonic() - started)
    assert finished is not None
    assert finished.failure is not None
    assert finished.failure.code == code, finished.failure
    assert words in finished.failure.message
    assert not finished.failure.permanent
    assert list((tmp_path / "jobs").iterdir()) == []


def test_a_worker_whose_supervisor_died_while_it_started_does_nothing(
    tmp_path: Path, root: Path
) -> None:
    job, result = tmp_path / "job.json", tmp_path / "result.json"
    job.write_text(json.dumps({"result": str(result), "archive_path": "", "folder": "",
                               "variant": ""}))  # fmt: skip
    gone = subprocess.Popen(["true"])
    gone.wait()
    done = subprocess.run(
        [sys.executable, "-m", "agent.workers.stage", job], cwd=root, check=False,
        env={**os.environ, PARENT_VARIABLE: str(gone.pid)},
    )  # fmt: skip
    assert done.returncode == -signal.SIGKILL
    assert not result.exists()
