"""What a check is, and what came of it.

Each rule of ``protos/WIRE.md`` that can be seen from the controller's side is one check, under
the rule's id.
"""

from __future__ import annotations

import enum
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from controller.conformance.case import Case

REFERENCE = "protos/WIRE.md"


class Fails(Exception):
    """The agent did not keep the rule; the message is what was seen."""


class NotRun(Exception):
    """The rule could not be looked at; the message says why. It is no pass."""


class Verdict(enum.Enum):
    """What came of one check."""

    PASS = "pass"  # noqa: S105 - seen to be kept, once  # nosec
    FAIL = "fail"  # seen to be broken
    NOT_RUN = "not-run"  # nothing was seen, for the reason given


@dataclass(frozen=True, slots=True, kw_only=True)
class Check:
    """One rule and how it is looked at.

    ``run`` gives in words what was seen; it raises `Fails` or `NotRun`.
    """

    id: str
    says: str  # the rule, in one sentence
    run: Callable[[Case], str]


@dataclass(frozen=True, slots=True, kw_only=True)
class Result:
    """One check of one agent."""

    id: str
    says: str
    reference: str
    verdict: Verdict
    evidence: str
    seconds: float


@dataclass(frozen=True, slots=True, kw_only=True)
class Report:
    """What one run saw of one agent. It claims nothing of what it did not look at."""

    link: str
    runtime: str  # for which the test bundles were made; empty: the agent named none we have
    agent_version: str
    results: Sequence[Result]
    unchecked: Mapping[str, str]  # rules of the document that no check looks at, and why

    @property
    def passed(self) -> bool:
        """Whether every check that was asked for was run and held."""
        return bool(self.results) and all(r.verdict is Verdict.PASS for r in self.results)

    def count(self, verdict: Verdict) -> int:
        """How many came to this."""
        return sum(result.verdict is verdict for result in self.results)


def hold(condition: object, words: str) -> None:
    """Require what a rule demands.

    Raises:
        Fails: it is not so.
    """
    if not condition:
        raise Fails(words)
