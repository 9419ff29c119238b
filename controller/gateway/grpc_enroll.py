"""The Enroll service: how a device gets its first certificate, and one after a long sleep."""

from __future__ import annotations

import asyncio
import logging
import time
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

from controller.gateway.grpc_calls import Behaviour, Call
from controller.gateway.ports import Admission, Engine, Fleet, ask
from fitment.v1 import gateway_pb2

log = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True, kw_only=True)
class Welcome:
    """What every admitted device is told about this controller."""

    ca_pem: bytes
    tuf_root: bytes
    director_public_key: bytes  # raw Ed25519, 32 bytes
    director_key_id: str
    gateway_address: str  # host:port
    mqtt_address: str  # host:port; empty: use the gRPC session


class EnrollService:
    """Behaviours of ``fitment.v1.Enroll``."""

    def __init__(
        self,
        engine: Engine,
        fleet: Fleet,
        *,
        welcome: Welcome,
        let_in: Callable[[], None] = lambda: None,
    ) -> None:
        """``let_in`` is called, off the event loop, before a new device is told of the link."""
        self._engine = engine
        self._fleet = fleet
        self._welcome = welcome
        self._let_in = let_in

    def table(self) -> dict[str, Behaviour]:
        """A behaviour for each method."""
        return {"Admit": self._admit, "Apply": self._apply, "Recover": self._recover}

    async def _admit(self, request: Any, _call: Call) -> Any:
        admission = await ask(
            self._engine,
            lambda: self._fleet.admit(request.token, request.device, request.csr_pem),
        )
        return await self._welcomed(admission)

    async def _apply(self, request: Any, _call: Call) -> Any:
        applied = await ask(
            self._engine, lambda: self._fleet.apply(request.device, request.csr_pem)
        )
        admitted = await self._welcomed(applied.admission) if applied.admission else None
        return gateway_pb2.ApplyResponse(
            device=applied.device, poll_after_s=applied.poll_after_s, admitted=admitted
        )

    async def _welcomed(self, admission: Admission) -> Any:
        await asyncio.to_thread(self._let_in)  # its name may have been shut out once
        log.info("action=admitted device=%s", admission.device)
        welcome = self._welcome
        return gateway_pb2.AdmitResponse(
            device=admission.device,
            certificate_pem=admission.certificate_pem,
            ca_pem=welcome.ca_pem,
            tuf_root=welcome.tuf_root,
            director_public_key=welcome.director_public_key,
            director_key_id=welcome.director_key_id,
            gateway_address=welcome.gateway_address,
            mqtt_address=welcome.mqtt_address,
        )

    async def _recover(self, request: Any, _call: Call) -> Any:
        certificate = await ask(
            self._engine,
            lambda: self._fleet.recover(
                request.device, request.csr_pem, request.expired_certificate_pem, request.proof
            ),
        )
        log.info("action=recovered device=%s", request.device)
        return gateway_pb2.RecoverResponse(
            certificate_pem=certificate, ca_pem=self._welcome.ca_pem, now_unix=time.time()
        )
