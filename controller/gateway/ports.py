"""What the gateway asks of the rest: small protocols, so that its tests need no fleet.

All calls into the fleet run on the engine's single thread; the gateway's own threads and its
event loop only wait for the answer.
"""

from __future__ import annotations

import asyncio
import concurrent.futures
import contextvars
from collections.abc import Callable
from typing import Any, BinaryIO, Protocol, TypeVar

from fitment.core.deployment import CalibrationReport
from fitment.core.kernels import KernelTable
from fitment.core.measurement import Measurement

T = TypeVar("T")


class Engine(Protocol):
    """The one thread that may touch the fleet's records."""

    def call(self, fn: Callable[[], T]) -> concurrent.futures.Future[T]:
        """Run ``fn`` on it, in order; its exception is the future's."""
        ...


class Admission(Protocol):
    """What a newly admitted device is told."""

    @property
    def device(self) -> str:
        """Its name."""
        ...

    @property
    def certificate_pem(self) -> bytes:
        """Its certificate."""
        ...


class Applied(Protocol):
    """What a device that asks to be let in is told."""

    @property
    def device(self) -> str:
        """The name under which it waits."""
        ...

    @property
    def poll_after_s(self) -> float:
        """When it may ask again."""
        ...

    @property
    def admission(self) -> Admission | None:
        """What it gets, once an operator has let it in."""
        ...


class Fleet(Protocol):
    """The part of the controller that devices reach."""

    def admit(self, token_text: str, wished_name: str, csr_pem: bytes) -> Admission: ...
    def apply(self, wished_name: str, csr_pem: bytes) -> Applied: ...
    def renew(self, device: str, csr_pem: bytes) -> bytes: ...
    def recover(self, device: str, csr_pem: bytes, expired_pem: bytes, proof: bytes) -> bytes: ...
    def is_allowed(self, device: str, serial: str) -> bool: ...
    def on_measurement(
        self,
        device: str,
        study: str,
        measurement: Measurement | None,
        kernels: KernelTable | None,
    ) -> None: ...
    def on_calibration(
        self, device: str, deployment: str, report: CalibrationReport, overlay: bytes
    ) -> None: ...


class Blobs(Protocol):
    """Transport files by digest."""

    def size(self, digest: str) -> int: ...
    def open(self, digest: str) -> BinaryIO: ...


class Delta(Protocol):
    """A delta file among the blobs."""

    @property
    def delta(self) -> str:
        """Its digest."""
        ...

    @property
    def delta_bytes(self) -> int:
        """Its length."""
        ...


class Deltas(Protocol):
    """Deltas between transport files, made on demand."""

    def ask(self, archive: str, base: str) -> concurrent.futures.Future[Any]:
        """The `Delta` once it is made, or None when there is none."""
        ...


async def ask(engine: Engine, fn: Callable[[], T]) -> T:
    """Run ``fn`` on the engine's thread and wait for it without holding the event loop.

    What the caller's context says (who is acting) holds there, too.
    """
    context = contextvars.copy_context()
    return await asyncio.wrap_future(engine.call(lambda: context.run(fn)))
