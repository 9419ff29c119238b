"""What is wrong with a rollout that an operator asks for."""

from __future__ import annotations

import itertools
import math
from collections.abc import Sequence
from dataclasses import replace

from controller.domain import eligible, fleet, holding
from controller.errors import NotFound, UserError
from controller.reconcile.context import Context


def check_waves(waves: Sequence[float]) -> None:
    """Refuse waves that do not rise to the whole fleet.

    Raises:
        UserError: showing them.
    """
    rising = all(a < b for a, b in itertools.pairwise(waves))
    if not waves or not rising or waves[0] <= 0 or waves[-1] != 1.0:
        shown = ", ".join(f"{w:g}" for w in waves)
        raise UserError(
            f"waves are cumulative shares that rise to 1, for example 0.1, 0.5, 1; not: {shown}"
        )


def check_gate(gate: fleet.Gate) -> None:
    """Refuse what no rollout could be judged by.

    Raises:
        UserError: saying which number is wrong.
    """
    bounds = (
        ("the share that may fail", gate.max_failure_share, 0 <= gate.max_failure_share <= 1),
        ("the false-halt rate", gate.false_halt_rate, 0 < gate.false_halt_rate < 1),
        ("the share above a ratio", gate.above_share, 0 <= gate.above_share < 1),
        ("the devices under way at once", gate.open_most, gate.open_most >= 1),
        ("the minimum sample", gate.min_sample, gate.min_sample >= 1),
        ("the inputs of a shadow", gate.shadow_inputs, gate.shadow_inputs >= 1),
        ("the seconds of a shadow", gate.shadow_s, gate.shadow_s >= 0),
    )
    for name, value, fits in bounds:
        if not fits:
            raise UserError(f"{name} cannot be {value:g}; shares are from 0 to 1, counts from 1 on")
    shares = (
        ("the agreement", gate.agreement_min), ("the drop of agreement", gate.agreement_drop_max),
        ("the thermal share", gate.thermal_share_max), ("the coverage", gate.coverage_min),
        ("the drop of coverage", gate.coverage_drop_max),
        ("the drop of field accuracy", gate.field_drop_max),
    )  # fmt: skip
    for name, share in shares:
        if share is not None and not 0 <= share <= 1:
            raise UserError(f"{name} cannot be {share:g}; it is a share from 0 to 1")
    ratios = (
        gate.latency_ratio_max, gate.latency_p95_ratio_max, gate.energy_ratio_max,
        gate.memory_ratio_max,
    )  # fmt: skip
    for ratio in ratios:
        if ratio is not None and not 0 < ratio < math.inf:
            raise UserError(f"a ratio to the device's own baseline is above 0, not {ratio:g}")


def check_times(soak_s: float, deadline_s: float) -> None:
    """Refuse times that never pass, or have passed before anything begins.

    Raises:
        UserError: saying which.
    """
    if not 0 <= soak_s < math.inf:
        raise UserError(f"the pause after a wave cannot be {soak_s:g} s; it is 0 or more")
    if not 0 < deadline_s < math.inf:
        raise UserError(f"a device's deadline cannot be {deadline_s:g} s; give it some time")


def with_control(made: fleet.Rollout, chosen: Sequence[fleet.Device]) -> fleet.Rollout:
    """The rollout with its control group drawn, where it asks for one.

    Raises:
        UserError: nothing can be held back of these devices.
    """
    share = made.control_share
    if not 0 <= share < 1:
        raise UserError(f"a control group is a share of the devices below 1, not {share:g}")
    if made.control_s < 0:
        raise UserError("a control group is held for some time after the last wave, not before it")
    if not share:
        if made.control_by or made.control_s:
            raise UserError("name the share of devices that a control group takes (--control 10%)")
        return made
    try:
        return replace(made, control_below=holding.mark(made, chosen))
    except ValueError:
        what = f"one '{made.control_by}'" if made.control_by else "one device"
        raise UserError(
            f"the selection has but {what}: nothing of it can stay behind to compare with"
        ) from None


def check_control_ends(made: fleet.Rollout) -> None:
    """Refuse a control group that would get the release when no maintenance window is left.

    Raises:
        UserError: its time ends after the last window at the earliest.
    """
    ends = holding.ends_at(made, made.created_at)
    if made.control_below and 0 < made.windows_end <= ends:
        raise UserError(
            f"the control group is held for {made.control_s:g} s, and the last maintenance window"
            f" is over {made.windows_end - made.created_at:.0f} s from now: hold it for a shorter"
            " time, or add a window after it"
        )


def check_named(context: Context, made: fleet.Rollout) -> None:
    """Refuse names that no device has, and a list beside an expression.

    Raises:
        NotFound: naming the first.
        UserError: both were given.
    """
    missing = [name for name in made.devices if context.store.devices.get(name) is None]
    if missing:
        raise NotFound(f"no device is named '{missing[0]}'; see: fitment device list")
    if made.devices and (made.where or made.selector):
        raise UserError(
            "a rollout is for named devices or for a selection, not both: leave --device out, or"
            " --select, --where and --group"
        )


def nobody(context: Context, made: fleet.Rollout, release: fleet.Release) -> str:
    """Why a rollout has no device to go to: how many devices lack what."""
    every = context.store.devices.find(revoked=False)
    if not every:
        return "no device is enrolled yet; make a token for one: fitment token create"
    selected = [d for d in every if eligible.takes(made, d)]
    if not selected:
        why = _tally(made, release, every)
        return f"there is no device of the selection ({eligible.asked_for(made)}): {why}"
    ahead = [d.name for d in selected if eligible.is_ahead(d, release)]
    if ahead:
        return (
            f"{', '.join(ahead[:3])}{' …' if len(ahead) > 3 else ''} runs a later release of"
            f" '{release.slot}' than this one (counter {release.counter}), and goes back to none:"
            f" make a new one with the same variants: fitment release create {release.model}"
        )
    return (
        f"no device of the selection gets anything: {_tally(made, release, selected)};"
        f" the release has: {', '.join(release.variants)}"
    )


def _tally(made: fleet.Rollout, release: fleet.Release, devices: Sequence[fleet.Device]) -> str:
    """Why not, most frequent first, with how many devices and one of them."""
    found: dict[str, list[str]] = {}
    for device in devices:
        barred = eligible.barred(made, release, device)
        found.setdefault(barred.reason if barred else "", []).append(device.name)
    listed = sorted(found.items(), key=lambda pair: -len(pair[1]))
    words = [f"{reason} ({_some(names)})" for reason, names in listed[:3] if reason]
    return "; ".join(words) + (f"; and {len(listed) - 3} more reasons" if len(listed) > 3 else "")


def _some(names: Sequence[str]) -> str:
    return names[0] if len(names) == 1 else f"{len(names)} devices, such as {names[0]}"
