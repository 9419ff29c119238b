"""Attacks on what a device is told to run: each is a test with the attacker's means as its name."""

from __future__ import annotations

import time
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from tuf.api.metadata import Metadata

from agent.jobs import EnrollJob, FetchJob, VerifyJob
from agent.workers import enroll, fetch, verify
from agent.workers.child import JobError
from controller.trust.director import Director
from controller.trust.roles import LIFETIMES, SIGNED_AT, Role, load_signer
from fitment.core.bundle import ReleaseManifest
from fitment.core.deployment import Assignment, BundleRef, Lesser, Study, StudyKind
from tests.integration.trust_server import Controller, resign_metadata

DAY = 86400.0


class Clock:
    """The controller's clock: an offset to the real one."""

    def __init__(self) -> None:
        self.offset_s = 0.0

    def __call__(self) -> float:
        return time.time() + self.offset_s


@pytest.fixture
def clock() -> Clock:
    return Clock()


@pytest.fixture
def controller(tmp_path: Path, clock: Clock) -> Iterator[Controller]:
    running = Controller(tmp_path / "controller", clock)
    yield running
    running.stop()


@pytest.fixture
def device(controller: Controller, tmp_path: Path) -> Device:
    return Device(controller, tmp_path / "device")


class Device:
    """An enrolled device: fetches and verifies."""

    def __init__(self, controller: Controller, folder: Path) -> None:
        self.controller = controller
        self.folder = folder
        self.keys = folder / "keys"
        enroll.handle(
            EnrollJob(
                result="",
                controller=controller.enroll_address,
                token=controller.token(),
                device="cam-1",
                keys=str(self.keys),
            )
        )

    def fetch(self, ref: BundleRef) -> Path:
        target = self.folder / "part"
        target.unlink(missing_ok=True)
        connection = self.controller.connection(self.keys)
        fetch.handle(
            FetchJob(
                result="",
                connection=connection,
                archive=ref.archive,
                archive_bytes=ref.archive_bytes,
                target=str(target),
            )
        )
        return target

    def job(self, order: Assignment | Study, director: Director | None = None) -> VerifyJob:
        """The job for an order that is signed by the controller's director, or by another."""
        return VerifyJob(
            result="",
            connection=self.controller.connection(self.keys),
            order=(director or self.controller.trust.director).sign(order),
            kind="assignment" if isinstance(order, Assignment) else "study",
            device="cam-1",
            archive_path=str(self.folder / "part"),
            director_key=str(self.keys / "director.pub"),
            trusted_root=str(self.keys / "tuf_root.json"),
            metadata_dir=str(self.folder / "metadata"),
        )


def failure(job: VerifyJob, code: str, *, permanent: bool) -> str:
    with pytest.raises(JobError) as caught:
        verify.handle(job)
    assert (caught.value.code, caught.value.permanent) == (code, permanent), str(caught.value)
    return str(caught.value)


@pytest.fixture
def order(controller: Controller, device: Device) -> Assignment:
    ref = controller.publish()
    device.fetch(ref)
    return controller.assignment(ref, counter=3)


def test_an_honest_order_holds(device: Device, order: Assignment) -> None:
    result = verify.handle(replace(device.job(order), lowest_counter=3))
    assert (result.variant, result.counter) == (order.bundle.variant, 3)
    assert abs(result.timestamp_unix - time.time()) < 60
    assert verify.handle(device.job(order)) == result  # and again, from what it trusts by now


def test_a_study_needs_no_release(device: Device, controller: Controller) -> None:
    ref = controller.publish(b"probe")
    device.fetch(ref)
    study = Study(id="s1", kind=StudyKind.PROBE, device="cam-1", bundle=ref)
    result = verify.handle(replace(device.job(study), lowest_counter=9))
    assert (result.variant, result.counter) == (ref.variant, 0)


def test_it_follows_the_controller_over_many_versions(
    device: Device, controller: Controller
) -> None:
    for counter in range(1, 4):
        ref = controller.publish(b"model %d" % counter)
        device.fetch(ref)
        order = controller.assignment(ref, counter=counter)
        assert verify.handle(device.job(order)).counter == counter


def test_a_new_root_is_followed(device: Device, order: Assignment, controller: Controller) -> None:
    controller.trust.repository.refresh(time.time() + 330 * DAY)
    # Everything was signed for then; sign the short-lived roles for the present as well.
    controller.trust.repository.add_bundles([])
    verify.handle(device.job(order))
    assert (device.folder / "metadata" / "root_history" / "2.root.json").exists()


# -- who holds the broker or the database


def test_an_order_of_another_director(device: Device, order: Assignment, tmp_path: Path) -> None:
    other = Director.create(tmp_path / "other")
    assert "another director" in failure(device.job(order, other), "order", permanent=True)


def test_an_altered_order(device: Device, order: Assignment) -> None:
    job = device.job(order)
    altered = replace(job.order, payload=job.order.payload.replace(b'"counter":3', b'"counter":4'))
    failure(replace(job, order=altered), "order", permanent=True)


