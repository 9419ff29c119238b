"""How a state's work begins and goes on: what its actions give back."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any

from agent.desk import Desk
from agent.domain.events import Event
from agent.domain.record import DeploymentRecord


@dataclass(frozen=True, slots=True, kw_only=True)
class Job:
    """Start a worker."""

    worker: str
    job: Any


@dataclass(frozen=True, slots=True, kw_only=True)
class Answer:
    """The state's work is over; ``changes`` are fields of the record."""

    event: Event
    reasons: tuple[str, ...] = ()
    changes: Mapping[str, Any] = field(default_factory=dict)


@dataclass(frozen=True, slots=True, kw_only=True)
class Again:
    """Begin the action once more after a while."""

    after_s: float
    problem: str = ""  # why it goes on only when somebody mends something


Next = Job | Answer | Again


@dataclass(frozen=True, slots=True, kw_only=True)
class Action:
    """How a state's work begins and goes on."""

    begin: Callable[[Desk, DeploymentRecord], Next]
    finished: Callable[[Desk, DeploymentRecord, Any], Next] | None = None  # None: starts no job
