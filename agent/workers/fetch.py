"""Fetch: receive a transport file, going on where the part file ends.

It comes over the gateway, or from a mirror that the controller names (`mirror`). What has arrived
is synced every few MiB, so a power cut costs little. Only the digest says that the file is whole; a
file that has the length but not the digest is thrown away.

Where the device has another variant of the model, the controller is asked for a delta against
it first. A delta that will not do, for whatever reason, costs its bytes and nothing else.

What came is counted in the job's tally, and no more is asked for than its ``most_bytes`` allow.
"""

from __future__ import annotations

import errno
import shutil
import sys
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import grpc

from agent import durable
from agent.jobs import FetchJob, FetchResult
from agent.workers import child, gateway_client, rebuild
from agent.workers.child import JobError
from agent.workers.purse import Purse
from agent.workers.rebuild import Unusable
from fitment.core import digest as digests
from fitment.v1 import gateway_pb2

_SYNC_BYTES = 4 * 1024 * 1024  # between syncs: rare enough for flash, small enough to lose
_SPARE_BYTES = 8 * 1024 * 1024  # left free for the journal and the system
_READ_BYTES = 1024 * 1024
_WATCHES_PER_WINDOW = 10
_AWAY = (
    grpc.StatusCode.UNAVAILABLE, grpc.StatusCode.RESOURCE_EXHAUSTED,
    grpc.StatusCode.UNAUTHENTICATED, grpc.StatusCode.PERMISSION_DENIED,
)  # fmt: skip
"""Answers that the whole file would get as well."""


def handle(job: FetchJob) -> FetchResult:
    """Complete ``job.target``.

    Raises:
        JobError: codes ``disk_full``, ``stalled``, ``length``, ``digest``, ``allowance`` and those
            of `gateway_client.job_error`.
    """
    purse = Purse(job)
    with purse.kept():
        return _handle(job, purse)


def _handle(job: FetchJob, purse: Purse) -> FetchResult:
    started = time.monotonic()
    note, wasted = "", 0
    if job.base:
        try:
            came = _by_delta(job, purse)
        except Unusable as error:
            wasted = error.wire_bytes or _size(Path(job.delta))
            note = f"{error}; the whole file was fetched instead of a delta"
        else:
            if came is not None:
                return replace(came, seconds=time.monotonic() - started)
    _drop(job)
    found = _receive(job, purse, Path(job.target), job.archive, job.archive_bytes, mirrors=True)
    return FetchResult(
        total_bytes=job.archive_bytes,
        resumed_from=found.resumed_from,
        seconds=time.monotonic() - started,
        wire_bytes=job.archive_bytes + wasted + found.wasted,
        note="; ".join(filter(None, (note, *found.notes))),
    )


def _by_delta(job: FetchJob, purse: Purse) -> FetchResult | None:
    """Rebuild the transport file's tar from a delta; None when there is none that saves bytes.

    Raises:
        Unusable: there is one, and it cannot be used.
        JobError: as `handle`; what came is kept, and the next try goes on from there.
    """
    target, path = Path(job.rebuilt), Path(job.delta)
    resumed_from = size = _size(path)
    if not target.exists():
        found = _find_delta(job)
        left = job.archive_bytes - _size(Path(job.target))
        if not found.delta or found.delta_bytes - resumed_from >= left:
            return None
        with rebuild.opened(Path(job.base_folder), job.base) as image:
            size = found.delta_bytes
            resumed_from = _receive_delta(job, purse, path, found)
            _check_disk(path.parent, rebuild.target_bytes(path))
            rebuild.rebuild(path, image, job.base, target)
    return FetchResult(
        total_bytes=job.archive_bytes, resumed_from=resumed_from, seconds=0.0, wire_bytes=size,
        delta_base=job.base,
    )  # fmt: skip


def _find_delta(job: FetchJob) -> Any:
    """The gateway's answer; an empty one of a controller that knows no deltas, or has trouble."""
    request = gateway_pb2.FindDeltaRequest(archive=job.archive, base=job.base)
    with gateway_client.gateway(job.connection) as stub:
        try:
            return stub.FindDelta(request, timeout=gateway_client.CALL_TIMEOUT_S)
        except grpc.RpcError as error:
            if error.code() in _AWAY:
                raise gateway_client.job_error(error, "asking for a delta") from error
            return gateway_pb2.FindDeltaResponse()


