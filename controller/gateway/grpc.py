"""The two gRPC servers. Two ports, since one cannot ask some callers for a certificate only.

*Enroll* has server TLS: its callers have no certificate yet. *Gateway* demands one, and every
call on it is checked against the fleet's records again.
"""

from __future__ import annotations

import asyncio
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import grpc

from controller.errors import UserError
from controller.gateway.grpc_calls import service
from controller.gateway.grpc_enroll import EnrollService
from controller.gateway.grpc_gateway import GatewayService
from controller.gateway.ports import Engine, Fleet, ask

MESSAGE_MAX_BYTES = 8 * 1024 * 1024
STOP_GRACE_S = 2.0
_OPTIONS = (
    ("grpc.max_receive_message_length", MESSAGE_MAX_BYTES),
    ("grpc.max_send_message_length", 2 * MESSAGE_MAX_BYTES),
    # A second server on the same port would take half of the callers, silently.
    ("grpc.so_reuseport", 0),
    # Devices behind a NAT: notice within a minute that one is gone, and let them ping as well.
    ("grpc.keepalive_time_ms", 30_000),
    ("grpc.keepalive_timeout_ms", 20_000),
    ("grpc.http2.max_pings_without_data", 0),
    ("grpc.http2.min_ping_interval_without_data_ms", 10_000),
)


@dataclass(frozen=True, slots=True, kw_only=True)
class ServerFiles:
    """PEM files of the servers' TLS."""

    key: Path
    chain: Path  # leaf, then CA: devices pin the CA on first contact
    ca: Path


class GrpcServers:
    """Enroll and Gateway; belongs to the event loop that starts it."""

    def __init__(self, host: str, files: ServerFiles) -> None:
        self.enroll_port = 0
        self.gateway_port = 0
        self._host = host
        self._files = files
        self._servers: list[Any] = []

    def bind(self, *, enroll_port: int, gateway_port: int) -> None:
        """Take the ports (0: a free one), so that addresses are known before devices come.

        Raises:
            UserError: a port is taken or the host is not this machine's.
        """
        key, chain = self._files.key.read_bytes(), self._files.chain.read_bytes()
        enroll = grpc.ssl_server_credentials([(key, chain)])
        gateway = grpc.ssl_server_credentials(
            [(key, chain)], root_certificates=self._files.ca.read_bytes(), require_client_auth=True
        )
        self._servers = [grpc.aio.server(options=_OPTIONS) for _ in range(2)]
        self.enroll_port = self._bind(self._servers[0], enroll_port, enroll)
        self.gateway_port = self._bind(self._servers[1], gateway_port, gateway)

    async def start(
        self, engine: Engine, fleet: Fleet, *, enroll: EnrollService, gateway: GatewayService
    ) -> None:
        """Serve."""

        async def check(device: str, serial: str) -> bool:
            return await ask(engine, lambda: fleet.is_allowed(device, serial))

        services = (
            service("Enroll", enroll.table(), check),
            service("Gateway", gateway.table(), check),
        )
        for server, handler in zip(self._servers, services, strict=True):
            server.add_generic_rpc_handlers((handler,))
            await server.start()

    async def stop(self) -> None:
        """Refuse new calls, give the open ones a moment, end them."""
        servers, self._servers = self._servers, []
        await asyncio.gather(*(server.stop(STOP_GRACE_S) for server in servers))

    def _bind(self, server: Any, port: int, credentials: Any) -> int:
        host = f"[{self._host}]" if ":" in self._host else self._host
        try:
            bound = server.add_secure_port(f"{host}:{port}", credentials)
        except RuntimeError as error:
            raise UserError(
                f"cannot listen on {host}:{port}: another program has the port, or the host is"
                " not this machine's; choose another port (0 takes a free one)"
            ) from error
        return int(bound)
