"""The Gateway service: sessions, bulk, and what devices hand in."""

from __future__ import annotations

import asyncio
import contextlib
import logging
import time
from collections.abc import AsyncIterator, Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import grpc

from controller.errors import NotFound, Temporary, UserError
from controller.gateway.grpc_calls import Behaviour, Call
from controller.gateway.link import field_of
from controller.gateway.ports import Blobs, Delta, Deltas, Engine, Fleet, ask
from controller.gateway.session import Session, SessionLink
from fitment.core.deployment import CalibrationReport
from fitment.core.kernels import KernelTable
from fitment.core.link import Uplink
from fitment.core.measurement import Measurement
from fitment.v1 import gateway_pb2
from fitment.wire import codec

log = logging.getLogger(__name__)

CHUNK_BYTES = 256 * 1024
"""The size at which gRPC moves bytes fastest here."""
FETCHES_MAX = 32
"""Transfers at a time; each holds a file and about two chunks."""
FETCH_RETRY_S = 2.0
DELTA_WAIT_S = 15.0
"""A device waits this long for a delta that is being made; those after it find it made."""
HELLO_WAIT_S = 15.0
"""A session that stays silent this long is not one."""

ReadMetadata = Callable[[str], bytes | None]
Locate = Callable[[str], Sequence[str]]
"""A transport file's digest -> addresses of mirrors that have it."""


def nowhere(_archive: str) -> Sequence[str]:
    """No mirrors: everything comes over the gateway."""
    return ()


@dataclass(frozen=True, slots=True, kw_only=True)
class Stock:
    """What devices may take."""

    blobs: Blobs
    read_metadata: ReadMetadata
    deltas: Deltas | None = None
    locate: Locate = nowhere