def _receive_delta(job: FetchJob, purse: Purse, path: Path, found: Any) -> int:
    try:
        return _receive(job, purse, path, found.delta, found.delta_bytes).resumed_from
    except JobError as error:
        if error.code in ("digest", "length", "not_found"):
            wire_bytes = found.delta_bytes if error.code == "digest" else 0
            why = f"the delta was not received: {error.message}"
            raise Unusable(why, wire_bytes=wire_bytes) from error
        raise


def _drop(job: FetchJob) -> None:
    """Take away what was received of a delta, so that nothing takes its result for the file."""
    for path in (job.rebuilt, job.delta):
        if path:
            durable.remove(Path(path))


@dataclass(frozen=True, slots=True, kw_only=True)
class _Received:
    """How a file came."""

    resumed_from: int
    mirrored: int = 0  # bytes that mirrors sent
    host: str = ""  # of the mirror that sent last
    wasted: int = 0  # bytes that were thrown away
    notes: tuple[str, ...] = ()


def _receive(
    job: FetchJob, purse: Purse, target: Path, digest: str, total: int, *, mirrors: bool = False
) -> _Received:
    """Complete a file, and check it."""
    offset = _usable_bytes(target, total)
    found = _Received(resumed_from=offset)
    purse.need(total - offset)
    _check_disk(target.parent, total - offset)
    if offset < total:
        with _disk_errors(target), gateway_client.gateway(job.connection) as stub:
            for url in _locate(stub, digest) if mirrors and not _lied(job) else ():
                found = _from_mirror(job, purse, url, target, found)
            have = offset + found.mirrored
            if have < total:
                _transfer(job, purse, stub, target, digest, have, total - have)
            purse.tell()
    try:
        _check_digest(target, digest)
    except JobError as error:
        if error.code != "digest" or not found.mirrored:
            raise
        # A mirror's bytes are among what was deleted: now all of it from the gateway, and if that
        # breaks off, so do the next tries: mirrors would cost the whole file each time.
        if job.lied:
            durable.write(Path(job.lied), found.host.encode())
        why = f"{found.host} sent other bytes than were signed"
        again = _receive(job, purse, target, digest, total)
        return replace(again, wasted=total, notes=(*found.notes, why))
    return found


def _lied(job: FetchJob) -> bool:
    """Whether mirrors sent other bytes than were signed, in this try or an earlier one."""
    return bool(job.lied) and Path(job.lied).exists()


def _locate(stub: Any, archive: str) -> tuple[str, ...]:
    """Where else the file lies; nowhere for a controller that knows no mirrors, or has trouble."""
    request = gateway_pb2.LocateArtifactRequest(archive=archive)
    try:
        return tuple(stub.LocateArtifact(request, timeout=gateway_client.CALL_TIMEOUT_S).urls)
    except grpc.RpcError as error:
        if error.code() in _AWAY:
            raise gateway_client.job_error(error, "asking for mirrors") from error
        return ()


def _from_mirror(
    job: FetchJob, purse: Purse, url: str, target: Path, found: _Received
) -> _Received:
    """What one mirror adds to what is there; nothing where all is there."""
    from agent.workers import mirror  # HTTP and TLS of Python's own are heavy

    have = found.resumed_from + found.mirrored
    if have >= job.archive_bytes:
        return found
    pace = mirror.Pace(min_rate_bytes_s=job.min_rate_bytes_s, window_s=job.stall_window_s)
    with durable.open_file(target, "ab") as file:
        came = mirror.append(
            url, file, offset=have, total=job.archive_bytes, pace=pace, ca=job.connection.ca,
            came=purse.add,
        )  # fmt: skip
    return replace(
        found,
        mirrored=found.mirrored + came.count,
        host=mirror.host(url) if came.count else found.host,
        notes=(*found.notes, *filter(None, [came.reason])),
    )


def _size(path: Path) -> int:
    return path.stat().st_size if path.exists() else 0


def _usable_bytes(target: Path, archive_bytes: int) -> int:
    """Bytes of the part file to go on from; one that is too long is deleted."""
    durable.make_folder(target.parent)
    have = _size(target)
    if have > archive_bytes:
        durable.remove(target)
        return 0
    return have


