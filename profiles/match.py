"""Matching a fingerprint to a profile, with the reason as a sentence."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass

from fitment.core.fingerprint import Fingerprint
from profiles.errors import ProfileError
from profiles.schema import MatchRule, Profile

# What a condition weighs. The first token of a device tree's ``compatible`` names the board and
# the last the family of chips, so a token loses one point for each before it.
_COMPATIBLE, _SOC_MODEL, _MODEL, _ANDROID, _MACHINE = 1000, 900, 800, 100, 10


@dataclass(frozen=True, slots=True, kw_only=True)
class Matched:
    """The profile of a device, and why."""

    profile: Profile
    reason: str
    specific: bool  # more than the machine's architecture was recognised


@dataclass(frozen=True, slots=True, kw_only=True)
class _Score:
    points: int
    why: str  # the strongest condition


def match(fingerprint: Fingerprint, profiles: Iterable[Profile]) -> Matched:
    """The most specific profile whose rule holds; of equals, the first by name.

    Raises:
        ProfileError: no rule holds; the message names the facts that were looked at.
    """
    facts = fingerprint.hardware.facts
    scored = []
    for profile in sorted(profiles, key=lambda profile: profile.name):
        score = _score(profile.match, facts)
        if score is not None:
            scored.append((score, profile))
    if not scored:
        raise ProfileError(_nothing(facts))
    best, profile = max(scored, key=lambda pair: pair[0].points)  # max keeps the first of equals
    specific = best.points >= _ANDROID
    if specific:
        reason = f"{best.why} is profile {profile.name}"
    else:
        reason = f"{best.why}, no board profile matched: {profile.name}"
    return Matched(profile=profile, reason=reason, specific=specific)


def _score(rule: MatchRule, facts: Mapping[str, str]) -> _Score | None:
    """Sum of the conditions' weights, or None when one does not hold."""
    asked = (
        (bool(rule.compatible), _compatible),
        (bool(rule.soc_model), _soc_model),
        (bool(rule.model), _model),
        (rule.android is not None, _android),
        (bool(rule.machine), _machine),
    )
    scores = [condition(rule, facts) for given, condition in asked if given]
    held = [score for score in scores if score is not None]
    if len(held) != len(scores) or not held:
        return None
    return _Score(points=sum(score.points for score in held), why=held[0].why)


def _compatible(rule: MatchRule, facts: Mapping[str, str]) -> _Score | None:
    for position, token in enumerate(facts.get("compatible", "").split()):
        if token in rule.compatible:
            return _Score(points=_COMPATIBLE - position, why=f"device-tree compatible '{token}'")
    return None


def _soc_model(rule: MatchRule, facts: Mapping[str, str]) -> _Score | None:
    soc = facts.get("android_soc_model", "")
    return _Score(points=_SOC_MODEL, why=f"SoC '{soc}'") if soc in rule.soc_model else None


def _model(rule: MatchRule, facts: Mapping[str, str]) -> _Score | None:
    model = facts.get("model", "")
    if any(part in model for part in rule.model):
        return _Score(points=_MODEL, why=f"model '{model}'")
    return None


def _android(rule: MatchRule, facts: Mapping[str, str]) -> _Score | None:
    android = facts.get("platform") == "android"
    return _Score(points=_ANDROID, why="platform android") if android == rule.android else None


def _machine(rule: MatchRule, facts: Mapping[str, str]) -> _Score | None:
    machine = facts.get("machine", "")
    if machine in rule.machine:
        return _Score(points=_MACHINE, why=f"machine {machine}")
    return None


def _nothing(facts: Mapping[str, str]) -> str:
    keys = ("machine", "model", "compatible", "platform", "android_soc_model")
    seen = ", ".join(f"{key} '{facts[key]}'" for key in keys if facts.get(key)) or "no facts"
    return f"no profile matches {seen}: add a profile whose [match] names one of these"
