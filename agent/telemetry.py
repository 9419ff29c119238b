"""Samples of the device itself, through the outbox to the link, until they are acknowledged."""

from __future__ import annotations

import math
import os
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Final

from agent.domain import allowance, patience
from agent.outbox import Outbox
from agent.sensors import process_memory, snapshot
from agent.transport.link import AgentLink
from fitment.core.link import Uplink
from fitment.core.telemetry import Ack

_MIB: Final = 2.0**20


@dataclass(frozen=True, slots=True, kw_only=True)
class LastRun:
    """The latency that the newest measurement found, for the samples' columns and tags."""

    slot: str = ""
    variant: str = ""
    p50_ms: float = math.nan


@dataclass(frozen=True, slots=True, kw_only=True)
class Serves:
    """What answers for one slot."""

    variant: str
    rung: int = 0
    laddered: bool = False  # there are other rungs


class Telemetry:
    """Takes a sample every interval and sends what is not acknowledged."""

    def __init__(
        self, outbox: Outbox, *, boot_id: str, sample: Callable[[str], Mapping[str, float]]
    ) -> None:
        self.interval_s = 10.0
        self._outbox = outbox
        self._boot_id = boot_id
        self._sample = sample
        self._sampled_at_s = -math.inf
        self._sent = 0  # highest number that was sent since the link came up
        self._sent_at_s = 0.0
        self._tries = 0  # times in a row that no ack came

    def acknowledge(self, ack: Ack) -> None:
        """The controller has these on its disk."""
        if self._outbox.acknowledge(ack):
            self._tries = 0
            self._sent = max(self._sent, ack.sequence)

    def resend(self) -> None:
        """The link is new: what was on the way may be lost."""
        self._sent = 0

    def tick(
        self, link: AgentLink, *, online: bool, root: str, last: LastRun,
        serves: Callable[[], Mapping[str, Serves]], now_s: float, wall_unix_s: float,
        share: float = 0.0,
    ) -> None:  # fmt: skip
        """Sample when it is time, and send. ``share`` of the device's allowance is used up."""
        if now_s >= self._sampled_at_s + self.interval_s * allowance.sample_factor(share):
            self._sampled_at_s = now_s
            columns, tags = tagged(last, serves())
            columns = {**self._sample(root), **columns}
            self._outbox.append(
                boot_id=self._boot_id, monotonic_ns=int(now_s * 1e9),
                wall_unix_ns=int(wall_unix_s * 1e9), columns=columns, tags=tags,
                limit=allowance.kept_batches(share, patience.OUTBOX_LIMIT),
            )  # fmt: skip
        if online:
            self._send(link, now_s)

    def _send(self, link: AgentLink, now_s: float) -> None:
        first = self._outbox.first_available()
        if self._sent >= first and now_s - self._sent_at_s > patience.resend_s(self._tries):
            self._sent, self._tries = 0, self._tries + 1
        on_the_way = max(0, self._sent - first + 1)
        room = patience.room(self._tries, on_the_way)
        if room <= 0 or self._sent >= self._outbox.last():
            return
        for batch in self._outbox.pending(after=self._sent, limit=room):
            link.send(Uplink(telemetry=batch))
            self._sent, self._sent_at_s = batch.sequence, now_s


def tagged(last: LastRun, serves: Mapping[str, Serves]) -> tuple[dict[str, float], dict[str, str]]:
    """Columns of the ladders, and tags that say which variant and rung a sample is of.

    The tags ``slot``, ``variant`` and ``rung`` are of the slot that was measured last, or of the
    only one; with several, each has its own behind its name. A measurement of another variant than
    serves is left out: rungs are not compared.
    """
    columns = {f"rung.{slot}": float(now.rung) for slot, now in serves.items() if now.laddered}
    tags: dict[str, str] = {}
    for slot, now in serves.items():
        if now.laddered or len(serves) > 1:
            tags |= {f"{slot}.variant": now.variant, f"{slot}.rung": str(now.rung)}
    slot = last.slot or (next(iter(serves)) if len(serves) == 1 else "")
    variant, latency_ms = last.variant, last.p50_ms
    if slot in serves and serves[slot].variant != variant:
        variant, latency_ms = serves[slot].variant, math.nan
    if variant:
        rung = serves[slot].rung if slot in serves else 0
        tags |= {"slot": slot, "variant": variant, "rung": str(rung)}
    return {**columns, "last_latency_p50_ms": latency_ms}, tags


def sample_device(root: str) -> Mapping[str, float]:
    """One row: NaN where a sensor has nothing to say."""
    memory = process_memory(os.getpid())
    conditions = snapshot(root)
    return {
        "supervisor_anonymous_mib": _scaled(memory.anonymous_bytes, _MIB),
        "supervisor_pss_mib": _scaled(memory.pss_bytes, _MIB),
        "cpu_pressure_avg10_percent": _scaled(conditions.psi_avg10, 1.0),
        "cpu_mhz": _scaled(conditions.freq_khz, 1000.0),
        "temperature_c": _scaled(conditions.temperature_c, 1.0),
        "memory_pressure_avg10_percent": _scaled(conditions.memory_psi_avg10, 1.0),
        "throttled": _scaled(conditions.cooling_active, 1.0),
        "ecc_corrected_count": _scaled(conditions.ecc_corrected, 1.0),
    }


def _scaled(value: float | None, unit: float) -> float:
    return math.nan if value is None else value / unit
