"""Receiving a transport file: resumed at the byte, never too long, never for ever."""

from __future__ import annotations

import os
import shutil
import time
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import grpc
import pytest

from agent.jobs import EnrollJob, FetchJob
from agent.workers import enroll, fetch
from agent.workers.child import JobError
from controller.trust import Trust
from fitment.core import digest
from fitment.core.deployment import BundleRef
from tests.integration.trust_server import CHUNK_BYTES, Controller

CONTENT = os.urandom(10 * CHUNK_BYTES)


@pytest.fixture(scope="module")
def controller(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Controller]:
    running = Controller(tmp_path_factory.mktemp("controller"))
    yield running
    running.stop()


@pytest.fixture(scope="module")
def keys(controller: Controller, tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("device") / "keys"
    enroll.handle(
        EnrollJob(
            result="",
            controller=controller.enroll_address,
            token=controller.token(),
            device="cam-1",
            keys=str(folder),
        )
    )
    return folder


@pytest.fixture(scope="module")
def bundle(controller: Controller) -> BundleRef:
    return controller.publish(CONTENT)


@pytest.fixture
def job(controller: Controller, keys: Path, bundle: BundleRef, tmp_path: Path) -> FetchJob:
    controller.faults.chunks = controller.faults.busy_s = controller.faults.status = None
    controller.book.offsets.clear()
    return FetchJob(
        result="",
        connection=controller.connection(keys),
        archive=bundle.archive,
        archive_bytes=bundle.archive_bytes,
        target=str(tmp_path / "work" / "part"),
    )


def failure(job: FetchJob) -> JobError:
    with pytest.raises(JobError) as caught:
        fetch.handle(job)
    return caught.value


def part(job: FetchJob) -> bytes:
    return Path(job.target).read_bytes()


def test_a_whole_file_arrives(job: FetchJob) -> None:
    result = fetch.handle(job)
    assert (result.total_bytes, result.resumed_from) == (job.archive_bytes, 0)
    assert digest.digest_bytes(part(job)) == job.archive


def test_a_transfer_that_was_cut_goes_on_at_the_byte(job: FetchJob, controller: Controller) -> None:
    def cut(chunks: Iterator[bytes]) -> Iterator[bytes]:
        yield next(chunks)
        yield next(chunks)[:100]

    controller.faults.chunks = cut
    error = failure(job)
    assert (error.code, error.permanent) == ("unavailable", False)
    assert len(part(job)) == CHUNK_BYTES + 100
    controller.faults.chunks = None
    result = fetch.handle(job)
    assert result.resumed_from == CHUNK_BYTES + 100
    assert controller.book.offsets == [0, CHUNK_BYTES + 100]
    assert digest.digest_bytes(part(job)) == job.archive


def test_no_more_comes_than_is_left_and_all_that_came_is_counted(
    job: FetchJob, controller: Controller, tmp_path: Path
) -> None:
    def cut(chunks: Iterator[bytes]) -> Iterator[bytes]:
        yield next(chunks)

    def told() -> tuple[str, int]:
        tally, count = (tmp_path / "tally").read_text().split()[-2:]
        return tally, int(count)

    job = replace(job, tally=str(tmp_path / "tally"), tally_id="one", most_bytes=job.archive_bytes)
    controller.faults.chunks = cut
    assert failure(job).code == "unavailable"
    assert told() == ("one", CHUNK_BYTES)
    controller.faults.chunks = None
    missing = job.archive_bytes - CHUNK_BYTES
    job = replace(job, tally_id="two", most_bytes=missing - 1)
    error = failure(job)
    assert (error.code, error.permanent) == ("allowance", False)
    assert told() == ("one", CHUNK_BYTES)  # nothing was asked for
    assert controller.book.offsets == [0]
    assert fetch.handle(replace(job, most_bytes=missing)).resumed_from == CHUNK_BYTES
    assert told() == ("two", missing)
    assert digest.digest_bytes(part(job)) == job.archive


def test_a_connection_that_breaks_keeps_what_came(job: FetchJob, controller: Controller) -> None:
    def broken(chunks: Iterator[bytes]) -> Iterator[bytes]:
        yield next(chunks)
        raise OSError("the disk of the server")

    controller.faults.chunks = broken
    error = failure(job)
    assert (error.code, error.permanent) == ("server", False)
    assert len(part(job)) == CHUNK_BYTES


def test_a_complete_file_is_only_checked(job: FetchJob, controller: Controller) -> None:
    fetch.handle(job)
    assert fetch.handle(job).resumed_from == job.archive_bytes
    assert controller.book.offsets == [0]


def test_more_than_the_signed_length_is_refused(job: FetchJob, controller: Controller) -> None:
    def endless(chunks: Iterator[bytes]) -> Iterator[bytes]:
        yield from chunks
        while True:
            yield b"x" * CHUNK_BYTES

    controller.faults.chunks = endless
    assert failure(job).code == "length"
    assert len(part(job)) <= job.archive_bytes


def test_a_part_file_that_is_too_long_starts_anew(job: FetchJob) -> None:
    Path(job.target).parent.mkdir()
    Path(job.target).write_bytes(b"x" * (job.archive_bytes + 1))
    assert fetch.handle(job).resumed_from == 0


def test_altered_bytes_are_deleted_and_fetched_anew(job: FetchJob, controller: Controller) -> None:
    def altered(chunks: Iterator[bytes]) -> Iterator[bytes]:
        first = next(chunks)
        yield bytes([first[0] ^ 1]) + first[1:]
        yield from chunks

    controller.faults.chunks = altered
    error = failure(job)
    assert (error.code, error.permanent) == ("digest", False)
    assert not Path(job.target).exists()
    controller.faults.chunks = None
    assert fetch.handle(job).resumed_from == 0


def test_a_trickle_is_stopped_and_what_came_is_kept(job: FetchJob, controller: Controller) -> None:
    def slow(chunks: Iterator[bytes]) -> Iterator[bytes]:
        for byte in b"".join(chunks):
            yield bytes([byte])
            time.sleep(0.02)

    controller.faults.chunks = slow
    started = time.monotonic()
    error = failure(replace(job, min_rate_bytes_s=1000.0, stall_window_s=0.4))
    assert time.monotonic() - started < 5
    assert (error.code, error.permanent) == ("stalled", False)
    assert 0 < len(part(job)) < 200


def test_silence_is_a_stall_too(job: FetchJob, controller: Controller) -> None:
    def silent(chunks: Iterator[bytes]) -> Iterator[bytes]:
        yield next(chunks)
        time.sleep(2)

    controller.faults.chunks = silent
    assert failure(replace(job, min_rate_bytes_s=1.0, stall_window_s=0.3)).code == "stalled"


def test_a_small_disk_is_said_before_a_byte_is_asked_for(
    job: FetchJob, controller: Controller, monkeypatch: pytest.MonkeyPatch
) -> None:
    usage = shutil.disk_usage("/")
    monkeypatch.setattr(shutil, "disk_usage", lambda _: usage._replace(free=1000))
    error = failure(job)
    assert (error.code, error.permanent) == ("disk_full", False)
    assert controller.book.offsets == []


def test_a_disk_that_fills_up_on_the_way(job: FetchJob) -> None:
    """/dev/full answers every write with ENOSPC."""
    Path(job.target).parent.mkdir()
    Path(job.target).symlink_to("/dev/full")
    error = failure(job)
    assert (error.code, error.permanent) == ("disk_full", False)


def test_a_busy_server_burns_no_attempt(job: FetchJob, controller: Controller) -> None:
    controller.faults.busy_s = 7.5
    error = failure(job)
    assert (error.code, error.permanent, error.retry_after_s) == ("busy", False, 7.5)


def test_an_archive_that_is_not_there_is_permanent(job: FetchJob) -> None:
    error = failure(replace(job, archive=digest.digest_bytes(b"nothing")))
    assert (error.code, error.permanent) == ("not_found", True)


@pytest.mark.parametrize(
    ("status", "code", "permanent"),
    [
        (grpc.StatusCode.UNAVAILABLE, "unavailable", False),
        (grpc.StatusCode.PERMISSION_DENIED, "refused", True),
        (grpc.StatusCode.UNAUTHENTICATED, "refused", True),
    ],
)
def test_what_the_server_answers(
    job: FetchJob, controller: Controller, status: grpc.StatusCode, code: str, permanent: bool
) -> None:
    controller.faults.status = status
    error = failure(job)
    assert (error.code, error.permanent) == (code, permanent)


def test_no_certificate_no_model(job: FetchJob, controller: Controller, tmp_path: Path) -> None:
    """A certificate of another authority ends in the handshake."""
    other = Trust.create(tmp_path / "other", tmp_path / "offline")
    foreign = replace(
        job.connection,
        certificate=str(other.files.controller_certificate),
        key=str(other.files.controller_key),
    )
    assert failure(replace(job, connection=foreign)).code == "unavailable"
    assert controller.book.offsets == []


def test_another_server_is_not_believed(job: FetchJob, tmp_path: Path) -> None:
    other = Trust.create(tmp_path / "other", tmp_path / "offline")
    wrong = replace(job.connection, ca=str(other.files.ca))
    assert failure(replace(job, connection=wrong)).code == "unavailable"
