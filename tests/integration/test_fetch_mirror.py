"""A transport file from a mirror: ranges, and whatever is wrong with it, the gateway goes on."""

from __future__ import annotations

import os
import socket
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from dataclasses import replace
from pathlib import Path

import pytest

from agent.jobs import EnrollJob, FetchJob
from agent.workers import enroll, fetch
from agent.workers.child import JobError
from controller.artifacts import mirrors
from fitment.core import digest
from fitment.core.deployment import BundleRef
from tests.integration.chaos_proxy import ChaosProxy, Fault, Kind
from tests.integration.file_server import files, scripted
from tests.integration.trust_server import CHUNK_BYTES, Controller

CONTENT = os.urandom(10 * CHUNK_BYTES)
BLOBS = "/{folder}/{hex}"


@pytest.fixture(scope="module")
def controller(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Controller]:
    running = Controller(tmp_path_factory.mktemp("controller"))
    yield running
    running.stop()


@pytest.fixture(scope="module")
def bundle(controller: Controller) -> BundleRef:
    return controller.publish(CONTENT)


@pytest.fixture(scope="module")
def keys(controller: Controller, tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("device") / "keys"
    enroll.handle(
        EnrollJob(result="", controller=controller.enroll_address, token=controller.token(),
                  device="cam-1", keys=str(folder))
    )  # fmt: skip
    return folder


@pytest.fixture
def job(controller: Controller, keys: Path, bundle: BundleRef, tmp_path: Path) -> FetchJob:
    controller.faults.__init__()  # type: ignore[misc]
    controller.book.offsets.clear()
    return FetchJob(
        result="", connection=controller.connection(keys), archive=bundle.archive,
        archive_bytes=bundle.archive_bytes, target=str(tmp_path / "work" / "part"),
    )  # fmt: skip


@pytest.fixture(scope="module")
def secure(controller: Controller) -> Iterator[str]:
    """A mirror of the blobs with a certificate of the fleet's authority."""
    papers = controller.trust.files
    with files(controller.folder / "blobs", papers.server_certificate, papers.server_key) as url:
        yield url


def whole(job: FetchJob) -> bool:
    return digest.digest_bytes(Path(job.target).read_bytes()) == job.archive


def test_a_mirror_sends_it_all(job: FetchJob, controller: Controller, secure: str) -> None:
    controller.faults.mirrors = mirrors.parse(secure + BLOBS)
    result = fetch.handle(job)
    assert whole(job)
    assert (result.resumed_from, result.note) == (0, "")
    assert controller.book.offsets == []  # nothing was asked of the gateway


def test_a_part_file_is_continued_by_a_range(
    job: FetchJob, controller: Controller, secure: str
) -> None:
    controller.faults.mirrors = mirrors.parse(secure + BLOBS)
    archive = controller.blobs.path(job.archive).read_bytes()
    part = Path(job.target)
    part.parent.mkdir()
    part.write_bytes(archive[:1000])
    assert fetch.handle(job).resumed_from == 1000
    assert part.read_bytes() == archive
    assert controller.book.offsets == []


def test_a_controller_that_knows_no_mirrors(job: FetchJob, controller: Controller) -> None:
    result = fetch.handle(job)
    assert (whole(job), result.note, controller.book.offsets) == (True, "", [0])


def test_the_gateway_goes_on_where_a_mirror_ended(job: FetchJob, controller: Controller) -> None:
    archive = controller.blobs.path(job.archive).read_bytes()

    def half(caller: socket.socket, _asked: str) -> None:
        caller.sendall(_head("200 OK", f"Content-Length: {len(archive)}") + archive[:5000])

    with scripted(half) as url:
        controller.faults.mirrors = mirrors.parse(url + BLOBS)
        result = fetch.handle(job)
    assert whole(job)
    assert controller.book.offsets == [5000]
    assert "ended early" in result.note


def test_the_next_mirror_goes_on_where_the_first_ended(
    job: FetchJob, controller: Controller, secure: str
) -> None:
    archive = controller.blobs.path(job.archive).read_bytes()

    def some(caller: socket.socket, _asked: str) -> None:
        caller.sendall(_head("200 OK") + archive[:7000])

    with scripted(some) as url:
        controller.faults.mirrors = mirrors.parse(f"{url}{BLOBS} {secure}{BLOBS}")
        fetch.handle(job)
    assert whole(job)
    assert controller.book.offsets == []


def test_wrong_bytes_are_thrown_away_and_nobody_is_asked_twice(
    job: FetchJob, controller: Controller
) -> None:
    asked = []

    def wrong(caller: socket.socket, text: str) -> None:
        asked.append(text)
        caller.sendall(_head("200 OK") + b"x" * job.archive_bytes)

    with scripted(wrong) as url:
        controller.faults.mirrors = mirrors.parse(url + BLOBS)
        result = fetch.handle(job)
    assert whole(job)
    assert (len(asked), controller.book.offsets) == (1, [0])
    assert "sent other bytes than were signed" in result.note
    assert result.wire_bytes == 2 * job.archive_bytes


def test_mirrors_that_lied_are_not_asked_again_when_the_gateway_breaks_off(
    job: FetchJob, controller: Controller
) -> None:
    asked, rounds = [], 0

    def wrong(caller: socket.socket, text: str) -> None:
        asked.append(text)
        caller.sendall(_head("200 OK") + b"x" * job.archive_bytes)

    def breaks(chunks: Iterator[bytes]) -> Iterator[bytes]:
        yield from (next(chunks) for _ in range(4))
        raise RuntimeError("the gateway goes away")

    job = replace(job, lied=str(Path(job.target).with_suffix(".lied")))
    with scripted(wrong) as url:
        controller.faults.mirrors = mirrors.parse(url + BLOBS)
        controller.faults.chunks = breaks
        while not (Path(job.target).exists() and whole(job)):
            rounds += 1
            assert rounds < 5, "it goes round for ever"
            with suppress(JobError):
                fetch.handle(job)
    assert len(asked) == 1
    assert controller.book.offsets == [n * 4 * CHUNK_BYTES for n in range(rounds)]


def _head(status: str, *lines: str) -> bytes:
    return "\r\n".join((f"HTTP/1.1 {status}", *lines, "Connection: close", "", "")).encode()


Answer = Callable[[socket.socket, str], None]


def _says(status: str, *lines: str, body: bytes = b"", hold_s: float = 0.0) -> Answer:
    def answer(caller: socket.socket, _asked: str) -> None:
        caller.sendall(_head(status, *lines) + body)
        time.sleep(hold_s)

    return answer


WRONG = {
    "not there": (_says("404 Not Found"), "answers 404 Not Found"),
    "no right": (_says("403 Forbidden"), "answers 403"),
    "another length": (
        _says("206 Partial Content", "Content-Range: bytes 100-199/200", body=b"x" * 100),
        "another part, or of a file of another length",
    ),
    "another part": (
        _says("206 Partial Content", "Content-Range: bytes 0-99/*", body=b"x" * 100),
        "another part",
    ),
    "no ranges": (_says("200 OK", body=b"x" * 100), "does not go on at a byte"),
    "encoded": (
        _says("206 Partial Content", "Content-Encoding: gzip", body=b"x" * 100), "encoded",
    ),
    "no HTTP": (lambda caller, _: caller.sendall(b"220 ready\r\n"), "cannot be used"),
    "hangs up": (lambda caller, _: None, "cannot be used"),
    "another way": (_says("302 Found", "Location: file:///etc/passwd"), ""),
}  # fmt: skip


@pytest.mark.parametrize("case", list(WRONG))
def test_whatever_a_mirror_says_the_file_comes(
    job: FetchJob, controller: Controller, case: str
) -> None:
    answer, words = WRONG[case]
    archive = controller.blobs.path(job.archive).read_bytes()
    part = Path(job.target)
    part.parent.mkdir()
    part.write_bytes(archive[:100])
    with scripted(answer) as url:
        controller.faults.mirrors = mirrors.parse(f"{url}/{{hex}}?secret=s3cret")
        result = fetch.handle(job)
    assert part.read_bytes() == archive
    assert controller.book.offsets == [100]
    assert words in result.note
    assert "s3cret" not in result.note


def test_a_mirror_that_trickles_is_given_up(job: FetchJob, controller: Controller) -> None:
    def trickle(caller: socket.socket, _asked: str) -> None:
        caller.sendall(_head("200 OK"))
        for _ in range(200):
            caller.sendall(controller.blobs.path(job.archive).read_bytes()[:1])
            time.sleep(0.05)

    with scripted(trickle) as url:
        controller.faults.mirrors = mirrors.parse(url + BLOBS)
        result = fetch.handle(replace(job, stall_window_s=0.3, min_rate_bytes_s=1e6))
    assert whole(job)
    assert "fewer than 1e+06 bytes a second" in result.note


def test_headers_that_trickle_are_given_up_as_well(job: FetchJob, controller: Controller) -> None:
    def trickle(caller: socket.socket, _asked: str) -> None:
        caller.sendall(b"HTTP/1.1 200 OK\r\nX-Wait: ")
        for _ in range(400):
            caller.sendall(b"x")
            time.sleep(0.05)

    began = time.monotonic()
    with scripted(trickle) as url:
        controller.faults.mirrors = mirrors.parse(url + BLOBS)
        result = fetch.handle(replace(job, stall_window_s=0.5))
        took = time.monotonic() - began
    assert whole(job)
    assert took < 15  # the mirror goes on for twenty seconds
    assert "fewer than 1024 bytes a second" in result.note


def test_a_mirror_that_says_nothing_is_given_up(job: FetchJob, controller: Controller) -> None:
    with scripted(_says("200 OK", body=b"", hold_s=1.0)) as url:
        controller.faults.mirrors = mirrors.parse(url + BLOBS)
        result = fetch.handle(replace(job, stall_window_s=0.3))
    assert whole(job)
    assert "bytes a second" in result.note or "stopped" in result.note


@pytest.mark.parametrize("kind", list(Kind))
@pytest.mark.parametrize("scheme", ["http", "https"])
def test_the_network_before_a_mirror_does_what_bad_networks_do(
    job: FetchJob, controller: Controller, secure: str, scheme: str, kind: Kind
) -> None:
    """Over TLS what was altered is noticed at once; without, only the digest tells."""
    rate = 20 * CHUNK_BYTES if kind is Kind.SLOW else 0.0
    fault = Fault(kind=kind, at=4 * CHUNK_BYTES, rate=rate)
    with files(controller.folder / "blobs") as plain:
        port = int((secure if scheme == "https" else plain).rpartition(":")[2])
        with ChaosProxy(port, fault) as proxy:
            controller.faults.mirrors = mirrors.parse(f"{scheme}://{proxy.address}{BLOBS}")
            result = fetch.handle(replace(job, stall_window_s=0.5))
    assert whole(job)
    lied = scheme == "http" and kind in (Kind.CORRUPT, Kind.DUPLICATE)
    if kind is Kind.SLOW:
        assert (result.note, controller.book.offsets) == ("", [])
    elif lied:
        assert "other bytes than were signed" in result.note
        assert controller.book.offsets == [0]
    else:  # what came stays, and the gateway goes on from there
        (offset,) = controller.book.offsets
        assert 0 <= offset <= fault.at
        assert result.wire_bytes == job.archive_bytes
        assert result.note


def test_nobody_there(job: FetchJob, controller: Controller) -> None:
    with socket.create_server(("127.0.0.1", 0)) as closed:
        port = closed.getsockname()[1]
    controller.faults.mirrors = mirrors.parse(f"http://127.0.0.1:{port}/{{hex}}")
    assert "cannot be used" in fetch.handle(job).note
    assert whole(job)


@contextmanager
def stranger(folder: Path, blobs: Path) -> Iterator[str]:
    from controller.trust import Trust

    other = Trust.create(folder / "trust", folder / "offline", ["127.0.0.1"]).files
    with files(blobs, other.server_certificate, other.server_key) as url:
        yield url


def test_a_mirror_with_a_certificate_of_nobody_is_not_read(
    job: FetchJob, controller: Controller, tmp_path: Path
) -> None:
    with stranger(tmp_path, controller.folder / "blobs") as url:
        controller.faults.mirrors = mirrors.parse(url + BLOBS)
        result = fetch.handle(job)
    assert controller.book.offsets == [0]
    assert "certificate" in result.note


def test_a_mirror_never_leads_away_from_https(
    job: FetchJob, controller: Controller, secure: str, tmp_path: Path
) -> None:
    from starlette.applications import Starlette
    from starlette.responses import RedirectResponse
    from starlette.routing import Route

    from tests.integration.file_server import served

    with files(controller.folder / "blobs") as plain:
        app = Starlette(routes=[Route("/{name}", lambda _: RedirectResponse(f"{plain}/x"))])
        papers = controller.trust.files
        with served(app, papers.server_certificate, papers.server_key) as url:
            controller.faults.mirrors = mirrors.parse(url + "/{hex}")
            result = fetch.handle(job)
    assert "from HTTPS to somewhere else" in result.note
    assert whole(job)


def test_a_full_disk_is_said_before_a_mirror_is_asked(
    job: FetchJob, controller: Controller, secure: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    class Usage:
        free = 1

    controller.faults.mirrors = mirrors.parse(secure + BLOBS)
    monkeypatch.setattr(fetch.shutil, "disk_usage", lambda _: Usage)
    with pytest.raises(JobError) as caught:
        fetch.handle(job)
    assert caught.value.code == "disk_full"