def test_an_order_for_another_device(device: Device, order: Assignment) -> None:
    failure(device.job(replace(order, device="cam-2")), "not_for_me", permanent=True)


def test_a_study_passed_off_as_an_assignment(device: Device, controller: Controller) -> None:
    ref = controller.publish(b"probe")
    study = Study(id="s1", kind=StudyKind.PROBE, device="cam-1", bundle=ref)
    failure(replace(device.job(study), kind="assignment"), "order", permanent=True)
    failure(replace(device.job(study), kind="wish"), "order", permanent=True)


# -- who holds the director's key (online), but not the offline keys


def test_an_old_release(device: Device, order: Assignment) -> None:
    message = failure(replace(device.job(order), lowest_counter=4), "rollback", permanent=True)
    assert "below 4" in message


def test_an_old_release_with_a_new_number(device: Device, order: Assignment) -> None:
    """The order claims a higher counter than the release was approved with."""
    job = replace(device.job(replace(order, counter=9)), lowest_counter=4)
    assert "counter is 3" in failure(job, "release", permanent=True)


def test_a_bundle_that_no_approved_release_names(
    device: Device, order: Assignment, controller: Controller
) -> None:
    other = controller.publish(b"signed by the compressor, approved by nobody")
    device.fetch(other)
    message = failure(device.job(replace(order, bundle=other)), "release", permanent=True)
    assert "does not name" in message


def test_a_rung_must_be_on_the_orders_ladder_and_on_the_releases(
    device: Device, controller: Controller
) -> None:
    chosen, lesser = controller.publish(), controller.publish(b"lesser", name="lesser")
    device.fetch(lesser)
    rung = Lesser(bundle=lesser, portable=True)
    order = controller.assignment(chosen, counter=3, ladder=(rung,))
    result = verify.handle(replace(device.job(order), rung=1))
    assert (result.variant, result.counter) == (lesser.variant, 3)
    failure(device.job(order), "digest", permanent=False)  # the file is the rung's
    message = failure(replace(device.job(order), rung=2), "order", permanent=True)
    assert "has no rung 2" in message
    bare = controller.assignment(chosen, counter=4)
    job = replace(device.job(replace(bare, ladder=(rung,))), rung=1)
    assert "none of its ladders names" in failure(job, "release", permanent=True)


def test_a_release_for_another_slot(
    device: Device, order: Assignment, controller: Controller
) -> None:
    failure(device.job(replace(order, slot="locks")), "release", permanent=True)
    release = ReleaseManifest(release="other", model="m", version="1", slot="shoes", counter=3)
    target = controller.trust.repository.approve(release)
    failure(device.job(replace(order, release_target=target)), "release", permanent=True)


def test_a_release_that_was_never_approved(device: Device, order: Assignment) -> None:
    job = device.job(replace(order, release_target="releases/mine.json"))
    failure(job, "unsigned", permanent=False)


def test_a_bundle_that_is_not_listed(
    device: Device, order: Assignment, controller: Controller
) -> None:
    variant = "sha256:" + "0" * 64
    target = f"bundles/{'0' * 64}.tar.xz"
    unlisted = replace(order.bundle, variant=variant, target=target)
    failure(device.job(replace(order, bundle=unlisted)), "unsigned", permanent=False)


def test_a_target_that_is_another_variants(device: Device, order: Assignment) -> None:
    mixed = replace(order.bundle, variant="sha256:" + "0" * 64)
    failure(device.job(replace(order, bundle=mixed)), "order", permanent=True)
    mixed = replace(order.bundle, variant="../x")
    failure(device.job(replace(order, bundle=mixed)), "order", permanent=True)


def test_another_archive_than_is_signed_for_the_variant(device: Device, order: Assignment) -> None:
    for wrong in (
        replace(order.bundle, archive="sha256:" + "0" * 64),
        replace(order.bundle, archive_bytes=1),
    ):
        failure(device.job(replace(order, bundle=wrong)), "digest", permanent=True)


# -- who holds the disk or the network