def _check_disk(folder: Path, missing_bytes: int) -> None:
    free = shutil.disk_usage(folder).free
    if missing_bytes > 0 and free < missing_bytes + _SPARE_BYTES:
        raise JobError(
            "disk_full",
            f"{folder} has {free} bytes free, {missing_bytes} are still to come and "
            f"{_SPARE_BYTES} stay in reserve: make room on this disk",
        )


@contextmanager
def _disk_errors(target: Path) -> Iterator[None]:
    try:
        yield
    except OSError as error:
        if error.errno in (errno.ENOSPC, errno.EDQUOT):
            raise JobError(
                "disk_full", f"the disk of {target} filled up during the transfer: make room"
            ) from error
        raise JobError("disk", f"cannot write {target}: {error.strerror}") from error


def _transfer(
    job: FetchJob, purse: Purse, stub: Any, target: Path, digest: str, offset: int, missing: int
) -> None:
    call = stub.FetchArtifact(gateway_pb2.FetchArtifactRequest(archive=digest, offset=offset))
    watch = _Watch(call, job.min_rate_bytes_s, job.stall_window_s)
    try:
        with watch.running(), durable.open_file(target, "ab") as file:
            _append(call, file, purse, watch, missing=missing)
    except grpc.RpcError as error:
        if watch.stalled:
            raise JobError("stalled", watch.reason()) from error
        raise gateway_client.job_error(error, "fetching the bundle") from error
    finally:
        call.cancel()


def _append(call: Any, file: Any, purse: Purse, watch: _Watch, *, missing: int) -> None:
    """Write the stream to the end of the file; whatever happens, what is written is synced."""
    try:
        missing = _copy(call, file, purse, watch, missing)
    finally:
        with suppress(OSError):  # a full disk fails again here, and the first error says it
            durable.sync(file)
    durable.sync(file)
    if missing > 0:
        raise JobError("unavailable", f"the transfer ended {missing} bytes early; it goes on later")


def _copy(call: Any, file: Any, purse: Purse, watch: _Watch, missing: int) -> int:
    """Write every chunk of the stream; returns the bytes that are still missing at its end."""
    unsynced = 0
    for chunk in call:
        missing -= len(chunk.data)
        purse.add(len(chunk.data))
        if missing < 0:
            raise JobError("length", "the server sends more than the bundle's signed length")
        file.write(chunk.data)
        watch.add(len(chunk.data))
        unsynced += len(chunk.data)
        if unsynced >= _SYNC_BYTES:
            durable.sync(file)
            unsynced = 0
    return missing


def _check_digest(target: Path, expected: str) -> None:
    with target.open("rb") as file:
        found = digests.digest_chunks(iter(lambda: file.read(_READ_BYTES), b""))
    if found != expected:
        durable.remove(target)
        raise JobError(
            "digest",
            f"the received file has digest {digests.short(found)}, expected "
            f"{digests.short(expected)}; it was deleted and is fetched anew",
        )


class _Watch:
    """Cancels a call that brings fewer bytes in a window than the minimum rate allows.

    A server that trickles (or a dead connection) would otherwise hold a device for days: the
    stream itself never times out as long as a byte arrives.
    """

    def __init__(self, call: Any, min_rate_bytes_s: float, window_s: float) -> None:
        self.stalled = False
        self._call = call
        self._min_rate_bytes_s = min_rate_bytes_s
        self._window_s = window_s
        self._received = 0
        self._done = threading.Event()

    def add(self, count: int) -> None:
        """Bytes that arrived."""
        self._received += count

    def reason(self) -> str:
        """For the failure's message."""
        return (
            f"fewer than {self._min_rate_bytes_s:g} bytes a second arrived over "
            f"{self._window_s:g} s; the transfer goes on later from where it is"
        )

    @contextmanager
    def running(self) -> Iterator[None]:
        """Watch while the block runs."""
        thread = threading.Thread(target=self._run, name="stall-watch", daemon=True)
        thread.start()
        try:
            yield
        finally:
            self._done.set()
            thread.join()

    def _run(self) -> None:
        step_s = self._window_s / _WATCHES_PER_WINDOW
        history = [0]  # received bytes at each watch of the last window
        while not self._done.wait(step_s):
            history.append(self._received)
            if len(history) <= _WATCHES_PER_WINDOW:
                continue
            if self._received - history.pop(0) < self._min_rate_bytes_s * self._window_s:
                self.stalled = True
                self._call.cancel()
                return


if __name__ == "__main__":
    sys.exit(child.run("fetch", handle))
