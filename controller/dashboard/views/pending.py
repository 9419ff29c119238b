"""Devices that ask to be let in without a token."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from controller.domain.belonging import Applicant


@dataclass(frozen=True, slots=True, kw_only=True)
class Waiting:
    """One of them."""

    name: str
    code: str  # that it shows, too
    asked_at: float
    seen_at: float
    may: bool  # who looks may answer


@dataclass(frozen=True, slots=True, kw_only=True)
class Answered:
    """One that was answered, and has not come in or gone yet."""

    name: str
    answer: str
    at: float


@dataclass(frozen=True, slots=True, kw_only=True)
class Pending:
    """The page."""

    waiting: tuple[Waiting, ...] = ()
    answered: tuple[Answered, ...] = ()


def pending(found: Sequence[Applicant], *, may: bool) -> Pending:
    """The page, for somebody who may answer or only look."""
    answered = [
        Answered(name=a.name, at=a.approved_at or a.rejected_at,
                 answer=_answer(a))
        for a in found
        if not a.waits
    ]  # fmt: skip
    return Pending(
        waiting=tuple(
            Waiting(name=a.name, code=a.code, asked_at=a.asked_at, seen_at=a.seen_at, may=may)
            for a in found
            if a.waits
        ),
        answered=tuple(sorted(answered, key=lambda a: a.at, reverse=True)),
    )


def _answer(one: Applicant) -> str:
    if one.rejected_at:
        return "refused"
    return "came in" if one.admitted_at else "approved; it comes in when it next asks"