class GatewayService:
    """Behaviours of ``fitment.v1.Gateway``."""

    def __init__(
        self,
        engine: Engine,
        fleet: Fleet,
        *,
        sessions: SessionLink | None,
        stock: Stock,
        ca_pem: bytes,
        fetches_max: int = FETCHES_MAX,
    ) -> None:
        self._engine = engine
        self._fleet = fleet
        self._sessions = sessions
        self._stock = stock
        self._ca_pem = ca_pem
        self._fetches_left = fetches_max

    def table(self) -> dict[str, Behaviour]:
        """A behaviour for each method."""
        return {
            "Session": self._session,
            "RenewCertificate": self._renew,
            "FetchArtifact": self._fetch_artifact,
            "LocateArtifact": self._locate_artifact,
            "FindDelta": self._find_delta,
            "FetchMetadata": self._fetch_metadata,
            "SubmitMeasurement": self._submit_measurement,
            "SubmitCalibration": self._submit_calibration,
        }

    async def _session(self, requests: AsyncIterator[Any], call: Call) -> None:
        if self._sessions is None:
            raise UserError("this controller uses MQTT; connect to the address given at enrolment")
        first = await self._hello(requests)
        session = self._sessions.open(call.device)
        reader = asyncio.ensure_future(self._read(requests, session, first))
        writer = asyncio.ensure_future(self._write(session, call))
        try:
            await asyncio.wait({reader, writer}, return_when=asyncio.FIRST_COMPLETED)
        finally:
            self._sessions.close(session)
            await _cancelled(reader, writer)
        if session.ended is not None:
            await call.context.abort(grpc.StatusCode.ABORTED, session.ended.value)

    async def _hello(self, requests: AsyncIterator[Any]) -> Uplink:
        try:
            message = await asyncio.wait_for(anext(requests), HELLO_WAIT_S)
        except (asyncio.TimeoutError, StopAsyncIteration) as error:
            raise UserError("a session begins with the device's presence") from error
        return _read_uplink(message)

    async def _read(self, requests: AsyncIterator[Any], session: Session, first: Uplink) -> None:
        assert self._sessions is not None
        self._sessions.received(session, first)
        async for message in requests:
            try:
                uplink = _read_uplink(message)
            except ValueError as error:
                log.warning("action=message_dropped device=%s reason=%s", session.device, error)
            else:
                self._sessions.received(session, uplink)

    async def _write(self, session: Session, call: Call) -> None:
        while (downlink := await session.take()) is not None:
            response: Any = gateway_pb2.SessionResponse()
            response.downlink.CopyFrom(codec.to_message(downlink))
            await call.send(response)

    async def _renew(self, request: Any, call: Call) -> Any:
        certificate = await ask(
            self._engine, lambda: self._fleet.renew(call.device, request.csr_pem)
        )
        return gateway_pb2.RenewCertificateResponse(
            certificate_pem=certificate, ca_pem=self._ca_pem, now_unix=time.time()
        )

    async def _fetch_artifact(self, request: Any, call: Call) -> None:
        with self._fetch_place():
            total = await asyncio.to_thread(self._stock.blobs.size, request.archive)
            if not 0 <= request.offset <= total:
                raise UserError(f"offset {request.offset} is outside of {total} bytes")
            file = await asyncio.to_thread(self._stock.blobs.open, request.archive)
            with file:
                await asyncio.to_thread(file.seek, request.offset)
                left = total - request.offset
                while True:  # at least one part, since it carries the total
                    data = await asyncio.to_thread(file.read, min(CHUNK_BYTES, left))
                    left -= len(data)
                    part = gateway_pb2.FetchArtifactResponse(data=data, total_bytes=total)
                    await call.send(part)
                    if left <= 0 or not data:
                        break

    async def _locate_artifact(self, request: Any, _call: Call) -> Any:
        await asyncio.to_thread(self._stock.blobs.size, request.archive)  # nothing else has a place
        return gateway_pb2.LocateArtifactResponse(urls=self._stock.locate(request.archive))

    async def _find_delta(self, request: Any, _call: Call) -> Any:
        if self._stock.deltas is None:
            return gateway_pb2.FindDeltaResponse()
        asked = await asyncio.to_thread(self._stock.deltas.ask, request.archive, request.base)
        making = asyncio.wrap_future(asked)
        # Not `wait_for`: others wait for the same delta, so it is not given up with this call.
        done, _ = await asyncio.wait({making}, timeout=DELTA_WAIT_S)
        found: Delta | None = making.result() if done else None
        if found is None:
            return gateway_pb2.FindDeltaResponse()
        return gateway_pb2.FindDeltaResponse(delta=found.delta, delta_bytes=found.delta_bytes)

    @contextlib.contextmanager
    def _fetch_place(self) -> Iterator[None]:
        if self._fetches_left <= 0:
            raise Temporary(
                "too many transfers at the same time; go on from your offset a little later",
                retry_after_s=FETCH_RETRY_S,
            )
        self._fetches_left -= 1
        try:
            yield
        finally:
            self._fetches_left += 1

    async def _fetch_metadata(self, request: Any, _call: Call) -> Any:
        data = await asyncio.to_thread(self._stock.read_metadata, request.path)
        if data is None:
            raise NotFound(f"the signed metadata has no file '{request.path}'")
        return gateway_pb2.FetchMetadataResponse(data=data)

    async def _submit_measurement(self, request: Any, call: Call) -> Any:
        measurement = kernels = None
        if request.HasField("measurement"):
            measurement = codec.from_message(Measurement, request.measurement)
        if request.HasField("kernels"):
            kernels = codec.from_message(KernelTable, request.kernels)
        if measurement is None and kernels is None:
            raise UserError("a submission holds a measurement or a kernel table")
        await ask(
            self._engine,
            lambda: self._fleet.on_measurement(call.device, request.study, measurement, kernels),
        )
        return gateway_pb2.SubmitMeasurementResponse()

    async def _submit_calibration(self, request: Any, call: Call) -> Any:
        if not request.HasField("calibration"):
            raise UserError("a submission holds a calibration report")
        report = codec.from_message(CalibrationReport, request.calibration)
        await ask(
            self._engine,
            lambda: self._fleet.on_calibration(
                call.device, request.deployment, report, request.overlay
            ),
        )
        return gateway_pb2.SubmitCalibrationResponse()


def _read_uplink(message: Any) -> Uplink:
    """The uplink of a `SessionRequest`.

    Raises:
        WireError: it makes no sense to this side.
    """
    uplink = codec.from_message(Uplink, message.uplink)
    try:
        field_of(uplink)
    except ValueError as error:
        raise codec.WireError(str(error)) from error
    return uplink


async def _cancelled(*tasks: asyncio.Future[None]) -> None:
    """Cancel tasks and take their exceptions; the stream that failed them is gone."""
    for task in tasks:
        task.cancel()
    await asyncio.gather(*tasks, return_exceptions=True)
