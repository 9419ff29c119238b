"""What every part of the loop works with, made once at start."""

from __future__ import annotations

import logging
from collections.abc import Callable, Mapping
from contextvars import ContextVar
from dataclasses import dataclass, field
from typing import Protocol

from controller import ids
from controller.artifacts.blobs import Blobs
from controller.domain import fleet
from controller.domain.levels import Rules
from controller.domain.telemetry import Retention
from controller.reconcile.counters import Counters
from controller.reconcile.fitrunner import FitRunner
from controller.store.base import Store
from controller.trust import Trust
from fitment.core.link import Downlink
from profiles import Profile

LOCAL = "local"
"""Who shows the token that lies beside the database."""
ACTING: ContextVar[str] = ContextVar("acting", default="")
"""The operator for whom the engine does this piece of work; empty: nobody, or nobody known.

It is set where a request comes in and travels with the work to the engine's thread
(`gateway.ports.ask`), so that no verb needs an argument for it."""

log = logging.getLogger("controller.reconcile")


class Publish(Protocol):
    """Sends to one device; never waits for it."""

    def __call__(self, device: str, downlink: Downlink) -> None: ...


@dataclass(frozen=True, slots=True, kw_only=True)
class ReconcileSettings:
    """How the loop decides where there is a choice."""

    optimise: bool = True  # triggers start fits by themselves
    auto_approve: bool = False  # releases that a trigger made need no operator
    confirm: bool = True  # a device times the best few before one is chosen
    certificate_days: int = 30
    enrolment_by_approval: bool = False  # devices without a token may ask for an operator's word
    study_timeout_s: float = 180.0
    gather_s: float = 5.0  # a trigger waits so long for more devices before it is rolled out
    levels_every_s: float = 3600.0  # between two looks at how fast a cohort is
    rules: Rules = field(default_factory=Rules)  # when its being faster or slower is something
    effort: str = "quick"
    telemetry_interval_s: float = 5.0  # what devices are asked for
    retention: Retention = field(default_factory=Retention)


@dataclass(frozen=True, slots=True, kw_only=True)
class Context:
    """The loop's hands: everything with an effect is behind one of these."""

    store: Store
    trust: Trust
    blobs: Blobs
    profiles: tuple[Profile, ...]
    fits: FitRunner
    publish: Publish
    clock: Callable[[], float]
    settings: ReconcileSettings = field(default_factory=ReconcileSettings)
    must_act: Callable[[], None] = lambda: None  # raises where another may act in our place
    started_at: float = 0.0  # by the clock; soon after, devices are still on their way back
    counters: Counters = field(default_factory=Counters)

    def new_id(self) -> str:
        """A fresh id."""
        return ids.uuid7(self.clock())

    def record(
        self, actor: str, action: str, subject: str, details: Mapping[str, str] | None = None
    ) -> None:
        """Write the audit log: what was decided or done, with its numbers."""
        if actor == "operator" and ACTING.get():
            actor = f"operator:{ACTING.get()}"
        entry = fleet.AuditEntry(
            id=self.new_id(), at=self.clock(), actor=actor, action=action, subject=subject,
            details=dict(details or {}),
        )  # fmt: skip
        self.store.audit.add(entry)
        log.info("action=%s subject=%s actor=%s %s", action, subject, actor, dict(details or {}))
