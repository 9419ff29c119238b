"""Signed metadata of yesterday: what a real client refuses, and how its own word mends that."""

from __future__ import annotations

import shutil
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from agent import trusted
from agent.workers import verify
from controller.trust import Trust
from tests.integration.test_trust_verify import Device, failure
from tests.integration.trust_server import Controller


class Clock:
    """One that went wrong: versions of the metadata are not saved by the time."""

    def __init__(self) -> None:
        self.now = time.time()

    def __call__(self) -> float:
        return self.now


@pytest.fixture
def controller(tmp_path: Path) -> Iterator[Controller]:
    running = Controller(tmp_path / "controller", Clock())
    yield running
    running.stop()


def restored(controller: Controller, copy: Path, *, offline: bool = True) -> None:
    """Yesterday's trust folder in place of today's."""
    folder = controller.folder / "trust"
    shutil.rmtree(folder)
    shutil.copytree(copy, folder)
    keys = controller.folder / "offline" if offline else None
    controller.trust = Trust.open(folder, keys, clock=controller.trust.repository._clock)


def test_the_devices_word_moves_the_metadata_on(controller: Controller, tmp_path: Path) -> None:
    device = Device(controller, tmp_path / "device")
    ref = controller.publish()
    device.fetch(ref)
    before = controller.assignment(ref, counter=1)
    shutil.copytree(controller.folder / "trust", tmp_path / "yesterday")
    controller.publish(b"later")
    verify.handle(device.job(controller.assignment(ref, counter=2)))
    seen = trusted.versions(tmp_path / "device" / "metadata")
    assert set(seen) == {"timestamp", "snapshot", "targets", "compressor"}

    restored(controller, tmp_path / "yesterday")
    failure(device.job(before), "metadata_rollback", permanent=False)
    signed = controller.trust.repository.move_past(seen)
    assert set(signed) == {"timestamp", "snapshot", "targets", "compressor"}
    verify.handle(device.job(before))
    assert controller.trust.repository.move_past(seen) == ()  # said again, nothing is done
    verify.handle(device.job(controller.assignment(ref, counter=3)))
    now = trusted.versions(tmp_path / "device" / "metadata")
    assert all(now[role] > version for role, version in seen.items())


def test_without_the_offline_keys_it_says_what_is_missing(
    controller: Controller, tmp_path: Path
) -> None:
    device = Device(controller, tmp_path / "device")
    ref = controller.publish()
    device.fetch(ref)
    before = controller.assignment(ref, counter=1)
    shutil.copytree(controller.folder / "trust", tmp_path / "yesterday")
    verify.handle(device.job(controller.assignment(ref, counter=2)))
    seen = trusted.versions(tmp_path / "device" / "metadata")

    restored(controller, tmp_path / "yesterday", offline=False)
    signed = controller.trust.repository.move_past(seen)
    assert "targets" not in signed
    (note,) = controller.trust.repository.notes()
    assert "'targets' has a version below one that devices have trusted" in note
    failure(device.job(before), "metadata_rollback", permanent=False)


def test_nobody_is_believed_who_has_seen_next_century(controller: Controller) -> None:
    repository = controller.trust.repository
    assert repository.move_past({"timestamp": 2**62, "snapshot": int(time.time()) * 3}) == ()
    assert repository.move_past({"timestamp": -1, "root": 9, "no such role": 5}) == ()


def test_versions_of_a_device_that_never_verified(tmp_path: Path) -> None:
    assert trusted.versions(tmp_path) == {}
    (tmp_path / "timestamp.json").write_text('{"signed": []}')
    (tmp_path / "snapshot.json").write_text('{"signed": {"version": "7", "meta": {"a": 1}}}')
    assert trusted.versions(tmp_path) == {}