def test_an_altered_archive(device: Device, order: Assignment) -> None:
    path = device.folder / "part"
    data = bytearray(path.read_bytes())
    data[len(data) // 2] ^= 1
    path.write_bytes(bytes(data))
    failure(device.job(order), "digest", permanent=False)
    path.write_bytes(bytes(data[:-1]))
    failure(device.job(order), "digest", permanent=False)
    path.unlink()
    failure(device.job(order), "archive", permanent=False)


def _raise_version(signed: dict[str, Any]) -> None:
    signed["version"] += 1


@pytest.mark.parametrize("role", ["timestamp", "snapshot", "targets", "compressor"])
def test_altered_metadata(
    device: Device, order: Assignment, controller: Controller, role: str
) -> None:
    def drop(signed: dict[str, Any]) -> None:
        signed["expires"] = "2100-01-01T00:00:00Z"

    for path in _paths(controller, role):
        data = controller.trust.repository.read(path)
        assert data is not None
        controller.faults.metadata[path] = resign_metadata(data, drop)
    failure(device.job(order), "metadata_untrusted", permanent=False)
    controller.faults.metadata.clear()
    verify.handle(device.job(order))  # nothing of it was kept


@pytest.mark.parametrize("content", [b"", b"{}", b"\xff\xfe", b"[1]", b"x" * 20_000])
def test_metadata_that_is_rubbish(
    device: Device, order: Assignment, controller: Controller, content: bytes
) -> None:
    controller.faults.metadata["timestamp.json"] = content
    failure(device.job(order), "metadata_untrusted", permanent=False)


def test_an_altered_release_manifest(
    device: Device, order: Assignment, controller: Controller
) -> None:
    for path in _paths(controller, "releases/"):
        data = controller.trust.repository.read(path)
        assert data is not None
        controller.faults.metadata[path] = data.replace(b'"counter":3', b'"counter":9')
    failure(device.job(order), "metadata_untrusted", permanent=False)


def test_an_older_state_is_replayed(
    device: Device, order: Assignment, controller: Controller
) -> None:
    """An attacker (or a restored backup) offers what was once signed."""
    old = {p: controller.trust.repository.read(p) for p in _paths(controller, "")}
    ref = controller.publish(b"newer")
    device.fetch(ref)
    newer = controller.assignment(ref, counter=4)
    verify.handle(device.job(newer))
    controller.faults.metadata.update(old)
    failure(device.job(newer), "metadata_rollback", permanent=False)


def test_an_older_snapshot_under_the_newest_name(
    device: Device, order: Assignment, controller: Controller
) -> None:
    (before,) = _paths(controller, "snapshot")[-1:]
    controller.publish(b"newer")
    (after,) = _paths(controller, "snapshot")[-1:]
    controller.faults.metadata[after] = controller.trust.repository.read(before)
    failure(device.job(order), "metadata_rollback", permanent=False)


def test_a_frozen_state(
    device: Device, order: Assignment, controller: Controller, clock: Clock
) -> None:
    """Newer metadata is held back; what is shown was signed two days ago."""
    clock.offset_s = -2 * DAY
    ref = controller.publish(b"signed then")
    device.fetch(ref)
    message = failure(
        device.job(controller.assignment(ref, counter=5)), "metadata_expired", permanent=False
    )
    assert "clock" in message
    clock.offset_s = 0
    assert "timestamp" in controller.trust.repository.refresh()
    verify.handle(device.job(controller.assignment(ref, counter=5)))


def test_a_frozen_state_for_a_clock_that_fell_back(
    device: Device, order: Assignment, controller: Controller
) -> None:
    """To the device's clock all is well; its floor of trusted time knows better."""
    job = device.job(order)
    verify.handle(replace(job, now_unix=time.time() + 3600))
    failure(replace(job, now_unix=time.time() + 3 * DAY), "metadata_expired", permanent=False)


def test_a_thief_of_the_timestamp_key_cannot_move_time_beyond_the_offline_signatures(
    device: Device, order: Assignment, controller: Controller, tmp_path: Path
) -> None:
    stamp = Metadata.from_bytes(controller.trust.repository.read("timestamp.json") or b"")
    stamp.signed.unrecognized_fields[SIGNED_AT] = 4_000_000_000
    stamp.sign(load_signer(controller.folder / "trust" / "metadata" / "online", Role.TIMESTAMP))
    controller.faults.metadata["timestamp.json"] = stamp.to_bytes()
    floor = verify.handle(device.job(order)).timestamp_unix
    assert floor <= time.time() + LIFETIMES[Role.TARGETS].days * DAY


def test_missing_metadata(device: Device, order: Assignment, controller: Controller) -> None:
    controller.faults.metadata["timestamp.json"] = None
    failure(device.job(order), "metadata_missing", permanent=False)


def test_nobody_there_and_busy(device: Device, order: Assignment, controller: Controller) -> None:
    controller.faults.busy_s = 3
    with pytest.raises(JobError) as caught:
        verify.handle(device.job(order))
    assert (caught.value.code, caught.value.retry_after_s) == ("busy", 3.0)
    controller.stop()
    failure(device.job(order), "unavailable", permanent=False)


def test_another_root_than_the_pinned_one(
    device: Device, order: Assignment, tmp_path: Path
) -> None:
    other = Controller(tmp_path / "other")
    try:
        root = tmp_path / "root.json"
        job = replace(device.job(order), trusted_root=str(root))
        for content in (other.trust.repository.root_bytes(), b"rubbish"):
            root.write_bytes(content)
            failure(job, "metadata_untrusted", permanent=False)
    finally:
        other.stop()


def test_damaged_pins_are_said(device: Device, order: Assignment) -> None:
    (device.keys / "director.pub").write_text("rubbish")
    assert "enrol" in failure(device.job(order), "not_enrolled", permanent=True)
    (device.keys / "director.pub").unlink()
    failure(device.job(order), "not_enrolled", permanent=True)


def _paths(controller: Controller, kind: str) -> list[str]:
    """Files that the controller serves whose name holds ``kind``, oldest first."""
    folder = controller.folder / "trust" / "metadata"
    names = sorted(p.relative_to(folder).as_posix() for p in folder.rglob("*.json"))
    return [name for name in names if kind in name]
