"""The gateway as workers see it: channels with mTLS, and errors mapped in one place.

A worker that fails says whether trying again can help. gRPC has sixteen statuses for that;
`job_error` is the only place that reads them.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import grpc

from agent.jobs import Connection
from agent.transport.papers import Papers, explain
from agent.workers.child import JobError
from fitment.v1 import gateway_pb2_grpc

CALL_TIMEOUT_S = 30.0  # of one unary call; answers are small
_MAX_MESSAGE_BYTES = 16 * 1024 * 1024  # signed metadata of very many bundles; chunks are 256 KiB
_OPTIONS = (
    ("grpc.max_receive_message_length", _MAX_MESSAGE_BYTES),
    ("grpc.max_send_message_length", _MAX_MESSAGE_BYTES),
    ("grpc.enable_http_proxy", 0),  # a proxy cannot pass mutual TLS on
    ("grpc.keepalive_time_ms", 60_000),
    ("grpc.keepalive_timeout_ms", 20_000),
)

_STATUSES: Mapping[grpc.StatusCode, tuple[str, bool]] = {
    # status -> (code of the failure, whether trying again cannot help)
    grpc.StatusCode.UNAVAILABLE: ("unavailable", False),
    grpc.StatusCode.DEADLINE_EXCEEDED: ("unavailable", False),
    grpc.StatusCode.CANCELLED: ("unavailable", False),
    grpc.StatusCode.ABORTED: ("unavailable", False),
    grpc.StatusCode.UNKNOWN: ("server", False),
    grpc.StatusCode.INTERNAL: ("server", False),
    grpc.StatusCode.DATA_LOSS: ("server", False),
    grpc.StatusCode.RESOURCE_EXHAUSTED: ("busy", False),
    grpc.StatusCode.NOT_FOUND: ("not_found", True),
    grpc.StatusCode.UNAUTHENTICATED: ("refused", True),
    grpc.StatusCode.PERMISSION_DENIED: ("refused", True),
    grpc.StatusCode.ALREADY_EXISTS: ("conflict", True),
    grpc.StatusCode.FAILED_PRECONDITION: ("conflict", True),
    grpc.StatusCode.INVALID_ARGUMENT: ("invalid", True),
    grpc.StatusCode.OUT_OF_RANGE: ("invalid", True),
    grpc.StatusCode.UNIMPLEMENTED: ("unsupported", True),
}
_LINE = "TSI_"
"""In what gRPC's TLS says when a byte was altered or doubled on the way: no answer of a server."""
_DEFAULT_RETRY_S = 5.0  # for a server that is busy and does not say for how long


@contextmanager
def gateway(connection: Connection) -> Iterator[gateway_pb2_grpc.GatewayStub]:
    """A stub of the gateway, over TLS with both certificates.

    Raises:
        JobError: a key file is missing, or a call made inside failed (see `job_error`).
    """
    credentials = grpc.ssl_channel_credentials(
        root_certificates=read_key_file(connection.ca),
        private_key=read_key_file(connection.key),
        certificate_chain=read_key_file(connection.certificate),
    )
    try:
        with _channel(connection.gateway, credentials) as channel:
            yield gateway_pb2_grpc.GatewayStub(channel)  # type: ignore[no-untyped-call]
    except JobError as error:
        if error.code != "unavailable":
            raise
        # Still nothing but a wait helps this job: the papers are mended while the agent runs.
        why = explain(error.message, _papers(connection), connection.gateway)
        raise JobError(error.code, why, retry_after_s=error.retry_after_s) from error


def _papers(connection: Connection) -> Papers:
    return Papers(
        ca=Path(connection.ca),
        certificate=Path(connection.certificate),
        key=Path(connection.key),
    )


@contextmanager
def enroll(address: str, ca_pem: bytes) -> Iterator[gateway_pb2_grpc.EnrollStub]:
    """A stub of the enrol service, whose certificate must come from ``ca_pem``."""
    credentials = grpc.ssl_channel_credentials(root_certificates=ca_pem)
    with _channel(address, credentials) as channel:
        yield gateway_pb2_grpc.EnrollStub(channel)  # type: ignore[no-untyped-call]


def job_error(error: grpc.RpcError, what: str) -> JobError:
    """Say what a failed call means for the job; ``what`` was being done."""
    status = error.code()
    code, permanent = _STATUSES.get(status, ("server", False))
    trailing = _metadata(error)
    details = error.details() or status.name.lower()
    if _LINE in details and not permanent:
        code = "unavailable"
    retry_after = _seconds(trailing.get("retry-after"))
    if status is grpc.StatusCode.RESOURCE_EXHAUSTED and retry_after is None:
        retry_after = _DEFAULT_RETRY_S
    return JobError(
        code,
        f"{what}: {details}",
        permanent=permanent,
        retry_after_s=retry_after,
    )


def read_key_file(path: str) -> bytes:
    """Read a file of the keys folder.

    Raises:
        JobError: it is not there; the device must be enrolled first.
    """
    try:
        return Path(path).read_bytes()
    except OSError as error:
        raise JobError(
            "not_enrolled",
            f"cannot read {path} ({error.strerror}): enrol this device first, with "
            "'fitment-agent enroll', as the user that runs the agent",
            permanent=True,
        ) from error


@contextmanager
def _channel(address: str, credentials: Any) -> Iterator[Any]:
    channel = grpc.secure_channel(address, credentials, options=_OPTIONS)
    try:
        yield channel
    except grpc.RpcError as error:
        raise job_error(error, f"the controller at {address}") from error
    finally:
        channel.close()


def _metadata(error: grpc.RpcError) -> dict[str, str]:
    pairs = error.trailing_metadata() or ()
    return {key: value for key, value in pairs if isinstance(value, str)}


def _seconds(text: str | None) -> float | None:
    """Seconds of a ``retry-after`` entry; what makes no sense counts as not said."""
    try:
        seconds = float(text) if text is not None else None
    except ValueError:
        return None
    return seconds if seconds is not None and 0 <= seconds < float("inf") else None
