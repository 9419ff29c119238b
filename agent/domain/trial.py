"""Does who serves or runs a variant on trial bear it out? What it says now, against before.

Two kinds tell: the slot's own server, and applications that load the model by themselves. Rules:

1. who answers with the old variant is waited for, up to a limit; then the trial has failed;
2. a server that says for good that it cannot load the variant is not waited for;
3. the share of requests that fail may not rise, beyond what the odd slip of a caller makes;
4. the p95 that the release's gates allow holds in service as well; where what ran before was
   beyond it already, the load is to blame, and the new one may be no slower than that;
5. the gate on the ratio to what ran before is applied to the p50, where both have enough requests.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Final

from fitment.core.deployment import DeviceGates, ShadowPlan

ERROR_SLIP: Final = 0.01
"""By so much the share of failed requests may differ, 0..1."""
ENOUGH: Final = 100
"""Requests on either side before medians of different minutes are compared."""
SHADOW_LOOK_S: Final = 5.0
"""Between looks at a shadow; a candidate is put into it anew when it is not there by then."""
ANSWER_S: Final = 30.0
"""For which a server that is there may say nothing, while it loads or starts anew."""
HOPELESS: Final = frozenset({"golden_failed", "rung_mismatch", "bundle_damaged"})
"""Refusals of a server that a second try does not change."""
_SHORT: Final = 19  # characters of a digest


@dataclass(frozen=True, slots=True, kw_only=True)
class Told:
    """What a server or an application says of itself. Counts never fall while it lives."""

    variant: str  # digest that it has loaded
    requests: int = 0  # that were answered
    errors: int = 0  # that failed
    count: int = 0  # latencies below, of ``variant`` alone
    p50_ms: float | None = None
    p95_ms: float | None = None
    refused: str = ""  # why it does not load what it should
    hopeless: bool = False  # and will not


@dataclass(frozen=True, slots=True, kw_only=True)
class Look:
    """Where the trial stands with one of them; nothing of both: it is well."""

    waits: str = ""  # for what, as a sentence
    bad: tuple[str, ...] = ()  # why it is over
    after_s: float = 0.5  # between looks while it waits


def judge(
    who: str, before: Told | None, now: Told | None, *, wanted: str, gates: DeviceGates,
    waited_s: float, limit_s: float,
) -> Look:  # fmt: skip
    """Look at one server or application.

    Args:
        who: its name, as the beginning of a sentence.
        before: what it said when the variant before served; None where it said nothing.
        now: what it says; None when it does not answer.
        wanted: digest on trial.
        gates: of the release.
        waited_s: since it could know of the new variant.
        limit_s: for which it is waited.
    """
    late = waited_s > limit_s
    if now is None:
        what = f"{who} does not answer"
    elif now.variant != wanted:
        what = f"{who} has {_short(now.variant)} and not {_short(wanted)}"
        what += f": {now.refused}" if now.refused else ""
        late = late or now.hopeless
    else:
        return Look(bad=tuple(f"{who}: {why}" for why in _worse(before, now, gates)))
    return Look(bad=(f"{what} ({waited_s:.0f} s after the switch)",)) if late else Look(waits=what)


@dataclass(frozen=True, slots=True, kw_only=True)
class Seen:
    """What a server says of what is in its shadow."""

    variant: str = ""
    samples: int = 0  # live inputs that it answered, unheard
    agreement: float | None = None  # with what serves, 0..1
    failed: str = ""  # why it could not answer; empty: it could


def unanswered(slot: str, *, waited_s: float) -> Look:
    """A server whose socket is there says nothing: it loads or starts anew, up to a limit."""
    waits = f"the server of slot '{slot}' does not answer"
    return Look(waits=waits, after_s=2.0) if waited_s <= ANSWER_S else Look()


def shadowed(
    seen: Seen | None, plan: ShadowPlan, *, wanted: str, waited_s: float, there: bool = False
) -> Look:
    """Where a candidate in the shadow stands.

    Args:
        seen: what the server says; None: it does not answer.
        plan: what is asked.
        wanted: the candidate's digest.
        waited_s: since it should see inputs.
        there: the server's socket is; then one that does not answer may be loading or starting.
    """
    if seen is not None and seen.variant == wanted:
        low = seen.agreement is not None and seen.agreement < (plan.agreement_min or 0.0)
        if seen.failed:
            return Look(bad=(f"in the shadow: it failed: {seen.failed}",))
        if low and seen.samples >= plan.inputs:
            least = f"at least {plan.agreement_min:g} is asked"
            what = f"it agrees in {seen.agreement:.4f} of {seen.samples} inputs, {least}"
            return Look(bad=(f"in the shadow: {what}",))
    left_s = plan.seconds - waited_s
    samples = seen.samples if seen is not None and seen.variant == wanted else 0
    if seen is None and there and left_s + ANSWER_S > 0:
        return Look(waits="in the shadow: the slot's server does not answer", after_s=2.0)
    if left_s > 0 and seen is not None:
        # Without the count: each new sentence is told to the controller.
        told = f"in the shadow: {plan.seconds:g} s of live inputs are asked"
        return Look(waits=told, after_s=min(SHADOW_LOOK_S, max(0.5, left_s)))
    if samples >= plan.inputs or not plan.needed:
        return Look()
    why = f"it saw {samples} of {plan.inputs} inputs"
    if seen is None:
        why = "the slot's server does not answer" if there else "the slot has no server"
    return Look(bad=(f"in the shadow: {why}",))


def _worse(before: Told | None, now: Told, gates: DeviceGates) -> Iterator[str]:
    yield from _errors(before, now)
    limit = gates.latency_p95_max_ms
    if limit is not None and now.p95_ms is not None:
        was_ms = before.p95_ms if before is not None else None
        most_ms = max(limit, was_ms or 0.0)
        if now.p95_ms > most_ms:
            yield f"p95 in service is {now.p95_ms:.4g} ms, at most {most_ms:.4g} is allowed"
    ratio = gates.latency_ratio_max
    if ratio is None or before is None or not before.p50_ms or now.p50_ms is None:
        return
    if min(before.count, now.count) >= ENOUGH and now.p50_ms > ratio * before.p50_ms:
        yield (
            f"p50 in service rose from {before.p50_ms:.4g} ms to {now.p50_ms:.4g}, "
            f"at most {ratio:.4g} times it is allowed"
        )


def _errors(before: Told | None, now: Told) -> Iterator[str]:
    """Of the requests since the switch; a process that began anew counts from nothing."""
    base = before
    if base is not None and (now.requests < base.requests or now.errors < base.errors):
        base = None
    failed = now.errors - (base.errors if base else 0)
    asked = failed + now.requests - (base.requests if base else 0)
    was = _share(before.errors, before.requests) if before is not None else 0.0
    if failed and failed / asked > was + ERROR_SLIP:
        yield (
            f"{failed} of {asked} requests since the switch failed, {100 * was:.3g} % did before"
        )


def _share(errors: int, requests: int) -> float:
    return errors / (errors + requests) if errors else 0.0


def _short(variant: str) -> str:
    return variant[:_SHORT] if variant else "no variant loaded"
