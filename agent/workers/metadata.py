"""Signed metadata on the device: the TUF client over the gateway.

Rules that come on top of the client's own (signatures, versions that never fall, expiry):

- what is pinned at enrolment is the only root of trust;
- a clock that is behind the floor of trusted time cannot make expired metadata valid again;
- a release manifest is small, and read only after its digest was checked.
"""

from __future__ import annotations

import datetime as dt
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import grpc
from tuf.api.exceptions import (
    BadVersionNumberError,
    DownloadError,
    DownloadHTTPError,
    ExpiredMetadataError,
    LengthOrHashMismatchError,
    RepositoryError,
    UnsignedMetadataError,
)
from tuf.api.metadata import Metadata, TargetFile
from tuf.ngclient import FetcherInterface, Updater

from agent import durable
from agent.workers import gateway_client
from agent.workers.child import JobError
from fitment.v1 import gateway_pb2, gateway_pb2_grpc

_BASE = "fitment://gateway/"  # the client wants URLs; what follows is the path of FetchMetadata
_SIGNED_AT = "x-fitment-signed-unix"
_MAX_RELEASE_BYTES = 1024 * 1024
_READ_ROLES = ("root", "timestamp", "snapshot", "targets", "compressor")


class SignedMetadata:
    """What the controller's metadata says now, checked. One use: it refreshes once."""

    def __init__(
        self,
        stub: gateway_pb2_grpc.GatewayStub,
        *,
        folder: Path,
        root: bytes,
        floor_unix: float | None,
    ) -> None:
        self._folder = folder
        self._floor_unix = floor_unix
        durable.make_folder(folder, mode=0o700)
        with _client_errors():
            self._updater = Updater(
                metadata_dir=str(folder),
                metadata_base_url=_BASE,
                target_base_url=_BASE,
                fetcher=_GatewayFetcher(stub),
                bootstrap=root,
            )

    def target(self, path: str) -> TargetFile:
        """Length and digest that are signed for ``path``.

        Raises:
            JobError: ``unsigned``, ``metadata_expired``, ``metadata_rollback``,
                ``metadata_untrusted``, or what the gateway answered.
        """
        with _client_errors():
            found = self._updater.get_targetinfo(path)
        self._check_floor()
        if found is None:
            raise JobError(
                "unsigned",
                f"the signed metadata does not list {path}; the controller's own records and "
                "its metadata differ, so publish the release there again",
            )
        return found

    def small_target(self, path: str) -> bytes:
        """The checked content of a small target.

        Raises:
            JobError: as `target`; ``metadata_untrusted`` when it is too long.
        """
        found = self.target(path)
        if found.length > _MAX_RELEASE_BYTES:
            raise JobError("metadata_untrusted", f"{path} is too long ({found.length} bytes)")
        received = self._folder / "received.json"
        with _client_errors():
            self._updater.download_target(found, str(received))
        return received.read_bytes()

    def signed_at_unix(self) -> float:
        """When the timestamp was signed, by the controller's clock; 0 when it does not say.

        Never later than the end of what was signed offline: a thief of the online timestamp
        key must not push the floor of trusted time beyond all expiries.
        """
        value = self._read("timestamp").unrecognized_fields.get(_SIGNED_AT, 0)
        if not isinstance(value, int):
            return 0.0
        return float(min(value, self._read("targets").expires.timestamp()))

    def _check_floor(self) -> None:
        """Judge expiry by the floor of trusted time when the clock is behind it.

        The client reads the clock itself and offers no other way, so what it accepted is
        looked at once more.
        """
        if self._floor_unix is None or self._floor_unix <= time.time():
            return
        reference = dt.datetime.fromtimestamp(self._floor_unix, tz=dt.timezone.utc)
        for role in _READ_ROLES:
            if (self._folder / f"{role}.json").exists() and self._read(role).is_expired(reference):
                raise _expired(f"{role}.json was expired at the device's floor of trusted time")

    def _read(self, role: str) -> Any:
        with _client_errors():
            return Metadata.from_file(str(self._folder / f"{role}.json")).signed


class _GatewayFetcher(FetcherInterface):
    """Metadata files and small targets by FetchMetadata."""

    def __init__(self, stub: gateway_pb2_grpc.GatewayStub) -> None:
        self._stub = stub

    def _fetch(self, url: str) -> Iterator[bytes]:
        path = url.removeprefix(_BASE)
        request = gateway_pb2.FetchMetadataRequest(path=path)
        try:
            answer = self._stub.FetchMetadata(request, timeout=gateway_client.CALL_TIMEOUT_S)
        except grpc.RpcError as error:
            if error.code() is grpc.StatusCode.NOT_FOUND:
                # How the client learns that there is no newer root.
                raise DownloadHTTPError(f"{path} is not there", 404) from error
            raise gateway_client.job_error(error, f"fetching {path}") from error
        return iter((answer.data,))


@contextmanager
def _client_errors() -> Iterator[None]:
    """Say what an error of the TUF client means for the job.

    Nothing here is permanent: a server or a proxy that lies now may be mended later, and the
    supervisor bounds the attempts. What was trusted before stays as it is.
    """
    try:
        yield
    except ExpiredMetadataError as error:
        raise _expired(str(error)) from error
    except BadVersionNumberError as error:
        raise JobError(
            "metadata_rollback",
            f"the server offers older metadata than this device has seen: {error}. It was "
            "restored from a backup, or somebody replays an old state",
        ) from error
    except (UnsignedMetadataError, LengthOrHashMismatchError) as error:
        raise JobError(
            "metadata_untrusted", f"the metadata was altered on its way: {error}"
        ) from error
    except DownloadHTTPError as error:
        raise JobError("metadata_missing", f"the server lacks signed metadata: {error}") from error
    except DownloadError as error:
        if isinstance(error.__cause__, JobError):
            raise error.__cause__ from error
        raise JobError("metadata_untrusted", f"the metadata is not usable: {error}") from error
    except RepositoryError as error:
        raise JobError("metadata_untrusted", f"the metadata does not hold: {error}") from error


def _expired(detail: str) -> JobError:
    return JobError(
        "metadata_expired",
        f"the signed metadata has expired: {detail}. Either the controller has not refreshed it "
        "(it does so while it runs), somebody holds back newer one, or this device's clock is "
        "ahead",
    )
