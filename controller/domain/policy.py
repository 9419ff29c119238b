"""How far the loop goes by itself once something asks for another fit."""

from __future__ import annotations

import enum
from collections.abc import Sequence


class Policy(enum.Enum):
    """What an operator lets the loop do for a model, or for all models."""

    PROPOSE = "propose"  # it fits and makes a release; an operator approves that
    CANARY = "canary"  # it approves and updates one device; an operator lets the rest follow
    AUTO = "auto"  # it does all of it, canary first


SETTING = "policy"
"""Key of the setting of all models; that of one has its name behind a colon."""


def key_of(model: str) -> str:
    """The setting's key for a model's name; empty: of all models."""
    return f"{SETTING}:{model}" if model else SETTING


def effective(said: Sequence[str | None], *, auto_approve: bool) -> Policy:
    """What holds: the first that was said, the model's own before that of all.

    Where nobody said anything, ``auto_approve`` does, as it always did.
    """
    for text in said:
        if text:
            return Policy(text)
    return Policy.AUTO if auto_approve else Policy.PROPOSE


def waves(devices: int) -> tuple[float, ...]:
    """Shares of a trigger's rollout: one canary, then the rest, whatever the policy.

    Who lets the rest follow is what differs.
    """
    return (1.0,) if devices < 2 else (1.0 / devices, 1.0)


def asks_after(policy: Policy, devices: int) -> int:
    """Wave after which an operator is asked; -1: never."""
    return 0 if policy is Policy.CANARY and devices > 1 else -1
